# SPDX-License-Identifier: BSD-3-Clause
"""A process's number is never taken for the process: who has it by now is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor

from cluster.engines import Bench, Engine
from cluster.own_site import LocalWorkers
from end_to_end.support import MARKER, Running, Sandbox, Step, wait_until
from lsst.ctrl.bps.parsl.node.processes import start_time
from lsst.ctrl.bps.parsl.run.liveness import PATIENCE_SECONDS
from node.test_listener import OTHER

from .engines import BY_NAME, on_engines
from .matrix import Matrix


class SoonWorkers(LocalWorkers):
    """A user's own site, which takes a silent pilot for lost soon."""

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor."""
        (executor,) = super().get_executors()
        assert isinstance(executor, HighThroughputExecutor)
        executor.heartbeat_period, executor.heartbeat_threshold = 2, 8
        return [executor]


LAST = Path("/proc/sys/kernel/ns_last_pid")
"""The kernel begins behind this number when it looks for a free one (proc(5))."""

MOST_SECONDS = 120.0


def in_use(pid: int) -> bool:
    """Tell whether a number is that of a process, a group or a session."""
    for other in psutil.pids():
        with suppress(ProcessLookupError):
            if pid in (other, os.getpgid(other), os.getsid(other)):
                return True
    return False


class Stranger:
    """A process of nobody's run, which waits and takes down each signal that it can hear."""

    def __init__(self, user: int = 0) -> None:
        self.user = user
        self.process: subprocess.Popen[bytes] | None = None

    def take(self, pid: int) -> None:
        """Begin with the number of a process that has ended."""
        end = time.monotonic() + MOST_SECONDS
        while time.monotonic() < end:
            # Nor can a number be had that is still that of a group or a session.
            wait_until(lambda: not in_use(pid), f"process {pid} is gone, and all of its session")
            # Any other process of this machine may be faster.
            LAST.write_text(str(pid - 1))
            process = self._begin()
            if process.pid == pid:
                self.process = process
                return
            process.kill()
            process.wait()
        pytest.fail(f"the number {pid} could not be had in {MOST_SECONDS:.0f} s")

    def start(self) -> int:
        """Begin with any number."""
        self.process = self._begin()
        return self.process.pid

    def _begin(self) -> subprocess.Popen[bytes]:
        env = {name: value for name, value in os.environ.items() if name != MARKER}
        return subprocess.Popen(
            ["/bin/sleep", "600"], env=env, cwd="/", user=self.user, start_new_session=True
        )

    def check(self) -> None:
        """Check that nobody has ended it, or stopped it."""
        assert self.process is not None
        assert self.process.poll() is None, f"it was ended: {self.process.returncode}"
        assert psutil.Process(self.process.pid).status() != psutil.STATUS_STOPPED

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(params=[0, OTHER], ids=["of this user", "of another user"])
def stranger(request: pytest.FixtureRequest) -> Iterator[Stranger]:
    """A process that is none of the run's, and lives in the end."""
    stranger = Stranger(request.param)
    try:
        yield stranger
        stranger.check()
    finally:
        stranger.close()


def kill_driver(box: Sandbox, driver: Running) -> None:
    """End a driver without notice, and all that it has started."""
    driver.kill()
    for process in box.processes():
        with suppress(psutil.Error):
            process.kill()
    box.assert_nothing_runs()


@pytest.mark.as_root
@pytest.mark.quick
@pytest.mark.parametrize("verb", ["cancel", "restart"])
def test_number_of_a_dead_driver(box: Sandbox, matrix: Matrix, stranger: Stranger, verb: str) -> None:
    """Where another process has the number of a driver that was killed, the run is reported as
    one that nobody drives, is cancelled or resumed at once, and that process is not touched.
    """
    box.prepare([Step("a"), Step("b", ["a"])])
    box.hold("a")
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "a step begins")
    kill_driver(box, driver)
    stranger.take(driver.pid)
    assert json.loads((box.submit_path / "parsl/driver.lock").read_text())["pid"] == driver.pid
    assert "bps restart" in box.bps("status", "--id", "run").text
    begun = time.monotonic()
    box.let_go("a")
    box.bps(verb, "--id", "run").succeeded()
    assert time.monotonic() - begun < PATIENCE_SECONDS
    stranger.check()
    stranger.close()  # The checker knows a lock by its number alone.
    matrix.check("number of the dead driver is another process's", box)
    stranger.start()


@pytest.mark.quick
@pytest.mark.parametrize("verb", ["cancel", "restart"])
@pytest.mark.parametrize("field", ["started", "boot"])
def test_lock_that_names_a_living_process(box: Sandbox, matrix: Matrix, field: str, verb: str) -> None:
    """A lock that names a living process, which began at another time or in another boot, is
    nobody's: it does not hold the run up, and the process hears nothing of it.
    """
    stranger = Stranger(OTHER if os.geteuid() == 0 else os.getuid())
    try:
        pid = stranger.start()
        box.prepare([Step("a")])
        lock = box.submit_path / "parsl/driver.lock"
        holder = {
            "host": os.uname().nodename,
            "pid": pid,
            "started": start_time(pid),
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        }
        lock.write_text(json.dumps(holder))
        box.bps("restart", "--id", "run").complained(f"pid {pid}")
        stranger.check()
        holder[field] = 12345 if field == "started" else "another"
        lock.write_text(json.dumps(holder))
        box.bps(verb, "--id", "run").succeeded()
        stranger.check()
    finally:
        stranger.close()
    matrix.check("lock names a living process of somebody else's", box)


@pytest.mark.quick
def test_run_of_a_like_name_is_left_alone(box: Sandbox, matrix: Matrix) -> None:
    """What a restart or a cancel ends is told by the whole submit directory: processes of
    a run beside it, whose name begins the same, go on.
    """
    for name in ("run", "run2"):
        box.prepare([Step(name)], name)
        box.hold(name)
    drivers = [box.fork("restart", "--id", box.submit_path.with_name(name)) for name in ("run", "run2")]
    wait_until(lambda: len(box.steps("begin")) == 2, "both steps begin")
    drivers[0].kill()
    box.bps("cancel", "--id", box.submit_path).succeeded()
    assert drivers[1].poll() is None
    box.let_go("run2")
    drivers[1].finish().succeeded()
    assert box.steps("end") == ["run2"]
    box.let_go("run")
    matrix.add("cancel beside a run whose name begins the same", "threads")


def pilot(bench: Bench) -> psutil.Process:
    """Return the process that Parsl's provider has started for the pilot."""
    found = [process for process in bench.processes("submit_scripts") if process.ppid() != os.getpid()]
    top = [process for process in found if process.parent() not in found]
    assert len(top) == 1, found
    return top[0]


def wrapper(bench: Bench) -> int:
    """Return the number of the pilot that the provider has: that of the shell around its script."""
    (script,) = (bench.submit_path / "runinfo").glob("*/submit_scripts/*.sh.ec")
    assert script.read_text().strip() == "-"
    return pilot(bench).pid


@pytest.mark.as_root
@pytest.mark.parametrize("moment", ["in the middle", "before the end"])
def test_number_of_a_dead_pilot(make_bench: Callable[[Engine], Bench], matrix: Matrix, moment: str) -> None:
    """Where another process has the number of a pilot that was killed, the pilot counts as dead
    all the same: the run gets another one, ends, and that process is not touched.
    """
    stranger = Stranger(OTHER)
    bench = make_bench(BY_NAME["htex"])
    try:
        bench.prepare([Step("a"), Step("b", ["a"])], site={"class": f"{__name__}.SoonWorkers"})
        bench.hold("b" if moment == "in the middle" else "a")
        driver = bench.drive("restart", "--id", bench.id)
        bench.await_step(driver, "b" if moment == "in the middle" else "a")
        number = wrapper(bench)
        victims = [psutil.Process(number), *psutil.Process(number).children(recursive=True)]
        for process in victims:
            with suppress(psutil.Error):
                process.kill()
        stranger.take(number)
        if moment == "in the middle":
            bench.let_go("b")
            driver.finish().succeeded()
        else:
            driver.signal(signal.SIGTERM)
            driver.finish()
            bench.let_go("a")
            bench.drive("restart", "--id", bench.id).finish().succeeded()
        stranger.check()
    finally:
        stranger.close()
    matrix.check("number of a dead pilot is another process's", bench)


@pytest.mark.as_root
@on_engines("htex")
def test_numbers_of_leftovers(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """Where other processes have the numbers of all that a killed driver left, a restart
    ends none of them.
    """
    bench = make_bench(BY_NAME[name])
    bench.prepare([Step("a"), Step("b", ["a"])])
    bench.hold("a")
    driver = bench.drive("restart", "--id", bench.id)
    bench.await_step(driver, "a")
    numbers = [process.pid for process in bench.processes()]
    kill_driver(bench, driver)
    strangers = [Stranger(OTHER if number % 2 else 0) for number in numbers]
    try:
        for stranger, number in zip(strangers, numbers, strict=True):
            stranger.take(number)
        bench.let_go("a")
        bench.drive("restart", "--id", bench.id).finish().succeeded()
        for stranger in strangers:
            stranger.check()
    finally:
        for stranger in strangers:
            stranger.close()
    matrix.check("numbers of all of a dead driver's processes are others'", bench)
