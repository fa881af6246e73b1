# SPDX-License-Identifier: BSD-3-Clause
"""As many blocks as the ready jobs need: with a provider and a clock that do what a test says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from parsl.executors import HighThroughputExecutor
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SimpleLauncher
from parsl.providers.cluster_provider import ClusterProvider

from lsst.ctrl.bps.parsl.driver.blocks import Demand, last_words
from lsst.ctrl.bps.parsl.driver.pilots import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MOST_DEATHS,
    YOUNG_SECONDS,
    Pilots,
)
from lsst.ctrl.bps.parsl.errors import NoWorkersError, SchedulerError


class Queue(ClusterProvider):
    """A batch system in a dictionary."""

    def __init__(self, **options: Any) -> None:
        limits = {"init_blocks": 0, "min_blocks": 0, "max_blocks": 4, "parallelism": 1.0, **options}
        cores, memory = limits.pop("cores_per_node", 4), limits.pop("mem_per_node", None)
        self.seconds = limits.pop("seconds", None)
        limits |= {"nodes_per_block": 1, "walltime": "1:00:00", "launcher": SimpleLauncher()}
        super().__init__("queue", **limits)  # type: ignore[no-untyped-call]  # Parsl's.
        self.cores_per_node, self.mem_per_node = cores, memory
        self.refusal: SchedulerError | None = None
        self.down: SchedulerError | None = None
        self.cancelled: list[str] = []

    def submit(self, command: str, tasks_per_node: int, job_name: str = "") -> str:
        """Take a block, or refuse it."""
        self.refusal = self.down
        if self.down is not None:
            raise self.down
        number = str(100 + len(self.resources))
        self.resources[number] = {"status": JobStatus(JobState.PENDING)}
        return number

    def _status(self) -> None:
        pass

    def cancel(self, job_ids: Sequence[object]) -> list[bool]:
        """Cancel blocks."""
        for number in job_ids:
            self.cancelled.append(str(number))
            self.resources[number]["status"] = JobStatus(JobState.CANCELLED)
        return [True for _ in job_ids]

    @property
    def status_polling_interval(self) -> int:
        """Every time."""
        return 0

    def become(self, state: JobState, *numbers: str, stderr: Path | None = None) -> None:
        """Let jobs get into a state."""
        for number in numbers or list(map(str, self.resources)):
            path = str(stderr) if stderr else None
            self.resources[number]["status"] = JobStatus(state, stderr_path=path)


class Workers(BlockProviderExecutor):
    """An executor that has blocks and no jobs."""

    def __init__(self, provider: Queue) -> None:
        super().__init__(provider=provider, block_error_handler=True)
        self.label = "workers"

    def start(self) -> None:
        """Do nothing."""

    def shutdown(self) -> None:
        """Do nothing."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Take no job."""
        raise NotImplementedError

    def outstanding(self) -> int:
        """Have none."""
        return 0

    @property
    def workers_per_node(self) -> int:
        """Four."""
        return 4

    def _get_launch_command(self, block_id: str) -> str:
        return "true"


class Scene:
    """Pilots, and all that they look at."""

    provider_class = Queue

    def __init__(self, executor_class: Any = Workers, **options: Any) -> None:
        self.provider = self.provider_class(**options)
        if executor_class is HighThroughputExecutor:
            self.executor = HighThroughputExecutor(
                label="workers", provider=self.provider, address="127.0.0.1"
            )
        else:
            self.executor = executor_class(self.provider)
        self.demand = Demand()
        self.errors: list[Exception] = []
        self.now = 1000.0
        self.pilots = Pilots(
            [self.executor],
            lambda label: self.demand if label == "workers" else Demand(),
            lambda label: 120.0,
            self.errors.append,
            clock=lambda: self.now,
        )

    def need(self, jobs: int, cpus: float = 0.0, memory: float = 0.0, **more: Any) -> None:
        """Have jobs that wait."""
        self.demand = Demand(jobs, cpus or jobs, memory, **more)

    def tick(self, seconds: float = 1.0) -> int:
        """Let time pass, look, and return the number of blocks that are alive."""
        self.now += seconds
        self.executor.poll_facade()
        self.pilots.tick("workers")
        self.executor.poll_facade()
        return self.alive

    @property
    def alive(self) -> int:
        """Number of blocks in the queue."""
        return sum(not job["status"].terminal for job in self.provider.resources.values())

    @property
    def submitted(self) -> int:
        """Number of blocks that were ever asked for."""
        return len(self.provider.resources)


@pytest.mark.parametrize(
    ("jobs", "cpus", "memory", "blocks"),
    [
        (0, 0, 0, 0),
        (1, 1, 1, 1),
        (4, 4, 0, 1),
        (5, 5, 0, 2),
        (4, 16, 0, 4),
        (2, 2, 3 * 8 * 1024, 3),
        (1000, 1000, 0, 4),
    ],
)
def test_blocks_for_cores_and_memory(jobs: int, cpus: int, memory: int, blocks: int) -> None:
    """There are as many blocks as the cores and the memory of the jobs fill, and no more than allowed."""
    scene = Scene(mem_per_node=8)
    scene.need(jobs, cpus, memory)
    assert scene.tick() == blocks
    assert scene.tick() == blocks, "those that wait in the queue count"


def test_parsls_own_scaling_is_off() -> None:
    """Parsl asks for no blocks by itself, and gives no executor up."""
    scene = Scene(init_blocks=2)
    assert scene.provider.init_blocks == 0
    assert scene.tick() == 2, "the initial blocks, without a job"


def test_fewer_blocks_with_less_parallelism() -> None:
    """``parallelism`` is the part of the jobs that run at once; one block there is in any case."""
    scene = Scene(parallelism=0.5)
    scene.need(16)
    assert scene.tick() == 2
    scene = Scene(parallelism=0.0)
    scene.need(16)
    assert scene.tick() == 1


def test_min_blocks_are_kept() -> None:
    """``min_blocks`` are there without jobs too."""
    scene = Scene(min_blocks=2)
    assert scene.tick() == 2
    assert scene.tick(1000.0) == 2


def test_lost_blocks_are_replaced() -> None:
    """A block that ended is replaced as long as there are jobs for it."""
    scene = Scene()
    scene.need(8)
    assert scene.tick() == 2
    scene.provider.become(JobState.RUNNING)
    scene.tick()
    scene.pilots.heard_from("workers")
    scene.provider.become(JobState.FAILED, "100")
    assert scene.tick() == 2
    assert scene.submitted == 3
    assert scene.errors == []


def test_idle_blocks_end_after_their_time() -> None:
    """Blocks without jobs are ended after the idle time, not before."""
    scene = Scene()
    scene.need(8)
    scene.tick()
    scene.need(0)
    assert scene.tick() == 2
    assert scene.tick(100.0) == 2
    assert scene.tick(30.0) == 0
    assert scene.submitted == 2


def test_idle_time_begins_anew_with_a_job() -> None:
    """What was idle and got a job is not idle."""
    scene = Scene()
    scene.need(4)
    scene.tick()
    scene.need(0)
    scene.tick(100.0)
    scene.need(4)
    scene.tick(10.0)
    scene.need(0)
    assert scene.tick(100.0) == 1


def test_only_idle_blocks_of_htex_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where HTEX says which blocks have jobs, the others end while a job still runs."""
    scene = Scene(HighThroughputExecutor)
    monkeypatch.setattr(scene.executor, "connected_blocks", lambda: ["0", "1"])
    monkeypatch.setattr(scene.executor, "_hold_block", lambda block: None)
    monkeypatch.setattr(scene.executor, "_get_launch_command", lambda block: "true")
    managers = [
        {"block_id": "0", "tasks": 1, "idle_duration": 0.0, "active": True},
        {"block_id": "1", "tasks": 0, "idle_duration": 500.0, "active": True},
    ]
    monkeypatch.setattr(scene.executor, "connected_managers", lambda: managers)
    scene.need(8)
    assert scene.tick() == 2
    scene.provider.become(JobState.RUNNING)
    scene.need(1)
    scene.tick()
    assert scene.tick(200.0) == 1
    assert scene.provider.cancelled == ["101"]


def test_refusal_is_tried_again_with_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """While the batch system does not answer, the run waits, says so once, and asks ever more rarely."""
    scene = Scene()
    scene.need(4)
    scene.provider.down = SchedulerError("squeue: Unable to contact slurm controller")
    tried = 0
    for _ in range(120):
        before = len(scene.executor.status_facade)
        assert scene.tick() == 0
        tried += len(scene.executor.status_facade) > before
    assert 3 <= tried <= 8
    assert scene.errors == []
    assert sum("Unable to contact" in record.getMessage() for record in caplog.records) == 1
    scene.provider.down = None
    assert scene.tick(60.0) == 1


def test_final_refusal_ends_the_run() -> None:
    """What the batch system will never take ends the run with its words."""
    scene = Scene()
    scene.need(4)
    scene.provider.down = SchedulerError("sbatch: invalid partition specified: nowhere", final=True)
    scene.tick()
    (error,) = scene.errors
    assert isinstance(error, NoWorkersError)
    assert "invalid partition specified: nowhere" in error.message


def test_blocks_that_die_young_end_the_run(tmp_path: Path) -> None:
    """Blocks that end before they did anything are asked for ever more slowly, then the run ends
    with the last lines of what they wrote.
    """
    stderr = tmp_path / "block.stderr"
    stderr.write_text("slurm_script: line 9: module: command not found\n")
    scene = Scene()
    scene.need(1)
    times = []
    while not scene.errors:
        before = scene.submitted
        scene.tick()
        if scene.submitted > before:
            times.append(scene.now)
            scene.provider.become(JobState.FAILED, stderr=stderr)
        assert scene.now < 2000.0
    assert len(times) == MOST_DEATHS
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == sorted(pauses)
    (error,) = scene.errors
    assert "module: command not found" in str(error)


@pytest.mark.parametrize("task", ["", "1: "])
def test_last_words_have_the_reason(task: str, tmp_path: Path) -> None:
    """What went wrong first in a block is said, and not only what followed from it."""
    stderr = tmp_path / "block.stderr"
    follows = ["Traceback (most recent call last):", *["  File x"] * 9, "EOFError"]
    lines = ["Traceback (most recent call last):", "OSError: AF_UNIX path too long", *follows]
    stderr.write_text("".join(f"{task}{line}\n" for line in lines))
    said = last_words(JobStatus(JobState.FAILED, stderr_path=str(stderr)))
    assert f"\n  {task}OSError: AF_UNIX path too long\n" in said
    assert said.endswith("EOFError")


def test_blocks_that_did_something_may_end(tmp_path: Path) -> None:
    """Blocks that ended after they had run jobs, or after their time, are no reason to give up."""
    scene = Scene()
    scene.need(1)
    for number in range(3 * MOST_DEATHS):
        while scene.tick() == 0:
            pass
        scene.provider.become(JobState.RUNNING, str(100 + number))
        scene.tick()
        if number % 2:
            scene.pilots.heard_from("workers")
            scene.tick()
        else:
            scene.tick(YOUNG_SECONDS + 1.0)
        scene.provider.become(JobState.TIMEOUT)
    assert scene.errors == []


def test_blocks_that_bring_nothing_are_said_and_asked_for_ever_more_slowly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Blocks that last and of which no job ends are counted and said, and the pauses between them grow;
    they do not end the run, since its jobs may be longer than its blocks.
    """
    scene = Scene()
    scene.need(1)
    pauses = []
    for number in range(2 * MOST_DEATHS):
        ended = scene.now
        while scene.tick() == 0:
            pass
        pauses.append(scene.now - ended)
        scene.provider.become(JobState.RUNNING, str(100 + number))
        scene.tick()
        scene.tick(3600.0)
        scene.provider.become(JobState.TIMEOUT, str(100 + number))
        scene.tick()
    assert scene.errors == []
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[1] > FIRST_PAUSE - 2, pauses[-1] > LONGEST_PAUSE - 2) == (1.0, True, True)
    said = [record.getMessage() for record in caplog.records if "60 minutes" in record.getMessage()]
    assert len(said) == 2 * MOST_DEATHS
    assert f"{2 * MOST_DEATHS} blocks in a row" in said[-1]
    scene.pilots.heard_from("workers")
    ended = scene.now
    scene.tick(LONGEST_PAUSE)
    scene.provider.become(JobState.RUNNING)
    scene.tick()
    scene.pilots.heard_from("workers")
    scene.provider.become(JobState.TIMEOUT)
    scene.tick(3600.0)
    assert scene.tick() == 1, "without a pause, after one that brought something"


def test_stop_between_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is asked to stop while blocks are submitted submits no more of them."""
    scene = Scene()
    scene.need(16)
    submit = scene.provider.submit

    def then_stop(*args: Any) -> str:
        scene.pilots.stop()
        return submit(*args)

    monkeypatch.setattr(scene.provider, "submit", then_stop)
    scene.tick()
    assert scene.submitted == 1


def test_asked_twice_nobody_waits_for_a_slow_command(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch system that takes its time holds nobody up who asked twice; what may be left is said."""
    scene = Scene()
    scene.need(1)
    asked, answer = threading.Event(), threading.Event()
    submit = scene.provider.submit

    def slow(*args: Any) -> str:
        asked.set()
        answer.wait()
        return submit(*args)

    monkeypatch.setattr(scene.provider, "submit", slow)
    scene.pilots.start()
    try:
        assert asked.wait(60)
        scene.pilots.stop_waiting()
        scene.pilots.stop()
        scene.pilots.end_all()
        assert "may still be in the queue" in caplog.text
    finally:
        answer.set()


class Broken(Exception):
    """What a provider of a user's may raise."""


@pytest.mark.parametrize("method", ["cancel", "status", "sweep"])
def test_whatever_a_provider_raises_at_the_end(
    method: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a provider raises when blocks are to be ended is said once, in words, and ends nothing else."""
    scene = Scene()
    scene.need(4)
    scene.tick()
    asked = []

    def fails(*args: Any) -> Any:
        asked.append(args)
        if len(asked) > 2:
            scene.pilots.stop_waiting()
        raise Broken("qdel: server down")

    monkeypatch.setattr(scene.provider, method, fails, raising=False)
    if method == "status":
        monkeypatch.setattr(scene.provider, "cancel", lambda numbers: [False] * len(numbers))
    scene.pilots.end_all()
    assert len(asked) == 3, "it is tried again"
    assert caplog.text.count("qdel: server down") == 1
    assert "Traceback" not in caplog.text
    assert "may still be in the queue" in caplog.text


def test_provider_that_cannot_tell_of_its_blocks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsl asks for all executors in one go: what one's provider raises is said once and goes no further."""
    scene = Scene()
    scene.need(4)
    assert scene.tick() == 1

    def fails(job_ids: Sequence[object]) -> Any:
        raise Broken("qstat: server down")

    monkeypatch.setattr(scene.provider, "status", fails)
    for _ in range(3):
        assert scene.tick() == 1
        scene.pilots.look("workers")
    assert caplog.text.count("qstat: server down") == 1


def test_what_is_raised_while_blocks_are_looked_after(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is raised each second is said once, and again after it went well in between."""
    scene = Scene()
    scene.need(4)
    scene.tick()

    def fails(job_ids: Sequence[object]) -> list[bool]:
        raise Broken("qdel: server down")

    scene.need(0)
    with monkeypatch.context() as patch:
        patch.setattr(scene.provider, "cancel", fails)
        for _ in range(5):
            scene.now += 100.0
            scene.pilots.look("workers")
    assert caplog.text.count("qdel: server down") == 1
    scene.now += 200.0
    scene.pilots.look("workers")
    assert scene.alive == 0


def test_block_without_the_time_for_a_job_gets_company() -> None:
    """For jobs that no running block has time for, there is a fresh one."""
    scene = Scene(seconds=3600)
    scene.need(1)
    assert scene.tick() == 1
    scene.provider.become(JobState.RUNNING)
    scene.tick()
    scene.need(1, declined=1, walltime=3000.0)
    assert scene.tick(300.0) == 1, "it has 55 minutes left"
    assert scene.tick(600.0) == 2, "it has 45"
    assert scene.tick() == 2, "the new one will do"


def test_old_block_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there may be no more blocks, an idle one that has no time for any job makes room."""
    scene = Scene(HighThroughputExecutor, seconds=3600, max_blocks=1)
    monkeypatch.setattr(scene.executor, "connected_blocks", lambda: ["0"])
    monkeypatch.setattr(scene.executor, "_hold_block", lambda block: None)
    monkeypatch.setattr(scene.executor, "_get_launch_command", lambda block: "true")
    manager = {"block_id": "0", "tasks": 0, "idle_duration": 3.0, "active": True}
    monkeypatch.setattr(scene.executor, "connected_managers", lambda: [manager])
    scene.need(1)
    scene.tick()
    scene.provider.become(JobState.RUNNING)
    scene.tick()
    scene.need(1, declined=1, walltime=3000.0)
    scene.tick(1200.0)
    assert scene.provider.cancelled == ["100"]
    scene.tick()
    assert scene.alive == 1
    assert scene.submitted == 2


def test_job_longer_than_any_block() -> None:
    """A job that asks for more time than a block has ends the run with a sentence."""
    scene = Scene(seconds=3600)
    scene.need(1, declined=1, walltime=7200.0)
    scene.tick()
    (error,) = scene.errors
    assert "120 minutes" in str(error)
    assert "60" in str(error)


def test_nothing_is_left_in_the_queue() -> None:
    """At the end all blocks are cancelled, and no more are asked for."""
    scene = Scene()
    scene.need(12)
    assert scene.tick() == 3
    scene.pilots.stop()
    scene.pilots.end_all(1.0)
    assert scene.alive == 0
    assert scene.tick() == 0


def test_scheduler_that_is_down_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where blocks cannot be cancelled, that is said, with what becomes of them."""
    scene = Scene()
    scene.need(4)
    scene.tick()

    def fails(job_ids: Sequence[object]) -> list[bool]:
        raise SchedulerError("scancel: no answer")

    monkeypatch.setattr(scene.provider, "cancel", fails)
    scene.pilots.end_all(-1.0)
    assert "may still be in the queue" in caplog.text
