# SPDX-License-Identifier: BSD-3-Clause
"""The quantum graph is built and prepared in jobs (``bpsBatchSubmission``), on every engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from end_to_end.support import assert_done_once, events_of_kind, job_names, report_counts, wait_until
from end_to_end.test_pipeline import run_id_of, submit_path_of
from end_to_end.tinycam.repo import contents
from end_to_end.tinycam.tasks import executed
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from support.releases import needs_batch_submission

from .engines import ENGINES, SLURM, Bench, Engine

OUTPUT = "u/tester/tiny"
CONTROL = ("buildQuantumGraph", "preparePayloadWorkflow")
COMMANDS = {
    "buildQuantumGraph": "batch-acquire {configFile} --save-qgraph {qgraphFile}",
    "preparePayloadWorkflow": "batch-prepare {configFile} -g {qgraphFile}",
}
pytestmark = needs_batch_submission


def _engine(engine: Engine) -> Any:
    """Leave out those that this Python cannot have: Debian's module is for one version."""
    is_missing = "WorkQueue" in engine.site["class"] and find_spec("_work_queue") is None
    return pytest.param(engine, marks=pytest.mark.skipif(is_missing, reason="there is no Work Queue"))


def batch(bench: Bench) -> Path:
    """Write a configuration whose two jobs say where they run, and wait where a test holds them."""
    path = bench.tinycam()
    content = yaml.safe_load(path.read_text())
    content["bpsBatchSubmission"] = True
    for label, command in COMMANDS.items():
        steps = f"{bench.step} {label} && bps --long-log {command} && {bench.step} after-{label}"
        content[label] = {"requestMemory": 1024, "jobCommand": steps}
    path.write_text(yaml.safe_dump(content))
    return path


def check_result(bench: Bench, submit_path: Path, in_flight: tuple[str, ...] = ()) -> None:
    """Check that all is done once, and that nothing is left."""
    bench.assert_queue_empty()
    bench.assert_nothing_runs()
    found = contents(bench.path / "repo", OUTPUT)
    assert {str(value) for value in found["flat"].values()} == {str({"value": value}) for value in (0, 200)}
    assert len(found["total"]) == 2
    assert Counter(executed(bench.path)) == Counter(["isr g 0", "isr r 0", "combine g", "combine r"])
    assert_done_once(submit_path, in_flight)
    assert len(job_names(submit_path)) == 8


@pytest.mark.parametrize("engine", [_engine(engine) for engine in ENGINES], ids=str)
def test_whole_run(
    engine: Engine, make_bench: Callable[[Engine], Bench], with_repo: Callable[[Bench], Bench]
) -> None:
    """The two jobs run where the others do, in one run: a report has all of them."""
    bench = with_repo(make_bench(engine))
    finished = bench.drive("submit", batch(bench)).finish().succeeded()
    submit_path, run_id = submit_path_of(finished.stdout), run_id_of(finished.stdout)
    check_result(bench, submit_path)
    assert len(events_of_kind(submit_path, "session")) == 1
    if engine == SLURM:
        assert "none" not in {job for _, job, _ in bench.where()}, "in a block"
    report = bench.bps("report", "--id", run_id).succeeded().stdout
    assert report_counts(report, "TOTAL") == {"SUCCEEDED": 8, "EXPECTED": 8}
    for label in CONTROL:
        assert report_counts(report, label) == {"SUCCEEDED": 1, "EXPECTED": 1}


@pytest.mark.parametrize("moment", [CONTROL[0], CONTROL[1], f"after-{CONTROL[1]}"])
def test_killed(
    moment: str, make_bench: Callable[[Engine], Bench], with_repo: Callable[[Bench], Bench]
) -> None:
    """Killed while a block runs one of the two jobs: a restart ends that block, and does the rest once."""
    bench = with_repo(make_bench(SLURM))
    bench.hold(moment)
    driver = bench.drive("submit", batch(bench))
    bench.await_step(driver, moment)
    submit_path = submit_path_of(driver.stdout)
    assert SubmitPaths(submit_path).payload.exists() == moment.startswith("after")
    driver.kill()
    bench.let_go(moment)
    bench.drive("restart", "--id", submit_path).finish().succeeded()
    check_result(bench, submit_path, (moment.removeprefix("after-"),))
    assert not bench.steps("overlap")


def test_cancelled(make_bench: Callable[[Engine], Bench], with_repo: Callable[[Bench], Bench]) -> None:
    """Cancelled while the graph is built: nothing stays in the queue; a restart does it all."""
    bench = with_repo(make_bench(SLURM))
    bench.hold(CONTROL[0])
    driver = bench.drive("submit", batch(bench))
    bench.await_step(driver, CONTROL[0])
    submit_path = submit_path_of(driver.stdout)
    bench.bps("cancel", "--id", submit_path).succeeded()
    driver.finish().complained("was cancelled")
    bench.assert_queue_empty()
    wait_until(lambda: not bench.processes(), "nothing runs")
    bench.let_go(CONTROL[0])
    bench.drive("restart", "--id", submit_path).finish().succeeded()
    check_result(bench, submit_path, CONTROL)
