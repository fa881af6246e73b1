# SPDX-License-Identifier: BSD-3-Clause
"""What a person sees of a run that is going: one display, or a line at times."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ..run.job_state import JobState
from ..run.state import RunState

__all__ = ["ProgressDisplay", "label_table"]

_LOG = logging.getLogger(__name__)

SHORTEST_INTERVAL = 10.0
"""Seconds before the first line in a log."""

LONGEST_INTERVAL = 300.0
"""Seconds between two lines in a log, at most."""

UNKNOWN = "the number of the others is not known yet"
"""What is said while a job of the run prepares the others."""

_SHOWN = (
    ("waiting", (JobState.UNREADY,)),
    ("ready", (JobState.READY, JobState.PENDING)),
    ("running", (JobState.RUNNING,)),
    ("succeeded", (JobState.SUCCEEDED,)),
    ("failed", (JobState.FAILED,)),
    ("pruned", (JobState.PRUNED,)),
    ("deleted", (JobState.DELETED,)),
)


def label_table(state: RunState) -> Table:
    """Count jobs by label and state.

    Parameters
    ----------
    state : `RunState`
        State of the run.

    Returns
    -------
    table : `rich.table.Table`
        A row for each label, and one for all.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("label", overflow="fold")
    for title, _ in _SHOWN:
        table.add_column(title, justify="right")
    table.add_column("total", justify="right")
    for label, counts in [*state.label_counts().items(), ("TOTAL", state.totals())]:
        cells = [sum(counts[member] for member in members) for _, members in _SHOWN]
        table.add_row(Text(label), *(str(cell) if cell else "-" for cell in cells), str(sum(counts.values())))
    return table


def ended_jobs(state: RunState) -> int:
    """Count the jobs that have ended.

    Parameters
    ----------
    state : `RunState`
        State of the run.

    Returns
    -------
    ended : `int`
        Their number.
    """
    return sum(count for member, count in state.totals().items() if member.is_final)


class _AboveDisplay(io.TextIOBase):
    """Stream that writes above a display, and breaks no line.

    Parameters
    ----------
    console : `rich.console.Console`
        Console of the display.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = ""

    def write(self, text: str) -> int:
        """Write a text; a line appears when it is whole."""
        *lines, self._begun = (self._begun + text).split("\n")
        with suppress(OSError):  # The terminal is gone; the run goes on.
            for line in lines:
                self._console.print(Text(line), soft_wrap=True)
        return len(text)


class ProgressDisplay:
    """Shows the progress of a run; a context manager.

    Parameters
    ----------
    run : `str`
        Name of the run.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._console = Console(stderr=True)
        self._begun = self._shown = time.monotonic()
        self._ended_before: int | None = None
        self._interval = SHORTEST_INTERVAL
        self._live: Live | None = None
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._exit.enter_context(self._live)
            self._redirect_logging()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # The terminal is gone.
            self._exit.close()

    def _redirect_logging(self) -> None:
        """Have the log written above the display, and not through it."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in (
                sys.__stderr__,
                sys.__stdout__,
            ):
                before = handler.setStream(_AboveDisplay(self._console))
                if before is not None:
                    self._exit.callback(handler.setStream, before)

    def update(self, state: RunState, waits: Sequence[str] = ()) -> None:
        """Show the state, where it is time to.

        Parameters
        ----------
        state : `RunState`
            State of the run.
        waits : `~collections.abc.Sequence` [`str`], optional
            What is waited for, in sentences; the log has them too.
        """
        now = time.monotonic()
        if self._ended_before is None:
            self._ended_before = ended_jobs(state)
        if self._live is None:
            if now - self._shown < self._interval:
                return
            self._interval = min(self._interval * 1.5, LONGEST_INTERVAL)
        elif now - self._shown < 0.25:
            return
        self._shown = now
        try:
            self._show(state, waits, now)
        except OSError:
            # The terminal is gone; the run goes on without it.
            self._live = None

    def _show(self, state: RunState, waits: Sequence[str], now: float) -> None:
        ended = ended_jobs(state)
        rate = (ended - (self._ended_before or 0)) / max(now - self._begun, 1e-3)
        if self._live is None:
            _LOG.info("%s", self._line(state, rate))
        else:
            self._live.update(self._display(state, waits, ended, rate), refresh=True)

    def _line(self, state: RunState, rate: float) -> str:
        totals = state.totals()
        total = sum(totals.values())
        parts = [f"{totals[JobState.SUCCEEDED]} of {total} jobs succeeded"]
        for member in (JobState.RUNNING, JobState.FAILED, JobState.PRUNED):
            if totals[member]:
                parts.append(f"{totals[member]} {member.name.lower()}")
        if state.awaits_payload:
            parts.append(UNKNOWN)
        else:
            parts.append(self._pace(total - ended_jobs(state), rate))
        return ", ".join(filter(None, parts))

    def _display(self, state: RunState, waits: Sequence[str], ended: int, rate: float) -> RenderableType:
        total = sum(state.totals().values())
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(UNKNOWN if state.awaits_payload else self._pace(total - ended, rate), markup=False),
        )
        bar.add_task(self._run, total=total, completed=ended)
        return Group(label_table(state), bar, *map(Text, waits))

    @staticmethod
    def _pace(left: int, rate: float) -> str:
        if rate <= 0:
            return ""
        seconds = int(left / rate)
        duration = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return f"{rate:.3g} jobs/s, about {duration} left"
