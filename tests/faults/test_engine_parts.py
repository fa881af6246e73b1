# SPDX-License-Identifier: BSD-3-Clause
"""The processes between the driver and the jobs: each killed, each stopped and continued."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from cluster.engines import SOON, Bench, Engine
from end_to_end.support import Running, Step, events_of_kind, wait_until

from .engines import BY_NAME
from .matrix import Matrix

FOUR = [f"s{number}" for number in range(4)]
STEPS = [*(Step(name) for name in FOUR), *(Step(f"t{number}", FOUR) for number in range(4))]
LOST_SECONDS = 28.0
"""After that time, a process that says nothing counts as lost; see `SOON`."""

PARTS = {
    "interchange": "parsl: HTEX interchange",
    "pilot": "process_worker_pool",
    "worker": "multiprocessing.spawn",
    "runner": "node.runner",
    "Work Queue's manager": "parsl: Work Queue",
    "Work Queue's worker": "work_queue_worker",
}
SLURM = pytest.mark.on_cluster
CASES = [
    *(pytest.param("htex", name) for name in ("interchange", "pilot", "worker", "runner")),
    *(pytest.param("slurm", name, marks=SLURM) for name in ("pilot", "worker", "runner")),
    *(
        pytest.param("slurm-work-queue", name, marks=SLURM)
        for name in ("Work Queue's manager", "Work Queue's worker", "runner")
    ),
    pytest.param("threads", "runner", marks=pytest.mark.quick),
]


def start_held(bench: Bench) -> Running:
    """Start a run and return when four steps wait."""
    soon = SOON if bench.engine.name == "slurm" else {}
    bench.prepare(STEPS, site=soon)
    bench.hold()
    driver = bench.drive("restart", "--id", bench.id)
    bench.await_step(driver, *FOUR)
    return driver


def part(bench: Bench, name: str) -> psutil.Process:
    """Return a process of a run: of those of a kind, the one that began first."""
    found = bench.processes(PARTS[name])
    if name == "worker":
        # The first is none that has jobs.
        found = [process for process in found if process.children()]
    return min(found, key=lambda process: process.create_time())


def finish(bench: Bench, driver: Running) -> None:
    """See a run to its end; where it says that it has to be resumed, resume it."""
    finished = driver.finish()
    if finished.code:
        finished.complained("bps restart --id")
        finished = bench.drive("restart", "--id", bench.id).finish()
    finished.succeeded()
    charged = [event for event in events_of_kind(bench.submit_path, "fail") if event["charged"]]
    assert not charged, "failures that were charged to jobs"


@pytest.mark.parametrize(("name", "which"), CASES)
def test_killed(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str, which: str) -> None:
    """A process is killed while four jobs run: the run goes on, or says how to resume it, and no job
    is charged.
    """
    bench = make_bench(BY_NAME[name])
    driver = start_held(bench)
    part(bench, which).kill()

    def noticed() -> bool:
        begun = Counter(bench.steps("begin"))
        return driver.poll() is not None or max(begun.values()) > 1

    wait_until(noticed, "it is noticed", 150.0)
    bench.let_go()
    finish(bench, driver)
    matrix.check(f"{which} killed", bench)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("name", "which"), CASES)
def test_stopped(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str, which: str) -> None:
    """A process says nothing for longer than is waited for, while the jobs end, and then goes on: the
    run comes to its end, and what is late is not taken for another attempt's.
    """
    bench = make_bench(BY_NAME[name])
    driver = start_held(bench)
    process = part(bench, which)
    process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + LOST_SECONDS
    try:
        wait_until(lambda: time.monotonic() > end, "time", 2 * LOST_SECONDS)
        bench.let_go()
        again = time.monotonic() + 10.0
        wait_until(lambda: time.monotonic() > again, "time")
    finally:
        if process.is_running():
            process.send_signal(signal.SIGCONT)
    finish(bench, driver)
    matrix.check(f"{which} stopped for {LOST_SECONDS + 10:.0f} s and continued", bench)
