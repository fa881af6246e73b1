# SPDX-License-Identifier: BSD-3-Clause
"""Starting Parsl, with what is the driver's switched off, and ending it."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor

from ..errors import NoWorkersError
from ..node.records import RUN_VARIABLE
from ..paths import SubmitPaths

__all__ = ["end_kernel", "marked", "start_kernel"]

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
    with marked(paths), _without_main():
        try:
            kernel = DataFlowKernel(config)
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


def end_kernel(kernel: DataFlowKernel) -> None:
    """End Parsl; do not wait for those of its threads that wait for nothing.

    Parameters
    ----------
    kernel : `parsl.dataflow.dflow.DataFlowKernel`
        Parsl.
    """
    thread = threading.Thread(target=kernel.cleanup, name="parsl-cleanup", daemon=True)
    thread.start()
    thread.join(CLEANUP_SECONDS)
    if thread.is_alive():
        atexit.unregister(kernel.atexit_cleanup)
        _LOG.warning("Parsl does not end within %.0f seconds; it is left to itself.", CLEANUP_SECONDS)


@contextmanager
def marked(paths: SubmitPaths) -> Iterator[None]:
    """Have a restart find the processes that are started, should this one be killed.

    Parameters
    ----------
    paths : `SubmitPaths`
        Where the run is.
    """
    with _ENVIRON_LOCK:
        before = os.environ.get(RUN_VARIABLE)
        os.environ[RUN_VARIABLE] = str(paths.submit_path)
        try:
            yield
        finally:
            if before is None:
                del os.environ[RUN_VARIABLE]
            else:
                os.environ[RUN_VARIABLE] = before


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
