# SPDX-License-Identifier: BSD-3-Clause
"""Work Queue: each job gets the cores and the memory that it asks for."""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import Any

from parsl.executors.base import ParslExecutor
from parsl.launchers import SingleNodeLauncher
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider

from ..batch.slurm_provider import Srun
from ..paths import SubmitPaths
from ..settings.types import Count, Port, Words
from .arguments import parsl_arguments
from .blocks import BlockSettings
from .slurm import SRUN_OPTIONS, SlurmSettings, SlurmSite
from .work_queue_module import work_queue_executor
from .workers import ShellPath, WorkerSite, node_sizes, worker_limits

__all__ = [
    "BlockWorkQueue",
    "LocalSrunWorkQueue",
    "LocalSrunWorkQueueSettings",
    "SlurmWorkQueue",
    "SlurmWorkQueueSettings",
    "WorkQueue",
    "WorkQueueSettings",
]


class WorkQueueSettings(BlockSettings):
    """Settings of `WorkQueue`."""

    port: Port = 0
    """Port for the workers to connect to; 0 takes one that is free."""

    worker_options: Words = ""
    """Options of each ``work_queue_worker``, such as ``--memory=480000``
    (MB), ``--cores=100``, ``--disk=10000`` (MB)."""

    wq_max_retries: Count = 1
    """How often Work Queue itself starts a job. What failed is tried again
    by the plugin, as ``numberOfRetries`` has it."""

    nodes_per_block: Count = 1
    """Number of nodes of a block, each with one worker."""


class WorkQueue(WorkerSite):
    """Base class of sites with Work Queue."""

    settings_model = WorkQueueSettings
    settings: WorkQueueSettings

    label = "work_queue"

    def make_executor(
        self,
        label: str,
        provider: ExecutionProvider,
        *,
        port: int | None = None,
        worker_options: str | None = None,
        wq_max_retries: int | None = None,
    ) -> ParslExecutor:
        """Make an executor.

        Parameters
        ----------
        label : `str`
            Its label.
        provider : `parsl.providers.base.ExecutionProvider`
            Where its workers come from.
        port, worker_options, wq_max_retries : optional
            Defaults for the settings of these names.

        Returns
        -------
        executor : `parsl.executors.WorkQueueExecutor`
            The executor.

        Raises
        ------
        ConfigurationError
            Raised if Work Queue is not installed.
        """
        settings = self.with_defaults(port=port, worker_options=worker_options, wq_max_retries=wq_max_retries)
        arguments: dict[str, Any] = {
            "label": label,
            "provider": provider,
            "port": settings.port,
            "worker_options": self.worker_options(settings),
            "max_retries": settings.wq_max_retries,
            "shared_fs": True,
            "autolabel": False,
            **parsl_arguments(settings, "executor_options", self.where),
        }
        if address := self.get_address():
            arguments.setdefault("address", address)
        executor: Any = self.build("executor_options", work_queue_executor(), arguments)
        # Its constructor wants to see the file, which prepare writes later.
        executor.project_password_file = ShellPath(SubmitPaths(self.config["submitPath"]).password)
        # Workers run Python as this process does, whatever is on their PATH,
        # and no shell between: it would be the one that they end.
        python = f"exec {{package_prefix}}{shlex.quote(sys.executable)}"
        executor.launch_cmd = executor.launch_cmd.replace("{package_prefix}python3", python, 1)
        made: ParslExecutor = executor
        return made

    def worker_options(self, settings: WorkQueueSettings) -> str:
        """Return the options of the workers.

        Parameters
        ----------
        settings : `WorkQueueSettings`
            The settings.

        Returns
        -------
        options : `str`
            The setting ``worker_options``, after the time without work in
            which a worker ends, and the time that it has.
        """
        limits = worker_limits(self.idle_seconds(settings), settings.walltime)
        return " ".join([*limits, settings.worker_options]).strip()

    def get_capacity(self) -> dict[str, float | None]:
        """Return what ``worker_options`` says of a worker, and a node has.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`; ``worker_options`` come first.
        """
        capacity = {"walltime": self.settings.walltime, **super().get_capacity()}
        for name, option in (("cpus", "cores"), ("memory", "memory")):
            match = re.search(rf"--{option}[= ](\d+)", self.settings.worker_options)
            # To a worker 0 is what the machine has.
            if match and float(match.group(1)):
                capacity[name] = float(match.group(1))
        return capacity

    def idle_seconds(self, settings: WorkQueueSettings) -> int:
        """Return the time without work after which a worker ends.

        Parameters
        ----------
        settings : `WorkQueueSettings`
            The settings.

        Returns
        -------
        seconds : `int`
            The time in seconds.
        """
        return round(settings.idle_time)


class LocalSrunWorkQueueSettings(WorkQueueSettings):
    """Settings of `LocalSrunWorkQueue`."""

    srun_options: Words = SRUN_OPTIONS
    """Options of the ``srun`` that starts the workers on several nodes."""


class LocalSrunWorkQueue(WorkQueue):
    """Runs the jobs inside the Slurm allocation that ``bps`` runs in."""

    settings_model = LocalSrunWorkQueueSettings
    settings: LocalSrunWorkQueueSettings

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor.

        Returns
        -------
        executors : `list` [`parsl.executors.WorkQueueExecutor`]
            The executor.
        """
        return [self.make_executor(self.label, self.make_provider())]

    def make_provider(self) -> LocalProvider:
        """Make what starts the workers.

        Returns
        -------
        provider : `parsl.providers.LocalProvider`
            The provider.
        """
        settings = self.settings
        several = settings.nodes_per_block > 1
        arguments = {
            "nodes_per_block": settings.nodes_per_block,
            "worker_init": self.block_init(settings.worker_init, settings.walltime),
            "cmd_timeout": settings.cmd_timeout,
            "launcher": self.make_launcher() if several else SingleNodeLauncher(),
            **self.block_limits(settings, None),
            **parsl_arguments(settings, "provider_options", self.where),
        }
        return self.build("provider_options", LocalProvider, arguments)

    def idle_seconds(self, settings: WorkQueueSettings) -> int:
        """Return more than any run takes: the allocation is there anyway.

        Parameters
        ----------
        settings : `WorkQueueSettings`
            The settings.

        Returns
        -------
        seconds : `int`
            The time in seconds.
        """
        return 100 * 86400

    def make_launcher(self) -> Any:
        """Make what starts a worker on each of several nodes.

        Returns
        -------
        launcher : `parsl.launchers.base.Launcher`
            The launcher.
        """
        # Sites set SLURM_EXPORT_ENV=NONE, and then a step has no PATH.
        options = f"--export=ALL {self.settings.srun_options}"
        if "SLURM_STEP_ID" in os.environ:
            # bps itself was started with srun, which holds the allocation's
            # cores and memory.
            options += " --overlap --mem=0"
            here = os.environ.get("SLURMD_NODENAME", "")
            nodes = int(os.environ.get("SLURM_JOB_NUM_NODES") or 0)
            if here and nodes > self.settings.nodes_per_block:
                options += f" --exclude={shlex.quote(here)}"
        return Srun(overrides=options)

    def is_surplus(self) -> bool:
        """Tell whether srun started this process beside another one.

        Returns
        -------
        surplus : `bool`
            ``srun bps submit`` starts bps on every node of an allocation;
            the first one does it all.
        """
        tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
        return tasks > 1 and int(os.environ.get("SLURM_PROCID") or 0) > 0


class BlockWorkQueue(WorkQueue):
    """Base class of sites whose workers run in jobs of a batch system."""

    settings: Any

    def node_settings(self) -> Any:
        """Return the settings, with ``nodes_per_block`` where ``nodes`` is not set.

        Returns
        -------
        settings : `WorkQueueSettings`
            Settings of the site's own class.
        """
        settings = self.settings
        if settings.nodes is None:
            return settings.model_copy(update={"nodes": settings.nodes_per_block})
        return settings

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


class SlurmWorkQueueSettings(SlurmSettings, WorkQueueSettings):
    """Settings of `SlurmWorkQueue`."""


class SlurmWorkQueue(BlockWorkQueue, SlurmSite):
    """Runs the jobs on Work Queue's workers in blocks of a Slurm cluster."""

    settings_model = SlurmWorkQueueSettings
    settings: SlurmWorkQueueSettings

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor.

        Returns
        -------
        executors : `list` [`parsl.executors.WorkQueueExecutor`]
            The executor.
        """
        provider = self.make_provider(self.label, self.node_settings())
        return [self.make_executor(self.label, provider)]
