# SPDX-License-Identifier: BSD-3-Clause
"""Whatever ends or stops the driver: a restart does the rest, and nothing twice."""

from __future__ import annotations

import os
import pty
import random
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from cluster.engines import Bench, Engine
from end_to_end.support import Running, Sandbox, Step, events_of_kind, run_bps, wait_until
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.run.journal import Journal

from .engines import BY_NAME, on_engines
from .matrix import Matrix

WIDTH = 6


def graph(layers: int) -> list[Step]:
    """Return layers of steps, each of which comes after three of the layer above."""
    return [
        Step(
            f"s{layer}x{number}",
            [f"s{layer - 1}x{(number + shift) % WIDTH}" for shift in range(3)] if layer else [],
        )
        for layer in range(layers)
        for number in range(WIDTH)
    ]


def finish(bench: Bench) -> None:
    """Let a run come to its end."""
    (bench.path / "pace").unlink(missing_ok=True)
    bench.drive("restart", "--id", bench.id).finish().succeeded()


FATAL = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOMENTS = {
    "threads": (10, 30, 2.0),
    "htex": (2, 12, 5.0),
    "slurm": (2, 5, 12.0),
    "slurm-work-queue": (1, 5, 12.0),
}
"""For each engine: number of runs, of signals in each, and up to when (s) one is sent."""


SILENT_SECONDS = 300.0


@pytest.mark.long
@pytest.mark.on_cluster
@pytest.mark.parametrize(
    "engines",
    [("threads", "htex", "slurm"), pytest.param(("slurm-work-queue",), marks=pytest.mark.work_queue)],
    ids="-".join,
)
def test_stopped_for_minutes(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, engines: tuple[str, ...]
) -> None:
    """Drivers are stopped for five minutes, longer than anything of theirs waits for a sign of life,
    while their jobs end; they go on, and no job is charged or runs again.
    """
    names = [f"s{number}" for number in range(4)]
    benches = [make_bench(BY_NAME[name]) for name in engines]
    drivers = []
    for bench in benches:
        bench.prepare([*(Step(name) for name in names), Step("last", names)])
        bench.hold()
        drivers.append(bench.drive("restart", "--id", bench.id))
    for bench, driver in zip(benches, drivers, strict=True):
        bench.await_step(driver, *names)
    for driver in drivers:
        driver.signal(signal.SIGSTOP)
    end = time.monotonic() + SILENT_SECONDS
    for bench in benches:
        bench.let_go()
    wait_until(lambda: time.monotonic() > end, "time", 2 * SILENT_SECONDS)
    for driver in drivers:
        driver.signal(signal.SIGCONT)
    for bench, driver in zip(benches, drivers, strict=True):
        driver.finish().succeeded()
        assert Counter(bench.steps("begin")) == Counter([*names, "last"]), bench.engine.name
        assert not events_of_kind(bench.submit_path, "fail")
        matrix.check(f"driver stopped for {SILENT_SECONDS:.0f} s and continued", bench)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "seed"),
    [
        pytest.param(name, seed, marks=[pytest.mark.on_cluster] if "slurm" in name else [])
        for name, (runs, _, _) in MOMENTS.items()
        for seed in range(runs)
    ],
)
def test_signals_at_random_moments(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str, seed: int
) -> None:
    """The driver gets signals at random moments, as soon as it is started again, too."""
    _, count, latest = MOMENTS[name]
    send_signals(make_bench(BY_NAME[name]), matrix, random.Random(f"{name} {seed}"), count, latest)


@pytest.mark.quick
def test_some_signals(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """The same, in `make test`, too."""
    send_signals(make_bench(BY_NAME["threads"]), matrix, random.Random("quick"), 10, 1.2)


def send_signals(bench: Bench, matrix: Matrix, drawn: random.Random, count: int, latest: float) -> None:
    """Send so many signals at moments up to a time (s), then see the run to its end."""
    bench.prepare(graph(max(4, count)))
    (bench.path / "pace").write_text("0.2")
    tried = 0
    for _ in range(count):
        driver = bench.drive("restart", "--id", bench.id)
        _await(driver, drawn.uniform(0.0, latest))
        number = drawn.choice(FATAL)
        with suppress(AssertionError, ProcessLookupError):  # It may have ended.
            driver.signal(number)
            tried += 1
        code = driver.finish().code
        assert code != 70, driver.stderr
        if code == 0:
            break
    else:
        finish(bench)
    matrix.check("driver gets SIGKILL, SIGTERM, SIGINT or SIGHUP at a random moment", bench, tries=tried)


def _await(driver: Running, seconds: float) -> None:
    """Wait for some time, or for the driver's end."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end or driver.poll() is not None, "time")


@pytest.mark.quick
def test_killed_twice_in_a_row(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """The driver is killed within its first 100 ms, and so is the next one; then a third does it all."""
    bench = make_bench(BY_NAME["threads"])
    drawn = random.Random("twice")
    bench.prepare(graph(2))
    for _ in range(10):
        for _ in range(2):
            driver = bench.drive("restart", "--id", bench.id)
            _await(driver, drawn.uniform(0.0, 0.1))
            driver.kill()
    finish(bench)
    matrix.check("driver killed within 100 ms, twice in a row", bench, tries=10)


EVENTS = 20_000


def write_history(bench: Bench, done: int) -> None:
    """Write the journals of a driver that was killed after so many jobs, with two events for each."""
    paths = SubmitPaths(bench.submit_path)
    plan = Plan(paths.plan).id
    journal = Journal(paths.driver_journal, bench.id, plan)
    node = Journal(paths.journals / "node-here-1.jsonl", bench.id, plan)
    journal.append({"e": "session", "t": 1.0, "n": 1, "host": "here", "pid": 1})
    for job in range(done):
        journal.append({"e": "pending", "t": 2.0, "j": [job]})
        node.append({"e": "start", "j": job, "a": 1, "t": 2.5, "pid": 77})
        measured = {"exit": 0, "signal": 0, "start": 2.5, "end": 3.5, "memory": 100, "cpu": 1.0}
        node.append({"e": "end", "j": job, "a": 1, "t": 3.5, **measured})
        journal.append({"e": "ok", "t": 4.0, "j": [[job, 2.5, 3.5, 100, 1.0]]})
    journal.close()
    node.close()
    with (bench.path / "steps.txt").open("w") as stream:
        stream.writelines(f"end done{job}\n" for job in range(done))


def test_killed_in_a_replay(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """The driver is killed while it reads a journal of 20,000 events, at many moments: nothing of
    what is in there is lost or runs again, and what was left to do is done in the end.
    """
    bench = make_bench(BY_NAME["threads"])
    done, drawn = EVENTS // 2, random.Random("replay")
    steps = [Step(f"done{number}") for number in range(done)]
    left = [Step(f"s{number}", [f"done{number}"]) for number in range(8)]
    bench.prepare([*steps, *left])
    write_history(bench, done)
    (bench.path / "pace").write_text("0.5")
    history = SubmitPaths(bench.submit_path).driver_journal.read_bytes()
    for _ in range(15):
        driver = bench.drive("restart", "--id", bench.id)
        _await(driver, drawn.uniform(0.0, 1.5))
        if driver.poll() is None:
            driver.kill()
    finish_or_see_done(bench)
    assert SubmitPaths(bench.submit_path).driver_journal.read_bytes().startswith(history)
    assert Counter(bench.steps("end")) == Counter(step.name for step in [*steps, *left])
    matrix.check("driver killed while it replays 20,000 events", bench, tries=15)


def finish_or_see_done(bench: Bench) -> None:
    """Let a run come to its end, where it has not yet."""
    (bench.path / "pace").unlink()
    done = bench.drive("restart", "--id", bench.id).finish()
    if done.code:
        done.complained("there is nothing to do")


@pytest.mark.parametrize("name", ["threads", "htex"])
@pytest.mark.parametrize("number", FATAL, ids=lambda number: number.name)
def test_signal_at_the_end(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str, number: signal.Signals
) -> None:
    """A signal that comes when all jobs are done, while Parsl is being closed, takes nothing away
    from the success, and nothing is left.
    """
    bench = make_bench(BY_NAME[name])
    bench.prepare(graph(1))
    driver = bench.drive("restart", "--id", bench.id)
    journal = SubmitPaths(bench.submit_path).driver_journal

    def is_written() -> bool:
        with suppress(FileNotFoundError):
            return b'"e":"finish"' in journal.read_bytes()
        return False

    wait_until(is_written, "all jobs are done")
    with suppress(AssertionError, ProcessLookupError):  # It may have ended, too.
        driver.signal(number)
    ended = driver.finish()
    assert "Traceback" not in ended.text, str(ended)
    assert ended.code in (0, -number), str(ended)
    if number != signal.SIGKILL:
        assert ended.code == 0, str(ended)
    again = bench.drive("restart", "--id", bench.id).finish()
    again.complained("there is nothing to do")
    assert bench.bps("status", "--id", bench.id).code == 0
    matrix.check("driver gets a signal while Parsl is being closed", bench)


class Terminal:
    """A terminal that can be closed, and is read until then."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self.name = os.ttyname(theirs)
        self._theirs = theirs
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._closing = False
        self._reader.start()

    def _read(self) -> None:
        while not self._closing:
            if select.select([self._ours], [], [], 0.05)[0]:
                with suppress(OSError):
                    os.read(self._ours, 1 << 16)

    def take(self) -> None:
        """Make it the terminal of this process, the first one of a session."""
        os.close(self._ours)
        os.close(self._theirs)
        fd = os.open(self.name, os.O_RDWR)
        for number in range(3):
            os.dup2(fd, number)
        os.close(fd)

    def close(self) -> None:
        """Close it."""
        if not self._closing:
            self._closing = True
            self._reader.join()
            os.close(self._theirs)
            os.close(self._ours)


@contextmanager
def on_terminal(bench: Bench, *, nohup: bool) -> Iterator[tuple[Running, Terminal]]:
    """Run the driver on a terminal."""
    terminal = Terminal()

    def action() -> int:
        terminal.take()
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return run_bps(["restart", "--id", bench.id])

    running = Running(["bps", "restart", "--id", bench.id], bench.path / "out" / "terminal")
    running.fork(action, {**bench.env, "TERM": "xterm-256color"}, bench.path)
    bench._forked.append(running)
    try:
        yield running, terminal
    finally:
        terminal.close()


@on_engines("threads", "htex")
@pytest.mark.parametrize("nohup", [False, True], ids=["", "nohup"])
def test_terminal_closes(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str, nohup: bool
) -> None:
    """The terminal of the driver is closed: the run stops, and a restart does the rest; where the
    driver was told to ignore that, it goes on to the end without one.
    """
    bench = make_bench(BY_NAME[name])
    bench.prepare(graph(3))
    bench.hold("s1x0")
    with on_terminal(bench, nohup=nohup) as (driver, terminal):
        bench.await_step(driver, "s1x0")
        terminal.close()
        if nohup:
            bench.let_go("s1x0")
        code = driver.finish().code
    if nohup:
        # Its exit status is BPS's, which prints the run's id when all is done.
        assert bench.bps("status", "--id", bench.id).code == 0
        assert Counter(bench.steps("begin")) == Counter(step.name for step in graph(3))
    else:
        assert code == 128 + signal.SIGHUP
        assert events_of_kind(bench.submit_path, "stop")[0]["why"] == "SIGHUP"
        bench.assert_nothing_runs()
        bench.let_go("s1x0")
        finish(bench)
    how = "ignored" if nohup else "heeded"
    matrix.check(f"the driver's terminal closes, SIGHUP {how}", bench)


FINAL = Step("final", label="finalJob")


@pytest.mark.quick
def test_cancel_while_the_final_job_runs(box: Sandbox, matrix: Matrix) -> None:
    """A cancel that comes while only the final job runs does not end it, and the run is what its jobs are."""
    box.prepare([Step("a"), Step("b")], final=FINAL)
    box.hold("final")
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: "final" in box.steps("begin"), "the final job begins")
    box.bps("cancel", "--id", "run").succeeded()
    assert driver.poll() is None
    box.let_go("final")
    driver.finish().succeeded()
    assert Counter(box.steps("end")) == Counter(["a", "b", "final"])
    assert events_of_kind(box.submit_path, "finish")[0]["state"] == "SUCCEEDED"
    matrix.check("bps cancel while the final job runs", box)


@pytest.mark.quick
def test_killed_after_the_last_job(box: Sandbox, matrix: Matrix) -> None:
    """The driver is killed between the last result and its own end: a cancel finds nothing left to cancel,
    and the run has succeeded.
    """
    box.prepare([Step("a"), Step("b", ["a"])])
    box.bps("restart", "--id", "run").succeeded()
    journal = SubmitPaths(box.submit_path).driver_journal
    *lines, last = journal.read_bytes().splitlines(keepends=True)
    assert b'"finish"' in last
    journal.write_bytes(b"".join(lines))
    box.bps("cancel", "--id", "run").complained("has ended before (SUCCEEDED)")
    assert box.bps("status", "--id", "run").code == 0
    box.bps("restart", "--id", "run").complained("All jobs of run run have succeeded")
    matrix.check("driver killed after the last job, then bps cancel", box)
