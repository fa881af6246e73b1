# SPDX-License-Identifier: BSD-3-Clause
"""The driver takes up the jobs that one of the run's has added."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps.parsl.driver import loop
from lsst.ctrl.bps.parsl.driver.loop import Driver
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.run.cancel_request import ask_to_cancel
from lsst.ctrl.bps.parsl.run.holder import Holder
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.journal import read_journal
from support.fake import LOST, SUCCEEDS, FakeBackend, Outcome, Run, Script, after, drive, fails
from support.plans import PlanLine, make_payload, make_plan, plan_line

from .test_loop import Tape, succeeded_on_disk

S = JobState
BUILD, PREPARE, INIT = range(3)
FINAL = 8


def control(**fields: Any) -> list[PlanLine]:
    """Describe the jobs that come before the others."""
    fields = {"number_of_retries": 3, **fields}
    return [
        plan_line("build", label="build", **fields),
        plan_line("prepare", [BUILD], label="prepare", lazy=True, **fields),
    ]


PAYLOAD = [
    plan_line("init", label="init"),
    *(plan_line(f"q{number}", [0], label="q") for number in range(4)),
    plan_line("all", [1, 2, 3, 4], label="all"),
    plan_line("final", label="finalJob", final=True),
]


def attaching(paths: SubmitPaths, then: Outcome = SUCCEEDS, times: list[int] | None = None) -> Outcome:
    """Put the second part into place, as an attempt of the lazy job does, before it ends."""

    def result(attempt: int) -> dict[str, Any]:
        if not paths.payload.exists():
            make_payload(paths, PAYLOAD)
        if times is not None:
            times.append(attempt)
        return then(attempt)

    return Outcome(f"attaching({then})", result)


def start(tmp_path: Path, **fields: Any) -> tuple[Plan, SubmitPaths]:
    """Prepare a run."""
    return make_plan(tmp_path, control(**fields))


def again(paths: SubmitPaths, script: Script, **keywords: Any) -> Run:
    """Drive a run as a new process does."""
    return drive(Plan(paths.plan), paths, script, record_nodes=True, **keywords)


def test_jobs_are_taken_up(tmp_path: Path) -> None:
    """In one session, without a pause: all jobs run once, the final one last, and the journal knows when."""
    plan, paths = start(tmp_path)
    run = drive(plan, paths, {PREPARE: attaching(paths)})
    assert run.states == [S.SUCCEEDED] * 9
    assert run.state.finished == "SUCCEEDED"
    assert [job for job, _ in run.backend.submitted][:3] == [BUILD, PREPARE, INIT]
    assert run.backend.submitted[-1] == (FINAL, 1)
    kinds = [event["e"] for event in read_journal(paths.driver_journal)]
    assert kinds[:7] == ["session", "pending", "ok", "pending", "ok", "payload", "pending"]


def test_lazy_job_that_adds_nothing_has_failed(tmp_path: Path) -> None:
    """Its exit code 0 is no success; the reason names the setting, and a restart runs it again."""
    plan, paths = start(tmp_path)
    run = drive(plan, paths, retries=0, record_nodes=True)
    assert run.states == [S.SUCCEEDED, S.FAILED]
    assert run.state.finished == "FAILED"
    assert run.state.exit_codes == {PREPARE: 1}
    assert "has added no jobs to the run: prepare.jobCommand has to run" in run.state.reasons[PREPARE]
    second = again(paths, {PREPARE: attaching(paths)})
    assert second.state.finished == "SUCCEEDED"
    assert second.times(BUILD) == 0
    assert second.times(PREPARE) == 1


@pytest.mark.parametrize("failure", [fails(1), LOST], ids=str)
def test_attempts_after_the_one_that_added_them(tmp_path: Path, failure: Outcome) -> None:
    """A lazy job that fails twice, having added its jobs, is tried again; then its jobs count, once."""
    plan, paths = start(tmp_path)
    tried: list[int] = []
    run = drive(plan, paths, {PREPARE: attaching(paths, after(2, failure, SUCCEEDS), tried)})
    assert run.state.finished == "SUCCEEDED"
    assert tried == [1, 2, 3]
    assert all(run.times(job) == 1 for job in range(INIT, FINAL + 1))


def test_final_job_runs_after_failures_of_the_payload(tmp_path: Path) -> None:
    """As in any run; after the restart, it runs once more."""
    plan, paths = start(tmp_path)
    script = {PREPARE: attaching(paths), INIT + 1: fails(1)}
    run = drive(plan, paths, script, retries=0, record_nodes=True)
    assert run.state.finished == "FAILED"
    assert run.times(FINAL) == 1
    second = again(paths, {})
    assert second.state.finished == "SUCCEEDED"
    assert sorted(job for job, _ in second.backend.submitted) == [INIT + 1, INIT + 5, FINAL]


@pytest.mark.parametrize("all_ended", [False, True])
def test_killed_at_any_event_a_restart_ends_the_same(tmp_path: Path, all_ended: bool) -> None:
    """After any number of lines of the journal a new driver ends the run; what had succeeded stays."""
    plan, paths = start(tmp_path)
    script = {PREPARE: attaching(paths)}
    drive(plan, paths, script, record_nodes=True)
    tape = Tape(paths)
    for count in range(len(tape.driver) + 1):
        tape.cut(count, all_ended=all_ended)
        before = succeeded_on_disk(plan, paths)
        # It is in its place from some moment of the lazy job's on, and stays there.
        is_attached = paths.payload.exists()
        run = again(paths, script, seed=count)
        assert is_attached
        assert run.state.finished == "SUCCEEDED"
        assert run.states == [S.SUCCEEDED] * 9
        repeated = {job for job, _ in run.backend.submitted} & before
        assert repeated <= {FINAL}
        # What the last driver wrote is all that one more needs.
        found = drive(Plan(paths.plan), paths)
        assert found.backend.submitted == []


def test_killed_before_it_was_added(tmp_path: Path) -> None:
    """A node saw the lazy job succeed, no driver heard of it, and nothing was added: it runs again."""
    plan, paths = start(tmp_path)
    drive(plan, paths, {PREPARE: attaching(paths)}, record_nodes=True)
    tape = Tape(paths)
    tape.cut(5, all_ended=True)  # Header, session, two lines of the first job, and that this one began.
    paths.payload.unlink()
    run = again(paths, {PREPARE: attaching(paths)})
    assert run.state.finished == "SUCCEEDED"
    assert (run.times(BUILD), run.times(PREPARE), run.times(INIT)) == (0, 1, 1)


def _at(moment: int, action: Callable[[Driver], None]) -> Callable[[FakeBackend, Driver], None]:
    """Do something once a job has begun."""
    done: list[int] = []

    def step(backend: FakeBackend, driver: Driver) -> None:
        if (moment, 1) in backend.submitted and not done:
            done.append(moment)
            action(driver)

    return step


def _cancel(paths: SubmitPaths, driver: Driver) -> None:
    ask_to_cancel(paths.cancel_request, Holder.this_process())


@pytest.mark.parametrize("moment", [BUILD, PREPARE, INIT])
def test_cancelled_and_stopped_in_each_phase(
    tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel lets the final job run where it is known; a stop lets nothing; a restart does what is left."""
    monkeypatch.setattr(loop, "TICK_SECONDS", 0.0)
    for name in ("cancel", "stop"):
        plan, paths = start(tmp_path / name)
        actions: dict[str, Callable[[Driver], None]] = {
            "cancel": partial(_cancel, paths),
            "stop": lambda driver: driver.stop("SIGINT"),
        }
        script = {PREPARE: attaching(paths)}
        on_step = _at(moment, actions[name])
        run = drive(plan, paths, script, record_nodes=True, window=1, on_step=on_step)
        assert run.backend.closed
        if name == "stop":
            assert run.state.stopped == "SIGINT"
        else:
            assert run.state.cancelled
        before = succeeded_on_disk(plan, paths)
        if run.state.finished != "SUCCEEDED":
            second = again(paths, script)
            assert second.state.finished == "SUCCEEDED"
            assert {job for job, _ in second.backend.submitted} & before <= {FINAL}
        assert len(run.states) in (2, 9)
