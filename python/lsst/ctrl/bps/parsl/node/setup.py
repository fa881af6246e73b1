# SPDX-License-Identifier: BSD-3-Clause
"""What a worker is told of the run; standard library only."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NodeSetup"]


@dataclass(frozen=True)
class NodeSetup:
    """What a worker has to know of the run and of its site to have jobs run.

    To a worker of Parsl's it is sent as a `dict` of these fields, as the
    worker finds this module only with the ``package`` in it.
    """

    submit_path: str
    """Submit directory (`str`)."""

    site: str
    """Name of the site (`str`)."""

    journals: str
    """Directory of the nodes' journals (`str`)."""

    environment: str
    """File with the environment of prepare (`str`)."""

    cwd: str
    """Directory in which jobs run (`str`)."""

    export: bool
    """Whether jobs get the environment of prepare, or the worker's (`bool`)."""

    plan: str = ""
    """Identity of the plan, for the journals (`str`)."""

    cpus: float | None = None
    """CPUs that the jobs here may have in total (`float`); `None` for no limit."""

    memory: float | None = None
    """Memory in MB that the jobs here may have in total (`float`); `None`
    for no limit of the site's.
    """

    umask: int | None = None
    """The user's umask (`int`), as the driver's own is closed to others;
    `None` for the worker's.
    """

    warm: bool = False
    """Whether jobs may be forked from a process that has imported what they need (`bool`)."""

    enforce: bool = False
    """Whether a job that takes more memory than it asked for is ended (`bool`)."""

    monitored: bool = False
    """Whether Parsl's monitoring is to know of jobs that fail (`bool`)."""

    package: str = ""
    """Directory of the code that workers load (`str`); empty where the
    workers are threads of the driver.
    """

    shared: bool = False
    """Whether the processes of a pilot share one runner (`bool`)."""

    own_process: bool = False
    """Whether the worker starts a process for each job (`bool`)."""
