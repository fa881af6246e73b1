# SPDX-License-Identifier: BSD-3-Clause
"""What a driver or a runner that died left on this host."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

__all__ = ["end_leftovers"]


def end_leftovers(variable: str, value: str, timeout: float = 20.0) -> int:
    """End the processes that nobody looks after any more.

    Parameters
    ----------
    variable, value : `str`
        What they have in their environment.
    timeout : `float`, optional
        Seconds to wait for them to end by themselves before they are killed.

    Returns
    -------
    ended : `int`
        Number of processes that were found.
    """
    found = _processes(variable, value)
    for process in found:
        _quietly(process.terminate)
    alive = _wait(found, timeout)
    for process in alive:
        _quietly(process.kill)
    _wait(alive, timeout)
    return len(found)


def _wait(processes: list[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until processes have ended; return those that have not.

    One that its parent has not asked after (a zombie) has ended.
    """
    deadline = time.monotonic() + timeout
    while alive := [process for process in processes if _runs(process)]:
        if time.monotonic() > deadline:
            break
        psutil.wait_procs(alive, 0.05)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _processes(variable: str, value: str) -> list[psutil.Process]:
    own = psutil.Process()
    # A driver that was itself started by a job of the run stays.
    spared = {own.pid, *(parent.pid for parent in own.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in spared and _runs(process) and process.environ().get(variable) == value:
                found.append(process)
        except psutil.Error:
            continue  # It ended, or is not ours to look at.
    return found


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except psutil.Error:
        pass  # It has ended in the meantime.
