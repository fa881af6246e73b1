# SPDX-License-Identifier: BSD-3-Clause
"""What Parsl is given for a job."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from lsst.ctrl.bps import BpsConfig

from ..job import ParslJob, generic_job
from ..paths import SubmitPaths
from ..plan import Plan
from ..site import SiteConfig

__all__ = ["Task", "TaskMaker"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """An attempt of a job."""

    job: int
    """Number of the job."""

    attempt: int
    """Number of the attempt, from 1."""

    label: str
    """Label of the job."""

    executor: str | None
    """Label of the executor; `None` for the submit host."""

    resources: dict[str, Any] = field(compare=False)
    """What the executor is told about the job."""

    spec: dict[str, Any] = field(compare=False)
    """What the runner is told about it."""


class TaskMaker:
    """Makes tasks of the plan's jobs.

    Parameters
    ----------
    plan : `Plan`
        The plan.
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    site : `SiteConfig`
        Where the jobs run.
    paths : `SubmitPaths`
        Where things are.
    """

    def __init__(self, plan: Plan, config: BpsConfig, site: SiteConfig, paths: SubmitPaths) -> None:
        self._plan = plan
        self._config = config
        self._site = site
        self._paths = paths
        self._cpus = site.get_capacity()["cpus"]
        self._warned: set[str] = set()

    def make(self, index: int, attempt: int, memory: int | None) -> Task:
        """Make the task for an attempt of a job.

        Parameters
        ----------
        index : `int`
            Number of the job.
        attempt : `int`
            Number of the attempt, from 1.
        memory : `int` or `None`
            Memory request in MB, where it has grown.

        Returns
        -------
        task : `Task`
            The task.
        """
        job = parsl_job(self._plan, index, self._config, self._paths, memory)
        label = job.generic.label
        on_host = self._plan.template(index).on_submit_host
        resources = job.get_resources()
        spec = job_spec(job, index, attempt)
        if not on_host and self._cpus is not None and spec["cpus"] > self._cpus:
            self._warn_about_cpus(label, spec["cpus"])
            spec["cpus"] = int(self._cpus)
        return Task(
            job=index,
            attempt=attempt,
            label=label,
            executor=None if on_host else self._site.select_executor(job),
            resources={key: resources[key] for key in self._site.resource_list if key in resources},
            spec=spec,
        )

    def _warn_about_cpus(self, label: str, wanted: int) -> None:
        if label not in self._warned:
            self._warned.add(label)
            _LOG.warning(
                "Jobs of %s ask for %d CPUs; the site has %d a node, which each of them gets to itself.",
                label,
                wanted,
                self._cpus,
            )


def parsl_job(
    plan: Plan, index: int, config: BpsConfig, paths: SubmitPaths, memory: int | None = None
) -> ParslJob:
    """Make the job that sites see.

    Parameters
    ----------
    plan : `Plan`
        The plan.
    index : `int`
        Number of the job.
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    paths : `SubmitPaths`
        Where things are.
    memory : `int`, optional
        Memory request in MB, where it has grown.

    Returns
    -------
    job : `ParslJob`
        The job.
    """
    planned = plan.job(index)
    generic = generic_job(planned, memory)
    stem = paths.log_stem(plan.header["log_template"], generic.name, generic.label, generic.tags)
    return ParslJob(generic, config, planned.files, log_stem=stem)


def job_spec(job: ParslJob, index: int, attempt: int) -> dict[str, Any]:
    """Describe an attempt to the runner.

    Parameters
    ----------
    job : `ParslJob`
        The job.
    index : `int`
        Its number.
    attempt : `int`
        Number of the attempt, from 1.

    Returns
    -------
    spec : `dict`
        ``j`` and ``a`` (job and attempt), ``argv`` or
        ``script``, ``env``, ``stdout``, ``stderr``, ``cpus``, ``memory``.
    """
    resources = job.get_resources()
    spec = {
        "j": index,
        "a": attempt,
        "env": {name: str(value) for name, value in (job.generic.environment or {}).items()},
        "stdout": job.stdout,
        "stderr": job.stderr,
        "cpus": resources["cores"],
        "memory": resources["memory"],
    }
    if job.command.words is None:
        spec["script"] = job.get_command_line()
    else:
        spec["argv"] = job.command.words
    return spec
