# SPDX-License-Identifier: BSD-3-Clause
"""What the runner of a node does for the jobs of a block."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import psutil
import pytest

from end_to_end.support import Step, events_of_kind, node_ends, wait_until

from .engines import ENGINES, Bench, Engine

BY_NAME = {engine.name: engine for engine in ENGINES}
WITH_RUNNERS = [BY_NAME["slurm"], BY_NAME["torque"], BY_NAME["slurm-work-queue"]]

_SCRIPT = f"""\
#!{sys.executable}
import os, sys, time
with open("ran", "a") as stream:
    print(*sys.argv[1:], os.getpid(), file=stream)
while os.path.exists("wait"):
    time.sleep(0.02)
"""


def scripts(bench: Bench, count: int, **fields: object) -> list[Step]:
    """Return jobs of a Python script that waits while there is a file ``wait``."""
    path = bench.path / "job.py"
    path.write_text(_SCRIPT)
    path.chmod(0o755)
    (bench.path / "wait").touch()
    names = [f"s{number}" for number in range(count)]
    return [Step(name, executable=str(path), arguments=name, fields=dict(fields)) for name in names]


def pids(bench: Bench) -> list[int]:
    """Return the processes of the scripts that began."""
    path = bench.path / "ran"
    return [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []


def runners(bench: Bench) -> dict[int, dict[str, str]]:
    """Return the runners of the run's blocks: what they were told, by their numbers."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("BPS_PARSL_SUBMIT_PATH") != str(bench.submit_path):
                continue
            *_, kind, what = ["", "", *process.cmdline()]
            # Supervisors are forked from it, and in its session.
            if kind == "listening" and os.getsid(process.pid) == process.pid:
                found[process.pid] = json.loads(what)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("engine", WITH_RUNNERS, ids=str)
def test_one_runner_for_a_block(engine: Engine, make_bench: Callable[[Engine], Bench]) -> None:
    """The workers of a block have one runner in common, which forks the jobs. It ends with the block, and
    its directory, which only its user could open, is gone.
    """
    bench = make_bench(engine)
    bench.prepare(scripts(bench, 4))
    driver = bench.drive("restart", "--id", bench.id)
    wait_until(lambda: len(pids(bench)) == 4, "four at once")
    ((runner, told),) = runners(bench).items()
    directory = Path(told["directory"])
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (bench.path / "wait").unlink()
    driver.finish().succeeded()
    assert [event["warm"] for event in node_ends(bench.submit_path)] == [True] * 4
    wait_until(lambda: not psutil.pid_exists(runner), "the runner ends")
    wait_until(lambda: not directory.exists(), "its directory is gone")
    bench.assert_nothing_runs()


@pytest.mark.parametrize("engine", WITH_RUNNERS, ids=str)
def test_runner_of_a_block_is_killed(engine: Engine, make_bench: Callable[[Engine], Bench]) -> None:
    """Its jobs are lost and charged to nobody, end at once, and run again."""
    bench = make_bench(engine)
    bench.prepare(scripts(bench, 4), numberOfRetries=0)
    driver = bench.drive("restart", "--id", bench.id)
    wait_until(lambda: len(pids(bench)) == 4, "four at once")
    first = pids(bench)
    (runner,) = runners(bench)
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: not any(map(psutil.pid_exists, first)), "its jobs end")
    wait_until(lambda: len(pids(bench)) == 8, "they run again")
    (bench.path / "wait").unlink()
    driver.finish().succeeded()
    fails = events_of_kind(bench.submit_path, "fail")
    assert len(fails) == 4
    assert not any(event["charged"] for event in fails)
    bench.assert_nothing_runs()


def test_memory_of_a_node(make_bench: Callable[[Engine], Bench]) -> None:
    """Of the four workers on a node of HighThroughputExecutor only so many have a job at once as its memory
    allows.
    """
    bench = make_bench(BY_NAME["slurm"])
    bench.prepare(scripts(bench, 4, request_memory=900), site={"mem_per_node": 2, "max_blocks": 1})
    driver = bench.drive("restart", "--id", bench.id)
    wait_until(lambda: len(pids(bench)) == 2, "two at once")
    (bench.path / "wait").unlink()
    driver.finish().succeeded()
    ends = node_ends(bench.submit_path)
    moments = sorted([(event["start"], 1) for event in ends] + [(event["end"], -1) for event in ends])
    assert max(accumulate(change for _, change in moments)) == 2
