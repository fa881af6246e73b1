# SPDX-License-Identifier: BSD-3-Clause
"""What jobs used is gathered from what nodes recorded, and turned into requests."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lsst.ctrl.bps import BpsConfig
from lsst.ctrl.bps.parsl.node.records import encode_line
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.report.distribution import Distribution
from lsst.ctrl.bps.parsl.report.suggestions import far_off, section_finder, snippet
from lsst.ctrl.bps.parsl.report.summary import print_requests
from lsst.ctrl.bps.parsl.report.usage import LabelUsage, usage_lines
from lsst.ctrl.bps.parsl.report.view import RunView, run_report
from lsst.ctrl.bps.parsl.run.journal import Journal
from lsst.ctrl.bps.parsl.run.replay import replay
from support.plans import PlanLine, make_plan, plan_line

GROWS: dict[str, Any] = {"number_of_retries": 5, "memory_multiplier": 2}


class Measured:
    """A run whose attempts end as a test says."""

    def __init__(self, submit_path: Path, lines: Sequence[PlanLine]) -> None:
        self.plan, self.paths = make_plan(submit_path, lines)
        self._driver = Journal(self.paths.driver_journal, "u_me_x")
        self._record({"e": "session", "n": 1, "host": "h", "pid": 1})
        self._node: list[bytes] = []
        self._attempts: dict[int, int] = {}

    def _record(self, event: dict[str, Any]) -> None:
        self._driver.append({"e": event.pop("e"), "t": 1.0, **event})

    def attempt(
        self, job: int, memory: int, minutes: float = 1.0, *, exit: int = 0, cpu: float = 30.0, **more: Any
    ) -> None:
        """Have an attempt end."""
        number = self._attempts[job] = self._attempts.get(job, 0) + 1
        self._record({"e": "pending", "j": [job]})
        end = {"exit": exit, "start": 100.0, "end": 100.0 + 60 * minutes, "memory": memory, "cpu": cpu}
        self._node.append(encode_line({"e": "start", "j": job, "a": number, "t": 100.0, "pid": 7}))
        self._node.append(encode_line({"e": "end", "j": job, "a": number, "t": 100.0, **end, **more}))

    def ok(self, job: int, memory: int, minutes: float = 1.0, **more: Any) -> None:
        """Have a job succeed."""
        self.attempt(job, memory, minutes, **more)
        self._record({"e": "ok", "j": [[job, 100.0, 160.0, memory, 1.0]]})

    def fail(
        self, job: int, memory: int, *, exit: int = 1, retry: bool = False, grown: int = 0, **more: Any
    ) -> None:
        """Have an attempt fail; ``grown`` is what the next one asks for."""
        self.attempt(job, memory, exit=exit, **more)
        event = {"exit": exit, "why": "", "retry": retry, "charged": True, "lost": "lost" in more}
        self._record({"e": "fail", "j": job, **event, **({"memory": grown} if grown else {})})

    def view(self) -> RunView:
        """Return what is seen of the run."""
        (self.paths.journals / "node-h-0.jsonl").write_bytes(
            encode_line({"format": 1, "kind": "node", "host": "h", "pid": 1}) + b"".join(self._node)
        )
        return RunView(SubmitPaths(self.paths.submit_path))

    def usage(self) -> dict[str, LabelUsage]:
        """Return what is known of each label."""
        return {usage.label: usage for usage in self.view().usage}


def jobs(count: int, label: str = "isr", **fields: Any) -> list[PlanLine]:
    """Return jobs of a label."""
    return [plan_line(f"{label}_{n}", label=label, **fields) for n in range(count)]


def suggested(run: Measured, config: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Return the suggestions of a run, as BPS loads them."""
    text = snippet("u_me_x", run.view().usage, section_finder(BpsConfig(config or {})), **options)
    return dict(yaml.safe_load(text) or {})


# Distributions.


@given(
    values=st.lists(st.floats(1.0, 1e6), min_size=1, max_size=200),
    percentile=st.floats(0.0, 100.0, exclude_min=True),
)
def test_percentiles_are_right_to_one_percent(values: list[float], percentile: float) -> None:
    """A percentile is what so many percent of the values do not exceed, or up
    to 1 % more, and never more than the largest value, which is exact.
    """
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    exact = sorted(values)[math.ceil(percentile / 100 * len(values)) - 1]
    found = distribution.percentile(percentile)
    assert exact * (1 - 1e-9) <= found <= exact * 1.0101
    assert found <= distribution.largest == max(values) == distribution.percentile(100)


def test_those_that_need_more_come_last() -> None:
    """A job that ran out of what it had needs more than all others: from its
    percentile on, what is needed is not known.
    """
    distribution = Distribution()
    for value in range(1, 100):
        distribution.add(value)
    distribution.add_short(50)
    assert distribution.reaches(99)
    assert not distribution.reaches(99.5)
    assert distribution.percentile(99) == pytest.approx(99, rel=0.01)
    assert distribution.percentile(100) == 99
    distribution.add_short(500)
    assert distribution.percentile(100) == 500


def test_memory_does_not_grow_with_jobs(tmp_path: Path) -> None:
    """What is kept of 5,000 jobs of different sizes is a few hundred numbers."""
    run = Measured(tmp_path, jobs(5000, request_memory=2048))
    for job in range(5000):
        run.ok(job, 100 + job, 1 + job % 700)
    view = run.view()
    assert view.state
    tracemalloc.start()
    usage = view.usage
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert usage[0].memory.count == 5000
    assert kept < 20 * 5000


def test_each_job_counts_once(tmp_path: Path) -> None:
    """A final job that ran once more after a restart counts as it ran at last."""
    run = Measured(tmp_path, jobs(1, "finalJob", request_memory=2048))
    run.ok(0, 500)
    run.ok(0, 400)
    memory = run.usage()["finalJob"].memory
    assert (memory.count, memory.largest) == (1, 400)


# What counts.


def test_what_succeeded_counts(tmp_path: Path) -> None:
    """Peak, time and CPU time of each attempt that succeeded count, for its
    label, with what it asked for; a job that only orders others has none.
    """
    lines = [
        *jobs(3, request_memory=2000, request_walltime=60, request_cpus=2),
        plan_line("noop", kind="noop"),
    ]
    lines.append(plan_line("final", label="finalJob", final=True, request_memory=32768))
    run = Measured(tmp_path, lines)
    for job, peak in enumerate((500, 1000, 3000)):
        run.ok(job, peak, minutes=job + 1, cpu=90.0)
    run.ok(4, 700)
    usage = run.usage()
    assert list(usage) == ["isr", "finalJob"]
    isr = usage["isr"]
    assert (isr.memory.count, isr.memory.largest, isr.minutes.largest) == (3, 3000, 3)
    assert isr.memory.percentile(50) == pytest.approx(1000, rel=0.01)
    assert (isr.asked_memory.most, isr.asked_minutes.most) == (2000, 60)
    assert (isr.memory_used, isr.over) == (1.5, 1)
    assert isr.cpu / isr.reserved == pytest.approx(270 / (2 * 6 * 60))
    assert usage["finalJob"].memory.largest == 700


def test_what_failed_does_not_count(tmp_path: Path) -> None:
    """An attempt that was lost says nothing, nor one that failed for another
    reason than memory or time; nor one that could not start, nor one that was
    killed when it had little of what it asked for.
    """
    run = Measured(tmp_path, [*jobs(4, request_memory=2000), *jobs(1)])
    run.fail(0, 900, exit=1)
    run.fail(1, 1900, exit=137, retry=True, lost="its worker was ended")
    run.fail(2, 0, exit=127)
    run.fail(3, 900, exit=137)
    run.fail(4, 900, exit=1)
    assert run.usage() == {}
    assert usage_lines(run.view().usage) == []


@pytest.mark.parametrize(("exit", "peak"), [(137, 1500), (1, 2000), (139, 2100)])
def test_out_of_memory(tmp_path: Path, exit: int, peak: int) -> None:
    """A job that failed for good and was killed, or had all that it asked for,
    needs at least what it had.
    """
    run = Measured(tmp_path, jobs(1, request_memory=2000))
    run.fail(0, peak, exit=exit)
    usage = run.usage()["isr"]
    assert (usage.memory.count, usage.memory.short, usage.memory.at_least) == (0, 1, peak)
    (line,) = usage_lines([usage])
    assert line == (f"isr: 1 job ran out of memory and did not succeed since; at least {peak} MB are needed.")


def test_a_later_attempt_tells_more(tmp_path: Path) -> None:
    """Of a job that ran out of memory and succeeded with more, what it used at
    last counts; the table compares with the first request, and that is said.
    """
    run = Measured(tmp_path, jobs(2, request_memory=2000, **GROWS))
    run.fail(0, 2000, exit=137, retry=True, grown=4000)
    run.ok(0, 3000)
    run.fail(1, 2000, exit=137, retry=True, grown=4000)
    run.fail(1, 4000, exit=137, retry=True, grown=8000)
    run.fail(1, 7000, exit=1)
    usage = run.usage()["isr"]
    assert (usage.memory.count, usage.memory.largest, usage.memory.short) == (1, 3000, 0)
    assert (usage.grown, usage.grown_to) == (2, 8000)
    lines = usage_lines([usage])
    assert "150%" in lines[2]
    assert lines[3] == (
        "isr: 2 jobs asked for more memory after running out of it, up to 8000 MB; "
        "the table compares with the first request."
    )


def test_out_of_time(tmp_path: Path) -> None:
    """A job that was ended after its walltime needs at least that; it did not
    run out of memory.
    """
    run = Measured(tmp_path, jobs(1, request_memory=500, request_walltime=2))
    run.fail(0, 600, exit=137, minutes=2.0, overdue=True)
    usage = run.usage()["isr"]
    assert (usage.minutes.short, usage.minutes.at_least, usage.memory.short) == (1, 2.0, 0)
    assert "ran out of time and did not succeed since; at least 2.0 minutes" in usage_lines([usage])[0]


# The report.


def test_table(tmp_path: Path) -> None:
    """There is an aligned line for each label that was measured; clusters that
    ask for different times show from and to.
    """
    lines = [*jobs(2, request_memory=2048, request_walltime=10)]
    lines += [plan_line("isr_2", label="isr", request_memory=2048, request_walltime=20), *jobs(1, "coadd")]
    run = Measured(tmp_path, [*lines, *jobs(1, "notYet", request_memory=1024)])
    for job in range(3):
        run.ok(job, 512, minutes=0.25, cpu=12)
    run.ok(3, 12000, minutes=600, cpu=3600)
    assert "\n".join(usage_lines(run.view().usage)) == "\n".join(
        [
            "Peak memory (MB) and wall time (min) of the jobs that succeeded, and what they asked for:",
            "       jobs  MB asked  median    99%   most  used  min asked  median    99%   most  CPU",
            "isr       3      2048     512    512    512   25%      10-20    0.25   0.25   0.25  80%",
            "coadd     1         -   12000  12000  12000     -          -   600.0  600.0  600.0  10%",
        ]
    )


def test_report_of_one_run_has_it(tmp_path: Path) -> None:
    """The report of a run that was asked for has the table; lists of runs do
    not gather it.
    """
    run = Measured(tmp_path, jobs(1, request_memory=2048))
    run.ok(0, 512)
    assert "Peak memory" in str(run_report(run.view(), usage=True).specific_info)
    assert "Peak memory" not in str(run_report(run.view()).specific_info)


def test_damaged_journal_of_a_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a journal of a node of a run that has ended is damaged, the report
    says so beside all that is known, and the end of a run is what it was.
    """
    run = Measured(tmp_path, jobs(1, request_memory=2048))
    run.ok(0, 512)
    run._record({"e": "finish", "state": "SUCCEEDED"})
    view = run.view()
    path = run.paths.journals / "node-h-0.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"memory":512', b'"memory":612'))
    report = run_report(view, usage=True)
    assert "What the jobs used is not known" in str(report.specific_info)
    assert report.total_number_jobs == 1
    print_requests(view, view.state, BpsConfig({}))
    assert capsys.readouterr().err == ""


# Suggestions.


def test_requests_have_a_margin(tmp_path: Path) -> None:
    """Requests are a high percentile and a quarter more, in steps of 256 MB and
    5 minutes; the percentile and the margin can be chosen.
    """
    run = Measured(tmp_path, jobs(100, request_memory=4096, **GROWS))
    for job in range(100):
        run.ok(job, 1000 + job, minutes=40 + job / 10)
    assert suggested(run) == {"pipetask": {"isr": {"requestMemory": 1536, "requestWalltime": 65}}}
    less = suggested(run, percentile=50, margin=0)["pipetask"]["isr"]
    assert less == {"requestMemory": 1280, "requestWalltime": 55}, "no job's time is cut"


def test_small_requests_have_a_floor(tmp_path: Path) -> None:
    """Nothing below 512 MB and 10 minutes is suggested: a start of the software
    on a busy file system takes longer than the jobs that were measured.
    """
    run = Measured(tmp_path, jobs(3, request_memory=2048))
    for job in range(3):
        run.ok(job, 5, minutes=0.01)
    assert suggested(run) == {"pipetask": {"isr": {"requestMemory": 512, "requestWalltime": 10}}}


@pytest.mark.parametrize(("fields", "expected"), [(GROWS, 1280), ({}, 22016)])
def test_few_large_jobs_are_left_to_retries(tmp_path: Path, fields: dict[str, Any], expected: int) -> None:
    """One job of 200 that needs far more memory than the others does not make
    all ask for it, if it is run again with more; else it does.
    """
    run = Measured(tmp_path, jobs(200, request_memory=4096, **fields))
    for job in range(200):
        run.ok(job, 20_000 if job == 7 else 1000)
    assert suggested(run)["pipetask"]["isr"]["requestMemory"] == expected


def test_jobs_that_ran_out_of_memory_count(tmp_path: Path) -> None:
    """Where more than a few jobs ran out of memory for good, twice what they
    had is suggested, but no more than BPS allows.
    """
    lines = jobs(3, request_memory=1000) + jobs(3, "coadd", request_memory=1000, request_memory_max=1500)
    run = Measured(tmp_path, lines)
    for job in range(6):
        run.fail(job, 1000, exit=137)
    found = suggested(run)["pipetask"]
    assert found == {"isr": {"requestMemory": 2048}, "coadd": {"requestMemory": 1500}}


def test_nothing_is_made_up(tmp_path: Path) -> None:
    """Where all that is known is that the one job of a label ran out of time,
    there is a suggestion for its time, and none for its memory; and the other
    way round.
    """
    lines = jobs(1, request_memory=1000, request_walltime=40)
    run = Measured(tmp_path, lines + jobs(1, "coadd", request_memory=1000, request_walltime=40))
    run.fail(0, 600, exit=143, minutes=40.0, overdue=True)
    run.fail(1, 1000, exit=137, minutes=30.0)
    assert suggested(run) == {"pipetask": {"isr": {"requestWalltime": 80}, "coadd": {"requestMemory": 2048}}}
    assert [usage.label for usage in far_off(run.view().usage)] == ["isr", "coadd"]


def test_too_few(tmp_path: Path) -> None:
    """Where one or two of many jobs were measured, a comment says so; where a
    label has only one job, its measurement is all there is to know.
    """
    run = Measured(tmp_path, [*jobs(10, request_memory=2048), *jobs(1, "finalJob", request_memory=32768)])
    text = snippet("r", run.view().usage, section_finder(BpsConfig({})))
    assert text == "# Too little is measured of r to suggest requests.\n"
    run.ok(0, 700)
    run.ok(10, 700)
    text = snippet("r", run.view().usage, section_finder(BpsConfig({})))
    assert "# isr: only 1 measured: up to 700 MB and 1.0 minutes. Too few to suggest anything." in text
    assert yaml.safe_load(text) == {"finalJob": {"requestMemory": 1024, "requestWalltime": 10}}


def test_sections(tmp_path: Path) -> None:
    """Each label's requests are in the section in which BPS looks for them,
    whatever the label is; what was asked for is beside them.
    """
    top = ("finalJob", "customJob", "buildQuantumGraph", "preparePayloadWorkflow")
    labels = ("isr", "perVisit", *top, "no", "a: b #c", "12")
    run = Measured(tmp_path, [line for label in labels for line in jobs(1, label, request_memory=2048)])
    for job in range(len(labels)):
        run.ok(job, 1)
    config = {"cluster": {"perVisit": {"pipetasks": "isr", "dimensions": "visit"}}}
    requests = {"requestMemory": 512, "requestWalltime": 10}
    assert suggested(run, config) == {
        "pipetask": dict.fromkeys(("isr", "no", "a: b #c", "12"), requests),
        "cluster": {"perVisit": requests},
        **dict.fromkeys(top, requests),
    }
    text = snippet("r", run.view().usage, section_finder(BpsConfig(config)))
    assert "    # 1 measured: up to 1 MB and 1.0 minutes\n" in text
    assert "    requestMemory: 512  # MB; asked for 2048\n" in text
    assert "  # minutes; did not ask; a job that runs longer is ended\n" in text


@pytest.mark.parametrize("options", [{"percentile": 0}, {"percentile": 101}, {"margin": -0.1}])
def test_options_that_mean_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    """There is no percentile beyond 0 and 100, and no negative margin."""
    run = Measured(tmp_path, jobs(1))
    with pytest.raises(ValueError, match="it must"):
        suggested(run, **options)


# The end of a run.


@pytest.mark.parametrize(
    ("asked", "peak", "far"),
    [
        ({"request_memory": 2048}, 5, False),  # BPS's default
        ({"request_memory": 4096}, 300, True),
        ({"request_memory": 4096}, 900, False),
        ({"request_memory": 30000}, 5000, True),
        ({"request_memory": 2048}, 2000, False),
        ({"request_memory": 2048}, 2100, True),
        ({}, 5000, False),
        ({"request_memory": 2048, "request_walltime": 60}, 1500, False),
        ({"request_memory": 2048, "request_walltime": 120}, 1500, True),
    ],
)
def test_far_off(tmp_path: Path, asked: dict[str, Any], peak: int, far: bool) -> None:
    """A label is far off where it asked for more than four times what it needs,
    by a GB or an hour at least, or used more memory than it asked for.
    """
    run = Measured(tmp_path, jobs(4, **asked, **GROWS))
    for job in range(4):
        run.ok(job, peak)
    assert bool(far_off(run.view().usage)) is far


def test_one_in_many_is_not_far_off(tmp_path: Path) -> None:
    """One job of 200 that used more than it asked for, and had it after a
    retry, is what retries are for; one that never got it is worth a word.
    """
    run = Measured(tmp_path, jobs(200, request_memory=2048, **GROWS))
    for job in range(199):
        run.ok(job, 3000 if job == 5 else 1500)
    assert far_off(run.view().usage) == []
    run.fail(199, 4096, exit=137)
    assert [usage.label for usage in far_off(run.view().usage)] == ["isr"]


def test_end_of_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the end of a run the labels that were far off are named, with what is
    to be pasted for them alone; nothing is said before the end, nor of jobs on
    the submit host.
    """
    lines = [*jobs(3, request_memory=8192), *jobs(3, "coadd", request_memory=2048)]
    final = plan_line("final", label="finalJob", final=True, request_memory=32768)
    final[1]["on_submit_host"] = True
    run = Measured(tmp_path, [*lines, final])
    for job in range(7):
        run.ok(job, 700)
    view = run.view()
    print_requests(view, view.state, BpsConfig({}))
    assert capsys.readouterr().err == ""
    run._record({"e": "finish", "state": "SUCCEEDED"})
    print_requests(view, replay(run.plan, run.paths), BpsConfig({}))
    said, _, pasted = capsys.readouterr().err.partition("\n")
    assert said == "What jobs asked for is far from what they used (isr). Better for the next run:"
    assert yaml.safe_load(pasted) == {"pipetask": {"isr": {"requestMemory": 1024, "requestWalltime": 10}}}
