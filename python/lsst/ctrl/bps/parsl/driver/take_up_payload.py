# SPDX-License-Identifier: BSD-3-Clause
"""The second part of a run, which one of its jobs has prepared."""

from __future__ import annotations

from typing import Any, Protocol

from ..plan.plan import Plan, PlanPart
from ..run.state import RunState
from .tasks import Backend, Completed, Maker

__all__ = ["Supplies", "checked", "look_for_payload", "payload_is_known", "sufficient"]


class Supplies(Protocol):
    """What jobs run with; see `~lsst.ctrl.bps.parsl.driver.supplies.RunSupplies`."""

    def suffice(self) -> bool:
        """Tell whether the backend that there is can run all jobs of the plan."""

    def renew(self) -> None:
        """Get what all jobs of the plan need."""

    def backend(self) -> Backend:
        """Make a backend."""

    def maker(self) -> Maker:
        """Make what makes the tasks."""


def checked(plan: Plan, job: int, result: dict[str, Any]) -> dict[str, Any]:
    """Look at what a job was to do for the run, where that was something.

    Parameters
    ----------
    plan : `Plan`
        What to run.
    job : `int`
        Number of the job.
    result : `dict`
        What is known of its attempt.

    Returns
    -------
    result : `dict`
        A failure in place of the success of a job that has not added the
        jobs that it was to add.
    """
    if job != plan.lazy_job or result.get("exit") != 0 or plan.payload_path.exists():
        return result
    label = plan.template(job).label
    why = (
        "it ended with exit code 0, and has added no jobs to the run: "
        f"{label}.jobCommand has to run bps batch-prepare"
    )
    return {**result, "exit": 1, "why": why}


def look_for_payload(state: RunState) -> None:
    """Read the jobs that one has added to the run, and of which no driver took note.

    Parameters
    ----------
    state : `RunState`
        State of the run. That the jobs count is what the driver writes down
        first.
    """
    if state.lacks_payload and state.plan.payload_path.exists():
        state.plan.add_payload()


def payload_is_known(payload: PlanPart) -> str:
    """Say how many jobs were added to a run.

    Parameters
    ----------
    payload : `PlanPart`
        The part of the plan.

    Returns
    -------
    sentence : `str`
        Words without a full stop.
    """
    return f"The workflow has been prepared: {payload.jobs} more job{'s' if payload.jobs != 1 else ''}"


def sufficient(supplies: Supplies, backend: Backend, completed: Completed) -> Backend:
    """Return a backend that runs all jobs of the plan, started.

    Parameters
    ----------
    supplies : `Supplies`
        What the jobs run with.
    backend : `Backend`
        The one that there is; it is closed where it does not suffice.
    completed : `~collections.abc.Callable`
        What is called with the result of each task.

    Returns
    -------
    backend : `Backend`
        The same or another one.
    """
    if supplies.suffice():
        return backend
    backend.close()
    supplies.renew()
    backend = supplies.backend()
    backend.start(completed)
    return backend
