# SPDX-License-Identifier: BSD-3-Clause
"""TaskVine: Work Queue's successor."""

from __future__ import annotations

import os
from importlib import import_module

from parsl.executors.base import ParslExecutor
from parsl.executors.taskvine import TaskVineExecutor, TaskVineFactoryConfig, TaskVineManagerConfig
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider

from ..errors import ConfigurationError
from ..paths import SubmitPaths
from ..settings.types import Port, Words
from .arguments import parsl_arguments
from .blocks import BlockSettings
from .slurm import SlurmSettings, SlurmSite
from .workers import ShellPath, WorkerSite, node_sizes, worker_limits

__all__ = ["LocalTaskVine", "SlurmTaskVine", "SlurmTaskVineSettings", "TaskVine", "TaskVineSettings"]


class TaskVineSettings(BlockSettings):
    """Settings of `TaskVine`."""

    port: Port = 0
    """Port for the workers to connect to; 0 takes one that is free."""

    worker_options: Words = ""
    """Options of each ``vine_worker``, such as ``--memory=480000`` (MB)."""


class TaskVine(WorkerSite):
    """Base class of sites with TaskVine."""

    settings_model = TaskVineSettings
    settings: TaskVineSettings

    label = "task_vine"

    def make_executor(self, label: str, provider: ExecutionProvider) -> ParslExecutor:
        """Make an executor.

        Parameters
        ----------
        label : `str`
            Its label.
        provider : `parsl.providers.base.ExecutionProvider`
            Where its workers come from.

        Returns
        -------
        executor : `parsl.executors.TaskVineExecutor`
            The executor.

        Raises
        ------
        ConfigurationError
            Raised if TaskVine is not installed.
        """
        settings = self.settings
        try:
            import_module("ndcctools.taskvine")
        except ImportError:
            raise ConfigurationError(
                "TaskVine is not installed. With conda: conda install -c conda-forge ndcctools. Debian has "
                "no package of it; use the site class lsst.ctrl.bps.parsl.sites.SlurmWorkQueue there."
            ) from None
        manager = TaskVineManagerConfig(
            port=settings.port,
            address=self.get_address(),
            project_password_file=ShellPath(SubmitPaths(self.config["submitPath"]).password),
        )
        arguments = {
            "label": label,
            "provider": provider,
            "manager_config": manager,
            "factory_config": TaskVineFactoryConfig(worker_options=self.worker_options()),
            "worker_launch_method": "provider",
            **parsl_arguments(settings, "executor_options", self.where),
        }
        return self.build("executor_options", TaskVineExecutor, arguments)

    def worker_options(self) -> str:
        """Return the options of the workers.

        Returns
        -------
        options : `str`
            The setting ``worker_options``, after when a worker ends by itself.
        """
        settings = self.settings
        return " ".join(
            [*worker_limits(settings.idle_time, settings.walltime), settings.worker_options]
        ).strip()


class LocalTaskVine(TaskVine):
    """Runs the jobs on a TaskVine worker on this machine."""

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor.

        Returns
        -------
        executors : `list` [`parsl.executors.TaskVineExecutor`]
            The executor.
        """
        settings = self.settings
        arguments = {
            "worker_init": self.block_init(settings.worker_init, settings.walltime),
            "cmd_timeout": settings.cmd_timeout,
            **self.block_limits(settings, os.cpu_count()),
            **parsl_arguments(settings, "provider_options", self.where),
        }
        provider = self.build("provider_options", LocalProvider, arguments)
        return [self.make_executor("task_vine", provider)]


class SlurmTaskVineSettings(SlurmSettings, TaskVineSettings):
    """Settings of `SlurmTaskVine`."""


class SlurmTaskVine(TaskVine, SlurmSite):
    """Runs the jobs on TaskVine's workers in blocks of a Slurm cluster."""

    settings_model = SlurmTaskVineSettings
    settings: SlurmTaskVineSettings

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor.

        Returns
        -------
        executors : `list` [`parsl.executors.TaskVineExecutor`]
            The executor.
        """
        provider = self.make_provider("task_vine", self.settings)
        return [self.make_executor("task_vine", provider)]

    def worker_options(self) -> str:
        """Return the options of the workers.

        Returns
        -------
        options : `str`
            Those of `TaskVine`, and the size of a node as it was asked for.
        """
        sizes = node_sizes(self.settings.cores_per_node, self.settings.mem_per_node)
        return " ".join([*sizes, super().worker_options()])
