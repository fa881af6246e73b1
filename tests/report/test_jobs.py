# SPDX-License-Identifier: BSD-3-Clause
"""The jobs of a run one by one, and the run's site, in the reports that BPS gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest

from lsst.ctrl.bps import WmsJobReport, WmsRunReport, WmsStates
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.report.view import RunView, run_report
from support.plans import make_plan, plan_line


def make_view(tmp_path: Path, count: int = 2) -> RunView:
    """Make a run of which nothing has begun: some jobs, a node between them that runs nothing, one job."""
    lines = [plan_line(f"isr_{n}", label="isr") for n in range(count)]
    lines += [plan_line("wait", range(count), kind="noop"), plan_line("coadd", [count], label="coadd")]
    _, paths = make_plan(tmp_path / "run", lines, attributes={"bps_runsite": "here"})
    return RunView(paths)


def test_jobs_of_one_run(tmp_path: Path) -> None:
    """The report of a run that was asked for has each job that runs a command, with its label and state."""
    jobs = run_report(make_view(tmp_path), usage=True).jobs
    assert isinstance(jobs, Sequence)
    ready, waits = WmsStates.READY, WmsStates.UNREADY
    assert list(jobs) == [
        WmsJobReport("u_me_x.0", "isr_0", "isr", ready),
        WmsJobReport("u_me_x.1", "isr_1", "isr", ready),
        WmsJobReport("u_me_x.3", "coadd", "coadd", waits),
    ]
    assert len(jobs) == 3
    assert jobs[-1].name == "coadd"
    assert [job.name for job in jobs[1:]] == ["isr_1", "coadd"]
    assert jobs[0] in jobs
    with pytest.raises(IndexError):
        jobs[3]


def test_lists_of_runs_have_no_jobs(tmp_path: Path) -> None:
    """A list of runs keeps none of their plans open."""
    assert run_report(make_view(tmp_path)).jobs is None


def test_jobs_are_read_when_asked_for(tmp_path: Path) -> None:
    """A report reads no line of a job, however many there are; and one job is one line."""
    view = make_view(tmp_path, 100)
    with mock.patch.object(Plan, "job", autospec=True, side_effect=Plan.job) as read:
        jobs = run_report(view, exit_codes=True, usage=True).jobs
        assert jobs is not None
        assert len(jobs) == 101
        assert read.call_count == 0
        assert jobs[7].name == "isr_7"
        assert read.call_count == 1


def test_site(tmp_path: Path) -> None:
    """Where BPS's reports have the site of a run, ours do."""
    report = run_report(make_view(tmp_path))
    has_site = "site" in {field.name for field in dataclasses.fields(WmsRunReport)}
    assert getattr(report, "site", None) == ("here" if has_site else None)
