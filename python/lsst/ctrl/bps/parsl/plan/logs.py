# SPDX-License-Identifier: BSD-3-Clause
"""Where a job of the plan writes what it says."""

from __future__ import annotations

from ..paths import SubmitPaths
from .plan import Plan, PlannedJob

__all__ = ["log_stem"]


def log_stem(plan: Plan, paths: SubmitPaths, job: PlannedJob, attempt: int) -> str:
    """Return the path of an attempt's log files, without their suffix.

    Parameters
    ----------
    plan : `Plan`
        The plan.
    paths : `SubmitPaths`
        Where the run is.
    job : `PlannedJob`
        The job.
    attempt : `int`
        Number of the attempt, from 1.

    Returns
    -------
    stem : `str`
        The same for all attempts, unless each is to have files of its own.
    """
    template = job.template
    tags = job.fields.get("tags", {})
    stem = paths.log_stem(plan.header["log_template"], job.name, template.label, tags)
    return f"{stem}.attempt{attempt}" if template.log_each_attempt else stem
