# SPDX-License-Identifier: BSD-3-Clause
"""Many jobs."""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from typing import Any

import psutil
import pytest

from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.run.journal import Journal, read_journal

from .support import HERE, Finished, Sandbox

pytestmark = pytest.mark.slow


def scale(box: Sandbox, shape: str, count: int, *options: str) -> dict[str, float]:
    """Run `scale_run` in a process of its own."""
    done = box.run(sys.executable, HERE / "scale_run.py", shape, str(count), box.path, *options, timeout=1500)
    result: dict[str, float] = json.loads(done.succeeded().stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("shape", ["chain", "layers"])
def test_many_jobs(box: Sandbox, shape: str) -> None:
    """A chain of 20,000 jobs, and layers of 20,000 of which each has ten
    parents, prepare and run: every job once, after its parents, and the
    driver's memory at the end is within 1.5 times what it was when the run
    had begun.
    """
    count = 20_000
    result = scale(box, shape, count, "--run")
    paths = SubmitPaths(box.submit_path)
    ended: Counter[int] = Counter()
    for path in paths.node_journals():
        ended.update(event["j"] for event in read_journal(path) if event["e"] == "end" and event["exit"] == 0)
    assert len(ended) == count
    assert set(ended.values()) == {1}
    last: dict[str, Any] = list(read_journal(paths.driver_journal))[-1]
    assert (last["e"], last["state"]) == ("finish", "SUCCEEDED")
    assert result["end_mb"] <= 1.5 * result["begin_mb"], result
    assert result["run_seconds"] < 1200, result


def test_prepare_many(box: Sandbox) -> None:
    """Preparing 100,000 jobs takes under 15 s (a minute on a slow machine) and 800 MB."""
    result = scale(box, "layers", 100_000)
    assert result["prepare_seconds"] < 60, result
    assert result["prepare_peak_mb"] < 800, result


def test_report_of_many(box: Sandbox) -> None:
    """``bps report`` and ``bps status`` of a run of 100,000 jobs that have
    finished take less than 3 s of processor time.
    """
    count = 100_000
    scale(box, "chain", count)
    paths = SubmitPaths(box.submit_path)
    journal = Journal(paths.driver_journal, "run")
    journal.append({"e": "session", "t": 1.0, "n": 1, "host": "here", "pid": 1})
    node = Journal(paths.journals / "node-here-1.jsonl", "run")
    for first in range(0, count, 10):
        jobs = list(range(first, first + 10))
        journal.append({"e": "pending", "t": 2.0, "j": jobs})
        for job in jobs:
            node.append({"e": "start", "j": job, "a": 1, "t": 2.5, "pid": 77})
            measured = {"exit": 0, "signal": 0, "start": 2.5, "end": 3.5, "memory": 100, "cpu": 1.0}
            node.append({"e": "end", "j": job, "a": 1, "t": 3.5, **measured})
        journal.append({"e": "ok", "t": 4.0, "j": [[job, 2.5, 3.5, 100, 1.0] for job in jobs]})
    journal.append({"e": "finish", "t": 5.0, "state": "SUCCEEDED"})
    journal.close()
    node.close()

    def timed(*arguments: str) -> tuple[Finished, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = box.run("bps", *arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def start_up() -> float:
        return timed("--help")[1]

    ordinary = min(start_up(), start_up())
    assert psutil.cpu_count()
    for arguments in (("report", "--id", "run"), ("status", "--id", "run")):
        (done, seconds), (_, again) = timed(*arguments), timed(*arguments)
        seconds = min(seconds, again)
        done.succeeded()
        assert "SUCCEEDED" in done.text
        # Machines differ: what is compared is what BPS takes for itself.
        assert seconds < 3.0 * ordinary, f"{arguments}: {seconds:.1f} s, start-up {ordinary:.1f} s"
