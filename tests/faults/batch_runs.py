# SPDX-License-Identifier: BSD-3-Clause
"""Runs whose quantum graph is built in a job (``bpsBatchSubmission``), held in each of their phases.

All jobs but the two that BPS adds are steps, which have the names of the jobs.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.engines import Bench
from end_to_end.support import Finished, Running, events_of_kind, job_names, wait_until
from end_to_end.test_pipeline import submit_path_of
from lsst.ctrl.bps import BpsConfig, GenericWorkflow
from lsst.ctrl.bps.parsl import ParslService, ParslWorkflow
from lsst.ctrl.bps.parsl.paths import SubmitPaths

BUILD, PREPARE, FINAL = "buildQuantumGraph", "preparePayloadWorkflow", "finalJob"
JOBS = 8
"""The two, and those of a pipeline of two tasks for one detector and two filters."""


class Service(ParslService):  # type: ignore[misc]  # Its base is BPS's, which has no types.
    """Runs a command of the configuration's when a payload is written, before it is added to its run."""

    def prepare(
        self, config: BpsConfig, generic_workflow: GenericWorkflow, out_prefix: str | None = None
    ) -> ParslWorkflow:
        """Do so; where the command fails, this process ends as it did."""
        workflow = super().prepare(config, generic_workflow, out_prefix)
        if workflow.paths.unattached_payloads() and not workflow.paths.payload.exists():
            code = subprocess.run(shlex.split(str(config["whenWritten"]))).returncode
            if code:
                sys.exit(code)
        return workflow


@dataclass(frozen=True)
class Phase:
    """A phase of such a run, in which one job runs."""

    said: str
    """When it is, for the table."""

    step: str
    """What is held; where it is empty, one of the added jobs."""

    is_added: bool
    """Whether the other jobs have been added to the run."""

    def __str__(self) -> str:
        return self.step or "added"


BUILDING = Phase("while the graph is built", "building", False)
WRITTEN = Phase("in prepare, before the jobs are added", "written", False)
ADDED = Phase("when the jobs are added, before that job ends", PREPARE, True)
AMONG = Phase("among the added jobs", "", True)
PHASES = (BUILDING, WRITTEN, ADDED, AMONG)


class BatchRun:
    """A run with batch submission.

    Parameters
    ----------
    bench : `Bench`
        Where it runs, with a repository.
    before, after : `str`, optional
        What precedes and follows ``bps batch-prepare``, as shell code.
    when_written : `str`, optional
        What is run in it between write and add; a step by default.
    site, isr, prepare : `dict`, optional
        Settings of the site, of a task and of the job that adds the others.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        before: str = "",
        after: str = "",
        when_written: str = "",
        site: Mapping[str, Any] | None = None,
        isr: Mapping[str, Any] | None = None,
        prepare: Mapping[str, Any] | None = None,
    ) -> None:
        self.bench = bench
        self.held = ""
        """The step that waits."""
        self._config = bench.tinycam()
        content = yaml.safe_load(self._config.read_text())
        step = bench.step
        build = f"bps batch-acquire {{configFile}} --save-qgraph {{qgraphFile}} && {step} {BUILD}"
        add = f"{before} bps batch-prepare {{configFile}} -g {{qgraphFile}} {after} && {step} {PREPARE}"
        content |= {
            "wmsServiceClass": f"{__name__}.{Service.__name__}",
            "bpsBatchSubmission": True,
            "whenWritten": when_written or f"{step} {WRITTEN.step}",
            "runQuantumCommand": f"{step} {{jobName}}",
            "pipetask": {
                "pipetaskInit": {"runQuantumCommand": f"{step} pipetaskInit"},
                "isr": dict(isr or {}),
            },
            BUILD: {"requestMemory": 1024, "jobCommand": f"{step} {BUILDING.step} && {build}"},
            PREPARE: {"requestMemory": 1024, "jobCommand": add, **(prepare or {})},
        }
        content["finalJob"]["command1"] = f"{step} {FINAL}"
        content["site"]["here"] |= site or {}
        self._config.write_text(yaml.safe_dump(content))

    def submit(self) -> Finished:
        """Have it come to an end, whichever."""
        ended = self.bench.drive("submit", self._config).finish(240)
        self.path = submit_path_of(ended.stdout)
        return ended

    def hold_in(self, phase: Phase) -> Running:
        """Begin, and return when the run is in a phase, and stays in it."""
        bench = self.bench
        self.held = phase.step or PREPARE
        bench.hold(self.held)
        self.driver = bench.drive("submit", self._config)
        bench.await_step(self.driver, self.held, deadline=240.0)
        self.path = submit_path_of(self.driver.stdout)
        if not phase.step:
            self.held = next(name for name in job_names(self.path) if "_isr_" in name)
            bench.hold(self.held)
            bench.let_go(PREPARE)
            bench.await_step(self.driver, self.held, deadline=240.0)
        assert SubmitPaths(self.path).payload.exists() == phase.is_added
        return self.driver

    def await_again(self, driver: Running) -> None:
        """Wait until what is held begins a second time, in another attempt."""

        def again() -> bool:
            assert driver.poll() is None, f"it ended: {driver.finish()}"
            return self.bench.steps("begin").count(self.held) == 2

        wait_until(again, f"{self.held} begins again", 200.0)

    def let_go(self) -> None:
        """Have what is held wait no more."""
        self.bench.let_go(self.held)

    def restart(self) -> Finished:
        """Have it come to its good end."""
        return self.bench.drive("restart", "--id", self.path).finish(240).succeeded()

    def assert_all_done(self, finals: int = 1) -> None:
        """Check that each job has come to its end once, the final one so often."""
        names = job_names(self.path)
        assert len(names) == JOBS
        ended = Counter(self.bench.steps("end"))
        assert {name: ended[name] for name in names} == {**dict.fromkeys(names, 1), FINAL: finals}
        assert events_of_kind(self.path, "finish")[-1]["state"] == "SUCCEEDED"
