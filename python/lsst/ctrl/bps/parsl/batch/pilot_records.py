# SPDX-License-Identifier: BSD-3-Clause
"""What was asked of batch systems, so that nothing stays there.

A driver that is killed leaves its blocks in the queue. Whoever resumes or
cancels its run finds them by this file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import SchedulerError
from ..files import PRIVATE, open_append, read_file, storage_errors
from ..node.journal import add
from .command_environment import command_environment
from .slurm_queue import cancel_jobs, jobs_with_tag

__all__ = ["end_pilots", "read_pilots", "record_pilots"]

_LOG = logging.getLogger(__name__)

COMMAND_SECONDS = 60.0
"""Time that a command of the batch system may take."""

END_SECONDS = 60.0
"""Time that blocks have to leave the queue."""

_SHOW = {
    "torque": ["qstat", "-f"],
    "pbspro": ["qstat", "-f"],
    "lsf": ["bjobs", "-noheader", "-o", "job_name"],
}
_END = {"torque": ["qdel"], "pbspro": ["qdel"], "lsf": ["bkill"]}

_UNKNOWN_JOB = (153, 35)
"""Exit statuses of Torque's and PBS Professional's qstat for a job that they
do not know (any more)."""

_GONE = ("unknown job", "has finished", "is not found", "invalid job id")


def record_pilots(path: Path, scheduler: str, **what: str | None) -> None:
    """Write down what is asked of a batch system, before it is asked.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.
    scheduler : `str`
        ``slurm``, ``torque``, ``pbspro`` or ``lsf``.
    **what : `str`, optional
        For Slurm ``tag``, the beginning of the jobs' marks, and
        ``clusters``; for the others the ``name`` of a job, and once more with
        its ``id`` as soon as that is known.
    """
    with storage_errors(path, "write down what is submitted"):
        fd = open_append(path, PRIVATE)
        try:
            size = os.fstat(fd).st_size
            whole = not size or os.pread(fd, 1, size - 1) == b"\n"
            line = json.dumps({"scheduler": scheduler, **what}).encode() + b"\n"
            add(fd, line if whole else b"\n" + line)
        finally:
            os.close(fd)


def end_pilots(path: Path) -> int:
    """Remove from the queue what a driver that is gone has left there.

    Parameters
    ----------
    path : `pathlib.Path`
        What `record_pilots` wrote.

    Returns
    -------
    ended : `int`
        Number of jobs that were in the queue.

    Raises
    ------
    SchedulerError
        Raised if the batch system does not answer.
    """
    ended = 0
    seen = set()
    records = list(read_pilots(path))
    numbered = {record.get("name") for record in records if "id" in record}
    for record in records:
        if "tag" in record:
            key = (record["tag"], record.get("clusters"))
            if key not in seen:
                seen.add(key)
                ended += _end_slurm_jobs(*key)
        elif record.get("scheduler") in _SHOW and {"id", "name"} <= set(record):
            ended += _end_job(record["scheduler"], record["id"], record["name"])
        elif record.get("scheduler") in _SHOW and record.get("name") not in {*numbered, None}:
            # The driver was killed before it heard the number.
            for number in _numbers_of(record["scheduler"], record["name"]):
                ended += _end_job(record["scheduler"], number, record["name"])
    if ended:
        _LOG.info("%d jobs that an earlier driver left in the queue were removed.", ended)
    return ended


def read_pilots(path: Path) -> Iterator[dict[str, Any]]:
    """Iterate over what was asked of batch systems.

    Parameters
    ----------
    path : `pathlib.Path`
        What `record_pilots` wrote; nothing where nothing was asked.

    Yields
    ------
    record : `dict`
        What was written at once.

    Raises
    ------
    StorageError
        Raised if it cannot be read.
    """
    with storage_errors(path, "read what was submitted"):
        try:
            lines = read_file(path).splitlines()
        except FileNotFoundError:
            return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # A line that was being written when its writer was killed.
        if isinstance(record, dict):
            yield record


def _end_slurm_jobs(tag: str, clusters: str | None) -> int:
    """Cancel the jobs with a tag, and wait until they are gone."""
    try:
        return _end_tagged(tag, clusters)
    except SchedulerError as exc:
        if "repeat the command" in exc.message:
            raise
        raise SchedulerError(
            f"What an earlier driver left in Slurm's queue cannot be ended: {exc.message}. Nothing was "
            "changed. When Slurm answers again, repeat the command."
        ) from exc


def _end_tagged(tag: str, clusters: str | None) -> int:
    found: set[str] = set()
    deadline = time.monotonic() + END_SECONDS
    while True:
        left = jobs_with_tag(tag, COMMAND_SECONDS, clusters)
        if not left:
            return len(found)
        if time.monotonic() > deadline:
            raise SchedulerError(
                f"Jobs of an earlier driver are still in the queue: {', '.join(left)}. "
                "Wait until they are gone (squeue --me), then repeat the command."
            )
        if new := [number for number in left if number not in found]:
            cancel_jobs(new, COMMAND_SECONDS, clusters)
            found.update(new)
        time.sleep(0.5)


def _end_job(scheduler: str, number: str, name: str) -> int:
    """End one job, if it is still the one that it was, and wait until it is gone."""
    if not _is_there(scheduler, number, name):
        return 0
    deadline = time.monotonic() + END_SECONDS
    done = _run([*_END[scheduler], number])
    while _is_there(scheduler, number, name):
        if time.monotonic() > deadline or done.returncode != 0:
            said = " ".join(f"{done.stderr} {done.stdout}".split())
            raise SchedulerError(
                f"Job {number} of an earlier driver is still in the queue ({_END[scheduler][0]}: {said}). "
                "Wait until it is gone, then repeat the command."
            )
        time.sleep(0.5)
    return 1


def _numbers_of(scheduler: str, name: str) -> list[str]:
    """Look for jobs of a name among all that are in the queue."""
    if scheduler == "lsf":
        shown = _run(["bjobs", "-noheader", "-o", "jobid job_name"])
        lines = (line.split(None, 1) for line in shown.stdout.splitlines())
        return [words[0] for words in lines if len(words) == 2 and name in words[1]]
    numbers, number = [], ""
    for line in _run(["qstat", "-f"]).stdout.splitlines():
        key, _, value = line.strip().partition(":" if line.startswith("Job Id") else "=")
        if key.strip() == "Job Id":
            number = value.strip()
        elif key.strip() == "Job_Name" and name in value:
            numbers.append(number)
    return numbers


def _is_there(scheduler: str, number: str, name: str) -> bool:
    """Tell whether a job of that number and name is in the queue."""
    shown = _run([*_SHOW[scheduler], number])
    said = " ".join(f"{shown.stderr} {shown.stdout}".split())
    if shown.returncode != 0:
        if shown.returncode in _UNKNOWN_JOB or any(words in said.lower() for words in _GONE):
            return False
        raise SchedulerError(f"{_SHOW[scheduler][0]} {number}: {said or f'exit status {shown.returncode}'}")
    # Long values are folded; Slurm's qstat begins every line like that.
    text = re.sub(r"\n\t(?!\w+ = )", "", shown.stdout)
    ended = re.search(r"job_state = [CF]\b", text) is not None
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None and not ended


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            stdin=subprocess.DEVNULL,
            env=command_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SchedulerError(f"{' '.join(command)}: {exc}") from None
