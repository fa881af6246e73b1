# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong with Slurm and its daemons: each run ends with its jobs done, or says why not."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster import control
from cluster.engines import SLURM, SOON, Bench, Engine
from end_to_end.support import Finished, Running, Step, events_of_kind, wait_until

from .matrix import Matrix
from .test_driver import BY_NAME

pytestmark = pytest.mark.on_cluster

FOUR = [f"s{number}" for number in range(4)]


def start_held(bench: Bench, **site: Any) -> Running:
    """Start a run of four steps and return when all of them run, and wait."""
    bench.prepare([Step(name) for name in FOUR], site=site)
    bench.hold()
    driver = bench.drive("restart", "--id", bench.id)
    bench.await_step(driver, *FOUR)
    return driver


def finish_once(bench: Bench, driver: Running) -> Finished:
    """Check that a run comes to a good end, with each job done once, and none charged."""
    finished = driver.finish(240).succeeded()
    bench.assert_each_once(FOUR)
    assert_uncharged(bench)
    bench.assert_queue_empty()
    return finished


def assert_uncharged(bench: Bench) -> None:
    """Check that no failure was taken for one of a job's own."""
    charged = [event for event in events_of_kind(bench.submit_path, "fail") if event["charged"]]
    assert not charged, "failures that were charged to jobs"


def begin_again(bench: Bench, driver: Running, names: set[str]) -> None:
    """Wait until steps begin a second time."""

    def again() -> bool:
        assert driver.poll() is None, f"it ended: {driver.finish()}"
        assert_uncharged(bench)
        begun = Counter(bench.steps("begin"))
        return all(begun[name] == 2 for name in names)

    try:
        wait_until(again, f"{names} begin again", 200.0)
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{driver.stderr}") from None


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


@pytest.mark.alone
def test_node_down(slurm: Bench, matrix: Matrix) -> None:
    """A node is set DOWN in the middle of its jobs: they run again in another
    pilot, those elsewhere go on, and nothing is charged to any.
    """
    driver = start_held(slurm, cores_per_node=2, max_blocks=2, exclusive=True, **SOON)
    nodes = {name: node for name, _, node in slurm.where()}
    pilots = {number for _, number, _ in slurm.where()}
    down = nodes["s0"]
    lost = {name for name, node in nodes.items() if node == down}
    assert len(lost) == 2, nodes
    control.set_node(down, "DOWN")
    try:
        begin_again(slurm, driver, lost)
        assert not pilots & {number for _, number, _ in list(slurm.where())[4:]}
        slurm.let_go()
        finish_once(slurm, driver)
        assert Counter(slurm.steps("begin")) == Counter([*FOUR, *lost])
    finally:
        control.set_node(down, "RESUME")
        wait_until(lambda: control.node_state(down) == "idle", "the node is back")
    matrix.check("node DOWN", slurm)


@pytest.mark.alone
def test_slurmd_killed(slurm: Bench, matrix: Matrix) -> None:
    """A slurmd that is killed and back at once costs nothing. Where Slurm takes its node for lost
    meanwhile, the jobs there run again elsewhere, and nowhere twice at once.
    """
    driver = start_held(slurm, cores_per_node=2, max_blocks=2, exclusive=True, **SOON)
    nodes = {name: node for name, _, node in slurm.where()}
    lost = {name for name, node in nodes.items() if node == nodes["s0"]}
    control.kill_node(nodes["s0"])
    control.start_node(nodes["s0"])
    assert len(slurm.running_jobs()) == 2
    control.kill_node(nodes["s0"])
    try:
        wait_until(lambda: control.node_state(nodes["s0"]).startswith("down"), "it is missed", 90.0)
        assert not slurm.steps("overlap")
    finally:
        control.start_node(nodes["s0"])
    begin_again(slurm, driver, lost)
    slurm.let_go()
    finish_once(slurm, driver)
    wait_until(lambda: control.node_state(nodes["s0"]) == "idle", "the node is back")
    assert Counter(slurm.steps("begin")) == Counter([*FOUR, *lost])
    matrix.check("slurmd killed, its node lost", slurm)


@pytest.mark.alone
@pytest.mark.parametrize("step", ["batch", "0"])
def test_slurmstepd_killed(slurm: Bench, matrix: Matrix, step: str) -> None:
    """The slurmstepd of a pilot, or of its workers, is killed: each job is done once, and none runs
    twice at once, whether Slurm ends the pilot for that or not.
    """
    driver = start_held(slurm, **SOON)
    (pilot,) = slurm.jobs()
    control.kill_step(f"{pilot.id}.{step}")
    wait_until(lambda: time.monotonic() > end, "time") if (end := time.monotonic() + 20) else None
    slurm.let_go()
    finish_once(slurm, driver)
    matrix.check(f"slurmstepd of a pilot killed ({step})", slurm)


@pytest.mark.parametrize("name", ["slurm", "slurm-work-queue"])
def test_scancel_pilot(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """A running pilot is cancelled by somebody: its jobs run again in another
    one, and nothing is charged to them.
    """
    bench = make_bench(BY_NAME[name])
    driver = start_held(bench)
    (pilot,) = bench.jobs()
    control.cancel(pilot.id)
    begin_again(bench, driver, set(FOUR))
    assert pilot.id not in [number for _, number, _ in list(bench.where())[4:]]
    bench.let_go()
    finish_once(bench, driver)
    matrix.check("scancel of a pilot", bench)


@pytest.mark.parametrize("fault", ["preempted", "preempted, and put back into the queue", "requeued by hand"])
def test_another_job_comes_first(slurm: Bench, matrix: Matrix, fault: str) -> None:
    """A pilot is ended for a job that is more urgent, or begins again: its jobs run again in
    another one, or in the same, and nothing is charged to them.
    """
    options = "--requeue" if "queue" in fault else ""
    driver = start_held(slurm, exclusive=True, scheduler_options=options, **SOON)
    (pilot,), ((_, _, node), *_) = slurm.jobs(), slurm.where()
    if "preempted" in fault:
        control.submit("--partition=urgent", f"--nodelist={node}", "--exclusive", "--wrap=sleep 1")
    else:
        control.requeue(pilot.id)
    begin_again(slurm, driver, set(FOUR))
    again = {number for _, number, _ in list(slurm.where())[4:]}
    assert options or pilot.id not in again
    slurm.let_go()
    finish_once(slurm, driver)
    matrix.check(f"pilot {fault}", slurm)


def test_forgotten_pilot(slurm: Bench, matrix: Matrix) -> None:
    """A pilot ends and is forgotten by Slurm (MinJobAge) before the driver has looked at it: its
    jobs run again in another one, and nothing is charged to them.
    """
    driver = start_held(slurm)
    (pilot,) = slurm.jobs()
    driver.signal(signal.SIGSTOP)
    control.cancel(pilot.id)
    wait_until(lambda: pilot.id not in [job.id for job in control.jobs(ended=True)], "it is forgotten")
    driver.signal(signal.SIGCONT)
    begin_again(slurm, driver, set(FOUR))
    slurm.let_go()
    finish_once(slurm, driver)
    matrix.check("pilot forgotten by Slurm (MinJobAge)", slurm)


@pytest.mark.long
def test_walltime(slurm: Bench, matrix: Matrix) -> None:
    """Pilots end by their walltime: the jobs run again in another, and nothing
    is charged to them.
    """
    driver = start_held(slurm, partition="short", walltime="0:01:00", **SOON)
    begin_again(slurm, driver, set(FOUR))
    slurm.let_go()
    finish_once(slurm, driver)
    matrix.check("walltime of a pilot", slurm)


@pytest.mark.alone
def test_controller_stops(slurm: Bench, matrix: Matrix) -> None:
    """Slurm's controller is away for a minute in the middle: jobs that run go
    on and are done; blocks for others are asked for until it answers again.
    """
    settings = {"cores_per_node": 1, "max_blocks": 3}
    slurm.prepare([Step("s0"), *(Step(name, ["s0"]) for name in FOUR[1:])], site=settings)
    slurm.hold("s0")
    slurm.hold("s2")
    driver = slurm.drive("restart", "--id", slurm.id)
    slurm.await_step(driver, "s0")
    control.stop_controller()
    stopped = time.monotonic()
    try:
        slurm.let_go("s0")
        driver.wait_for("The run waits", 180.0)
        wait_until(lambda: {"s1", "s3"} & set(slurm.steps("end")), "another job is done")
        wait_until(lambda: time.monotonic() - stopped > 60.0, "a minute is over", 70.0)
    finally:
        control.start_controller()
    slurm.let_go("s2")
    finish_once(slurm, driver)
    matrix.check("slurmctld down for a minute", slurm)


@pytest.mark.alone
def test_controller_away_at_the_start(slurm: Bench, matrix: Matrix) -> None:
    """Slurm's controller is away when a run starts: the run says so, waits, and
    goes on as soon as it is there.
    """
    slurm.prepare([Step(name) for name in FOUR])
    control.stop_controller()
    try:
        driver = slurm.drive("restart", "--id", slurm.id)
        driver.wait_for("The run waits", 180.0)
    finally:
        control.start_controller()
    finish_once(slurm, driver)
    matrix.check("slurmctld down at the start", slurm)


@pytest.mark.alone
def test_controller_away_at_the_end(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """Slurm's controller is away when runs are interrupted and cancelled: each command ends in time
    and says what may be left; when the controller is back, nothing is left within two minutes, and
    the runs can be resumed.
    """
    names = ("Ctrl-C", "bps cancel", "bps cancel after the driver's death")
    benches = _, cancelled, dead = [make_bench(SLURM) for _ in names]
    drivers = [start_held(bench) for bench in benches]
    drivers.pop().kill()
    control.stop_controller()
    try:
        drivers[0].signal(signal.SIGINT)
        cancelled.bps("cancel", "--id", cancelled.id, timeout=30).succeeded()
        asked = dead.bps("cancel", "--id", dead.id, timeout=90)
        for driver in drivers:
            driver.finish(120).complained("may still be in the queue", "bps restart and bps cancel")
        asked.complained("squeue")
    finally:
        control.start_controller()
    wait_until(lambda: not any(bench.jobs() for bench in benches), "no pilot is left", 120.0)
    cancelled.bps("report", "--id", cancelled.id).succeeded()
    for name, bench in zip(names, benches, strict=True):
        bench.let_go()
        if bench is dead:
            bench.bps("cancel", "--id", bench.id).succeeded()
        bench.drive("restart", "--id", bench.id).finish(120).succeeded()
        bench.assert_each_once(FOUR)
        assert_uncharged(bench)
        matrix.check(f"slurmctld down at {name}", bench)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"partition": "nonsuch"}, "invalid partition specified"),
        ({"account": "refused"}, "Invalid account"),
        ({"partition": "closed"}, "account"),
        ({"nodes": 9}, "node"),
    ],
    ids=["partition", "account", "closed", "nodes"],
)
def test_refused(slurm: Bench, matrix: Matrix, settings: dict[str, Any], said: str) -> None:
    """What Slurm will never take ends the run with Slurm's own words."""
    slurm.prepare([Step(name) for name in FOUR], site=settings)
    finished = slurm.drive("restart", "--id", slurm.id).finish(60).complained("refuses", said)
    assert len(finished.stderr.strip().splitlines()) < 15, str(finished)
    assert not slurm.steps("begin")
    matrix.check(f"{next(iter(settings))} that Slurm refuses", slurm)


@pytest.mark.long
def test_pilots_of_a_dead_driver(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """Pilots of a driver that was killed end by themselves within two minutes,
    whatever they are, and with them their jobs; a restart finishes the runs.
    """
    names = ["slurm", "slurm-work-queue", "torque"]
    benches = [make_bench(BY_NAME[name]) for name in names]
    for bench in benches:
        start_held(bench).kill()
    try:
        wait_until(lambda: not any(bench.jobs() for bench in benches), "the pilots are gone", 120.0)
    except AssertionError as exc:
        left = {bench.engine.name: bench.jobs() for bench in benches if bench.jobs()}
        raise AssertionError(f"{exc}: {left}") from None
    for bench in benches:
        bench.assert_nothing_runs()
        bench.let_go()
    for driver in [bench.drive("restart", "--id", bench.id) for bench in benches]:
        driver.finish().succeeded()
    for bench in benches:
        bench.assert_each_once(FOUR)
        matrix.check("driver killed, and its pilots run", bench)


@pytest.mark.alone
@pytest.mark.parametrize("name", ["slurm", "torque"])
def test_queued_pilots_of_a_dead_driver(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str
) -> None:
    """Pilots that still wait in the queue when their driver is killed are
    removed by a cancel, and by a restart.
    """
    bench = make_bench(BY_NAME[name])
    bench.prepare([Step(name) for name in FOUR])
    with full_cluster():
        driver = bench.drive("restart", "--id", bench.id)
        wait_until(bench.jobs, "a pilot is in the queue")
        driver.kill()
        assert [job.state for job in bench.jobs()] == ["PENDING"]
        bench.bps("cancel", "--id", bench.id).succeeded()
        bench.assert_queue_empty(5.0)

        driver = bench.drive("restart", "--id", bench.id)
        wait_until(bench.jobs, "a pilot is in the queue")
        driver.kill()
        (left,) = bench.jobs()
        driver = bench.drive("restart", "--id", bench.id)
        wait_until(lambda: [job for job in bench.jobs() if job.id != left.id], "another pilot")
        assert left.id not in [job.id for job in bench.jobs()]
    finish_once(bench, driver)
    matrix.check("driver killed, and its pilots wait in the queue", bench)
