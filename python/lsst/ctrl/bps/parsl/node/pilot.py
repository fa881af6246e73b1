# SPDX-License-Identifier: BSD-3-Clause
"""What a worker knows of its pilot; standard library only."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from .processes import group, parent, start_time
from .setup import NodeSetup

__all__ = ["PILOT_END", "capacity", "task_worker", "time_left"]

PILOT_END = "BPS_PARSL_PILOT_END"
"""Environment variable in a pilot: when it ends, in seconds since 1970."""


def capacity(setup: NodeSetup) -> dict[str, float | None]:
    """Return what the jobs here may have: what the site says, or Slurm has granted.

    Parameters
    ----------
    setup : `NodeSetup`
        The run and the site.

    Returns
    -------
    capacity : `dict` [`str`, `float`]
        ``cpus`` and ``memory`` (MB); `None` for no limit.
    """
    memory = setup.memory
    if setup.shared and memory is None:
        memory = _slurm_memory(os.environ)
    return {"cpus": setup.cpus, "memory": memory}


def _slurm_memory(environ: Mapping[str, str]) -> float | None:
    """Return the memory (MB) that Slurm has granted on this node.

    The variables are those that Slurm sets in a job; 0 is all there is.
    """
    try:
        if node := environ.get("SLURM_MEM_PER_NODE"):
            return float(node) or None
        return float(environ["SLURM_MEM_PER_CPU"]) * float(environ["SLURM_CPUS_ON_NODE"]) or None
    except (KeyError, ValueError):
        return None


def task_worker() -> tuple[int, int | None]:
    """Return the worker that has started this process for one task.

    Returns
    -------
    pid : `int`
        Its number. It lasts as long as its pilot, and has each task in a
        process group of its own, if not from the first moment on.
    since : `int` or `None`
        When it began; see `~lsst.ctrl.bps.parsl.node.processes.start_time`.
    """
    own = os.getpgrp()
    pid = os.getppid()
    while pid > 1 and not _is_worker(pid):
        pid = parent(pid)
    if pid <= 1:
        pid = os.getppid()
        while pid > 1 and group(pid) == own:
            pid = parent(pid)
    return pid, start_time(pid)


def _is_worker(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().startswith(("work_queue_work", "vine_worker"))
    except OSError:
        return False


def time_left() -> float | None:
    """Return the seconds that this pilot has.

    Returns
    -------
    seconds : `float` or `None`
        The time; `None` where it has no end.
    """
    end = os.environ.get(PILOT_END)
    return float(end) - time.time() if end else None
