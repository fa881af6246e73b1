# SPDX-License-Identifier: BSD-3-Clause
"""From a run on the disk to a driver that is ready to go."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lsst.ctrl.bps import BpsConfig

from ..batch.pilot_records import end_pilots
from ..environment import read_environment
from ..errors import RunStateError
from ..node.leftovers import end_leftovers
from ..node.records import RUN_VARIABLE
from ..paths import SubmitPaths
from ..plan.plan import Plan
from ..run.job_state import JobState
from ..run.journal import Journal
from ..run.liveness import RunLock
from ..run.replay import replay
from ..run.state import RunState
from .limits import Limits
from .loop import Driver
from .supplies import RunSupplies
from .take_up_payload import look_for_payload

__all__ = ["make_driver", "stopping_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def make_driver(name: str, config: BpsConfig, paths: SubmitPaths, lock: RunLock) -> Driver:
    """Make the driver of a run, after what an earlier one left is ended.

    Parameters
    ----------
    name : `str`
        Name of the run.
    config : `lsst.ctrl.bps.BpsConfig`
        Its configuration.
    paths : `SubmitPaths`
        Where it is.
    lock : `RunLock`
        Its lock, which is held.

    Returns
    -------
    driver : `Driver`
        The driver.

    Raises
    ------
    RunStateError
        Raised if there is nothing to do, or no place to do it.
    """
    plan = Plan(paths.plan)
    end_leftovers(RUN_VARIABLE, str(paths.submit_path))
    end_pilots(paths.pilots)
    state = replay(plan, paths)
    _check_startable(name, plan, state)
    look_for_payload(state)
    read_environment(paths.environment)  # Not in the middle of a job.
    supplies = RunSupplies(plan, config, paths)
    return Driver(
        state,
        Journal(paths.driver_journal, name, plan.id),
        supplies.backend(),
        supplies.maker(),
        paths,
        lock=lock,
        retries=supplies.sites.main.settings.retries,
        most_memory=supplies.most_memory,
        limits=Limits(supplies.sites.main.settings.concurrencyLimits),
        supplies=supplies,
    )


def _check_startable(name: str, plan: Plan, state: RunState) -> None:
    if state.finished == JobState.SUCCEEDED.name:
        raise RunStateError(
            f"All jobs of run {name} have succeeded; there is nothing to do. See: bps report --id {name}"
        )
    if not os.path.isdir(plan.header["cwd"]):
        raise RunStateError(
            f"The directory in which {name} was prepared is gone, and its jobs run in it: "
            f"{plan.header['cwd']}. Make it again, then repeat the command."
        )


@contextmanager
def stopping_on_signals(driver: Driver) -> Iterator[None]:
    """Have a driver stop cleanly on Ctrl-C and its kin.

    Parameters
    ----------
    driver : `Driver`
        The driver.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        driver.stop(signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        if before[number] != signal.SIG_IGN:  # nohup ignores SIGHUP, and so do we.
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
