# SPDX-License-Identifier: BSD-3-Clause
"""Jobs of a silent pilot are lost when the pilot is gone, and no sooner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from lsst.ctrl.bps.parsl.driver.blocks import Block, Blocks
from lsst.ctrl.bps.parsl.driver.fence import END_SECONDS, Fence
from lsst.ctrl.bps.parsl.driver.umask import close_umask, restore_umask
from lsst.ctrl.bps.parsl.errors import SchedulerError
from lsst.ctrl.bps.parsl.node.pool import Pools
from lsst.ctrl.bps.parsl.node.processes import start_time, umask
from support.warm import wait_until


class Queue:
    """A batch system that ends jobs when it is told to."""

    def __init__(self) -> None:
        self.there: set[str] = {"100", "101"}
        self.cancelled: list[str] = []
        self.down = False
        self.refuses = False

    def cancel(self, jobs: list[str]) -> list[bool]:
        """Take note."""
        self.cancelled += jobs
        if self.down:
            raise RuntimeError("a provider of a user's")
        return [not self.refuses] * len(jobs)

    def still_there(self, jobs: list[str]) -> bool:
        """Tell."""
        if self.down:
            raise SchedulerError("away")
        return not self.there.isdisjoint(jobs)


@pytest.fixture
def item() -> Blocks:
    """An executor with two blocks, of which one has gone silent."""
    executor: Any = SimpleNamespace(
        label="x",
        connected_managers=lambda: [{"block_id": "1"}],
        connected_blocks=lambda: ["0", "1"],
        blocks_to_job_id={"0": "100", "1": "101"},
        _status={},
        _simulated_status={},
    )
    return Blocks(executor, Queue(), 1, {"0": Block(0.0), "1": Block(0.0)})


def test_lost_jobs_wait_for_the_end_of_their_pilot(item: Blocks) -> None:
    """The silent block alone is ended, and what is held comes when the batch system has it no more;
    not while that does not answer.
    """
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("a"))
    fence.tick(item, 0.0)
    assert (item.provider.cancelled, told) == (["100"], [])
    item.provider.down = True
    fence.tick(item, 1.0)
    assert told == []
    item.provider.down = False
    item.provider.there.discard("100")
    fence.tick(item, 2.0)
    fence.tick(item, 3.0)
    assert told == ["a"]
    assert item.provider.cancelled == ["100"], "once"


def test_jobs_of_one_block_that_are_lost_one_by_one(item: Blocks) -> None:
    """Parsl tells of each lost job by itself: those that come while their block is being ended wait
    for its end as the first one does.
    """
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("a"))
    fence.tick(item, 0.0)
    item.blocks["0"].ended = True  # As those who count the blocks have it from now on.
    fence.hold("x", lambda: told.append("b"))
    fence.tick(item, 1.0)
    assert told == []
    item.provider.there.discard("100")
    fence.tick(item, 2.0)
    assert told == ["a", "b"]
    fence.hold("x", lambda: told.append("late"))
    fence.tick(item, 3.0)
    assert told == ["a", "b", "late"]
    assert item.provider.cancelled == ["100"]


def test_second_silent_block_is_ended_beside_the_first(item: Blocks) -> None:
    """All that is lost waits until none of the blocks that are being ended is there."""
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("a"))
    fence.tick(item, 0.0)
    item.executor.connected_managers = lambda: []  # type: ignore[attr-defined]
    fence.hold("x", lambda: told.append("b"))
    item.provider.there.discard("100")
    fence.tick(item, 1.0)
    assert (item.provider.cancelled, told) == (["100", "101"], [])
    item.provider.there.discard("101")
    fence.tick(item, 2.0)
    assert told == ["a", "b"]


def test_block_that_is_not_ended_is_asked_for_again(item: Blocks) -> None:
    """Where the batch system does not take the request, it is asked until it does."""
    item.provider.refuses = True
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("a"))
    fence.tick(item, 0.0)
    fence.tick(item, 1.0)
    item.provider.refuses = False
    fence.tick(item, 2.0)
    fence.tick(item, 3.0)
    assert (item.provider.cancelled, told) == (["100"] * 3, [])


def test_nothing_is_held_for_ever(item: Blocks) -> None:
    """A block that does not end, one that nobody can name, and the end of the run let all go."""
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("slow"))
    fence.tick(item, 0.0)
    fence.tick(item, END_SECONDS + 1.0)
    assert told == ["slow"]
    item.blocks["0"].ended = True
    fence.hold("x", lambda: told.append("gone"))
    fence.tick(item, 200.0)
    assert told == ["slow", "gone"]
    item.blocks["0"].ended = False
    fence.hold("x", lambda: told.append("ending"))
    fence.tick(item, 300.0)
    fence.hold("x", lambda: told.append("held"))
    fence.open()
    fence.hold("x", lambda: told.append("late"))
    assert told == ["slow", "gone", "ending", "held", "late"]


def test_provider_that_fails_costs_no_job(item: Blocks) -> None:
    """Whatever a provider raises, the lost jobs are heard of in the end."""
    item.provider.down = True
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("a"))
    fence.tick(item, 0.0)
    fence.tick(item, 1.0)
    assert told == []
    fence.tick(item, END_SECONDS + 1.0)
    assert told == ["a"]


def test_interchange_that_does_not_answer_ends_nothing(item: Blocks) -> None:
    """Who cannot be asked has nobody ended."""

    def fail() -> None:
        raise RuntimeError("no answer")

    item.executor.connected_managers = fail  # type: ignore[attr-defined]
    fence, told = Fence(), list[str]()
    fence.hold("x", lambda: told.append("a"))
    fence.tick(item, 0.0)
    assert (item.provider.cancelled, told) == ([], ["a"])


POOL = """
import subprocess, sys
child = subprocess.Popen(["sleep", "300"])
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_what_a_pool_leaves_ends(killed: bool) -> None:
    """What a killed pool has left is ended; what a living one has is not."""
    with subprocess.Popen(
        [sys.executable, "-c", POOL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as pool:
        assert pool.stdout is not None
        child = int(pool.stdout.readline())
        began = start_time(pool.pid)
        assert began is not None
        pools = Pools()
        pools.note(pool.pid, began)
        if killed:
            pool.kill()
            pool.wait()
        pools.end_orphans()
        if killed:
            wait_until(lambda: start_time(child) is None)
        assert (start_time(child) is None) == killed
        pool.kill()
        if not killed:
            os.kill(child, signal.SIGKILL)


def test_umask_is_the_users_again() -> None:
    """Two runs in one process see the user's umask, and the last one that ends restores it."""
    before = os.umask(0o002)
    try:
        assert [close_umask(), close_umask()] == [0o002, 0o002]
        assert umask() == 0o022
        restore_umask()
        assert umask() == 0o022
        restore_umask()
        assert umask() == 0o002
    finally:
        os.umask(before)
