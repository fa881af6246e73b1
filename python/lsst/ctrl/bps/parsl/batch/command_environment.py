# SPDX-License-Identifier: BSD-3-Clause
"""Environment variables that batch systems read as options: what is asked of them depends on settings alone.

A shell inside ``salloc``, a batch job or an old session has the variables of
another job, and sites export defaults in their profiles. Commands read them
as options, and Slurm carries them into the block, where ``srun`` reads them
once more (sbatch(1), squeue(1), scancel(1), srun(1), "ENVIRONMENT VARIABLES").
"""

from __future__ import annotations

import os

__all__ = ["chosen_clusters", "command_environment", "ignored_options", "step_reset", "taken_out"]

_OPTIONS = (
    "SLURM_",
    "SLURMD_",
    "_SLURM_",  # Options of SPANK's plugins.
    "SPANK_",
    "SBATCH_",
    "SALLOC_",
    "SRUN_",
    "SQUEUE_",
    "SCANCEL_",
    "SCONTROL_",
    "SACCT_",
    "SINFO_",
    "PBS_",
    "LSB_",
    "BSUB_",
    # Of the step or the allocation that bps runs in; a block has others.
    "PMI_",
    "PMIX_RANK",
    "PMIX_NAMESPACE",
    "PMIX_SERVER_",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)
"""Beginnings of the names of variables that change what is asked for."""

_FINDING = frozenset(
    "SLURM_CONF SLURM_CONF_SERVER SLURM_JWT SLURM_SACK_KEY SLURM_SACK_SOCKET "
    "PBS_DEFAULT PBS_SERVER PBS_CONF_FILE PBS_EXEC PBS_HOME PBS_PRIMARY PBS_SECONDARY "
    "PBS_AUTH_METHOD PBS_CLIENTRETRY".split()
)
"""Variables without which the batch system is not found, or does not know the user."""

_CLUSTERS = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")

_READ_BY_SRUN = {
    "SLURM_EXPORT_ENV": "",
    "SRUN_EXPORT_ENV": "",
    "SLURM_CPU_BIND": "",
    "SLURM_MEM_BIND": "--mem-bind",
    "SLURM_HINT": "--hint",
    "SLURM_DISTRIBUTION": "--distribution",
    "SLURM_NTASKS_PER_CORE": "--ntasks-per-core",
    "SLURM_NTASKS_PER_SOCKET": "--ntasks-per-socket",
    "SLURM_NTASKS_PER_GPU": "--ntasks-per-gpu",
    "SLURM_NTASKS_PER_TRES": "--ntasks-per-gpu",
}
"""What Slurm sets in a batch job only where its script asks for it, with the
option that does; and what would contradict the ``srun`` of the workers."""


def command_environment() -> dict[str, str]:
    """Return this process's environment as commands of batch systems get it.

    Returns
    -------
    environment : `dict` [`str`, `str`]
        The variables without those that are options. What finds the batch
        system stays, such as ``SLURM_CONF``.
    """
    return {
        name: value for name, value in os.environ.items() if name in _FINDING or not name.startswith(_OPTIONS)
    }


def taken_out() -> list[str]:
    """Return the names of the variables that `command_environment` takes out.

    Returns
    -------
    names : `list` [`str`]
        The names that a shell can unset.
    """
    kept = command_environment()
    return sorted(name for name in os.environ if name not in kept and name.isidentifier() and name.isascii())


def chosen_clusters() -> str | None:
    """Return the clusters that the shell has chosen.

    Returns
    -------
    clusters : `str` or `None`
        Their names. Where a site has several clusters, its modules choose one
        by ``SLURM_CLUSTERS``. Whoever asks for a block writes this down, so
        that the block is found later from any shell.
    """
    return next((os.environ[name] for name in _CLUSTERS if os.environ.get(name)), None)


def ignored_options() -> list[str]:
    """Return the variables by which somebody may want to ask for something.

    Returns
    -------
    names : `list` [`str`]
        Names of the options of sbatch that `command_environment` takes out.
    """
    return sorted(name for name in os.environ if name.startswith("SBATCH_") and name not in _CLUSTERS)


def step_reset(options: str = "", *, memory: bool = False) -> str:
    """Return the bash code before an ``srun``, that has it do what it is told and nothing else.

    Parameters
    ----------
    options : `str`, optional
        Lines of the batch script's head that the user wrote: what they ask
        for stays.
    memory : `bool`, optional
        Whether the script asks for the memory of a node.

    Returns
    -------
    code : `str`
        A line, and what it is for. After ``--export=NONE``, and with what a login or a
        ``worker_init`` brings, steps would start without a PATH or not at all.
    """
    names = [name for name, option in _READ_BY_SRUN.items() if not option or option not in options]
    if memory:
        # Any two of the three are an error of srun's.
        names += ["SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU"]
    return f"# What srun reads as options; those of this script count.\nunset {' '.join(names)}"
