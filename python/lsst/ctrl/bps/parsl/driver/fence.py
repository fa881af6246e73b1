# SPDX-License-Identifier: BSD-3-Clause
"""Between a pilot that went silent and those that do its jobs again.

Parsl takes the jobs of a pilot for lost that has not been heard of for some
time. But its jobs may go on: what hangs may be nothing but a process of
Parsl's, or the network. So the pilot is ended first, and none of its jobs is
heard of as lost before the batch system has no such pilot any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from parsl.jobs.states import JobState, JobStatus

from .blocks import Blocks

__all__ = ["Fence"]

_LOG = logging.getLogger(__name__)

END_SECONDS = 120.0
"""Time that a silent pilot gets to be gone."""

Release = Callable[[], None]


@dataclass
class _Ending:
    """Pilots that are being ended, and who waits for that."""

    jobs: Sequence[Any]
    deadline: float
    releases: list[Release]


class Fence:
    """Holds the lost jobs of silent pilots until those have ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, list[Release]] = {}
        self._ending: dict[str, list[_Ending]] = {}
        self._open = False

    def hold(self, label: str, release: Release) -> None:
        """Wait with something until silent pilots have ended.

        Parameters
        ----------
        label : `str`
            Label of the executor.
        release : `~collections.abc.Callable`
            What waits; it is called in any thread.
        """
        with self._lock:
            if not self._open:
                self._held.setdefault(label, []).append(release)
                return
        release()

    def open(self) -> None:
        """Hold nothing any more: all pilots are being ended."""
        with self._lock:
            self._open = True
            releases = [release for held in self._held.values() for release in held]
            releases += [r for endings in self._ending.values() for item in endings for r in item.releases]
            self._held.clear()
            self._ending.clear()
        for release in releases:
            release()

    def tick(self, item: Blocks, now: float) -> None:
        """Do what is due for the blocks of an executor.

        Parameters
        ----------
        item : `Blocks`
            The executor and its blocks.
        now : `float`
            The time in seconds.
        """
        label = item.executor.label
        with self._lock:
            held = self._held.pop(label, [])
        if held:
            jobs = _end_silent(item)
            with self._lock:
                self._ending.setdefault(label, []).append(_Ending(jobs, now + END_SECONDS, held))
        for ending in list(self._ending.get(label, ())):
            if _are_there(item.provider, ending.jobs) and now < ending.deadline:
                continue
            with self._lock:
                if ending not in self._ending.get(label, ()):
                    return  # It was opened in the meantime.
                self._ending[label].remove(ending)
            for release in ending.releases:
                release()


def _end_silent(item: Blocks) -> list[Any]:
    """End the blocks of which no manager is heard any more; return their numbers in the queue."""
    executor: Any = item.executor
    try:
        heard = {manager["block_id"] for manager in executor.connected_managers()}
        once = set(executor.connected_blocks())
    except Exception as exc:
        # Without Parsl's interchange the run ends, and with it all pilots.
        _LOG.debug("Parsl does not say which blocks it hears of: %s", exc)
        return []
    silent = [number for number in once - heard if number in item.blocks and not item.blocks[number].ended]
    jobs = [executor.blocks_to_job_id[number] for number in silent if number in executor.blocks_to_job_id]
    if jobs:
        _LOG.warning(
            "Nothing is heard of a block of %s any more (%s); it is ended, and its jobs will be run again.",
            executor.label,
            ", ".join(map(str, jobs)),
        )
        try:
            item.provider.cancel(jobs)
        except Exception as exc:
            # What providers of users raise here is not known. Their jobs are waited for all the same.
            _LOG.warning("%s cannot be ended: %s", ", ".join(map(str, jobs)), exc)
    for number in silent:
        status = JobStatus(JobState.CANCELLED)
        executor._status[number] = executor._simulated_status[number] = status
    return jobs


def _are_there(provider: Any, jobs: Sequence[Any]) -> bool:
    """Tell whether the batch system still has some of a block's jobs."""
    try:
        if hasattr(provider, "still_there"):
            return bool(provider.still_there(jobs))
        return not all(status.terminal for status in provider.status(list(jobs)))
    except Exception as exc:
        _LOG.debug("Whether %s are there is not known: %s", jobs, exc)
        return True
