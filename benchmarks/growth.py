# SPDX-License-Identifier: BSD-3-Clause
"""How what the driver and the reports do grows with a run.

``growth.py`` prints the time for a tenth of each size and for the whole of it:
what is linear takes ten times as long, what is quadratic a hundred times. No
job is run: batch system and nodes are stood in for, files are real.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lsst.ctrl.bps.parsl import ParslService
from lsst.ctrl.bps.parsl.driver.limits import Limits
from lsst.ctrl.bps.parsl.driver.loop import Driver
from lsst.ctrl.bps.parsl.driver.node_tail import NodeTail
from lsst.ctrl.bps.parsl.driver.tasks import Task
from lsst.ctrl.bps.parsl.node.journal import encode_event, encode_line
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan, write_plan
from lsst.ctrl.bps.parsl.report.view import RunView, run_report
from lsst.ctrl.bps.parsl.run.cancel_request import ask_to_cancel
from lsst.ctrl.bps.parsl.run.holder import Holder
from lsst.ctrl.bps.parsl.run.journal import Journal
from lsst.ctrl.bps.parsl.run.registry import VARIABLE, register_run
from lsst.ctrl.bps.parsl.run.replay import replay
from lsst.ctrl.bps.parsl.run.state import RunState
from measuring import print_table

WINDOW = 1000
MEASURED = {"exit": 0, "start": 1.0, "end": 2.0, "memory": 100, "cpu": 0.5}


def make_run(path: Path, jobs: int, limit: str = "") -> tuple[Plan, SubmitPaths]:
    """Write the plan of a run whose jobs wait for nothing but a limit."""
    paths = SubmitPaths(path)
    paths.create()
    header = {
        "run": path.name,
        "workflow": path.name,
        "attributes": {},
        "labels": [],
        "cwd": "/",
        "files": {},
    }
    fields = {"concurrency_limit": limit} if limit else {}
    template: dict[str, Any] = {
        "label": "isr",
        "kind": "payload",
        "final": False,
        "blocking": True,
        "fields": fields,
    }
    write_plan(
        paths.plan,
        {**header, "log_template": "{label}"},
        ((f"isr_{number}", template, [], {}, {}) for number in range(jobs)),
    )
    return Plan(paths.plan), paths


class Nodes:
    """A backend whose jobs end at once: they succeed, are lost at first, or stay until they are killed."""

    window = WINDOW

    def __init__(self, paths: SubmitPaths, *, lose: bool = False, stay: bool = False) -> None:
        self._lose, self._stay = lose, stay
        self._tasks: list[Task] = []
        self._journal = Journal(paths.journals / "node-here-0.jsonl", "")

    def start(self, completed: Callable[[Task, dict[str, Any]], None]) -> None:
        """Begin."""
        self._completed = completed

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._tasks.append(task)
        if not self._stay:
            self._end()

    def kill(self, grace: float) -> None:
        """End what there is."""
        self._end()

    def _end(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            event = {"e": "end", "j": task.job, "a": task.attempt, "t": 2.0}
            lost = self._lose and task.attempt == 1
            self._journal.append({**event, **MEASURED, "exit": int(lost)})
            self._completed(task, {"lost": "its worker went away"} if lost else dict(MEASURED))

    def stop_waiting(self) -> None:
        """Wait for nothing, as ever."""

    close = stop_waiting

    def check(self) -> list[str]:
        """Find nothing wrong."""
        return []


class Maker:
    """Makes tasks of which only the numbers count."""

    def make(self, index: int, attempt: int, memory: int | None) -> Task:
        """Make a task."""
        return Task(index, attempt, "isr", "here", resources={}, spec={"stderr": "/dev/null"})


def drive(directory: Path, jobs: int, limit: str = "", *, cancel: bool = False, lose: bool = False) -> float:
    """Drive a run to its end."""
    plan, paths = make_run(directory, jobs, limit)
    nodes = Nodes(paths, lose=lose, stay=cancel)
    journal = Journal(paths.driver_journal, plan.run)
    driver = Driver(RunState(plan), journal, nodes, Maker(), paths, limits=Limits({"db": 4}))
    if cancel:
        ask_to_cancel(paths.cancel_request, Holder.this_process())
    begun = time.perf_counter()
    driver.run()
    return time.perf_counter() - begun


def under_a_limit(directory: Path, size: int) -> float:
    """Jobs of which four may run at once."""
    return drive(directory, size, "db")


def free(directory: Path, size: int) -> float:
    """Jobs without a limit."""
    return drive(directory, size)


def lost(directory: Path, size: int) -> float:
    """Jobs whose first attempt is lost: each time the nodes' journals are asked."""
    return drive(directory, size, lose=True)


def cancelled(directory: Path, size: int) -> float:
    """Jobs that are cancelled."""
    return drive(directory, size, cancel=True)


def reported(directory: Path, size: int) -> float:
    """A run that nodes and driver recorded, and that was cancelled: replay and usage."""
    plan, paths = make_run(directory, size)
    driver = Journal(paths.driver_journal, plan.run)
    driver.append({"e": "session", "t": 1.0, "n": 1, "host": "here", "pid": 1})
    for job in range(size):
        driver.append({"e": "pending", "t": 1.0, "j": [job]})
    driver.append({"e": "cancel", "t": 1.0})
    driver.append({"e": "finish", "t": 1.0, "state": "DELETED"})
    with (paths.journals / "node-here-0.jsonl").open("wb") as stream:
        stream.write(encode_line({"format": 1, "kind": "node"}))
        for job in range(size):
            stream.write(encode_event("start", {"j": job, "a": 1}, 1.0, pid=1))
            stream.write(encode_event("end", {"j": job, "a": 1}, 2.0, **MEASURED))
    begun = time.perf_counter()
    run_report(RunView(paths), usage=True)
    seconds = time.perf_counter() - begun
    assert len(replay(plan, paths).recovered) == size
    return seconds


def registry(directory: Path, size: int) -> float:
    """``bps report`` on all of a user's runs."""
    os.environ[VARIABLE] = str(directory / "registry")
    for number in range(size):
        _, paths = make_run(directory / f"u_me_{number}", 1)
        register_run(f"u_me_{number}", paths.submit_path)
    begun = time.perf_counter()
    reports, _ = ParslService.__new__(ParslService).report(hist=30)
    assert len(reports) == size
    return time.perf_counter() - begun


def journals(directory: Path, size: int, *, fresh: bool = False) -> float:
    """A look at the nodes' journals, of which one has grown."""
    paths = SubmitPaths(directory)
    paths.create()
    files = [paths.journals / f"node-h{number}-0.jsonl" for number in range(size)]
    for path in files:
        path.write_bytes(encode_line({"format": 1, "kind": "node"}))
    tail = NodeTail(paths)
    tail.expect(1, 1)
    with files[0].open("ab") as stream:
        stream.write(encode_event("start", {"j": 1, "a": 1}, 1.0, pid=1))
    begun = time.perf_counter()
    assert len(list(tail.read(fresh=fresh))) == 1
    return time.perf_counter() - begun


def all_journals(directory: Path, size: int) -> float:
    """The same where a job was lost, and each file is opened."""
    return journals(directory, size, fresh=True)


CASES: list[tuple[str, Callable[[Path, int], float], int, str]] = [
    ("driver: jobs without a limit", free, 100_000, "jobs"),
    ("driver: jobs, 4 of them at once", under_a_limit, 100_000, "jobs"),
    ("driver: jobs that are lost once", lost, 100_000, "jobs"),
    ("driver: jobs that are cancelled", cancelled, 100_000, "jobs"),
    ("bps report --id: a cancelled run", reported, 100_000, "jobs"),
    ("bps report: all runs", registry, 300, "runs"),
    ("driver: a look at the journals", journals, 500, "nodes"),
    ("driver: the same for a lost job", all_journals, 500, "nodes"),
]


def main() -> None:
    """Measure, and print a table."""
    logging.disable()  # Each lost job is said.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", type=float, default=1.0, help="part of the sizes to try (default: all)")
    part = parser.parse_args().part
    rows = []
    for name, measure, most, unit in CASES:
        sizes = [max(1, int(most * part / 10)), max(10, int(most * part))]
        seconds = []
        for size in sizes:
            with tempfile.TemporaryDirectory() as directory:
                seconds.append(measure(Path(directory) / "u_me_x", size))
        tenth, whole = seconds
        rows.append([name, f"{sizes[1]} {unit}", *map(in_words, seconds), f"{whole / tenth:.1f}"])
    print_table("Growth", ["what", "size", "a tenth of it", "all of it", "ratio"], rows)


def in_words(seconds: float) -> str:
    """Show a time."""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


if __name__ == "__main__":
    main()
