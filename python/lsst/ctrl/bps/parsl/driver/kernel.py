# SPDX-License-Identifier: BSD-3-Clause
"""Starting Parsl, with what is the driver's switched off, and ending it."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor

from ..errors import NoWorkersError
from ..node.pilot import PILOT_END
from ..node.records import RUN_VARIABLE
from ..paths import SubmitPaths
from .ending import Step, end_all_of

__all__ = ["end_kernel", "run_variables", "start_kernel"]

_LOG = logging.getLogger(__name__)

ANSWER_SECONDS = 30.0
"""Time that Parsl's interchange may take to answer."""

_ENVIRON_LOCK = threading.Lock()

CLEANUP_SECONDS = 90.0
"""Time that Parsl may take to end."""


def start_kernel(config: Config, others: list[ParslExecutor], paths: SubmitPaths) -> DataFlowKernel:
    """Start Parsl.

    Parameters
    ----------
    config : `parsl.config.Config`
        Its configuration; it is changed.
    others : `list` [`parsl.executors.base.ParslExecutor`]
        Executors beside those of the configuration.
    paths : `SubmitPaths`
        Where the run is.

    Returns
    -------
    kernel : `parsl.dataflow.dflow.DataFlowKernel`
        Parsl.
    """
    _switch_off(config)
    with run_variables(paths), _without_main():
        try:
            kernel = _Kernel(config)
            kernel.add_executors(others)
        except queue.Empty:
            raise NoWorkersError(
                f"Parsl's manager process for Work Queue did not start. See {config.run_dir}/parsl.log"
            ) from None
    for executor in kernel.executors.values():
        if isinstance(executor, HighThroughputExecutor):
            # An interchange that is dead or stopped would be waited for without end.
            client = executor.command_client
            client.run = partial(client.run, timeout_s=ANSWER_SECONDS)  # type: ignore[method-assign]
    return kernel


class _Kernel(DataFlowKernel):
    """Parsl, which ends all of its parts."""

    def add_executors(self, executors: Sequence[ParslExecutor]) -> None:
        """Start executors; where one does not start, end all there are."""
        try:
            super().add_executors(executors)
        except BaseException:
            _wait_for(self._end_parts)
            raise

    def cleanup(self) -> None:
        """End, whatever executors raise."""
        # Parsl would end their blocks now, which has been done.
        self.job_status_poller._executors.clear()
        for executor in self.executors.values():
            end = partial(end_all_of, (f"Ending Parsl's executor {executor.label}", executor.shutdown))
            executor.shutdown = end  # type: ignore[method-assign]
        super().cleanup()

    def _end_parts(self) -> None:
        """End what was started so far."""
        self.job_status_poller._executors.clear()
        steps: list[Step] = [("Ending Parsl's look at blocks", self.job_status_poller.close)]
        steps += [(f"Ending Parsl's executor {one.label}", one.shutdown) for one in self.executors.values()]
        if self.monitoring:
            steps.append(("Ending Parsl's monitoring", self.monitoring.close))
        if hasattr(self, "_task_launch_pool"):
            steps.append(("Ending Parsl's launches", self._task_launch_pool.shutdown))
        atexit.unregister(self.atexit_cleanup)
        end_all_of(*steps)


def end_kernel(kernel: DataFlowKernel) -> None:
    """End Parsl; do not wait for those of its threads that wait for nothing.

    Parameters
    ----------
    kernel : `parsl.dataflow.dflow.DataFlowKernel`
        Parsl.
    """
    _wait_for(kernel.cleanup)
    atexit.unregister(kernel.atexit_cleanup)


def _wait_for(end: Callable[[], None]) -> None:
    """Let something of Parsl's end, for some time."""
    step = ("Ending Parsl", end)
    thread = threading.Thread(target=end_all_of, args=(step,), name="parsl-cleanup", daemon=True)
    thread.start()
    thread.join(CLEANUP_SECONDS)
    if thread.is_alive():
        _LOG.warning("Parsl does not end within %.0f seconds; it is left to itself.", CLEANUP_SECONDS)


@contextmanager
def run_variables(paths: SubmitPaths) -> Iterator[None]:
    """Give the processes that are started the environment variables of this run.

    By them a restart finds these processes, should this one be killed. That
    this process may be a job of a pilot is nothing to pilots of its own:
    beside it, they have no other place than that.

    Parameters
    ----------
    paths : `SubmitPaths`
        Where the run is.
    """
    with _ENVIRON_LOCK:
        before = {name: os.environ.pop(name, None) for name in (RUN_VARIABLE, PILOT_END)}
        os.environ[RUN_VARIABLE] = str(paths.submit_path)
        try:
            yield
        finally:
            del os.environ[RUN_VARIABLE]
            os.environ.update({name: value for name, value in before.items() if value is not None})


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep Parsl's processes from running the user's script once more.

    `multiprocessing` imports the main module in each process that it spawns,
    and a script of a few lines has no ``if __name__ == "__main__"``.
    """
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        main.__spec__ = None
        main.__dict__.pop("__file__", None)
        yield
    finally:
        main.__dict__.update(hidden)


def _switch_off(config: Config) -> None:
    """Leave to the driver what is the driver's, whatever a site class says."""
    config.retries = 0
    config.retry_handler = None
    config.initialize_logging = False
    config.usage_tracking = 0
    config.garbage_collect = True
    config.strategy = "none"
    config.strategy_period = 1.0
