# SPDX-License-Identifier: BSD-3-Clause
"""Blocks come and go with the ready jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import yaml

from end_to_end.support import Step, wait_until
from lsst.ctrl.bps.parsl.errors import ParslBpsError

from . import control
from .engines import ENGINES, LOCAL, SLURM, SOON, Bench, Engine

BY_NAME = {engine.name: engine for engine in ENGINES}


def test_grow_and_shrink(slurm: Bench) -> None:
    """There are as many blocks as the ready jobs need, up to ``max_blocks``;
    those without work are ended while a long job goes on elsewhere.
    """
    short = [f"s{number}" for number in range(6)]
    slurm.prepare(
        [Step("long"), *(Step(name) for name in short)],
        site={"cores_per_node": 2, "max_blocks": 3, "idle_time": 5},
    )
    slurm.hold("long")
    for name in short:
        slurm.hold(name)
    driver = slurm.drive("restart", "--id", slurm.id)
    wait_until(lambda: len(slurm.steps("begin")) == 6, "all places are taken", 120.0)
    assert len(slurm.jobs()) == 3
    for name in short:
        slurm.let_go(name)
    wait_until(lambda: set(slurm.steps("end")) >= set(short), "the short ones are done")
    wait_until(lambda: len(slurm.jobs()) == 1, "the idle blocks end", 120.0)
    assert driver.poll() is None
    slurm.let_go("long")
    driver.finish().succeeded()
    assert slurm.steps("begin").count("long") == 1
    slurm.assert_each_once(["long", *short])


@pytest.mark.parametrize("name", ["slurm", "triple-slurm", "torque", "slurm-work-queue", "local-srun"])
def test_memory_no_pilot_has(make_bench: Callable[[Engine], Bench], name: str) -> None:
    """A job that asks for more memory than any pilot of the site could have is
    refused before anything runs: the sentence names it, its request and the
    most that there is.
    """
    bench = make_bench(BY_NAME[name])
    largest = 5000 if name == "local-srun" else 4096
    site = {} if name == "local-srun" else {"mem_per_node": 4}
    steps = [Step("usual"), Step("fitting", fields={"request_memory": largest})]
    bench.prepare(steps, name="fitting", site=site)
    steps.append(Step("huge", fields={"request_memory": largest + 1}))
    with pytest.raises(ParslBpsError) as caught:
        bench.prepare(steps, site=site)
    for part in ("huge", f"{largest + 1} MB", f"{largest} MB"):
        assert part in str(caught.value)
    assert "usual" not in str(caught.value)


def test_time_left(slurm: Bench) -> None:
    """A job that says how long it takes does not run in a pilot that ends
    before; it gets a fresh one.
    """
    slurm.prepare(
        [Step("before"), Step("after", ["before"], fields={"request_walltime": 1})],
        site={"walltime": "0:01:15", "max_blocks": 2},
    )
    slurm.hold("before")
    driver = slurm.drive("restart", "--id", slurm.id)
    slurm.await_step(driver, "before")
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 16, "less than a minute is left of the pilot")
    slurm.let_go("before")
    driver.finish().succeeded()
    pilots = {name: number for name, number, _ in slurm.where()}
    assert pilots["before"] != pilots["after"]
    slurm.assert_each_once(["before", "after"])
    assert slurm.steps("begin") == ["before", "after"]


@pytest.mark.parametrize("walltime", ["0:01:00", "0:02:00"])
def test_time_that_no_pilot_has(slurm: Bench, walltime: str) -> None:
    """A job that takes as long as a pilot lasts, or longer, is refused when it
    is prepared: no pilot would ever have that much time left.
    """
    with pytest.raises(ParslBpsError, match="endless"):
        slurm.prepare([Step("endless", fields={"request_walltime": 2})], site={"walltime": walltime})


def test_singleton(slurm: Bench) -> None:
    """With ``singleton``, never two blocks run at once; where one ends, the
    next one takes over.
    """
    names = ["s0", "s1", "s2"]
    slurm.prepare(
        [Step(name) for name in names],
        site={"cores_per_node": 1, "max_blocks": 2, "singleton": True, **SOON},
    )
    most = 0

    def states() -> list[str]:
        nonlocal most
        found = sorted(job.state for job in slurm.jobs() if job.state != "COMPLETING")
        most = max(most, found.count("RUNNING"))
        return found

    for name in names:
        slurm.hold(name)
    driver = slurm.drive("restart", "--id", slurm.id)
    wait_until(lambda: states() == ["PENDING", "RUNNING"] and slurm.steps("begin"), "one runs, one waits")
    (first,) = slurm.running_jobs()
    (waiting,) = (job for job in slurm.jobs() if job.state == "PENDING")
    control.cancel(first.id)
    wait_until(lambda: waiting.id in [job.id for job in slurm.running_jobs()], "the other one starts")
    for name in names:
        slurm.let_go(name)
    wait_until(lambda: states() is not None and driver.poll() is not None, "the run ends", 180.0)
    driver.finish().succeeded()
    assert most == 1
    slurm.assert_each_once(names)


def test_first_and_least_blocks(slurm: Bench) -> None:
    """``init_blocks`` blocks are there at the start, whatever there is to do,
    and ``min_blocks`` of them stay.
    """
    slurm.prepare(
        [Step("only")],
        site={"cores_per_node": 1, "init_blocks": 3, "min_blocks": 2, "max_blocks": 4, "idle_time": 5},
    )
    slurm.hold("only")
    driver = slurm.drive("restart", "--id", slurm.id)
    wait_until(lambda: len(slurm.running_jobs()) == 3, "three blocks", 120.0)
    slurm.await_step(driver, "only")
    wait_until(lambda: len(slurm.jobs()) == 2, "two are left", 120.0)
    shrunk = time.monotonic()
    wait_until(lambda: len(slurm.jobs()) != 2 or time.monotonic() - shrunk > 15, "three times idle_time")
    assert len(slurm.running_jobs()) == 2
    slurm.let_go("only")
    driver.finish().succeeded()
    slurm.assert_queue_empty()


def test_two_sites(make_bench: Callable[[Engine], Bench], with_repo: Callable[[Bench], Bench]) -> None:
    """A label with a ``computeSite`` of its own runs there, in one run with
    those that run on the site of the run.
    """
    bench = with_repo(make_bench(SLURM))
    path = bench.tinycam()
    content = yaml.safe_load(path.read_text())
    content["site"]["beside"] = dict(LOCAL.site)

    def told(label: str) -> str:
        return f"{bench.step} {label}-{{qgraphNodeId}}"

    content["pipetask"] = {
        "pipetaskInit": {"runQuantumCommand": f"{bench.step} init", "computeSite": "beside"},
        "isr": {"runQuantumCommand": told("isr"), "computeSite": "beside"},
        "combine": {"runQuantumCommand": told("combine")},
    }
    content["finalJob"]["command1"] = f"{bench.step} final"
    path.write_text(yaml.safe_dump(content))
    bench.drive("submit", path).finish().succeeded()
    found = sorted(
        (name.split("-")[0], number != "none") for name, number, _ in bench.where() if name != "final"
    )
    expected = [("combine", True), ("combine", True), ("init", False), ("isr", False), ("isr", False)]
    assert found == expected, "labels, and whether they ran in a batch job"


@pytest.mark.work_queue
def test_work_queue_keeps_to_memory(make_bench: Callable[[Engine], Bench]) -> None:
    """Work Queue runs as many jobs at once as their memory requests allow, however many cores there are."""
    bench = make_bench(BY_NAME["slurm-work-queue"])
    names = [f"s{number}" for number in range(5)]
    bench.prepare([Step(name, fields={"request_memory": 1900}) for name in names])
    for name in names:
        bench.hold(name)
    driver = bench.drive("restart", "--id", bench.id)
    for let_go in range(len(names)):
        expected = min(let_go + 2, len(names))
        wait_until(partial(bench.have_begun, expected), "two at once", 120.0)
        bench.let_go(bench.steps("begin")[let_go])
    driver.finish().succeeded()
    running = most = 0
    for line in (bench.path / "steps.txt").read_text().splitlines():
        running += line.startswith("begin ") - line.startswith("end ")
        most = max(most, running)
    assert most == 2, "4096 MB hold two of 1900 MB"
