# SPDX-License-Identifier: BSD-3-Clause
"""What is to be done at certain moments; standard library only."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from itertools import count
from typing import Any

__all__ = ["Timer"]


class Timer:
    """Calls functions when their time has come, if it is asked often enough."""

    def __init__(self) -> None:
        self._moments: list[tuple[float, int]] = []
        self._actions: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}
        self._numbers = count()

    def later(self, seconds: float, action: Callable[..., None], *arguments: Any) -> int:
        """Have a function called.

        Parameters
        ----------
        seconds : `float`
            Time from now.
        action : `~collections.abc.Callable`
            What to call.
        *arguments : `~typing.Any`
            With what.

        Returns
        -------
        number : `int`
            What to `cancel`.
        """
        number = next(self._numbers)
        self._actions[number] = action, arguments
        heapq.heappush(self._moments, (time.monotonic() + seconds, number))
        return number

    def cancel(self, number: int) -> None:
        """Have a function not called, and forget it.

        Parameters
        ----------
        number : `int`
            What `later` returned.
        """
        self._actions.pop(number, None)
        if len(self._moments) > 2 * len(self._actions) + 1000:
            self._moments = [moment for moment in self._moments if moment[1] in self._actions]
            heapq.heapify(self._moments)

    def do_what_is_due(self) -> None:
        """Call the functions whose time has come."""
        now = time.monotonic()
        while self._moments and self._moments[0][0] <= now:
            _, number = heapq.heappop(self._moments)
            if found := self._actions.pop(number, None):
                action, arguments = found
                action(*arguments)

    def time_left(self, most: float | None = None) -> float | None:
        """Return the seconds until the next call.

        Parameters
        ----------
        most : `float`, optional
            The answer where it would be more.

        Returns
        -------
        seconds : `float` or `None`
            The time; `None` where there is no call to come.
        """
        while self._moments and self._moments[0][1] not in self._actions:
            heapq.heappop(self._moments)
        if not self._moments:
            return most
        left = max(0.0, self._moments[0][0] - time.monotonic())
        return left if most is None else min(left, most)
