# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's commands answer late, with an error, with nothing, or with what nobody knows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.engines import SLURM, SOON, Bench, Engine
from end_to_end.support import Running, Step, wait_until

from .matrix import Matrix
from .test_slurm import FOUR, assert_uncharged

pytestmark = pytest.mark.on_cluster


@dataclass(frozen=True)
class Fault:
    """What a command does instead of its work."""

    name: str
    command: str
    code: str
    """Shell code: ``$real`` is Slurm's own command, ``$count`` the number of the call."""

    said: str = ""
    """What the run says about it."""

    looks: int = 0
    """Looks at the queue before the steps go on."""

    site: dict[str, Any] = field(default_factory=dict)
    pilots: int = 1
    """Number of batch jobs that are submitted, one by each call of sbatch."""


QUICK = {"cmd_timeout": 5}
UNKNOWN = """"$real" "$@" | sed -E 's/^([0-9]+)[|]{}[|]/\\1|ZZ|/'"""
LATE = 'setsid -f sh -c \'sleep 7; exec "$0" "$@"\' "$real" "$@" >/dev/null 2>&1 </dev/null'

SBATCH = [
    Fault("sbatch answers after its time-out", "sbatch", '"$real" "$@"; exec sleep 60', site=QUICK),
    Fault(
        "sbatch submits after its time-out",
        "sbatch",
        f'[ $count -gt 1 ] && exec "$real" "$@"\n{LATE}\nexec sleep 60',
        "did not answer",
        site=QUICK,
        pilots=2,
    ),
    Fault(
        "sbatch answers with no number",
        "sbatch",
        '[ $count -gt 1 ] && exec "$real" "$@"\n"$real" "$@" >/dev/null; echo hello',
    ),
]
OTHERS = [
    Fault("squeue shows an unknown state", "squeue", UNKNOWN.format("(PD|CF|R|CG)"), looks=2),
    Fault("squeue shows nothing but unknown states", "squeue", UNKNOWN.format("[A-Z]+"), looks=2),
    Fault(
        "squeue fails three times",
        "squeue",
        '[ $count -gt 3 ] && exec "$real" "$@"\necho "squeue: error: Invalid user" >&2; exit 1',
        looks=3,
    ),
    Fault("squeue prints nothing", "squeue", "exit 0", looks=2, site=SOON),
    Fault(
        "scancel fails",
        "scancel",
        'echo "scancel: error: Access denied" >&2; exit 1',
        "may still be in the queue",
        site=SOON,
    ),
]


def install(bench: Bench, fault: Fault) -> None:
    """Have the runs of a sandbox find the faulty command, and take down how often they ask."""
    directory = bench.path / "bin"
    directory.mkdir()
    for name in {"squeue", "sbatch", fault.command}:
        code = fault.code if name == fault.command else 'exec "$real" "$@"'
        path = directory / name
        path.write_text(
            f"#!/bin/sh\nreal={shutil.which(name)}\necho >>{bench.path}/calls.{name}\n"
            f"count=$(wc -l <{bench.path}/calls.{name})\n{code}\n"
        )
        path.chmod(0o755)
    bench.env["PATH"] = f"{directory}:{bench.env['PATH']}"


def calls(bench: Bench, name: str) -> int:
    """Return how often a command was called."""
    path = bench.path / f"calls.{name}"
    return len(path.read_text().splitlines()) if path.exists() else 0


def begin(bench: Bench, fault: Fault) -> Running:
    """Begin a run of four steps that wait."""
    install(bench, fault)
    bench.prepare([Step(name) for name in FOUR], site=fault.site)
    bench.hold()
    return bench.drive("restart", "--id", bench.id)


def finish(bench: Bench, driver: Running, fault: Fault) -> None:
    """See the run to a good end."""
    bench.await_step(driver, *FOUR)
    wait_until(lambda: len(bench.jobs()) >= fault.pilots, "all pilots are there")
    wait_until(lambda: calls(bench, "squeue") > fault.looks, "looks at the queue", 120.0)
    bench.let_go()
    finished = driver.finish().succeeded()
    assert calls(bench, "sbatch") == fault.pilots, str(finished)
    assert fault.said in " ".join(finished.stderr.split())
    bench.assert_each_once(FOUR)
    assert_uncharged(bench)


@pytest.mark.quick
@pytest.mark.parametrize("fault", SBATCH, ids=lambda fault: fault.name)
def test_sbatch(slurm: Bench, matrix: Matrix, fault: Fault) -> None:
    """What Slurm took is known, or found and ended: each job is done once, none is charged, and no
    pilot is left.
    """
    finish(slurm, begin(slurm, fault), fault)
    matrix.check(fault.name, slurm)


@pytest.mark.long
def test_others(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """The run comes to a good end, with each job done once and none charged, in the pilots that it has,
    and none of these stays for longer than two minutes.
    """
    runs = []
    for fault in OTHERS:
        bench = make_bench(SLURM)
        runs.append((bench, begin(bench, fault), fault))
    for run in runs:
        finish(*run)
    for bench, _, fault in runs:
        bench.assert_queue_empty(120.0)
        matrix.check(fault.name, bench)
