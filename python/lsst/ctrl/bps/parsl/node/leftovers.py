# SPDX-License-Identifier: BSD-3-Clause
"""What a driver or a runner that died left on this host."""

from __future__ import annotations

from collections.abc import Callable

import psutil

__all__ = ["RUNNER_VARIABLE", "RUN_VARIABLE", "end_leftovers"]

RUN_VARIABLE = "BPS_PARSL_SUBMIT_PATH"
"""Environment variable of every process of a run: its submit directory."""

RUNNER_VARIABLE = "BPS_PARSL_RUNNER"
"""Environment variable of a runner process and its jobs."""


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
    _, alive = psutil.wait_procs(found, timeout)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout)
    return len(found)


def _processes(variable: str, value: str) -> list[psutil.Process]:
    own = psutil.Process()
    # A driver that was itself started by a job of the run stays.
    spared = {own.pid, *(parent.pid for parent in own.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in spared and process.environ().get(variable) == value:
                found.append(process)
        except psutil.Error:
            continue  # It ended, or is not ours to look at.
    return found


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except psutil.Error:
        pass  # It has ended in the meantime.
