# SPDX-License-Identifier: BSD-3-Clause
"""Which ready job is next, and limits on how many of a kind run at once
(BPS's ``concurrencyLimit``).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping

__all__ = ["Limits", "ReadyJobs"]


class Limits:
    """Counts the jobs that run under each limit.

    Parameters
    ----------
    limits : `~collections.abc.Mapping` [`str`, `int`]
        The most jobs at once, by the names of the limits. A name that is not
        here limits nothing.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._running: Counter[str] = Counter()

    def names(
        self, concurrency_limit: str | list[str] | None, category: str | None = None
    ) -> tuple[str, ...]:
        """Return the limits that apply to a job.

        Parameters
        ----------
        concurrency_limit : `str` or `list` [`str`] or `None`
            BPS's setting: a name, or several: a list, or with commas between
            them.
        category : `str`, optional
            BPS's setting, which limits the jobs of one run.

        Returns
        -------
        names : `tuple` [`str`]
            Those of them that there are.
        """
        if not self._limits:
            return ()
        if isinstance(concurrency_limit, list):
            concurrency_limit = ",".join(map(str, concurrency_limit))
        names = [*str(concurrency_limit or "").split(","), str(category or "")]
        return tuple(name for name in dict.fromkeys(map(str.strip, names)) if name in self._limits)

    def have_room(self, names: tuple[str, ...]) -> bool:
        """Tell whether one more job may run.

        Parameters
        ----------
        names : `tuple` [`str`]
            The limits that apply to it.

        Returns
        -------
        room : `bool`
            Whether none of them is reached.
        """
        return all(self._running[name] < self._limits[name] for name in names)

    def take(self, names: tuple[str, ...]) -> None:
        """Note that a job runs.

        Parameters
        ----------
        names : `tuple` [`str`]
            The limits that apply to it.
        """
        self._running.update(names)

    def release(self, names: tuple[str, ...]) -> None:
        """Note that a job has ended.

        Parameters
        ----------
        names : `tuple` [`str`]
            The limits that applied to it.
        """
        self._running.subtract(names)


class ReadyJobs:
    """Jobs that may run, in the order in which they are to.

    Those to which the same limits apply wait in one queue: a job that may not
    run yet is not looked at before it is the first of its queue.

    Parameters
    ----------
    limits : `Limits`
        The limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queues: dict[tuple[str, ...], list[tuple[int, int]]] = {}

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def add(self, job: int, priority: int, names: tuple[str, ...]) -> None:
        """Add a job.

        Parameters
        ----------
        job : `int`
            Its number: of two jobs with one priority the first is the one
            that was planned first.
        priority : `int`
            What is higher goes first.
        names : `tuple` [`str`]
            The limits that apply to it.
        """
        heapq.heappush(self._queues.setdefault(names, []), (-priority, job))

    def take(self) -> int | None:
        """Return the next job, and count it under its limits.

        Returns
        -------
        job : `int` or `None`
            Its number; `None` where none may run now.
        """
        open_queues = [
            (queue[0], names)
            for names, queue in self._queues.items()
            if queue and self._limits.have_room(names)
        ]
        if not open_queues:
            return None
        (_, job), names = min(open_queues)
        heapq.heappop(self._queues[names])
        self._limits.take(names)
        return job
