# SPDX-License-Identifier: BSD-3-Clause
"""What a driver that died left on this host: its runners and its jobs."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from .node.client import MARKER

__all__ = ["end_leftovers"]


def end_leftovers(submit_path: str, timeout: float = 20.0) -> int:
    """End the processes of a run that no driver has any more.

    Parameters
    ----------
    submit_path : `str`
        Submit directory of the run; every process of the run has it in its
        environment.
    timeout : `float`, optional
        Seconds to wait for them to end by themselves before they are killed.

    Returns
    -------
    ended : `int`
        Number of processes that were found.
    """
    found = _processes(submit_path)
    for process in found:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(found, timeout)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout)
    return len(found)


def _processes(submit_path: str) -> list[psutil.Process]:
    own = psutil.Process()
    # A driver that was itself started by a job of the run stays.
    spared = {own.pid, *(parent.pid for parent in own.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in spared and process.environ().get(MARKER) == submit_path:
                found.append(process)
        except psutil.Error:
            continue  # It ended, or is not ours to look at.
    return found


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except psutil.Error:
        pass  # It has ended in the meantime.
