# SPDX-License-Identifier: BSD-3-Clause
"""A job as sites see it."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from lsst.daf.butler import Config

from lsst.ctrl.bps import BpsConfig, GenericWorkflow, GenericWorkflowExec, GenericWorkflowJob

from .node.records import ATTEMPT_VARIABLE, expand
from .node.script import around
from .paths import SubmitPaths
from .plan.command import Command, build_command, placeholders, shell_line
from .plan.execution_butler import ButlerCopy
from .plan.plan import PlannedJob
from .plan.variables import bash_text, fill_in_attempt, name_file

__all__ = ["ParslJob", "generic_job", "get_file_paths", "job_command", "other_command"]


def get_file_paths(workflow: GenericWorkflow, name: str) -> dict[str, str]:
    """Return the paths of a job's files.

    Parameters
    ----------
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        Workflow that has the job.
    name : `str`
        Name of the job.

    Returns
    -------
    paths : `dict` [`str`, `str`]
        Paths of the input and output files by their logical names; a file
        that has none is left out.
    """
    files = [
        *workflow.get_job_inputs(name, data=True),
        *workflow.get_job_outputs(name, data=True),
    ]
    return {file.name: str(file.src_uri) for file in files if file.src_uri}


class ParslJob:
    """A job of the workflow, with what it takes to run it.

    Parameters
    ----------
    generic : `lsst.ctrl.bps.GenericWorkflowJob`
        The job as BPS describes it.
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    file_paths : `dict` [`str`, `str`]
        Paths of the job's files by their logical names.
    log_stem : `str`, optional
        Path of its log files without their suffix, where that is known; it
        spares a search of the configuration.
    """

    def __init__(
        self,
        generic: GenericWorkflowJob,
        config: BpsConfig,
        file_paths: Mapping[str, str | None],
        *,
        log_stem: str | None = None,
    ) -> None:
        self.generic = generic
        self.config = config
        self.file_paths = dict(file_paths)
        self.name: str = generic.name
        self._given_log_stem = log_stem

    def __repr__(self) -> str:
        return f"ParslJob({self.name!r})"

    @cached_property
    def command(self) -> Command:
        """The command with its values filled in (`Command`)."""
        return job_command(self.generic, self.file_paths)

    def get_command_line(self, allow_stage: bool = True) -> str:
        """Return the command line as bash runs it.

        Parameters
        ----------
        allow_stage : `bool`, optional
            Whether the job gets its own copy of the execution butler, where
            there is one (``executionButlerDir``).

        Returns
        -------
        command : `str`
            The command line; environment variables are still named in it.
        """
        copy = self.butler_copy if allow_stage else None
        if copy is None:
            return shell_line(self.command.line)
        return around(shell_line(copy.command(self.command).line), copy.before, copy.after)

    @cached_property
    def butler_copy(self) -> ButlerCopy | None:
        """The job's own copy of the execution butler, where it has one."""
        return ButlerCopy.for_job(self.config, self.name, self.command)

    @property
    def pre_command(self) -> str:
        """Bash code of BPS's ``preCmdline``."""
        return self._other_command(self.generic.pre_cmdline)

    @property
    def post_command(self) -> str:
        """Bash code of BPS's ``postCmdline``."""
        return self._other_command(self.generic.post_cmdline)

    def _other_command(self, template: str | None) -> str:
        files = {name: path for name, path in self.file_paths.items() if path}
        # What is left of BPS's variables of the environment is in values.
        return shell_line(other_command(self.generic, template, files).line)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the job's own."""
        # BPS leaves a variable of the shell's as it is in those of its own jobs.
        in_shell, in_bps = f"${{{ATTEMPT_VARIABLE}}}", f"<ENV:{ATTEMPT_VARIABLE}>"
        values = self.generic.environment or {}
        return {name: fill_in_attempt(str(value)).replace(in_shell, in_bps) for name, value in values.items()}

    def evaluate_command_line(self, command: str) -> str:
        """Put this process's environment and the job's files into a command.

        Parameters
        ----------
        command : `str`
            Command with ``{name}``, ``<FILE:name>`` and ``<ENV:name>``.

        Returns
        -------
        command : `str`
            The command without them.
        """
        files = {name: path for name, path in self.file_paths.items() if path}
        line = build_command(command, self.generic.cmdvals or {}, files).line
        return expand(line, dict(os.environ))

    def get_resources(self) -> dict[str, Any]:
        """Return what the job asks for, by the names of Work Queue.

        Returns
        -------
        resources : `dict`
            ``memory`` (MB), ``cores``, ``disk`` (MB), ``running_time_min``
            (seconds), and ``priority`` where it is set.

        Notes
        -----
        BPS's ``requestWalltime`` is in minutes. Work Queue wants to know the
        least time that a job may need, in seconds.
        """
        generic = self.generic
        resources: dict[str, Any] = {
            "memory": int(generic.request_memory or 0),
            "cores": int(generic.request_cpus or 1),
            "disk": int(generic.request_disk or 0),
            "running_time_min": 60 * int(generic.request_walltime or 0),
        }
        if generic.priority not in (None, ""):
            resources["priority"] = int(generic.priority)
        return resources

    @cached_property
    def _log_stem(self) -> str:
        if self._given_log_stem is not None:
            return self._given_log_stem
        paths = SubmitPaths(self.config["submitPath"])
        template = log_template(self.config)
        generic = self.generic
        return paths.log_stem(template, self.name, generic.label, generic.tags or {})

    @property
    def stdout(self) -> str:
        """Path of the file that gets the job's standard output."""
        return f"{self._log_stem}.stdout"

    @property
    def stderr(self) -> str:
        """Path of the file that gets the job's standard error."""
        return f"{self._log_stem}.stderr"


def log_template(config: BpsConfig) -> str | dict[str, str]:
    """Return the directories of the jobs' log files (BPS's ``subDirTemplate``).

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.

    Returns
    -------
    template : `str` or `dict` [`str`, `str`]
        One for all, or by label. A label that is not there has none: its
        files are beside these directories, as with HTCondor.
    """
    _, template = config.search("subDirTemplate", opt={"replaceVars": False, "default": ""})
    if isinstance(template, Mapping):
        return {str(label): str(value or "") for label, value in Config(template).items()}
    return str(template or "")


def job_command(generic: GenericWorkflowJob, file_paths: Mapping[str, str | None]) -> Command:
    """Return the command of a job with its values filled in.

    Parameters
    ----------
    generic : `lsst.ctrl.bps.GenericWorkflowJob`
        The job.
    file_paths : `~collections.abc.Mapping` [`str`, `str`]
        Paths of the job's files by their logical names.

    Returns
    -------
    command : `Command`
        The command.

    Raises
    ------
    KeyError
        Raised if it names a file that the job does not have.
    ValueError
        Raised if it cannot be read.
    """
    executable = generic.executable
    program = executable.src_uri or "" if executable else ""
    if executable and executable.transfer_executable:
        program = shlex.quote(program)  # A file, and no command line.
    files = {name: path for name, path in file_paths.items() if path}
    return build_command(f"{program} {generic.arguments or ''}".strip(), generic.cmdvals or {}, files)


def other_command(
    generic: GenericWorkflowJob, template: str | None, file_paths: Mapping[str, str]
) -> Command:
    """Return a command that runs before or after a job's own.

    Parameters
    ----------
    generic : `lsst.ctrl.bps.GenericWorkflowJob`
        The job.
    template : `str` or `None`
        Its ``pre_cmdline`` or ``post_cmdline``.
    file_paths : `~collections.abc.Mapping` [`str`, `str`]
        Paths of the job's files by their logical names.

    Returns
    -------
    command : `Command`
        The command.

    Raises
    ------
    KeyError
        Raised if it names a file that the job does not have.
    ValueError
        Raised if it cannot be read.
    """
    template = bash_text(template or "")
    for name in file_paths:  # As BPS does for the job's arguments.
        template = name_file(template, name, name)
    values = generic.cmdvals or {}
    if "<FILE:" not in template and not any(name in values for name in placeholders(template)):
        return Command(template, None)
    return build_command(template, values, file_paths)


def generic_job(
    planned: PlannedJob, memory: int | None = None, environments: Sequence[dict[str, Any]] = ()
) -> GenericWorkflowJob:
    """Make BPS's description of a job from the plan.

    Parameters
    ----------
    planned : `PlannedJob`
        The job in the plan.
    memory : `int`, optional
        Memory request in MB, where it has grown.
    environments : `~collections.abc.Sequence` [`dict`], optional
        The jobs' own environments, by the numbers that the plan has for them.

    Returns
    -------
    generic : `lsst.ctrl.bps.GenericWorkflowJob`
        The job.
    """
    fields = {**(planned.template.fields or {}), **planned.fields}
    executable = fields.pop("executable", None)
    if executable is not None:
        executable = GenericWorkflowExec(**executable)
    if "environment" in fields:
        fields["environment"] = environments[fields["environment"]]
    if "quanta_counts" in fields:
        fields["quanta_counts"] = Counter(fields["quanta_counts"])
    generic = GenericWorkflowJob(planned.name, planned.template.label, executable=executable, **fields)
    if memory is not None:
        generic.request_memory = memory
    return generic


DEFAULTS = {
    field.name: field.default_factory() if callable(field.default_factory) else field.default
    for field in dataclasses.fields(GenericWorkflowJob)
    if field.name not in ("name", "label")
}
"""Default of each field of ``GenericWorkflowJob``."""
