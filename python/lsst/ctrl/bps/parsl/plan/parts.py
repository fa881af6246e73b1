# SPDX-License-Identifier: BSD-3-Clause
"""What a plan consists of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = ["JobKind", "JobTemplate", "PlanPart", "PlannedJob"]


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

    lazy: bool = False
    """Whether the job adds the payload to the run."""

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


@dataclass(frozen=True)
class PlanPart:
    """One file of a plan."""

    path: Path
    """The file."""

    header: dict[str, Any]
    """What holds for its jobs."""

    first_job: int
    """Number of its first job."""

    jobs: int
    """Number of its jobs."""

    templates: int
    """Number of its templates."""

    fd: int
    """The file, open."""

    @property
    def id(self) -> str:
        """What tells it from all others."""
        return str(self.header.get("id", ""))
