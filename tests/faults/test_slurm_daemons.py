# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's daemons are killed, stopped and away: each run ends with its jobs done, and nothing is left.

These have the second cluster for themselves; what takes its time is tried at once.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from cluster import control
from cluster.engines import SLURM, SOON, Bench, Engine
from end_to_end.support import Running, Step, wait_until

from .engines import BY_NAME
from .matrix import Matrix
from .test_slurm import FOUR, begin_again, finish_once, start_held, start_soon_held

pytestmark = [pytest.mark.on_cluster, pytest.mark.alone]
AWAY_SECONDS = 60.0


@contextmanager
def full_cluster() -> Iterator[None]:
    """Have a job of somebody else's on all nodes."""
    number = control.submit(f"--nodes={len(control.NODES)}", "--exclusive", "--wrap=sleep 900")

    def state() -> str | None:
        return next((job.state for job in control.jobs() if job.id == number), None)

    try:
        wait_until(lambda: state() == "RUNNING", "the cluster is full")
        yield
    finally:
        control.cancel(number)
        wait_until(lambda: state() is None, "the cluster is free again")


def test_nodes(slurm: Bench, matrix: Matrix) -> None:
    """In the middle of its jobs a node is set DOWN, and a slurmd is killed and missed: the jobs there
    run again elsewhere, nowhere twice at once, and none is charged. Others go on, where a slurmd
    is back at once, too.
    """
    driver = start_held(slurm, cores_per_node=1, max_blocks=4, exclusive=True, **SOON)
    nodes = {name: node for name, _, node in slurm.where()}
    pilots = {number for _, number, _ in slurm.where()}
    assert len(set(nodes.values())) == 4, nodes
    control.kill_node(nodes["s2"])
    control.start_node(nodes["s2"])
    control.set_node(nodes["s0"], "DOWN")
    control.kill_node(nodes["s1"])
    try:
        begin_again(slurm, driver, {"s0"})
        wait_until(lambda: control.node_state(nodes["s1"]).startswith("down"), "it is missed")
        control.start_node(nodes["s1"])
        begin_again(slurm, driver, {"s1"})
        assert not pilots & {number for _, number, _ in list(slurm.where())[4:]}
        slurm.let_go()
        finish_once(slurm, driver)
        assert Counter(slurm.steps("begin")) == Counter([*FOUR, "s0", "s1"])
    finally:
        control.start_node(nodes["s1"])
        control.set_node(nodes["s0"], "RESUME")
        wait_until(lambda: {control.node_state(name) for name in control.NODES} == {"idle"}, "all are back")
    for fault in ("node DOWN", "slurmd killed, its node lost", "slurmd killed and started again"):
        matrix.check(fault, slurm)


def test_slurmstepd_killed(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """The slurmstepd of a pilot, or of its workers, is killed: each job is done once, and none twice
    at the same time, whether Slurm ends the pilot for that or not. What Slurm cannot end any more
    ends by itself.
    """
    steps = {"batch": make_bench(SLURM), "0": make_bench(BY_NAME["slurm-two-nodes"])}
    drivers = [start_soon_held(bench, **SOON) for bench in steps.values()]
    for (step, bench), driver in zip(steps.items(), drivers, strict=True):
        bench.await_step(driver, *FOUR)
        (pilot,) = bench.jobs()
        control.kill_step(f"{pilot.id}.{step}")
    soon = time.monotonic() + 15.0
    wait_until(lambda: time.monotonic() > soon, "time for Slurm to see it", 30.0)
    for (step, bench), driver in zip(steps.items(), drivers, strict=True):
        bench.let_go()
        finish_once(bench, driver)
        bench.assert_nothing_runs()
        matrix.check(f"slurmstepd of a pilot killed ({step})", bench)


def test_controller(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """Slurm's controller is away for more than a minute. Runs that begin or ask for more pilots say so,
    wait, and go on, and so do jobs that run. What is interrupted or cancelled ends in time and says
    what may be left; nothing is two minutes after the controller is back, and a restart does the rest.
    """
    times = ("the start", "a minute in the middle", "Ctrl-C", "bps cancel", "bps cancel, driver killed")
    benches = starting, middle, _, cancelled, dead = [make_bench(SLURM) for _ in times]
    starting.prepare([Step(name) for name in FOUR])
    drivers = [begin_in_the_middle(middle), *(start_soon_held(bench) for bench in benches[2:])]
    for bench, driver in zip(benches[1:], drivers, strict=True):
        bench.await_step(driver, *(["s0"] if bench is middle else FOUR))
    goes_on, *ends = drivers
    ends.pop().kill()
    control.stop_controller()
    back = time.monotonic() + AWAY_SECONDS
    try:
        ends[0].signal(signal.SIGINT)
        cancelled.bps("cancel", "--id", cancelled.id, timeout=120).succeeded()
        waits = starting.drive("restart", "--id", starting.id)
        middle.let_go("s0")
        asked = dead.bps("cancel", "--id", dead.id, timeout=240).complained("squeue")
        for driver in (waits, goes_on):
            driver.wait_for("The run waits", 180.0)
        wait_until(lambda: {"s1", "s3"} & set(middle.steps("end")), "another job is done")
        for driver in ends:
            driver.finish().complained("may still be in the queue", "bps restart and bps cancel")
        wait_until(lambda: time.monotonic() > back, "a minute is over", 2 * AWAY_SECONDS)
    finally:
        control.start_controller()
    middle.let_go("s2")
    finish_once(starting, waits)
    finish_once(middle, goes_on)
    wait_until(lambda: not any(bench.jobs() for bench in benches), "no pilot is left", 120.0)
    dead.bps("cancel", "--id", dead.id).succeeded()
    resume(benches[2:])
    asked.complained("repeat the command")
    for when, bench in zip(times, benches, strict=True):
        matrix.check(f"slurmctld down at {when}", bench)


def begin_in_the_middle(bench: Bench) -> Running:
    """Begin a run whose second layer needs more pilots than the first, and in which two steps wait."""
    steps = [Step("s0"), *(Step(name, ["s0"]) for name in FOUR[1:])]
    bench.prepare(steps, site={"cores_per_node": 1, "max_blocks": 3})
    bench.hold("s0")
    bench.hold("s2")
    return bench.drive("restart", "--id", bench.id)


def resume(benches: Sequence[Bench]) -> None:
    """Have stopped runs come to their end."""
    for bench in benches:
        bench.let_go()
    for driver, bench in [(bench.drive("restart", "--id", bench.id), bench) for bench in benches]:
        finish_once(bench, driver)


def test_queued_pilots_of_a_dead_driver(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """Pilots that still wait in the queue when their driver is killed are
    removed by a cancel, and by a restart.
    """
    benches = [make_bench(BY_NAME[name]) for name in ("slurm", "torque")]
    with full_cluster():
        drivers = [kill_queued(bench) for bench in benches]
    for bench, driver in zip(benches, drivers, strict=True):
        finish_once(bench, driver)
        matrix.check("driver killed, and its pilots wait in the queue", bench)


def kill_queued(bench: Bench) -> Running:
    """Kill drivers whose pilots wait in the queue, and look at what follows; return the last driver."""
    bench.prepare([Step(name) for name in FOUR])
    driver = bench.drive("restart", "--id", bench.id)
    wait_until(bench.jobs, "a pilot is in the queue")
    driver.kill()
    assert [job.state for job in bench.jobs()] == ["PENDING"]
    bench.bps("cancel", "--id", bench.id).succeeded()
    bench.assert_queue_empty()

    driver = bench.drive("restart", "--id", bench.id)
    wait_until(bench.jobs, "a pilot is in the queue")
    driver.kill()
    (left,) = bench.jobs()
    driver = bench.drive("restart", "--id", bench.id)
    wait_until(lambda: [job for job in bench.jobs() if job.id != left.id], "another pilot")
    assert left.id not in [job.id for job in bench.jobs()]
    return driver
