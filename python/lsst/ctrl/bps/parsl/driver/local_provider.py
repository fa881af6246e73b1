# SPDX-License-Identifier: BSD-3-Clause
"""Parsl's provider for pilots on this host, which knows them by more than their numbers.

Process numbers come again: after weeks, that of a pilot that has ended may be
anybody's, and Parsl would take it for the pilot, and end it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.executors.base import ParslExecutor
from parsl.providers import LocalProvider

from ..errors import ConfigurationError
from ..node.processes import start_time

__all__ = ["check_path", "watch_local_pilots"]

_PLAIN = re.compile(r"[\w.,:@%+=/-]*")
_PLAIN_WORDS = re.compile(r"[\w.,:@%+=/ -]*")


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


def check_path(executor: ParslExecutor, path: str) -> None:
    """Check that an executor can work in a directory.

    Parameters
    ----------
    executor : `parsl.executors.base.ParslExecutor`
        The executor.
    path : `str`
        Directory of its files.

    Raises
    ------
    ConfigurationError
        Raised where Parsl would give the path to a shell that reads it
        otherwise.
    """
    local = isinstance(getattr(executor, "provider", None), LocalProvider)
    allowed = _PLAIN if local and isinstance(executor, HighThroughputExecutor) else _PLAIN_WORDS
    quoted = isinstance(executor, HighThroughputExecutor) and not local
    if not quoted and not isinstance(executor, ThreadPoolExecutor) and not allowed.fullmatch(path):
        raise ConfigurationError(
            f"submitPath: {path!r} cannot be used with {type(executor).__name__} ({executor.label}), which "
            "gives it to a shell: letters, digits and . , : @ % + = / - are safe. "
            "Submit the run again, with another submitPath."
        )


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
