# SPDX-License-Identifier: BSD-3-Clause
"""From the journals to the state of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import DamagedFileError
from ..paths import SubmitPaths
from ..plan.plan import Plan
from .job_state import JobState
from .journal import read_journal
from .state import RunState

__all__ = ["replay"]


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
            _replay_file(state, path, state.may_concern, live=live)
    return state


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
