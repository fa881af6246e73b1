# SPDX-License-Identifier: BSD-3-Clause
"""What is printed of a run: its jobs by label and state, and how it ended."""

from __future__ import annotations

from contextlib import suppress

from rich.console import Console

from lsst.ctrl.bps import BpsConfig

from ..errors import ParslBpsError
from ..run.job_state import JobState
from ..run.state import RunState
from .progress import label_table
from .suggestions import far_off, section_finder, snippet
from .usage import measure
from .view import RunView, failure_lines

__all__ = ["Table", "print_end", "print_requests", "status_table"]

WIDTH = 160
"""Columns of a table that is not for a terminal."""


class Table(str):
    """A text that shows as it is at a Python prompt."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def status_table(state: RunState) -> Table:
    """Count jobs by label and state.

    Parameters
    ----------
    state : `RunState`
        State of the run.

    Returns
    -------
    table : `str`
        A table to print.
    """
    console = Console(width=WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(label_table(state))
    return Table(capture.get())


def _console() -> Console:
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def print_end(view: RunView, state: RunState) -> None:
    """Print what became of the jobs of a run that did not succeed.

    Parameters
    ----------
    view : `RunView`
        The run.
    state : `RunState`
        Its state, as the driver has it.
    """
    console = _console()
    console.print(label_table(state))
    for line in failure_lines(view):
        console.print(line, soft_wrap=True)


def print_requests(view: RunView, state: RunState, config: BpsConfig) -> None:
    """Print better requests, where those of a run were far off.

    Parameters
    ----------
    view : `RunView`
        The run; nothing is said of one that has not ended, or was cancelled.
    state : `RunState`
        Its state, as the driver has it.
    config : `lsst.ctrl.bps.BpsConfig`
        Its configuration.
    """
    if state.finished not in (JobState.SUCCEEDED.name, JobState.FAILED.name):
        return
    # This is advice: no run fails because it cannot be given.
    with suppress(OSError, ParslBpsError):
        far = far_off(measure(state.plan, view.paths, state))
        if not far:
            return
        names = ", ".join(usage.label for usage in far)
        console = _console()
        console.print(
            f"What jobs asked for is far from what they used ({names}). Better for the next run:",
            soft_wrap=True,
        )
        console.print(snippet(state.plan.run, far, section_finder(config)), soft_wrap=True, end="")
