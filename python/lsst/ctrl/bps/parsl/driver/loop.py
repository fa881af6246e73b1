# SPDX-License-Identifier: BSD-3-Clause
"""The driver: from the first job to the last.

It takes jobs whose parents have succeeded, hands them to the backend, writes
down what became of them, and decides what follows. All it knows is in the
`RunState`; all it does is in the journal before it is in the state.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from ..errors import RunAbortedError, RunEndedError
from ..paths import SubmitPaths
from ..run.cancel_request import take_cancel_request
from ..run.holder import Holder
from ..run.job_state import JobState
from ..run.journal import Journal
from ..run.liveness import HEARTBEAT_SECONDS, RunLock
from ..run.replay import recovered_events
from ..run.state import RunState
from .limits import Limits, ReadyJobs
from .node_tail import NodeTail
from .retry import decide, failure_event
from .take_up_payload import Supplies, checked, payload_is_known, sufficient
from .tasks import Backend, Listener, Maker, Task

__all__ = ["Driver"]

_LOG = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""Time between two looks at requests from outside."""

GRACE_SECONDS = 10.0
"""Time that jobs have to end after a SIGTERM."""

NO_WORKERS = "no workers"
"""Why a run was stopped whose jobs cannot get a worker."""


class Driver:
    """Drives one run.

    Parameters
    ----------
    state : `RunState`
        State of the run; it is changed.
    journal : `Journal`
        Where events are written.
    backend : `Backend`
        Where tasks go.
    maker : `Maker`
        Makes tasks of jobs.
    paths : `SubmitPaths`
        Where things are.
    lock : `RunLock`, optional
        The lock of the run, for the signs of life.
    retries : `int`, optional
        The site's number of retries, in place of the jobs'.
    most_memory : `~collections.abc.Callable`, optional
        Returns the memory in MB that a job may grow to.
    limits : `Limits`, optional
        How many jobs of a kind may run at once.
    supplies : `Supplies`, optional
        What the jobs run with, where there will be more of them.
    clock : `~collections.abc.Callable`, optional
        Time in seconds since 1970.
    """

    def __init__(
        self,
        state: RunState,
        journal: Journal,
        backend: Backend,
        maker: Maker,
        paths: SubmitPaths,
        *,
        lock: RunLock | None = None,
        retries: int | None = None,
        most_memory: Callable[[int], float | None] = lambda job: None,
        limits: Limits | None = None,
        supplies: Supplies | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = state
        self._journal = journal
        self._backend = backend
        self._maker = maker
        self._supplies = supplies
        self._paths = paths
        self._lock = lock
        self._listener: Listener | None = None
        self._retries = retries
        self._most_memory = most_memory
        self._limits = limits or Limits({})
        self._clock = clock
        self._results: queue.SimpleQueue[tuple[Task, dict[str, Any]] | None] = queue.SimpleQueue()
        self._ready = ReadyJobs(self._limits)
        self._in_flight = 0
        self._stop: str | None = None
        self.error: RunEndedError | None = None
        self._asked_twice = False
        self._waits: list[str] = []
        self._synced = self._looked = time.monotonic()
        self._tail = NodeTail(paths)

    def listen(self, listener: Listener) -> None:
        """Show the progress to somebody.

        Parameters
        ----------
        listener : `Listener`
            Who is told.
        """
        self._listener = listener

    def stop(self, why: str) -> None:
        """Ask the driver to end its jobs and itself; from any thread.

        Parameters
        ----------
        why : `str`
            The reason, for the journal.
        """
        # This may be a signal's handler: it only takes note.
        self._asked_twice = self._stop is not None
        if self._asked_twice:
            self._backend.stop_waiting()
        self._stop = why
        self._results.put(None)

    def run(self) -> RunState:
        """Drive the run until it is done or stopped.

        Returns
        -------
        state : `RunState`
            How it ended: ``finished`` or ``stopped`` is set.

        Raises
        ------
        StorageError
            Raised if the journal cannot be written. The jobs have been ended
            then, and the run can be resumed.
        """
        with ExitStack() as end:
            end.callback(self._show)
            end.callback(self._journal.close)
            self._begin()
            end.callback(self._backend.close)
            try:
                self._backend.start(self._completed)
                self._loop()
            except BaseException:
                self._end_jobs(1.0, record=False)
                raise
        return self.state

    # The loop.

    def _begin(self) -> None:
        state = self.state
        for event in recovered_events(state):
            self._record(event)
        me = Holder.this_process()
        self._record({"e": "session", "n": state.sessions + 1, "host": me.host, "pid": me.pid})
        self._journal.sync()  # Without this line, nobody would know that failed jobs are to run again.

    def _loop(self) -> None:
        while not self._has_ended():
            if self._stop is not None:
                self._stop_jobs(self._stop)
                return
            if self.state.lacks_payload and not self.state.cancelled:
                self._take_up_payload()
            self._hand_out()
            if not (self._in_flight or self._ready or self.state.is_done):
                raise RuntimeError(f"{self.state.plan.path}: no job is ready and none runs; this is a bug")
            self._take_results()
            self._look_around()

    def _has_ended(self) -> bool:
        """Tell whether nothing is left to do, and write that down."""
        if not self.state.is_done or self._in_flight:
            return False
        if not isinstance(self.error, RunAbortedError):
            self.error = None  # Why more workers are not to be had is no matter any more.
        self._record({"e": "finish", "state": self.state.outcome().name})
        self._journal.sync()
        return True

    def _stop_jobs(self, why: str) -> None:
        """End before the run has ended."""
        if self.error is None:
            said = "Stopping (%s): jobs have %.0f seconds to end; another signal ends them at once."
            _LOG.warning(said, why, GRACE_SECONDS)
        self._end_jobs(GRACE_SECONDS)
        if not self._has_ended():  # The last ones may have succeeded in that time.
            self._record({"e": "stop", "why": why})
            self._journal.sync()

    def _take_up_payload(self) -> None:
        """Go on with the jobs that one of the run's has added."""
        payload = self.state.plan.add_payload()
        self._record({"e": "payload", "plan": payload.id})
        self._journal.sync()  # Before a node writes of a job of which the driver's journal does not know.
        _LOG.info("%s.", payload_is_known(payload))
        if self._supplies is not None:
            self._backend = sufficient(self._supplies, self._backend, self._completed)
            self._maker = self._supplies.maker()

    def _hand_out(self) -> None:
        """Give the backend what is ready, the most urgent first."""
        state = self.state
        if state.cancelled and self._in_flight:
            return  # The final job gathers what others leave: they end first.
        for job in state.take_ready():
            self._ready.add(job, int(self._fields(job).get("priority") or 0), self._limits_of(job))
        tasks: list[Task] = []
        while self._in_flight + len(tasks) < self._backend.window:
            next_job = self._ready.take()
            if next_job is None:
                break
            if state.states[next_job] == JobState.READY:
                attempt = state.attempts[next_job] + 1
                tasks.append(self._maker.make(next_job, attempt, state.memory.get(next_job)))
            else:
                self._limits.release(self._limits_of(next_job))
        if tasks:
            self._record({"e": "pending", "j": [task.job for task in tasks]})
            self._in_flight += len(tasks)
            for task in tasks:
                if self._stop is None:
                    self._tail.expect(task.job, task.attempt)
                    self._backend.submit(task)
                else:
                    self._completed(task, {"lost": "the driver was stopped before it was handed out"})

    def _limits_of(self, job: int) -> tuple[str, ...]:
        get = self._fields(job).get
        return self._limits.names(get("concurrency_limit"), get("category"))

    def _completed(self, task: Task, result: dict[str, Any]) -> None:
        """Note a result; called by the backend in any thread."""
        self._results.put((task, result))

    def _take_results(self) -> None:
        """Wait for a result, then write down all that are there."""
        results = []
        with suppress(queue.Empty):
            results.append(self._results.get(timeout=TICK_SECONDS))
            while len(results) < 1000:
                results.append(self._results.get_nowait())
        self._take_down([item for item in results if item is not None])

    def _take_down(self, results: list[tuple[Task, dict[str, Any]]]) -> None:
        """Write results down."""
        self._in_flight -= len(results)
        for task, _ in results:
            self._limits.release(self._limits_of(task.job))
        if any("lost" in result for _, result in results):
            self._read_nodes(fresh=True)
        succeeded, aborting = [], None
        for task, result in results:
            recorded = self._tail.take_end(task.job, task.attempt)
            if "lost" in result and recorded is not None:
                result = recorded  # Parsl has lost what the node has on record.
            result = checked(self.state.plan, task.job, result)
            if "unrecorded" in result:
                _LOG.warning("The node could not write its journal: %s", result["unrecorded"])
            if result.get("exit") == 0:
                aborting = task.job if self._fields(task.job).get("abort_on_value") == 0 else aborting
                measured = (result[key] for key in ("start", "end", "memory", "cpu"))
                succeeded.append([task.job, *measured])
            elif self._stop is None:
                self._failed(task, result)
        if succeeded:
            self._record({"e": "ok", "j": succeeded})
        if aborting is not None:
            self._abort(aborting, 0)

    def _failed(self, task: Task, result: dict[str, Any]) -> None:
        state, job = self.state, task.job
        if state.states[job] >= JobState.SUCCEEDED:
            return  # It was ended because the run was cancelled.
        fields = self._fields(job)
        decision = decide(
            fields,
            result,
            failures=state.failures.get(job, 0),
            losses=state.losses.get(job, 0),
            memory=state.memory.get(job, fields.get("request_memory")),
            most_memory=self._most_memory(job),
            retries=self._retries,
        )
        code = int(result.get("exit", 1))
        aborts = code == fields.get("abort_on_value") and "lost" not in result
        if aborts:
            decision = replace(decision, retry=False, memory=None)
        self._record(failure_event(job, code, decision, lost="lost" in result, aborts=aborts))
        if aborts:
            self._abort(job, code)
            return
        level = logging.WARNING if decision.retry else logging.ERROR
        follows = "it will be run again" if decision.retry else f"its output: {task.spec['stderr']}"
        _LOG.log(level, "Job %s: %s; %s", state.plan.job(job).name, decision.why, follows)

    def _fields(self, job: int) -> dict[str, Any]:
        return self.state.plan.template(job).fields or {}

    def _abort(self, job: int, code: int) -> None:
        """End the run as BPS's abortOnValue has it (DAGMan's ABORT-DAG-ON)."""
        value = self._fields(job).get("abort_return_value")
        said = f"Job {self.state.plan.job(job).name} ended with exit code {code}, which aborts the run"
        self.error = RunAbortedError(said, code if value is None else int(value))
        _LOG.error("%s.", self.error.message)
        self._cancel()

    def _cancel(self) -> None:
        """Let no more jobs begin, and end those that run; the final ones are to run all the same."""
        if self.state.cancelled or self.state.is_done:
            return
        self._record({"e": "cancel"})
        if self.state.totals()[JobState.DELETED]:
            self._backend.kill(GRACE_SECONDS)

    def _look_around(self) -> None:
        """Do what is due from time to time."""
        now = time.monotonic()
        if now - self._looked >= TICK_SECONDS:
            self._looked = now
            self._check_backend()
            self._read_nodes()
            self._show_life(now)
            self._heed_requests()
        self._show()

    def _show(self) -> None:
        if self._listener is not None:
            self._listener.update(self.state, self._waits)

    def _check_backend(self) -> None:
        try:
            self._waits = self._backend.check()
        except RunEndedError as exc:
            self.error = exc
            self._stop = NO_WORKERS

    def _read_nodes(self, *, fresh: bool = False) -> None:
        # Only who runs; how it ends is heard from Parsl.
        for event in self._tail.read(fresh=fresh):
            self.state.apply(event)

    def _show_life(self, now: float) -> None:
        if self._lock is not None:
            self._lock.beat()
        if now - self._synced >= HEARTBEAT_SECONDS:
            self._synced = now
            self._journal.sync()

    def _heed_requests(self) -> None:
        if take_cancel_request(self._paths.cancel_request) and not self.state.cancelled:
            _LOG.info("The run is being cancelled.")
            self._cancel()

    def _end_jobs(self, grace: float, *, record: bool = True) -> None:
        """End the jobs that run, and wait until they have ended."""
        self._backend.kill(grace)
        deadline = time.monotonic() + grace + 5.0
        while self._in_flight and time.monotonic() < deadline:
            if self._asked_twice:
                self._asked_twice = False
                self._backend.kill(0.0)  # No more time for the jobs.
            if record:
                self._take_results()
            else:
                with suppress(queue.Empty):
                    if self._results.get(timeout=TICK_SECONDS) is not None:
                        self._in_flight -= 1

    def _record(self, event: dict[str, Any]) -> None:
        """Write an event down, then let it happen."""
        if self._lock is not None:
            self._lock.beat()  # After a long sleep, the run may be another driver's.
        event = {"e": event.pop("e"), "t": round(self._clock(), 3), **event}
        self._journal.append(event)
        self.state.apply(event)
