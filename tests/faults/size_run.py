# SPDX-License-Identifier: BSD-3-Clause
"""Drive a large graph in which something fails, in a process of its own.

``size_run.py SHAPE COUNT DIRECTORY`` prints one JSON line: processor time
(s), peak memory (MB), whether real jobs ran, and whether all went right.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from end_to_end.scale_run import peak_mb
from lsst.ctrl.bps import BpsConfig, GenericWorkflow, GenericWorkflowExec, GenericWorkflowJob
from lsst.ctrl.bps.parsl import ParslService
from lsst.ctrl.bps.parsl.driver.loop import Driver
from lsst.ctrl.bps.parsl.driver.tasks import Task
from lsst.ctrl.bps.parsl.errors import RunFailedError
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.report.view import RunView, failure_lines, run_report
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.journal import Journal
from lsst.ctrl.bps.parsl.run.replay import replay
from lsst.ctrl.bps.parsl.run.state import RunState
from support.fake import FakeBackend, FakeMaker, Outcome, fails
from support.plans import PlanLine, make_plan, plan_line

WINDOW = 1000


class Many(FakeBackend):
    """The fake without those of its own checks that look at all jobs each time."""

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._tasks.append(task)


def edges(shape: str, count: int) -> Iterator[list[int]]:
    """Yield the parents of each job."""
    if shape.endswith("chain"):
        yield from ([number - 1] if number else [] for number in range(count))
    elif shape.startswith("fan_in"):
        yield from ([] for _ in range(count))
        yield list(range(count))
    elif shape.startswith("fan_out"):
        yield []
        yield from ([0] for _ in range(count))
    else:  # Half are roots, and each of the others comes after two of them.
        half = count // 2
        yield from ([] for _ in range(half))
        yield from (sorted({number, (number + 1) % half}) for number in range(half))


def failing(shape: str, count: int) -> range:
    """Return the jobs that are to fail."""
    if shape == "roots":
        return range(count // 2)
    if shape == "fan_in_fails":
        return range(count // 2, count // 2 + 1)
    return range(1) if shape in ("chain", "real_chain", "fan_out_fails") else range(0)


def expected(shape: str, count: int) -> dict[str, int]:
    """Return how many jobs are to end in which state."""
    numbers = {
        "roots": {"FAILED": count // 2, "PRUNED": count // 2},
        "fan_in": {"SUCCEEDED": count + 1},
        "fan_in_fails": {"SUCCEEDED": count - 1, "FAILED": 1, "PRUNED": 1},
        "fan_out": {"SUCCEEDED": count + 1},
        "fan_out_fails": {"FAILED": 1, "PRUNED": count},
        "replay": {"SUCCEEDED": count},
    }
    return numbers.get(shape, {"FAILED": 1, "PRUNED": count - 1})


def counts(state: RunState) -> dict[str, int]:
    """Count jobs by state."""
    return dict(Counter(JobState(value).name for value in state.states))


def look(paths: SubmitPaths) -> dict[str, int]:
    """Read a run as reports do."""
    view = RunView(paths)
    run_report(view, exit_codes=True, usage=True)
    assert len(failure_lines(view)) < 200, "an excerpt"
    return counts(view.state)


def drive(plan: Plan, paths: SubmitPaths, script: dict[int, Outcome]) -> RunState:
    """Drive a run with the fake backend, from what is on the disk."""
    state = replay(plan, paths)
    backend = Many(state, script, 1, WINDOW)
    driver = Driver(state, Journal(paths.driver_journal, plan.run), backend, FakeMaker(), paths)
    driver.listen(backend)
    return driver.run()


def run_fake(shape: str, count: int, directory: Path) -> tuple[bool, float]:
    """Run it with the fake, look at it, and run what failed again."""
    lines: list[PlanLine] = [plan_line(str(n), above) for n, above in enumerate(edges(shape, count))]
    plan, paths = make_plan(directory, lines)
    begun = time.process_time()
    script = dict.fromkeys(failing(shape, count), fails(1))
    right = counts(drive(plan, paths, script)) == expected(shape, count) == look(paths)
    if script:
        right = right and counts(drive(plan, paths, {})) == {"SUCCEEDED": len(lines)} == look(paths)
    return right, time.process_time() - begun


def run_replay(count: int, directory: Path) -> tuple[bool, float]:
    """Replay journals in which every job succeeded once and failed before, and no end was heard of."""
    plan, paths = make_plan(directory, [plan_line(str(n)) for n in range(count)])
    journal = Journal(paths.driver_journal, plan.run)
    node = Journal(paths.journals / "node-here-1.jsonl", plan.run)
    journal.append({"e": "session", "t": 1.0, "n": 1, "host": "here", "pid": 1})
    for job in range(count):
        fail = {"e": "fail", "t": 3.0, "j": job, "exit": 1, "why": "exit code 1", "retry": True}
        journal.append({"e": "pending", "t": 2.0, "j": [job]})
        journal.append({**fail, "charged": True, "lost": False})
        journal.append({"e": "pending", "t": 4.0, "j": [job]})
        for attempt in (1, 2):
            measured = {"exit": 2 - attempt, "signal": 0, "start": 4.0, "end": 5.0, "memory": 100, "cpu": 1.0}
            node.append({"e": "start", "j": job, "a": attempt, "t": 4.0, "pid": 77})
            node.append({"e": "end", "j": job, "a": attempt, "t": 5.0, **measured})
    journal.close()
    node.close()
    begun = time.process_time()
    right = counts(replay(plan, paths)) == expected("replay", count)
    right = right and counts(drive(plan, paths, {})) == expected("replay", count) == look(paths)
    return right, time.process_time() - begun


def run_real(shape: str, count: int, directory: Path) -> tuple[bool, float]:
    """Run it with `bps`'s own parts: one job fails, and nothing else begins."""
    workflow = GenericWorkflow(shape)
    for number, above in enumerate(edges(shape, count)):
        job = GenericWorkflowJob(f"j{number}", f"label{min(number, 1)}")
        job.executable = GenericWorkflowExec("false", "/bin/false", False)
        job.arguments, job.request_cpus, job.request_memory = "", 1, 512
        job.number_of_retries = 0
        workflow.add_job(job)
        for parent in above:
            workflow.add_edge(f"j{parent}", f"j{number}")
    config = BpsConfig(
        {
            "computeSite": "local",
            "site": {"local": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2}},
            "submitPath": str(directory),
            "subDirTemplate": "{label}",
            "uniqProcName": "run",
            "operator": "tester",
            "project": "tests",
            "campaign": "",
        }
    )
    run = ParslService(config).prepare(config, workflow, str(directory))
    del workflow
    begun = time.process_time()
    right = True
    for _ in range(2):
        try:
            run.run()
            right = False
        except RunFailedError as exc:
            right = right and "1 job of run failed" in str(exc)
        right = right and look(SubmitPaths(directory)) == expected(shape, count)
    return right, time.process_time() - begun


def main(shape: str, count: int, directory: Path) -> None:
    """Do it and print what it took."""
    logging.basicConfig(level=logging.CRITICAL)
    directory.parent.mkdir(parents=True, exist_ok=True)
    os.chdir(directory.parent)
    real = shape in ("chain", "real_chain", "fan_out_fails")
    if shape == "replay":
        right, seconds = run_replay(count, directory)
    else:
        right, seconds = (run_real if real else run_fake)(shape, count, directory)
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "real": real, "right": right}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
