# SPDX-License-Identifier: BSD-3-Clause
"""Memory of a job's processes; standard library only."""

from __future__ import annotations

import os
from collections.abc import Collection

__all__ = ["resident"]

_MB = 1 << 20


def resident(pids: Collection[int]) -> int:
    """Return how much memory processes have, in MB.

    Parameters
    ----------
    pids : `~collections.abc.Collection` [`int`]
        The processes.

    Returns
    -------
    memory : `int`
        What is resident of one process; of several, what they share counts
        once (the kernel's "proportional set size").
    """
    if len(pids) == 1:
        return sum(map(_resident, pids)) // _MB
    return sum(map(_share, pids)) // _MB


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _share(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as stream:
            for line in stream:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # It has ended, or the kernel is older than this file.
    return _resident(pid)
