# SPDX-License-Identifier: BSD-3-Clause
"""From BPS's generic workflow to the plan."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx

from lsst.ctrl.bps import (
    BpsConfig,
    GenericWorkflow,
    GenericWorkflowGroup,
    GenericWorkflowJob,
    GenericWorkflowNodeType,
)

from ..configuration import get_bps_config_value
from ..environment import write_job_environments
from ..errors import WorkflowError
from ..job import DEFAULTS, get_file_paths, log_template
from ..paths import SubmitPaths
from ..plan.command import placeholders
from ..plan.plan import JobKind, write_plan
from ..settings.section import config_for_site
from ..site import SiteConfig
from .checks import as_number, check_jobs, queue_warnings
from .flatten import Node, flatten, topological_order
from .lazy import is_lazy, lazy_complaints
from .staging import stage_executables
from .written import Written

__all__ = ["Translation", "translate"]

_LOG = logging.getLogger(__name__)

_MOST_COMPLAINTS = 10
_OWN_FIELDS = ("cmdvals", "tags")
_FIELDS = tuple(name for name in DEFAULTS if name not in ("executable", "environment", *_OWN_FIELDS))


@dataclass
class Translation:
    """A workflow as it is going to be planned."""

    sites: dict[str, SiteConfig]
    """The site, and those that jobs name, by their names."""

    header: dict[str, Any]
    lines: _Lines
    nodes: dict[str, Node]
    order: list[str]

    def write(self, paths: SubmitPaths, payload: Path | None = None) -> None:
        """Write the plan, and apart from it what only the user may read.

        Parameters
        ----------
        paths : `SubmitPaths`
            Where the run is.
        payload : `pathlib.Path`, optional
            Where to, if it is the second part of the plan.

        Raises
        ------
        StorageError
            Raised if it cannot be written.
        """
        if payload is None:
            write_plan(paths.plan, self.header, self._jobs(paths.job_environments))
        else:
            environments = payload.with_suffix(".environments.json")
            header = {**self.header, "job_environments": environments.name}
            write_plan(payload, header, self._jobs(environments))

    def _jobs(self, job_environments: Path) -> Iterator[tuple[Any, ...]]:
        yield from self.lines.of(self.nodes, self.order)
        # Before the plan is in its place, which makes this a prepared run.
        write_job_environments(job_environments, [value for _, value in self.lines.environments.values()])


def translate(
    config: BpsConfig,
    workflow: GenericWorkflow,
    site: SiteConfig,
    paths: SubmitPaths,
    *,
    environments: int = 0,
) -> Translation:
    """Make the plan of a workflow; only executables are written.

    The commands of its jobs become what the user wrote.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        The workflow.
    site : `SiteConfig`
        Where the jobs will run.
    paths : `SubmitPaths`
        Where the run is.
    environments : `int`, optional
        How many environments of jobs the run has already.

    Returns
    -------
    translation : `Translation`
        What to write.

    Raises
    ------
    WorkflowError
        Raised with what makes the workflow impossible to run.
    """
    nodes = flatten(workflow)
    order = topological_order(nodes)
    written = Written(site.config)
    for item in nodes.values():
        written.restore(item)
    sites = _sites(site.config, nodes, site)
    complaints = lazy_complaints(workflow, nodes) or check_jobs(nodes, sites)
    if complaints:
        raise WorkflowError(_joined(complaints))
    for warning in queue_warnings(nodes, sites):
        _LOG.warning("%s", warning)
    shared = _shared_files(nodes)
    header = {
        "id": secrets.token_hex(8),
        "run": get_bps_config_value(config, "uniqProcName", str, workflow.name),
        "workflow": workflow.name,
        "attributes": workflow.run_attrs,
        "labels": _labels(workflow),
        "cwd": os.getcwd(),
        "sites": sorted(sites),
        "log_template": log_template(config),
        "files": shared,
    }
    executables = (getattr(item.node, "executable", None) for item in nodes.values())
    wanted = (executable for executable in executables if executable and executable.transfer_executable)
    lines = _Lines(written, sites, shared, stage_executables(wanted, paths), environments)
    return Translation(sites, header, lines, nodes, order)


def _joined(complaints: list[str]) -> str:
    if len(complaints) == 1:
        return complaints[0]
    shown = complaints[:_MOST_COMPLAINTS]
    if len(complaints) > len(shown):
        shown.append(f"... and {len(complaints) - len(shown)} more")
    return "\n  - ".join([f"{len(complaints)} problems in the workflow:", *shown])


def _labels(workflow: GenericWorkflow) -> list[str]:
    final = workflow.get_final()
    try:
        last = final.labels if isinstance(final, GenericWorkflow) else [final.label] if final else []
        return [*workflow.labels, *last]
    except networkx.NetworkXUnfeasible:
        return []  # Jobs of two labels take turns; there is no order.


def _sites(config: BpsConfig, nodes: dict[str, Node], site: SiteConfig) -> dict[str, SiteConfig]:
    """Make the sites that jobs name."""
    names = {getattr(item.node, "compute_site", None) for item in nodes.values()}
    sites = {site.name or "": site}
    for name in sorted(filter(None, names - set(sites))):
        sites[name] = SiteConfig.from_config(config_for_site(config, name))
        sites[name].check()
    return sites


def _shared_files(nodes: dict[str, Node]) -> dict[str, str]:
    """Return the files that more than one job has."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, item in nodes.items():
        counts.update(get_file_paths(item.workflow, name).items())
    return {file: path for (file, path), count in counts.items() if count > 1}


@dataclass
class _Lines:
    """Makes the lines of the plan."""

    written: Written
    sites: Mapping[str, SiteConfig]
    """By name; the first is for all jobs that name none."""
    shared: Mapping[str, str]
    staged: Mapping[str, str]
    first_environment: int = 0
    environments: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    """Numbers and values of the jobs' own environments, by their text."""

    def of(self, nodes: dict[str, Node], order: list[str]) -> Iterator[tuple[Any, ...]]:
        numbers: dict[str, int] = {}
        for number, name in enumerate(order):
            item = nodes[name]
            parents = sorted(numbers[parent] for parent in item.parents)
            numbers[name] = number
            template, own = self._describe(item)
            files = get_file_paths(item.workflow, item.node.name)
            own_files = {file: path for file, path in files.items() if self.shared.get(file) != path}
            yield name, template, parents, own, own_files

    def _describe(self, item: Node) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what a node shares with others, and what is its own."""
        node = item.node
        kind = _KINDS.get(node.node_type, JobKind.PAYLOAD)
        template: dict[str, Any] = {"label": node.label, "kind": kind, "final": item.final}
        if is_lazy(node):
            template["lazy"] = True
        if isinstance(node, GenericWorkflowGroup):
            template["blocking"] = not item.tolerant
        if not isinstance(node, GenericWorkflowJob):
            return template, {}
        fields = {}
        for name in _FIELDS:
            value = getattr(node, name)
            if value is not None and value != DEFAULTS[name]:
                fields[name] = as_number(name, value)
        if node.environment:
            fields["environment"] = self._number_of(dict(node.environment))
        own = {name: value for name in _OWN_FIELDS if (value := getattr(node, name))}
        if values := self._missing_values(node):
            own["cmdvals"] = {**values, **own.get("cmdvals", {})}
        if node.executable is not None:
            executable = node.executable
            fields["executable"] = {
                "name": executable.name,
                "src_uri": self.staged.get(executable.src_uri or "", executable.src_uri),
                "transfer_executable": executable.transfer_executable,
            }
        if "cmdvals" not in own and "arguments" in fields:
            # Without values to fill in, each job has its own text.
            own["arguments"] = fields.pop("arguments")
        template["fields"] = fields
        site = self.sites.get(node.compute_site or "") or next(iter(self.sites.values()))
        template["on_submit_host"] = item.is_on_submit_host(site)
        template["bps_own"] = item.is_bps_own
        if str(self.written.value(node, "overwriteJobFiles")).lower() in _NO:
            template["log_each_attempt"] = True
        return template, own

    def _number_of(self, environment: dict[str, Any]) -> int:
        """Return the number that stands for an environment in the plan, which others may read."""
        text = json.dumps(environment, default=str)
        number = self.first_environment + len(self.environments)
        return self.environments.setdefault(text, (number, environment))[0]

    def _missing_values(self, job: GenericWorkflowJob) -> dict[str, object]:
        """Return values of variables for which BPS gathers none: those of
        ``preCmdline`` and ``postCmdline``, and of the command of
        ``bps submitcmd``.
        """
        texts = (job.arguments, job.pre_cmdline, job.post_cmdline)
        wanted = set(placeholders(" ".join(filter(None, texts)))) - set(job.cmdvals or ())
        if not wanted:
            return {}
        # BPS's names for what differs from job to job, as in its commands.
        own = {"jobName": job.name, "jobLabel": job.label, **(job.tags or {}), "label": job.label}
        values: dict[str, object] = {}
        for name in sorted(wanted):
            if name in own:
                values[name] = own[name]
            elif name.isidentifier() and (value := self.written.value(job, name, own)) is not None:
                values[name] = value
        return values


_NO = frozenset(("false", "no", "off", "0"))
"""Values that are no, also of a text, which BPS's variables make of them."""

_KINDS = {
    GenericWorkflowNodeType.NOOP: JobKind.NOOP,
    GenericWorkflowNodeType.GROUP: JobKind.GROUP,
}
