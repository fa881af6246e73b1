# SPDX-License-Identifier: BSD-3-Clause
"""What Parsl is given for a job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from lsst.ctrl.bps import BpsConfig

from ..configuration import get_bps_config_value
from ..environment import read_job_environments
from ..errors import DamagedFileError
from ..job import ParslJob, generic_job
from ..node.setup import NodeSetup
from ..paths import SubmitPaths
from ..plan.command import shell_line
from ..plan.logs import log_stem
from ..plan.plan import Plan
from ..run.state import RunState

if TYPE_CHECKING:
    from .sites import Sites

__all__ = ["Backend", "Completed", "Listener", "Maker", "Task", "TaskMaker", "node_setup"]

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

    priority: int = field(default=0, compare=False)
    """BPS's priority; higher runs first."""


Completed = Callable[[Task, dict[str, Any]], None]
"""What is called, in any thread, with the result of each task."""


class Listener(Protocol):
    """Shows the progress of a run."""

    def update(self, state: RunState, waiting: Sequence[str], /) -> None:
        """Look at the state, and at what is waited for; called often."""


class Backend(Protocol):
    """Where the driver's tasks go."""

    window: int
    """Number of tasks to have there at most."""

    def start(self, completed: Completed) -> None:
        """Begin."""

    def submit(self, task: Task) -> None:
        """Take a task; ``completed`` is called with its result."""

    def kill(self, grace: float) -> None:
        """End what runs: SIGTERM, and SIGKILL after ``grace`` seconds; raise nothing."""

    def check(self) -> list[str]:
        """Do what is due from time to time; return what is waited for; raise where the run cannot go on."""

    def stop_waiting(self) -> None:
        """Wait no longer for what ends; from a signal's handler."""

    def close(self) -> None:
        """End, and leave nothing behind; raise nothing."""


class Maker(Protocol):
    """Makes tasks."""

    def make(self, index: int, attempt: int, memory: int | None) -> Task:
        """Make a task; see `TaskMaker.make`."""


class TaskMaker:
    """Makes tasks of the plan's jobs.

    Parameters
    ----------
    plan : `Plan`
        The plan.
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    sites : `Sites`
        Where the jobs run.
    paths : `SubmitPaths`
        Where things are.
    """

    def __init__(self, plan: Plan, config: BpsConfig, sites: Sites, paths: SubmitPaths) -> None:
        self._plan = plan
        self._config = config
        self._sites = sites
        self._paths = paths
        # Asked once: a search of the configuration takes longer than all else here.
        self._has_butler = bool(get_bps_config_value(config, "executionButlerDir", str, ""))
        self._environments = _environments_of(plan, paths)
        numbers = [(template.fields or {}).get("environment", -1) for template in plan.templates]
        if max(numbers, default=-1) >= len(self._environments):
            raise DamagedFileError(f"{paths.job_environments} is missing or not whole. Submit the run again.")
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
        job = self._job(index, attempt, memory)
        label = job.generic.label
        template = self._plan.template(index)
        on_host = template.on_submit_host
        resources = job.get_resources()
        spec = job_spec(job, index, attempt, allow_stage=self._has_butler and not template.bps_own)
        site = self._sites.of_job(job)
        most = site.get_capacity()["cpus"]
        if not on_host and most is not None and spec["cpus"] > most:
            self._warn_about_cpus(label, spec["cpus"], most)
            spec["cpus"] = resources["cores"] = int(most)
        return Task(
            job=index,
            attempt=attempt,
            label=label,
            executor=None if on_host else self._sites.executor_of(job),
            resources={key: resources[key] for key in site.resource_list if key in resources},
            spec=spec,
            priority=resources.get("priority", 0),
        )

    def _job(self, index: int, attempt: int, memory: int | None) -> ParslJob:
        """Make the job that sites see."""
        planned = self._plan.job(index)
        generic = generic_job(planned, memory, self._environments)
        stem = log_stem(self._plan, self._paths, planned, attempt)
        return ParslJob(generic, self._config, planned.files, log_stem=stem)

    def _warn_about_cpus(self, label: str, wanted: int, most: float) -> None:
        if label not in self._warned:
            self._warned.add(label)
            _LOG.warning(
                "Jobs of %s ask for %d CPUs; the site has %d a node, which each of them gets to itself.",
                label,
                wanted,
                most,
            )


def _environments_of(plan: Plan, paths: SubmitPaths) -> list[dict[str, Any]]:
    """Read the jobs' own environments, by their numbers in the plan."""
    environments = read_job_environments(paths.job_environments)
    if plan.payload is not None:
        environments += read_job_environments(paths.payload_environments(plan.payload.header))
    return environments


def node_setup(paths: SubmitPaths, cwd: str, site: str = "", *, export: bool = True) -> NodeSetup:
    """Describe the run to the runners.

    Parameters
    ----------
    paths : `SubmitPaths`
        Where things are.
    cwd : `str`
        Directory in which jobs run.
    site : `str`, optional
        Name of the site.
    export : `bool`, optional
        Whether jobs get the environment of prepare.

    Returns
    -------
    setup : `~lsst.ctrl.bps.parsl.node.setup.NodeSetup`
        What every site's have; the rest is as by default.
    """
    return NodeSetup(
        submit_path=str(paths.submit_path),
        site=site,
        journals=str(paths.journals),
        environment=str(paths.environment),
        cwd=cwd,
        export=export,
    )


def job_spec(job: ParslJob, index: int, attempt: int, *, allow_stage: bool = True) -> dict[str, Any]:
    """Describe an attempt to the runner.

    Parameters
    ----------
    job : `ParslJob`
        The job.
    index : `int`
        Its number.
    attempt : `int`
        Number of the attempt, from 1.
    allow_stage : `bool`, optional
        Whether the job works with a copy of the execution butler, where there
        is one.

    Returns
    -------
    spec : `dict`
        ``j`` and ``a`` (job and attempt), ``argv`` or
        ``script``, ``env``, ``stdout``, ``stderr``, ``cpus``, ``memory``,
        ``walltime`` (s), ``priority``, and perhaps ``pre`` and ``post``.
    """
    resources = job.get_resources()
    spec = {
        "j": index,
        "a": attempt,
        "env": {"BPS_PARSL_JOB": job.name, "BPS_PARSL_LABEL": job.generic.label, **job.environment},
        "stdout": job.stdout,
        "stderr": job.stderr,
        "cpus": resources["cores"],
        "memory": resources["memory"],
        "walltime": resources["running_time_min"],
        "priority": resources.get("priority", 0),
    }
    command, pre, post = job.command, [job.pre_command], [job.post_command]
    copy = job.butler_copy if allow_stage else None
    if copy is not None:
        command = copy.command(command)
        pre = [copy.before, *map(copy.text, pre)]
        post = [*map(copy.text, post), copy.after]
    if command.words is None:
        spec["script"] = shell_line(command.line)
    else:
        spec["argv"] = command.words
    for key, lines in (("pre", pre), ("post", post)):
        if code := "\n".join(filter(None, lines)):
            spec[key] = code
    return spec
