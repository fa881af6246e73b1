# SPDX-License-Identifier: BSD-3-Clause
"""How a quantity is distributed over any number of jobs, in little memory."""

from __future__ import annotations

import math
from collections import Counter

__all__ = ["Distribution"]

_LEAST = 1e-3
_STEP = math.log(1.01)


class Distribution:
    """How a quantity is distributed over jobs; percentiles are right to 1 %."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0
        """Number of values."""
        self.largest = 0.0
        """The largest value; exact."""
        self.short = 0
        """Number of jobs that need more than they had."""
        self.at_least = 0.0
        """The most that one of these had."""

    def add(self, value: float) -> None:
        """Add the value of a job.

        Parameters
        ----------
        value : `float`
            What it used.
        """
        self.count += 1
        self.largest = max(self.largest, value)
        self._bins[math.ceil(math.log(max(value, _LEAST) / _LEAST) / _STEP)] += 1

    def add_short(self, value: float) -> None:
        """Add a job that needs more than it had.

        Parameters
        ----------
        value : `float`
            What it had.
        """
        self.short += 1
        self.at_least = max(self.at_least, value)

    def reaches(self, percentile: float) -> bool:
        """Tell whether a percentile is known.

        Parameters
        ----------
        percentile : `float`
            Above 0, and at most 100.

        Returns
        -------
        known : `bool`
            `False` where so many jobs need more than they had that it is
            theirs.
        """
        return 0 < self._rank(percentile) <= self.count

    def percentile(self, percentile: float) -> float:
        """Return the value that so many percent of the jobs do not exceed.

        Parameters
        ----------
        percentile : `float`
            Above 0, and at most 100.

        Returns
        -------
        value : `float`
            The value, or up to 1 % more; the largest that is known where
            `reaches` says that it is not known.
        """
        if not self.reaches(percentile):
            return max(self.largest, self.at_least)
        rank = self._rank(percentile)
        for number in sorted(self._bins):
            rank -= self._bins[number]
            if rank <= 0:
                return min(_LEAST * math.exp(number * _STEP), self.largest)
        return self.largest

    def _rank(self, percentile: float) -> int:
        # Those that need more come after all others.
        return math.ceil(percentile / 100 * (self.count + self.short))
