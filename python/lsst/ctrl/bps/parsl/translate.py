# SPDX-License-Identifier: BSD-3-Clause
"""From BPS's generic workflow to the plan."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import networkx

from lsst.ctrl.bps import (
    BpsConfig,
    GenericWorkflow,
    GenericWorkflowGroup,
    GenericWorkflowJob,
    GenericWorkflowNode,
    GenericWorkflowNodeType,
)

from .command import LONGEST_WORD
from .configuration import get_bps_config_value
from .errors import WorkflowError
from .job import DEFAULTS, get_file_paths, job_command
from .plan import JobKind, write_plan
from .site import SiteConfig
from .site_section import config_for_site

__all__ = ["translate"]

SUBMIT_HOST_JOBS = ("pipetaskInit", "finalJob")
"""BPS's own jobs; they are short of work and run beside the driver."""

START_SECONDS = 10
"""Time that a worker needs at least before it can run a job."""

_MOST_COMPLAINTS = 10
_NUMBERS = (
    "priority",
    "number_of_retries",
    "retry_unless_exit",
    "request_memory",
    "request_memory_max",
    "request_cpus",
    "request_disk",
    "request_walltime",
)
_OWN_FIELDS = ("cmdvals", "tags")
_FIELDS = tuple(name for name in DEFAULTS if name not in ("executable", *_OWN_FIELDS))


@dataclass
class _Node:
    """A node of the flattened workflow."""

    node: GenericWorkflowNode
    workflow: GenericWorkflow
    parents: list[str]
    final: bool


def translate(
    config: BpsConfig, workflow: GenericWorkflow, site: SiteConfig, path: Any
) -> dict[str, SiteConfig]:
    """Write the plan of a workflow.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        The workflow.
    site : `SiteConfig`
        Where the jobs will run.
    path : `pathlib.Path`
        File of the plan.

    Returns
    -------
    sites : `dict` [`str`, `SiteConfig`]
        ``site``, and the sites that jobs name, by their names.

    Raises
    ------
    WorkflowError
        Raised with what makes the workflow impossible to run.
    """
    nodes = flatten(workflow)
    order = topological_order(nodes)
    sites = _sites(config, nodes, site)
    complaints = check_jobs(nodes, sites)
    if complaints:
        raise WorkflowError(_joined(complaints))
    _, log_template = config.search("subDirTemplate", opt={"replaceVars": False, "default": ""})
    shared = _shared_files(nodes)
    header = {
        "run": get_bps_config_value(config, "uniqProcName", str, workflow.name),
        "workflow": workflow.name,
        "attributes": workflow.run_attrs,
        "labels": _labels(workflow),
        "cwd": os.getcwd(),
        "sites": sorted(sites),
        "log_template": log_template,
        "files": shared,
    }
    write_plan(path, header, _plan_lines(nodes, order, shared))
    return sites


def _joined(complaints: list[str]) -> str:
    if len(complaints) == 1:
        return complaints[0]
    shown = complaints[:_MOST_COMPLAINTS]
    if len(complaints) > len(shown):
        shown.append(f"... and {len(complaints) - len(shown)} more")
    return "\n  - ".join([f"{len(complaints)} problems in the workflow:", *shown])


def _labels(workflow: GenericWorkflow) -> list[str]:
    final = workflow.get_final()
    last = final.labels if isinstance(final, GenericWorkflow) else [final.label] if final else []
    try:
        return [*workflow.labels, *last]
    except networkx.NetworkXUnfeasible:
        return []  # Jobs of two labels take turns; there is no order.


def flatten(workflow: GenericWorkflow) -> dict[str, _Node]:
    """Put the jobs of all groups, and the final jobs, side by side.

    Parameters
    ----------
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        The workflow.

    Returns
    -------
    nodes : `dict` [`str`, `_Node`]
        Nodes by name. A group stands for its end: what it depends on, its
        first jobs depend on; and it depends on its last ones.

    Raises
    ------
    WorkflowError
        Raised if two nodes have one name.
    """
    nodes: dict[str, _Node] = {}
    todo: list[tuple[GenericWorkflow, list[str], bool]] = [(workflow, [], False)]
    final = workflow.get_final()
    if isinstance(final, GenericWorkflow):
        todo.append((final, [], True))
    elif final is not None:
        nodes[final.name] = _Node(final, workflow, [], True)
    while todo:
        part, before, is_final = todo.pop()
        for name in part.nodes:
            node = part.get_job(name)
            parents = list(part.predecessors(name)) or before
            if name in nodes:
                raise WorkflowError(f"Two jobs of the workflow have the name {name!r}.")
            if node.node_type == GenericWorkflowNodeType.GROUP:
                assert isinstance(node, GenericWorkflowGroup)
                last = [member for member in node.nodes if not node.out_degree(member)]
                todo.append((node, parents, is_final))
                parents = last or parents
            nodes[name] = _Node(node, part, parents, is_final)
    return nodes


def topological_order(nodes: dict[str, _Node]) -> list[str]:
    """Order nodes so that each comes after its parents.

    Parameters
    ----------
    nodes : `dict` [`str`, `_Node`]
        The nodes.

    Returns
    -------
    order : `list` [`str`]
        Their names.

    Raises
    ------
    WorkflowError
        Raised if nodes wait for each other in a circle.
    """
    children: dict[str, list[str]] = {name: [] for name in nodes}
    waiting = {}
    for name, node in nodes.items():
        waiting[name] = len(node.parents)
        for parent in node.parents:
            children[parent].append(name)
    ready = deque(name for name, count in waiting.items() if not count)
    order = []
    while ready:
        name = ready.popleft()
        order.append(name)
        for child in children[name]:
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    if len(order) < len(nodes):
        graph = networkx.DiGraph((name, child) for name in nodes for child in children[name])
        cycle = [edge[0] for edge in networkx.find_cycle(graph)]
        circle = " -> ".join([*cycle, cycle[0]])
        raise WorkflowError(f"Jobs of the workflow wait for each other in a circle: {circle}.")
    return order


def _sites(config: BpsConfig, nodes: dict[str, _Node], site: SiteConfig) -> dict[str, SiteConfig]:
    """Make the sites that jobs name."""
    names = {getattr(item.node, "compute_site", None) for item in nodes.values()}
    sites = {site.name or "": site}
    for name in sorted(filter(None, names - set(sites))):
        sites[name] = SiteConfig.from_config(config_for_site(config, name))
        sites[name].check()
    return sites


def check_jobs(nodes: dict[str, _Node], sites: Mapping[str, SiteConfig]) -> list[str]:
    """Look for jobs that could never run.

    Parameters
    ----------
    nodes : `dict` [`str`, `_Node`]
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
            on_host = job.label in SUBMIT_HOST_JOBS or item.final
            name_of_site = job.compute_site or usual
            capacity = {} if on_host else capacities[name_of_site]
            complaint = _job_complaint(job, item, name_of_site, capacity)
            if complaint is not None:
                complaints.setdefault((job.label, complaint), []).append(name)
    # What is wrong with a label's jobs is mostly wrong with all of them.
    return [
        f"Job {names[0]}{f' (and {len(names) - 1} more of {label})' if len(names) > 1 else ''}: {complaint}"
        for (label, complaint), names in complaints.items()
    ]


def _job_complaint(
    job: GenericWorkflowJob, item: _Node, site: str, capacity: Mapping[str, float | None]
) -> str | None:
    for key in _NUMBERS:
        value = getattr(job, key)
        for number in value if key == "retry_unless_exit" and isinstance(value, list) else [value]:
            if number not in (None, "") and not _is_whole_number(number):
                return f"its {key} is {value!r}; a whole number is wanted."
    if job.memory_multiplier is not None and not _is_number(job.memory_multiplier):
        return f"its memory_multiplier is {job.memory_multiplier!r}; a number is wanted."
    memory, walltime = capacity.get("memory"), capacity.get("walltime")
    if memory is not None and int(job.request_memory or 0) > memory:
        return (
            f"it asks for {job.request_memory} MB; the most that site {site} has for a job is "
            f"{memory:.0f} MB. Set requestMemory of {job.label} to less, or use a site with more."
        )
    asked = 60 * int(job.request_walltime or 0)
    if walltime is not None and asked and asked > walltime - START_SECONDS:
        return (
            f"it asks for {job.request_walltime} minutes; the workers of site {site} last "
            f"{walltime / 60:.0f} minutes, with their start. Set requestWalltime of {job.label} to less, "
            "or walltime of the site to more."
        )
    try:
        command = job_command(job, get_file_paths(item.workflow, job.name))
    except KeyError as exc:
        return f"its command names <FILE:{exc.args[0]}>, and the job has no such file."
    except ValueError as exc:
        return f"its command cannot be read: {exc}: {job.arguments}"
    longest = max((len(os.fsencode(word)) for word in command.words or ()), default=0)
    if longest > LONGEST_WORD:
        return (
            f"an argument of its command has {longest} bytes; Linux takes {LONGEST_WORD}. "
            f"Put fewer quanta into a job of {job.label}."
        )
    return None


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]  # That is the question.
    except (TypeError, ValueError):
        return False
    return True


def _is_whole_number(value: object) -> bool:
    try:
        int(value)  # type: ignore[call-overload]  # That is the question.
    except (OverflowError, TypeError, ValueError):
        return False
    return True


def _shared_files(nodes: dict[str, _Node]) -> dict[str, str]:
    """Return the files that more than one job has."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, item in nodes.items():
        counts.update(get_file_paths(item.workflow, name).items())
    return {file: path for (file, path), count in counts.items() if count > 1}


def _plan_lines(
    nodes: dict[str, _Node], order: list[str], shared: dict[str, str]
) -> Iterator[tuple[Any, ...]]:
    numbers: dict[str, int] = {}
    for number, name in enumerate(order):
        item = nodes[name]
        parents = sorted(numbers[parent] for parent in item.parents)
        numbers[name] = number
        template, own = _describe(item)
        files = get_file_paths(item.workflow, name)
        own_files = {file: path for file, path in files.items() if shared.get(file) != path}
        yield name, template, parents, own, own_files


def _describe(item: _Node) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a node shares with others, and what is its own."""
    node = item.node
    template: dict[str, Any] = {"label": node.label, "kind": _KINDS[node.node_type], "final": item.final}
    if isinstance(node, GenericWorkflowGroup):
        template["blocking"] = node.blocking
    if not isinstance(node, GenericWorkflowJob):
        return template, {}
    fields = {}
    for name in _FIELDS:
        value = getattr(node, name)
        if value is not None and value != DEFAULTS[name]:
            fields[name] = value
    own = {name: value for name in _OWN_FIELDS if (value := getattr(node, name))}
    if node.executable is not None:
        executable = node.executable
        fields["executable"] = {
            "name": executable.name,
            "src_uri": executable.src_uri,
            "transfer_executable": executable.transfer_executable,
        }
    if "cmdvals" not in own and "arguments" in fields:
        # Without values to fill in, each job has its own text.
        own["arguments"] = fields.pop("arguments")
    template["fields"] = fields
    template["on_submit_host"] = item.final or node.label in SUBMIT_HOST_JOBS
    return template, own


_KINDS = {
    GenericWorkflowNodeType.PAYLOAD: JobKind.PAYLOAD,
    GenericWorkflowNodeType.NOOP: JobKind.NOOP,
    GenericWorkflowNodeType.GROUP: JobKind.GROUP,
}
