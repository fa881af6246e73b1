# SPDX-License-Identifier: BSD-3-Clause
"""The real Parsl, on threads: what the driver expects of its backend."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from parsl.config import Config
from parsl.executors import ThreadPoolExecutor

from lsst.ctrl.bps import BpsConfig
from lsst.ctrl.bps.parsl.driver import backend
from lsst.ctrl.bps.parsl.driver.backend import ParslBackend
from lsst.ctrl.bps.parsl.driver.kernel import run_variables
from lsst.ctrl.bps.parsl.driver.sites import Sites
from lsst.ctrl.bps.parsl.driver.tasks import Task
from lsst.ctrl.bps.parsl.environment import write_environment
from lsst.ctrl.bps.parsl.node.pilot import PILOT_END
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.sites import Local
from support.plans import umask, world_writable
from support.warm import wait_until


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
        self.sites = Sites(self.site)
        self.backend = ParslBackend(self.sites, self.paths, str(directory))
        self.results: queue.SimpleQueue[tuple[Task, dict[str, Any]]] = queue.SimpleQueue()

    def start(self) -> None:
        self.backend.start(lambda task, result: self.results.put((task, result)))

    def task(self, job: int, *argv: str, executor: str | None = "local") -> Task:
        stem = f"{self.paths.logs}/{job}"
        spec = {"j": job, "a": 1, "env": {}, "cpus": 1, "memory": 0, "argv": list(argv)}
        spec |= {"stdout": f"{stem}.stdout", "stderr": f"{stem}.stderr"}
        return Task(job, 1, "l", executor, resources={}, spec=spec)

    def next_result(self) -> tuple[int, dict[str, Any]]:
        task, result = self.results.get(timeout=60)
        return task.job, result


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """Give a backend, which is closed with the test and then has left no process."""
    before = set(psutil.Process().children(recursive=True))
    setting = Setting(tmp_path)
    yield setting
    setting.backend.close()
    wait_until(lambda: set(psutil.Process().children(recursive=True)) <= before)


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


class Blocks:
    """The part of Pilots that a backend ends, with a provider that is not well."""

    fence = None

    def labels(self) -> list[str]:
        """Have one."""
        return ["blocks"]

    def stop(self) -> None:
        """Fail."""
        raise ConnectionError("qstat: server down")

    def end_all(self) -> None:
        """Fail."""
        raise ConnectionError("qdel: server down")

    def heard_from(self, label: str) -> None:
        """Take note of nothing."""


@pytest.fixture
def broken(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Setting:
    """Give a started backend whose blocks cannot be ended."""
    setting.start()
    monkeypatch.setattr(setting.backend, "_pilots", Blocks())
    return setting


def test_close_ends_each_part(broken: Setting, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a provider raises when the run ends, Parsl ends, the umask is given back, and the user
    reads a sentence.
    """
    threads = {thread.name for thread in threading.enumerate()}
    assert any(name.startswith("JobStatusPoller") for name in threads)
    broken.backend.close()
    assert caplog.text.count("server down") == 2
    assert "Traceback" not in caplog.text
    assert not any(thread.name.startswith("JobStatusPoller") for thread in threading.enumerate())
    assert logging.getLogger("parsl").propagate, "its log is closed"
    assert broken.backend._umask is None


def test_kill_gives_up_what_was_in_blocks(broken: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a provider raises when the run is stopped, its jobs are heard of as ended."""
    monkeypatch.setattr(broken.backend, "_hand_over", lambda number, task: None)
    broken.backend.submit(broken.task(1, "/bin/true", executor="blocks"))
    broken.backend.kill(0.0)
    job, result = broken.next_result()
    assert job == 1
    assert "lost" in result


def test_kill_ends_what_no_block_has_time_for(setting: Setting) -> None:
    """A job that is offered again and again is ended as those that run are, whether it was declined
    before or is after that.
    """
    setting.start()
    handed_over: list[int] = []
    setting.backend._hand_over = lambda number, task: handed_over.append(number)  # type: ignore[method-assign]
    for job in range(2):
        setting.backend.submit(setting.task(job, "/bin/true"))
    setting.backend._returned(1, {"declined": 5.0})
    setting.backend.kill(0.0)
    assert setting.next_result()[0] == 0
    setting.backend._returned(2, {"declined": 5.0})
    assert setting.next_result()[0] == 1
    setting.backend.submit(setting.task(2, "/bin/true"))
    setting.backend._returned(3, {"declined": 5.0})
    assert setting.results.empty(), "it came later"


def test_driver_inside_a_pilot(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs beside a driver that is itself a job of a pilot run as long as that lasts: there is no other
    place for them.
    """
    monkeypatch.setenv(PILOT_END, str(time.time() + 60.0))
    setting.start()
    for job, executor in enumerate(("local", None)):
        task = setting.task(job, "/bin/true", executor=executor)
        task.spec["walltime"] = 3600.0
        setting.backend.submit(task)
    results = dict(setting.next_result() for _ in range(2))
    assert [results[job].get("exit") for job in range(2)] == [0, 0]
    with run_variables(setting.paths):
        assert PILOT_END not in os.environ, "pilots on this host, too"
    assert PILOT_END in os.environ


def test_close_does_not_wait_for_the_submit_host(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job beside the driver of which nothing is heard any more does not keep a run from ending, and
    those that wait for it do not begin.
    """
    begun: list[int] = []
    begins, answer = threading.Event(), threading.Event()

    def hangs(setup: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        begun.append(spec["j"])
        begins.set()
        answer.wait()
        return {"lost": "late"}

    monkeypatch.setattr(backend, "run_job", hangs)
    setting.start()
    try:
        for job in range(2):
            setting.backend.submit(setting.task(job, "/bin/true", executor=None))
        assert begins.wait(60)
        setting.backend.close()
    finally:
        answer.set()
    assert setting.next_result()[0] == 1
    assert setting.next_result()[0] == 0
    assert begun == [0]


class Failing(ThreadPoolExecutor):
    """An executor that does not start."""

    def start(self) -> None:
        """Fail."""
        raise OSError("no such queue")


class Ending(ThreadPoolExecutor):
    """An executor that takes note of its end, which fails."""

    ended = 0

    def shutdown(self, block: bool = True) -> None:
        """Take note, and fail."""
        type(self).ended += 1
        super().shutdown(block)  # type: ignore[no-untyped-call]  # Parsl's.
        raise OSError("cannot end")


@pytest.mark.parametrize("among", ["main", "others"])
def test_executor_that_does_not_start(
    among: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where one executor does not start, what had been started is ended, whatever that raises."""
    setting = Setting(tmp_path)
    monkeypatch.setattr(Ending, "ended", 0)
    setting.sites.parsl_config()
    good, bad = Ending(label="local"), Failing(label="bad")
    config = Config(executors=[good, bad] if among == "main" else [good], run_dir=str(tmp_path / "runinfo"))
    others = [] if among == "main" else [bad]
    monkeypatch.setattr(setting.sites, "parsl_config", lambda: (config, others))
    setting.sites._site_of["bad"] = setting.site
    with pytest.raises(OSError, match="no such queue"):
        setting.start()
    assert Ending.ended == 1
    assert "cannot end" in caplog.text
    assert not any(thread.name.startswith("JobStatusPoller") for thread in threading.enumerate())
    setting.backend.close()
    assert Ending.ended == 1


def test_executor_that_does_not_end(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one executor raises at its end does not keep the others from ending."""
    setting.start()
    kernel = setting.backend._kernel
    assert kernel is not None
    ended: list[str] = []

    def fails() -> None:
        raise OSError("cannot end")

    bad: Any = SimpleNamespace(label="bad", shutdown=fails)
    kernel.executors = {"bad": bad, **kernel.executors}
    shutdown = ThreadPoolExecutor.shutdown

    def notes(self: ThreadPoolExecutor, block: bool = True) -> None:
        ended.append(self.label)
        shutdown(self, block)  # type: ignore[no-untyped-call]  # Parsl's.

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", notes)
    setting.backend.close()
    assert ended == ["local", "_parsl_internal"]


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
