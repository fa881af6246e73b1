# SPDX-License-Identifier: BSD-3-Clause
"""Run a workflow of jobs that do nothing, with whatever plugin is installed.

It uses only what this plugin and the released one have in common, and prints
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import tempfile
import time

from any_plugin import prepare
from lsst.ctrl.bps import GenericWorkflow, GenericWorkflowExec, GenericWorkflowJob

LAYER = 100
PARENTS = 10


def build(shape: str, count: int) -> GenericWorkflow:
    """Build a workflow of ``/bin/true`` with a number for an argument.

    Parameters
    ----------
    shape : `str`
        ``flat`` (no job waits), ``chain`` (each waits for the one before) or
        ``layers`` (each waits for ten of the hundred before).
    count : `int`
        Number of jobs.

    Returns
    -------
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        The workflow.
    """
    workflow = GenericWorkflow(f"noop_{shape}")
    executable = GenericWorkflowExec("true", "/bin/true", False)
    for number in range(count):
        label = f"layer{number // LAYER % 20}" if shape == "layers" else shape
        job = GenericWorkflowJob(f"{shape}_{number}", label, executable=executable, arguments=str(number))
        job.request_cpus, job.request_memory = 1, 2048
        workflow.add_job(job)
        if shape == "chain" and number:
            workflow.add_edge(f"{shape}_{number - 1}", f"{shape}_{number}")
        if shape == "layers" and number >= LAYER:
            above = (number // LAYER - 1) * LAYER
            for step in range(PARENTS):
                workflow.add_edge(f"{shape}_{above + (number + step) % LAYER}", f"{shape}_{number}")
    return workflow


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=["flat", "chain", "layers"])
    parser.add_argument("count", type=int)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    workflow = build(arguments.shape, arguments.count)
    with tempfile.TemporaryDirectory() as directory:
        begun = time.perf_counter()
        service, prepared = prepare(workflow, directory, {"cores": arguments.cores})
        ready = time.perf_counter()
        memory_before = resident_mb()
        service.submit(prepared)
        ended = time.perf_counter()
        result = {
            "shape": arguments.shape,
            "jobs": arguments.count,
            "prepare_seconds": round(ready - begun, 3),
            "jobs_per_second": round(arguments.count / (ended - ready), 1),
            "memory_before_mb": memory_before,
            "memory_after_mb": resident_mb(),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        os.chdir("/")
    print(json.dumps(result))


def resident_mb() -> int:
    """Return this process's resident memory in MB."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() >> 20


if __name__ == "__main__":
    main()
