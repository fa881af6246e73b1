# SPDX-License-Identifier: BSD-3-Clause
"""What jobs used, by label, from what the nodes recorded.

Each job counts once, with its last attempt. One that succeeded tells what the
job needs. One that ran out of memory or time tells that it needs more than it
had, and nobody knows how much. Attempts that were lost, or failed otherwise,
tell nothing.

What is kept does not grow with the number of jobs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..node.journal import beginning
from ..paths import SubmitPaths
from ..plan.plan import JobKind, JobTemplate, Plan
from ..run.job_state import JobState
from ..run.journal import read_journal
from ..run.state import RunState
from .distribution import Distribution

__all__ = ["Asked", "LabelUsage", "measure", "usage_lines"]

HIGH_PERCENTILE = 99.0
"""Percentile that is shown beside the median and the largest value."""

_KILLED = 128 + 9
_OWN_FAULT = 0.5
"""Part of its request that a killed job must have had: one with less was
killed for what others had, and nothing is learnt about its own need."""

_SHORTEST_WORK = 1.0
"""Seconds of work below which its part of CPU time is not worth a word."""

_HEAD = ["", "jobs", "MB asked", "median", "99%", "most", "used"]
_HEAD += ["min asked", "median", "99%", "most", "CPU"]


@dataclass
class Asked:
    """What jobs of a label asked for at first; clusters may differ."""

    least: float = math.inf
    """The least that a job asked for; 0 where one did not ask."""

    most: float = 0.0
    """The most that a job asked for."""

    def include(self, value: float) -> None:
        """Add what some jobs asked for.

        Parameters
        ----------
        value : `float`
            The request, or 0.
        """
        self.least = min(self.least, value)
        self.most = max(self.most, value)

    def __str__(self) -> str:
        if not self.most:
            return "-"
        return f"{self.most:.0f}" if self.least == self.most else f"{self.least:.0f}-{self.most:.0f}"


@dataclass
class LabelUsage:
    """What the jobs of a label used and asked for."""

    label: str
    """The label."""

    jobs: int = 0
    """Number of jobs in the plan."""

    on_submit_host: bool = True
    """Whether they run where the driver runs."""

    grows: bool = True
    """Whether a job that ran out of memory is run again with more."""

    memory_max: int = 0
    """The most memory in MB that BPS lets a job ask for; 0 without limit."""

    memory: Distribution = field(default_factory=Distribution)
    """Peak memory in MB."""

    minutes: Distribution = field(default_factory=Distribution)
    """Wall time in minutes."""

    asked_memory: Asked = field(default_factory=Asked)
    """In MB."""

    asked_minutes: Asked = field(default_factory=Asked)
    """In minutes."""

    memory_used: float = 0.0
    """The largest ratio of a job's peak memory to its first request."""

    over: int = 0
    """Number of jobs that succeeded with more memory than they asked for at
    first."""

    grown: int = 0
    """Number of jobs that asked for more memory after they ran out of it."""

    grown_to: int = 0
    """The most in MB that one of these asked for."""

    cpu: float = 0.0
    """CPU time in s."""

    reserved: float = 0.0
    """Wall time in s, times the CPUs that were asked for."""


@dataclass(frozen=True)
class _Share:
    """What the jobs of a template asked for, and where their use is counted."""

    usage: LabelUsage
    memory: float
    cpus: int

    def add(self, peak: float, seconds: float, cpu: float) -> None:
        """Count an attempt that succeeded."""
        usage = self.usage
        usage.memory.add(peak)
        usage.minutes.add(seconds / 60)
        usage.cpu += cpu
        usage.reserved += seconds * self.cpus
        if self.memory:
            usage.memory_used = max(usage.memory_used, peak / self.memory)
            usage.over += peak > self.memory


def measure(plan: Plan, paths: SubmitPaths, state: RunState, *, live: bool = False) -> list[LabelUsage]:
    """Gather what the jobs of a run used.

    Parameters
    ----------
    plan : `Plan`
        What to run.
    paths : `SubmitPaths`
        Where the journals are.
    state : `RunState`
        State of the run.
    live : `bool`, optional
        Whether it may be going on: what cannot be read yet does not count yet.

    Returns
    -------
    usages : `list` [`LabelUsage`]
        The labels of which something is known, in the order of the pipeline.

    Raises
    ------
    DamagedFileError
        Raised if a journal is damaged.
    """
    counts = state.label_counts()
    usages = {label: LabelUsage(label, sum(of_label.values())) for label, of_label in counts.items()}
    shares = [_share(template, usages) for template in plan.templates]
    for job, memory in state.memory.items():
        share = shares[plan.template_of[job]]
        if share is not None:
            share.usage.grown += 1
            share.usage.grown_to = max(share.usage.grown_to, memory)
    for event in _ends(paths, live=live):
        job = event["j"]
        # Each job counts once, with its last attempt.
        if job < len(plan) and state.attempts[job] == event["a"]:
            share = shares[plan.template_of[job]]
            if share is not None:
                _count(share, event, state)
    return [usage for usage in usages.values() if usage.memory.count or _falls_short(usage)]


def _falls_short(usage: LabelUsage) -> int:
    return usage.memory.short + usage.minutes.short


def _share(template: JobTemplate, usages: dict[str, LabelUsage]) -> _Share | None:
    """Note what the jobs of a template ask for; `None` where they run nothing."""
    if template.kind != JobKind.PAYLOAD:
        return None
    fields, usage = template.fields or {}, usages[template.label]
    memory = float(fields.get("request_memory") or 0)
    usage.asked_memory.include(memory)
    usage.asked_minutes.include(float(fields.get("request_walltime") or 0))
    usage.on_submit_host &= template.on_submit_host
    usage.grows &= bool(fields.get("number_of_retries")) and float(fields.get("memory_multiplier") or 1) > 1
    usage.memory_max = max(usage.memory_max, int(fields.get("request_memory_max") or 0))
    return _Share(usage, memory, int(fields.get("request_cpus") or 1))


def _ends(paths: SubmitPaths, *, live: bool) -> Iterator[dict[str, Any]]:
    """Iterate over the ends of attempts that were measured."""
    for path in paths.node_journals():
        for event in read_journal(path, _is_end, live=live):
            if "lost" not in event and event.keys() >= {"j", "a", "exit", "start", "end", "memory", "cpu"}:
                yield event


def _is_end(line: bytes) -> bool:
    about = beginning(line)
    return about is not None and about.kind == "end"


def _count(share: _Share, event: dict[str, Any], state: RunState) -> None:
    """Count an attempt."""
    job, peak, seconds = event["j"], event["memory"], max(0.0, event["end"] - event["start"])
    if event["exit"] == 0:
        share.add(peak, seconds, event["cpu"])
        return
    if state.states[job] == JobState.SUCCEEDED:
        return  # Another attempt did.
    if event.get("overdue"):
        share.usage.minutes.add_short(seconds / 60)
        return
    # While it waits for its next attempt, what has grown is for that one.
    asked = share.memory
    if state.states[job] == JobState.FAILED:
        asked = state.memory.get(job, asked)
    if event["exit"] == _KILLED:
        asked *= _OWN_FAULT
    elif not asked:
        return
    if peak >= asked:
        share.usage.memory.add_short(peak)


# In words.


def usage_lines(usages: list[LabelUsage]) -> list[str]:
    """Say how what jobs used compares with what they asked for.

    Parameters
    ----------
    usages : `list` [`LabelUsage`]
        What is known of each label.

    Returns
    -------
    lines : `list` [`str`]
        A table with a line for each label, and sentences about jobs that ran
        out of memory or time; nothing where nothing was measured.
    """
    head = [
        "",
        "jobs",
        "MB asked",
        "median",
        "99%",
        "most",
        "used",
        "min asked",
        "median",
        "99%",
        "most",
        "CPU",
    ]
    rows = [head, *(_row(usage) for usage in usages if usage.memory.count)]
    lines = []
    if len(rows) > 1:
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        lines = ["Peak memory (MB) and wall time (min) of the jobs that succeeded, and what they asked for:"]
        for label, *cells in rows:
            aligned = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([label.ljust(widths[0]), *aligned]))
    for usage in usages:
        lines.extend(_remarks(usage))
    return lines


def _row(usage: LabelUsage) -> list[str]:
    memory, minutes = usage.memory, usage.minutes
    return [
        usage.label,
        str(memory.count),
        str(usage.asked_memory),
        *(f"{value:.0f}" for value in _values(memory)),
        f"{usage.memory_used:.0%}" if usage.memory_used else "-",
        str(usage.asked_minutes),
        *(f"{value:.1f}" if value >= 1 else f"{value:.2f}" for value in _values(minutes)),
        f"{usage.cpu / usage.reserved:.0%}" if usage.reserved >= _SHORTEST_WORK else "-",
    ]


def _values(distribution: Distribution) -> list[float]:
    known = [distribution.percentile(percentile) for percentile in (50, HIGH_PERCENTILE)]
    # Of those that succeeded: what others need is in a sentence.
    return [*(min(value, distribution.largest) for value in known), distribution.largest]


def _remarks(usage: LabelUsage) -> list[str]:
    """Say what a table cannot."""
    lines = []
    if usage.grown:
        lines.append(
            f"{usage.label}: {_jobs(usage.grown)} asked for more memory after running out of it, "
            f"up to {usage.grown_to} MB; the table compares with the first request."
        )
    if usage.memory.short:
        lines.append(
            f"{usage.label}: {_jobs(usage.memory.short)} ran out of memory and did not succeed since; "
            f"at least {usage.memory.at_least:.0f} MB are needed."
        )
    if usage.minutes.short:
        lines.append(
            f"{usage.label}: {_jobs(usage.minutes.short)} ran out of time and did not succeed since; "
            f"at least {usage.minutes.at_least:.1f} minutes are needed."
        )
    return lines


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
