# SPDX-License-Identifier: BSD-3-Clause
"""Whatever ends or stops the driver: a restart does the rest, and nothing twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest

from cluster.engines import ENGINES, Bench, Engine
from end_to_end.support import Step, wait_until

from .matrix import Matrix

BY_NAME = {engine.name: engine for engine in ENGINES}
WIDTH = 6


def graph(layers: int) -> list[Step]:
    """Return layers of steps, each of which comes after three of the layer above."""
    return [
        Step(
            f"s{layer}x{number}",
            [f"s{layer - 1}x{(number + shift) % WIDTH}" for shift in range(3)] if layer else [],
        )
        for layer in range(layers)
        for number in range(WIDTH)
    ]


def finish(bench: Bench) -> None:
    """Let a run come to its end."""
    (bench.path / "pace").unlink(missing_ok=True)
    bench.drive("restart", "--id", bench.id).finish(240).succeeded()


FATAL = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOMENTS = {
    "threads": (5, 30, 2.0),
    "htex": (2, 12, 5.0),
    "slurm": (2, 5, 12.0),
    "slurm-work-queue": (1, 5, 12.0),
}
"""For each engine: number of runs, of signals in each, and up to when (s) one is sent."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "seed"),
    [
        pytest.param(name, seed, marks=[pytest.mark.on_cluster] if "slurm" in name else [])
        for name, (runs, _, _) in MOMENTS.items()
        for seed in range(runs)
    ],
)
def test_signals_at_random_moments(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str, seed: int
) -> None:
    """The driver gets signals at random moments, as soon as it is started again, too."""
    bench = make_bench(BY_NAME[name])
    drawn = random.Random(f"{name} {seed}")
    _, count, latest = MOMENTS[name]
    bench.prepare(graph(12))
    (bench.path / "pace").write_text("0.2")
    tried = 0
    for _ in range(count):
        number = drawn.choice(FATAL)
        driver = bench.drive("restart", "--id", bench.id)
        end = time.monotonic() + drawn.uniform(0.0, latest)
        wait_until(lambda end=end, driver=driver: time.monotonic() > end or driver.poll() is not None, "time")
        if driver.poll() is None:
            driver.signal(number)
            tried += 1
        code = driver.finish(60).code
        assert code != 70, driver.stderr
        if code == 0:
            break
    else:
        finish(bench)
    matrix.check("driver gets SIGKILL, SIGTERM, SIGINT or SIGHUP at a random moment", bench, tries=tried)
