# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's commands answer late, with an error, with nothing, or with what nobody knows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.engines import Bench
from end_to_end.support import Step, wait_until

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

    looks: int = 2
    """Looks at the queue while the steps wait."""

    site: dict[str, Any] = field(default_factory=dict)
    pilots: int = 1
    """Number of batch jobs that are submitted."""

    def __str__(self) -> str:
        return self.name


SOON = {"cmd_timeout": 5}
UNKNOWN = """"$real" "$@" | sed -E 's/^([0-9]+)[|]{}[|]/\\1|ZZ|/'"""
LATE = 'setsid -f sh -c \'sleep 7; exec "$0" "$@"\' "$real" "$@" >/dev/null 2>&1 </dev/null'

SBATCH = [
    Fault("sbatch answers after its time-out", "sbatch", '"$real" "$@"; exec sleep 60', site=SOON),
    Fault(
        "sbatch submits after its time-out",
        "sbatch",
        f'[ $count -gt 1 ] && exec "$real" "$@"\n{LATE}\nexec sleep 60',
        "did not answer",
        site=SOON,
        pilots=2,
    ),
    Fault(
        "sbatch answers with no number",
        "sbatch",
        '"$real" "$@" >/dev/null; [ $count -gt 1 ] || echo hello',
        "did not say the number",
        pilots=2,
    ),
]
OTHERS = [
    Fault("squeue shows an unknown state", "squeue", UNKNOWN.format("(PD|CF|R|CG)")),
    Fault("squeue shows nothing but unknown states", "squeue", UNKNOWN.format("[A-Z]+")),
    Fault(
        "squeue fails three times",
        "squeue",
        '[ $count -gt 3 ] && exec "$real" "$@"\necho "squeue: error: Invalid user" >&2; exit 1',
        looks=4,
    ),
    Fault("squeue prints nothing", "squeue", "exit 0", pilots=0),
    Fault(
        "scancel fails",
        "scancel",
        'echo "scancel: error: Access denied" >&2; exit 1',
        "may still be in the queue",
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


@pytest.mark.parametrize("fault", [*SBATCH, *OTHERS], ids=str)
def test_command(slurm: Bench, matrix: Matrix, fault: Fault) -> None:
    """The run comes to a good end, with each job done once and none charged, and no pilot stays
    for longer than two minutes.
    """
    install(slurm, fault)
    slurm.prepare([Step(name) for name in FOUR], site=fault.site)
    slurm.hold()
    driver = slurm.drive("restart", "--id", slurm.id)
    slurm.await_step(driver, *FOUR)
    wait_until(lambda: len(slurm.jobs()) >= fault.pilots, "all pilots are there")
    already = calls(slurm, "squeue")
    wait_until(lambda: calls(slurm, "squeue") >= already + fault.looks, "looks at the queue", 120.0)
    assert not fault.pilots or len(slurm.jobs()) == fault.pilots
    slurm.let_go()
    finished = driver.finish(120).succeeded()
    assert fault.said in " ".join(finished.stderr.split())
    slurm.assert_each_once(FOUR)
    assert_uncharged(slurm)
    slurm.assert_queue_empty(120.0)
    matrix.area = "slurm"
    matrix.check(fault.name, slurm)
