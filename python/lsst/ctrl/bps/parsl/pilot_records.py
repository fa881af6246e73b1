# SPDX-License-Identifier: BSD-3-Clause
"""What was asked of batch systems, so that nothing stays there.

A driver that is killed leaves its blocks in the queue. Whoever resumes or
cancels its run finds them by this file.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import SchedulerError
from .files import PRIVATE, open_append, storage_errors
from .slurm_queue import cancel_jobs, is_final, list_jobs

__all__ = ["end_pilots", "record_pilots"]

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


def record_pilots(path: Path, scheduler: str, **what: str | None) -> None:
    """Write down what is asked of a batch system, before it is asked.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.
    scheduler : `str`
        ``slurm``, ``torque``, ``pbspro`` or ``lsf``.
    **what : `str`, optional
        For Slurm ``tag``, the beginning of the jobs' comments, and
        ``clusters``; for the others ``id`` and ``name`` of a job.
    """
    with storage_errors(path, "write down what is submitted"):
        fd = open_append(path, PRIVATE)
        try:
            os.write(fd, json.dumps({"scheduler": scheduler, **what}).encode() + b"\n")
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
    for record in _records(path):
        if record["scheduler"] == "slurm":
            key = (record["tag"], record.get("clusters"))
            if key not in seen:
                seen.add(key)
                ended += _end_slurm_jobs(*key)
        elif record["scheduler"] in _SHOW:
            ended += _end_job(record["scheduler"], record["id"], record["name"])
    if ended:
        _LOG.info("%d jobs that an earlier driver left in the queue were removed.", ended)
    return ended


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with storage_errors(path, "read what was submitted"):
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return
    for line in lines:
        try:
            record = json.loads(line)
            yield {"scheduler": record["scheduler"], **record}
        except (ValueError, TypeError, KeyError):
            continue  # A line that was being written when its writer was killed.


def _end_slurm_jobs(tag: str, clusters: str | None) -> int:
    """Cancel the jobs with a tag, and wait until they are gone."""
    found: set[str] = set()
    deadline = time.monotonic() + END_SECONDS
    while True:
        jobs = list_jobs(COMMAND_SECONDS, clusters)
        left = [job.id for job in jobs if job.comment.startswith(f"{tag}:") and not is_final(job.state)]
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
    """End one job, if it is still the one that it was."""
    try:
        shown = _run([*_SHOW[scheduler], number])
        if shown.returncode != 0 or name not in shown.stdout.replace("\n\t", ""):
            return 0
        return int(_run([*_END[scheduler], number]).returncode == 0)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SchedulerError(f"{_SHOW[scheduler][0]} {number}: {exc}") from None


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_SECONDS,
        stdin=subprocess.DEVNULL,
    )
