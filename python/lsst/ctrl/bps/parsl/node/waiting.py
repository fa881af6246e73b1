# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that wait for room on their node; standard library only."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["WaitingJobs"]

MOST_PASSES = 16
"""How many later jobs may begin before a job that has no room yet."""


class WaitingJobs:
    """Jobs in order of priority, and of those alike, in that of their numbers
    (``n``) and of arrival.

    Parameters
    ----------
    cpus, memory : `float` or `None`
        What the jobs of this node may have in total; memory in MB. `None`
        for no limit.
    """

    def __init__(self, cpus: float | None = None, memory: float | None = None) -> None:
        self.cpus, self.memory = cpus, memory
        self._jobs: list[tuple[tuple[float, int, int], dict[str, Any]]] = []
        self._sizes: Counter[tuple[float, float]] = Counter()
        self._passed: dict[int, int] = {}
        self._arrived = 0
        self._running = 0
        self._used_cpus = self._used_memory = 0.0

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, spec: dict[str, Any]) -> None:
        """Take a job.

        Parameters
        ----------
        spec : `dict`
            The job, with ``cpus``, ``memory`` (MB) and perhaps ``priority``.
        """
        self._arrived += 1
        self._sizes[_size(spec)] += 1
        # Of two threads that ask at once, either may be heard first.
        place = (-spec.get("priority", 0), spec.get("n", 0), self._arrived)
        insort(self._jobs, (place, spec), key=lambda entry: entry[0])

    def next(self) -> dict[str, Any] | None:
        """Take out the job that is to begin now.

        Returns
        -------
        spec : `dict` or `None`
            The job; `None` where none has room. One that is larger than the
            node has it for itself. A small one may pass a large one that
            waits, but only so often: then the node is kept free for that.
        """
        too_large: set[tuple[float, float]] = set()
        for place, ((*_, number), spec) in enumerate(self._jobs):
            if len(too_large) == len(self._sizes):
                break  # Of no size has one room.
            if self._fits(spec):
                del self._jobs[place]
                self._forget(number, spec)
                for (*_, before), _ in self._jobs[:place]:
                    self._passed[before] = self._passed.get(before, 0) + 1
                self._running += 1
                self._used_cpus += spec["cpus"]
                self._used_memory += spec["memory"]
                return spec
            too_large.add(_size(spec))
            if self._passed.get(number, 0) >= MOST_PASSES:
                break
        return None

    def release(self, spec: dict[str, Any]) -> None:
        """Give back what a job had.

        Parameters
        ----------
        spec : `dict`
            A job that `next` returned.
        """
        self._running -= 1
        self._used_cpus -= spec["cpus"]
        self._used_memory -= spec["memory"]

    def remove(self, which: Callable[[dict[str, Any]], bool]) -> Iterable[dict[str, Any]]:
        """Take out jobs that are not to begin.

        Parameters
        ----------
        which : `~collections.abc.Callable`
            Tells of a job whether it is one.

        Returns
        -------
        removed : `~collections.abc.Iterable` [`dict`]
            These jobs.
        """
        removed = [entry for entry in self._jobs if which(entry[1])]
        self._jobs = [entry for entry in self._jobs if not which(entry[1])]
        for (*_, number), spec in removed:
            self._forget(number, spec)
        return [spec for _, spec in removed]

    def _forget(self, number: int, spec: dict[str, Any]) -> None:
        self._passed.pop(number, None)
        self._sizes[_size(spec)] -= 1
        if not self._sizes[_size(spec)]:
            del self._sizes[_size(spec)]

    def _fits(self, spec: dict[str, Any]) -> bool:
        if not self._running:
            return True
        if self.cpus is not None and self._used_cpus + spec["cpus"] > self.cpus:
            return False
        return self.memory is None or self._used_memory + spec["memory"] <= self.memory


def _size(spec: dict[str, Any]) -> tuple[float, float]:
    return spec["cpus"], spec["memory"]
