# SPDX-License-Identifier: BSD-3-Clause
"""From a run on the disk to a driver that is ready to go."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lsst.ctrl.bps import BpsConfig

from ..batch.pilot_records import end_pilots
from ..environment import read_environment
from ..errors import ConfigurationError, RunStateError
from ..node.leftovers import end_leftovers
from ..node.records import RUN_VARIABLE
from ..paths import SubmitPaths
from ..plan.plan import Plan
from ..run.job_state import JobState
from ..run.journal import Journal
from ..run.liveness import RunLock
from ..run.replay import replay
from ..run.state import RunState
from .backend import ParslBackend
from .limits import Limits
from .loop import Driver
from .sites import Sites
from .tasks import TaskMaker

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
    read_environment(paths.environment)  # Not in the middle of a job.
    try:
        sites = Sites.from_config(config, plan.header.get("sites", ()))
    except ConfigurationError as exc:
        raise ConfigurationError([f"{said} (in {paths.config})" for said in exc.complaints]) from exc
    return Driver(
        state,
        Journal(paths.driver_journal, name, plan.id),
        ParslBackend(sites, paths, plan.header["cwd"], in_order=_has_priorities(plan), plan_id=plan.id),
        TaskMaker(plan, config, sites, paths),
        paths,
        lock=lock,
        retries=sites.main.settings.retries,
        most_memory=_most_memory(config, plan, sites),
        limits=Limits(sites.main.settings.concurrencyLimits),
    )


def _has_priorities(plan: Plan) -> bool:
    return any((template.fields or {}).get("priority") for template in plan.templates)


def _most_memory(config: BpsConfig, plan: Plan, sites: Sites) -> Callable[[int], float | None]:
    """Return what tells the memory in MB that a job may grow to; BPS's
    memoryLimit is the plugin's to apply.
    """

    def most_of(job: int) -> float | None:
        template = plan.template(job)
        site = sites.by_name((template.fields or {}).get("compute_site"))
        section = "finalJob" if template.final else template.label
        where = {"curr_site": site.name or "", "curr_pipetask": section, "curr_cluster": section}
        _, limit = config.search("memoryLimit", opt={"curvals": where})
        # Beside the driver a job has what the submit host has.
        most = None if template.on_submit_host else site.get_capacity()["memory"]
        return min((float(value) for value in (limit, most) if value), default=None)

    return most_of


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
