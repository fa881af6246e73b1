# SPDX-License-Identifier: BSD-3-Clause
"""The driver: from the first job to the last.

It takes jobs whose parents have succeeded, hands them to the backend, writes
down what became of them, and decides what follows. All it knows is in the
`RunState`; all it does is in the journal before it is in the state.
"""

from __future__ import annotations

import heapq
import logging
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from ..errors import RunAbortedError, RunEndedError
from ..paths import SubmitPaths
from ..run.job_state import JobState
from ..run.journal import Journal
from ..run.liveness import HEARTBEAT_SECONDS, Holder, RunLock, take_cancel_request
from ..run.replay import may_concern, recovered_events
from ..run.state import RunState
from .backend import Backend
from .limits import Limits
from .payload import Supplies, checked, payload_is_known
from .retry import decide
from .tail import NodeTail, recorded_ends
from .tasks import Maker, Task

__all__ = ["Driver", "Listener"]

_LOG = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""Time between two looks at requests from outside."""

GRACE_SECONDS = 10.0
"""Time that jobs have to end after a SIGTERM."""


NO_WORKERS = "no workers"
"""Why a run was stopped whose jobs cannot get a worker."""


class Listener(Protocol):
    """Shows the progress of a run."""

    def update(self, state: RunState) -> None:
        """Look at the state; called often."""


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
        self._ready: list[tuple[int, int]] = []
        self._in_flight = 0
        self._stop: str | None = None
        self.error: RunEndedError | None = None
        self._hurry = False
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
        self._hurry = self._stop is not None
        if self._hurry:
            self._backend.hurry()
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
        try:
            self._begin()
            try:
                self._backend.start(self._completed)
                self._loop()
            except BaseException:
                self._end_jobs(1.0, record=False)
                raise
            finally:
                self._backend.close()
        finally:
            self._journal.close()
            if self._listener is not None:
                self._listener.update(self.state)
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
        while self._stop is None:
            if self.state.lacks_payload and not self.state.cancelled:
                self._take_up_payload()
            if self.state.is_done and not self._in_flight:
                self._record({"e": "finish", "state": self.state.outcome().name})
                self._journal.sync()
                return
            self._hand_out()
            if not (self._in_flight or self._ready or self.state.is_done):
                raise RuntimeError(f"{self.state.plan.path}: no job is ready and none runs; this is a bug")
            self._take_results()
            self._look_around()
        if self.error is None:
            _LOG.warning(
                "Stopping (%s): jobs have %.0f seconds to end; another signal ends them at once.",
                self._stop,
                GRACE_SECONDS,
            )
        self._end_jobs(GRACE_SECONDS)
        self._record({"e": "stop", "why": self._stop})
        self._journal.sync()

    def _take_up_payload(self) -> None:
        """Go on with the jobs that one of the run's has added."""
        payload = self.state.plan.add_payload()
        self._record({"e": "payload", "plan": payload.id})
        self._journal.sync()  # Before a node writes of a job of which the driver's journal does not know.
        _LOG.info("%s.", payload_is_known(payload))
        if self._supplies is not None:
            if not self._supplies.suffice():
                self._backend.close()
                self._supplies.renew()
                self._backend = self._supplies.backend()
                self._backend.start(self._completed)
            self._maker = self._supplies.maker()

    def _hand_out(self) -> None:
        """Give the backend what is ready, the most urgent first."""
        state = self.state
        if state.cancelled and self._in_flight:
            return  # The final job gathers what others leave: they end first.
        for job in state.take_ready():
            fields = self._fields(job)
            heapq.heappush(self._ready, (-int(fields.get("priority") or 0), job))
        tasks: list[Task] = []
        while self._ready and self._in_flight + len(tasks) < self._backend.window:
            item = heapq.heappop(self._ready)
            job = item[1]
            if state.states[job] == JobState.READY and self._limits.take(self._limits_of(job), item):
                tasks.append(self._maker.make(job, state.attempts[job] + 1, state.memory.get(job)))
        if tasks:
            self._record({"e": "pending", "j": [task.job for task in tasks]})
            self._in_flight += len(tasks)
            for task in tasks:
                self._backend.submit(task)

    def _limits_of(self, job: int) -> list[str]:
        fields = self._fields(job)
        return self._limits.names(fields.get("concurrency_limit"), fields.get("category"))

    def _completed(self, task: Task, result: dict[str, Any]) -> None:
        """Note a result; called by the backend in any thread."""
        self._results.put((task, result))

    def _take_results(self, timeout: float = TICK_SECONDS) -> None:
        """Wait for a result, then write down all that are there."""
        results = []
        with suppress(queue.Empty):
            results.append(self._results.get(timeout=timeout))
            while len(results) < 1000:
                results.append(self._results.get_nowait())
        self._take_down([item for item in results if item is not None])

    def _take_down(self, results: list[tuple[Task, dict[str, Any]]]) -> None:
        """Write results down."""
        self._in_flight -= len(results)
        for task, _ in results:
            for item in self._limits.release(self._limits_of(task.job)):
                heapq.heappush(self._ready, item)
        lost = {(task.job, task.attempt) for task, result in results if "lost" in result}
        recorded = recorded_ends(self._paths, lost) if lost else {}
        succeeded, aborting = [], None
        for task, result in results:
            # Parsl may have lost what the node has on record.
            result = checked(self.state.plan, task.job, recorded.get((task.job, task.attempt), result))
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
        event = {"e": "fail", "j": job, "exit": code, "why": decision.why, "retry": decision.retry}
        event["charged"] = decision.charged
        event["lost"] = "lost" in result
        if decision.memory:
            event["memory"] = decision.memory
        if aborts:
            event["abort"] = True
        self._record(event)
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
        name = self.state.plan.job(job).name
        self.error = RunAbortedError(
            f"Job {name} ended with exit code {code}, which aborts the run",
            code if value is None else int(value),
        )
        _LOG.error("%s.", self.error.message)
        if not self.state.cancelled:
            self._record({"e": "cancel"})
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
        if self._listener is not None:
            self._listener.update(self.state)

    def _check_backend(self) -> None:
        try:
            self._backend.check()
        except RunEndedError as exc:
            self.error = exc
            self._stop = NO_WORKERS

    def _read_nodes(self) -> None:
        for event in self._tail.read(partial(may_concern, self.state)):
            # Only who runs; how it ends is heard from Parsl.
            if event.get("e") == "start":
                self.state.apply(event)

    def _show_life(self, now: float) -> None:
        if self._lock is not None:
            self._lock.beat()
        if now - self._synced >= HEARTBEAT_SECONDS:
            self._synced = now
            self._journal.sync()

    def _heed_requests(self) -> None:
        if self.state.cancelled or not take_cancel_request(self._paths.cancel_request):
            return
        _LOG.info("The run is being cancelled.")
        self._record({"e": "cancel"})
        self._backend.kill(GRACE_SECONDS)

    def _end_jobs(self, grace: float, *, record: bool = True) -> None:
        """End the jobs that run, and wait until they have ended."""
        self._backend.kill(grace)
        deadline = time.monotonic() + grace + 5.0
        hurried = False
        while self._in_flight and time.monotonic() < deadline:
            if self._hurry and not hurried:
                # Asked twice: no more time for the jobs.
                hurried = True
                self._backend.kill(0.0)
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
