# SPDX-License-Identifier: BSD-3-Clause
"""A real pipeline: what the Butler has is what the report says, whatever was killed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.engines import Bench, Engine
from end_to_end.support import Running, node_events, wait_until
from end_to_end.tinycam.repo import contents

from .checker import Findings, Record, examine
from .engines import BY_NAME
from .matrix import Matrix

OUTPUT = "u/tester/tiny"
DETECTORS = 6
WARM = "bps_parsl_node.fork_server import"


def submitted(bench: Bench, driver: Running) -> Path:
    """Wait for the submit directory of a pipeline, and for its first quantum."""

    def begun() -> list[Path]:
        assert driver.poll() is None, driver.finish()
        plans = list((bench.path / "submit").rglob("parsl/plan.jsonl"))
        return [plan for plan in plans if isr(node_events(plan.parents[1], "end"))]

    wait_until(begun, "a quantum has succeeded", 300.0)
    return begun()[0].parents[1]


def isr(names: object) -> list[str]:
    """Return the quanta of the first task among some jobs."""
    return [name for name in names if "_isr_" in name]  # type: ignore[attr-defined]


def victim(bench: Bench, driver: Running, what: str) -> psutil.Process:
    """Return the process to be killed."""
    if what == "driver":
        return psutil.Process(driver.pid)
    found = bench.processes(WARM if what == "fork server" else "node.runner")
    return min(found, key=began)


def began(process: psutil.Process) -> float:
    """Return when a process began; of one that has just ended, never."""
    with suppress(psutil.Error):
        return float(process.create_time())
    return float("inf")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("threads", marks=pytest.mark.quick),
        "htex",
        pytest.param("slurm", marks=pytest.mark.on_cluster),
    ],
)
@pytest.mark.parametrize("what", ["driver", "fork server", "runner"])
def test_pipeline(
    make_bench: Callable[[Engine], Bench],
    with_repo: Callable[[Bench], Bench],
    matrix: Matrix,
    name: str,
    what: str,
) -> None:
    """A process is killed in the middle of a pipeline: in the end, with a restart where it was the
    driver, each dataset is there once, as many as jobs that nodes saw succeed and that the report
    counts, and no quantum that had succeeded ran again.
    """
    bench = with_repo(make_bench(BY_NAME[name]))
    driver = bench.drive("submit", bench.tinycam(DETECTORS))
    path = submitted(bench, driver)
    victim(bench, driver, what).kill()
    code = driver.finish().code
    if code or what == "driver":
        bench.drive("restart", "--id", path).finish().succeeded()
    found = contents(bench.path / "repo", OUTPUT)
    record = Record.read(path)
    succeeded = [record.names[job] for job in record.succeeded]
    findings = examine(bench, submit_path=path)
    if not len(isr(succeeded)) == len(found["flat"]) == 2 * DETECTORS:
        findings += Findings(lost=[f"{len(isr(succeeded))} quanta succeeded; the Butler has {found['flat']}"])
    matrix.add(f"{what} killed in a pipeline, Butler compared", name, findings)
