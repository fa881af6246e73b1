# SPDX-License-Identifier: BSD-3-Clause
"""How a run ended, in a sentence and an exit status."""

from __future__ import annotations

import signal
from pathlib import Path

from ..errors import (
    NoWorkersError,
    RunAbortedError,
    RunCancelledError,
    RunEndedError,
    RunFailedError,
    RunInterruptedError,
)
from ..run.job_state import JobState
from ..run.state import RunState

__all__ = ["error_of"]


def error_of(
    name: str, state: RunState, error: RunEndedError | None, config: Path, resume: str
) -> RunEndedError | None:
    """Return the error that tells how a run ended.

    Parameters
    ----------
    name : `str`
        Name of the run.
    state : `RunState`
        Its state.
    error : `RunEndedError` or `None`
        Why the driver gave up, where it did.
    config : `pathlib.Path`
        File of the run's settings.
    resume : `str`
        What to type to resume it.

    Returns
    -------
    error : `RunEndedError` or `None`
        The error; `None` where all jobs succeeded and none aborted the run.
    """
    totals = state.totals()
    done = f"{totals[JobState.SUCCEEDED]} of {sum(totals.values())} jobs succeeded"
    succeeded = state.finished == JobState.SUCCEEDED.name
    if isinstance(error, RunAbortedError):
        follows = "" if succeeded else f" Resume with: {resume}"
        return RunAbortedError(f"{error.message}; {done}.{follows}", error.exit_code)
    if succeeded:
        return None
    if error is not None:
        return NoWorkersError(
            f"{error.message}\n{done}. The settings of the run, which you can edit, are in {config}. "
            f"Mend the reason, then resume with: {resume}"
        )
    if state.stopped is not None:
        message = f"Stopped ({state.stopped}); {done}. Resume with: {resume}"
        return RunInterruptedError(message, 128 + signal.Signals[state.stopped])
    if state.cancelled:
        return RunCancelledError(f"Run {name} was cancelled; {done}. Resume with: {resume}")
    failed, pruned = totals[JobState.FAILED], totals[JobState.PRUNED]
    what = f"1 job of {name} failed" if failed == 1 else f"{failed} jobs of {name} failed"
    after = f", and {pruned} could not run because of that" if pruned else ""
    return RunFailedError(f"{what}{after}; {done}. Mend the reason, then resume with: {resume}")
