# SPDX-License-Identifier: BSD-3-Clause
"""What blocks wait for in a queue, said as often as it helps, and whether any of them will start."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from parsl.jobs.states import JobState, JobStatus

from ..batch.pending import Pending, Wait, pending
from .blocks import Block, Blocks

__all__ = ["Waiting"]

_LOG = logging.getLogger(__name__)

QUIET_SECONDS = 30.0
"""A block that waits no longer than that is nothing to tell."""

SURE_SECONDS = 30.0
"""Time that a reason has to stay, through more than one answer of squeue,
before it ends a run: an administrator may have second thoughts."""

FIRST_PAUSE, LONGEST_PAUSE = 300.0, 3600.0
"""Seconds until a reason is said again, at first and at most."""


_WAITS = (JobState.PENDING, JobState.HELD)

_NEW = pending("PD")


@dataclass
class _Waiter:
    """A block that waits."""

    status: JobStatus
    row: Pending
    since: float
    answers: int = 1
    """How often Slurm said so."""


@dataclass
class _Label:
    """The blocks of an executor that wait."""

    waiters: dict[str, _Waiter] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    hopeless: str = ""


@dataclass
class _Saying:
    """When a line was said."""

    next: float
    pause: float


class Waiting:
    """Notes why blocks wait.

    Only providers with an attribute ``says_reasons`` tell Slurm's reasons.
    """

    def __init__(self) -> None:
        self._labels: dict[str, _Label] = {}
        self._said: dict[tuple[str, str], _Saying] = {}

    def look(self, item: Blocks, statuses: Mapping[str, JobStatus], now: float) -> None:
        """Note why the blocks of an executor wait; say what is due.

        Parameters
        ----------
        item : `Blocks`
            The executor.
        statuses : `~collections.abc.Mapping` [`str`, `parsl.jobs.states.JobStatus`]
            What the batch system said last, by blocks.
        now : `float`
            The time.
        """
        label = self._labels.setdefault(item.executor.label, _Label())
        alive = {number: block for number, block in item.blocks.items() if not block.ended}
        before, label.waiters = label.waiters, {}
        if getattr(item.provider, "says_reasons", False):
            for number in alive:
                status = statuses.get(number)
                if status is None or status.state not in _WAITS or not status.message:
                    continue
                row, old = pending(status.message), before.get(number)
                waiter = label.waiters[number] = _Waiter(status, row, now)
                if old is not None and old.row is row:
                    waiter.since = old.since
                    waiter.answers = old.answers + (status is not old.status)
        label.hopeless = _hopeless(item, alive.values(), label.waiters.values(), now)
        lines = []
        for row, line in _lines(item, alive, label.waiters, now):
            lines.append(line)
            self._say(item.executor.label, row, line, now)
        if item.last_refusal:
            lines.append(f"No block for {item.executor.label}: {item.last_refusal}.")
        label.lines = lines

    def hopeless(self, label: str) -> str:
        """Return why no block of an executor will ever start; empty where one may, or runs.

        Parameters
        ----------
        label : `str`
            The executor's label.

        Returns
        -------
        why : `str`
            A sentence or two, with what helps.
        """
        return self._labels[label].hopeless if label in self._labels else ""

    def lines(self) -> list[str]:
        """Return what the blocks of all executors wait for.

        Returns
        -------
        lines : `list` [`str`]
            Sentences; none where no block waits for long.
        """
        return [line for label in list(self._labels.values()) for line in label.lines]

    def _say(self, label: str, row: Pending, line: str, now: float) -> None:
        """Log a line, unless that was done not long ago."""
        said, pause = self._said.get((label, row.reasons)), FIRST_PAUSE
        if said is not None:
            if now < said.next:
                return
            if now < said.next + said.pause:  # It has lasted since.
                pause = min(LONGEST_PAUSE, 2 * said.pause)
        self._said[label, row.reasons] = _Saying(now + pause, pause)
        _LOG.log(logging.INFO if row.wait is Wait.PASSES else logging.WARNING, "%s", line)


def _hopeless(item: Blocks, alive: Collection[Block], waiters: Collection[_Waiter], now: float) -> str:
    """Return why no block will ever start.

    One that Slurm has not looked at is as good as those at which it has, of
    the same request; where one waits for what passes, so may the others.
    """
    if any(block.started is not None for block in alive):
        return ""
    never = [waiter for waiter in waiters if waiter.row.wait is Wait.NEVER]
    sure = [waiter for waiter in never if now - waiter.since >= SURE_SECONDS and waiter.answers > 1]
    looked_at = [waiter for waiter in waiters if waiter.row is not _NEW]
    if not sure or len(never) < len(looked_at):
        return ""
    why = sure[0]
    return f"No block of {item.executor.label} will ever start ({why.status.message}): {why.row.text()}."


def _lines(
    item: Blocks, alive: Mapping[str, Block], waiters: Mapping[str, _Waiter], now: float
) -> Iterator[tuple[Pending, str]]:
    """Iterate over what there is to say, by rows of the table."""
    rows: dict[Pending, list[str]] = {}
    for number, waiter in waiters.items():
        # That a block waits for a moment is nothing to tell.
        if waiter.row.wait is not Wait.PASSES or now - alive[number].asked >= QUIET_SECONDS:
            rows.setdefault(waiter.row, []).append(number)
    for row, numbers in rows.items():
        reason = waiters[numbers[0]].status.message
        jobs = [str(item.executor.blocks_to_job_id.get(number, "")) for number in numbers]
        what = f"{len(numbers)} waits" if len(numbers) == 1 else f"{len(numbers)} wait"
        if row.wait is Wait.NEVER:
            what = f"{len(numbers)} will never start"
        text = row.text([job for job in jobs if job])
        yield row, f"Blocks of {item.executor.label}: {what} ({reason}): {text}."
