# SPDX-License-Identifier: BSD-3-Clause
"""What the workers of Work Queue and of TaskVine have in common."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterable

from lsst.ctrl.bps import BpsConfig

from ..files import PRIVATE, storage_errors, write_atomic
from ..paths import SubmitPaths
from .blocks import BlockSite

__all__ = ["RESOURCES", "ShellPath", "WorkerSite", "node_sizes", "worker_limits"]

RESOURCES = ("cores", "memory", "disk", "running_time_min", "priority")
"""What Work Queue is told of each job."""

CONNECT_SECONDS = 60
"""Time after which a worker without a driver gives up."""


class ShellPath(str):
    """A path that Parsl puts into a shell's command as it is."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return shlex.quote(str(self))


class WorkerSite(BlockSite):
    """Base class of sites with Work Queue or TaskVine.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    resource_list : optional
        As for `SiteConfig`; all there is by default.
    """

    def __init__(self, config: BpsConfig, resource_list: Iterable[str] | None = RESOURCES) -> None:
        super().__init__(config, resource_list)

    def write_secrets(self, paths: SubmitPaths) -> None:
        """Write a password that only this run's workers know.

        Parameters
        ----------
        paths : `SubmitPaths`
            Where to.
        """
        password = secrets.token_hex(32).encode()
        with (
            storage_errors(paths.password, "write the workers' password"),
            write_atomic(paths.password, PRIVATE) as stream,
        ):
            stream.write(password)


def worker_limits(idle: float, walltime: int | None) -> list[str]:
    """Return when a worker ends by itself, as options of Work Queue's and TaskVine's.

    Parameters
    ----------
    idle : `float`
        Seconds without work.
    walltime : `int` or `None`
        Seconds in all.

    Returns
    -------
    options : `list` [`str`]
        The options.
    """
    options = [f"--idle-timeout={max(1, round(idle))}", f"--connect-timeout={CONNECT_SECONDS}"]
    if walltime is not None:
        options.append(f"--wall-time={walltime}")
    return options


def node_sizes(cores: int | None, memory: float | None) -> list[str]:
    """Return the size of a node, as options of Work Queue's and TaskVine's workers.

    Parameters
    ----------
    cores : `int` or `None`
        Number of cores.
    memory : `float` or `None`
        Memory in GB.

    Returns
    -------
    options : `list` [`str`]
        The options.
    """
    options = [f"--cores={cores}"] if cores is not None else []
    return [*options, f"--memory={int(1024 * memory)}"] if memory is not None else options
