# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong with pilots in Slurm: each run ends with its jobs done, or says why not."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from cluster import control
from cluster.engines import SOON, Bench, Engine
from end_to_end.support import Finished, Running, Step, events_of_kind, wait_until

from .engines import BY_NAME
from .matrix import Matrix

pytestmark = pytest.mark.on_cluster

FOUR = [f"s{number}" for number in range(4)]


def start_held(bench: Bench, **site: Any) -> Running:
    """Start a run of four steps and return when all of them run, and wait."""
    driver = start_soon_held(bench, **site)
    bench.await_step(driver, *FOUR)
    return driver


def start_soon_held(bench: Bench, **site: Any) -> Running:
    """Start a run of four steps that are going to wait."""
    bench.prepare([Step(name) for name in FOUR], site=site)
    bench.hold()
    return bench.drive("restart", "--id", bench.id)


def finish_once(bench: Bench, driver: Running) -> Finished:
    """Check that a run comes to a good end, with each job done once, and none charged."""
    finished = driver.finish().succeeded()
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


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("slurm", "preempted"),
        ("slurm", "preempted, and put back into the queue"),
        ("slurm", "requeued by hand"),
        ("slurm-work-queue", "requeued by hand"),
    ],
)
def test_another_job_comes_first(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str, fault: str
) -> None:
    """A pilot is ended for a job that is more urgent, or begins again: its jobs run again in
    another one, or in the same, and nothing is charged to them.
    """
    slurm = make_bench(BY_NAME[name])
    options = "--requeue" if "back into" in fault else ""
    soon = SOON if name == "slurm" else {}
    driver = start_held(slurm, exclusive=True, scheduler_options=options, **soon)
    (pilot,), ((_, _, node), *_) = slurm.jobs(), slurm.where()
    if "preempted" in fault:
        control.submit("--partition=urgent", f"--nodelist={node}", "--exclusive", "--wrap=sleep 1")
    else:
        control.requeue(pilot.id)
    begin_again(slurm, driver, set(FOUR))
    again = {number for _, number, _ in list(slurm.where())[4:]}
    assert fault != "preempted" or pilot.id not in again
    slurm.let_go()
    finish_once(slurm, driver)
    matrix.check(f"pilot {fault}", slurm)


@pytest.mark.quick
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


@pytest.mark.quick
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
    finished = slurm.drive("restart", "--id", slurm.id).finish().complained("refuses", said)
    assert len(finished.stderr.strip().splitlines()) < 15, str(finished)
    assert not slurm.steps("begin")
    matrix.check(f"{next(iter(settings))} that Slurm refuses", slurm)


@pytest.mark.long
@pytest.mark.parametrize(
    "names",
    [("slurm", "torque"), pytest.param(("slurm-work-queue",), marks=pytest.mark.work_queue)],
    ids="-".join,
)
def test_pilots_of_a_dead_driver(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, names: tuple[str, ...]
) -> None:
    """Pilots of a driver that was killed end by themselves within two minutes,
    whatever they are, and with them their jobs; a restart finishes the runs.
    """
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
