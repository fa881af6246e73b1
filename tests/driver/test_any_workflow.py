# SPDX-License-Identifier: BSD-3-Clause
"""Any workflow of BPS's, with any failures, limits, and a kill at any event.

How each job must end is computed here from BPS's workflow alone, as the
documentation's table of nodes has it, and not from the plan.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import networkx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from driver.test_loop import Tape, check_not_again, succeeded_on_disk
from lsst.ctrl.bps import (
    GenericWorkflow,
    GenericWorkflowGroup,
    GenericWorkflowJob,
    GenericWorkflowNode,
    GenericWorkflowNoopJob,
)
from lsst.ctrl.bps.parsl.driver.loop import Driver
from lsst.ctrl.bps.parsl.plan.plan import JobKind, Plan
from prepare.test_translate import Setting, make_job
from support.fake import LOST, SUCCEEDS, FakeBackend, Outcome, after, drive, fails

RETRIES = 2
LIMITS = {"db": 1, "tape": 2, "visits": 2}
OUTCOMES = [
    SUCCEEDS,
    SUCCEEDS,
    fails(3),
    fails(127),
    after(RETRIES, fails(3), SUCCEEDS),
    after(2, LOST, SUCCEEDS),
    after(1, LOST, fails(3)),
]


@dataclass
class Drawn:
    """A workflow, and what becomes of its jobs."""

    workflow: GenericWorkflow
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def broken(self) -> set[str]:
        """Names of the jobs that never succeed."""
        return {name for name, outcome in self.outcomes.items() if outcome(1_000)["exit"] != 0}

    def __repr__(self) -> str:
        return f"{_described(self.workflow)} {self.outcomes}"


def _described(part: GenericWorkflow) -> str:
    texts = []
    for name in part.nodes:
        node = part.get_job(name)
        inner = _described(node) if isinstance(node, GenericWorkflowGroup) else ""
        blocking = f" blocking={node.blocking}" if isinstance(node, GenericWorkflowGroup) else ""
        texts.append(f"{name}:{node.label}{blocking}{inner} < {sorted(part.predecessors(name))}")
    return f"[{'; '.join(texts)}]"


@st.composite
def workflows(draw: st.DrawFn) -> Drawn:
    """Draw a workflow of jobs, noop jobs and groups in groups, with a final job or without."""
    rng = draw(st.randoms(use_true_random=False))
    drawn = Drawn(GenericWorkflow("w"))
    _Filler(drawn, rng).fill(drawn.workflow)
    if rng.random() < 0.5:
        drawn.workflow.add_final(make_job("final", "finalJob", number_of_retries=RETRIES))
    return drawn


class _Filler:
    """Fills workflows and groups with nodes."""

    def __init__(self, drawn: Drawn, rng: random.Random) -> None:
        self._drawn = drawn
        self._rng = rng
        self._numbers = count()

    def fill(self, part: GenericWorkflow, depth: int = 0) -> None:
        """Add nodes, each after some of those before it."""
        rng = self._rng
        names: list[str] = []
        for _ in range(rng.randint(1, 5 - 2 * depth)):
            kind = rng.choice(
                ["job", "job", "noop", "ordering", "ordering"] if depth < 2 else ["job", "noop"]
            )
            new = self._ordering(part, depth) if kind == "ordering" else [self._node(part, kind)]
            for name in new:
                edges = [(other, name) for other in names if rng.random() < 0.3]
                networkx.DiGraph.add_edges_from(part, edges)
            names += new

    def _name(self) -> str:
        return f"n{next(self._numbers)}"

    def _ordering(self, part: GenericWorkflow, depth: int) -> list[str]:
        """Add groups one after the other, as BPS does for ``ordering``; some
        of another label.
        """
        rng = self._rng
        label, blocking = rng.choice("xy"), rng.random() < 0.3
        names: list[str] = []
        for _ in range(rng.randint(1, 3)):
            own_label = label if rng.random() < 0.8 else "other"
            group = GenericWorkflowGroup(self._name(), own_label, blocking=blocking)
            self.fill(group, depth + 1)
            part.add_job(group)
            networkx.DiGraph.add_edges_from(part, [(names[-1], group.name)] if names else [])
            names.append(group.name)
        return names

    def _node(self, part: GenericWorkflow, kind: str) -> str:
        rng, name = self._rng, self._name()
        if kind == "noop":
            part.add_job(GenericWorkflowNoopJob(name, "noop"))
            return name
        limit = rng.choice([None, None, "db", "db, tape", "unknown"])
        category = rng.choice([None, None, "visits"])
        fields = {"number_of_retries": RETRIES, "concurrency_limit": limit, "category": category}
        part.add_job(make_job(name, rng.choice("ab"), **fields))
        self._drawn.outcomes[name] = rng.choice(OUTCOMES)
        return name


def expected(part: GenericWorkflow, broken: set[str], may_run: bool = True) -> dict[str, str]:
    """Return how each node of a workflow or group must end."""
    ends: dict[str, str] = {}
    for name in networkx.topological_sort(part):
        node = part.get_job(name)
        parents = [part.get_job(parent) for parent in part.predecessors(name)]
        good = may_run and all(_lets_run(parent, node, ends) for parent in parents)
        if isinstance(node, GenericWorkflowGroup):
            members = expected(node, broken, good)
            ends |= members
            good = good and all(members[member] == "SUCCEEDED" for member in node.nodes)
        failed = isinstance(node, GenericWorkflowJob) and good and name in broken
        ends[name] = "FAILED" if failed else "SUCCEEDED" if good else "PRUNED"
    return ends


def _lets_run(parent: GenericWorkflowNode, node: GenericWorkflowNode, ends: Mapping[str, str]) -> bool:
    both_groups = isinstance(parent, GenericWorkflowGroup) and isinstance(node, GenericWorkflowGroup)
    if both_groups and parent.label == node.label and not parent.blocking:
        return True
    return ends[parent.name] == "SUCCEEDED"


def check_limits(plan: Plan, backend: FakeBackend) -> None:
    """Check that no more jobs run at once than the limits allow."""
    running = [plan.template(job).fields or {} for job in backend.flying()]
    named = [f"{fields.get('concurrency_limit')}, {fields.get('category')}".split(", ") for fields in running]
    for name, most in LIMITS.items():
        assert sum(name in names for names in named) <= most, name


@settings(max_examples=80, phases=(Phase.explicit, Phase.generate))
@given(drawn=workflows(), seed=st.integers(0, 2**32), all_ended=st.booleans())
def test_each_job_ends_as_bps_says(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn, seed: int, all_ended: bool
) -> None:
    """Each job ends as the table of nodes says, in the run that lives to its
    end and after a kill at any event and a restart. Never do more jobs run
    than limits allow, and nothing that succeeded runs again.
    """
    directory: Path = tmp_path_factory.getbasetemp() / "any"
    setting = Setting(directory)
    for path in setting.paths.journals.iterdir():
        path.unlink()
    ends = expected(drawn.workflow, drawn.broken)
    plan = setting.translate(drawn.workflow)
    names = [job.name for job in plan.jobs()]
    script = {names.index(name): outcome for name, outcome in drawn.outcomes.items()}

    def look(backend: FakeBackend, driver: Driver) -> None:
        check_limits(plan, backend)

    def check(number: int) -> None:
        before = succeeded_on_disk(plan, setting.paths)
        run = drive(plan, setting.paths, script, seed=number, record_nodes=True, limits=LIMITS, on_step=look)
        found = {
            job.name: run.states[job.index].name
            for job in plan.jobs()
            if job.template.kind == JobKind.PAYLOAD
        }
        assert found.pop("final", "SUCCEEDED") == "SUCCEEDED"
        assert found == {name: ends[name] for name in found}
        check_not_again(run, plan, before)

    check(seed)
    tape = Tape(setting.paths)
    tape.cut(random.Random(seed).randint(1, len(tape.driver)), all_ended=all_ended)
    check(seed + 1)
