# SPDX-License-Identifier: BSD-3-Clause
"""A backend, a clock and a maker of tasks that do what a script says.

There is no thread and no time in them: a task ends when the driver hands out
more or looks around, and which one that is, is drawn from a seeded generator.
The driver never waits, since whenever tasks are in flight a result is there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lsst.ctrl.bps.parsl.driver.limits import Limits
from lsst.ctrl.bps.parsl.driver.loop import Driver
from lsst.ctrl.bps.parsl.driver.take_up_payload import look_for_payload
from lsst.ctrl.bps.parsl.driver.tasks import Task
from lsst.ctrl.bps.parsl.node.journal import encode_line
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.journal import Journal
from lsst.ctrl.bps.parsl.run.replay import replay
from lsst.ctrl.bps.parsl.run.state import RunState

__all__ = [
    "LOST",
    "SUCCEEDS",
    "FakeBackend",
    "FakeMaker",
    "Outcome",
    "Run",
    "Script",
    "after",
    "drive",
    "fails",
]

Result = dict[str, Any]


class Outcome:
    """What becomes of the attempts of a job, from the first.

    Parameters
    ----------
    text : `str`
        How to show it.
    result : `~collections.abc.Callable`
        What the runner says of an attempt.
    """

    def __init__(self, text: str, result: Callable[[int], Result]) -> None:
        self._text = text
        self._result = result

    def __call__(self, attempt: int) -> Result:
        return self._result(attempt)

    def __repr__(self) -> str:
        return self._text


def fails(code: int = 1, memory: int = 100) -> Outcome:
    """Fail each time."""
    return Outcome(f"fails({code})", lambda attempt: _ended(code, memory))


def after(count: int, first: Outcome, then: Outcome) -> Outcome:
    """Do one thing in the first attempts and another afterwards."""
    return Outcome(
        f"after({count}, {first}, {then})",
        lambda attempt: first(attempt) if attempt <= count else then(attempt),
    )


def _ended(code: int, memory: int) -> Result:
    return {"exit": code, "start": 1.0, "end": 2.0, "memory": memory, "cpu": 0.5}


SUCCEEDS = Outcome("SUCCEEDS", lambda attempt: _ended(0, 100))
LOST = Outcome("LOST", lambda attempt: {"lost": "WorkerLost: the worker went away"})

Script = Mapping[int, Callable[[int], Result]]
"""What becomes of each job; success where it is not named."""


class FakeMaker:
    """Makes tasks that say what they were made of."""

    def make(self, index: int, attempt: int, memory: int | None) -> Task:
        """Make a task."""
        spec = {"stderr": f"/logs/{index}.stderr", "memory": memory}
        return Task(index, attempt, "l", "local", resources={}, spec=spec)


@dataclass
class FakeBackend:
    """Ends tasks as the script says, in an order that the seed decides."""

    state: RunState
    script: Script = field(default_factory=dict)
    seed: int = 0
    window: int = 5
    paths: SubmitPaths | None = None
    """Where to record ends as a node does; nowhere by default."""
    on_step: Callable[[FakeBackend], None] | None = None
    """Called between any two results."""
    submitted: list[tuple[int, int]] = field(default_factory=list)
    """Job and attempt of all tasks that were given to it."""
    memory: list[int | None] = field(default_factory=list)
    """Memory that each of them was made with."""
    kills: list[float] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._tasks: list[Task] = []
        self._completed: Callable[[Task, Result], None] | None = None
        self._unheard = 0

    @property
    def in_flight(self) -> int:
        """Number of tasks that have not ended."""
        return len(self._tasks)

    # What the driver calls.

    def start(self, completed: Callable[[Task, Result], None]) -> None:
        """Begin."""
        self._completed = completed

    def submit(self, task: Task) -> None:
        """Check that the task may run, and take it."""
        assert self._completed is not None
        assert not self.closed
        plan, state = self.state.plan, self.state
        assert state.state(task.job) == JobState.PENDING
        assert all(state.state(parent) == JobState.SUCCEEDED for parent in plan.parents(task.job))
        assert (task.job, task.attempt) not in self.submitted
        assert task.attempt == state.attempts[task.job]
        waiting = [job for job, value in enumerate(state.states) if value == JobState.READY]
        assert all(self._priority(job) <= self._priority(task.job) for job in waiting)
        self.submitted.append((task.job, task.attempt))
        self.memory.append(task.spec["memory"])
        self._tasks.append(task)
        assert self.in_flight <= self.window
        if not self._unheard:
            self._end_one()

    def check(self) -> list[str]:
        """Find nothing wrong."""
        return []

    def stop_waiting(self) -> None:
        """Wait for nothing anyway."""

    def kill(self, grace: float) -> None:
        """End all tasks: those that are lucky succeed in the last moment."""
        self.kills.append(grace)
        while self._tasks:
            task = self._tasks.pop()
            killed = _ended(143, 1)
            self._hear(task, killed if self._random.random() < 0.7 else self._result(task))

    def close(self) -> None:
        """End; nothing must be left."""
        assert not self._tasks
        self.closed = True

    # The listener of the driver, which it calls after it took all results.

    def update(self, state: RunState, waiting: Sequence[str] = ()) -> None:
        """Let some tasks end."""
        if self.closed:
            return
        waits = not self._tasks and not self._unheard and not state.cancelled and self.window
        assert not waits, "the driver waits, and nothing is in flight"
        self._unheard = 0
        if self.on_step is not None:
            self.on_step(self)
        for _ in range(min(len(self._tasks), self._random.randint(1, 3))):
            self._end_one()

    def flying(self) -> list[int]:
        """Return the jobs that run."""
        return [task.job for task in self._tasks]

    def _priority(self, job: int) -> int:
        return int((self.state.plan.template(job).fields or {}).get("priority") or 0)

    def _end_one(self) -> None:
        task = self._tasks.pop(self._random.randrange(len(self._tasks)))
        self._hear(task, self._result(task))

    def _result(self, task: Task) -> Result:
        return self.script.get(task.job, SUCCEEDS)(task.attempt)

    def _hear(self, task: Task, result: Result) -> None:
        assert self._completed is not None
        if self.paths is not None and "exit" in result:
            event = {"e": "end", "j": task.job, "a": task.attempt, "t": 1.0, **result}
            with open(self.paths.journals / "node-fake-1.jsonl", "ab") as stream:
                stream.write(encode_line(event))
        self._unheard += 1
        self._completed(task, dict(result))


@dataclass
class Run:
    """A run that was driven by the fake."""

    state: RunState
    backend: FakeBackend
    driver: Driver

    @property
    def states(self) -> list[JobState]:
        """State of each job."""
        return [JobState(value) for value in self.state.states]

    def times(self, job: int) -> int:
        """Count the attempts of a job that this driver made."""
        return sum(number == job for number, _ in self.backend.submitted)


def drive(
    plan: Plan,
    paths: SubmitPaths,
    script: Script | None = None,
    *,
    seed: int = 0,
    window: int = 5,
    retries: int | None = None,
    record_nodes: bool = False,
    limits: Mapping[str, int] | None = None,
    on_step: Callable[[FakeBackend, Driver], None] | None = None,
    backend_class: type[FakeBackend] = FakeBackend,
) -> Run:
    """Drive a run to its end, as a new process does: from what is on the disk."""
    state = replay(plan, paths)
    look_for_payload(state)
    journal = Journal(paths.driver_journal, plan.run)
    backend = backend_class(state, script or {}, seed, window, paths if record_nodes else None)
    ticks = iter(range(1_000_000_000))
    driver = Driver(
        state,
        journal,
        backend,
        FakeMaker(),
        paths,
        retries=retries,
        limits=Limits(limits or {}),
        clock=lambda: float(next(ticks)),
    )
    if on_step is not None:
        backend.on_step = lambda fake: on_step(fake, driver)
    driver.listen(backend)
    driver.run()
    return Run(state, backend, driver)
