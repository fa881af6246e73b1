# SPDX-License-Identifier: BSD-3-Clause
"""Which job begins next on a node: memory, CPUs, priority, and who may pass whom."""

from __future__ import annotations

import heapq
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lsst.ctrl.bps.parsl.node.waiting import MOST_PASSES, WaitingJobs
from node.test_runner import Fifo, Node, check_never_more
from node.test_runner import node as node  # a fixture

Spec = dict[str, Any]

CPUS, MEMORY = 4, 6000

LIMITS = [(CPUS, MEMORY), (CPUS, None), (None, MEMORY), (None, None)]

amounts = st.tuples(st.integers(0, CPUS + 2), st.sampled_from([0, 1, 500, 1000, 2000, 4000, 6000, 9000]))
priorities = st.sampled_from([None, -5, 0, 0, 10])


def job(number: int, cpus: int = 0, memory: int = 0, priority: int | None = None, owner: int = 0) -> Spec:
    """Describe a job."""
    spec = {"n": number, "cpus": cpus, "memory": memory, "owner": owner}
    return spec if priority is None else {**spec, "priority": priority}


def order(spec: Spec) -> tuple[int, int]:
    """Return what jobs that fit are sorted by."""
    return -spec.get("priority", 0), spec["n"]


def fits(running: list[Spec], spec: Spec, cpus: float | None, memory: float | None) -> bool:
    """Tell whether a job may begin beside others."""
    if not running:
        return True
    together = [*running, spec]
    return (cpus is None or sum(other["cpus"] for other in together) <= cpus) and (
        memory is None or sum(other["memory"] for other in together) <= memory
    )


class Waiting(RuleBasedStateMachine):
    """The jobs of a node, beside a list that is searched from its beginning."""

    @initialize(limits=st.sampled_from(LIMITS))
    def begin(self, limits: tuple[int | None, int | None]) -> None:
        self.cpus, self.memory = limits
        self.jobs = WaitingJobs(*limits)
        self.waiting: list[Spec] = []
        self.running: list[Spec] = []
        self.passes: dict[int, int] = {}
        self.number = 0

    @rule(amounts=amounts, priority=priorities, owner=st.integers(0, 1), times=st.sampled_from([1, 1, 20]))
    def add(self, amounts: tuple[int, int], priority: int | None, owner: int, times: int) -> None:
        for _ in range(times):
            self.number += 1
            spec = job(self.number, *amounts, priority, owner)
            self.jobs.add(spec)
            self.waiting.append(spec)

    @rule()
    def next(self) -> None:
        found = self.jobs.next()
        assert found == self.expected()
        if found is not None:
            self.note(found)

    @precondition(lambda self: self.running)
    @rule(place=st.integers(0, 99))
    def release(self, place: int) -> None:
        self.jobs.release(self.running.pop(place % len(self.running)))

    @precondition(lambda self: self.running)
    @rule(times=st.integers(5, 30))
    def go_on(self, times: int) -> None:
        """Have many jobs end, and others begin."""
        for _ in range(times):
            if self.running:
                self.release(0)
            self.next()

    @rule(owner=st.integers(0, 1))
    def remove(self, owner: int) -> None:
        removed = list(self.jobs.remove(lambda spec: bool(spec["owner"] == owner)))
        expected = [spec for spec in self.waiting if spec["owner"] == owner]
        assert sorted(spec["n"] for spec in removed) == [spec["n"] for spec in expected]
        self.waiting = [spec for spec in self.waiting if spec["owner"] != owner]

    def expected(self) -> Spec | None:
        """Return who is to begin."""
        for spec in sorted(self.waiting, key=order):
            if fits(self.running, spec, self.cpus, self.memory):
                return spec
            if self.passes.get(spec["n"], 0) >= MOST_PASSES:
                return None
        return None

    def note(self, begun: Spec) -> None:
        """Take note that a job has begun."""
        self.waiting.remove(begun)
        self.running.append(begun)
        for spec in self.waiting:
            if order(spec) < order(begun):
                self.passes[spec["n"]] = self.passes.get(spec["n"], 0) + 1
                assert self.passes[spec["n"]] <= MOST_PASSES

    @invariant()
    def sums_hold(self) -> None:
        """Together, the jobs that run never have more than there is."""
        if hasattr(self, "jobs"):
            assert len(self.jobs) == len(self.waiting)
            assert fits(self.running[:-1], self.running[-1], self.cpus, self.memory) if self.running else True

    def teardown(self) -> None:
        """Every job begins in the end, whatever happened before."""
        while hasattr(self, "jobs") and (self.waiting or self.running):
            before = len(self.waiting)
            while self.waiting and (found := self.jobs.next()) is not None:
                self.note(found)
            assert self.running or len(self.waiting) < before
            self.jobs.release(self.running.pop())


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(stateful_step_count=40)


@given(
    specs=st.lists(st.tuples(amounts, priorities), min_size=1, max_size=40), limits=st.sampled_from(LIMITS)
)
def test_order_is_priority_then_arrival(
    specs: list[tuple[tuple[int, int], int | None]], limits: tuple[int | None, int | None]
) -> None:
    """An empty node takes the job of the highest priority, and of those alike the one that came first."""
    jobs = WaitingJobs(*limits)
    described = [job(number, *amount, priority) for number, (amount, priority) in enumerate(specs)]
    for spec in described:
        jobs.add(spec)
    found = []
    while first := jobs.next():
        found.append(first)
        jobs.release(first)
    assert found == sorted(described, key=order)


@pytest.mark.parametrize("what", ["cpus", "memory"])
def test_small_jobs_pass_a_large_one_so_often(what: str) -> None:
    """Small jobs go on beside a large one that waits, MOST_PASSES of them; then it is the next to begin."""
    jobs = WaitingJobs(4, 4)
    for number in range(3):
        jobs.add(job(number, **{what: 1}))
    running = [jobs.next() for _ in range(3)]
    jobs.add(job(3, **{what: 4}))
    passed = 0
    for number in range(4, 1000):
        jobs.add(job(number, **{what: 1}))
    while small := jobs.next():
        running.append(small)
        passed += 1
        first = running.pop(0)
        assert first is not None
        jobs.release(first)
    assert passed == MOST_PASSES
    while running:
        assert jobs.next() is None
        first = running.pop()
        assert first is not None
        jobs.release(first)
    large = jobs.next()
    assert large is not None
    assert large["n"] == 3
    assert jobs.next() is None


def test_job_larger_than_its_node_runs_alone() -> None:
    """It waits for the node to be empty, not for ever, and nothing begins beside it, however small."""
    jobs = WaitingJobs(2, 100)
    jobs.add(job(1, 1, 10))
    first = jobs.next()
    assert first is not None
    jobs.add(job(2, 1, 1000))
    assert jobs.next() is None
    jobs.release(first)
    large = jobs.next()
    assert large is not None
    assert large["n"] == 2
    jobs.add(job(3))
    assert jobs.next() is None
    jobs.release(large)
    assert jobs.next() is not None


# How well a node is used, and how fast that is decided.


def simulate(jobs: WaitingJobs, specs: list[tuple[Spec, float]]) -> float:
    """Run jobs of given durations; return when the last one ends."""
    durations = {spec["n"]: duration for spec, duration in specs}
    for spec, _ in specs:
        jobs.add(spec)
    now = 0.0
    running: list[tuple[float, int, Spec]] = []
    while len(jobs) or running:
        while begun := jobs.next():
            heapq.heappush(running, (now + durations[begun["n"]], begun["n"], begun))
            assert sum(other["memory"] for *_, other in running) <= MEMORY
        now, _, ended = heapq.heappop(running)
        jobs.release(ended)
    return now


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [1.0, 1.5, 10.0])
def test_nodes_are_filled(seed: int, spread: float) -> None:
    """Jobs of 1, 2 and 4 GB in random order keep at least 85 % of 6 GB busy."""
    rng = random.Random(seed)
    specs = [
        (job(number, 1, rng.choice([1000, 2000, 4000])), rng.uniform(1.0, spread)) for number in range(1000)
    ]
    bound = sum(spec["memory"] * duration for spec, duration in specs) / MEMORY
    assert bound / simulate(WaitingJobs(None, MEMORY), specs) >= 0.85


@pytest.mark.some(1)
@pytest.mark.parametrize("kinds", [1, 7])
def test_many_jobs_that_fit(kinds: int) -> None:
    """100,000 jobs come and begin in a few seconds, and on a slow machine in half a minute."""
    jobs = WaitingJobs(None, 1e12)
    begun = time.process_time()
    for number in range(100_000):
        jobs.add(job(number, 1, 1, number % kinds))
    for _ in range(100_000):
        assert jobs.next() is not None
    assert time.process_time() - begun < 30


def cost(waiting: int, kinds: list[Spec]) -> float:
    """Return the CPU time of 1000 ends and beginnings of jobs, while a number of others waits."""
    jobs = WaitingJobs(CPUS, MEMORY)
    for number in range(waiting):
        jobs.add({**kinds[number % len(kinds)], "n": number})
    running = []
    begun = time.process_time()
    for _ in range(1000):
        while spec := jobs.next():
            running.append(spec)
        jobs.release(running.pop(0))
    return time.process_time() - begun


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param([job(0, 1, 1000)], id="all alike"),
        pytest.param([job(0, 1, 1000 * (1 + number % 5)) for number in range(20)], id="of 5 sizes"),
    ],
)
def test_many_jobs_that_wait(kinds: list[Spec]) -> None:
    """What it takes to see who is next does not grow with the jobs that wait: with 20,000 of them, no
    more than a few times what it takes with 2000.
    """
    small, large = cost(2000, kinds), cost(20_000, kinds)
    assert large < max(4 * small, 0.5), f"{large:.2f} s in place of {small:.2f} s for 1000 jobs"


# On a real runner.

PAUSE = ["/bin/bash", "-c", "read -t 0.03 <> <(:)"]
"""A read from a pipe that nobody writes to takes its time and no processor."""


def test_real_jobs_have_room_in_both_ways(node: Node) -> None:
    """What runs at one time stays within the node's CPUs and its memory, both at once."""
    node.setup |= {"cpus": CPUS, "memory": MEMORY}
    rng = random.Random(2)
    cpus = {number: rng.choice([1, 1, 1, 2, 4, 9]) for number in range(1, 41)}
    memory = {number: rng.choice([10, 1000, 1000, 2000, 4000, 9000]) for number in cpus}
    futures = [node.begin(*PAUSE, job=n, cpus=cpus[n], memory=memory[n], priority=n % 3) for n in cpus]
    assert all("exit" in future.result(60) for future in futures)
    check_never_more(node, cpus, CPUS)
    check_never_more(node, memory, MEMORY)


def test_real_jobs_begin_by_priority(node: Node) -> None:
    """Where jobs wait, the highest priority is first, and among those alike who came first."""
    node.setup["memory"] = 100
    held, fifo = node.begin_held(memory=100)
    wanted = {2: 0, 3: 5, 4: -1, 5: 5, 6: 7}
    # One connection: what was sent later arrives later.
    futures = [
        node.begin_sent("/bin/true", job=number, memory=60, priority=priority)
        for number, priority in wanted.items()
    ]
    last = node.fifo()
    futures.append(node.begin(script=f"echo $$ > {last.said}", job=7, memory=0, priority=99))
    last.wait()  # It has passed: all before it are there.
    fifo.release()
    assert held.result(60)["exit"] == 0
    assert all(future.result(60)["exit"] == 0 for future in futures)
    begun = [event["j"] for event in node.events() if event["e"] == "start"]
    # What runs beside others may be heard of after them.
    assert 7 in begun
    assert [number for number in begun if number != 7] == [1, 6, 3, 5, 2, 4]


@pytest.mark.parametrize("what", ["cpus", "memory"])
def test_room_is_given_back_when_all_of_a_job_has_gone(node: Node, what: str) -> None:
    """What a job has left behind in a session of its own is gone before the next one begins."""
    node.setup[what] = 1
    record = node.cwd / "left"
    first = node.begin(script=f"setsid sleep 100 > /dev/null & echo $! > {record}", **{what: 1})
    second = node.begin(
        script=f"until [ -s {record} ]; do :; done; ! kill -0 $(<{record})", priority=-1, **{what: 1}
    )
    assert first.result(60)["exit"] == 0
    assert second.result(60)["exit"] == 0


def test_large_real_job_begins_in_the_end(node: Node) -> None:
    """Small jobs that keep coming do not keep a large one from its turn."""
    node.setup["memory"] = 4
    fifos: list[Fifo] = []
    held = []
    for _ in range(3):
        future, fifo = node.begin_held(memory=1)
        held.append(future)
        fifos.append(fifo)
    large = node.begin_sent("/bin/true", job=1000, memory=4)
    small = [node.begin("/bin/true", memory=1) for _ in range(3 * MOST_PASSES)]
    for fifo in fifos:
        fifo.release()
    assert all(future.result(60)["exit"] == 0 for future in [*held, large, *small])
    begun = [event["j"] for event in node.events() if event["e"] == "start"]
    assert begun.index(1000) <= 3 + MOST_PASSES
