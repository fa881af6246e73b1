# SPDX-License-Identifier: BSD-3-Clause
"""The real Parsl, on threads: what the driver expects of its backend."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lsst.ctrl.bps import BpsConfig
from lsst.ctrl.bps.parsl.driver.backend import ParslBackend
from lsst.ctrl.bps.parsl.driver.sites import Sites
from lsst.ctrl.bps.parsl.driver.tasks import Task
from lsst.ctrl.bps.parsl.environment import write_environment
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.sites import Local
from support.plans import umask, world_writable


class Setting:
    """A backend and what it takes."""

    def __init__(self, directory: Path, **config: Any) -> None:
        self.paths = SubmitPaths(directory / "run")
        self.paths.create()
        write_environment(self.paths.environment, {"PATH": os.environ["PATH"]})
        self.config = BpsConfig(
            {
                "submitPath": str(self.paths.submit_path),
                "computeSite": "here",
                "site": {"here": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2}},
                **config,
            }
        )
        self.site = Local(self.config)
        self.backend = ParslBackend(Sites(self.site), self.paths, str(directory))
        self.results: queue.SimpleQueue[tuple[Task, dict[str, Any]]] = queue.SimpleQueue()

    def start(self) -> None:
        self.backend.start(lambda task, result: self.results.put((task, result)))

    def task(self, job: int, *argv: str, executor: str | None = "local") -> Task:
        stem = f"{self.paths.logs}/{job}"
        spec = {"j": job, "a": 1, "env": {}, "cpus": 1, "memory": 0, "argv": list(argv)}
        spec |= {"stdout": f"{stem}.stdout", "stderr": f"{stem}.stderr"}
        return Task(job, 1, "l", executor, resources={}, spec=spec)

    def next_result(self) -> tuple[int, dict[str, Any]]:
        task, result = self.results.get(timeout=30)
        return task.job, result


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """Give a backend, which is closed with the test and then has left no process."""
    before = set(psutil.Process().children(recursive=True))
    setting = Setting(tmp_path)
    yield setting
    setting.backend.close()
    assert set(psutil.Process().children(recursive=True)) <= before


def test_each_task_has_its_result(setting: Setting) -> None:
    """Tasks of executors and of the submit host end with what the runner says, each once."""
    setting.start()
    for job in range(20):
        executor = "local" if job % 2 else None
        setting.backend.submit(setting.task(job, "/bin/bash", "-c", f"exit {job}", executor=executor))
    results = [setting.next_result() for _ in range(20)]
    assert {job: result["exit"] for job, result in results} == {job: job for job in range(20)}
    assert setting.results.empty()


def test_window_leaves_no_thread_idle(setting: Setting) -> None:
    """The window is larger than the number of threads, and does not grow with the run."""
    setting.start()
    assert 2 < setting.backend.window < 1000


def test_kill_ends_what_was_submitted_and_nothing_later(setting: Setting) -> None:
    """What runs, what waits in Parsl and what waits for room end; a task that comes later runs."""
    setting.start()
    for job in range(10):
        setting.backend.submit(setting.task(job, "/bin/sleep", "100"))
    setting.backend.kill(20.0)
    results = dict(setting.next_result() for _ in range(10))
    assert all("lost" in result or result["exit"] == 143 for result in results.values())
    setting.backend.submit(setting.task(10, "/bin/true"))
    assert setting.next_result()[1]["exit"] == 0


def test_close_ends_what_runs(setting: Setting) -> None:
    """A backend that is closed while tasks run ends them."""
    setting.start()
    for job in range(2):
        setting.backend.submit(setting.task(job, "/bin/sleep", "100"))
    setting.backend.kill(0.0)
    setting.backend.close()
    assert setting.results.qsize() == 2
    setting.backend.close()


def test_close_of_a_backend_that_was_not_started(setting: Setting) -> None:
    """A run that ends before Parsl begins closes all the same."""
    setting.backend.close()


def test_parsl_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Parsl raises at its start reaches the driver, and the backend can be closed."""
    setting = Setting(tmp_path)
    monkeypatch.setattr(Local, "get_executors", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        setting.start()
    setting.backend.close()


def test_parsls_log_is_in_the_run_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Parsl's log goes to its file; the terminal gets what matters; afterwards logging is as it was."""
    logger = logging.getLogger("parsl")
    before = (logger.level, logger.propagate, list(logger.handlers))
    setting = Setting(tmp_path)
    setting.start()
    try:
        logging.getLogger("parsl.test").info("an info")
        logging.getLogger("parsl.test").warning("a warning")
        setting.backend.submit(setting.task(0, "/bin/true"))
        setting.next_result()
    finally:
        setting.backend.close()
    log = Path(setting.site.get_parsl_config().run_dir, "parsl.log").read_text()
    assert "an info" in log
    assert "a warning" in log
    assert "DEBUG" not in log
    assert [record.getMessage() for record in caplog.records if record.name.startswith("parsl")] == [
        "a warning"
    ]
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_log_level_of_the_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``parsl.log_level`` is from where on the terminal gets Parsl's log."""
    setting = Setting(tmp_path, parsl={"log_level": "ERROR"})
    setting.start()
    try:
        logging.getLogger("parsl.test").warning("a warning")
        logging.getLogger("parsl.test").error("an error")
    finally:
        setting.backend.close()
    assert [record.getMessage() for record in caplog.records if record.name == "parsl.test"] == ["an error"]


def test_nothing_of_parsl_can_be_written_by_others(tmp_path: Path) -> None:
    """Parsl's directory and log are closed to others under umask 000, and the umask is given back."""
    with umask(0):
        setting = Setting(tmp_path)
        setting.start()
        setting.backend.submit(setting.task(0, "/bin/bash", "-c", "umask"))
        setting.next_result()
        setting.backend.close()
        assert os.umask(0) == 0
    assert world_writable(setting.paths.submit_path) == []
    assert (setting.paths.logs / "0.stdout").read_text() == "0000\n"
