# SPDX-License-Identifier: BSD-3-Clause
"""Commands as the user wrote them.

BPS writes ``<ENV:name>`` for what it takes for a variable in a command, or
puts the value of the submit host in its place. Neither can be undone from its
text alone: of ``echo $HOME > {submitPath}/x`` it makes ``echo <ENV:HOME >
{submitPath>}/x``. So the command is looked up in the configuration, and taken
where BPS makes of it just what the job has.
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from lsst.ctrl.bps.transform import _fill_arguments

from lsst.ctrl.bps import BpsConfig, GenericWorkflowExec, GenericWorkflowJob

from ..job import get_file_paths
from ..plan.command import has_substitutions
from ..plan.variables import VARIABLE, name_file, named_by_bps
from .flatten import FINAL_JOB, Node

__all__ = ["Written", "command_template"]

CUSTOM_JOB = "customJob"
_COMMANDS = {"buildQuantumGraph": "jobCommand", "preparePayloadWorkflow": "jobCommand"}
_COMMAND = "runQuantumCommand"
_SECTIONS = (FINAL_JOB, CUSTOM_JOB, *_COMMANDS)
"""Labels that have a section at the top level."""

_LAZY = {"expandEnvVars": False, "replaceEnvVars": True, "replaceVars": False}
"""How BPS looks up the commands of the pipeline's jobs."""

_FILLED_IN: dict[str, Any] = {}
"""How it looks up those of its final job and of ``bps submitcmd``."""

_VALUE = {"expandEnvVars": False, "replaceEnvVars": True}
"""How it looks up the values of commands."""

_AS_WRITTEN = {"expandEnvVars": False, "replaceEnvVars": False}
_AROUND = {"pre_cmdline": "preCmdline", "post_cmdline": "postCmdline"}
_OWN = re.compile(r"\0([^\0]*)\0")  # Marks what differs from job to job.
_SPECIAL = re.compile(r"\$|<ENV:")
_FILE = re.compile(r"<FILE:([^>]+)>")
_WMS = re.compile(r"<WMS:(.)([^>]*)>")
_ONE_WORD = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_QUOTED = re.compile(rf"'[^']*'|\\.|\"|{VARIABLE.pattern}", re.ASCII | re.DOTALL)
_QUOTED_TWICE = re.compile(rf"\\.|\"|{VARIABLE.pattern}", re.ASCII | re.DOTALL)


@dataclass
class Written:
    """Looks up what the user wrote."""

    config: BpsConfig
    _texts: dict[tuple[Any, ...], tuple[str, str] | None] = field(default_factory=dict)
    _values: dict[tuple[Any, ...], object] = field(default_factory=dict)
    _environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def restore(self, item: Node) -> None:
        """Put what the user wrote in the place of what BPS made of it.

        Parameters
        ----------
        item : `Node`
            A node of the workflow. A job's command, its values, and the
            commands before and after it are changed. What is not in the
            configuration stays as it is.
        """
        job = item.node
        if not isinstance(job, GenericWorkflowJob) or not isinstance(job.label, str):
            return
        filled_in = job.label in (FINAL_JOB, CUSTOM_JOB)
        for name, key in _AROUND.items():
            text = getattr(job, name)
            if isinstance(text, str) and (filled_in or _SPECIAL.search(text)):
                found = self._look_up(job, key, text, _FILLED_IN if filled_in else _LAZY)
                if found is not None:
                    setattr(job, name, found[1])
        if not filled_in and job.executable is not None and isinstance(job.arguments, str | None):
            self._restore_command(item, job, job.executable)
        if isinstance(job.cmdvals, dict):
            self._restore_values(job)

    def value(self, job: GenericWorkflowJob, name: str, own: Mapping[str, object] | None = None) -> object:
        """Return a value for the commands of a job.

        Parameters
        ----------
        job : `lsst.ctrl.bps.GenericWorkflowJob`
            The job.
        name : `str`
            Name of the value.
        own : `~collections.abc.Mapping` [`str`, `object`], optional
            Values that differ from job to job, by their names.

        Returns
        -------
        value : `object`
            The value; variables of the environment are written as BPS does.
            `None` where there is none.
        """
        own = own or {}
        key = (name, tuple(own), *_kind(job))
        if key not in self._values:
            self._values[key] = None
            marks = {name: f"\0{name}\0" for name in own}
            for place in self._places(job):
                place["curvals"] = {**place["curvals"], **marks}
                found, value = self.config.search(name, opt={**place, **_AS_WRITTEN})
                if found:
                    self._values[key] = named_by_bps(value) if isinstance(value, str) else value
                    break
        value = self._values[key]
        if own and isinstance(value, str):
            return _OWN.sub(lambda match: str(own.get(match[1], match[0])), value)
        return value

    def _restore_command(self, item: Node, job: GenericWorkflowJob, executable: GenericWorkflowExec) -> None:
        is_lazy = self.value(job, "useLazyCommands") is not False
        has = f"{executable.src_uri} {job.arguments or ''}"
        if executable.transfer_executable or (is_lazy and not _SPECIAL.search(has)):
            return
        found = self._command(item, job, has, is_lazy)
        if found is None:
            return
        made, written = found
        own = job.environment if isinstance(job.environment, Mapping) else {}
        environ = ChainMap(dict(own), self._environ)
        template = command_template(written, environ)
        if template == made and is_lazy:
            return
        program, _, arguments = _with_files(template, item, job).partition(" ")
        job.executable = GenericWorkflowExec(os.path.basename(program), program, False)
        job.arguments = arguments
        # What stands in the braces of the shell's is none of BPS's names.
        values = job.cmdvals or {}
        job.cmdvals = {name: value for name, value in values.items() if value != "" or name.isidentifier()}

    def _command(
        self, item: Node, job: GenericWorkflowJob, has: str, is_lazy: bool
    ) -> tuple[str, str] | None:
        key = _COMMANDS.get(job.label, _COMMAND)
        if is_lazy:
            return self._look_up(job, key, _without_files(has, job.name), _LAZY, lazy=True)
        shared = self.value(job, "bpsUseShared") is not False
        for made, written in self._candidates(job, key, _LAZY):
            if not _SPECIAL.search(written):
                continue
            program, _, arguments = _with_files(made, item, job).partition(" ")
            if f"{program} {_fill_arguments(shared, item.workflow, arguments, job.cmdvals)}" == has:
                return made, written
        return None

    def _restore_values(self, job: GenericWorkflowJob) -> None:
        for name, value in job.cmdvals.items():
            if not isinstance(value, str) or name in (job.tags or ()) or not _SPECIAL.search(value):
                continue
            found = self._look_up(job, name, value, _VALUE)
            if found is not None:
                job.cmdvals[name] = named_by_bps(found[1])

    def _look_up(
        self, job: GenericWorkflowJob, key: str, text: str, options: Mapping[str, Any], *, lazy: bool = False
    ) -> tuple[str, str] | None:
        """Return what BPS makes of a text, and the text; `None` where what it makes is not that."""
        where = (key, text, *_kind(job))
        if where not in self._texts:
            self._texts[where] = None
            for made, written in self._candidates(job, key, options):
                if (_without_files(made, job.name) if lazy else made) == text:
                    self._texts[where] = made, written
                    break
        return self._texts[where]

    def _candidates(
        self, job: GenericWorkflowJob, key: str, options: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        for place in self._places(job):
            found, made = self.config.search(key, opt={**place, **options})
            if found and isinstance(made, str):
                _, written = self.config.search(key, opt={**place, **options, **_AS_WRITTEN})
                yield made, written

    def _places(self, job: GenericWorkflowJob) -> Iterator[dict[str, Any]]:
        """Return where BPS looks for a job's settings, the first first."""
        if job.label in _SECTIONS and job.label in self.config:
            yield from self._at_sites({"searchobj": self.config[job.label]}, {})
            return
        for task in job.quanta_counts or [job.label]:
            yield from self._at_sites({}, {"curr_cluster": job.label, "curr_pipetask": task})

    def _at_sites(self, place: dict[str, Any], sections: dict[str, str]) -> Iterator[dict[str, Any]]:
        # Releases differ in whether a task's computeSite counts here.
        sites: dict[str | None, None] = {}
        for known in (sections, {}):
            found, site = self.config.search("computeSite", opt={**place, "curvals": dict(known)})
            sites[site if found and isinstance(site, str) else None] = None
        for site in sites:
            here = {**sections, "curr_site": site} if site else dict(sections)
            yield {**place, "curvals": here}


def _kind(job: GenericWorkflowJob) -> tuple[Any, ...]:
    """Return what jobs share whose settings BPS finds in the same places."""
    return job.label, tuple(job.quanta_counts or ()), job.compute_site


def _with_files(template: str, item: Node, job: GenericWorkflowJob) -> str:
    """Name the job's files in a command, as BPS does."""
    files = get_file_paths(item.workflow, job.name)
    for name in (f"qgraphFile_{job.name}", "runQgraphFile"):
        if name in files:
            template = name_file(template, "qgraphFile", name)
            break
    for name in files:
        template = name_file(template, name, name)
    return template


def _without_files(text: str, job_name: str) -> str:
    """Undo what BPS does with the names of files, and of what it leaves to the plugin."""
    for name in (f"qgraphFile_{job_name}", "runQgraphFile"):
        for written in (f"<FILE:{name}>", f"{{{name}}}"):
            text = text.replace(written, "{qgraphFile}")
    text = _FILE.sub(r"{\1}", text)
    return _WMS.sub(lambda match: f"{{wms{match.group(1).upper()}{match.group(2)}}}", text)


def command_template(written: str, environ: Mapping[str, str]) -> str:
    """Write a command of the user's so that a shell is used only if needed.

    Parameters
    ----------
    written : `str`
        The command as in the YAML.
    environ : `~collections.abc.Mapping` [`str`, `str`]
        Environment of the job, as far as it is known.

    Returns
    -------
    template : `str`
        The command with BPS's ``<ENV:name>`` for variables that bash would
        not split into words: those in double quotes, and those whose value
        is one plain word. All else is left to bash.
    """
    plain = (first or second for first, second in VARIABLE.findall(written))
    return _template(
        written, frozenset(name for name in plain if _ONE_WORD.fullmatch(str(environ.get(name, ""))))
    )


@cache
def _template(written: str, one_word: frozenset[str]) -> str:
    if has_substitutions(written):
        return written
    pieces = []
    position, quoted = 0, False
    while match := (_QUOTED_TWICE if quoted else _QUOTED).search(written, position):
        pieces.append(written[position : match.start()])
        name = match.group(1) or match.group(2)
        # Without the program's directory the runner says which variable is not set.
        is_data = name and (quoted or name in one_word or match.start() == 0)
        pieces.append(f"<ENV:{name}>" if is_data else match.group())
        quoted = quoted != (match.group() == '"')
        position = match.end()
    return "".join(pieces) + written[position:]
