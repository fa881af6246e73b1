# SPDX-License-Identifier: BSD-3-Clause
"""A run from Python: prepare, run, look, cancel, restart."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lsst.ctrl.bps import BaseWmsWorkflow, BpsConfig, GenericWorkflow

from .configuration import get_bps_config_value, read_config, write_config
from .driver.cancellation import cancel_run
from .environment import capture_environment, write_environment, write_environment_script
from .errors import RunStateError
from .files import storage_errors
from .paths import SubmitPaths
from .plan.plan import Plan
from .prepare.lazy import is_for_live_run
from .report.outcome import error_of
from .report.progress import ProgressDisplay
from .report.suggestions import MARGIN, PERCENTILE, section_finder, snippet
from .report.summary import Table, print_end, print_requests, status_table
from .report.view import RunView
from .run.liveness import RunLock
from .run.registry import Registry, register_run

if TYPE_CHECKING:
    import parsl.config

    from .driver.loop import Driver

__all__ = ["ParslWorkflow", "get_parsl_config", "start_pipeline"]

_LOG = logging.getLogger(__name__)


def get_parsl_config(config: BpsConfig) -> parsl.config.Config:
    """Return the Parsl configuration of the site that is chosen.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.

    Returns
    -------
    parsl_config : `parsl.config.Config`
        Executors and all.
    """
    from .site import SiteConfig

    return SiteConfig.from_config(config).get_parsl_config()


def start_pipeline(config_file: str | os.PathLike[str], **kwargs: Any) -> ParslWorkflow:
    """Prepare a run: all that ``bps submit`` does before something runs.

    Parameters
    ----------
    config_file : `str` or `os.PathLike`
        BPS's YAML.
    **kwargs : `~typing.Any`
        What ``bps submit`` has as options, such as ``compute_site``.

    Returns
    -------
    workflow : `ParslWorkflow`
        The run.
    """
    from .prepare.batch import prepare_pipeline

    workflow = prepare_pipeline(os.fspath(config_file), **kwargs)
    assert isinstance(workflow, ParslWorkflow)
    return workflow


class ParslWorkflow(BaseWmsWorkflow):
    """A run.

    Parameters
    ----------
    name : `str`
        Its name, which is also its id.
    config : `lsst.ctrl.bps.BpsConfig`
        Its configuration.
    """

    def __init__(self, name: str, config: BpsConfig) -> None:
        super().__init__(name, config)
        self.run_id: str | None = name
        self.submit_path: str | None = None
        self._generic: GenericWorkflow | None = None
        self._payload: Path | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @classmethod
    def from_generic_workflow(
        cls, config: BpsConfig, generic_workflow: GenericWorkflow, out_prefix: str, service_class: str
    ) -> Self:
        """Make a run of BPS's workflow; nothing is written yet.

        Parameters
        ----------
        config : `lsst.ctrl.bps.BpsConfig`
            Configuration of the run.
        generic_workflow : `lsst.ctrl.bps.GenericWorkflow`
            The workflow.
        out_prefix : `str`
            Submit directory.
        service_class : `str`
            Name of the service that makes it.

        Returns
        -------
        workflow : `ParslWorkflow`
            The run.
        """
        name = get_bps_config_value(config, "uniqProcName", str, generic_workflow.name)
        workflow = cls(name or generic_workflow.name, config)
        workflow.service_class = service_class
        workflow._generic = generic_workflow
        workflow.submit_path = os.path.abspath(out_prefix)
        return workflow

    @classmethod
    def read(cls, out_prefix: str | os.PathLike[str]) -> Self:
        """Read a run that was prepared, by whatever process.

        Parameters
        ----------
        out_prefix : `str` or `os.PathLike`
            Its submit directory, or its id.

        Returns
        -------
        workflow : `ParslWorkflow`
            The run.

        Raises
        ------
        DamagedFileError
            Raised if what was prepared is damaged.
        RunNotFoundError
            Raised if there is no such run.
        """
        paths = SubmitPaths(Registry().find(os.fspath(out_prefix)))
        plan = Plan(paths.plan)
        workflow = cls(plan.run, read_config(paths.config))
        workflow.submit_path = str(paths.submit_path)
        return workflow

    def write(self, out_prefix: str | os.PathLike[str]) -> None:
        """Write the plan and what else it takes to run, into a directory.

        Parameters
        ----------
        out_prefix : `str` or `os.PathLike`
            Submit directory.
        """
        from .prepare.attach_payload import write_payload
        from .prepare.block_scripts import write_block_scripts
        from .prepare.translate import translate
        from .site import SiteConfig

        assert self._generic is not None, "only a run that was made of a workflow is written"
        self.submit_path = os.path.abspath(out_prefix)
        paths = self.paths
        if is_for_live_run(self._generic, self.config, paths):
            self._payload = write_payload(self.config, self._generic, paths)
            self._generic = None
            return
        site = SiteConfig.from_config(self.config)
        with storage_errors(paths.directory, "make the run's directories"):
            paths.create()
        write_config(paths.config, self.config)
        translation = translate(self.config, self._generic, site, paths)
        sites = translation.sites
        prefixes = {name: one.get_command_prefix() for name, one in sites.items()}
        write_environment(paths.environment, capture_environment(), site.get_command_prefix(), prefixes)
        write_environment_script(paths.environment_script)
        for one in sites.values():
            one.write_secrets(paths)
        write_block_scripts(sites.values(), paths)
        translation.write(paths)  # Last: with a plan, it is a prepared run.
        self._generic = None  # BPS's view of the workflow is large, and the plan has it all.
        register_run(self.name, paths.submit_path)

    def add_to_parent_workflow(self, config: BpsConfig) -> None:
        """Add the jobs to the run that has prepared them in one of its own.

        Parameters
        ----------
        config : `lsst.ctrl.bps.BpsConfig`
            BPS's; not needed.
        """
        from .prepare.attach_payload import attach_payload

        attach_payload(self.paths, self._payload)

    @property
    def paths(self) -> SubmitPaths:
        """Where the run's files are."""
        assert self.submit_path is not None
        return SubmitPaths(self.submit_path)

    # Running.

    def run(self, block: bool = True) -> None:
        """Run what has not succeeded yet.

        Parameters
        ----------
        block : `bool`, optional
            Whether to wait for the end. Otherwise the run goes on in a thread
            of this process; see `wait`.

        Raises
        ------
        RunHeldError
            Raised if another driver has the run.
        RunEndedError
            Raised if the run ended without success.
        RunStateError
            Raised if all its jobs have succeeded.
        """
        if self._thread is not None and self._thread.is_alive():
            raise RunStateError(f"Run {self.name} is already running in this process.")
        from .driver.session import make_driver, stopping_on_signals

        lock = RunLock(self.paths.lock, self.name)
        lock.acquire()
        try:
            driver = make_driver(self.name, self.config, self.paths, lock)
        except BaseException:
            lock.release()
            raise
        if block:
            with stopping_on_signals(driver):
                self._drive(driver, lock, show=True)
            return
        self._error = None
        # A program that has nothing else to do waits for its runs. Ordinary
        # exit handlers are too late: by then no thread pool takes work.
        threading._register_atexit(self._wait_quietly)  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._drive_aside, args=(driver, lock), name="driver")
        self._thread.start()

    def restart(self, block: bool = True) -> None:
        """Resume the run: what succeeded stays, all else is done.

        Parameters
        ----------
        block : `bool`, optional
            As for `run`.
        """
        self.run(block=block)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a run that goes on in a thread of this process.

        Parameters
        ----------
        timeout : `float`, optional
            Seconds to wait at most.

        Returns
        -------
        ended : `bool`
            Whether it has ended.

        Raises
        ------
        RunEndedError
            Raised if the run ended without success.
        """
        if self._thread is None:
            return True
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return True

    def _wait_quietly(self) -> None:
        try:
            self.wait()
        except BaseException as exc:
            _LOG.error("%s", exc)

    def cancel(self) -> str:
        """Cancel the run: end its jobs, and let no more begin.

        Returns
        -------
        message : `str`
            What was done.

        Raises
        ------
        RunStateError
            Raised if the run has ended before.
        """
        return cancel_run(self.name, self.paths)

    def _drive(self, driver: Driver, lock: RunLock, *, show: bool) -> None:
        with ExitStack() as stack:
            stack.callback(lock.release)
            if show:
                driver.listen(stack.enter_context(ProgressDisplay(self.name)))
            state = driver.run()
        view = RunView(self.paths)
        view.state = state  # No file has to be read anew, and none can be damaged.
        error = error_of(self.name, state, driver.error, self.paths.config, view.resume_command)
        if error is None:
            _LOG.info("Run %s: all %d jobs succeeded.", self.name, sum(state.totals().values()))
        if show:
            with suppress(OSError):  # The terminal is gone; what the run came to is told all the same.
                if error is not None:
                    print_end(view, state)
                print_requests(view, state, self.config)
        if error is not None:
            raise error

    def _drive_aside(self, driver: Driver, lock: RunLock) -> None:
        try:
            # Somebody types in this terminal: no display.
            self._drive(driver, lock, show=False)
        except BaseException as exc:
            self._error = exc

    # Looking.

    def status(self) -> str:
        """Count jobs by label and state.

        Returns
        -------
        table : `str`
            A table to print.
        """
        return status_table(RunView(self.paths).state)

    def suggest_requests(self, percentile: float = PERCENTILE, margin: float = MARGIN) -> str:
        """Suggest requests for the next run, from what the jobs of this one used.

        Parameters
        ----------
        percentile : `float`, optional
            Percentile of peak memory and wall time, above 0 and at most 100.
        margin : `float`, optional
            What a request has more than that, as a fraction: 0.25 is a
            quarter more.

        Returns
        -------
        yaml : `str`
            ``requestMemory`` (MB) and ``requestWalltime`` (minutes) by label,
            to be merged into BPS's YAML. Labels of which too few jobs were
            measured are in a comment.

        Raises
        ------
        DamagedFileError
            Raised if a journal is damaged.
        ValueError
            Raised if there is no such percentile, or if the margin is
            negative.
        """
        usage, find = RunView(self.paths).usage, section_finder(self.config)
        return Table(snippet(self.name, usage, find, percentile=percentile, margin=margin))
