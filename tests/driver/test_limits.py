# SPDX-License-Identifier: BSD-3-Clause
"""Which job is next, under limits: all places are used, none too many, and no job is looked at in vain."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lsst.ctrl.bps.parsl.driver.limits import Limits, ReadyJobs

SETTINGS = [None, "a", "b", "a,b", ["b", "a"], "c", "a, unknown"]


def test_names_of_a_job() -> None:
    """A name, several in a text or a list, and the category: those that there are, each once."""
    limits = Limits({"a": 1, "b": 2})
    assert limits.names("a") == limits.names("a,a, x") == limits.names(["a"], "a") == ("a",)
    assert limits.names("b , a", "x") == limits.names(["b"], "a") == ("b", "a")
    assert limits.names(None) == limits.names("", "") == Limits({}).names("a") == ()


@given(
    most=st.dictionaries(st.sampled_from("abc"), st.integers(1, 3)),
    seed=st.integers(0, 2**32),
    count=st.integers(0, 40),
)
def test_most_urgent_job_that_may_run_is_next(most: dict[str, int], seed: int, count: int) -> None:
    """Each job that is taken is the most urgent of those that may run; none is left while one may; and in
    the end all have run.
    """
    rng = random.Random(seed)
    limits = Limits(most)
    ready = ReadyJobs(limits)
    jobs = {job: (rng.randint(0, 3), limits.names(rng.choice(SETTINGS))) for job in range(count)}
    waiting, running = set(jobs), list[int]()
    for job, (priority, names) in jobs.items():
        ready.add(job, priority, names)
    while waiting or running:
        used = Counter(name for job in running for name in jobs[job][1])
        may = [job for job in waiting if all(used[name] < most[name] for name in jobs[job][1])]
        assert bool(ready) == bool(waiting)
        if running and rng.random() < 0.5:
            limits.release(jobs[running.pop(rng.randrange(len(running)))][1])
            continue
        taken = ready.take()
        assert taken == min(may, key=lambda one: (-jobs[one][0], one), default=None)
        if taken is not None:
            waiting.remove(taken)
            running.append(taken)
    assert not ready


def test_jobs_that_may_not_run_are_not_looked_at() -> None:
    """What it takes to run many jobs under one limit grows with their number, and not with its square: the
    limit is asked about once for each job that begins and once where none may.
    """
    asked = 0

    class Counting(Limits):
        def have_room(self, names: tuple[str, ...]) -> bool:
            nonlocal asked
            asked += 1
            return super().have_room(names)

    limits = Counting({"db": 4})
    ready = ReadyJobs(limits)
    for job in range(5000):
        ready.add(job, 0, ("db",))
    running = done = 0
    while ready or running:
        while ready.take() is not None:
            running += 1
        limits.release(("db",))
        running, done = running - 1, done + 1
    assert done == 5000
    assert asked <= 3 * done
