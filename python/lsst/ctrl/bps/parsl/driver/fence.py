# SPDX-License-Identifier: BSD-3-Clause
"""Between a block that went silent and those that do its jobs again.

Parsl takes the jobs of a block for lost that has not been heard of for some
time. But its jobs may go on: what hangs may be nothing but a process of
Parsl's, or the network. So the block is ended first, and no lost job of its
executor is heard of before the batch system has no such block any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from parsl.jobs.states import JobState, JobStatus

from .blocks import Blocks

__all__ = ["Fence"]

_LOG = logging.getLogger(__name__)

END_SECONDS = 120.0
"""Time that a silent block gets to be gone."""

Release = Callable[[], None]


@dataclass
class _Ending:
    """A block that is being ended."""

    job: Any
    """Its number in the queue."""

    deadline: float
    taken: bool = False
    """Whether the batch system took the request to end it."""

    complaint: str = ""
    """What was said last of a request that was not taken."""


@dataclass
class _Label:
    """What there is of an executor."""

    held: list[Release] = field(default_factory=list)
    """What waits."""

    ending: list[_Ending] = field(default_factory=list)
    """What it waits for."""


class Fence:
    """Holds the lost jobs of silent blocks until those have ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._labels: dict[str, _Label] = {}
        self._open = False

    def hold(self, label: str, release: Release) -> None:
        """Wait with something until silent blocks have ended.

        Parameters
        ----------
        label : `str`
            Label of the executor.
        release : `~collections.abc.Callable`
            What waits; it is called in any thread.
        """
        with self._lock:
            if not self._open:
                self._labels.setdefault(label, _Label()).held.append(release)
                return
        release()

    def open(self) -> None:
        """Hold nothing any more: all blocks are being ended."""
        with self._lock:
            self._open = True
            held = [release for here in self._labels.values() for release in here.held]
            self._labels.clear()
        _release(held)

    def tick(self, item: Blocks, now: float) -> None:
        """Do what is due for the blocks of an executor.

        Parameters
        ----------
        item : `Blocks`
            The executor and its blocks.
        now : `float`
            The time in seconds.
        """
        with self._lock:
            here = self._labels.get(item.executor.label)
            if here is None or not here.held:
                return
            # The blocks of what comes from here on are looked for the next time.
            count = len(here.held)
        known = {ending.job for ending in here.ending}
        here.ending += [_Ending(job, now + END_SECONDS) for job in _silent_jobs(item, known)]
        _end(item, [ending for ending in here.ending if not ending.taken])
        if _are_there(item.provider, [ending.job for ending in here.ending if now < ending.deadline]):
            return
        here.ending.clear()
        with self._lock:
            if self._open:
                return  # It was opened in the meantime.
            released, here.held = here.held[:count], here.held[count:]
        _release(released)


def _release(held: list[Release]) -> None:
    for release in held:
        release()


def _silent_jobs(item: Blocks, known: Collection[Any]) -> list[Any]:
    """Give the blocks up of which no manager is heard any more; return their numbers in the queue."""
    executor: Any = item.executor
    try:
        heard = {manager["block_id"] for manager in executor.connected_managers()}
        once = set(executor.connected_blocks())
    except Exception as exc:
        # Without Parsl's interchange the run ends, and with it all blocks.
        _LOG.debug("Parsl does not say which blocks it hears of: %s", exc)
        return []
    silent = [number for number in once - heard if number in item.blocks and not item.blocks[number].ended]
    for number in silent:
        status = JobStatus(JobState.CANCELLED)
        executor._status[number] = executor._simulated_status[number] = status
    numbers = executor.blocks_to_job_id
    jobs = [numbers[block] for block in silent if block in numbers and numbers[block] not in known]
    if jobs:
        _LOG.warning(
            "Nothing is heard of a block of %s any more (%s); it is ended, and its jobs will be run again.",
            executor.label,
            ", ".join(map(str, jobs)),
        )
    return jobs


def _end(item: Blocks, endings: list[_Ending]) -> None:
    """Ask the batch system to end blocks, until it takes that."""
    if not endings:
        return
    jobs = [ending.job for ending in endings]
    try:
        # Some providers of users return nothing.
        taken = item.provider.cancel(jobs) or [True] * len(jobs)
        complaint = "the batch system does not take the request"
    except Exception as exc:
        # What they raise here is not known.
        taken, complaint = [False] * len(jobs), str(exc)
    for ending, is_taken in zip(endings, taken, strict=False):
        ending.taken = bool(is_taken)
        if not ending.taken and complaint != ending.complaint:
            ending.complaint = complaint
            _LOG.warning("%s cannot be ended: %s. It is tried again.", ending.job, complaint)


def _are_there(provider: Any, jobs: list[Any]) -> bool:
    """Tell whether the batch system still has some of the blocks."""
    if not jobs:
        return False
    try:
        if hasattr(provider, "still_there"):
            return bool(provider.still_there(jobs))
        return not all(status.terminal for status in provider.status(jobs))
    except Exception as exc:
        _LOG.debug("Whether %s are there is not known: %s", jobs, exc)
        return True
