# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that start steps of their block with srun, where temporary files have long paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from end_to_end.support import Step

from .engines import ENGINES, SITES, Bench, Engine

BY_NAME = {engine.name: engine for engine in ENGINES}

OF_THE_WORKERS = (
    "SLURM_STEP",
    "SLURM_NTASKS",
    "SLURM_CPUS_PER_TASK",
    "SLURM_PROCID",
    "SRUN_",
    "SLURM_OVERLAP",
)
"""Beginnings of variables that would have a job's srun start what the workers are."""


def srun(bench: Bench, name: str, options: str, **fields: Any) -> Step:
    """Return a job that starts ``hostname`` and writes down what it has."""
    code = f"-c 'timeout 100 srun {options} hostname >{name}.out && env >{name}.env'"
    return Step(name, executable="/bin/sh", arguments=code, fields=fields)


def check(bench: Bench, name: str, tasks: int, **expected: str) -> None:
    """Check what a job had."""
    assert len((bench.path / f"{name}.out").read_text().split()) == tasks
    lines = (bench.path / f"{name}.env").read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines if "=" in line)
    assert not [variable for variable in environ if variable.startswith(OF_THE_WORKERS)]
    assert environ["SLURM_JOB_ID"]
    assert {key: environ.get(key) for key in expected} == expected


def long_directory(parent: Path) -> Path:
    """Name a directory that has no room for a socket's name."""
    return parent / ("x" * max(20, 150 - len(str(parent))))


def test_srun_in_blocks(make_bench: Callable[[Engine], Bench]) -> None:
    """A job's own srun starts what it would in a batch script of the block's size: it neither waits for the
    workers' step nor takes its shape over. The workers find one another where ``TMPDIR`` is too long for a
    socket, and where it is not there; jobs have that of their node, or ``/tmp`` in place of a missing one.
    """
    bench = make_bench(BY_NAME["slurm-two-nodes"])
    long, missing = long_directory(bench.path), long_directory(bench.path / "missing")
    long.mkdir()
    bench.env["TMPDIR"] = str(long)
    one = {
        **BY_NAME["slurm"].site,
        "class": f"{SITES}.Slurm",
        "cores_per_node": 2,
        "worker_init": f"export TMPDIR={missing} TEMP={bench.tmp}",
    }
    steps = [
        srun(bench, "single", "-n1"),
        srun(bench, "spread", "-N2 -n2"),
        srun(bench, "both", "-n2", compute_site="one"),
    ]
    bench.prepare(steps, site={"worker_init": f"export TMPDIR={long}"}, sites={"one": one}, numberOfRetries=0)
    bench.drive("restart", "--id", bench.id).finish(120).succeeded()
    check(bench, "single", 1, TMPDIR=str(long), SLURM_JOB_NUM_NODES="2", SLURM_TASKS_PER_NODE="1(x2)")
    check(bench, "spread", 2, TMPDIR=str(long))
    check(bench, "both", 2, TMPDIR="/tmp", SLURM_JOB_NUM_NODES="1")
