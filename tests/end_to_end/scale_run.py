# SPDX-License-Identifier: BSD-3-Clause
"""Prepare and run many jobs that do nothing, in a process of its own.

``scale_run.py SHAPE COUNT DIRECTORY [--run]`` prints one
JSON line with times (s) and memory (MB).
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import threading
import time
from pathlib import Path

from lsst.ctrl.bps import BpsConfig, GenericWorkflow, GenericWorkflowExec, GenericWorkflowJob
from lsst.ctrl.bps.parsl import ParslService

LAYER = 100
PARENTS = 10


def build(shape: str, count: int) -> GenericWorkflow:
    """Build a ``chain``, or ``layers`` of which each job has ten parents."""
    workflow = GenericWorkflow(shape)
    executable = GenericWorkflowExec("true", "/bin/true", False)
    for number in range(count):
        job = GenericWorkflowJob(f"job_{number}", f"label{number // LAYER % 20}", executable=executable)
        job.arguments, job.request_cpus, job.request_memory = str(number), 1, 2048
        workflow.add_job(job)
        if shape == "chain" and number:
            workflow.add_edge(f"job_{number - 1}", f"job_{number}")
        if shape == "layers" and number >= LAYER:
            above = (number // LAYER - 1) * LAYER
            for step in range(PARENTS):
                workflow.add_edge(f"job_{above + (number + step) % LAYER}", f"job_{number}")
    return workflow


def resident_mb() -> float:
    """Return this process's resident memory."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / 2**20


def peak_mb() -> float:
    """Return the most that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(shape: str, count: int, directory: Path, go: bool) -> None:
    """Do it and print what it took."""
    logging.basicConfig(level=logging.WARNING)
    os.chdir(directory)
    submit_path = directory / "submit" / "run"
    config = BpsConfig(
        {
            "computeSite": "local",
            "site": {"local": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2}},
            "submitPath": str(submit_path),
            "subDirTemplate": "{label}",
            "uniqProcName": "run",
            "operator": "tester",
            "project": "tests",
            "campaign": "",
        }
    )
    service = ParslService(config)
    workflow = build(shape, count)
    begun = time.process_time()
    run = service.prepare(config, workflow, str(submit_path))
    result = {"prepare_seconds": time.process_time() - begun, "prepare_peak_mb": peak_mb()}
    del workflow
    if go:
        # Once it is going: Parsl is loaded, and a hundred jobs have ended.
        journal = submit_path / "parsl" / "journal" / "driver.jsonl"
        early: list[float] = []

        def look() -> None:
            while not early:
                if journal.exists() and journal.stat().st_size > 20_000:
                    early.append(resident_mb())
                time.sleep(0.01)

        thread = threading.Thread(target=look)
        thread.start()
        begun = time.monotonic()
        run.run()
        result["run_seconds"] = time.monotonic() - begun
        result["end_mb"] = resident_mb()
        thread.join()
        result["begin_mb"] = early[0]
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), "--run" in sys.argv)
