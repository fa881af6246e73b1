# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that could never run, found before anything runs."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import Any

from lsst.ctrl.bps import GenericWorkflowJob

from ..configuration import CONTROL_JOBS
from ..job import get_file_paths, job_command, other_command
from ..node.processes import os_bytes
from ..plan.command import LONGEST_WORD
from ..plan.variables import bash_text, fill_in_attempt, unreadable_variable
from ..site import SiteConfig
from .flatten import Node

__all__ = ["as_number", "check_jobs", "queue_warnings"]

START_SECONDS = 10
"""Time that a worker needs at least before it can run a job."""

_QUEUE_FIELDS = {"queue": "queue", "accountingGroup": "accounting_group"}
"""Fields of a job by BPS's names for them."""

_UNITS = {
    "request_memory": " (MB)",
    "request_memory_max": " (MB)",
    "request_disk": " (MB)",
    "request_walltime": " (minutes)",
}

_LIMITS = {
    "priority": (-math.inf, math.inf),
    "number_of_retries": (0, math.inf),
    "retry_unless_exit": (0, 255),
    "abort_on_value": (0, 255),
    "abort_return_value": (0, 255),
    "request_memory": (0, math.inf),
    "request_memory_max": (0, math.inf),
    "request_cpus": (0, math.inf),
    "request_disk": (0, math.inf),
    "request_walltime": (0, math.inf),
}
"""Fields that are whole numbers, with the least and the greatest."""


_TEXTS = ("name", "label", "arguments", "pre_cmdline", "post_cmdline")
_MAPPINGS = ("environment", "tags", "cmdvals")


def check_jobs(nodes: dict[str, Node], sites: Mapping[str, SiteConfig]) -> list[str]:
    """Look for jobs that could never run.

    Parameters
    ----------
    nodes : `dict` [`str`, `Node`]
        The nodes.
    sites : `~collections.abc.Mapping` [`str`, `SiteConfig`]
        Where the jobs will run, by name; the first is for all that name none.

    Returns
    -------
    complaints : `list` [`str`]
        What is wrong.
    """
    capacities = {name: site.get_capacity() for name, site in sites.items()}
    usual = next(iter(capacities))
    complaints: dict[tuple[str, str], list[str]] = {}
    for name, item in nodes.items():
        job = item.node
        if isinstance(job, GenericWorkflowJob):
            name_of_site = job.compute_site or usual
            on_host = item.is_on_submit_host(sites[name_of_site])
            capacity = {} if on_host else capacities[name_of_site]
            complaint = _type_complaint(job) or _job_complaint(job, item, name_of_site, capacity)
            if complaint is not None:
                complaints.setdefault((job.label, complaint), []).append(name)
    # What is wrong with a label's jobs is mostly wrong with all of them.
    return [
        f"Job {names[0]}{f' (and {len(names) - 1} more of {label})' if len(names) > 1 else ''}: {complaint}"
        for (label, complaint), names in complaints.items()
    ]


def _type_complaint(job: GenericWorkflowJob) -> str | None:
    for field in _TEXTS:
        value = getattr(job, field)
        if value is not None and not isinstance(value, str):
            return f"its {_yaml_key(field)} is {value!r}; a text is wanted."
    for field in _MAPPINGS:
        value = getattr(job, field)
        if value is not None and not isinstance(value, Mapping):
            return f"its {_yaml_key(field)} is {value!r}; names and values are wanted."
    if job.executable is not None and "\0" in str(job.executable.src_uri):
        return f"the path of its executable is {job.executable.src_uri!r}; it has a NUL."
    return None


def _job_complaint(
    job: GenericWorkflowJob, item: Node, site: str, capacity: Mapping[str, float | None]
) -> str | None:
    numbers = {}
    for key in (*_LIMITS, "memory_multiplier"):
        value = getattr(job, key)
        try:
            numbers[key] = as_number(key, value)
        except ValueError as exc:
            return f"its {_yaml_key(key)} is {value!r}; {exc}."
    memory, walltime = capacity.get("memory"), capacity.get("walltime")
    if memory is not None and (numbers["request_memory"] or 0) > memory:
        return (
            f"it asks for {job.request_memory} MB; the most that site {site} has for a job is "
            f"{memory:.0f} MB. Set {_memory_key(job)} to less, or use a site with more."
        )
    asked = 60 * (numbers["request_walltime"] or 0)
    if walltime is not None and asked and asked > walltime - START_SECONDS:
        return (
            f"it asks for {job.request_walltime} minutes; the workers of site {site} last "
            f"{walltime / 60:.0f} minutes, with their start. Set requestWalltime of {job.label} to less, "
            "or walltime of the site to more."
        )
    for name, value in (job.environment or {}).items():
        try:
            fill_in_attempt(str(value))
        except ValueError as exc:
            return f"its environment variable {name} cannot be set: {exc}."
    files = get_file_paths(item.workflow, job.name)
    for what, text in (("preCmdline", job.pre_cmdline), ("postCmdline", job.post_cmdline)):
        if complaint := _unreadable(what, text):
            return complaint
        try:
            other_command(job, text, files)
            check_syntax(bash_text(text or ""))
        except KeyError as exc:
            return f"its {what} names <FILE:{exc.args[0]}>, and the job has no such file."
        except ValueError as exc:
            return f"its {what} cannot be read: {exc}: {text}"
    program = job.executable.src_uri if job.executable else ""
    if complaint := _unreadable("command", f"{program} {job.arguments or ''}"):
        return complaint
    try:
        command = job_command(job, files)
    except KeyError as exc:
        return f"its command names <FILE:{exc.args[0]}>, and the job has no such file."
    except ValueError as exc:
        return f"its command cannot be read: {exc}: {job.arguments}"
    longest = max((len(os_bytes(word)) for word in command.words or ()), default=0)
    if longest > LONGEST_WORD:
        return (
            f"an argument of its command has {longest} bytes; Linux takes {LONGEST_WORD}. "
            f"Put fewer quanta into a job of {job.label}."
        )
    return None


def _unreadable(what: str, text: str | None) -> str | None:
    variable = unreadable_variable(text or "")
    if variable is None:
        return None
    return (
        f"its {what} cannot be read: BPS has taken more than a name for a variable ({variable}). "
        f"Write ${{NAME}} for $NAME: {text}"
    )


def _memory_key(job: GenericWorkflowJob) -> str:
    """Name what a job's request is set by; the jobs of bpsBatchSubmission have sections at the top level."""
    return f"{job.label}.requestMemory" if job.label in CONTROL_JOBS else f"requestMemory of {job.label}"


def _yaml_key(field: str) -> str:
    return re.sub(r"_(\w)", lambda match: match.group(1).upper(), field)


@cache
def check_syntax(code: str) -> None:
    """Have bash read code without running it.

    Parameters
    ----------
    code : `str`
        The code.

    Raises
    ------
    ValueError
        Raised with bash's words if it cannot be read.
    """
    if code:
        command = ["/bin/bash", "--norc", "-n"]
        read = subprocess.run(
            command, input=code, capture_output=True, text=True, errors="replace", check=False
        )
        if read.returncode:
            raise ValueError(read.stderr.strip().removeprefix("/bin/bash: ").replace("\n", "; "))


def as_number(field: str, value: Any) -> Any:
    """Read a field of a job that is a number: BPS's variables make text of it.

    Parameters
    ----------
    field : `str`
        Name of the field.
    value : `~typing.Any`
        Its value.

    Returns
    -------
    value : `~typing.Any`
        A number, or a list of them, where the field is one; the value of any
        other field, and what is not set, as it is.

    Raises
    ------
    ValueError
        Raised if it is no such number.
    """
    if value in (None, "") or not (field in _LIMITS or field == "memory_multiplier"):
        return value
    if field == "retry_unless_exit" and isinstance(value, list | tuple):
        return [as_number(field, code) for code in value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if field == "memory_multiplier":
        if not 0 <= number < math.inf:
            raise ValueError("a number is wanted")
        return number
    if not number.is_integer():
        raise ValueError(f"a whole number{_UNITS.get(field, '')} is wanted")
    least, greatest = _LIMITS[field]
    if not least <= number <= greatest:
        raise ValueError(
            f"it must be {least} to {greatest}" if greatest < math.inf else f"it must be at least {least}"
        )
    return int(number)


def queue_warnings(nodes: Mapping[str, Node], sites: Mapping[str, SiteConfig]) -> list[str]:
    """Look for jobs that ask for another queue or account than their site's.

    Parameters
    ----------
    nodes : `~collections.abc.Mapping` [`str`, `Node`]
        The nodes.
    sites : `~collections.abc.Mapping` [`str`, `SiteConfig`]
        As for `check_jobs`.

    Returns
    -------
    warnings : `list` [`str`]
        A sentence for each label and queue.
    """
    usual = next(iter(sites))
    warnings: dict[str, None] = {}
    for item in nodes.values():
        job = item.node
        if not isinstance(job, GenericWorkflowJob) or item.is_bps_own:
            continue
        site = sites[job.compute_site or usual]
        for setting, key in site.bps_settings.items():
            asked, has = getattr(job, _QUEUE_FIELDS[key]), getattr(site.settings, setting)
            if asked and str(asked) != str(has):
                where = f"{site.where}.{setting}" + (f": {has}" if has else " is not set")
                warnings[
                    f"Jobs of {job.label} ask for {key} {asked!r}; they get that of their site "
                    f"({where}). For another one, give them a computeSite of their own."
                ] = None
    return list(warnings)
