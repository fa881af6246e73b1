# SPDX-License-Identifier: BSD-3-Clause
"""Between the driver and Parsl.

Parsl is given jobs that are ready, never one that waits for another, and none
of its own retries, memory of results, or debugging log.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor as HostPool
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.executors.base import ParslExecutor
from parsl.executors.high_throughput.errors import ManagerLost

from ..configuration import parsl_log_level
from ..files import make_directory, storage_errors
from ..node.client import forget_clients, kill_jobs, run_job
from ..node.setup import NodeSetup
from ..paths import SubmitPaths
from ..site import SiteConfig
from .blocks import Demand
from .ending import Step, end_all_of
from .functions import command_ending_with_driver, function_here, function_on_worker, worker_setup
from .kernel import end_kernel, run_variables, start_kernel
from .local_provider import check_path, watch_local_pilots
from .parsl_log import ParslLog
from .pilots import Pilots
from .sites import Sites
from .tasks import Completed, Task, node_setup
from .umask import close_umask, restore_umask

__all__ = ["ParslBackend"]

_LOG = logging.getLogger(__name__)

MOST_WINDOW = 20_000
"""Number of tasks that Parsl has at most."""

DECLINED_SECONDS = 5.0
"""Time until a job is offered again that a block had no time for."""


class ParslBackend:
    """Runs tasks on Parsl's executors, and some on the submit host.

    Parameters
    ----------
    sites : `Sites`
        Where jobs run.
    paths : `SubmitPaths`
        Where things are.
    cwd : `str`
        Directory in which jobs run.
    in_order : `bool`, optional
        Whether the order matters in which jobs are submitted. Threads take
        them in that order; so none waits there that a later one should pass.
    plan_id : `str`, optional
        Identity of the plan, for the nodes' records.
    """

    def __init__(
        self, sites: Sites, paths: SubmitPaths, cwd: str, *, in_order: bool = False, plan_id: str = ""
    ) -> None:
        self._plan_id = plan_id
        self._in_order = in_order
        self._sites = sites
        self._paths = paths
        self._cwd = cwd
        self._kernel: DataFlowKernel | None = None
        self._host_pool: HostPool | None = None
        self._log: ParslLog | None = None
        self._completed: Completed = _nobody
        self._pilots: Pilots | None = None
        self._setups: dict[str | None, NodeSetup] = {}
        self._sent: dict[str, dict[str, Any]] = {}
        self._here: set[str | None] = {None}
        self._low_first: set[str] = set()
        self._monitored = False
        self._umask: int | None = None
        self._blocks_ended = False
        self._run_dir = ""
        self._submitted = 0
        self._killed = 0
        self._lock = threading.Lock()
        self._flying: dict[int, Task] = {}
        self._declined: dict[int, float] = {}
        self._failure: Exception | None = None
        self._notes: set[str] = set()
        self.window = 1000

    def start(self, completed: Completed) -> None:
        """Start Parsl.

        Parameters
        ----------
        completed : `Completed`
            What to call with each result.
        """
        self._completed = completed
        self._umask = close_umask()
        self._host_pool = HostPool(1, thread_name_prefix="submit-host")
        self._start_parsl()

    def _start_parsl(self) -> None:
        config, others = self._sites.parsl_config()
        executors = [*config.executors, *others]
        self._run_dir = os.path.abspath(config.run_dir)
        with storage_errors(config.run_dir, "make the directory of Parsl's files"):
            # Work Queue's functions name the jobs' environments.
            make_directory(self._run_dir, 0o700)
        self._monitored = config.monitoring is not None
        if self._log is None:
            path = os.path.join(config.run_dir, "parsl.log")
            self._log = ParslLog(path, parsl_log_level(self._sites.config))
        self._prepare_executors(executors)
        self._pilots = Pilots(
            executors,
            self._demand,
            self._idle_seconds,
            self._fail,
            in_run=lambda: run_variables(self._paths),
        )
        self._kernel = start_kernel(config, others, self._paths)
        self._blocks_ended = False
        self._pilots.start()
        threads = [getattr(executor, "max_threads", None) for executor in executors]
        if all(threads):
            # Enough that no thread waits for the driver.
            more = 0 if self._in_order else 1
            self.window = sum(count + more * (3 * count + 16) for count in threads if count)
        else:
            self.window = max(self.window, min(MOST_WINDOW, 2 * self._pilots.capacity()))

    def _prepare_executors(self, executors: list[ParslExecutor]) -> None:
        self._setups[None] = self._setup_for(self._sites.main, "submit host")
        for executor in executors:
            site = self._sites.site_of_executor(executor.label)
            setup = replace(self._setup_for(site, site.name or ""), monitored=self._monitored)
            if isinstance(executor, ThreadPoolExecutor):
                self._here.add(executor.label)
                capacity = site.get_capacity()
                cpus = capacity["cpus"]
                if self._in_order and cpus is not None:
                    # Of more threads than run jobs, either may be heard first.
                    executor.max_threads = min(executor.max_threads or 1, int(cpus))
                setup = replace(setup, cpus=cpus, memory=capacity["memory"])
                self._setups[executor.label] = setup
                if site is self._sites.main:
                    # The jobs that run here beside the others share its runner.
                    self._setups[None] = setup
                continue
            self._sent[executor.label] = asdict(worker_setup(setup, site, executor))
            check_path(executor, self._run_dir)
            watch_local_pilots(getattr(executor, "provider", None))
            if isinstance(executor, HighThroughputExecutor):
                self._low_first.add(executor.label)
                executor.interchange_launch_cmd = command_ending_with_driver(
                    self._paths, executor.interchange_launch_cmd
                )

    def _setup_for(self, site: SiteConfig, name: str) -> NodeSetup:
        return replace(
            node_setup(self._paths, self._cwd, name),
            umask=self._umask,
            plan=self._plan_id,
            warm=site.settings.warmStart,
            enforce=site.settings.enforceMemory,
        )

    def submit(self, task: Task) -> None:
        """Give a task to its executor.

        Parameters
        ----------
        task : `Task`
            The task.
        """
        self._submitted += 1
        number = self._submitted
        task.spec["n"] = number
        with self._lock:
            self._flying[number] = task
        self._hand_over(number, task)

    def _start_again(self) -> None:
        """Start Parsl anew after its blocks were ended: what it still has in
        its queues would run in new ones.
        """
        self._end_kernel()
        self._start_parsl()

    def _hand_over(self, number: int, task: Task) -> None:
        if self._blocks_ended and task.executor not in self._here:
            self._start_again()
        assert self._kernel is not None, "it was not started"
        assert self._host_pool is not None
        future: Future[dict[str, Any]]
        if task.executor is None:
            future = self._host_pool.submit(run_job, self._setups[None], task.spec)
        else:
            setup: NodeSetup | dict[str, Any]
            if task.executor in self._here:
                function, setup = function_here(task.label), self._setups[task.executor]
            else:
                function, setup = function_on_worker(task.label), self._sent[task.executor]
            keywords: dict[str, Any] = {}
            if self._monitored:
                keywords.update(stdout=task.spec["stdout"], stderr=task.spec["stderr"])
            if resources := self._resources(task):
                keywords["parsl_resource_specification"] = resources
            future = self._kernel.submit(
                function,
                app_args=(setup, task.spec),
                executors=[task.executor],
                cache=False,
                ignore_for_cache=None,
                app_kwargs=keywords,
            )
        future.add_done_callback(lambda done: self._came_back(number, task.executor, _result(done)))

    def _came_back(self, number: int, executor: str | None, result: dict[str, Any]) -> None:
        """Take a result of Parsl's; called in any thread."""
        is_silent = str(result.get("lost", "")).startswith(ManagerLost.__name__)
        if is_silent and executor and self._pilots is not None and executor in self._pilots.labels():
            self._pilots.fence.hold(executor, partial(self._returned, number, result))
        else:
            self._returned(number, result)

    def _resources(self, task: Task) -> dict[str, Any]:
        """Return what the executor is told about a job."""
        if task.executor in self._here:
            return {}  # A thread pool of Parsl's refuses whatever it is told.
        if task.executor in self._low_first:
            # HighThroughputExecutor runs low numbers first, BPS high ones.
            return {**task.resources, "priority": -task.priority}
        return task.resources

    def _returned(self, number: int, result: dict[str, Any]) -> None:
        """Take a result; called in any thread, and more than once for a job that was given up."""
        with self._lock:
            task = self._flying.get(number)
            if task is None:
                return
            if "declined" in result and number > self._killed:
                self._declined[number] = time.monotonic() + DECLINED_SECONDS
                return
            if "declined" in result:
                result = {"lost": "ended before it was started"}
            del self._flying[number]
            self._declined.pop(number, None)
        if (note := result.pop("note", None)) and note not in self._notes:
            self._notes.add(note)
            _LOG.warning("%s", note)
        if self._pilots is not None and "lost" not in result and task.executor is not None:
            self._pilots.heard_from(task.executor)
        self._completed(task, result)

    def check(self) -> list[str]:
        """Do what is due from time to time; called by the driver.

        Returns
        -------
        waits : `list` [`str`]
            What blocks wait for, in sentences.

        Raises
        ------
        NoWorkersError
            Raised if no worker can be had for the jobs.
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        now = time.monotonic()
        with self._lock:
            due = [number for number, when in self._declined.items() if when <= now]
            tasks = [(number, self._flying[number]) for number in due]
            for number in due:
                del self._declined[number]
        for number, task in tasks:
            self._hand_over(number, task)
        return self._pilots.waiting.lines() if self._pilots is not None else []

    def _demand(self, label: str | None) -> Demand:
        demand = Demand()
        with self._lock:
            for number, task in self._flying.items():
                if task.executor == label:
                    demand.jobs += 1
                    demand.cpus += task.spec["cpus"]
                    demand.memory += task.spec["memory"]
                    if number in self._declined:
                        demand.declined += 1
                        walltime = task.spec["walltime"]
                        demand.walltime = min(demand.walltime or walltime, walltime)
        return demand

    def _idle_seconds(self, label: str) -> float:
        return float(getattr(self._sites.site_of_executor(label).settings, "idle_time", 120.0))

    def _fail(self, error: Exception) -> None:
        self._failure = error

    def kill(self, grace: float) -> None:
        """End what was submitted so far, also what Parsl has not begun.

        Parameters
        ----------
        grace : `float`
            Seconds from SIGTERM to SIGKILL.
        """
        with self._lock:
            self._killed = self._submitted
            declined = list(self._declined)
        here = partial(kill_jobs, str(self._paths.submit_path), grace, self._killed)
        end_all_of(("Ending the jobs on this host", here))
        if self._pilots:
            self._blocks_ended = True
            self._end_blocks()
        self._give_up(declined)

    def stop_waiting(self) -> None:
        """Wait no longer for blocks to end."""
        if self._pilots is not None:
            self._pilots.stop_waiting()

    def _end_blocks(self) -> None:
        """Have no more blocks, and no tasks that were given to them."""
        if self._pilots:
            end_all_of(
                ("Asking for no more blocks", self._pilots.stop),
                ("Ending the blocks", self._pilots.end_all),
            )
            labels = set(self._pilots.labels())
            with self._lock:
                numbers = [number for number, task in self._flying.items() if task.executor in labels]
            self._give_up(numbers)

    def _give_up(self, numbers: list[int]) -> None:
        """Take tasks for lost that will not run any more."""
        for number in numbers:
            self._returned(number, {"lost": "its block was ended"})

    def close(self) -> None:
        """End Parsl, its blocks and this host's runners."""
        steps: list[Step] = []
        if self._host_pool is not None:
            # It may wait for a job of which nothing is heard; what ends the runners ends that.
            end = partial(self._host_pool.shutdown, wait=False, cancel_futures=True)
            steps.append(("Ending the jobs of the submit host", end))
        steps += [
            ("Ending the blocks", self._end_blocks),
            ("Ending Parsl", self._end_kernel),
            ("Ending the runners", self._end_runners),
        ]
        if self._log is not None:
            steps.append(("Closing Parsl's log", self._log.close))
        if self._umask is not None:
            self._umask = None
            steps.append(("Restoring the umask", restore_umask))
        end_all_of(*steps)

    def _end_kernel(self) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            end_kernel(kernel)

    def _end_runners(self) -> None:
        clients = forget_clients(str(self._paths.submit_path))
        end_all_of(*(("Ending a runner", client.close) for client in clients))


def _nobody(task: Task, result: dict[str, Any]) -> None:
    raise RuntimeError("the backend was not started")


def _result(future: Future[dict[str, Any]]) -> dict[str, Any]:
    if future.cancelled():
        return {"lost": "it was taken back"}
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, RuntimeError) and len(error.args) == 2 and isinstance(error.args[1], dict):
        return error.args[1]
    return {"lost": f"{type(error).__name__}: {error}"}
