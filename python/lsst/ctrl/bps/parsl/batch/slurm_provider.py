# SPDX-License-Identifier: BSD-3-Clause
"""Parsl's SlurmProvider, without the faults that lose runs.

Its constructor runs no ``sacct``; a job that Slurm forgot is not taken for one
that runs; an sbatch that answers too late leaves no orphan; and paths and
values do not pass through a shell.
"""

from __future__ import annotations

import math
import re
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SrunLauncher
from parsl.providers import SlurmProvider

from ..errors import SchedulerError
from ..files import write_private_text
from ..settings.types import clock_time
from .command_environment import chosen_clusters, step_reset
from .directives import read_directives, script_lines
from .launchers import with_temporary_directory
from .pilot_records import record_pilots
from .slurm_queue import SlurmJob, cancel_jobs, is_forgotten, jobs_with_tag, list_jobs, submit_script

__all__ = ["SlurmBlocks", "Srun"]

WORKERS = "BPS_PARSL_WORKERS"
"""Environment variable in a block: the file with what starts its workers."""

_DOING = "write what is submitted"

STATUS_SECONDS = 15
"""Time between two calls of squeue."""

_STATES = {
    "PD": JobState.PENDING,
    "CF": JobState.PENDING,
    "RQ": JobState.PENDING,
    "RF": JobState.PENDING,
    "RH": JobState.HELD,
    "R": JobState.RUNNING,
    "CG": JobState.RUNNING,
    "SI": JobState.RUNNING,
    "SO": JobState.RUNNING,
    "RS": JobState.RUNNING,
    "S": JobState.HELD,
    "ST": JobState.HELD,
    "CD": JobState.COMPLETED,
    "CA": JobState.CANCELLED,
    "TO": JobState.TIMEOUT,
    "DL": JobState.TIMEOUT,
    "PR": JobState.FAILED,
    "F": JobState.FAILED,
    "NF": JobState.FAILED,
    "BF": JobState.FAILED,
    "OOM": JobState.FAILED,
    "RV": JobState.FAILED,
}
"""Parsl's states by Slurm's codes (squeue(1)); UNKNOWN for the others."""


class Srun(SrunLauncher):
    """Starts the workers of a block with srun, one on each node.

    Parsl's own launcher writes a file that the blocks of a name share, and
    has bash replace variables in the command twice.
    """

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int, script_dir: str = "") -> str:
        """Return the bash code that runs a command on each node.

        Parameters
        ----------
        command : `str`
            The command, in bash.
        tasks_per_node : `int`
            How often to run it on a node.
        nodes_per_block : `int`
            Number of nodes.
        script_dir : `str`, optional
            Not used.

        Returns
        -------
        code : `str`
            The code.
        """
        quoted = "'" + command.replace("'", "'\\''") + "'"
        count = tasks_per_node * nodes_per_block
        size = f"--nodes={nodes_per_block} --ntasks={count} --ntasks-per-node={tasks_per_node}"
        # A job's own srun would wait for this step to end. Before Slurm 20.11,
        # steps shared what there is, and srun does not know the variable.
        return f"SLURM_OVERLAP=1 srun {size} -l {self.overrides} bash -c {quoted}\n"


class SlurmBlocks(SlurmProvider):
    """Asks Slurm for blocks.

    All blocks have one script, which can be written before the run begins.
    What differs is the script's argument, which is also the mark by which the
    jobs of a run are found in the queue: no option of sbatch takes it away.

    Parameters
    ----------
    name : `str`
        Name of its jobs in Slurm.
    tag : `str`
        Beginning of their marks.
    record : `pathlib.Path`
        Where is written down that jobs with this tag were submitted.
    script_path : `pathlib.Path`
        The batch script; what blocks write is beside it.
    seconds : `int`
        Walltime of a block in seconds.
    singleton : `bool`, optional
        Whether at most one job of this name runs at a time.
    **options : `~typing.Any`
        As for `parsl.providers.SlurmProvider`.
    """

    says_reasons = True
    """The message of a status is Slurm's reason for it."""

    def __init__(
        self,
        name: str,
        tag: str,
        record: Path,
        script_path: Path,
        seconds: int,
        singleton: bool = False,
        **options: Any,
    ) -> None:
        self._constructed = False
        memory = options.pop("mem_per_node", None)
        lines = options.pop("scheduler_options", "")
        super().__init__(walltime=clock_time(seconds), **options)
        self._constructed = True
        # The annotation there asks for a whole number.
        self.mem_per_node = memory
        self._asked = lines
        # Behind those of the settings, so that they count.
        self.scheduler_options += lines
        asked = read_directives(lines).get("clusters")
        self.clusters = asked.value if asked else self.clusters or chosen_clusters()
        self.name = name
        self.tag = tag
        self.record = record
        self.script_path = script_path
        self._recorded: set[str | None] = set()
        self.singleton = singleton
        self.seconds = seconds
        self.refusal: SchedulerError | None = None
        self.uncertain = False
        """Whether there may be jobs of which sbatch did not say so."""

    def execute_wait(self, cmd: str, timeout: int | None = None) -> tuple[int, str, str]:
        """Run a command of the base class; none while it is constructed."""
        if not self._constructed:
            return 1, "", "not asked"  # Then it does not count on sacct.
        raise NotImplementedError(f"not through a shell: {cmd}")

    def script(self) -> str:
        """Return the batch script of the blocks.

        Returns
        -------
        script : `str`
            The script. Its argument is the mark of a block.
        """
        log = _quoted(str(self.script_path.with_suffix("")))
        directives = [
            f"--job-name={self.name}",
            f"--output={log}-%j.stdout",
            f"--error={log}-%j.stderr",
            f"--nodes={self.nodes_per_block}",
            f"--time={self.walltime}",
            "--ntasks-per-node=1",
            # A block that starts again would meet a driver that gave it up.
            "--no-requeue",
        ]
        setup = [step_reset(self._asked, memory=self.mem_per_node is not None)]
        if self.mem_per_node is not None:
            directives.append(f"--mem={math.floor(self.mem_per_node * 1024)}M")
            setup.append(f"export PARSL_MEMORY_GB={self.mem_per_node:g}")
        if self.cores_per_node is not None:
            directives.append(f"--cpus-per-task={self.cores_per_node}")
            # A step does not take this over from its job, since Slurm 22.05.
            setup.append(f"export SRUN_CPUS_PER_TASK={self.cores_per_node}")
            setup.append(f"export PARSL_CORES={self.cores_per_node}")
        if self.singleton:
            directives.append("--dependency=singleton")
        head = "\n".join(f"#SBATCH {directive}" for directive in directives)
        more = "\n".join(script_lines(self.scheduler_options))
        # The driver writes it when it has its ports.
        workers = f'export {WORKERS}={shlex.quote(str(self.script_path.parent))}/"${{1##*:}}".workers'
        launched = self.launcher(f'. "${WORKERS}"', 1, self.nodes_per_block, self.script_dir)
        parts = ["#!/bin/bash", head, more, "", workers, self.worker_init.strip(), *setup]
        return "\n".join([*parts, "", launched.strip()]) + "\n"

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        """Submit a block.

        Parameters
        ----------
        command : `str`
            What starts the workers, in bash.
        tasks_per_node : `int`
            1.
        job_name : `str`, optional
            Parsl's name for the block.

        Returns
        -------
        id : `str`
            Number of the job.

        Raises
        ------
        SchedulerError
            Raised if Slurm refuses, or does not answer.
        """
        name = re.sub(r"[^\w.-]", "_", f"{job_name}-{secrets.token_hex(3)}")
        mark = f"{self.tag}:{name}"
        workers = f"{with_temporary_directory(command)}\n"
        write_private_text(self.script_path.with_name(f"{name}.workers"), workers, _DOING)
        write_private_text(self.script_path, self.script(), _DOING)
        self._record()
        try:
            number = submit_script(str(self.script_path), mark, self.cmd_timeout, self.clusters)
        except SchedulerError as exc:
            found = self._find(mark) if exc.unknown else None
            if found is None:
                self.refusal = exc
                self.uncertain = self.uncertain or exc.unknown
                raise
            number = found
        self._note_cluster(number.partition(";")[2])
        self.refusal = None
        log = f"{self.script_path.with_suffix('')}-{number.partition(';')[0]}"
        self.resources[number] = {
            "job_id": number,
            "status": JobStatus(JobState.PENDING),
            "job_stdout_path": log + ".stdout",
            "job_stderr_path": log + ".stderr",
        }
        return number

    def _record(self) -> None:
        """Write down where there will be jobs of the run, once for each choice of clusters."""
        if self.clusters not in self._recorded:
            record_pilots(self.record, "slurm", tag=self.tag, clusters=self.clusters)
            self._recorded.add(self.clusters)

    def _note_cluster(self, name: str) -> None:
        """Look for jobs in a cluster too that a job was given to, by whatever chose it."""
        known = self.clusters.split(",") if self.clusters else []
        if name and name not in known:
            self.clusters = ",".join([*known, name])
            self._record()

    def _find(self, mark: str) -> str | None:
        """Look for a job of which sbatch did not say whether it was taken."""
        try:
            jobs = list_jobs(self.cmd_timeout, self.clusters)
        except SchedulerError:
            return None
        return next((job.key for job in jobs if job.mark == mark), None)

    def _status(self) -> None:
        # Blocks are submitted beside this thread: what squeue says now is not about later ones.
        asked = [(number, job) for number, job in list(self.resources.items()) if not job["status"].terminal]
        if not asked:
            return
        try:
            jobs = list_jobs(self.cmd_timeout, self.clusters)
        except SchedulerError:
            return  # What was known stays.
        listed = {found.id: found for found in jobs} | {found.key: found for found in jobs}
        for number, job in asked:
            if not job["status"].terminal:
                found = _found(listed, str(number))
                if found is None and not is_forgotten(str(number), self.cmd_timeout, self.clusters):
                    continue  # What was known stays.
                state, reason = self._state(found)
                job["status"] = JobStatus(
                    state,
                    message=reason,
                    stdout_path=job["job_stdout_path"],
                    stderr_path=job["job_stderr_path"],
                )

    @staticmethod
    def _state(job: SlurmJob | None) -> tuple[JobState, str | None]:
        if job is None:
            # Slurm forgets a job some time after its end.
            return JobState.COMPLETED, None
        return _STATES.get(job.state, JobState.UNKNOWN), job.why

    def cancel(self, job_ids: Sequence[object]) -> list[bool]:
        """Cancel blocks.

        Parameters
        ----------
        job_ids : `~collections.abc.Sequence` [`str`]
            Numbers of their jobs.

        Returns
        -------
        cancelled : `list` [`bool`]
            Whether Slurm took it, for each.
        """
        alive = [str(number) for number in job_ids if not self.resources[number]["status"].terminal]
        try:
            if alive:
                cancel_jobs(alive, self.cmd_timeout, self.clusters)
        except SchedulerError:
            return [number not in alive for number in job_ids]
        for number in alive:
            self.resources[number]["status"] = JobStatus(JobState.CANCELLED)
        return [True] * len(job_ids)

    def sweep(self) -> int:
        """Cancel all jobs of this run, known to this object or not.

        Returns
        -------
        number : `int`
            How many were still in the queue.

        Raises
        ------
        SchedulerError
            Raised if Slurm does not answer.
        """
        left = jobs_with_tag(self.tag, self.cmd_timeout, self.clusters)
        cancel_jobs(left, self.cmd_timeout, self.clusters)
        return len(left)

    def still_there(self, job_ids: Sequence[object]) -> bool:
        """Tell whether Slurm has a job of some, also one that is about to end.

        Parameters
        ----------
        job_ids : `~collections.abc.Sequence` [`str`]
            Numbers of the jobs.

        Returns
        -------
        there : `bool`
            `False` where none of them can do anything any more.

        Raises
        ------
        SchedulerError
            Raised if Slurm does not answer.
        """
        if not job_ids:
            return False
        queued = jobs_with_tag(self.tag, self.cmd_timeout, self.clusters)
        numbers = {str(number).partition(";")[0] for number in job_ids}
        return any(key.partition(";")[0] in numbers for key in queued)

    @property
    def status_polling_interval(self) -> int:
        """Seconds between two looks at the queue."""
        return STATUS_SECONDS


def _found(listed: dict[str, SlurmJob], number: str) -> SlurmJob | None:
    """Look for a job by what sbatch called it; by its number where one of the two names no cluster."""
    if number in listed:
        return listed[number]
    bare, _, cluster = number.partition(";")
    job = listed.get(bare)
    return None if job is not None and cluster and job.cluster else job


def _quoted(path: str) -> str:
    """Write a path so that sbatch reads it as it is (sbatch(1), "filename pattern")."""
    path = path.replace("%", "%%")
    return (
        '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"' if re.search(r"[\s\"\\']", path) else path
    )
