# SPDX-License-Identifier: BSD-3-Clause
"""From the journals to the state of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError
from ..node.journal import beginning
from ..paths import SubmitPaths
from ..plan.plan import Plan
from .job_state import JobState
from .journal import read_journal
from .state import RunState

__all__ = ["may_concern", "recovered_events", "replay"]


def replay(plan: Plan, paths: SubmitPaths, *, live: bool = False) -> RunState:
    """Compute the state of a run from its plan and journals.

    Parameters
    ----------
    plan : `Plan`
        What to run.
    paths : `SubmitPaths`
        Where the journals are.
    live : `bool`, optional
        Whether a driver may be writing them: what cannot be read yet has then
        not happened yet.

    Returns
    -------
    state : `RunState`
        The state. What a node saw succeed has succeeded, also where the
        driver was killed before it heard of it, or had given the job up.

    Raises
    ------
    DamagedFileError
        Raised if a journal is damaged.
    """
    state = RunState(plan)
    _replay_file(state, paths.driver_journal, live=live)
    if state.finished != JobState.SUCCEEDED.name:
        for path in paths.node_journals():
            _replay_file(state, path, partial(may_concern, state), live=live)
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
        `False` for a job that has succeeded, or an attempt that another one
        followed: nearly all lines of a long run.
    """
    about = beginning(line)
    if about is None:
        return True
    job = about.job
    return job >= len(state.states) or (
        state.states[job] != JobState.SUCCEEDED and state.attempts[job] <= about.attempt
    )


def _replay_file(
    state: RunState, path: Path, wanted: Callable[[bytes], bool] | None = None, *, live: bool
) -> None:
    for event in read_journal(path, wanted, state.plan, live=live):
        try:
            state.apply(event)
        except (AttributeError, IndexError, KeyError, TypeError) as exc:
            raise DamagedFileError(
                f"{path} does not belong to the plan {state.plan.path} ({event!r}: {exc!r}). "
                "Restore the file, or submit the run again."
            ) from exc
