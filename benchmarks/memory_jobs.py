# SPDX-License-Identifier: BSD-3-Clause
"""Run jobs that use much memory, with whatever plugin is installed.

``memory_jobs.py JOBS DIRECTORY SITE``: the number of jobs, the directory of the
run and the settings of the site ``Local`` as JSON. Each job asks for 1, 2 or
4 GB, touches nearly all of that and keeps it for a while.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from pathlib import Path

from any_plugin import prepare
from lsst.ctrl.bps import GenericWorkflow, GenericWorkflowExec, GenericWorkflowJob

SIZES = (1, 2, 4)
"""GB, each of a third of the jobs."""

HOLD = """\
import mmap, os, sys, time
def record(kind):
    fd = os.open("{directory}/records.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(fd, f"{{kind}} {{sys.argv[1]}} {{time.time()}} {{os.getpid()}}\\n".encode())
    os.close(fd)
begun = time.monotonic()
record("start")
# The interpreter has a part of what the job asks for, too.
size = int(float(sys.argv[2]) * 2**30) - 16 * 2**20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)  # It is there sooner.
for page in range(0, size, 4096):
    memory[page] = 1
time.sleep(max(0.0, begun + float(sys.argv[3]) - time.monotonic()))
record("end")
"""


def requests(count: int) -> list[tuple[str, int, float]]:
    """Return name, memory (GB) and time (s) of each job, in an order that is random but always the same."""
    chance = random.Random(1)
    sizes = [SIZES[number % len(SIZES)] for number in range(count)]
    chance.shuffle(sizes)
    return [(f"hold_{number}", size, round(chance.uniform(1.0, 2.0), 2)) for number, size in enumerate(sizes)]


def build(count: int, directory: Path) -> GenericWorkflow:
    """Build the workflow, and write the script of its jobs."""
    script = directory / "hold.py"
    script.write_text(HOLD.format(directory=directory))
    workflow = GenericWorkflow("memory")
    executable = GenericWorkflowExec("python", sys.executable, False)
    for name, size, seconds in requests(count):
        job = GenericWorkflowJob(name, f"gb{size}", executable=executable)
        job.arguments = f"-I -S {script} {name} {size} {seconds}"
        job.request_cpus, job.request_memory = 1, 1024 * size
        workflow.add_job(job)
    return workflow


def main() -> None:
    """Run the workflow."""
    logging.basicConfig(level=logging.WARNING)
    directory = Path(sys.argv[2])
    service, prepared = prepare(build(int(sys.argv[1]), directory), str(directory), json.loads(sys.argv[3]))
    service.submit(prepared)


if __name__ == "__main__":
    main()
