# SPDX-License-Identifier: BSD-3-Clause
"""gen3_workflow's name for this machine."""

from __future__ import annotations

from parsl.executors import ThreadPoolExecutor
from parsl.executors.base import ParslExecutor

from ..settings.model import SiteSettings
from ..settings.types import Count
from .local import Local

__all__ = ["ThreadPool", "ThreadPoolSettings"]


class ThreadPoolSettings(SiteSettings):
    """Settings of `ThreadPool`."""

    max_threads: Count = 1
    """Number of jobs at a time."""


class ThreadPool(Local):
    """Runs so many jobs at a time on this machine, whatever they ask for."""

    settings_model = ThreadPoolSettings  # type: ignore[assignment]  # Other keys than Local's.
    settings: ThreadPoolSettings  # type: ignore[assignment]

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor.

        Returns
        -------
        executors : `list` [`parsl.executors.ThreadPoolExecutor`]
            The executor.
        """
        return [ThreadPoolExecutor(label=self.label, max_threads=self.settings.max_threads)]

    def get_capacity(self) -> dict[str, float | None]:
        """Return no limit.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`.
        """
        return {"cpus": None, "memory": None}
