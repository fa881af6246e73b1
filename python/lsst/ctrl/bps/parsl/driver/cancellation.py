# SPDX-License-Identifier: BSD-3-Clause
"""Cancelling a run that nobody drives any more."""

from __future__ import annotations

import time
from contextlib import closing

from ..batch.pilot_records import end_pilots
from ..errors import RunStateError
from ..node.leftovers import end_leftovers
from ..node.records import RUN_VARIABLE
from ..paths import SubmitPaths
from ..plan.plan import Plan
from ..run.job_state import JobState
from ..run.journal import Journal
from ..run.liveness import RunLock
from ..run.replay import recovered_events, replay
from ..run.state import RunState

__all__ = ["cancel_dead_run"]


def cancel_dead_run(name: str, paths: SubmitPaths) -> str:
    """Mark a run as cancelled, and end what its driver left.

    Parameters
    ----------
    name : `str`
        Name of the run.
    paths : `SubmitPaths`
        Where it is.

    Returns
    -------
    message : `str`
        What was done.

    Raises
    ------
    RunHeldError
        Raised if a driver has the run after all.
    RunStateError
        Raised if the run has ended before.
    """
    lock = RunLock(paths.lock, name)
    lock.acquire()
    try:
        end_leftovers(RUN_VARIABLE, str(paths.submit_path))
        end_pilots(paths.pilots)
        plan = Plan(paths.plan)
        state = replay(plan, paths)
        outcome = state.finished or _finish(name, paths, plan, state)
        if state.finished is not None or outcome != JobState.DELETED.name:
            raise RunStateError(f"Run {name} has ended before ({outcome}); there is nothing to cancel.")
    finally:
        lock.release()
    return f"Run {name} was not running; it is marked as cancelled."


def _finish(name: str, paths: SubmitPaths, plan: Plan, state: RunState) -> str:
    """Write down how a run ended of which no driver did; return that."""
    events = recovered_events(state)
    outcome = JobState.DELETED
    if state.is_done:
        outcome = state.outcome()  # Its driver died after the last job had ended.
    else:
        events.append({"e": "cancel"})
    now = round(time.time(), 3)
    with closing(Journal(paths.driver_journal, name, plan.id)) as journal:
        for event in (*events, {"e": "finish", "state": outcome.name}):
            journal.append({"e": event.pop("e"), "t": now, **event})
        journal.sync()
    return outcome.name
