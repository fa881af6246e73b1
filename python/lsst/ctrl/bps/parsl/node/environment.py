# SPDX-License-Identifier: BSD-3-Clause
"""The environment of jobs, as runners read it; standard library only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from .pilot import PILOT_END
from .processes import find_program

__all__ = ["capture_environment", "load_environment", "path_with_commands", "travels", "without_shape"]

COMMANDS = ("pipetask", "butler", "bps")
"""Commands of BPS's defaults, which name them without a directory since BPS 30.2026.4300."""

LOCAL_NAMES = (
    "DISPLAY",
    "XAUTHORITY",
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "KRB5CCNAME",
    "HOSTNAME",
    "TMPDIR",
    "TMP",
    "TEMP",
    "TERM",
    "TERMCAP",
    "COLUMNS",
    "LINES",
    "TMUX",
    "TMUX_PANE",
    "STY",
    "WINDOW",
    "SHLVL",
    "PWD",
    "OLDPWD",
    "_",
)
"""Variables that describe one session on one machine; they do not travel."""

LOCAL_PREFIXES = (
    "SSH_",
    "XDG_",
    "SLURM_",
    "SLURMD_",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "PBS_",
    "LSB_",
    "LSF_",
    "SGE_",
    "OAR_",
    "COBALT_",
    "PMI_",
    "PMIX_",
    "OMPI_",
    "CUDA_VISIBLE_",
    "GPU_DEVICE_ORDINAL",
    "ROCR_VISIBLE_",
    "ZE_AFFINITY_MASK",
    "_SLURM_",
)
"""Beginnings of such names: the login session's and the batch system's."""


SHAPE_NAMES = frozenset(
    "SLURM_CPUS_PER_TASK SLURM_DISTRIBUTION SLURM_EXACT SLURM_EXPORT_ENV SLURM_GTIDS SLURM_LABELIO "
    "SLURM_LAUNCH_NODE_IPADDR SLURM_LOCALID SLURM_NODEID SLURM_NPROCS SLURM_OVERLAP SLURM_PROCID "
    "SLURM_TASK_PID SLURM_UMASK".split()
)
"""Variables by which Slurm tells a worker which task of the block it is, or
with which it would give the worker's shape to what a job starts with srun."""

SHAPE_PREFIXES = (
    "SLURM_CPU_BIND",
    "SLURM_GPU_BIND",
    "SLURM_MEM_BIND",
    "SLURM_NTASKS",
    "SLURM_PMI",
    "SLURM_SRUN_",
    "SLURM_STEP",
    "SRUN_",
    "PMI_",
    "PMIX_",
)
"""Beginnings of such names."""


def without_shape(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what jobs get of a worker's environment: the allocation, as a batch script sees it.

    Parameters
    ----------
    environ : `~collections.abc.Mapping` [`str`, `str`]
        The worker's environment.

    Returns
    -------
    environment : `dict` [`str`, `str`]
        All of it where it is neither a block's nor a step's; otherwise,
        without what shapes the workers of one. What a user's own batch script
        has, stays.
    """
    if PILOT_END not in environ and "SLURM_STEP_ID" not in environ:
        return dict(environ)
    return {
        name: value
        for name, value in environ.items()
        if name not in SHAPE_NAMES and not name.startswith(SHAPE_PREFIXES)
    }


def travels(name: str) -> bool:
    """Tell whether a variable may go to another machine or session.

    Parameters
    ----------
    name : `str`
        Name of an environment variable.

    Returns
    -------
    travels : `bool`
        `False` for the names in ``LOCAL_NAMES`` and those that begin with
        one of ``LOCAL_PREFIXES``.
    """
    return name not in LOCAL_NAMES and not name.startswith(LOCAL_PREFIXES)


def capture_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that travel.

    Parameters
    ----------
    environ : `~collections.abc.Mapping` [`str`, `str`], optional
        Environment to look at; this process's by default.

    Returns
    -------
    environment : `dict` [`str`, `str`]
        The variables, exported bash functions among them.
    """
    environ = os.environ if environ is None else environ
    return {name: value for name, value in environ.items() if travels(name)}


def path_with_commands(environ: Mapping[str, str]) -> str | None:
    """Return a PATH on which the commands are that BPS calls by name.

    Parameters
    ----------
    environ : `~collections.abc.Mapping` [`str`, `str`]
        Environment of what calls them.

    Returns
    -------
    path : `str` or `None`
        The PATH, and at its end the directory of the commands that belong to
        the Python that runs; `None` where that has none that is missing. What
        was found before is still found in the same place.
    """
    beside = os.path.join(sys.prefix, "bin")
    for name in COMMANDS:
        try:
            find_program(name, environ)
        except FileNotFoundError:
            if os.access(os.path.join(beside, name), os.X_OK):
                return os.pathsep.join([environ.get("PATH") or os.defpath, beside])
    return None


def load_environment(path: str, site: str = "") -> tuple[dict[str, str], str]:
    """Read the file of the environment, which the driver has checked.

    Parameters
    ----------
    path : `str`
        What `~lsst.ctrl.bps.parsl.environment.write_environment` wrote.
    site : `str`, optional
        Name of the site of the jobs.

    Returns
    -------
    environment : `dict` [`str`, `str`]
        The variables.
    prefix : `str`
        Bash commands to run before each command.
    """
    with open(path, "rb") as stream:
        content = json.loads(stream.read().decode("utf-8", "surrogateescape"))
    return content["environment"], content.get("prefixes", {}).get(site, content["prefix"])
