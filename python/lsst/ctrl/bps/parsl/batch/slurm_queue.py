# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's commands, and what they say."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import SchedulerError
from .command_environment import command_environment
from .refusals import answer_to

__all__ = [
    "SlurmJob",
    "cancel_jobs",
    "is_final",
    "is_forgotten",
    "jobs_with_tag",
    "list_jobs",
    "submit_script",
]

_FORMAT = "%A|%t|%r|%o"
_MOST_IDS = 200

_NO_REASON = frozenset(("", "None", "(null)", "N/A"))

_FINAL = frozenset("BF CA CD DL F NF OOM PR RV TO".split())
"""Slurm's codes of the states that are the last of a job; any other, also one
that a later Slurm adds, is taken for a job that may still run."""


class SlurmJob(NamedTuple):
    """A job in the queue."""

    id: str
    """Its number."""

    state: str
    """Slurm's code of its state."""

    reason: str
    """Why it is in this state."""

    mark: str
    """The last word of its command: what marks our jobs, and anything else for others'."""

    cluster: str = ""
    """Its cluster, where Slurm was asked for jobs of clusters by name."""

    @property
    def key(self) -> str:
        """What sbatch called it: its number, with the cluster behind a semicolon where it was named."""
        return f"{self.id};{self.cluster}" if self.cluster else self.id

    @property
    def why(self) -> str:
        """Slurm's reason, or the code of the state where there is none, as while nodes boot."""
        return self.state if self.reason in _NO_REASON else self.reason


def is_final(state: str) -> bool:
    """Tell whether a state is a job's last.

    Parameters
    ----------
    state : `str`
        Slurm's code of the state.

    Returns
    -------
    final : `bool`
        Whether it is.
    """
    return state in _FINAL


def list_jobs(timeout: float, clusters: str | None = None) -> list[SlurmJob]:
    """Return the user's jobs, those that ended of late among them.

    Parameters
    ----------
    timeout : `float`
        Seconds that squeue may take.
    clusters : `str`, optional
        Names of clusters, as for Slurm's ``--clusters``.

    Returns
    -------
    jobs : `list` [`SlurmJob`]
        The jobs.

    Raises
    ------
    SchedulerError
        Raised if squeue does not answer, or with an error.
    """
    command = ["squeue", "--noheader", f"--user={os.getuid()}", "--states=all", f"--format={_FORMAT}"]
    jobs, cluster = [], ""
    for line in _run([*command, *_on(clusters)], timeout).splitlines():
        if header := re.fullmatch(r"CLUSTER: (\S+)\s*", line):
            cluster = header.group(1)
        parts = line.strip().split("|", 3)
        # Some sites have a squeue that prints more than jobs.
        if len(parts) == 4 and parts[0].isdecimal() and re.fullmatch(r"[A-Z]{1,4}", parts[1]):
            jobs.append(SlurmJob(parts[0], parts[1], parts[2], parts[3].rpartition(" ")[2], cluster))
    return jobs


def jobs_with_tag(tag: str, timeout: float, clusters: str | None = None) -> list[str]:
    """Return the jobs of a run that are in the queue.

    Parameters
    ----------
    tag : `str`
        Beginning of their marks, up to a colon.
    timeout, clusters : optional
        As for `list_jobs`.

    Returns
    -------
    ids : `list` [`str`]
        Their numbers, each perhaps with a cluster, as of `submit_script`.

    Raises
    ------
    SchedulerError
        Raised if squeue does not answer, or with an error.
    """
    jobs = list_jobs(timeout, clusters)
    return [job.key for job in jobs if job.mark.startswith(f"{tag}:") and not is_final(job.state)]


def cancel_jobs(ids: Sequence[str], timeout: float, clusters: str | None = None) -> None:
    """Cancel jobs.

    Parameters
    ----------
    ids : `~collections.abc.Sequence` [`str`]
        Numbers of the jobs, as of `submit_script`; one that has ended is no
        error.
    timeout : `float`
        Seconds that each scancel may take.
    clusters : `str`, optional
        As for `list_jobs`.

    Raises
    ------
    SchedulerError
        Raised if scancel does not answer, or with an error.
    """
    by_cluster: dict[str | None, list[str]] = {}
    for key in ids:
        number, _, cluster = key.partition(";")
        by_cluster.setdefault(cluster or clusters, []).append(number)
    for where, numbers in by_cluster.items():
        for start in range(0, len(numbers), _MOST_IDS):
            _run(["scancel", "--quiet", *_on(where), *numbers[start : start + _MOST_IDS]], timeout)


def submit_script(path: str, mark: str, timeout: float, clusters: str | None = None) -> str:
    """Submit a batch script.

    Parameters
    ----------
    path : `str`
        The script.
    mark : `str`
        Argument of the script, without blanks; by this its job is found in
        the queue.
    timeout : `float`
        Seconds that sbatch may take.
    clusters : `str`, optional
        As for `list_jobs`; the job goes to one of them.

    Returns
    -------
    id : `str`
        Number of the job; a cluster that sbatch names is behind a semicolon.

    Raises
    ------
    SchedulerError
        Raised if sbatch does not answer, or refuses.
    """
    output = _run(["sbatch", "--parsable", *_on(clusters), path, mark], timeout)
    match = re.search(r"^(\d+)(?:;([\w.-]*))?[ \t\r]*$", output, re.MULTILINE)
    if match is None:
        said = f"sbatch did not say the number of the job, but: {output.strip()!r}"
        raise SchedulerError(said, unknown=True)
    number, cluster = match.groups()
    return f"{number};{cluster}" if cluster else str(number)


def is_forgotten(number: str, timeout: float, clusters: str | None = None) -> bool:
    """Ask whether Slurm knows a job no more, as some time after its end.

    Parameters
    ----------
    number : `str`
        Its number, as of `submit_script`.
    timeout : `float`
        Seconds to wait for Slurm.
    clusters : `str`, optional
        Clusters to ask, in place of the default one.

    Returns
    -------
    forgotten : `bool`
        `False` also where Slurm does not say so: a list that lacks the job is
        no proof.
    """
    number, _, cluster = number.partition(";")
    command = ["squeue", "--noheader", "--states=all", "--format=%i", f"--jobs={number}"]
    try:
        _run([*command, *_on(cluster or clusters)], timeout)
    except SchedulerError as exc:
        return "invalid job id" in exc.message.lower()
    return False


def _on(clusters: str | None) -> list[str]:
    return [f"--clusters={clusters}"] if clusters else []


def _run(command: list[str], timeout: float) -> str:
    name = command[0]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=command_environment(),
            start_new_session=True,  # Ctrl-C is for the driver alone.
        )
    except FileNotFoundError:
        raise SchedulerError(
            f"There is no {name} here. Submit the run on a machine from which Slurm jobs can be submitted, "
            "with Slurm's commands on the PATH.",
            final=True,
        ) from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{name} did not answer within {timeout:.0f} seconds", unknown=True) from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        said = said.removeprefix(f"{name}: ").removeprefix("error: ")
        answer = answer_to(said)
        raise SchedulerError(f"{name}: {said}", final=answer.final, change=answer.change)
    return done.stdout
