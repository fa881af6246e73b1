# SPDX-License-Identifier: BSD-3-Clause
"""The BPS service: one short method for each verb of ``bps``."""

from __future__ import annotations

import logging
import os
from typing import Any

from lsst.ctrl.bps.bps_utils import _make_id_link
from lsst.daf.butler import Config

from lsst.ctrl.bps import BaseWmsService, BaseWmsWorkflow, BpsConfig, GenericWorkflow, WmsRunReport, WmsStates

from .environment import set_command_directories
from .errors import ConfigurationError, ParslBpsError, RunNotFoundError
from .node.records import ATTEMPT_VARIABLE
from .paths import SubmitPaths
from .prepare.lazy import is_for_live_run
from .prepare.submission import (
    config_complaints,
    leave_if_surplus,
    say_what_is_understood,
    submit_path_complaints,
    why_not_writable,
)
from .report.escape import escape_output
from .report.runs import all_runs, belongs_to, find_run, is_recent
from .report.view import run_report
from .run.registry import state_directory
from .settings.early import being_read, check_early
from .settings.section import set_environment_apart
from .workflow import ParslWorkflow

__all__ = ["ParslService"]

_LOG = logging.getLogger(__name__)

FACILITIES = {
    "s3df": "slac.S3df",
    "perlmutter": "nersc.Perlmutter",
    "tiger": "princeton.Tiger",
    "ccin2p3": "ccin2p3.Ccin2p3",
    "csd3": "csd3.Csd3",
}
"""Values of ``computeSite`` that need no section in the user's YAML."""


class ParslService(BaseWmsService):
    """Runs BPS's workflows with Parsl.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run; empty for the verbs that only look.
    """

    config: BpsConfig

    _listed: tuple[str, ...] = ()
    """Runs that are to be cancelled one after the other, whatever comes of each."""

    def __init__(self, config: BpsConfig) -> None:
        super().__init__(config)
        escape_output()  # BPS prints and logs labels, too.

    @property
    def defaults(self) -> Config:
        """Settings that take the place of BPS's own defaults.

        BPS asks for them whenever it reads a configuration, before it runs
        any command. So the commands' directories are found here, and
        settings are checked that BPS falls over.
        """
        set_command_directories()
        if (config := being_read()) is not None:
            check_early(config)
        # That of a job that submits another run is not for the jobs of this one.
        os.environ.pop(ATTEMPT_VARIABLE, None)
        # Half of them: each of the final job's processes imports everything.
        cpus = max(1, len(os.sched_getaffinity(0)) // 2)
        sites = {name: {"class": f"lsst.ctrl.bps.parsl.sites.{where}"} for name, where in FACILITIES.items()}
        return Config(
            {
                "finalJob": {"requestCpus": min(16, cpus)},
                "site": sites,
                # BPS fills it in wherever a command or another variable names it.
                "wmsAttemptNum": f"${{{ATTEMPT_VARIABLE}}}",
            }
        )

    def run_submission_checks(self) -> None:
        """Check the configuration before anything is made.

        Raises
        ------
        ConfigurationError
            Raised with everything that is wrong.
        """
        leave_if_surplus(self.config)
        set_environment_apart(self.config)
        complaints = [*config_complaints(self.config), *submit_path_complaints(self.config)]
        if complaints:
            raise ConfigurationError(complaints)
        say_what_is_understood(self.config)

    def prepare(
        self, config: BpsConfig, generic_workflow: GenericWorkflow, out_prefix: str | None = None
    ) -> ParslWorkflow:
        """Write what it takes to run a workflow.

        Parameters
        ----------
        config : `lsst.ctrl.bps.BpsConfig`
            Configuration of the run.
        generic_workflow : `lsst.ctrl.bps.GenericWorkflow`
            The workflow.
        out_prefix : `str`, optional
            Submit directory; by default that of the configuration.

        Returns
        -------
        workflow : `ParslWorkflow`
            The run.

        Raises
        ------
        ConfigurationError
            Raised if the configuration is wrong.
        WorkflowError
            Raised if the workflow cannot be run.
        """
        prefix = out_prefix or config["submitPath"]
        is_payload = is_for_live_run(generic_workflow, config, SubmitPaths(prefix))
        # What holds for the run was looked at when it was submitted.
        if not is_payload and (complaints := config_complaints(config)):
            raise ConfigurationError(complaints)
        service = f"{type(self).__module__}.{type(self).__name__}"
        workflow = ParslWorkflow.from_generic_workflow(config, generic_workflow, prefix, service)
        workflow.write(prefix)
        if not is_payload:
            _LOG.info("Run %s is prepared in %s", workflow.run_id, workflow.submit_path)
        return workflow

    def submit(self, workflow: BaseWmsWorkflow, **kwargs: Any) -> BaseWmsWorkflow:
        """Run a workflow, to its end.

        Parameters
        ----------
        workflow : `ParslWorkflow`
            The run.
        **kwargs : `~typing.Any`
            What BPS passes on; not needed.

        Returns
        -------
        workflow : `ParslWorkflow`
            The run.

        Raises
        ------
        RunEndedError
            Raised if the run ended without success.
        """
        assert isinstance(workflow, ParslWorkflow)
        # BPS prints the id and makes the link to the run when this method is
        # done, which may be in a week, and only where all went well.
        print(f"Run Id: {workflow.run_id}", flush=True)
        _make_id_link(workflow.config, workflow.run_id)
        workflow.run(block=True)
        return workflow

    def restart(self, wms_workflow_id: str) -> tuple[str | None, str | None, str]:
        """Resume a run, to its end.

        Parameters
        ----------
        wms_workflow_id : `str`
            Id or submit path.

        Returns
        -------
        wms_id, run_name, message : `str`
            Id and name of the run, and nothing.

        Raises
        ------
        ParslBpsError
            Raised if it cannot be resumed, or ended without success: BPS
            exits with status 0 where a message is returned.
        """
        if not wms_workflow_id:
            raise RunNotFoundError("Which run? Give its id or submit path: bps restart --id <id>")
        set_command_directories()
        workflow = ParslWorkflow.read(wms_workflow_id)
        leave_if_surplus(workflow.config)
        _make_id_link(workflow.config, workflow.run_id)
        workflow.restart()
        return workflow.run_id, workflow.name, ""

    def list_submitted_jobs(
        self,
        wms_id: str | None = None,
        user: str | None = None,
        require_bps: bool = True,
        pass_thru: str | None = None,
        is_global: bool = False,
    ) -> list[str]:
        """List runs.

        Parameters
        ----------
        wms_id : `str`, optional
            Id or submit path of the one that is wanted.
        user : `str`, optional
            Operator whose runs are wanted; those that are going.
        require_bps, pass_thru, is_global : optional
            For other services; not used.

        Returns
        -------
        ids : `list` [`str`]
            Ids; the submit path where several runs have the same id.

        Raises
        ------
        RunNotFoundError
            Raised if the one that is wanted cannot be found. An empty id is
            none: `bps cancel` cancels all that are listed.
        """
        if wms_id is not None:
            if not wms_id:
                raise RunNotFoundError("Which run? Give its id or submit path: --id <id>")
            return [find_run(wms_id).shortest_id]
        ids = []
        for view, _ in all_runs():
            try:
                if view.holder is not None and belongs_to(view, user):
                    ids.append(view.shortest_id)
            except ParslBpsError as exc:
                _LOG.warning("A run is passed over: %s", exc.message)
        self._listed = tuple(ids)
        return ids

    def report(
        self,
        wms_workflow_id: str | None = None,
        user: str | None = None,
        hist: float = 0,
        pass_thru: str | None = None,
        is_global: bool = False,
        return_exit_codes: bool = False,
    ) -> tuple[list[WmsRunReport], str]:
        """Report on runs.

        Parameters
        ----------
        wms_workflow_id : `str`, optional
            Id or submit path of one run.
        user : `str`, optional
            Operator whose runs are wanted.
        hist : `float`, optional
            Days since the last sign of a run that is not going any more.
        pass_thru, is_global : optional
            For other services; not used.
        return_exit_codes : `bool`, optional
            Whether exit codes of failed jobs are wanted.

        Returns
        -------
        reports : `list` [`lsst.ctrl.bps.WmsRunReport`]
            The reports.
        message : `str`
            What else there is to say.

        Raises
        ------
        ParslBpsError
            Raised if the one run that was asked for cannot be reported.
        """
        if wms_workflow_id:
            view = find_run(wms_workflow_id)
            return [run_report(view, exit_codes=return_exit_codes, usage=True)], ""
        reports, problems = [], []
        for view, created in all_runs():
            try:
                if belongs_to(view, user) and is_recent(view, created, hist):
                    reports.append(run_report(view, exit_codes=return_exit_codes))
            except ParslBpsError as exc:
                problems.append(f"WARNING: {exc.message}")
        return reports, "\n".join(problems)

    def get_status(
        self, wms_workflow_id: str, hist: float = 1, is_global: bool = False
    ) -> tuple[WmsStates, str]:
        """Return the state of a run.

        Parameters
        ----------
        wms_workflow_id : `str`
            Id or submit path.
        hist : `float`, optional
            For other services; a run of this one is found however old.
        is_global : `bool`, optional
            For other services; not used.

        Returns
        -------
        state : `lsst.ctrl.bps.WmsStates`
            The state; UNKNOWN where there is no such run.
        message : `str`
            What to do next, where there is something to do.
        """
        try:
            view = find_run(wms_workflow_id)
            return view.wms_state, view.advice
        except RunNotFoundError as exc:
            return WmsStates.UNKNOWN, exc.message

    def cancel(self, wms_id: str, pass_thru: str | None = None) -> tuple[bool, str]:
        """Cancel a run.

        Parameters
        ----------
        wms_id : `str`
            Id or submit path.
        pass_thru : `str`, optional
            For other services; not used.

        Returns
        -------
        deleted : `bool`
            Whether it was; always, where it was asked for by its id.
        message : `str`
            What was done, or why nothing was.

        Raises
        ------
        ParslBpsError
            Raised if the run that was asked for cannot be cancelled: BPS
            exits with status 0 where `False` is returned. Where all runs are
            cancelled, the next one is to have its turn.
        """
        try:
            message = ParslWorkflow.read(wms_id).cancel()
        except ParslBpsError as exc:
            if wms_id not in self._listed:
                raise
            return False, exc.message
        _LOG.info("%s", message)
        return True, message

    def ping(self, pass_thru: str | None = None) -> tuple[int, str]:
        """Check what the other verbs need.

        Parameters
        ----------
        pass_thru : `str`, optional
            For other services; not used.

        Returns
        -------
        status : `int`
            0 where all is well.
        message : `str`
            What is wrong, or which Parsl there is.
        """
        from importlib.metadata import PackageNotFoundError, version

        try:
            release = version("parsl")
        except PackageNotFoundError:
            return 1, "Parsl is not installed; install it with: pip install parsl"
        directory = state_directory()
        if why := why_not_writable(str(directory)):
            return 1, f"The list of your runs cannot be written: {directory}: {why}."
        return 0, f"Parsl {release}; your runs are listed in {directory}"
