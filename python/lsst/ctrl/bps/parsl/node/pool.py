# SPDX-License-Identifier: BSD-3-Clause
"""The processes of a pool of workers that would outlive it; standard library only."""

from __future__ import annotations

from .processes import children, end, start_time

__all__ = ["Pools"]


class Pools:
    """The pools that the workers of a runner belong to.

    Parsl's pool keeps a process for what its workers share. Killed, the pool
    leaves that process behind for ever.
    """

    def __init__(self) -> None:
        self._pools: dict[tuple[int, int], set[tuple[int, int | None]]] = {}

    def note(self, pid: int, began: int) -> None:
        """Take down what a pool has started so far.

        Parameters
        ----------
        pid : `int`
            Process of the pool.
        began : `int`
            When it began; see `~lsst.ctrl.bps.parsl.node.processes.start_time`.
        """
        if start_time(pid) == began:
            found = self._pools.setdefault((pid, began), set())
            found |= {(child, start_time(child)) for child in children(pid)}

    def end_orphans(self) -> None:
        """End what pools have left that are gone."""
        for (pid, began), started in self._pools.items():
            if start_time(pid) != began:
                for child, when in started:
                    if when is not None and start_time(child) == when:
                        end(child)
