# SPDX-License-Identifier: BSD-3-Clause
"""Failures in large graphs: each in seconds, and in bounded memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from end_to_end.support import Sandbox

from .matrix import Matrix

SIZES = Path(__file__).with_name("size_run.py")

CASES: dict[str, tuple[int, float, float]] = {
    "roots": (100_000, 30.0, 900.0),
    "chain": (100_000, 20.0, 900.0),
    "fan_in": (50_000, 15.0, 700.0),
    "fan_in_fails": (50_000, 15.0, 700.0),
    "fan_out": (50_000, 15.0, 700.0),
    "fan_out_fails": (50_000, 15.0, 900.0),
    "replay": (100_000, 25.0, 750.0),
}
"""Number of jobs, and the most that it may take: processor seconds, and MB of all of the process."""

SAID = {
    "roots": "every root of a graph of 100,000 jobs fails",
    "chain": "chain of 100,000 whose first job fails",
    "fan_in": "fan-in of 50,000",
    "fan_in_fails": "fan-in of 50,000, one of which fails",
    "fan_out": "fan-out of 50,000",
    "fan_out_fails": "fan-out of 50,000, the root of which fails",
    "replay": "replay of the journal of 100,000 jobs",
}


@pytest.mark.long
@pytest.mark.parametrize("shape", CASES)
def test_size(box: Sandbox, matrix: Matrix, shape: str) -> None:
    """A large graph comes to its end, with every job in the state that it should have, in seconds
    and in bounded memory.
    """
    count, seconds, memory = CASES[shape]
    done = box.run(sys.executable, SIZES, shape, str(count), box.path / "run", timeout=1000).succeeded()
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["right"], result
    assert result["seconds"] < 3 * seconds, result  # On a slow machine.
    assert result["peak_mb"] < memory, result
    matrix.add(SAID[shape], "threads" if result["real"] else "fake")


@pytest.mark.slow
@pytest.mark.quick
def test_chain_of_real_jobs(box: Sandbox, matrix: Matrix) -> None:
    """The first job of a chain of 20,000 fails: `bps` says so in seconds, and of a restart, too."""
    done = box.run(sys.executable, SIZES, "real_chain", "20000", box.path / "run", timeout=600).succeeded()
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["right"], result
    assert result["seconds"] < 60, result
    matrix.add("chain of 20,000 whose first job fails", "threads")
