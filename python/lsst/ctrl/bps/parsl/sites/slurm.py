# SPDX-License-Identifier: BSD-3-Clause
"""Clusters that are run by Slurm."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lsst.ctrl.bps import BpsConfig
from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor
from parsl.launchers import SingleNodeLauncher
from parsl.providers import SlurmProvider

from ..batch.command_environment import ignored_options
from ..batch.slurm_provider import SlurmBlocks, Srun
from ..configuration import get_bps_config_value, get_workflow_name
from ..errors import ConfigurationError
from ..paths import SubmitPaths
from ..settings.gen3 import PARSL_CONFIG
from ..settings.types import Count, Gigabytes, Walltime, Word, Words, clock_time
from .arguments import parsl_arguments
from .blocks import BlockSettings, BlockSite
from .contradictions import contradictions, replaced

if TYPE_CHECKING:
    from ..job import ParslJob

__all__ = ["Slurm", "SlurmSettings", "SlurmSite", "TripleSlurm", "TripleSlurmSettings"]

SRUN_OPTIONS = "-K0 -k --cpu-bind=none"
"""Workers are independent of each other, and bind to no core."""


class SlurmSettings(BlockSettings):
    """Settings of `Slurm`."""

    nodes: Count | None = None
    """Number of nodes of a block."""

    cores_per_node: Count | None = None
    """Cores of each node to use; by default, as many as there are."""

    mem_per_node: Gigabytes | None = None
    """Memory of each node to use: a number of GB, or one with a unit."""

    mem_per_worker: Gigabytes | None = None
    """Memory for each worker, which runs one job at a time: a number of GB,
    or one with a unit. A node gets as many workers as its memory allows."""

    partition: Word | None = None
    """Partition, or several with commas between them."""

    account: Word | None = None
    """Account to charge."""

    qos: Word | None = None
    """Quality of service."""

    constraint: Word | None = None
    """Features that the nodes must have."""

    gpus_per_node: Count | None = None
    """Number of GPUs of each node to use."""

    singleton: bool = False
    """Whether blocks run one after the other: Slurm starts the next one when
    the one before has ended."""

    exclusive: bool | None = None
    """Whether the nodes are shared with nobody; by default only where
    ``cores_per_node`` is not set, since all cores are used then."""

    srun_options: Words = SRUN_OPTIONS
    """Options of the ``srun`` that starts the workers of a block of several
    nodes."""


class SlurmSite(BlockSite):
    """Base class of sites whose blocks are jobs of Slurm."""

    settings_model = SlurmSettings
    settings: SlurmSettings
    bps_settings: ClassVar[Mapping[str, str]] = {"partition": "queue", "account": "accountingGroup"}

    def make_provider(self, label: str, settings: SlurmSettings) -> SlurmBlocks:
        """Make what asks Slurm for blocks.

        Parameters
        ----------
        label : `str`
            Label of the executor.
        settings : `SlurmSettings`
            The settings, with the executor's defaults.

        Returns
        -------
        provider : `SlurmBlocks`
            The provider.

        Raises
        ------
        ConfigurationError
            Raised if ``nodes`` or ``walltime`` is missing, or if the options of
            sbatch contradict a setting.
        """
        self.require(settings, "nodes", "walltime")
        nodes, cores, walltime = settings.nodes or 1, settings.cores_per_node, settings.walltime or 0
        name, paths = get_workflow_name(self.config), SubmitPaths(self.config["submitPath"])
        same = "cores_per_node mem_per_node gpus_per_node partition account qos constraint"
        same += " singleton scheduler_options cmd_timeout"
        arguments = {
            **{key: getattr(settings, key) for key in same.split()},
            "name": re.sub(r"[^\w.+-]", "_", f"{name}.{self.name or PARSL_CONFIG}.{label}"),
            "exclusive": cores is None if settings.exclusive is None else settings.exclusive,
            "tag": run_tag(self.config),
            "record": paths.pilots,
            "script_path": paths.block_script(f"{self.name or PARSL_CONFIG}.{label}"),
            "seconds": walltime,
            "nodes_per_block": nodes,
            "worker_init": self.block_init(settings.worker_init, walltime),
            "launcher": Srun(overrides=settings.srun_options) if nodes > 1 else SingleNodeLauncher(),
            **self.block_limits(settings, cores and cores * nodes),
            **parsl_arguments(settings, "provider_options", self.where),
        }
        self._check_options(arguments)
        return self.build("provider_options", SlurmBlocks, arguments, SlurmProvider)

    def _check_options(self, arguments: Mapping[str, Any]) -> None:
        has = {**arguments, "nodes": arguments["nodes_per_block"], "walltime": arguments["seconds"]}
        if complaints := contradictions(self.where, arguments["scheduler_options"], has):
            raise ConfigurationError(complaints)

    def remarks(self) -> list[str]:
        """Say how settings were understood, and which have no effect.

        Returns
        -------
        remarks : `list` [`str`]
            As for `BlockSite.remarks`, a sentence for each setting that an
            option takes the place of, and one on the variables of the shell
            that are options of sbatch.
        """
        options = self.settings.scheduler_options
        said = [
            f"{self.where}.scheduler_options: {text} takes the place of {key}."
            for key, text in replaced(options, self.settings.model_dump())
        ]
        if names := ", ".join(ignored_options()):
            said.append(
                f"{names}: not used; what is asked of Slurm is in {self.where} (account, partition, ...)."
            )
        return [*super().remarks(), *said]

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
            "cpus": settings.cores_per_node,
            "memory": memory and 1024 * memory,
            "walltime": settings.walltime,
        }


class Slurm(SlurmSite):
    """Runs the jobs in blocks of nodes of a Slurm cluster."""

    label = "slurm"

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor.

        Returns
        -------
        executors : `list` [`parsl.executors.HighThroughputExecutor`]
            The executor.
        """
        return [self.make_executor(self.label)]

    def make_executor(
        self,
        label: str,
        *,
        nodes: int | None = None,
        cores_per_node: int | None = None,
        walltime: int | str | None = None,
        mem_per_node: float | str | None = None,
        mem_per_worker: float | str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        singleton: bool | None = None,
        exclusive: bool | None = None,
        scheduler_options: str | list[str] | None = None,
        provider_options: Mapping[str, Any] | None = None,
        executor_options: Mapping[str, Any] | None = None,
    ) -> HighThroughputExecutor:
        """Make an executor whose blocks are jobs of Slurm.

        Parameters
        ----------
        label : `str`
            Its label.
        nodes, cores_per_node, walltime, mem_per_node, mem_per_worker, qos, \
        constraint, singleton, exclusive, scheduler_options : optional
            Defaults for the settings of these names.
        provider_options, executor_options : `~collections.abc.Mapping`, optional
            More arguments for Parsl's classes; the settings of these names
            are put over them.

        Returns
        -------
        executor : `parsl.executors.HighThroughputExecutor`
            The executor.

        Raises
        ------
        ConfigurationError
            Raised if ``nodes`` or ``walltime`` is neither set nor given.
        """
        settings = self.with_defaults(
            nodes=nodes,
            cores_per_node=cores_per_node,
            walltime=walltime,
            mem_per_node=mem_per_node,
            mem_per_worker=mem_per_worker,
            qos=qos,
            constraint=constraint,
            singleton=singleton,
            exclusive=exclusive,
            scheduler_options=scheduler_options,
            provider_options=provider_options,
            executor_options=executor_options,
        )
        more = parsl_arguments(settings, "executor_options", self.where)
        options = {"mem_per_worker": settings.mem_per_worker, **more}
        return self.make_htex(label, self.make_provider(label, settings), **options)


class TripleSlurmSettings(SlurmSettings):
    """Settings of `TripleSlurm`."""

    small_memory: Gigabytes = 2.0
    """Memory of each worker for small jobs: a number of GB, or one with a
    unit. Jobs that ask for no more are small."""

    medium_memory: Gigabytes = 4.0
    """The same for medium jobs."""

    large_memory: Gigabytes = 8.0
    """The same for large jobs, which are all the others."""

    small_walltime: Walltime = 36000
    """How long a block for small jobs runs, where ``walltime`` is not set;
    10 hours by default. A number with a point is hours."""

    medium_walltime: Walltime = 36000
    """The same for medium jobs."""

    large_walltime: Walltime = 144000
    """The same for large jobs; 40 hours by default."""


class TripleSlurm(Slurm):
    """Runs small, medium and large jobs in blocks of their own.

    The memory that a job asks for decides where it runs.
    """

    settings_model = TripleSlurmSettings
    settings: TripleSlurmSettings

    sizes: ClassVar[tuple[str, ...]] = ("small", "medium", "large")

    def get_executors(self) -> list[ParslExecutor]:
        """Return three executors.

        Returns
        -------
        executors : `list` [`parsl.executors.HighThroughputExecutor`]
            Those for small, medium and large jobs.
        """
        return [
            self.make_executor(
                size,
                walltime=clock_time(getattr(self.settings, f"{size}_walltime")),
                mem_per_worker=getattr(self.settings, f"{size}_memory"),
            )
            for size in self.sizes
        ]

    def select_executor(self, job: ParslJob) -> str:
        """Choose an executor by the memory that a job asks for.

        Parameters
        ----------
        job : `ParslJob`
            The job.

        Returns
        -------
        label : `str`
            The first whose workers have that much memory, or the last.
        """
        memory = (job.generic.request_memory or 0) / 1024
        for size in self.sizes[:-1]:
            if memory <= getattr(self.settings, f"{size}_memory"):
                return size
        return self.sizes[-1]

    def get_capacity(self) -> dict[str, float | None]:
        """Return what the settings say of a node.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            As for `SiteConfig.get_capacity`.
        """
        longest = max(getattr(self.settings, f"{size}_walltime") for size in self.sizes)
        return {**super().get_capacity(), "walltime": self.settings.walltime or longest}


def run_tag(config: BpsConfig) -> str:
    """Return what marks the jobs of a run in the queue.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.

    Returns
    -------
    tag : `str`
        A text without spaces: the name of the run, and a digest of its submit
        directory, since names come again.
    """
    run = get_bps_config_value(config, "uniqProcName", str, get_workflow_name(config)) or ""
    path = str(SubmitPaths(config["submitPath"]).submit_path)
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"bps-parsl:{re.sub(r'[^A-Za-z0-9_.+-]', '_', run)}:{digest}"
