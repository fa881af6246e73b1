# SPDX-License-Identifier: BSD-3-Clause
"""BPS's generic workflow, all groups put side by side."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import networkx

from lsst.ctrl.bps import (
    GenericWorkflow,
    GenericWorkflowGroup,
    GenericWorkflowNode,
    GenericWorkflowNodeType,
)

from ..errors import WorkflowError
from ..settings.types import WORKERS
from ..site import SiteConfig

__all__ = ["Node", "flatten", "topological_order"]

INIT_JOB, FINAL_JOB = "pipetaskInit", "finalJob"
"""Labels of the jobs that BPS adds to the pipeline's."""


@dataclass
class Node:
    """A node of the flattened workflow."""

    node: GenericWorkflowNode
    workflow: GenericWorkflow
    parents: list[str]
    final: bool
    tolerant: bool = False
    """Whether it comes to its end whatever became of its parents."""

    @property
    def is_bps_own(self) -> bool:
        """Whether it is one of the jobs that BPS adds to the pipeline's."""
        return self.final or self.node.label in (INIT_JOB, FINAL_JOB)

    def is_on_submit_host(self, site: SiteConfig) -> bool:
        """Tell whether a job runs beside the driver.

        Parameters
        ----------
        site : `SiteConfig`
            The job's site.

        Returns
        -------
        on_submit_host : `bool`
            `True` for BPS's own jobs, which are short of work; for the final
            one unless the site says ``finalJob: workers``.
        """
        is_final = self.final or self.node.label == FINAL_JOB
        return self.is_bps_own and not (is_final and site.settings.finalJob == WORKERS)


def flatten(workflow: GenericWorkflow) -> dict[str, Node]:
    """Put the jobs of all groups, and the final jobs, side by side.

    Parameters
    ----------
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        The workflow.

    Returns
    -------
    nodes : `dict` [`str`, `Node`]
        Nodes by name. A group stands for its end: what it depends on, its
        first jobs depend on; and it depends on its last ones. A group that
        does not block the next ones has another node for these, which comes
        to its end also after failures.

    Raises
    ------
    WorkflowError
        Raised if two nodes have one name, or an edge has a node that there is
        not.

    Notes
    -----
    BPS says of ``blocking`` whether a failure in a group blocks the remaining
    groups. Everything else that comes after a group needs what it makes, and
    does not run after a failure: so it is with the HTCondor plugin.
    """
    nodes: dict[str, Node] = {}
    todo: list[tuple[GenericWorkflow, list[str], bool]] = [(workflow, [], False)]
    final = workflow.get_final()
    if isinstance(final, GenericWorkflow):
        todo.append((final, [], True))
    elif final is not None:
        nodes[final.name] = Node(final, workflow, [], True)
    while todo:
        part, before, is_final = todo.pop()
        _check_edges(part)
        for name in part.nodes:
            node = part.get_job(name)
            parents = _parents(part, node, before)
            if name in nodes:
                raise WorkflowError(f"Two jobs of the workflow have the name {name!r}.")
            if node.node_type == GenericWorkflowNodeType.GROUP:
                assert isinstance(node, GenericWorkflowGroup)
                last = [member for member in node.nodes if _is_last(node, member)]
                todo.append((node, parents, is_final))
                parents = last or parents
                if any(_passes(node, part.get_job(child)) for child in part.successors(name)):
                    nodes[_tolerant_end(name)] = Node(node, part, parents, is_final, tolerant=True)
            nodes[name] = Node(node, part, parents, is_final)
    return nodes


def _check_edges(part: GenericWorkflow) -> None:
    """Complain of nodes that are none: networkx makes one of each name in an edge."""
    for name, job in part.nodes(data="job"):
        if job is None:
            others = [
                *(f"comes before {other}" for other in part.successors(name)),
                *(f"comes after {other}" for other in part.predecessors(name)),
            ]
            raise WorkflowError(
                f"{name!r} {' and '.join(others) or 'is a node'}, and the workflow has no such job."
            )


def _tolerant_end(group: str) -> str:
    return f"{group} (whatever became of it)"


def _passes(node: GenericWorkflowNode, child: GenericWorkflowNode) -> bool:
    """Tell whether a child runs whatever became of its parent."""
    is_next = isinstance(child, GenericWorkflowGroup) and child.label == node.label
    return is_next and isinstance(node, GenericWorkflowGroup) and not node.blocking


def _parents(part: GenericWorkflow, node: GenericWorkflowNode, before: list[str]) -> list[str]:
    """Return the nodes that a node waits for; ``before`` are those of its group."""
    if not isinstance(node, GenericWorkflowGroup):
        return list(part.predecessors(node.name)) or before
    others = [part.get_job(name) for name in part.predecessors(node.name)]
    passed = [_tolerant_end(other.name) for other in others if _passes(other, node)]
    needed = [other.name for other in others if not _passes(other, node)]
    # What needs the success of one in the group needs what the group needs.
    return [*passed, *(needed or before)]


def _is_last(group: GenericWorkflowGroup, member: str) -> bool:
    """Tell whether no other member of a group needs the success of one."""
    node = group.get_job(member)
    return all(_passes(node, group.get_job(child)) for child in group.successors(member))


def topological_order(nodes: dict[str, Node]) -> list[str]:
    """Order nodes so that each comes after its parents.

    Parameters
    ----------
    nodes : `dict` [`str`, `Node`]
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
        graph: networkx.DiGraph[str] = networkx.DiGraph()
        graph.add_edges_from((name, child) for name in nodes for child in children[name])
        cycle = [edge[0] for edge in networkx.find_cycle(graph)]
        circle = " -> ".join([*cycle, cycle[0]])
        raise WorkflowError(f"Jobs of the workflow wait for each other in a circle: {circle}.")
    return order
