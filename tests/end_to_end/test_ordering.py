# SPDX-License-Identifier: BSD-3-Clause
"""BPS's ``ordering``: groups of jobs that run one after the other."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps import GenericWorkflow, GenericWorkflowExec, GenericWorkflowJob, WmsStates

from .support import Sandbox, events_of_kind, job_names, wait_until
from .test_bps_settings import Scripted, make_scripted, report_table
from .test_pipeline import run_id_of, submit_path_of
from .tinycam.repo import FILTERS

DETECTORS = 3
GROUPS = [[f"isr {name} {number}" for name in FILTERS] for number in range(DETECTORS)]
"""The quanta of each detector; ordered by detector, they are the groups."""
COMBINES = [f"combine {name}" for name in FILTERS]


@pytest.fixture(scope="module")
def scripted(shared_tiny: Sandbox) -> Scripted:
    """The tiny pipeline for three detectors; its quanta are small scripts."""
    shared_tiny.env["TINYCAM_DETECTORS"] = str(DETECTORS)
    return make_scripted(shared_tiny)


@pytest.fixture
def pipeline(box: Sandbox, scripted: Scripted) -> Scripted:
    """The same in a sandbox of one test."""
    return scripted.moved(box)


def flat(groups: Iterable[Iterable[str]]) -> list[str]:
    """Return the members of all groups."""
    return [name for group in groups for name in group]


def intervals(submit_path: Path) -> dict[str, tuple[float, float]]:
    """Return when each job that succeeded began and ended (s), by its name."""
    names = job_names(submit_path)
    found: dict[str, tuple[float, float]] = {}
    for event in events_of_kind(submit_path, "ok"):
        for number, start, end, *_ in event["j"]:
            found[names[number]] = (start, end)
    return found


def assert_one_after_the_other(
    times: dict[str, tuple[float, float]], groups: Sequence[Sequence[str]]
) -> None:
    """Check that no job begins before all of the group before it have ended."""
    for before, after in pairwise(groups):
        ended = max(times[name][1] for name in before)
        began = min(times[name][0] for name in after)
        # The clock of the journal has a resolution of 1 ms.
        assert began > ended - 0.001, f"{after} began before {before} had ended"


def ordering(**changes: Any) -> dict[str, Any]:
    """Return a section ``ordering`` that orders by detector."""
    return {"byDetector": {"labels": "isr", "dimensions": "detector", **changes}}


def assert_counts(pipeline: Scripted, run_id: str, **expected: dict[str, int]) -> None:
    """Check the rows of ``bps report``: those of jobs that run something, and no others."""
    table = report_table(pipeline.box, run_id)
    sizes = {"pipetaskInit": 1, "isr": 2 * DETECTORS, "combine": 2, "finalJob": 1}
    assert list(table) == ["TOTAL", *sizes], "labels, in the order of the pipeline"
    for label, size in sizes.items():
        assert table[label].pop("EXPECTED") == size, label
        assert {state: count for state, count in table[label].items() if count} == expected.get(
            label, {"SUCCEEDED": size}
        ), label
    assert table["TOTAL"].pop("EXPECTED") == sum(sizes.values())
    for state, total in table["TOTAL"].items():
        assert total == sum(table[label][state] for label in sizes), state


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["group", "noop"])
def test_in_sorted_order(pipeline: Scripted, implementation: str) -> None:
    """Quanta of a detector run together, when those of the detector before
    have ended and not earlier; what comes after them waits for the groups.
    """
    for name in GROUPS[0]:
        pipeline.box.hold(pipeline.nodes[name])
    path = pipeline.write(ordering=ordering(implementation=implementation))
    driver = pipeline.box.fork("submit", path)
    wait_until(lambda: set(GROUPS[0]) <= set(pipeline.steps("begin")), "both of the first group begin")
    assert set(pipeline.steps("begin")) == {"init", *GROUPS[0]}
    pipeline.box.let_go(pipeline.nodes[GROUPS[0][0]])
    submit_path = submit_path_of(driver.stdout)
    wait_until(lambda: len(intervals(submit_path)) == 2, "one of them has ended")
    runs = lambda: report_table(pipeline.box, submit_path)["isr"]["RUNNING"] == 1  # noqa: E731
    wait_until(runs, "its node has written that the other one runs")
    isr = report_table(pipeline.box, submit_path)["isr"]
    assert (isr["RUNNING"], isr["SUCCEEDED"], isr["EXPECTED"]) == (1, 1, 2 * DETECTORS)
    assert set(pipeline.steps("begin")) == {"init", *GROUPS[0]}
    pipeline.box.let_go(pipeline.nodes[GROUPS[0][1]])
    done = driver.finish().succeeded()

    began, ended = pipeline.steps("begin"), pipeline.steps("end")
    assert sorted(ended) == sorted(["init", *flat(GROUPS), *COMBINES, "final"])
    for before, after in zip(GROUPS, [*GROUPS[1:], COMBINES], strict=True):
        assert {name for name in before if name in began} == set(before)
        if implementation == "group" or after is not COMBINES:
            assert max(map(began.index, before)) < min(map(began.index, after))
    times = {pipeline.name_of(job): when for job, when in intervals(submit_path).items()}
    assert_one_after_the_other(times, GROUPS)
    for detectors in zip(*GROUPS, strict=True):
        combine = f"combine {detectors[0].split()[1]}"
        assert times[combine][0] > max(times[name][1] for name in detectors) - 0.001
    assert_counts(pipeline, run_id_of(done.stdout))


@pytest.mark.some(1)
@pytest.mark.parametrize(
    ("changes", "pruned"),
    [
        ({"implementation": "group", "blocking": False}, []),
        ({"implementation": "group", "blocking": True}, flat(GROUPS[1:])),
        ({"implementation": "noop"}, flat(GROUPS[1:])),
    ],
    ids=["group", "blocking group", "noop"],
)
def test_failure_in_the_first_group(
    pipeline: Scripted, changes: dict[str, object], pruned: list[str]
) -> None:
    """A quantum of the first group fails. The rest of its group runs. The next
    groups of the ordering run unless the group is blocking, or they wait for
    jobs that do nothing. All that needs the failed quantum is pruned. Once it
    is mended, a restart runs what is left, in the same order.
    """
    broken = GROUPS[0][0]
    pipeline.box.break_step(pipeline.nodes[broken], 2)
    path = pipeline.write(ordering=ordering(**changes))
    failed = pipeline.box.bps("submit", path).complained(f"step {pipeline.nodes[broken]} was told to fail")
    ran = [name for name in flat(GROUPS) if name != broken and name not in pruned]
    # BPS has what comes after a group wait for the group as a whole, and for
    # the jobs themselves where the order is made of jobs that do nothing.
    assert sorted(pipeline.steps("end")) == sorted(["init", *ran, "final"])
    run_id, submit_path = run_id_of(failed.stdout), submit_path_of(failed.stdout)
    assert pipeline.box.bps("status", "--id", run_id).code == WmsStates.FAILED.value
    isr = {"SUCCEEDED": len(ran), "FAILED": 1, "PRUNED": len(pruned)}
    assert_counts(
        pipeline,
        run_id,
        isr={state: count for state, count in isr.items() if count},
        combine={"PRUNED": 2},
    )

    pipeline.box.mend_step(pipeline.nodes[broken])
    pipeline.box.bps("restart", "--id", run_id).succeeded()
    ended = pipeline.steps("end")
    assert sorted(ended) == sorted(["init", *flat(GROUPS), *COMBINES, "final", "final"])
    times = {pipeline.name_of(job): when for job, when in intervals(submit_path).items()}
    if pruned:
        assert_one_after_the_other(times, GROUPS)
    assert min(times[name][0] for name in COMBINES) > times[broken][1] - 0.001
    assert_counts(pipeline, run_id)


@pytest.mark.slow
def test_failure_before_all_groups(pipeline: Scripted) -> None:
    """Where what all groups wait for fails, a group that does not block is no
    reason for the next one to run: all of them are pruned, and are whole again
    after a restart.
    """
    pipeline.box.break_step("init", 2)
    path = pipeline.write(ordering=ordering(implementation="group", blocking=False))
    failed = pipeline.box.bps("submit", path).complained("step init was told to fail")
    assert pipeline.steps("begin") == ["init", "final"]
    run_id = run_id_of(failed.stdout)
    isr, combine = {"PRUNED": 2 * DETECTORS}, {"PRUNED": 2}
    assert_counts(pipeline, run_id, pipetaskInit={"FAILED": 1}, isr=isr, combine=combine)
    pipeline.box.mend_step("init")
    pipeline.box.bps("restart", "--id", run_id).succeeded()
    assert_counts(pipeline, run_id)


@pytest.mark.slow
def test_groups_with_an_order_within(pipeline: Scripted) -> None:
    """A group of all that a dataset depends on keeps the order within itself.
    What fails in it prunes what needs it there, and in time what waits for the
    whole group, here a final job that wants success; the next group runs.
    """
    box = pipeline.box
    box.break_step(pipeline.nodes["isr g 1"], 2)
    path = pipeline.write(
        finalJob={"whenRun": "SUCCESS"},
        ordering={
            "filters": {
                "labels": "isr, combine",
                "dimensions": "physical_filter",
                "findDependencyMethod": "sink",
                "blocking": False,
            }
        },
    )
    failed = box.bps("submit", path).complained("was told to fail")
    groups = [
        [f"isr {name} {number}" for number in range(DETECTORS)] + [f"combine {name}"] for name in FILTERS
    ]
    ended = pipeline.steps("end")
    assert sorted(ended) == sorted({"init", *flat(groups)} - {"isr g 1", "combine g"})
    assert ended[-1] == "combine r", "after the quanta of its group"
    run_id = run_id_of(failed.stdout)
    assert_counts(
        pipeline,
        run_id,
        isr={"SUCCEEDED": 2 * DETECTORS - 1, "FAILED": 1},
        combine={"SUCCEEDED": 1, "PRUNED": 1},
        finalJob={"PRUNED": 1},
    )
    box.mend_step(pipeline.nodes["isr g 1"])
    box.bps("restart", "--id", run_id).succeeded()
    assert pipeline.steps("end")[len(ended) :] == ["isr g 1", "combine g", "final"]
    assert_counts(pipeline, run_id)


def test_two_orderings_and_two_dimensions(pipeline: Scripted) -> None:
    """Groups by two dimensions run in the order of the first, then of the
    second; an ordering of other labels has an order of its own.
    """
    path = pipeline.write(
        site={"local": {"cores": 4}},
        ordering={
            "each": {"labels": "isr", "dimensions": "physical_filter,detector", "implementation": "group"},
            "totals": {"labels": "combine", "dimensions": "physical_filter", "implementation": "noop"},
        },
    )
    done = pipeline.box.bps("submit", path).succeeded()
    order = [f"isr {name} {number}" for name in FILTERS for number in range(DETECTORS)]
    ended = pipeline.steps("end")
    assert [name for name in ended if name in order] == order
    assert [name for name in ended if name in COMBINES] == COMBINES
    assert (ended[0], ended[-1], len(ended)) == ("init", "final", len(order) + 4)
    times = {pipeline.name_of(job): when for job, when in intervals(submit_path_of(done.stdout)).items()}
    assert_one_after_the_other(times, [[name] for name in order])
    assert_one_after_the_other(times, [[name] for name in COMBINES])
    assert_counts(pipeline, run_id_of(done.stdout))


def chain_groups(visits: int) -> list[list[str]]:
    """Return the names of the jobs of each visit, in the order of the visits."""
    return [
        [f"{label}_{visit}_{detector}" for label in ("isr", "diff") for detector in range(2)]
        for visit in range(1, visits + 1)
    ]


def chain(box: Sandbox, visits: int, implementation: str) -> GenericWorkflow:
    """Return two tasks for each visit and detector. BPS names what one of
    them works on an exposure.
    """
    workflow = box.generic([])
    executable = GenericWorkflowExec("true", "/bin/true", False)
    # Not in the order of the visits: the order is for the sections to make.
    for visit in range(visits, 0, -1):
        for detector in range(2):
            for label, dimension in (("isr", "exposure"), ("diff", "visit")):
                job = GenericWorkflowJob(f"{label}_{visit}_{detector}", label, executable=executable)
                job.tags = {dimension: visit, "detector": detector}
                job.request_cpus, job.request_memory = 1, 64
                workflow.add_job(job)
            workflow.add_job_relationships(f"isr_{visit}_{detector}", f"diff_{visit}_{detector}")
    workflow.add_special_job_ordering(
        {
            "visits": {
                "labels": "isr,diff",
                "dimensions": "visit",
                "equalDimensions": "visit:exposure",
                "implementation": implementation,
            }
        }
    )
    return workflow


@dataclass(frozen=True)
class Chained:
    """A chain that ran."""

    submit_path: Path
    prepared: float
    """CPU time that our part of the preparation took (s); it does not depend
    on who else uses the machine.
    """

    ran: float
    """CPU time of the run and its jobs (s)."""


def run_chain(box: Sandbox, visits: int, implementation: str) -> Chained:
    """Prepare and run a chain."""
    workflow = chain(box, visits, implementation)
    name = f"{implementation}{visits}"
    start = time.process_time()
    box.prepare(workflow, name)
    prepared = time.process_time() - start
    submit_path = box.submit_path.with_name(name)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    box.bps("restart", "--id", submit_path).succeeded()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Chained(submit_path, prepared, ran)


# BPS takes a time for "noop" that grows with the square of the length.
@pytest.mark.slow
@pytest.mark.parametrize(("implementation", "length"), [("group", 500), ("noop", 200)])
def test_long_chain(box: Sandbox, implementation: str, length: int) -> None:
    """Thousands of jobs, a group for each visit: for each detector, the order
    is that of the visits, all jobs of a visit end before the next one's
    begin, and a job costs no more in a chain of twice the length.
    """
    short, long = (run_chain(box, visits, implementation) for visits in (length, 2 * length))
    for chained, visits in ((short, length), (long, 2 * length)):
        times = intervals(chained.submit_path)
        groups = chain_groups(visits)
        assert len(times) >= 4 * visits
        assert_one_after_the_other(times, groups)
        for visit, group in enumerate(groups, start=1):
            assert set(group) <= set(times), visit
            for detector in range(2):
                began, ended = times[f"diff_{visit}_{detector}"], times[f"isr_{visit}_{detector}"]
                assert began[0] > ended[1] - 0.001
    assert long.ran < 3 * short.ran, f"time of the run, {short} and {long}"
    assert long.prepared < 3 * short.prepared + 0.5, f"time of prepare, {short} and {long}"
    table = report_table(box, long.submit_path)
    assert {label: row["EXPECTED"] for label, row in table.items()} == {
        "TOTAL": 8 * length,
        "isr": 4 * length,
        "diff": 4 * length,
    }
