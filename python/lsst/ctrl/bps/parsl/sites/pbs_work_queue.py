# SPDX-License-Identifier: BSD-3-Clause
"""Work Queue on clusters that are run by PBS Professional."""

from __future__ import annotations

from typing import Any

from parsl.executors.base import ParslExecutor

from ..batch.launchers import Mpiexec
from .torque import PBSProProviders, PBSProSettings
from .work_queue import BlockWorkQueue, LocalSrunWorkQueue, WorkQueueSettings

__all__ = ["LocalMpiWorkQueue", "PBSProWorkQueue", "PBSProWorkQueueSettings"]

_MPI: dict[str, Any] = {"bind_cmd": "--cpu-bind", "overrides": "--depth=64 --ppn 1"}


class LocalMpiWorkQueue(LocalSrunWorkQueue):
    """Runs the jobs inside a PBS allocation (gen3_workflow's LocalPBSPro)."""

    def make_launcher(self) -> Any:
        """Make what starts a worker on each of several nodes.

        Returns
        -------
        launcher : `Mpiexec`
            The launcher.
        """
        return Mpiexec(**_MPI)


class PBSProWorkQueueSettings(PBSProSettings, WorkQueueSettings):
    """Settings of `PBSProWorkQueue`."""


class PBSProWorkQueue(BlockWorkQueue, PBSProProviders):
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
        return [self.make_executor(self.label, self.make_provider(self.node_settings()))]

    def launcher(self, settings: Any) -> Any:
        """Return what starts the workers of a block."""
        return Mpiexec(**_MPI)
