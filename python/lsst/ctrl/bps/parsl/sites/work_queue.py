# SPDX-License-Identifier: BSD-3-Clause
"""Work Queue: each job gets the cores and the memory that it asks for."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lsst.ctrl.bps import BpsConfig
from parsl.executors.base import ParslExecutor
from parsl.launchers import SingleNodeLauncher
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider

from ..paths import SubmitPaths
from ..setting_types import Count, Words
from .blocks import BlockSettings, BlockSite
from .slurm import SRUN_OPTIONS, SlurmSettings, SlurmSite
from .slurm_provider import Srun
from .work_queue_module import work_queue_executor
from .workers import RESOURCES, ShellPath, node_sizes, worker_limits, write_password

if TYPE_CHECKING:
    from ..job import ParslJob

__all__ = [
    "LocalSrunWorkQueue",
    "LocalSrunWorkQueueSettings",
    "SlurmWorkQueue",
    "SlurmWorkQueueSettings",
    "WorkQueue",
    "WorkQueueSettings",
]


class WorkQueueSettings(BlockSettings):
    """Settings of `WorkQueue`."""

    port: int = 0
    """Port for the workers to connect to; 0 takes one that is free."""

    worker_options: Words = ""
    """Options of each ``work_queue_worker``, such as ``--memory=480000``
    (MB), ``--cores=100``, ``--disk=10000`` (MB)."""

    wq_max_retries: Count = 1
    """How often Work Queue itself starts a job. What failed is tried again
    by the plugin, as ``numberOfRetries`` has it."""

    nodes_per_block: Count = 1
    """Number of nodes of a block, each with one worker."""


class WorkQueue(BlockSite):
    """Base class of sites with Work Queue.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    resource_list : optional
        As for `SiteConfig`; all there is by default.
    """

    settings_model = WorkQueueSettings
    settings: WorkQueueSettings

    def __init__(self, config: BpsConfig, resource_list: Any = RESOURCES) -> None:
        super().__init__(config, resource_list)

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
            **settings.executor_options,
        }
        if address := self.get_address():
            arguments.setdefault("address", address)
        executor: Any = self.build("executor_options", work_queue_executor(), arguments)
        # Its constructor wants to see the file, which prepare writes later.
        executor.project_password_file = ShellPath(SubmitPaths(self.config["submitPath"]).password)
        # Workers run Python as this process does, whatever is on their PATH.
        executor.launch_cmd = executor.launch_cmd.replace("python3", shlex.quote(sys.executable), 1)
        made: ParslExecutor = executor
        return made

    def write_secrets(self, paths: SubmitPaths) -> None:
        """Write the workers' password.

        Parameters
        ----------
        paths : `SubmitPaths`
            Where to.
        """
        write_password(paths)

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
        """Return what ``worker_options`` says of a worker.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`.
        """
        found: dict[str, float | None] = {}
        for name in ("cores", "memory"):
            match = re.search(rf"--{name}[= ](\d+)", self.settings.worker_options)
            # To a worker 0 is what the machine has.
            found[name] = float(match.group(1)) or None if match else None
        return {"cpus": found["cores"], "memory": found["memory"], "walltime": self.settings.walltime}

    def worker_or_node(self, node: Mapping[str, float | None]) -> dict[str, float | None]:
        """Return what ``worker_options`` says, and for the rest what a node has.

        Parameters
        ----------
        node : `~collections.abc.Mapping` [`str`, `float`]
            The node's capacity.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`.
        """
        worker = WorkQueue.get_capacity(self)
        return {name: node[name] if worker[name] is None else worker[name] for name in node}

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
        return "work_queue"


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
        return [self.make_executor("work_queue", self.make_provider())]

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
            **settings.provider_options,
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
        options = self.settings.srun_options
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


class SlurmWorkQueueSettings(SlurmSettings, WorkQueueSettings):
    """Settings of `SlurmWorkQueue`."""


class SlurmWorkQueue(WorkQueue, SlurmSite):
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
        settings = self.settings
        if settings.nodes is None:
            settings = settings.model_copy(update={"nodes": settings.nodes_per_block})
        provider = self.make_provider("work_queue", settings)
        return [self.make_executor("work_queue", provider)]

    def get_capacity(self) -> dict[str, float | None]:
        """Return what the settings say of a node.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`; ``worker_options`` come first.
        """
        return self.worker_or_node(SlurmSite.get_capacity(self))

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
