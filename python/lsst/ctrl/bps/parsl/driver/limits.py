# SPDX-License-Identifier: BSD-3-Clause
"""Limits on how many jobs of a kind run at once (BPS's ``concurrencyLimit``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["Limits"]


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
        self._waiting: dict[str, list[tuple[int, int]]] = {}

    def names(self, concurrency_limit: str | list[str] | None, category: str | None = None) -> list[str]:
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
        names : `list` [`str`]
            Those of them that there are.
        """
        if not self._limits:
            return []
        if isinstance(concurrency_limit, list):
            concurrency_limit = ",".join(map(str, concurrency_limit))
        names = [*str(concurrency_limit or "").split(","), str(category or "")]
        return [name for name in dict.fromkeys(map(str.strip, names)) if name in self._limits]

    def take(self, names: list[str], item: tuple[int, int]) -> bool:
        """Let a job run, or have it wait.

        Parameters
        ----------
        names : `list` [`str`]
            The limits that apply to it.
        item : `tuple`
            What stands for the job; `release` gives it back.

        Returns
        -------
        taken : `bool`
            Whether it may run.
        """
        for name in names:
            if self._running[name] >= self._limits[name]:
                self._waiting.setdefault(name, []).append(item)
                return False
        self._running.update(names)
        return True

    def release(self, names: list[str]) -> list[tuple[int, int]]:
        """Note that a job has ended.

        Parameters
        ----------
        names : `list` [`str`]
            The limits that applied to it.

        Returns
        -------
        items : `list` [`tuple`]
            Those that waited for it, and may ask again.
        """
        self._running.subtract(names)
        return [item for name in names for item in self._waiting.pop(name, ())]
