# SPDX-License-Identifier: BSD-3-Clause
"""Clusters that are run by Torque, PBS Professional or LSF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor
from parsl.launchers import SingleNodeLauncher

from ..batch.launchers import Jsrun, Mpiexec
from ..batch.queue_providers import LSFBlocks, PBSProBlocks, TorqueBlocks
from ..paths import SubmitPaths
from ..settings.types import Count, Gigabytes, Name, Word, clock_time
from .arguments import parsl_arguments
from .blocks import BlockSettings, BlockSite

__all__ = [
    "LSF",
    "LSFSettings",
    "PBSPro",
    "PBSProProviders",
    "PBSProSettings",
    "Torque",
    "TorqueSettings",
]


class QueueSettings(BlockSettings):
    """Settings of batch systems other than Slurm."""

    queue: Name | None = None
    """Queue to submit to."""

    account: Name | None = None
    """Account to charge."""

    nodes: Count | None = None
    """Number of nodes of a block."""

    mem_per_node: Gigabytes | None = None
    """Memory of a node that the workers may use: a number of GB, or one with
    a unit. The batch system is not told; see ``scheduler_options``."""

    mem_per_worker: Gigabytes | None = None
    """Memory for each worker, which runs one job at a time: a number of GB,
    or one with a unit."""


class QueueProviders(BlockSite):
    """Makes Parsl's providers for batch systems other than Slurm."""

    settings_model = QueueSettings
    settings: QueueSettings
    bps_settings: ClassVar[Mapping[str, str]] = {"queue": "queue", "account": "accountingGroup"}

    provider_class: Any = None
    """Parsl's class of the batch system."""

    def make_provider(self, settings: Any) -> Any:
        """Make what asks the batch system for blocks.

        Parameters
        ----------
        settings : `QueueSettings`
            The settings, with the executor's defaults.

        Returns
        -------
        provider : `parsl.providers.cluster_provider.ClusterProvider`
            The provider.

        Raises
        ------
        ConfigurationError
            Raised if ``nodes`` or ``walltime`` is missing.
        """
        self.require(settings, "nodes", "walltime")
        cores = self.cores(settings)
        init = self.block_init(settings.worker_init, settings.walltime)
        arguments = {
            "record": SubmitPaths(self.config["submitPath"]).pilots,
            "seconds": settings.walltime,
            "nodes_per_block": settings.nodes,
            "walltime": clock_time(settings.walltime),
            "scheduler_options": settings.scheduler_options,
            "worker_init": "\n".join([init, *self.sizes(settings)]),
            "cmd_timeout": settings.cmd_timeout,
            "launcher": self.launcher(settings),
            **self.block_limits(settings, cores and cores * settings.nodes),
            **self.own_options(settings),
            **parsl_arguments(settings, "provider_options", self.where),
        }
        parsls_class = self.provider_class.__mro__[2]
        provider = self.build("provider_options", self.provider_class, arguments, parsls_class)
        # The executor reads these of a provider.
        provider.cores_per_node = cores
        provider.mem_per_node = settings.mem_per_node
        return provider

    def get_capacity(self) -> dict[str, float | None]:
        """Return what the settings say of a node.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`.
        """
        settings = self.settings
        memory = settings.mem_per_node
        return {
            "cpus": self.cores(settings),
            "memory": memory and 1024 * memory,
            "walltime": settings.walltime,
        }

    def sizes(self, settings: QueueSettings) -> list[str]:
        """Return bash code that tells the workers the size of a node."""
        lines = []
        if (cores := self.cores(settings)) is not None:
            lines.append(f"export PARSL_CORES={cores}")
        if settings.mem_per_node is not None:
            lines.append(f"export PARSL_MEMORY_GB={settings.mem_per_node:g}")
        return lines

    def cores(self, settings: Any) -> int | None:
        """Return the cores of a node that the workers use."""
        return None

    def launcher(self, settings: Any) -> Any:
        """Return what starts the workers of a block."""
        return SingleNodeLauncher() if settings.nodes == 1 else Mpiexec()

    def own_options(self, settings: Any) -> Mapping[str, Any]:
        """Return arguments that this batch system's provider alone has."""
        return {}


class QueueSite(QueueProviders):
    """Base class of sites with batch systems other than Slurm."""

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor.

        Returns
        -------
        executors : `list` [`parsl.executors.HighThroughputExecutor`]
            The executor.
        """
        return [self.make_executor(self.label)]

    def make_executor(self, label: str, **defaults: Any) -> HighThroughputExecutor:
        """Make an executor whose blocks are jobs of the batch system.

        Parameters
        ----------
        label : `str`
            Its label.
        **defaults : optional
            Defaults for the site's settings, by their names.

        Returns
        -------
        executor : `parsl.executors.HighThroughputExecutor`
            The executor.

        Raises
        ------
        ConfigurationError
            Raised if ``nodes`` or ``walltime`` is neither set nor given.
        """
        settings = self.with_defaults(**defaults)
        more = parsl_arguments(settings, "executor_options", self.where)
        options = {"mem_per_worker": settings.mem_per_worker, **more}
        return self.make_htex(label, self.make_provider(settings), **options)


class TorqueSettings(QueueSettings):
    """Settings of `Torque`."""

    tasks_per_node: Count = 1
    """Number of workers on each node, each with one job at a time."""


class Torque(QueueSite):
    """Runs the jobs in blocks of nodes of a Torque cluster."""

    settings_model = TorqueSettings
    settings: TorqueSettings
    label = "torque"
    provider_class = TorqueBlocks

    def cores(self, settings: TorqueSettings) -> int | None:
        """Return the cores of a node that the workers use."""
        return settings.tasks_per_node

    def own_options(self, settings: TorqueSettings) -> Mapping[str, Any]:
        """Return arguments that this batch system's provider alone has."""
        return {
            "queue": settings.queue,
            "account": settings.account,
            "cores_per_node": settings.tasks_per_node,
        }


class PBSProSettings(QueueSettings):
    """Settings of `PBSPro`."""

    cores_per_node: Count = 1
    """Cores of each node to use."""

    select_options: Word | None = None
    """What else the ``select`` statement has, such as ``ngpus=4``."""


class PBSProProviders(QueueProviders):
    """Makes Parsl's provider for PBS Professional."""

    settings_model = PBSProSettings
    settings: PBSProSettings
    provider_class = PBSProBlocks

    def cores(self, settings: PBSProSettings) -> int | None:
        """Return the cores of a node that the workers use."""
        return settings.cores_per_node

    def own_options(self, settings: PBSProSettings) -> Mapping[str, Any]:
        """Return arguments that this batch system's provider alone has."""
        return {
            "queue": settings.queue,
            "account": settings.account,
            "cpus_per_node": settings.cores_per_node,
            "select_options": f":{settings.select_options}" if settings.select_options else "",
        }


class PBSPro(PBSProProviders, QueueSite):
    """Runs the jobs in blocks of nodes of a PBS Professional cluster."""

    label = "pbspro"


class LSFSettings(QueueSettings):
    """Settings of `LSF`."""

    cores_per_node: Count | None = None
    """Cores of each node to use; by default, as many as there are."""


class LSF(QueueSite):
    """Runs the jobs in blocks of nodes of an LSF cluster."""

    settings_model = LSFSettings
    settings: LSFSettings
    label = "lsf"
    provider_class = LSFBlocks

    def cores(self, settings: LSFSettings) -> int | None:
        """Return the cores of a node that the workers use."""
        return settings.cores_per_node

    def launcher(self, settings: LSFSettings) -> Any:
        """Return what starts the workers of a block."""
        return SingleNodeLauncher() if settings.nodes == 1 else Jsrun()

    def own_options(self, settings: LSFSettings) -> Mapping[str, Any]:
        """Return arguments that this batch system's provider alone has."""
        return {
            "queue": settings.queue,
            "project": settings.account,
            "cores_per_node": settings.cores_per_node,
        }
