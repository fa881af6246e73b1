# SPDX-License-Identifier: BSD-3-Clause
"""Work Queue on clusters that are run by PBS Professional."""

from __future__ import annotations

from typing import Any

from parsl.executors.base import ParslExecutor
from parsl.launchers import MpiExecLauncher

from .torque import PBSProProviders, PBSProSettings
from .work_queue import LocalSrunWorkQueue, WorkQueue, WorkQueueSettings
from .workers import node_sizes

__all__ = ["LocalMpiWorkQueue", "PBSProWorkQueue", "PBSProWorkQueueSettings"]

_MPI: dict[str, Any] = {"bind_cmd": "--cpu-bind", "overrides": "--depth=64 --ppn 1"}


class LocalMpiWorkQueue(LocalSrunWorkQueue):
    """Runs the jobs inside a PBS allocation (gen3_workflow's LocalPBSPro)."""

    def make_launcher(self) -> Any:
        """Make what starts a worker on each of several nodes.

        Returns
        -------
        launcher : `parsl.launchers.MpiExecLauncher`
            The launcher.
        """
        return MpiExecLauncher(**_MPI)


class PBSProWorkQueueSettings(PBSProSettings, WorkQueueSettings):
    """Settings of `PBSProWorkQueue`."""


class PBSProWorkQueue(WorkQueue, PBSProProviders):
    """Runs the jobs on Work Queue's workers in blocks of a PBS cluster."""

    settings_model = PBSProWorkQueueSettings
    settings: PBSProWorkQueueSettings

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor.

        Returns
        -------
        executors : `list` [`parsl.executors.WorkQueueExecutor`]
            The executor.
        """
        settings = self.settings
        if settings.nodes is None:
            settings = settings.model_copy(update={"nodes": settings.nodes_per_block})
        return [self.make_executor("work_queue", self.make_provider(settings))]

    def launcher(self, settings: Any) -> Any:
        """Return what starts the workers of a block."""
        return MpiExecLauncher(**_MPI)

    def get_capacity(self) -> dict[str, float | None]:
        """Return what the settings say of a node.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`; ``worker_options`` come first.
        """
        return self.worker_or_node(PBSProProviders.get_capacity(self))

    def worker_options(self, settings: WorkQueueSettings) -> str:
        """Return the options of the workers.

        Parameters
        ----------
        settings : `WorkQueueSettings`
            The settings.

        Returns
        -------
        options : `str`
            Those of `WorkQueue`, and the size of a node as it was asked for.
        """
        sizes = node_sizes(self.settings.cores_per_node, self.settings.mem_per_node)
        return " ".join([*sizes, super().worker_options(settings)])
