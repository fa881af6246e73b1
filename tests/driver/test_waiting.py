# SPDX-License-Identifier: BSD-3-Clause
"""Blocks that wait in the queue: what is said of them, how often, and when it ends the run."""

from __future__ import annotations

import io
import logging
from itertools import pairwise
from pathlib import Path

import pytest
from parsl.jobs.states import JobState, JobStatus
from rich.console import Console

from lsst.ctrl.bps.parsl.driver.blocks import Demand
from lsst.ctrl.bps.parsl.driver.pilots import SAY_AGAIN_SECONDS, Pilots
from lsst.ctrl.bps.parsl.driver.waiting import FIRST_PAUSE, LONGEST_PAUSE, QUIET_SECONDS, SURE_SECONDS
from lsst.ctrl.bps.parsl.errors import NoWorkersError, SchedulerError
from lsst.ctrl.bps.parsl.report.progress import ProgressDisplay
from lsst.ctrl.bps.parsl.run.state import RunState
from support.plans import make_plan, plan_line

from .test_pilots import Queue, Scene, Workers


class Slurm(Queue):
    """A batch system that says why its jobs wait."""

    says_reasons = True
    silent = False

    def _status(self) -> None:
        for job in [] if self.silent else self.resources.values():
            job["status"] = JobStatus(job["status"].state, message=job["status"].message)

    def wait_for(self, reason: str | None, *numbers: str, state: JobState = JobState.PENDING) -> None:
        """Let jobs wait for a reason."""
        for number in numbers or list(map(str, self.resources)):
            self.resources[number]["status"] = JobStatus(state, message=reason)


class SlurmScene(Scene):
    """Pilots of a batch system that says why its jobs wait."""

    provider_class = Slurm
    provider: Slurm

    def waits(self, jobs: int, reason: str) -> None:
        """Have blocks for jobs, all of which wait for a reason."""
        self.need(jobs)
        self.tick()
        self.provider.wait_for(reason)
        self.tick()


@pytest.fixture
def scene() -> SlurmScene:
    """Make a scene."""
    return SlurmScene()


def said(caplog: pytest.LogCaptureFixture, words: str = "Blocks of") -> list[str]:
    """Return what was logged with some words."""
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


def test_reason_that_nobody_waits_out(scene: SlurmScene, caplog: pytest.LogCaptureFixture) -> None:
    """The run ends with Slurm's reason, what it means and the setting to change; not before more than one
    answer of squeue has it, but it is said at once.
    """
    scene.waits(8, "PartitionTimeLimit")
    assert said(caplog) == [
        "Blocks of workers: 2 will never start (PartitionTimeLimit): the walltime is longer than the "
        "partition allows. Change walltime or partition."
    ]
    scene.tick(SURE_SECONDS - 1.0)
    assert scene.errors == []
    scene.tick(1.0)
    (error,) = scene.errors
    assert isinstance(error, NoWorkersError)
    assert error.message == (
        "No block of workers will ever start (PartitionTimeLimit): the walltime is longer than the partition "
        "allows. Change walltime or partition."
    )


def test_reason_that_was_there_for_a_moment(scene: SlurmScene) -> None:
    """A reason that goes away, as while a partition is changed, has ended nothing; the time counts anew."""
    scene.waits(4, "BadConstraints")
    scene.tick(SURE_SECONDS - 5.0)
    scene.provider.wait_for("Resources")
    scene.tick()
    scene.provider.wait_for("BadConstraints")
    scene.tick(SURE_SECONDS)
    assert scene.errors == []
    scene.tick(SURE_SECONDS)
    assert scene.errors


def test_reason_that_was_said_once(scene: SlurmScene) -> None:
    """While squeue does not answer, what it said before is no older for that."""
    scene.need(4)
    scene.tick()
    scene.provider.wait_for("BadConstraints")
    scene.provider.silent = True
    for _ in range(3):
        scene.tick(SURE_SECONDS)
    assert scene.errors == []
    scene.provider.silent = False
    scene.tick()
    scene.tick()
    assert scene.errors


def test_other_reason_of_the_same_row(scene: SlurmScene) -> None:
    """Of what a row of the table has in common, the time counts together."""
    scene.waits(4, "InvalidAccount")
    scene.tick(SURE_SECONDS - 5.0)
    scene.provider.wait_for("AccountNotAllowed")
    scene.tick(5.0)
    assert scene.errors


def test_run_whose_blocks_run(scene: SlurmScene) -> None:
    """Where blocks run, a further one that never starts ends nothing; it does when they have ended."""
    scene.waits(8, "QOSMaxWallDurationPerJobLimit")
    scene.provider.become(JobState.RUNNING, "100")
    scene.tick(10 * SURE_SECONDS)
    assert scene.errors == []
    scene.pilots.heard_from("workers")
    scene.provider.become(JobState.COMPLETED, "100")
    scene.need(1)
    scene.tick()
    assert len(scene.errors) == 1


def test_block_that_may_start(scene: SlurmScene) -> None:
    """Where another block waits for what passes, the run waits with it; one at which Slurm has not looked,
    or that squeue does not show yet, is as good as the others.
    """
    scene.waits(12, "PartitionNodeLimit")
    scene.provider.wait_for("Priority", "101")
    scene.tick(10 * SURE_SECONDS)
    assert scene.errors == []
    scene.provider.wait_for("PD", "101")
    scene.provider.wait_for(None, "102")
    scene.tick()
    assert scene.errors


def test_nothing_to_do(scene: SlurmScene) -> None:
    """Blocks that never start and that no job needs are no reason to end a run."""
    scene.waits(4, "PartitionTimeLimit")
    scene.need(0)
    scene.tick(SURE_SECONDS)
    assert scene.errors == []


@pytest.mark.parametrize(
    ("label", "reason", "ends"),
    [
        (None, None, False),
        ("threads", None, False),
        ("other", None, False),
        ("other", "Priority", False),
        ("other", "AccountNotAllowed", True),
    ],
)
def test_what_else_goes_on(label: str | None, reason: str | None, ends: bool) -> None:
    """Jobs on the submit host, on threads, or of blocks that may start go on to their end before the run
    ends; where all blocks never start, it ends.
    """
    providers = [Slurm(), Slurm()]
    executors = [Workers(provider) for provider in providers]
    executors[1].label = "other"
    demands = {"workers": Demand(4), label: Demand(4)}
    errors: list[Exception] = []
    now = 1000.0
    pilots = Pilots(
        executors, lambda label: demands.get(label, Demand()), lambda label: 120.0, errors.append, lambda: now
    )
    if label == "threads":
        pilots._without_blocks.append(label)
    for _ in range(3):
        for provider, why in zip(providers, ("PartitionTimeLimit", reason), strict=True):
            provider.wait_for(why)
        for executor in executors:
            executor.poll_facade()
            pilots.tick(executor.label)
        now += SURE_SECONDS
    assert bool(errors) is ends


def test_normal_reason_is_said_late_and_rarely(scene: SlurmScene, caplog: pytest.LogCaptureFixture) -> None:
    """A block that waits for a moment is nothing to tell; later it is, once, and then ever more rarely."""
    caplog.set_level(logging.INFO)
    scene.waits(8, "Priority")
    assert said(caplog) == []
    times = []
    for _ in range(6 * 360):
        before = len(said(caplog))
        scene.tick(10.0)
        if len(said(caplog)) > before:
            times.append(scene.now)
    assert said(caplog)[0] == "Blocks of workers: 2 wait (Priority): jobs of a higher priority come first."
    assert times[0] - 1000.0 == pytest.approx(QUIET_SECONDS, abs=12.0)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    assert {record.levelno for record in caplog.records if "wait (" in record.getMessage()} == {logging.INFO}


def test_reasons_that_alternate(scene: SlurmScene, caplog: pytest.LogCaptureFixture) -> None:
    """Slurm changes between Priority and Resources: each is said once, and not at each change."""
    caplog.set_level(logging.INFO)
    scene.waits(4, "Priority")
    for number in range(100):
        scene.provider.wait_for(("Priority", "Resources")[number % 2])
        scene.tick(2.0)
    assert len(said(caplog)) == 2


def test_reason_that_needs_somebody(scene: SlurmScene, caplog: pytest.LogCaptureFixture) -> None:
    """It is said at once, as a warning, with what to type; the run waits for as long as it takes."""
    scene.waits(4, "JobHeldUser")
    (line,) = said(caplog)
    assert line == (
        "Blocks of workers: 1 waits (JobHeldUser): you hold it. Release it with: scontrol release 100."
    )
    scene.tick(1e6)
    assert scene.errors == []


def test_block_that_is_suspended_or_held(scene: SlurmScene) -> None:
    """A state that is no pending one, and in which a block has no nodes, has its reason too."""
    scene.need(1)
    scene.tick()
    scene.provider.wait_for("JobHeldAdmin", state=JobState.HELD)
    scene.tick()
    assert "an administrator holds it" in scene.pilots.waiting.lines()[0]


def test_lines_for_the_display(scene: SlurmScene) -> None:
    """The display has what holds now, and nothing when the blocks run."""
    scene.waits(8, "PartitionDown")
    scene.provider.wait_for("Resources", "101")
    scene.tick(QUIET_SECONDS)
    assert [line.partition("): ")[0] for line in scene.pilots.waiting.lines()] == [
        "Blocks of workers: 1 waits (PartitionDown",
        "Blocks of workers: 1 waits (Resources",
    ]
    scene.provider.become(JobState.RUNNING)
    scene.tick()
    assert scene.pilots.waiting.lines() == []


def test_batch_system_without_reasons(caplog: pytest.LogCaptureFixture) -> None:
    """What another batch system's status says is no reason of Slurm's."""
    scene = Scene()
    scene.need(1)
    scene.tick()
    scene.provider.resources["100"]["status"] = JobStatus(JobState.PENDING, message="InvalidAccount")
    scene.tick(SURE_SECONDS)
    scene.tick(SURE_SECONDS)
    assert (scene.errors, scene.pilots.waiting.lines(), said(caplog)) == ([], [], [])


def test_refusal_is_shown_and_said_again(caplog: pytest.LogCaptureFixture) -> None:
    """That the batch system takes no block is in the display while it lasts, and in the log every hour."""
    scene = Scene()
    scene.need(1)
    scene.provider.down = SchedulerError("sbatch: full", change="Change qos")
    scene.tick()
    scene.tick()
    assert scene.pilots.waiting.lines() == ["No block for workers: sbatch: full. Change qos."]
    for _ in range(100):
        scene.tick(SAY_AGAIN_SECONDS / 50)
    assert len(said(caplog, "No block for workers: sbatch: full. Change qos.")) in (2, 3)
    scene.provider.down = None
    scene.tick(100.0)
    scene.tick()
    assert scene.pilots.waiting.lines() == []


def test_final_refusal_says_what_helps() -> None:
    """The end of the run has Slurm's words and the setting."""
    scene = Scene()
    scene.need(1)
    scene.provider.down = SchedulerError("sbatch: Invalid qos", final=True, change="Change qos or account")
    scene.tick()
    assert str(scene.errors[0]).endswith("sbatch: Invalid qos. Change qos or account.")


def test_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines stand below the table of a terminal."""
    plan, _ = make_plan(tmp_path / "run", [plan_line("a")])
    display = ProgressDisplay("u_me_x")
    out = io.StringIO()
    display._console = Console(file=out, force_terminal=True, width=200)
    with display:
        display._shown = 0.0
        display.update(RunState(plan), ["Blocks of x: 1 waits ([PartitionDown]): so."])
    assert "Blocks of x: 1 waits ([PartitionDown]): so." in out.getvalue()
