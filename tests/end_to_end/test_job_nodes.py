# SPDX-License-Identifier: BSD-3-Clause
"""Noop nodes, groups, final jobs, and jobs that stop a run: with threads and with workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lsst.ctrl.bps import (
    GenericWorkflow,
    GenericWorkflowExec,
    GenericWorkflowGroup,
    GenericWorkflowNoopJob,
    WmsStates,
)

from .support import Running, Step, events_of_kind, report_counts, wait_until
from .workers import HTEX, THREADS, Bench, Engine


def counts(bench: Bench, label: str) -> dict[str, int]:
    """Return the numbers of ``bps report --id`` for a label."""
    return report_counts(bench.bps("report", "--id", bench.submit_path).succeeded().stdout, label)


def begun(bench: Bench, driver: Running, *names: str) -> None:
    """Wait until steps have begun."""

    def seen() -> bool:
        assert driver.poll() is None, driver.finish()
        return set(names) <= set(bench.steps("begin"))

    wait_until(seen, f"{names} begin")


class Graph:
    """A workflow with nodes of all kinds."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.workflow = bench.generic([])

    def jobs(self, *names: str, after: Sequence[str] = (), within: GenericWorkflow | None = None) -> None:
        """Add some jobs."""
        for name in names:
            job = self.bench.job(Step(name))
            (self.workflow if within is None else within).add_job(job, parent_names=list(after))

    def noops(self, *names: str, after: Sequence[str] = ()) -> None:
        """Add nodes that do nothing."""
        for name in names:
            self.workflow.add_job(GenericWorkflowNoopJob(name, "order"), parent_names=list(after))

    def group(
        self,
        name: str,
        label: str,
        *members: str,
        after: Sequence[str] = (),
        blocking: bool = False,
        within: GenericWorkflow | None = None,
    ) -> GenericWorkflowGroup:
        """Add a group of jobs."""
        group = GenericWorkflowGroup(name, label, blocking=blocking)
        self.jobs(*members, within=group)
        (self.workflow if within is None else within).add_job(group, parent_names=list(after))
        return group


def final_workflow(bench: Bench) -> GenericWorkflow:
    """Return two dependent final jobs, one that depends on nothing, and one that tells where it runs."""
    final = GenericWorkflow("final")
    for step in (*(Step(f"final{n}", label="end") for n in (1, 2, 3)), bench.telling("final4", label="end")):
        final.add_job(bench.job(step))
    final.add_edge("final1", "final2")
    final.add_edge("final3", "final4")
    return final


def all_kinds(bench: Bench) -> GenericWorkflow:
    """Return a workflow in which the jobs ``bad...`` are to fail."""
    graph = Graph(bench)
    # Noop nodes, one after another.
    graph.jobs("noop_a", "noop_b")
    graph.noops("order", after=["noop_a", "noop_b"])
    graph.noops("order again", after=["order"])
    graph.jobs("noop_c", after=["order again"])
    graph.jobs("bad1")
    graph.noops("order bad", after=["bad1"])
    graph.noops("order bad again", after=["order bad"])
    graph.jobs("pruned_noop", after=["order bad again"])
    # A group that does not block.
    graph.jobs("open_before")
    open_group = graph.group("open1", "open", "bad2", "open_member", after=["open_before"])
    graph.jobs("pruned_member", within=open_group, after=["bad2"])
    graph.group("open2", "open", "open_next", after=["open1"])
    graph.jobs("open_after_next", after=["open2"])
    graph.jobs("pruned_after_open", after=["open1"])
    graph.noops("order open", after=["open1"])
    graph.jobs("pruned_after_order", after=["order open"])
    graph.group("other", "another", "pruned_other_label", after=["open1"])
    graph.group("open4", "open", "pruned_behind_order", after=["order open"])
    # One that does.
    graph.group("closed1", "closed", "bad3", "closed_member", blocking=True)
    graph.group("closed2", "closed", "pruned_closed_next", after=["closed1"], blocking=True)
    graph.jobs("pruned_after_closed", after=["closed1"])
    # Groups in a group, and one of nobody.
    outer = graph.group("outer1", "outer", "outer_member")
    graph.group("inner1", "inner", "bad4", within=outer)
    graph.group("inner2", "inner", "inner_next", within=outer, after=["inner1"])
    graph.jobs("pruned_inner", within=outer, after=["inner1"])
    graph.group("outer2", "outer", "outer_next", after=["outer1"])
    graph.jobs("pruned_after_outer", after=["outer1"])
    graph.jobs("empty_before")
    graph.group("empty", "nobody", after=["empty_before"])
    graph.jobs("empty_after", after=["empty"])
    graph.workflow.add_final(final_workflow(bench))
    return graph.workflow


def names_of(workflow: GenericWorkflow) -> set[str]:
    """Return the names of the jobs in a workflow and its groups."""
    found = set()
    for name in workflow:
        node = workflow.get_job(name)
        if isinstance(node, GenericWorkflowGroup):
            found |= names_of(node)
        elif not isinstance(node, GenericWorkflowNoopJob):
            found.add(name)
    return found


ORDER = [
    ("noop_a", "noop_c"),
    ("noop_b", "noop_c"),
    ("open_before", "open_member"),
    ("open_member", "open_next"),
    ("open_next", "open_after_next"),
    ("outer_member", "outer_next"),
    ("inner_next", "outer_next"),
    ("empty_before", "empty_after"),
]


@pytest.mark.slow
def test_nodes_of_all_kinds(bench: Bench) -> None:
    """Noop nodes order jobs, run nothing and are not counted. After a failure what
    comes after a noop is pruned, and so is what comes after a group, except that
    the next group of the same label runs where the group does not block. The final
    workflow runs when all others have ended, on the submit host; what depends on a
    final job that failed is pruned. When all is mended, a restart does the rest.
    """
    workflow = all_kinds(bench)
    names = names_of(workflow)
    bench.prepare(workflow)
    bad = {name for name in names if name.startswith("bad")}
    pruned = {name for name in names if name.startswith("pruned")}
    for name in (*bad, "final1"):
        bench.break_step(name)
    bench.drive().finish().complained("could not run because of that")
    steps = bench.steps("begin")
    ends = bench.steps("end")
    assert set(ends) - {"final3"} == names - bad - pruned
    assert Counter(steps) == Counter({*ends, *bad, "final1"}), "each once"
    for first, second in ORDER:
        assert ends.index(first) < steps.index(second), (first, second)
    assert {*steps[-2:]} == {"final1", "final3"}
    assert len(bench.told("final4")) == 1
    if bench.engine == HTEX:
        assert "TEST_LABEL" not in bench.told("final4")[0]["environ"], "on the submit host"
    total = counts(bench, "TOTAL")
    assert total == {
        "SUCCEEDED": len(ends) + 1,
        "FAILED": len(bad) + 1,
        "PRUNED": len(pruned) + 1,
        "EXPECTED": len(names) + 4,
    }
    assert counts(bench, "end") == {"SUCCEEDED": 2, "FAILED": 1, "PRUNED": 1, "EXPECTED": 4}

    for name in (*bad, "final1"):
        bench.mend_step(name)
    bench.drive().finish().succeeded()
    again = Counter(bench.steps("end")) - Counter(ends)
    assert set(again) >= bad | pruned | {"final1", "final2"}
    assert set(again) <= bad | pruned | {"final1", "final2", "final3"}, "others do not run again"
    assert counts(bench, "TOTAL") == {"SUCCEEDED": len(names) + 4, "EXPECTED": len(names) + 4}


def test_next_group_waits(make_bench: Callable[[Engine], Bench]) -> None:
    """The next group waits until all jobs of a group that failed have ended."""
    bench = make_bench(THREADS)
    graph = Graph(bench)
    graph.group("one", "open", "bad", "slow")
    graph.group("two", "open", "next", after=["one"])
    bench.prepare(graph.workflow)
    bench.break_step("bad")
    bench.hold("slow")
    driver = bench.drive()
    begun(bench, driver, "slow")
    wait_until(lambda: events_of_kind(bench.submit_path, "fail"), "bad fails")
    assert "next" not in bench.steps("begin")
    bench.let_go("slow")
    driver.finish().complained("1 job of run failed")
    assert bench.steps("end") == ["slow", "next"]


@pytest.mark.some(1)
def test_cancel(bench: Bench) -> None:
    """After ``bps cancel`` the final workflow runs in its order, and what had not
    ended is DELETED.
    """
    workflow = bench.generic([Step("held"), Step("child", ["held"])])
    workflow.add_final(final_workflow(bench))
    bench.prepare(workflow)
    bench.hold("held")
    driver = bench.drive()
    begun(bench, driver, "held")
    bench.bps("cancel", "--id", bench.submit_path).succeeded()
    driver.finish().complained("was cancelled")
    ends = bench.steps("end")
    assert sorted(ends) == ["final1", "final2", "final3"]
    assert ends.index("final1") < ends.index("final2")
    assert counts(bench, "TOTAL") == {"SUCCEEDED": 4, "DELETED": 2, "EXPECTED": 6}


@pytest.mark.some(1)
@pytest.mark.parametrize(
    ("engine", "value", "code"),
    [(THREADS, None, 42), (THREADS, 0, 0), (THREADS, 99, 99), (HTEX, 99, 99)],
    ids=["threads-unset", "threads-zero", "threads-set", "htex-set"],
)
def test_abort(make_bench: Callable[[Engine], Bench], engine: Engine, value: int | None, code: int) -> None:
    """A job that ends with ``abortOnValue`` stops the run: what runs is ended, the
    rest is DELETED, it has no retry, the final job runs, and the exit status is
    ``abortReturnValue`` or, without it, the job's. A restart resumes the run.
    """
    bench = make_bench(engine)
    fields = {"abort_on_value": 42, "abort_return_value": value, "number_of_retries": 3}
    steps = [
        Step("done"),
        Step("abort", ["done"], fields=fields),
        Step("beside", ["done"]),
        Step("child", ["abort"]),
        Step("late", ["beside"]),
    ]
    bench.prepare(steps, final=Step("final", label="finalJob"))
    bench.break_step("abort", 42)
    bench.hold("abort")
    bench.hold("beside")
    driver = bench.drive()
    begun(bench, driver, "abort", "beside")
    bench.let_go("abort")
    finished = driver.finish()
    assert finished.code == code, finished
    assert "Traceback" not in finished.text, finished
    assert Counter(bench.steps("begin")) == Counter(["done", "abort", "beside", "final"])
    assert bench.steps("end") == ["done", "final"]
    report = bench.bps("report", "--id", bench.submit_path).succeeded().stdout
    assert "DELETED" in report
    assert bench.bps("status", "--id", bench.submit_path).code == WmsStates.DELETED.value
    total = counts(bench, "TOTAL")
    # What depends on the job itself may as well be said to be pruned.
    assert total.pop("PRUNED", 0) + total.pop("DELETED") == 3
    assert total == {"SUCCEEDED": 2, "FAILED": 1, "EXPECTED": 6}
    (fail,) = [event for event in events_of_kind(bench.submit_path, "fail") if event["exit"] == 42]
    assert not fail["retry"]

    bench.mend_step("abort")
    bench.let_go("beside")
    bench.drive().finish().succeeded()
    assert Counter(bench.steps("end")) == Counter(
        ["done", "abort", "beside", "child", "late", "final", "final"]
    )


def test_final_workflow_of_one_label(make_bench: Callable[[Engine], Bench]) -> None:
    """Final jobs of one label may depend on each other, as other jobs may: BPS has
    no order of the labels then.
    """
    bench = make_bench(THREADS)
    workflow = bench.generic([Step("a")])
    workflow.add_job(bench.job(Step("b")), parent_names=["a"])
    final = GenericWorkflow("final")
    final.add_job(bench.job(Step("c", label="end")))
    final.add_job(bench.job(Step("d", label="end")), parent_names=["c"])
    workflow.add_final(final)
    bench.prepare(workflow)
    bench.drive().finish().succeeded()
    assert bench.steps("end") == ["a", "b", "c", "d"]


def test_other_codes_do_not_abort(make_bench: Callable[[Engine], Bench]) -> None:
    """Another exit code than ``abortOnValue`` is a failure like any other."""
    bench = make_bench(THREADS)
    fields: dict[str, Any] = {"abort_on_value": 42, "abort_return_value": 99, "number_of_retries": 1}
    bench.prepare([bench.telling("a", "3,41", **fields), Step("b", ["a"]), Step("c")])
    finished = bench.drive().finish().complained("1 job of run failed")
    assert finished.code == 1
    assert [event["retry"] for event in events_of_kind(bench.submit_path, "fail")] == [True, False]
    assert bench.steps("end") == ["c"]


def test_last_failure_aborts(make_bench: Callable[[Engine], Bench]) -> None:
    """A retry can end with ``abortOnValue``, and then the run stops as well."""
    bench = make_bench(THREADS)
    fields: dict[str, Any] = {"abort_on_value": 42, "number_of_retries": 5}
    bench.prepare([bench.telling("a", "3,42,0", **fields), Step("b", ["a"])])
    assert bench.drive().finish().code == 42
    assert len(bench.told("a")) == 2


def test_final_script_is_made_executable(make_bench: Callable[[Engine], Bench]) -> None:
    """A final job whose executable is to be transferred has it copied as others do."""
    bench = make_bench(THREADS)
    source = bench.script("final job.bash", f"echo ran >>{bench.path}/steps.txt\n", mode=0o600)
    executable = GenericWorkflowExec("final job.bash", str(source), True)
    bench.prepare([Step("a")], final=Step("final", label="finalJob", fields={"executable": executable}))
    source.unlink()
    bench.drive().finish().succeeded()
    assert (bench.path / "steps.txt").read_text().endswith("ran\n")
