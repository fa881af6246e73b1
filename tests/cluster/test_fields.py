# SPDX-License-Identifier: BSD-3-Clause
"""What BPS says about a job, where blocks and executors have a part in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from end_to_end.support import Step, events_of_kind, job_names, wait_until

from .engines import ENGINES, Bench, Engine

BY_NAME = {engine.name: engine for engine in ENGINES}
ON_BLOCKS = [BY_NAME["slurm"], BY_NAME["slurm-work-queue"]]

_GREEDY = """\
import os, sys
held = bytearray(700 << 20)
for page in range(0, len(held), 4096):
    held[page] = 1
with open("ran_in", "a") as stream:
    print(os.environ.get("SLURM_JOB_NAME", "?"), file=stream)
sys.exit(0 if os.path.exists("enough") else 1)
"""


def greedy(bench: Bench) -> Step:
    """Return a step that has 700 MB, asks for 512, and fails while there is no file ``enough``."""
    script = bench.path / "greedy.py"
    script.write_text(_GREEDY)
    fields = {"request_memory": 512, "memory_multiplier": 3, "number_of_retries": 5}
    return Step("greedy", executable=sys.executable, arguments=f"-IS {script}", fields=fields)


def failures(bench: Bench, name: str) -> list[dict[str, Any]]:
    """Return what the driver wrote down about the failures of a job."""
    job = job_names(bench.submit_path).index(name)
    return [event for event in events_of_kind(bench.submit_path, "fail") if event["j"] == job]


@pytest.mark.parametrize("engine", ON_BLOCKS, ids=str)
def test_priority(engine: Engine, make_bench: Callable[[Engine], Bench]) -> None:
    """Of the jobs that wait for one worker, the one of the highest priority
    runs next, whatever the executor's own sign of it is.
    """
    bench = make_bench(engine)
    names = {"low": "-5", "middle": None, "high": "7", "higher": 30}
    steps = [Step("first"), *(Step(name, ["first"], fields={"priority": p}) for name, p in names.items())]
    bench.prepare(steps, site={"cores_per_node": 1, "mem_per_node": 1})
    bench.drive("restart", "--id", bench.id).finish().succeeded()
    assert bench.steps("begin") == ["first", "higher", "high", "middle", "low"]


@pytest.mark.parametrize("engine", ON_BLOCKS, ids=str)
def test_memory_and_walltime(engine: Engine, make_bench: Callable[[Engine], Bench]) -> None:
    """A job that ran out of memory runs again with more, and fails for good
    once it had the most, with its peak in the reason. One that passes its
    walltime is ended with what it started, and the reason says so.
    """
    bench = make_bench(engine)
    endless = Step(
        "endless",
        executable="/bin/sh",
        arguments="-c 'sleep 600 & sleep 601'",
        fields={"request_walltime": 1, "number_of_retries": 0},
    )
    bench.prepare([greedy(bench), endless], memoryLimit=650)
    bench.drive("restart", "--id", bench.id).finish().complained("walltime of 1 minutes")
    grown = failures(bench, "greedy")
    assert [event.get("memory") for event in grown] == [650, None]
    assert all(re.search(r"out of memory; it had 7\d\d MB", event["why"]) for event in grown)
    assert "asked for 650 MB, the most it may have" in grown[1]["why"]
    (overdue,) = failures(bench, "endless")
    assert "walltime of 1 minutes" in overdue["why"]
    bench.assert_nothing_runs()


def test_grown_job_moves_to_larger_workers(make_bench: Callable[[Engine], Bench]) -> None:
    """A job of TripleSlurm that ran out of memory moves from the small to the
    medium workers, and stays there after a driver was killed.
    """
    bench = make_bench(BY_NAME["triple-slurm"])
    step = greedy(bench)
    step.fields = {**step.fields, "request_memory": 600, "memory_multiplier": 2.5}
    bench.prepare([step, Step("beside"), Step("last", ["greedy"])])
    bench.hold("beside")
    driver = bench.drive("restart", "--id", bench.id)
    wait_until(lambda: failures(bench, "greedy"), "it runs out of memory")
    assert failures(bench, "greedy")[0]["memory"] == 1500
    driver.kill()
    (bench.path / "enough").touch()
    bench.let_go("beside")
    bench.drive("restart", "--id", bench.id).finish().succeeded()
    sizes = [line.rpartition(".")[2] for line in (bench.path / "ran_in").read_text().split()]
    assert sizes[0] == "small"
    assert set(sizes[1:]) == {"medium"}
