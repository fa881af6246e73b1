# SPDX-License-Identifier: BSD-3-Clause
"""Memory of a job's processes; standard library only."""

from __future__ import annotations

import os
from collections.abc import Collection

__all__ = ["resident"]

_MB = 1 << 20


def resident(pids: Collection[int]) -> int:
    """Return how much memory the processes of a job have, in MB.

    It is what they would have if nobody else were there: what one shares with
    the process that it was forked from, or with other jobs, counts in full,
    and what several of them share once.

    Parameters
    ----------
    pids : `~collections.abc.Collection` [`int`]
        The processes.

    Returns
    -------
    memory : `int`
        What each has alone and the most that one of them shares; at least
        their proportional shares. Neither is ever more than there is, and of
        processes that were forked from one another, the first is all.
    """
    if len(pids) == 1:
        return sum(map(_resident, pids)) // _MB
    found = [_rollup(pid) for pid in pids]
    alone = sum(one["Private"] for one in found) + max((one["Shared"] for one in found), default=0)
    return max(alone, sum(one["Pss"] for one in found)) // _MB


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _rollup(pid: int) -> dict[str, int]:
    """Return what a process has alone, what it shares, and its proportional share, in bytes."""
    found = dict.fromkeys(("Private", "Shared", "Pss"), 0)
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as stream:
            for line in stream:
                name, _, rest = line.partition(b":")
                # "Pss_Anon" and its kin are parts of "Pss".
                kind = name.decode().removesuffix("_Clean").removesuffix("_Dirty")
                if kind in found and name != b"Pss_Dirty":
                    found[kind] += int(rest.split()[0]) * 1024
    except OSError:
        # It has ended, or the kernel is older than this file.
        found["Private"] = _resident(pid)
    return found
