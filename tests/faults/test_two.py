# SPDX-License-Identifier: BSD-3-Clause
"""Two of them: drivers of one run, on one host and on two, and runs side by side."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cluster.engines import Bench, Engine
from end_to_end.support import Running, Sandbox, Step, events_of_kind, run_bps, wait_until
from lsst.ctrl.bps.parsl import ParslWorkflow
from lsst.ctrl.bps.parsl.driver.session import make_driver
from lsst.ctrl.bps.parsl.errors import ParslBpsError
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.run import holder, liveness

from .engines import BY_NAME, on_engines
from .matrix import Matrix

FOUR = [f"s{number}" for number in range(4)]
HELD = "still being driven"
PATIENCE = 3.0


@dataclass(frozen=True)
class Host:
    """What a process takes its host for."""

    name: str = ""
    """Its name, where it is not that of this one."""

    locks: bool = True
    """Whether the file system has locks that all hosts share."""

    patience: float = 300.0
    """Seconds after which a silent driver counts as dead there: more than this machine may be slow."""

    def pretend(self) -> None:
        """Have this process be there; nothing of it can be undone."""
        liveness.HEARTBEAT_SECONDS, liveness.PATIENCE_SECONDS = 0.5, self.patience
        liveness.WATCH_SECONDS = 2.0
        if self.name:
            mock.patch.object(socket, "gethostname", return_value=self.name).start()
            mock.patch.object(holder, "_boot_id", return_value=f"boot of {self.name}").start()
            # It sees no other host's processes.
            mock.patch(f"{make_driver.__module__}.end_leftovers", return_value=0).start()
        if not self.locks:
            real = fcntl.flock

            def flock(file: Any, operation: int) -> None:
                number = file if isinstance(file, int) else file.fileno()
                if os.readlink(f"/proc/self/fd/{number}").endswith("driver.lock"):
                    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
                real(number, operation)

            mock.patch.object(fcntl, "flock", flock).start()

    def start(self, box: Sandbox, action: Callable[[], int], *words: str) -> Running:
        """Start something there."""

        def there() -> int:
            self.pretend()
            return action()

        running = Running(words, box.path / "out" / f"host{len(list((box.path / 'out').iterdir()))}")
        running.fork(there, box.env, box.path)
        box._forked.append(running)
        return running

    def bps(self, box: Sandbox, *words: str) -> Running:
        """Start ``bps`` there."""
        return self.start(box, lambda: run_bps(words), "bps", *words)


HERE = Host()
PLACES = {
    "one host": [HERE] * 4,
    "one host without locks": [Host(locks=False)] * 4,
    "two hosts": [HERE, Host("elsewhere")] * 2,
    "two hosts without locks": [Host(locks=False), Host("elsewhere", locks=False)] * 2,
}


class Gate:
    """Where processes wait for one another, which have been forked."""

    def __init__(self) -> None:
        self._come, self._open = os.pipe(), os.pipe()

    def wait(self) -> None:
        """Wait until it opens."""
        os.close(self._open[1])
        os.write(self._come[1], b".")
        os.read(self._open[0], 1)

    def open(self, count: int) -> None:
        """Open when so many wait."""
        while count:
            count -= len(os.read(self._come[0], count))
        for end in (self._open[1], self._open[0], *self._come):
            os.close(end)


def start_at_once(box: Sandbox, hosts: list[Host], run: str) -> list[Running]:
    """Have drivers on hosts go for the lock of a run at the same moment."""
    gate = Gate()
    acquire = liveness.RunLock.acquire

    def begin() -> int:
        def at_once(self: liveness.RunLock) -> None:
            gate.wait()
            acquire(self)

        liveness.RunLock.acquire = at_once  # type: ignore[method-assign]
        return run_bps(["restart", "--id", run])

    drivers = [host.start(box, begin, "bps", "restart", "--id", run) for host in hosts]
    gate.open(len(drivers))
    return drivers


def check_one_drives(box: Sandbox, hosts: list[Host], run: str) -> None:
    """Let several drivers begin at once: one drives the run, and the others say so."""
    box.prepare([Step(run), Step(f"after-{run}", [run])], run)
    box.hold(run)
    drivers = start_at_once(box, hosts, run)
    wait_until(lambda: sum(driver.poll() is None for driver in drivers) <= 1, "three give up")
    wait_until(
        lambda: run in box.steps("begin") or all(driver.poll() is not None for driver in drivers),
        "the other goes on",
    )
    box.let_go(run)
    results = [driver.finish() for driver in drivers]
    assert sorted(result.code for result in results) == [0, 1, 1, 1], "\n".join(map(str, results))
    for result in results:
        if result.code:
            result.complained(HELD)
    ours = [name for name in box.steps("begin") if name.endswith(run)]
    assert ours == [run, f"after-{run}"], "each job began once"
    assert len(events_of_kind(box.submit_path.with_name(run), "session")) == 1


ROUNDS = {"one host": 20, "one host without locks": 8, "two hosts": 8, "two hosts without locks": 20}


@pytest.mark.parametrize(("place", "rounds"), ROUNDS.items())
def test_drivers_at_once(box: Sandbox, matrix: Matrix, place: str, rounds: int) -> None:
    """Of four that start at the same moment one drives, and three say so and end: each time."""
    for number in range(rounds):
        check_one_drives(box, PLACES[place], f"run{number:02d}x")
    last = box.submit_path.with_name(f"run{rounds - 1:02d}x")
    matrix.check(f"four drivers start at once, {place}", box, path=last, tries=4 * rounds)


@pytest.mark.quick
def test_few_drivers_at_once(box: Sandbox, matrix: Matrix) -> None:
    """The same, in `make test`, too."""
    for number, hosts in enumerate(PLACES.values()):
        check_one_drives(box, hosts, f"run{number}x")
    matrix.check("four drivers start at once", box, path=box.submit_path.with_name("run0x"), tries=16)


def begin(box: Sandbox, host: Host) -> Running:
    """Start a run somewhere, up to the middle."""
    box.prepare([Step("first"), Step("held", ["first"]), Step("last", ["held"])])
    box.hold("held")
    driver = host.bps(box, "restart", "--id", "run")
    wait_until(lambda: "held" in box.steps("begin"), "the job begins")
    return driver


def await_patience(lock: Path) -> None:
    """Wait until a driver has given no sign of life for so long that it may be taken for dead."""
    wait_until(lambda: time.time() - lock.stat().st_mtime > PATIENCE, "no sign of life")


@pytest.mark.slow
@pytest.mark.quick
def test_stopped_driver_is_taken_over(box: Sandbox, matrix: Matrix) -> None:
    """A driver is stopped for so long that it counts as dead on another host, where the run is
    resumed, and continues: it ends its jobs, writes nothing more, says who has the run, and leaves
    the run to that one, which comes to its end.
    """
    first = begin(box, Host("one", locks=False))
    paths = SubmitPaths(box.submit_path)
    jobs = box.processes("step.sh held")
    first.signal(signal.SIGSTOP)
    Host("another", locks=False).bps(box, "restart", "--id", "run").finish().complained(
        HELD, f"one (pid {first.pid})"
    )
    await_patience(paths.lock)
    another = Host("another", locks=False, patience=PATIENCE)
    second = another.bps(box, "restart", "--id", "run")
    second_holds(box, second)
    before, lock = paths.driver_journal.read_bytes(), paths.lock.read_bytes()
    first.signal(signal.SIGCONT)
    ended = first.finish().complained(HELD, f"another (pid {second.pid})")
    assert ended.code == 1
    assert jobs
    wait_until(lambda: not any(job.is_running() for job in jobs), "its jobs have ended")
    assert paths.driver_journal.read_bytes() == before
    assert paths.lock.read_bytes() == lock
    box.let_go("held")
    second.finish().succeeded()
    assert Counter(box.steps("end")) == Counter(["first", "held", "last"])
    matrix.check("driver stopped, run taken over by another host, driver continued", box)


def second_holds(box: Sandbox, driver: Running) -> None:
    """Wait until the second driver of a run has begun the job in the middle, and written that down."""

    def begun() -> bool:
        assert driver.poll() is None, f"it ended: {driver.finish()}"
        return box.steps("begin").count("held") == 2

    wait_until(begun, "the other takes the run")


def test_stopped_driver_keeps_a_shared_lock(box: Sandbox, matrix: Matrix) -> None:
    """Where hosts share locks, a driver that is stopped keeps its run, however long; and goes on."""
    first = begin(box, Host("one"))
    first.signal(signal.SIGSTOP)
    await_patience(SubmitPaths(box.submit_path).lock)
    another = Host("another", patience=PATIENCE)
    another.bps(box, "restart", "--id", "run").finish().complained(HELD, f"one (pid {first.pid})")
    assert "RUNNING" in another.bps(box, "report", "--id", "run").finish().succeeded().stdout
    first.signal(signal.SIGCONT)
    box.let_go("held")
    first.finish().succeeded()
    assert box.steps("begin") == ["first", "held", "last"]
    matrix.check("driver stopped and continued, its lock seen by another host", box)


def by_id() -> int:
    return run_bps(["restart", "--id", "run"])


def by_path() -> int:
    return run_bps(["restart", "--id", "submit/run"])


def from_python(block: bool) -> int:
    """Say what is wrong as ``bps`` does."""
    try:
        ParslWorkflow.read("submit/run").run(block=block)
    except ParslBpsError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


QUICK = ("one host", "two hosts without locks")

VERBS: dict[str, Callable[[], int]] = {
    "restart by id": by_id,
    "restart by path": by_path,
    "run in Python": lambda: from_python(True),
    "run in Python, aside": lambda: from_python(False),
}


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=[pytest.mark.quick] if place in QUICK else []) for place in PLACES]
)
def test_driven_run(box: Sandbox, matrix: Matrix, place: str) -> None:
    """As long as a driver lives, all that would drive its run a second time is refused, also on
    another host; the journal and the lock stay its own. A cancel is heard by the driver.
    """
    first, second, *_ = PLACES[place]
    driver = begin(box, first)
    paths = SubmitPaths(box.submit_path)
    before, lock = paths.driver_journal.read_bytes(), paths.lock.read_bytes()
    for name, action in VERBS.items():
        done = second.start(box, action, name).finish().complained(HELD, f"(pid {driver.pid})")
        assert done.code == 1
    assert (paths.driver_journal.read_bytes(), paths.lock.read_bytes()) == (before, lock)
    second.bps(box, "cancel", "--id", "run").finish().succeeded()
    driver.finish().complained("was cancelled")
    box.let_go("held")
    second.bps(box, "restart", "--id", "run").finish().succeeded()
    assert Counter(box.steps("end")) == Counter(["first", "held", "last"])
    matrix.check(f"restart of a driven run, {place}", box, tries=len(VERBS))


@on_engines("slurm", "slurm-work-queue")
def test_restart_while_pilots_live(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """The driver is killed, and its pilots go on: a restart at once ends them before it begins
    anything, and no job runs twice at once.
    """
    bench = make_bench(BY_NAME[name])
    bench.prepare([Step(name) for name in FOUR])
    bench.hold()
    driver = bench.drive("restart", "--id", bench.id)
    bench.await_step(driver, *FOUR)
    old = {job.id for job in bench.jobs()}
    driver.kill()
    assert {job.id for job in bench.running_jobs()} == old, "the pilots live"
    second = bench.drive("restart", "--id", bench.id)

    def again() -> bool:
        assert second.poll() is None, f"it ended: {second.finish()}"
        there = {job.id for job in bench.jobs()}
        begun = len(bench.steps("begin")) > len(FOUR)
        assert not (there - old and there & old), "an old pilot beside a new one"
        return begun

    wait_until(again, "the jobs begin again", 120.0)
    bench.let_go()
    second.finish().succeeded()
    bench.assert_each_once(FOUR)
    assert old.isdisjoint(number for _, number, _ in list(bench.where())[len(FOUR) :])
    matrix.check("driver killed, restarted while its pilots live", bench)
