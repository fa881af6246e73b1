# SPDX-License-Identifier: BSD-3-Clause
"""What several tests need."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan, write_plan

HEADER = {
    "run": "u_me_x",
    "workflow": "u_me_x",
    "attributes": {},
    "labels": [],
    "cwd": "/",
    "log_template": "{label}",
    "files": {},
}
"""Header of a plan."""


@contextmanager
def umask(value: int) -> Iterator[None]:
    """Have another umask for a while."""
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def world_writable(directory: Path) -> list[str]:
    """Return what in a directory, and whether it itself, group or others can write to."""
    found = []
    for top, _, files in os.walk(directory):
        for path in (top, *(os.path.join(top, name) for name in files)):
            mode = os.lstat(path).st_mode
            if not stat.S_ISLNK(mode) and mode & 0o022:
                found.append(f"{path} {stat.filemode(mode)}")
    return found


PlanLine = tuple[str, dict[str, Any], Sequence[int], dict[str, Any], dict[str, str]]
"""Arguments of ``PlanWriter.add``."""


def plan_line(
    name: str,
    parents: Sequence[int] = (),
    *,
    label: str = "l",
    kind: str = "payload",
    final: bool = False,
    blocking: bool = True,
    lazy: bool = False,
    **fields: Any,
) -> PlanLine:
    """Describe a job of a plan."""
    template: dict[str, Any] = {"label": label, "kind": kind, "final": final, "blocking": blocking}
    template |= {"fields": fields, **({"lazy": True} if lazy else {})}
    return name, template, list(parents), {}, {}


def make_plan(submit_path: Path, lines: Sequence[PlanLine], **header: Any) -> tuple[Plan, SubmitPaths]:
    """Write the plan of a run and read it."""
    paths = SubmitPaths(submit_path)
    paths.create()
    write_plan(paths.plan, {**HEADER, **header}, lines)
    return Plan(paths.plan), paths


def make_payload(paths: SubmitPaths, lines: Sequence[PlanLine], **header: Any) -> None:
    """Put the second part of a plan into its place."""
    write_plan(paths.payload, {**HEADER, "id": "payload", **header}, lines)
