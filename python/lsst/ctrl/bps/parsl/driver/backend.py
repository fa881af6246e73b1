# SPDX-License-Identifier: BSD-3-Clause
"""Between the driver and Parsl.

Parsl is given jobs that are ready, never one that waits for another, and none
of its own retries, memory of results, or debugging log.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor as HostPool
from contextlib import contextmanager
from typing import Any, Protocol

from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel

from ..configuration import parsl_log_level
from ..errors import ConfigurationError
from ..files import make_directory, open_append
from ..node.client import forget_client, kill_jobs, run_job
from ..site import SiteConfig
from .tasks import Task

__all__ = ["Backend", "Completed", "ParslBackend"]

Completed = Callable[[Task, dict[str, Any]], None]
"""What is called, in any thread, with the result of each task."""

_CHATTY = ("parsl.dataflow.dflow", "parsl.dataflow.memoization", "parsl.process_loggers")
"""Loggers of Parsl that write several lines for each job."""


class Backend(Protocol):
    """Where the driver's tasks go."""

    window: int
    """Number of tasks to have there at most."""

    def start(self, completed: Completed) -> None:
        """Begin."""

    def submit(self, task: Task) -> None:
        """Take a task; ``completed`` is called with its result."""

    def kill(self, grace: float) -> None:
        """End what runs: SIGTERM, and SIGKILL after ``grace`` seconds."""

    def close(self) -> None:
        """End, and leave nothing behind."""


class ParslBackend:
    """Runs tasks on Parsl's executors, and some on the submit host.

    Parameters
    ----------
    site : `SiteConfig`
        Where jobs run.
    setup : `dict`
        As for `~lsst.ctrl.bps.parsl.node.client.RunnerClient`.
    """

    def __init__(self, site: SiteConfig, setup: dict[str, Any]) -> None:
        self._site = site
        self._setup = setup
        self._kernel: DataFlowKernel | None = None
        self._host_pool: HostPool | None = None
        self._log: ParslLog | None = None
        self._completed: Completed = _nobody
        self._submitted = 0
        self.window = 1000

    def start(self, completed: Completed) -> None:
        """Start Parsl.

        Parameters
        ----------
        completed : `Completed`
            What to call with each result.
        """
        self._completed = completed
        config = self._site.get_parsl_config()
        _switch_off(config)
        make_directory(os.path.abspath(config.run_dir))
        self._log = ParslLog(os.path.join(config.run_dir, "parsl.log"), parsl_log_level(self._site.config))
        with _umask_without_writing_by_others():
            self._kernel = DataFlowKernel(config)
        self._host_pool = HostPool(1, thread_name_prefix="submit-host")
        threads = [getattr(executor, "max_threads", None) for executor in config.executors]
        if all(threads):
            # Enough that no thread waits for the driver.
            self.window = sum(4 * count + 16 for count in threads if count)

    def submit(self, task: Task) -> None:
        """Give a task to its executor.

        Parameters
        ----------
        task : `Task`
            The task.
        """
        assert self._kernel is not None, "it was not started"
        assert self._host_pool is not None
        future: Future[dict[str, Any]]
        self._submitted += 1
        task.spec["n"] = self._submitted
        if task.executor is None:
            future = self._host_pool.submit(run_job, self._setup, task.spec)
        else:
            if task.executor not in self._kernel.executors:
                known = ", ".join(executor.label for executor in self._kernel.config.executors)
                raise ConfigurationError(
                    f"{type(self._site).__name__}.select_executor returned {task.executor!r} for a job of "
                    f"{task.label}; the site's executors are: {known}."
                )
            keywords = {"parsl_resource_specification": task.resources} if task.resources else {}
            future = self._kernel.submit(
                run_job,
                app_args=(self._setup, task.spec),
                executors=[task.executor],
                cache=False,
                ignore_for_cache=None,
                app_kwargs=keywords,
            )
        future.add_done_callback(lambda done: self._completed(task, _result(done)))

    def kill(self, grace: float) -> None:
        """End what was submitted so far, also what Parsl has not begun.

        Parameters
        ----------
        grace : `float`
            Seconds from SIGTERM to SIGKILL.
        """
        kill_jobs(self._setup, grace, self._submitted)

    def close(self) -> None:
        """End Parsl and this host's runner."""
        if self._host_pool is not None:
            self._host_pool.shutdown()
        if self._kernel is not None:
            self._kernel.cleanup()
            self._kernel = None
        client = forget_client(self._setup["submit_path"])
        if client is not None:
            client.close()
        if self._log is not None:
            self._log.close()


def _nobody(task: Task, result: dict[str, Any]) -> None:
    raise RuntimeError("the backend was not started")


def _result(future: Future[dict[str, Any]]) -> dict[str, Any]:
    if future.cancelled():
        return {"lost": "it was taken back"}
    error = future.exception()
    if error is None:
        return future.result()
    return {"lost": f"{type(error).__name__}: {error}"}


@contextmanager
def _umask_without_writing_by_others() -> Iterator[None]:
    """Parsl makes its directories by the umask alone."""
    before = os.umask(0o077)
    os.umask(before | 0o022)
    try:
        yield
    finally:
        os.umask(before)


def _switch_off(config: Config) -> None:
    """Leave to the driver what is the driver's, whatever a site class says."""
    config.retries = 0
    config.retry_handler = None
    config.initialize_logging = False
    config.usage_tracking = 0
    config.garbage_collect = True


class ParslLog:
    """Parsl's log: a file, and the terminal for what matters.

    Parameters
    ----------
    path : `str`
        The file; it gets what is at INFO and above.
    level : `int`
        Level from which on the terminal gets it as well.
    """

    def __init__(self, path: str, level: int) -> None:
        self._logger = logging.getLogger("parsl")
        self._before = (self._logger.level, self._logger.propagate)
        os.close(open_append(path))
        self._file = logging.FileHandler(path, delay=True)
        self._file.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
        self._terminal = _ToRoot(level)
        self._logger.setLevel(min(level, logging.INFO))
        self._file.setLevel(logging.INFO)
        self._logger.propagate = False
        for handler in (self._file, self._terminal):
            self._logger.addHandler(handler)
        self._chatty_before = [(name, logging.getLogger(name).level) for name in _CHATTY]
        if level > logging.INFO:
            for name in _CHATTY:
                logging.getLogger(name).setLevel(level)

    def close(self) -> None:
        """Leave logging as it was."""
        for handler in (self._file, self._terminal):
            self._logger.removeHandler(handler)
        self._file.close()
        level, propagate = self._before
        self._logger.setLevel(level)
        self._logger.propagate = propagate
        for name, before in self._chatty_before:
            logging.getLogger(name).setLevel(before)


class _ToRoot(logging.Handler):
    """Hands records on to the handlers of the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)
