# SPDX-License-Identifier: BSD-3-Clause
"""Cancelling a run that nobody drives any more."""

from __future__ import annotations

import time

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
        if state.finished is not None:
            raise RunStateError(
                f"Run {name} has ended before ({state.finished}); there is nothing to cancel."
            )
        journal = Journal(paths.driver_journal, name, plan.id)
        now = round(time.time(), 3)
        finish = {"e": "finish", "state": JobState.DELETED.name}
        for event in (*recovered_events(state), {"e": "cancel"}, finish):
            journal.append({"e": event.pop("e"), "t": now, **event})
        journal.close()
    finally:
        lock.release()
    return f"Run {name} was not running; it is marked as cancelled."
