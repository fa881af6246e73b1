# SPDX-License-Identifier: BSD-3-Clause
"""What a dead driver or runner left is ended, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lsst.ctrl.bps.parsl.node.leftovers import end_leftovers
from lsst.ctrl.bps.parsl.node.records import RUN_VARIABLE, RUNNER_VARIABLE

Start = Callable[[dict[str, str], str], "subprocess.Popen[bytes]"]

WAIT = "echo ready; exec sleep 60"
"""Code of a process that does nothing."""

FOR_EVER = "echo ready; while :; do read -t 1 <> <(:); done"
"""The same, where bash itself waits and hears signals."""


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Give a submit directory that no other test has, which may be running at the same time."""
    return str(tmp_path / "a")


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that say when they are ready, and end them with the test."""
    with ExitStack() as stack:

        def start_one(marks: dict[str, str], code: str) -> subprocess.Popen[bytes]:
            process = stack.enter_context(
                subprocess.Popen(
                    ["/bin/bash", "-c", code], env={**os.environ, **marks}, stdout=subprocess.PIPE
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            return process

        yield start_one


def lives(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None and os.path.exists(f"/proc/{process.pid}/exe")


def test_processes_of_the_run_are_ended_and_no_others(start: Start, run: str) -> None:
    """Who has the submit directory in its environment is ended; other runs and other programs are not."""
    ours = [start({RUN_VARIABLE: run}, WAIT) for _ in range(2)]
    others = [start({RUN_VARIABLE: path}, WAIT) for path in (f"{run}b", f"{run}/x", os.path.dirname(run), "")]
    others += [start({}, WAIT), start({"OTHER": run}, WAIT), start({RUNNER_VARIABLE: run}, WAIT)]
    assert end_leftovers(RUN_VARIABLE, run, timeout=60) == 2
    assert not any(lives(process) for process in ours)
    assert all(lives(process) for process in others)


def test_process_that_ignores_the_signal_is_killed(start: Start, run: str) -> None:
    """Who does not end by itself in time is killed."""
    process = start({RUN_VARIABLE: run}, f"trap '' TERM; {FOR_EVER}")
    assert end_leftovers(RUN_VARIABLE, run, timeout=0.2) >= 1
    process.wait(60)  # It has been killed; it may take a moment to end.
    assert not lives(process)


def test_process_may_end_by_itself(start: Start, run: str) -> None:
    """A job has time to clean up after SIGTERM."""
    process = start({RUN_VARIABLE: run}, f"trap 'echo clean; exit' TERM; {FOR_EVER}")
    end_leftovers(RUN_VARIABLE, run, timeout=60)
    assert process.stdout is not None
    assert process.stdout.read() == b"clean\n"


def test_driver_spares_itself_and_who_started_it(run: str) -> None:
    """A restart from within a job of the run ends neither itself nor that job."""
    code = (
        "from lsst.ctrl.bps.parsl.node.leftovers import end_leftovers\n"
        "from lsst.ctrl.bps.parsl.node.records import RUN_VARIABLE\n"
        f"print(end_leftovers(RUN_VARIABLE, {run!r}, 1.0))\n"
    )
    # The outer bash is the job; it would end by SIGTERM.
    done = subprocess.run(
        ["/bin/bash", "-c", '"$@"; echo "the job lives"', "job", sys.executable, "-c", code],
        env={**os.environ, RUN_VARIABLE: run},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != -signal.SIGTERM
    assert done.stdout == "0\nthe job lives\n"


def test_nothing_left_is_nothing_to_do(run: str) -> None:
    """A run that left no process takes no time."""
    assert end_leftovers(RUN_VARIABLE, run, timeout=60) == 0


def test_zombie_is_not_waited_for(start: Start, run: str) -> None:
    """A process that has ended, and that its parent has not asked after, holds nothing up."""
    process = start({RUN_VARIABLE: run}, WAIT)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    begun = time.monotonic()
    assert end_leftovers(RUN_VARIABLE, run, timeout=100) == 0
    assert time.monotonic() - begun < 60
