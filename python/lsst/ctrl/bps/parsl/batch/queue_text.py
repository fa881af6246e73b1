# SPDX-License-Identifier: BSD-3-Clause
"""What a run's blocks do, in words: asked of Slurm by whoever wants to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..errors import SchedulerError, StorageError
from .pending import Pending, Wait, pending
from .pilot_records import read_pilots
from .slurm_queue import SlurmJob, is_final, list_jobs

__all__ = ["queue_lines"]

ANSWER_SECONDS = 15.0
"""Time that squeue may take; a person waits for it."""

_RUNS = frozenset("R CG SI SO RS".split())
"""Slurm's codes of the states in which a job has its nodes."""


def queue_lines(path: Path) -> list[str]:
    """Say how many blocks of a run are in Slurm's queue, and why they wait.

    Parameters
    ----------
    path : `pathlib.Path`
        What `~lsst.ctrl.bps.parsl.batch.pilot_records.record_pilots` wrote.

    Returns
    -------
    lines : `list` [`str`]
        A sentence for each choice of clusters, for which Slurm is asked once,
        and one for each reason; nothing for a run that asked Slurm for nothing.
    """
    try:
        tags = _slurm_tags(path)
    except StorageError as exc:
        return [f"What the blocks do is not known: {exc.message}"]
    return [line for clusters, of_run in tags.items() for line in _lines(clusters, of_run)]


def _slurm_tags(path: Path) -> dict[str | None, set[str]]:
    """Return what marks the run's jobs, by the clusters that have them."""
    tags: dict[str | None, set[str]] = {}
    for record in read_pilots(path):
        if record.get("scheduler") == "slurm" and "tag" in record:
            tags.setdefault(record.get("clusters"), set()).add(f"{record['tag']}:")
    return tags


def _lines(clusters: str | None, tags: Iterable[str]) -> list[str]:
    where = f" ({clusters})" if clusters else ""
    try:
        jobs = list_jobs(ANSWER_SECONDS, clusters)
    except SchedulerError as exc:
        why = exc.message.split(". ")[0].rstrip(".")
        why = why[:1].lower() + why[1:]
        return [f"What the blocks in Slurm's queue{where} do is not known: {why}."]
    marks = tuple(tags)
    blocks = [job for job in jobs if job.mark.startswith(marks) and not is_final(job.state)]
    return [f"Blocks in Slurm's queue{where}: {_counts(blocks)}.", *_meanings(blocks)]


def _counts(blocks: list[SlurmJob]) -> str:
    waiting = [block for block in blocks if block.state not in _RUNS]
    parts = []
    if running := len(blocks) - len(waiting):
        parts.append("1 runs" if running == 1 else f"{running} run")
    if waiting:
        reasons = Counter(block.why for block in waiting).most_common()
        # Where all have one reason, its count is theirs.
        said = [f"{count} {reason}" if len(reasons) > 1 else reason for reason, count in reasons]
        parts.append(f"{'1 waits' if len(waiting) == 1 else f'{len(waiting)} wait'} ({', '.join(said)})")
    return ", ".join(parts) or "none"


def _meanings(blocks: list[SlurmJob]) -> list[str]:
    """Say what the reasons mean, once each."""
    rows: dict[Pending, list[SlurmJob]] = {}
    for block in blocks:
        if block.state not in _RUNS:
            rows.setdefault(pending(block.why), []).append(block)
    lines = []
    for row, waiting in rows.items():
        reason = waiting[0].why.partition(",")[0]
        never = "such a block never starts: " if row.wait is Wait.NEVER else ""
        lines.append(f"{reason}: {never}{row.text([block.id for block in waiting])}.")
    return lines
