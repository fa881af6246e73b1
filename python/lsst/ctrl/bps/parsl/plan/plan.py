# SPDX-License-Identifier: BSD-3-Clause
"""The plan: what to run. Written once, as text, and never changed.

A run whose quantum graph is built in a job has a second part, the payload,
which another job puts beside the first one; its jobs are numbered on.

A file has a line for each thing::

    {"format": 2, "kind": "plan", "run": ..., "files": {...}, ...}   header
    {"template": {...}}              what the jobs of a label share
    [template, [parents], name, {...}]   a job; after its parents
    {"end": <lines before>, "crc": <of all bytes before>}

Jobs are numbered from 0 in the order of a file. What a job shares with
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
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError, RunNotFoundError
from ..files import open_regular, storage_errors, write_atomic
from ..paths import PAYLOAD
from .adjacency import Adjacency
from .parts import JobKind, JobTemplate, PlannedJob, PlanPart

__all__ = ["JobKind", "JobTemplate", "Plan", "PlanPart", "PlanWriter", "PlannedJob", "write_plan"]

_FORMAT = 2


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
        self.parts: list[PlanPart] = []
        self.templates: list[JobTemplate] = []
        self.template_of = array("I")
        self.lazy_job: int | None = None
        """The job that adds the payload, where there is one."""
        self._offsets = array("Q")
        self._parents = array("I")
        self._parent_ends = array("Q", [0])
        if not path.exists():
            raise RunNotFoundError(
                f"There is no run in {path.parent.parent} (no file {path}). "
                "Make one with: bps submit <config.yaml>"
            )
        self._add_part(path)

    def __len__(self) -> int:
        return len(self.template_of)

    @property
    def payload_path(self) -> Path:
        """Where the second part is, once there is one."""
        return self.path.with_name(PAYLOAD)

    @property
    def payload(self) -> PlanPart | None:
        """The second part, where it has been added."""
        return self.parts[1] if len(self.parts) > 1 else None

    def add_payload(self) -> PlanPart:
        """Add the second part, which a job has put in its place.

        Returns
        -------
        payload : `PlanPart`
            The part; nothing is done where it has been added before.

        Raises
        ------
        DamagedFileError
            Raised if there is none, or if it is not whole.
        """
        if self.payload is None:
            if not self.payload_path.exists():
                raise DamagedFileError(
                    f"{self.payload_path} is missing, which was added to the run. Restore the file."
                )
            self._add_part(self.payload_path)
            for name in ("labels", "children"):
                self.__dict__.pop(name, None)
        return self.parts[1]

    def _add_part(self, path: Path) -> None:
        jobs, templates = len(self), len(self.templates)
        with storage_errors(path, "read the plan"):
            fd = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
            weakref.finalize(self, os.close, fd)
            with open(fd, "rb", closefd=False, buffering=1 << 20) as stream:
                header = self._load(path, stream)
        self.parts.append(PlanPart(path, header, jobs, len(self) - jobs, len(self.templates) - templates, fd))

    def _load(self, path: Path, stream: Iterable[bytes]) -> dict[str, Any]:
        offset = crc = count = 0
        end: dict[str, Any] = {}
        header: dict[str, Any] = {}
        first_job, first_template = len(self), len(self.templates)
        try:
            for line in stream:
                if line.startswith(b'{"end"'):
                    end = json.loads(line)
                    break
                crc = zlib.crc32(line, crc)
                value = json.loads(line.decode())
                if isinstance(value, list):
                    self._load_job(value[0] + first_template, value[1], first_job, offset)
                elif "template" in value:
                    content = dict(value["template"])
                    self.templates.append(JobTemplate(**{**content, "kind": JobKind(content["kind"])}))
                else:
                    header = _checked_header(path, value)
                offset += len(line)
                count += 1
            if end != {"end": count, "crc": crc}:
                raise ValueError("it is not whole")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as exc:
            raise DamagedFileError(
                f"{path} is damaged (line {count + 1}: {exc}). The run cannot be resumed; submit it again."
            ) from exc
        return header

    def _load_job(self, template: int, parents: list[int], first_job: int, offset: int) -> None:
        if self.templates[template].lazy:
            self.lazy_job = len(self)
        if first_job:
            parents = [parent + first_job for parent in parents]
        if parents and max(parents) >= len(self):
            raise ValueError("a job comes before its parents")
        self.template_of.append(template)
        self._parents.extend(parents)
        self._parent_ends.append(len(self._parents))
        self._offsets.append(offset)

    @property
    def header(self) -> dict[str, Any]:
        """What holds for the run."""
        return self.parts[0].header

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
        """Labels in the order of the pipeline, those of the payload last."""
        labels: dict[str, None] = {}
        begin = 0
        for part in self.parts:
            templates = self.templates[begin : begin + part.templates]
            labels |= dict.fromkeys([*part.header["labels"], *(template.label for template in templates)])
            begin += part.templates
        return list(labels)

    @property
    def sites(self) -> list[str]:
        """Names of the sites of the run and its jobs."""
        return sorted({name for part in self.parts for name in part.header.get("sites", ())})

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
        part = self.parts[-1] if index >= self.parts[-1].first_job else self.parts[0]
        start = self._offsets[index]
        # A line is at most as long as what lies before the next job's; the
        # last one's end is found by reading on.
        is_last = index + 1 == part.first_job + part.jobs
        end = os.fstat(part.fd).st_size if is_last else self._offsets[index + 1]
        line = os.pread(part.fd, end - start, start)
        _, _, name, own = json.loads(line.split(b"\n", 1)[0])
        return PlannedJob(
            index=index,
            name=name,
            template=self.template(index),
            parents=tuple(self.parents(index)),
            fields=own.get("fields", {}),
            files={**part.header["files"], **own.get("files", {})},
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


def _checked_header(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    if header["format"] != _FORMAT:
        raise DamagedFileError(
            f"{path} has format {header['format']!r}; this version of lsst-ctrl-bps-parsl "
            f"reads format {_FORMAT}. Use the version that prepared the run."
        )
    return header


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
