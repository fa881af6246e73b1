# SPDX-License-Identifier: BSD-3-Clause
"""Requests for the next run, from what the jobs of this one used."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from textwrap import wrap

from lsst.daf.butler import Config

from lsst.ctrl.bps import BpsConfig

from ..configuration import CONTROL_JOBS
from .distribution import Distribution
from .usage import HIGH_PERCENTILE, LabelUsage

__all__ = ["MARGIN", "PERCENTILE", "far_off", "section_finder", "snippet"]

PERCENTILE = HIGH_PERCENTILE
"""Percentile of what jobs used from which a request is made."""

MARGIN = 0.25
"""What a request has more than that, as a fraction."""

ENOUGH = 3
"""Jobs that tell what a label needs; fewer do where it has no more."""

_SPARE = 0.1
_SHORT_FACTOR = 2.0
_MEMORY_STEP, _LEAST_MEMORY = 256, 512
_MINUTES_STEP, _LEAST_MINUTES = 5, 10

FAR = 4.0
"""A request is far off where it is more than so many times what is needed,"""

FAR_MEMORY = 1024
"""and so many MB above it,"""

FAR_MINUTES = 60
"""or so many minutes."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_TOP = ("finalJob", "customJob", *CONTROL_JOBS)


@dataclass(frozen=True)
class Suggestion:
    """What the jobs of a label should ask for."""

    memory: int | None
    """In MB; `None` where nothing is known of it."""

    minutes: int | None
    """In minutes; `None` where nothing is known of it."""


def suggest(usage: LabelUsage, percentile: float, margin: float) -> Suggestion | None:
    """Return what the jobs of a label should ask for.

    Parameters
    ----------
    usage : `LabelUsage`
        What they used.
    percentile : `float`
        Percentile of what they used.
    margin : `float`
        What to add, as a fraction.

    Returns
    -------
    suggestion : `Suggestion` or `None`
        The requests; `None` where too few were measured.

    Notes
    -----
    Few jobs that need far more memory than all others are left to their
    retries (``memoryMultiplier``), if they have any. Without them, and for the
    time, which no retry gets more of, the largest value counts too.
    """
    known = usage.memory.count + usage.memory.short + usage.minutes.short
    if known < min(ENOUGH, usage.jobs):
        return None
    memory = _request(usage.memory, percentile, margin, largest_counts=not usage.grows)
    minutes = _request(usage.minutes, percentile, margin, largest_counts=True)
    megabytes = _rounded(memory, _MEMORY_STEP, _LEAST_MEMORY)
    if megabytes and usage.memory_max:
        megabytes = min(megabytes, usage.memory_max)
    return Suggestion(megabytes, _rounded(minutes, _MINUTES_STEP, _LEAST_MINUTES))


def _request(used: Distribution, percentile: float, margin: float, *, largest_counts: bool) -> float | None:
    if not used.count + used.short:
        return None
    request = used.percentile(percentile) * (1 + margin)
    if not used.reaches(percentile):
        request = max(request, used.at_least * _SHORT_FACTOR)
    elif largest_counts:
        request = max(request, max(used.largest, used.at_least) * (1 + _SPARE))
    return request


def _rounded(value: float | None, step: int, least: int) -> int | None:
    return None if value is None else max(least, math.ceil(value / step) * step)


def far_off(usages: Iterable[LabelUsage]) -> list[LabelUsage]:
    """Return the labels whose requests are far from what their jobs need.

    Parameters
    ----------
    usages : `~collections.abc.Iterable` [`LabelUsage`]
        What the jobs of each label used.

    Returns
    -------
    far : `list` [`LabelUsage`]
        Labels that asked for far too much, and those of which more than a few
        jobs had too little. What runs on the submit host is left out: nothing
        there waits for its request.
    """
    return [usage for usage in usages if not usage.on_submit_host and _is_far_off(usage)]


def _is_far_off(usage: LabelUsage) -> bool:
    needed = suggest(usage, PERCENTILE, MARGIN)
    if needed is None:
        return False
    memory, minutes = usage.memory, usage.minutes
    if memory.short or minutes.short or usage.over > (1 - PERCENTILE / 100) * memory.count:
        return True
    if memory.count < ENOUGH:
        return False
    return _exceeds(usage.asked_memory.least, needed.memory, FAR_MEMORY) or _exceeds(
        usage.asked_minutes.least, needed.minutes, FAR_MINUTES
    )


def _exceeds(asked: float, needed: int | None, by: int) -> bool:
    return needed is not None and asked > FAR * needed and asked - needed >= by


def section_finder(config: BpsConfig) -> Callable[[str], tuple[str, ...]]:
    """Return what tells the section of a label in BPS's configuration.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.

    Returns
    -------
    find : `~collections.abc.Callable`
        Returns the keys of the section of a label.

    Notes
    -----
    BPS looks for a cluster's settings in ``cluster.<label>``, for those of
    the jobs that it adds in ``finalJob``, ``customJob``, ``buildQuantumGraph``
    and ``preparePayloadWorkflow``, and for all others
    in ``pipetask.<label>``.
    """
    content = Config(config).toDict()
    clusters = content.get("cluster") or {}

    def find(label: str) -> tuple[str, ...]:
        if label in _TOP:
            return (label,)
        return ("cluster" if isinstance(clusters.get(label), dict) else "pipetask", label)

    return find


def snippet(
    run: str,
    usages: Iterable[LabelUsage],
    find_section: Callable[[str], tuple[str, ...]],
    *,
    percentile: float = PERCENTILE,
    margin: float = MARGIN,
) -> str:
    """Write requests as BPS's configuration has them.

    Parameters
    ----------
    run : `str`
        Name of the run.
    usages : `~collections.abc.Iterable` [`LabelUsage`]
        What the jobs of each label used.
    find_section : `~collections.abc.Callable`
        Returns the keys of a label's section; see `section_finder`.
    percentile : `float`, optional
        Percentile of what jobs used from which a request is made.
    margin : `float`, optional
        What a request has more than that, as a fraction.

    Returns
    -------
    yaml : `str`
        Sections of a configuration; a comment where too little was measured.

    Raises
    ------
    ValueError
        Raised if there is no such percentile, or if the margin is negative.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile={percentile!r}: it must be above 0, and at most 100")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin={margin!r}: it must not be negative; 0.25 is a quarter more")
    sections: dict[str, list[str]] = {}
    remarks = []
    for usage in usages:
        suggestion = suggest(usage, percentile, margin)
        if suggestion is None:
            remarks.append(f"# {_key(usage.label)}: only {_measured(usage)}. Too few to suggest anything.")
            continue
        section, *label = find_section(usage.label)
        lines = sections.setdefault(section, [])
        indent = "  " * (1 + len(label))
        for name in label:
            lines.append(f"  {_key(name)}:")
        lines.append(f"{indent}# {_measured(usage)}")
        lines.extend(f"{indent}{line}" for line in _settings(usage, suggestion))
    if not sections:
        return "\n".join([f"# Too little is measured of {run} to suggest requests.", *remarks, ""])
    head = _head(run, percentile, margin)
    body = [line for section, lines in sections.items() for line in (f"{section}:", *lines)]
    return "\n".join([*head, *body, *remarks, ""])


def _head(run: str, percentile: float, margin: float) -> list[str]:
    text = (
        f"Requests from what the jobs of {run} used: percentile {percentile:g}, and {margin:.0%} more. "
        "Merge them with the sections that your file has already: of two with the same name YAML keeps one."
    )
    return [f"# {line}" for line in wrap(text, 100)]


def _measured(usage: LabelUsage) -> str:
    """Say in a few words what was measured."""
    memory, minutes = usage.memory, usage.minutes
    words = [f"{memory.count} measured"]
    if memory.count:
        words[0] += f": up to {memory.largest:.0f} MB and {minutes.largest:.1f} minutes"
    if memory.short:
        words.append(f"{_need(memory.short)} more than {memory.at_least:.0f} MB")
    if minutes.short:
        words.append(f"{_need(minutes.short)} more than {minutes.at_least:.1f} minutes")
    return "; ".join(words)


def _need(count: int) -> str:
    return "1 needs" if count == 1 else f"{count} need"


def _settings(usage: LabelUsage, suggestion: Suggestion) -> Iterator[str]:
    asked = usage.asked_memory
    if suggestion.memory is not None:
        before = f"asked for {asked}" if asked.most else "did not ask"
        yield f"requestMemory: {suggestion.memory}  # MB; {before}"
    asked = usage.asked_minutes
    if suggestion.minutes is not None:
        before = f"asked for {asked}" if asked.most else "did not ask; a job that runs longer is ended"
        yield f"requestWalltime: {suggestion.minutes}  # minutes; {before}"


def _key(label: str) -> str:
    """Write a label as YAML has keys."""
    return label if _PLAIN.fullmatch(label) and label.lower() not in _WORDS else json.dumps(label)
