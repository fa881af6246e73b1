# SPDX-License-Identifier: BSD-3-Clause
"""The machine on which the driver runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from lsst.ctrl.bps import BpsConfig
from parsl.executors import ThreadPoolExecutor
from parsl.executors.base import ParslExecutor

from ..settings.model import SiteSettings
from ..settings.types import Count, Memory
from ..site import SiteConfig

if TYPE_CHECKING:
    from ..job import ParslJob

__all__ = ["Local", "LocalSettings"]


CHOICE = 4
"""How many jobs the runner has to choose from for each core, where memory is
limited."""


class LocalSettings(SiteSettings):
    """Settings of `Local`."""

    cores: Count
    """Number of cores for jobs."""

    memory: Memory | None = None
    """Memory for jobs: a number of MB, or one with a unit; no limit where it
    is not set."""


class Local(SiteConfig):
    """Runs the jobs on this machine.

    Each job is a process of its own, for which a thread of Parsl's waits:
    nothing is started, no port is opened.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    resource_list : `~collections.abc.Iterable` [`str`], optional
        As for `SiteConfig`; ``priority`` by default.
    """

    settings_model = LocalSettings
    settings: LocalSettings

    label: ClassVar[str] = "local"

    def __init__(self, config: BpsConfig, resource_list: Iterable[str] | None = ("priority",)) -> None:
        super().__init__(config, resource_list)

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor with a thread for each core.

        Returns
        -------
        executors : `list` [`parsl.executors.ThreadPoolExecutor`]
            The executor. Where memory is limited it has more threads: the
            runner starts a job that has room in place of one that has none,
            of those that it is given.
        """
        threads = self.settings.cores * (1 if self.settings.memory is None else CHOICE)
        return [ThreadPoolExecutor(label=self.label, max_threads=threads)]

    def select_executor(self, job: ParslJob) -> str:
        """Return the label of the one executor.

        Parameters
        ----------
        job : `ParslJob`
            The job.

        Returns
        -------
        label : `str`
            The label.
        """
        return self.label

    def get_capacity(self) -> dict[str, float | None]:
        """Return the cores and the memory (MB) of the settings.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`.
        """
        return {"cpus": self.settings.cores, "memory": self.settings.memory}
