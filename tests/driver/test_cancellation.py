# SPDX-License-Identifier: BSD-3-Clause
"""Cancelling a run whose driver is gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps.parsl.driver.cancellation import cancel_run
from lsst.ctrl.bps.parsl.errors import RunStateError
from lsst.ctrl.bps.parsl.node.journal import encode_line
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.journal import Journal
from lsst.ctrl.bps.parsl.run.replay import replay
from support.plans import make_plan, plan_line

BEGUN = [{"e": "session", "t": 1.0, "n": 1, "host": "h", "pid": 1}, {"e": "pending", "t": 2.0, "j": [0]}]
OK = {"e": "ok", "t": 3.0, "j": [[0, 1.0, 2.0, 3, 4.0]]}
FAIL = {"e": "fail", "t": 3.0, "j": 0, "exit": 1, "why": "exit code 1", "retry": False, "charged": True}
END = {"e": "end", "j": 0, "a": 1, "t": 2.5, "exit": 0, "start": 1.0, "end": 2.5, "memory": 1, "cpu": 1.0}


def write(paths: SubmitPaths, *events: dict[str, Any]) -> None:
    journal = Journal(paths.driver_journal, "r")
    for event in events:
        journal.append(dict(event))
    journal.close()


def test_run_with_jobs_left_is_marked_as_cancelled(tmp_path: Path) -> None:
    """What has not ended is deleted."""
    plan, paths = make_plan(tmp_path, [plan_line("a"), plan_line("b", [0])])
    write(paths, *BEGUN, OK)
    assert "marked as cancelled" in cancel_run("r", paths)
    state = replay(plan, paths)
    assert state.finished == "DELETED"
    assert [state.state(job) for job in (0, 1)] == [JobState.SUCCEEDED, JobState.DELETED]


@pytest.mark.parametrize(
    ("event", "outcome", "job"),
    [
        (OK, "SUCCEEDED", JobState.SUCCEEDED),
        (END, "SUCCEEDED", JobState.SUCCEEDED),
        (FAIL, "FAILED", JobState.FAILED),
    ],
)
def test_run_whose_jobs_have_all_ended(
    tmp_path: Path, event: dict[str, Any], outcome: str, job: JobState
) -> None:
    """A driver may die between the last result and its own end: nothing is left to be cancelled, and the
    run is what its jobs came to, also where only a node knows that.
    """
    plan, paths = make_plan(tmp_path, [plan_line("a")])
    if event is END:
        write(paths, *BEGUN)
        (paths.journals / "node-h-1.jsonl").write_bytes(encode_line(dict(END)))
    else:
        write(paths, *BEGUN, event)
    for _ in range(2):
        with pytest.raises(RunStateError, match=rf"has ended before \({outcome}\)"):
            cancel_run("r", paths)
    state = replay(plan, paths)
    assert (state.finished, state.state(0)) == (outcome, job)


def test_run_whose_driver_died_while_it_was_being_cancelled(tmp_path: Path) -> None:
    """A second cancel finishes what the first one began."""
    plan, paths = make_plan(tmp_path, [plan_line("a"), plan_line("b", [0])])
    write(paths, *BEGUN, {"e": "cancel", "t": 3.0})
    assert "marked as cancelled" in cancel_run("r", paths)
    assert replay(plan, paths).finished == "DELETED"


def test_cancel_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said to be cancelled is so after a crash of the host, too."""
    _, paths = make_plan(tmp_path, [plan_line("a")])
    write(paths, *BEGUN)
    sizes = []
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        if os.readlink(f"/proc/self/fd/{fd}") == str(paths.driver_journal):
            sizes.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fsync", note)
    cancel_run("r", paths)
    assert sizes[-1:] == [paths.driver_journal.stat().st_size]
