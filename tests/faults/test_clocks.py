# SPDX-License-Identifier: BSD-3-Clause
"""Clocks that are set, or wrong from the start: nobody is charged, lost or taken for dead."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from cluster.engines import LOCAL, Bench, Engine
from end_to_end.support import Running, Step, events_of_kind, node_ends, wait_until
from lsst.ctrl.bps.parsl.paths import SubmitPaths

from .engines import BY_NAME
from .faulty import Fault, library  # noqa: F401  # fixture
from .matrix import Matrix

HOUR = 3600
STEPS = [
    Step("first"),
    Step("held", ["first"]),
    *(Step(f"after{number}", ["held"]) for number in range(4)),
    Step("last", [f"after{number}" for number in range(4)]),
]
WORKERS = "*node.runner*"
"""Command line of the process that starts jobs on a node."""

engines = pytest.mark.parametrize("name", ["threads", "htex"])
directions = pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])


class Clock:
    """A clock that can be set, and who has it."""

    def __init__(self, bench: Bench, built: Path, process: str = "", seconds: int = 0) -> None:
        self._path = bench.path / "clock"
        self.env = Fault(clock=self._path, process=process).environment(built, bench.env)
        self.wrong_by(seconds)

    def wrong_by(self, seconds: int) -> None:
        """Set it."""
        new = self._path.with_name("clock.new")
        new.write_text(f"{seconds}\n")
        new.replace(self._path)


def begin(bench: Bench, env: Mapping[str, str]) -> Running:
    """Begin a run, up to the middle."""
    bench.prepare(STEPS)
    bench.hold("held")
    driver = bench.start("bps", "restart", "--id", bench.id, env=env)
    bench.await_step(driver, "held")
    return driver


def see_life(lock: Path) -> None:
    """Wait for the next sign of life of a driver; there is one every ten seconds."""
    before = lock.stat().st_mtime
    wait_until(lambda: lock.stat().st_mtime != before, "a sign of life")


def end(bench: Bench, driver: Running) -> None:
    """Let a run come to its end, and check that nobody was the worse for it."""
    bench.let_go("held")
    driver.finish().succeeded()
    # Parsl's pool on a node whose clock is set takes itself for forgotten, and ends: nobody is charged.
    assert not [event for event in events_of_kind(bench.submit_path, "fail") if event["charged"]]
    assert Counter(bench.steps("end")) == Counter(step.name for step in STEPS), "each once"
    for ended in node_ends(bench.submit_path):
        assert 0 <= ended["end"] - ended["start"] < HOUR / 2, ended
    report = bench.bps("report", "--id", bench.id).succeeded().stdout
    assert not re.search(r"(?<![\w.-])-\d", report), "a negative time"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["threads", pytest.param("htex", marks=pytest.mark.quick)])
@directions
def test_driver(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
    name: str,
    step: int,
) -> None:
    """The clock of the driver, and of all that it starts, is set in the middle of a run: the run
    goes on, no job is charged, and none that has succeeded runs again; others see that the driver
    lives. (Parsl's pool, whose clock is set as well, may end: a job that ran then begins once more.)
    """
    bench = make_bench(BY_NAME[name])
    clock = Clock(bench, library)
    driver = begin(bench, clock.env)
    clock.wrong_by(step)
    for env in (bench.env, clock.env):
        second = bench.run("bps", "restart", "--id", bench.id, env=env)
        second.complained(f"(pid {driver.pid})", "still being driven")
    assert "RUNNING" in bench.bps("report", "--id", bench.id).succeeded().stdout
    end(bench, driver)
    matrix.check("clock of the driver is set by an hour", bench)


@pytest.mark.long
@directions
def test_interchange_has_time_to_notice(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
    step: int,
) -> None:
    """So it is when Parsl's interchange and workers have looked at their clocks several times."""
    bench = make_bench(BY_NAME["htex"])
    clock = Clock(bench, library)
    driver = begin(bench, clock.env)
    clock.wrong_by(step)
    lock = SubmitPaths(bench.submit_path).lock
    for _ in range(3):
        see_life(lock)
    end(bench, driver)
    matrix.check("clock of the driver is set by an hour", bench)


@engines
@directions
def test_node(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
    name: str,
    step: int,
) -> None:
    """The clock of a node is set in the middle of a run."""
    bench = make_bench(BY_NAME[name])
    clock = Clock(bench, library, WORKERS)
    driver = begin(bench, clock.env)
    clock.wrong_by(step)
    end(bench, driver)
    starts = [event["start"] for event in node_ends(bench.submit_path)]
    assert max(starts) - min(starts) > HOUR / 2, "the node's clock is wrong"
    matrix.check("clock of a node is set by an hour", bench)


@engines
@pytest.mark.parametrize("apart", [60, -60])
def test_nodes_apart(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
    name: str,
    apart: int,
) -> None:
    """The clock of a node is a minute ahead or behind, from the start: the driver is killed, too,
    and a restart knows what has succeeded.
    """
    bench = make_bench(BY_NAME[name])
    clock = Clock(bench, library, WORKERS, apart)
    driver = begin(bench, clock.env)
    driver.kill()
    again = bench.start("bps", "restart", "--id", bench.id, env=clock.env)
    # Before, it might come to its end and not be recorded.
    wait_until(lambda: bench.steps("begin").count("held") == 2, "the job begins again")
    bench.let_go("held")
    again.finish().succeeded()
    assert Counter(bench.steps("end")) == Counter(step.name for step in STEPS), "each once"
    assert Counter(bench.steps("begin"))["first"] == 1
    report = bench.bps("report", "--id", bench.id).succeeded().stdout
    assert not re.search(r"(?<![\w.-])-\d", report), "a negative time"
    matrix.check("clocks of nodes are a minute apart", bench)


def move(bench: Bench, **changes: object) -> None:
    """Have the lock say something else of who drives the run; its times stay."""
    lock = SubmitPaths(bench.submit_path).lock
    before = lock.stat()
    text = json.dumps({**json.loads(lock.read_text()), **changes})
    with lock.open("r+") as stream:
        stream.write(text)
        stream.truncate()
    os.utime(lock, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("who", ["driver", "reader"])
@pytest.mark.parametrize("step", [HOUR, -HOUR, 60, -60])
def test_driver_on_another_host(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
    who: str,
    step: int,
) -> None:
    """A driver on another host is alive for ``bps report`` and for a second driver, whatever the
    clocks of both say.
    """
    bench = make_bench(LOCAL)
    clock = Clock(bench, library)
    its, others = (clock.env, bench.env) if who == "driver" else (bench.env, clock.env)
    driver = begin(bench, its)
    lock = SubmitPaths(bench.submit_path).lock
    clock.wrong_by(step)
    if who == "driver":
        see_life(lock)
    move(bench, host="elsewhere")
    report = bench.run("bps", "report", "--id", bench.id, env=others).succeeded().stdout
    assert "RUNNING" in report
    assert "its driver died" not in report
    bench.run("bps", "restart", "--id", bench.id, env=others).complained("still being driven on elsewhere")
    end(bench, driver)
    matrix.check(f"clocks of the driver and of another host are {abs(step) // 60} min apart", bench)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_dead_driver_on_another_host(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
    step: int,
) -> None:
    """A driver on a host whose clock was wrong by an hour has died: within minutes the run can be
    resumed from another host.
    """
    bench = make_bench(LOCAL)
    clock = Clock(bench, library, seconds=step)
    driver = begin(bench, clock.env)
    driver.kill()
    bench.assert_nothing_runs()
    bench.let_go("held")
    move(bench, host="elsewhere")
    lock = SubmitPaths(bench.submit_path).lock
    # Three minutes after its last sign of life, by the clock of its own host.
    last = lock.stat().st_mtime - 180
    os.utime(lock, (last, last))
    bench.bps("restart", "--id", bench.id, timeout=400).succeeded()
    matrix.check("clocks of the driver and of another host are 60 min apart", bench)


@engines
def test_reboot(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """The host of the driver was booted again, and a process has its number: the run is resumed."""
    bench = make_bench(BY_NAME[name])
    bench.prepare(STEPS)
    bench.hold("held")
    driver = bench.fork("restart", "--id", bench.id)
    bench.await_step(driver, "held")
    driver.kill()
    me = psutil.Process()
    move(bench, boot="another", pid=me.pid)
    assert "its driver died" in bench.bps("report", "--id", bench.id).succeeded().stdout
    bench.let_go("held")
    bench.bps("restart", "--id", bench.id).succeeded()
    assert Counter(bench.steps("begin"))["first"] == 1
    matrix.check("reboot (boot id changes)", bench)
