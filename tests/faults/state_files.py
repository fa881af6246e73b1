# SPDX-License-Identifier: BSD-3-Clause
"""A run whose driver was killed, whose files are damaged one by one, and what has to hold of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from end_to_end.conftest import shared_box  # noqa: F401  # a fixture
from end_to_end.support import Sandbox, Step, wait_until
from lsst.ctrl.bps.parsl import ParslWorkflow
from lsst.ctrl.bps.parsl.driver.session import make_driver
from lsst.ctrl.bps.parsl.errors import ParslBpsError, RunHeldError
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.report.view import RunView, run_report
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.liveness import RunLock
from lsst.ctrl.bps.parsl.run.replay import replay
from lsst.ctrl.bps.parsl.run.state import RunState

from .checker import Findings, Record
from .matrix import Matrix

OWN = ("plan", "driver_journal", "node", "lock", "cancel_request", "pilots", "config", "environment", "entry")
"""Files of a run, by the names that `Run.file` knows."""

TRUSTED = ("plan", "driver_journal", "node")
"""Those of which every byte is checked."""

NUMBERED = ("plan", "driver_journal", "node", "environment", "entry")
"""Those that begin with a format."""


@dataclass(frozen=True)
class Run:
    """A run whose driver was killed, and what nodes saw succeed of it."""

    box: Sandbox
    paths: SubmitPaths
    succeeded: frozenset[int]
    content: dict[Path, bytes]

    def file(self, name: str) -> Path:
        """Return the path of one of its files."""
        if name == "node":
            # The one with the most in it.
            return max(self.paths.node_journals(), key=lambda path: path.stat().st_size)
        if name == "entry":
            (path,) = self.box.state.glob(f"{self.paths.submit_path.name}@*.json")
            return path
        path = getattr(self.paths, name)
        assert isinstance(path, Path)
        return path

    @contextmanager
    def damaged(self, name: str) -> Iterator[Path]:
        """Have a file to damage, and put all as it was afterwards."""
        path = self.file(name)
        try:
            with self.box.as_process():
                yield path
        finally:
            remove(path)
            for one, content in self.content.items():
                if not one.is_file() or one.read_bytes() != content:
                    one.write_bytes(content)
            os.utime(self.paths.lock, (0, 0))


def remove(path: Path) -> None:
    """Remove whatever there is."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def files(*directories: Path) -> dict[Path, bytes]:
    """Return what is in all files of some directories."""
    found = (path for directory in directories for path in directory.rglob("*"))
    return {path: path.read_bytes() for path in found if path.is_file()}


def make_run(box: Sandbox, name: str, killed: bool) -> Run:
    """Have a driver killed twice in the third of four jobs, or come to the end."""
    names = [f"{name}.{number}" for number in range(4)]
    steps = [Step(one, names[max(0, number - 1) : number]) for number, one in enumerate(names)]
    box.prepare(steps, name)
    paths = SubmitPaths(box.submit_path.with_name(name))
    if killed:
        kill_in(box, name, names[2])
    else:
        box.bps("restart", "--id", name).succeeded()
    paths.cancel_request.write_bytes(paths.lock.read_bytes())
    paths.pilots.write_bytes(b'{"scheduler": "none", "name": "pilot"}\n' * 2)
    record = Record.read(paths.submit_path)
    assert record.succeeded == ({0, 1} if killed else {0, 1, 2, 3})
    os.utime(paths.lock, (0, 0))
    return Run(box, paths, frozenset(record.succeeded), files(paths.directory, box.state))


def kill_in(box: Sandbox, name: str, step: str) -> None:
    """Kill two drivers of a run in one of its jobs."""
    box.hold(step)
    for count in (1, 2):
        driver = box.fork("restart", "--id", name)
        wait_until(lambda: box.steps("begin").count(step) == count, "the job begins")  # noqa: B023
        driver.kill()
        box.assert_nothing_runs()
    box.let_go(step)


def successes(state: RunState) -> set[int]:
    """Return the jobs that count as done."""
    return {job for job, value in enumerate(state.states) if value == JobState.SUCCEEDED}


def report(run: Run) -> RunState:
    """Report on the run as ``bps report`` does."""
    view = RunView(run.paths)
    assert sum(run_report(view, usage=True).job_state_counts.values()) == len(view.plan)
    return view.state


def restart(run: Run) -> RunState:
    """Come as far as a driver that would hand out jobs next."""
    workflow = ParslWorkflow.read(run.paths.submit_path)
    lock = RunLock(run.paths.lock, workflow.name)
    lock.acquire()
    try:
        driver = make_driver(workflow.name, workflow.config, run.paths, lock)
        driver._journal.close()
    finally:
        lock.release()
    return driver.state


def look(run: Run) -> RunState:
    """Read only what tells the state."""
    return replay(Plan(run.paths.plan), run.paths)


Look = Callable[[Run], RunState]


def bear(run: Run, path: Path, what: str, *looks: Look, may_lose: frozenset[int] = frozenset()) -> list[str]:
    """Return what did not hold of a run with a damaged file; nothing where all did.

    What nodes saw succeed has succeeded, and nothing else; or a sentence
    names the file, which is kept.
    """
    wrong = []
    for one in looks:
        before = path.read_bytes() if path.is_file() else None
        try:
            state = one(run)
        except RunHeldError:
            if path != run.paths.lock:
                wrong.append(f"{what}: {one.__name__}: the run is held")
        except ParslBpsError as exc:
            if str(path) not in exc.message:
                wrong.append(f"{what}: {one.__name__}: not named in {exc.message!r}")
            if before is not None and path.read_bytes() != before:
                wrong.append(f"{what}: {one.__name__}: complained and not kept")
        except Exception as exc:
            wrong.append(f"{what}: {one.__name__}: {exc!r}")
        else:
            found = successes(state)
            if not run.succeeded - may_lose <= found <= run.succeeded:
                wrong.append(f"{what}: {one.__name__}: succeeded {found}, nodes say {set(run.succeeded)}")
    return wrong


def take_down(matrix: Matrix, fault: str, wrong: list[str], tries: int) -> None:
    """Take down what did not hold."""
    assert tries
    matrix.add(fault, "all", Findings(broken=wrong[:20]), tries)
