# SPDX-License-Identifier: BSD-3-Clause
"""CC-IN2P3 (https://doc.cc.in2p3.fr/en/Computing/job-types.html)."""

from __future__ import annotations

import platform
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from parsl.executors.base import ParslExecutor

from ..errors import ConfigurationError
from ..settings.model import read_settings
from ..settings.types import Options
from .arguments import parsl_arguments
from .slurm import Slurm, SlurmSettings

if TYPE_CHECKING:
    from ..job import ParslJob

__all__ = ["Ccin2p3", "Ccin2p3Settings"]

_ARM = platform.machine() == "aarch64"


class Ccin2p3Settings(SlurmSettings):
    """Settings of `Ccin2p3`."""

    small: Options = {}
    """Settings of the blocks for small jobs, by the names of the site's, and
    ``memory``: what a job has there (a number of GB, or one with a unit)."""

    medium: Options = {}
    """The same for medium jobs."""

    large: Options = {}
    """The same for large jobs."""

    xlarge: Options = {}
    """The same for the largest jobs."""


class Ccin2p3(Slurm):
    """Runs each job in a block of its own size: one core, and 4, 10, 50 or 150 GB.

    Users of CC-IN2P3 declare the storage that jobs use: ``--licenses=sps``.
    """

    settings_model = Ccin2p3Settings
    settings: Ccin2p3Settings

    defaults = {
        "nodes": 1,
        "cores_per_node": 1,
        "walltime": "72:00:00",
        "account": "lsst",
        "scheduler_options": "#SBATCH --licenses=sps",
        "worker_init": "ulimit -n hard && ulimit -u hard",
        "retries": 0,
        "run_dir": "parsl_runinfo",
    }

    slots: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"memory": 4, "max_blocks": 3000, "partition": "htc_arm" if _ARM else "lsst,htc"},
        "medium": {"memory": 10, "max_blocks": 1000, "partition": "htc_arm" if _ARM else "lsst"},
        "large": {"memory": 50, "max_blocks": 100, "partition": "htc_arm" if _ARM else "lsst"},
        "xlarge": {"memory": 150, "max_blocks": 10, "partition": "htc_arm" if _ARM else "lsst"},
    }
    """The facility's values for each slot."""

    def slot_settings(self, slot: str) -> Ccin2p3Settings:
        """Return the settings of a slot.

        Parameters
        ----------
        slot : `str`
            Its name.

        Returns
        -------
        settings : `Ccin2p3Settings`
            The slot's own settings, over those of the site, over those that
            the facility has for it.
        """
        general: Ccin2p3Settings = self.with_defaults(**_with_memory(self.slots[slot]))
        where = f"{self.where}.{slot}"
        own = _with_memory(
            {name: value for name, value in getattr(self.settings, slot).items() if value is not None}
        )
        read = read_settings(SlurmSettings, {**own, "class": type(self).__name__}, where)
        if strange := [name for name in own if name not in SlurmSettings.model_fields]:
            raise ConfigurationError([f"{where}.{name}: a slot has no such setting." for name in strange])
        return general.model_copy(update={name: getattr(read, name) for name in own})

    def get_executors(self) -> list[ParslExecutor]:
        """Return an executor for each slot.

        Returns
        -------
        executors : `list` [`parsl.executors.HighThroughputExecutor`]
            The executors.
        """
        executors: list[ParslExecutor] = []
        for slot in self.slots:
            settings = self.slot_settings(slot)
            more = parsl_arguments(settings, "executor_options", self.where)
            options = {"max_workers_per_node": 1, **more}
            executors.append(self.make_htex(slot, self.make_provider(slot, settings), **options))
        return executors

    def select_executor(self, job: ParslJob) -> str:
        """Choose a slot by the memory that a job asks for.

        Parameters
        ----------
        job : `ParslJob`
            The job.

        Returns
        -------
        label : `str`
            The first slot with that much memory, or the last.
        """
        memory = (job.generic.request_memory or 0) / 1024
        *smaller, last = self.slots
        for slot in smaller:
            if memory <= self._memory[slot]:
                return slot
        return last

    @cached_property
    def _memory(self) -> dict[str, float]:
        """Memory of each slot in GB."""
        return {slot: self.slot_settings(slot).mem_per_node or 0.0 for slot in self.slots}

    def get_capacity(self) -> dict[str, float | None]:
        """Return what the largest slot has.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`.
        """
        return {"cpus": self.settings.cores_per_node, "memory": 1024 * max(self._memory.values())}


def _with_memory(values: dict[str, Any]) -> dict[str, Any]:
    """Write a slot's memory as what each node of its blocks has."""
    values = dict(values)
    if "memory" in values:
        values["mem_per_node"] = values.pop("memory")
    return values
