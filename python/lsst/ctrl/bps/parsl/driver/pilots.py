# SPDX-License-Identifier: BSD-3-Clause
"""Blocks of workers (pilots): as many as the ready jobs need, and none too many.

Parsl's executors start and end blocks. When, is decided here: Parsl itself
counts jobs and not cores and memory, gives a campaign up after two refusals,
and ends no block as long as a single job runs.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from parsl.executors import HighThroughputExecutor
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.error_handlers import noop_error_handler
from parsl.jobs.states import JobState, JobStatus

from ..errors import NoWorkersError, SchedulerError
from .blocks import Block, Blocks, Demand, last_words, needed, refusal_text, slots_per_node, trouble
from .fence import Fence
from .waiting import Waiting

__all__ = ["Pilots"]

_LOG = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""Time between two looks."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds between two attempts to get a block, after the first refusal and at
most."""

SAY_AGAIN_SECONDS = 3600.0
"""Time after which a refusal is said again that stays the same."""

MOST_DEATHS = 5
"""Blocks in a row that may end before they did anything."""

YOUNG_SECONDS = 120.0
"""A block that ends after less time than that without having done anything
was of no use."""

IDLE_FOR_ROOM = 2.0
"""Seconds without a job after which a block makes room for a fresh one."""

END_SECONDS = 60.0
"""Time to get rid of the blocks at the end of a run."""

_ENDED = (
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.TIMEOUT,
    JobState.MISSING,
    JobState.SCALED_IN,
)

_NO_FILES = os.strerror(errno.EMFILE)
"""This process's own limit (``ulimit -n``), which no waiting lifts."""

_PENDING = JobStatus(JobState.PENDING)


class Pilots:
    """Starts and ends the blocks of a run.

    Parameters
    ----------
    executors : `~collections.abc.Iterable` [`parsl.executors.base.ParslExecutor`]
        The run's executors, before Parsl starts them.
    demand : `~collections.abc.Callable`
        Returns the `Demand` for the executor of a label; with `None`, that of
        the jobs that have none.
    idle_seconds : `~collections.abc.Callable`
        Returns the time after which a block of the executor of a label is
        ended where it is not needed.
    failed : `~collections.abc.Callable`
        Called with an error when no worker can be had.
    clock : `~collections.abc.Callable`, optional
        Seconds since any moment.
    in_run : `~collections.abc.Callable`, optional
        Returns the context in which blocks are started.
    """

    def __init__(
        self,
        executors: Iterable[Any],
        demand: Callable[[str | None], Demand],
        idle_seconds: Callable[[str], float],
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
        in_run: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._demand = demand
        self._idle_seconds = idle_seconds
        self._failed = failed
        self._clock = clock
        self._in_run = in_run
        self.fence = Fence()
        self.waiting = Waiting()
        self._end_deadline: float | None = None
        self._stopped = threading.Event()
        self._at_once = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pilots", daemon=True)
        self._executors = {}
        self._without_blocks: list[str | None] = [None]
        for executor in executors:
            if isinstance(executor, BlockProviderExecutor) and executor.provider is not None:
                provider = executor.provider
                item = Blocks(executor, provider, provider.init_blocks)
                self._executors[executor.label] = item
                executor.poll_facade = partial(item.poll, executor.poll_facade)  # type: ignore[method-assign]
                # From here on neither Parsl's strategy nor its error handler acts.
                provider.init_blocks = 0
                executor.block_error_handler = noop_error_handler
            else:
                self._without_blocks.append(executor.label)

    def __bool__(self) -> bool:
        return bool(self._executors)

    def labels(self) -> list[str]:
        """Return the labels of the executors that have blocks."""
        return list(self._executors)

    def start(self) -> None:
        """Begin to look after the blocks."""
        if self._executors:
            self._thread.start()

    def heard_from(self, label: str) -> None:
        """Note that a worker has returned a result.

        Parameters
        ----------
        label : `str`
            Label of its executor.
        """
        if label in self._executors:
            item = self._executors[label]
            item.result_at = self._clock()
            item.fruitless = 0

    def capacity(self) -> int:
        """Return the number of jobs that may run at once.

        Returns
        -------
        number : `int`
            As far as is known, with as many blocks as there may be.
        """
        total = 0.0
        for item in self._executors.values():
            provider = item.provider
            total += provider.max_blocks * provider.nodes_per_block * slots_per_node(item)
        return int(total)

    # Looking after the blocks.

    def _run(self) -> None:
        while not self._stopped.is_set():
            for label in self._executors:
                self.look(label)
            self._stopped.wait(TICK_SECONDS)

    def look(self, label: str) -> None:
        """Look at an executor's blocks once; say what goes wrong.

        Parameters
        ----------
        label : `str`
            Label of the executor.
        """
        with self._executors[label].trying(f"Looking after the workers of {label}"):
            self.tick(label)

    def tick(self, label: str) -> None:
        """Look at an executor's blocks once, and do what is due.

        Parameters
        ----------
        label : `str`
            Label of the executor.
        """
        if self._stopped.is_set():
            return
        item = self._executors[label]
        now = self._clock()
        self.fence.tick(item, now)
        active = self._look(item, now)
        demand = self._demand(label)
        if (why := trouble(item, demand) or self._hopeless(label, demand)) is not None:
            self._failed(NoWorkersError(why))
            return
        wanted = self._wanted(item, demand, active)
        if len(active) < wanted:
            item.surplus_since = None
            if now >= item.next_try:
                self._more(item, wanted - len(active), now)
        elif len(active) > wanted:
            self._fewer(item, active, wanted, demand, now)
        elif demand.jobs and demand.declined == demand.jobs and self._all_too_old(item, demand, active):
            self._make_room(item)
        else:
            item.surplus_since = None

    def _look(self, item: Blocks, now: float) -> list[str]:
        """Note what became of the blocks; return those that are there."""
        active = []
        if item.executor._last_poll_time > time.time():
            item.executor._last_poll_time = (
                0.0  # The clock was set back: Parsl would wait for the time of then.
            )
        statuses = item.executor.status_facade
        for number, block in item.blocks.items():
            if block.ended:
                continue
            # Parsl replaces what it knows while a block is being submitted.
            status = statuses.get(number, _PENDING)
            if status.state == JobState.RUNNING and block.started is None:
                block.started = now
            if status.state not in _ENDED:
                active.append(number)
                continue
            block.ended = True
            if status.state != JobState.SCALED_IN:
                self._block_ended(item, block, status, now)
        self.waiting.look(item, statuses, now)
        return active

    def _hopeless(self, label: str, demand: Demand) -> str | None:
        """Return why jobs wait in vain, where nothing else of the run goes on."""
        why = self.waiting.hopeless(label)
        if not why or not demand.jobs or any(self._demand(other).jobs for other in self._without_blocks):
            return None
        others = [other for other in self._executors if self._demand(other).jobs]
        return why if all(self.waiting.hopeless(other) for other in others) else None

    def _block_ended(self, item: Blocks, block: Block, status: JobStatus, now: float) -> None:
        age = now - (block.started if block.started is not None else now)
        if item.result_at > block.asked:
            item.deaths = 0
            return
        self._back_off(item, now)
        why = last_words(status)
        if age >= YOUNG_SECONDS:
            # Its jobs may take longer than it lasted: no reason to end the run.
            item.fruitless += 1
            _LOG.warning(
                "A block of %s ended after %.0f minutes, and before any job did%s%s",
                item.executor.label,
                age / 60,
                f" ({item.fruitless} blocks in a row)" if item.fruitless > 1 else "",
                why,
            )
        else:
            item.deaths += 1
            _LOG.warning("A block of %s ended before any of its jobs did%s", item.executor.label, why)
            if item.deaths >= MOST_DEATHS:
                self._failed(
                    NoWorkersError(
                        f"{item.deaths} blocks of {item.executor.label} in a row ended before any of "
                        f"their jobs did{why}"
                    )
                )

    def _wanted(self, item: Blocks, demand: Demand, active: list[str]) -> int:
        """Return how many blocks there should be."""
        provider = item.provider
        wanted = max(needed(item, demand), provider.min_blocks)
        if demand.declined and self._all_too_old(item, demand, active):
            wanted = max(wanted, len(active) + 1)
        if not item.blocks:
            wanted = max(wanted, item.initial)
        return int(min(wanted, provider.max_blocks))

    def _all_too_old(self, item: Blocks, demand: Demand, active: list[str]) -> bool:
        """Tell whether all blocks end too soon for the jobs that were declined."""
        return not any(self._time_left(item, number) >= demand.walltime for number in active)

    def _make_room(self, item: Blocks) -> None:
        """End a block that no waiting job fits into, where there may be no more beside it."""
        if isinstance(item.executor, HighThroughputExecutor):
            item.executor.scale_in_facade(1, max_idletime=IDLE_FOR_ROOM)

    def _time_left(self, item: Blocks, number: str) -> float:
        seconds = getattr(item.provider, "seconds", None)
        block = item.blocks.get(number)
        if seconds is None or block is None or block.started is None:
            return math.inf
        return float(seconds) - (self._clock() - block.started)

    def _more(self, item: Blocks, count: int, now: float) -> None:
        executor = item.executor
        for _ in range(count):
            if self._stopped.is_set():
                return  # Each may have taken the batch system minutes.
            with self._in_run():
                made = executor.scale_out_facade(1)
            if made:
                for number in made:
                    item.blocks[number] = Block(now)
                if not item.deaths and not item.fruitless:
                    item.pause = 0.0
                if item.last_refusal:
                    item.last_refusal = ""
                    _LOG.info("%s: the batch system takes blocks again.", executor.label)
                continue
            self._refused(item, now)
            return

    @staticmethod
    def _back_off(item: Blocks, now: float) -> None:
        """Wait longer than the last time before asking for a block."""
        item.pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * item.pause))
        item.next_try = now + item.pause

    def _refused(self, item: Blocks, now: float) -> None:
        executor = item.executor
        refusal = getattr(item.provider, "refusal", None)
        message = refusal_text(executor, refusal)
        self._back_off(item, now)
        if (isinstance(refusal, SchedulerError) and refusal.final) or _NO_FILES in message:
            said = f"The batch system refuses blocks for {executor.label}: {message.rstrip('.')}."
            self._failed(NoWorkersError(said))
            return
        if message != item.last_refusal or now >= item.say_again:
            item.last_refusal, item.say_again = message, now + SAY_AGAIN_SECONDS
            _LOG.warning(
                "No block for %s: %s. The run waits, and tries again for as long as it takes.",
                executor.label,
                message,
            )

    def _fewer(self, item: Blocks, active: list[str], wanted: int, demand: Demand, now: float) -> None:
        if item.surplus_since is None:
            item.surplus_since = now
        idle = self._idle_seconds(item.executor.label)
        if now - item.surplus_since < idle:
            return
        count = len(active) - wanted
        if isinstance(item.executor, HighThroughputExecutor):
            # Only those that have been without a job for that time.
            item.executor.scale_in_facade(count, max_idletime=idle)
        elif demand.jobs == 0:
            item.executor.scale_in_facade(count)
        item.surplus_since = now

    # The end.

    def stop(self) -> None:
        """Ask for no more blocks."""
        self._stopped.set()
        while self._thread.is_alive() and not self._at_once.is_set():
            self._thread.join(0.1)  # It may wait for an answer of the batch system.
        self.fence.open()

    def stop_waiting(self) -> None:
        """Wait no longer for blocks to end."""
        self._at_once.set()

    def end_all(self, seconds: float = END_SECONDS) -> None:
        """End all blocks, and wait until the batch system has none of them.

        Parameters
        ----------
        seconds : `float`, optional
            Time to wait.
        """
        # A second call tries once more, and waits no longer.
        again = self._end_deadline is not None
        if self._end_deadline is None:
            self._end_deadline = self._clock() + seconds
        left = list(self._executors.values())
        while left:
            left = [item for item in left if not item.end()]
            if not left or self._clock() > self._end_deadline or self._at_once.wait(0.5):
                break
        if self._thread.is_alive():
            left = list(self._executors.values())  # A block may be on its way.
        for item in [] if again else left:
            _LOG.warning(
                "Blocks of %s may still be in the queue. They end by themselves within two minutes of their "
                "start; bps restart and bps cancel remove them.",
                item.executor.label,
            )
