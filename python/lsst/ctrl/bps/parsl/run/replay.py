# SPDX-License-Identifier: BSD-3-Clause
"""From the journals to the state of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError
from ..paths import SubmitPaths
from ..plan.plan import Plan
from .job_state import JobState
from .journal import read_journal
from .state import RunState

__all__ = ["may_concern", "recovered_events", "replay"]

_NODE_EVENT = re.compile(rb'{"e":"\w+","j":(\d+),"a":(\d+),')


def replay(plan: Plan, paths: SubmitPaths) -> RunState:
    """Compute the state of a run from its plan and journals.

    Parameters
    ----------
    plan : `Plan`
        What to run.
    paths : `SubmitPaths`
        Where the journals are.

    Returns
    -------
    state : `RunState`
        The state. What a node saw succeed has succeeded, also where the
        driver was killed before it heard of it.

    Raises
    ------
    DamagedFileError
        Raised if a journal is damaged.
    """
    state = RunState(plan)
    _replay_file(state, paths.driver_journal)
    if state.finished is None:
        for path in paths.node_journals():
            _replay_file(state, path, partial(may_concern, state))
    return state


def recovered_events(state: RunState) -> list[dict[str, Any]]:
    """Return what a driver has to write down before it goes on.

    Parameters
    ----------
    state : `RunState`
        State of the run, as `replay` makes it.

    Returns
    -------
    events : `list` [`dict`]
        That the payload counts, where it is in its place; the attempts that
        only nodes know of, where the last lines of the driver's journal were
        lost with its host; an ``ok`` for the jobs that nodes saw succeed and
        of which the last driver did not hear.
    """
    events: list[dict[str, Any]] = []
    payload = state.plan.payload
    if payload and not state.payload_is_recorded and (state.has_payload or state.lacks_payload):
        events.append({"e": "payload", "plan": payload.id})
    if state.unknown:
        events.append({"e": "attempts", "j": [list(item) for item in state.unknown.items()]})
    if state.recovered:
        events.append({"e": "ok", "j": [[job, None, None, 0, 0.0] for job in state.recovered]})
    return events


def may_concern(state: RunState, line: bytes) -> bool:
    """Tell whether a line of a node's journal can change a state.

    Parameters
    ----------
    state : `RunState`
        The state.
    line : `bytes`
        The line.

    Returns
    -------
    wanted : `bool`
        `False` for a job that has ended, or an attempt that another one
        followed: nearly all lines of a long run.
    """
    match = _NODE_EVENT.match(line)
    if match is None:
        return True
    job = int(match.group(1))
    return job >= len(state.states) or (
        state.states[job] < JobState.SUCCEEDED and state.attempts[job] <= int(match.group(2))
    )


def _replay_file(state: RunState, path: Path, wanted: Callable[[bytes], bool] | None = None) -> None:
    for event in read_journal(path, wanted, state.plan):
        try:
            state.apply(event)
        except (AttributeError, IndexError, KeyError, TypeError) as exc:
            raise DamagedFileError(
                f"{path} does not belong to the plan {state.plan.path} ({event!r}: {exc!r}). "
                "Restore the file, or submit the run again."
            ) from exc
