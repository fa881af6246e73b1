# SPDX-License-Identifier: BSD-3-Clause
"""What follows from the end of an attempt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..node.records import CANNOT_EXECUTE, NOT_FOUND

__all__ = ["Decision", "decide", "failure_event"]

MOST_LOSSES = 10
"""Attempts of one job that may be lost with a worker or node in one
session."""

_KILLED = 128 + 9


@dataclass(frozen=True)
class Decision:
    """What to do about a job that did not succeed."""

    retry: bool
    """Whether it is run again."""

    charged: bool
    """Whether the attempt counts against the job's retries."""

    why: str
    """What happened, in words."""

    memory: int | None = None
    """Memory request of the next attempt in MB, where it changes."""


def decide(
    fields: Mapping[str, Any],
    result: Mapping[str, Any],
    *,
    failures: int,
    losses: int,
    memory: int | None,
    most_memory: float | None = None,
    retries: int | None = None,
) -> Decision:
    """Decide about a job whose attempt did not succeed.

    Parameters
    ----------
    fields : `~collections.abc.Mapping`
        The job's fields of ``GenericWorkflowJob``.
    result : `~collections.abc.Mapping`
        What the runner said: ``exit`` and ``memory`` (MB), ``overdue`` where
        it ended the job after its walltime, or ``lost``.
    failures : `int`
        Attempts before this one that count against the retries.
    losses : `int`
        Attempts before this one that were lost.
    memory : `int` or `None`
        The job's memory request in MB, as it has grown.
    most_memory : `float`, optional
        Memory in MB that the site has for a job.
    retries : `int`, optional
        The site's number of retries, in place of the job's.

    Returns
    -------
    decision : `Decision`
        What to do.

    Notes
    -----
    BPS defines ``numberOfRetries``, ``retryUnlessExit``, ``memoryMultiplier``
    and ``memoryLimit``. That a job is run once at its limit and then given up
    is what the HTCondor plugin does.
    """
    if "lost" in result:
        if losses + 1 >= MOST_LOSSES:
            return Decision(False, False, f"lost {losses + 1} times; the last time: {result['lost']}")
        return Decision(True, False, str(result["lost"]))
    code = int(result["exit"])
    why = str(result.get("why") or f"exit code {code}")
    if code in (CANNOT_EXECUTE, NOT_FOUND):
        return Decision(False, True, why)
    peak = int(result.get("memory") or 0)
    if not result.get("overdue") and (code == _KILLED or (memory and peak >= memory)):
        killed = "" if memory and peak >= memory else "killed, which counts as "
        why = f"{why}: {killed}out of memory; it had {peak} MB, and asked for {memory or 'no'} MB"
        grown = _grown(fields, memory, most_memory)
        if grown is None:
            return Decision(False, True, f"{why}, the most it may have")
    else:
        grown = memory
        unless = fields.get("retry_unless_exit")
        if unless is not None and code in ([unless] if isinstance(unless, int) else unless):
            return Decision(False, True, why)
    allowed = retries if retries is not None else int(fields.get("number_of_retries") or 0)
    if failures >= allowed:
        return Decision(False, True, why)
    return Decision(True, True, why, grown if grown and grown != memory else None)


def _grown(fields: Mapping[str, Any], memory: int | None, most: float | None) -> int | None:
    """Return the next memory request; `None` where there is no more."""
    multiplier = float(fields.get("memory_multiplier") or 1)
    if not memory or multiplier <= 1:
        return memory or 0
    limits = [int(limit) for limit in (fields.get("request_memory_max"), most) if limit]
    limit = min(limits, default=0)
    if limit and memory >= limit:
        return None
    grown = math.ceil(memory * multiplier)
    return min(grown, limit) if limit else grown


def failure_event(job: int, code: int, decision: Decision, *, lost: bool, aborts: bool) -> dict[str, Any]:
    """Return what the driver's journal has of an attempt that did not succeed.

    Parameters
    ----------
    job, code : `int`
        Number of the job, and its exit code.
    decision : `Decision`
        What follows.
    lost : `bool`
        Whether nobody saw its end.
    aborts : `bool`
        Whether the run ends with it.

    Returns
    -------
    event : `dict`
        The event.
    """
    event = {"e": "fail", "j": job, "exit": code, "why": decision.why, "retry": decision.retry}
    event |= {"charged": decision.charged, "lost": lost}
    if decision.memory:
        event["memory"] = decision.memory
    if aborts:
        event["abort"] = True
    return event
