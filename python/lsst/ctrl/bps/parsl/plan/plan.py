# SPDX-License-Identifier: BSD-3-Clause
"""The plan: what to run. Written once, as text, and never changed.

The file has a line for each thing::

    {"format": 2, "kind": "plan", "run": ..., "files": {...}, ...}   header
    {"template": {...}}              what the jobs of a label share
    [template, [parents], name, {...}]   a job; after its parents
    {"end": <lines before>, "crc": <of all bytes before>}

Jobs are numbered from 0 in the order of the file. What a job shares with
others is in its template, so that a plan of a million jobs stays small; and
only the structure is kept in memory, a job's own line is read when needed.
"""

from __future__ import annotations

import json
import os
import weakref
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy

from ..errors import DamagedFileError, RunNotFoundError
from ..files import open_regular, storage_errors, write_atomic

__all__ = ["JobKind", "JobTemplate", "Plan", "PlanWriter", "PlannedJob"]

_FORMAT = 2


class JobKind(StrEnum):
    """What a node of the workflow is; BPS's ``GenericWorkflowNodeType``."""

    PAYLOAD = "payload"
    """Runs a command."""

    NOOP = "noop"
    """Only orders others."""

    GROUP = "group"
    """Stands for the end of a group of jobs."""


@dataclass(frozen=True)
class JobTemplate:
    """What the jobs of one label share."""

    label: str
    """The jobs' label."""

    kind: JobKind = JobKind.PAYLOAD
    """What the jobs are."""

    final: bool = False
    """Whether they run after all others."""

    on_submit_host: bool = False
    """Whether they run where the driver runs."""

    bps_own: bool = False
    """Whether BPS added them to the pipeline's."""

    blocking: bool = True
    """For a group: whether a failure in it stops what comes after it."""

    log_each_attempt: bool = False
    """Whether each attempt has log files of its own."""

    fields: dict[str, Any] | None = None
    """Values of the fields of BPS's ``GenericWorkflowJob``; those that have
    their default are left out."""


@dataclass(frozen=True)
class PlannedJob:
    """One job of the plan."""

    index: int
    """Number of the job."""

    name: str
    """Name of the job."""

    template: JobTemplate
    """What it shares with others."""

    parents: tuple[int, ...]
    """Numbers of the jobs that must have succeeded before."""

    fields: dict[str, Any]
    """Values of fields that are its own, such as ``tags``."""

    files: dict[str, str]
    """Paths of its own files by their logical names."""


class PlanWriter:
    """Writes a plan line by line.

    Parameters
    ----------
    stream : `~typing.IO` [`bytes`]
        Where to write.
    header : `dict`
        What holds for the run.
    """

    def __init__(self, stream: Any, header: dict[str, Any]) -> None:
        self._stream = stream
        self._crc = 0
        self._lines = 0
        self._templates: dict[str, int] = {}
        self._write({"format": _FORMAT, "kind": "plan", **header})

    def add(
        self,
        name: str,
        template: dict[str, Any],
        parents: Sequence[int],
        fields: dict[str, Any],
        files: dict[str, str],
    ) -> None:
        """Add a job.

        Parameters
        ----------
        name : `str`
            Name of the job.
        template : `dict`
            What it shares with others; see `JobTemplate`.
        parents : `~collections.abc.Sequence` [`int`]
            Numbers of jobs that were added before.
        fields : `dict`
            What is its own.
        files : `dict` [`str`, `str`]
            Its own files.
        """
        key = json.dumps(template, separators=(",", ":"), default=plain)
        number = self._templates.get(key)
        if number is None:
            number = self._templates[key] = len(self._templates)
            self._write({"template": template})
        own: dict[str, Any] = {"fields": fields} if fields else {}
        if files:
            own["files"] = files
        self._write([number, parents, name, own])

    def close(self) -> None:
        """Write the last line."""
        self._stream.write(json.dumps({"end": self._lines, "crc": self._crc}).encode() + b"\n")

    def _write(self, value: Any) -> None:
        line = json.dumps(value, separators=(",", ":"), default=plain).encode() + b"\n"
        self._crc = zlib.crc32(line, self._crc)
        self._lines += 1
        self._stream.write(line)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it.

    Parameters
    ----------
    value : `~typing.Any`
        Such as a NumPy number, a UUID or a BPS configuration.

    Returns
    -------
    plain : `~typing.Any`
        Number, text or mapping.
    """
    if hasattr(value, "toDict"):
        return value.toDict()
    if hasattr(value, "item"):
        return value.item()
    return dict(value) if isinstance(value, dict) else str(value)


class Plan:
    """What to run.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.

    Raises
    ------
    DamagedFileError
        Raised if the file is not whole or of another format.
    RunNotFoundError
        Raised if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self.templates: list[JobTemplate] = []
        self.template_of = array("I")
        self._offsets = array("Q")
        self._parents = array("I")
        self._parent_ends = array("Q", [0])
        if not path.exists():
            raise RunNotFoundError(
                f"There is no run in {path.parent.parent} (no file {path}). "
                "Make one with: bps submit <config.yaml>"
            )
        with storage_errors(path, "read the plan"):
            self._fd = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
            weakref.finalize(self, os.close, self._fd)
            with open(self._fd, "rb", closefd=False, buffering=1 << 20) as stream:
                self._load(stream)

    def __len__(self) -> int:
        return len(self.template_of)

    def _load(self, stream: Iterable[bytes]) -> None:
        offset = crc = count = 0
        end: dict[str, Any] = {}
        try:
            for line in stream:
                if line.startswith(b'{"end"'):
                    end = json.loads(line)
                    break
                crc = zlib.crc32(line, crc)
                self._load_line(json.loads(line.decode()), offset)
                offset += len(line)
                count += 1
            if end != {"end": count, "crc": crc}:
                raise ValueError("it is not whole")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as exc:
            raise DamagedFileError(
                f"{self.path} is damaged (line {count + 1}: {exc}). "
                "The run cannot be resumed; submit it again."
            ) from exc

    def _load_line(self, value: Any, offset: int) -> None:
        if isinstance(value, list):
            template, parents = value[0], value[1]
            self.templates[template]
            if parents and max(parents) >= len(self.template_of):
                raise ValueError("a job comes before its parents")
            self.template_of.append(template)
            self._parents.extend(parents)
            self._parent_ends.append(len(self._parents))
            self._offsets.append(offset)
        elif "template" in value:
            content = dict(value["template"])
            self.templates.append(JobTemplate(**{**content, "kind": JobKind(content["kind"])}))
        else:
            if value["format"] != _FORMAT:
                raise DamagedFileError(
                    f"{self.path} has format {value['format']!r}; this version of lsst-ctrl-bps-parsl "
                    f"reads format {_FORMAT}. Use the version that prepared the run."
                )
            self.header = value

    @property
    def run(self) -> str:
        """Name of the run."""
        return str(self.header["run"])

    @property
    def id(self) -> str:
        """What tells this plan from all others."""
        return str(self.header.get("id", ""))

    @cached_property
    def labels(self) -> list[str]:
        """Labels in the order of the pipeline."""
        return list(dict.fromkeys([*self.header["labels"], *(t.label for t in self.templates)]))

    def template(self, index: int) -> JobTemplate:
        """Return what a job shares with others.

        Parameters
        ----------
        index : `int`
            Number of the job.

        Returns
        -------
        template : `JobTemplate`
            Its template.
        """
        return self.templates[self.template_of[index]]

    def job(self, index: int) -> PlannedJob:
        """Read a job.

        Parameters
        ----------
        index : `int`
            Number of the job.

        Returns
        -------
        job : `PlannedJob`
            The job.
        """
        start = self._offsets[index]
        # A line is at most as long as what lies before the next job's; the
        # last one's end is found by reading on.
        if index + 1 < len(self._offsets):
            line = os.pread(self._fd, self._offsets[index + 1] - start, start)
        else:
            line = os.pread(self._fd, os.fstat(self._fd).st_size - start, start)
        template, parents, name, own = json.loads(line.split(b"\n", 1)[0])
        return PlannedJob(
            index=index,
            name=name,
            template=self.templates[template],
            parents=tuple(parents),
            fields=own.get("fields", {}),
            files={**self.header["files"], **own.get("files", {})},
        )

    def jobs(self) -> Iterator[PlannedJob]:
        """Iterate over all jobs."""
        return (self.job(index) for index in range(len(self)))

    def parents(self, index: int) -> array[int]:
        """Return the numbers of a job's parents.

        Parameters
        ----------
        index : `int`
            Number of the job.

        Returns
        -------
        parents : `array.array` [`int`]
            Numbers, each less than ``index``.
        """
        return self._parents[self._parent_ends[index] : self._parent_ends[index + 1]]

    @cached_property
    def children(self) -> Adjacency:
        """The children of each job."""
        return Adjacency(self._parents, self._parent_ends)


class Adjacency:
    """Lists of numbers in two flat arrays: the children of each job.

    Parameters
    ----------
    parents : `array.array` [`int`]
        The parents of all jobs, one job after the other.
    ends : `array.array` [`int`]
        Where the parents of each job end, with a zero before.
    """

    def __init__(self, parents: array[int], ends: array[int]) -> None:
        of_parents = numpy.frombuffer(parents, dtype=f"u{parents.itemsize}")
        limits = numpy.frombuffer(ends, dtype=f"u{ends.itemsize}").astype(numpy.int64)
        count = len(limits) - 1
        by_parent = numpy.argsort(of_parents, kind="stable")
        children = numpy.repeat(numpy.arange(count, dtype=numpy.uint32), numpy.diff(limits))[by_parent]
        numbers = numpy.bincount(of_parents, minlength=count)
        # Arrays of the standard library: one element at a time, they are
        # faster than NumPy's.
        self._starts = array("Q", [0])
        self._starts.frombytes(numpy.cumsum(numbers).astype(numpy.uint64).tobytes())
        self._children = array("I", children.tobytes())

    def __getitem__(self, index: int) -> array[int]:
        return self._children[self._starts[index] : self._starts[index + 1]]


def write_plan(path: Path, header: dict[str, Any], jobs: Iterable[tuple[Any, ...]]) -> None:
    """Write a plan.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.
    header : `dict`
        What holds for the run: ``run``, ``labels``, ``files``, and more.
    jobs : `~collections.abc.Iterable` [`tuple`]
        Arguments of `PlanWriter.add`.
    """
    with storage_errors(path, "write the plan"), write_atomic(path) as stream:
        writer = PlanWriter(stream, header)
        for job in jobs:
            writer.add(*job)
        writer.close()
