# SPDX-License-Identifier: BSD-3-Clause
"""Cancelling a run, by its driver or where there is none."""

from __future__ import annotations

import time
from contextlib import closing

from ..batch.pilot_records import end_pilots
from ..errors import RunStateError
from ..node.leftovers import end_leftovers
from ..node.records import RUN_VARIABLE
from ..paths import SubmitPaths
from ..plan.plan import Plan
from ..run.cancel_request import ask_to_cancel, is_asked, withdraw
from ..run.holder import Holder
from ..run.job_state import JobState
from ..run.journal import Journal
from ..run.liveness import RunLock, living_holder
from ..run.replay import recovered_events, replay
from ..run.state import RunState

__all__ = ["cancel_run"]

CANCEL_SECONDS = 60.0
"""Time that a driver has to answer a request to cancel."""


def cancel_run(name: str, paths: SubmitPaths) -> str:
    """Cancel a run: end its jobs, and let no more begin.

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
        Raised if a driver has taken the run in this moment.
    RunStateError
        Raised if the run has ended before.
    """
    holder = living_holder(paths.lock)
    return _cancel_dead(name, paths) if holder is None else _ask_driver(name, paths, holder)


def _ask_driver(name: str, paths: SubmitPaths, holder: Holder) -> str:
    ask_to_cancel(paths.cancel_request, holder)
    deadline = time.monotonic() + CANCEL_SECONDS
    while time.monotonic() < deadline:
        if not is_asked(paths.cancel_request):
            plan = Plan(paths.plan)
            replay(plan, paths, live=True)  # Which adds what a job has added to the run.
            finals = any(template.final for template in plan.templates)
            still = "; its final job still runs" if finals else ""
            return f"The driver on {holder} ends the jobs of {name}{still}."
        if living_holder(paths.lock) is None:
            withdraw(paths.cancel_request)
            return f"Run {name} ended before it was cancelled."
        time.sleep(0.2)
    return f"The driver on {holder} was asked to cancel {name} and has not answered yet."


def _cancel_dead(name: str, paths: SubmitPaths) -> str:
    """Mark a run as cancelled, and end what its driver left."""
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
