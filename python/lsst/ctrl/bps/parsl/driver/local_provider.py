# SPDX-License-Identifier: BSD-3-Clause
"""Parsl's provider for pilots on this host, with eyes for who they are.

Process numbers come again: after weeks, that of a pilot that has ended may be
anybody's, and Parsl would take it for the pilot, and end it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parsl.providers import LocalProvider

from ..node.processes import start_time

__all__ = ["watch_local_pilots"]


class _WatchedLocalProvider(LocalProvider):
    """Knows its pilots by their numbers and by when they began."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Start a pilot."""
        number = super().submit(*args, **kwargs)  # type: ignore[no-untyped-call]  # Parsl's.
        job = self.resources[number]
        job["began"] = start_time(job["remote_pid"])
        return number

    @staticmethod
    def _is_alive(job_dict: dict[str, Any]) -> bool:
        began = job_dict.get("began")
        return began is not None and start_time(job_dict["remote_pid"]) == began

    def cancel(self, job_ids: Sequence[Any]) -> list[bool]:
        """End those of some pilots that are there."""
        for number in job_ids:
            self.resources[number]["cancelled"] = True
        alive = [number for number in job_ids if self._is_alive(self.resources[number])]
        super().cancel(alive)  # type: ignore[no-untyped-call]  # Parsl's.
        return [True] * len(job_ids)


def watch_local_pilots(provider: object) -> None:
    """Have a provider of Parsl's look twice before it ends a process.

    Parameters
    ----------
    provider : `object`
        An executor's provider; one that is not Parsl's own `LocalProvider`
        is left as it is.
    """
    if type(provider) is LocalProvider:
        provider.__class__ = _WatchedLocalProvider
