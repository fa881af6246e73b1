# SPDX-License-Identifier: BSD-3-Clause
"""Runs to which one of their jobs adds the others (BPS's ``bpsBatchSubmission``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lsst.ctrl.bps import BpsConfig, GenericWorkflow, GenericWorkflowNode

from ..configuration import get_bps_config_value
from ..errors import ConfigurationError
from ..paths import SubmitPaths
from ..plan.plan import Plan

if TYPE_CHECKING:
    from .flatten import Node

__all__ = ["is_for_live_run", "is_lazy", "lazy_complaints"]


def is_lazy(node: GenericWorkflowNode) -> bool:
    """Tell whether a job adds others to the run (BPS's ``GenericWorkflowLazyGroup``).

    Parameters
    ----------
    node : `lsst.ctrl.bps.GenericWorkflowNode`
        A node; BPS has no such jobs before its version 30.2026.4300.

    Returns
    -------
    is_lazy : `bool`
        Whether it does.
    """
    return str(node.node_type.name) == "LAZY_GROUP"


def lazy_complaints(workflow: GenericWorkflow, nodes: Mapping[str, Node]) -> list[str]:
    """Look for what cannot be done beside jobs that one of the workflow's adds.

    Parameters
    ----------
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        The workflow.
    nodes : `~collections.abc.Mapping` [`str`, `Node`]
        Its nodes.

    Returns
    -------
    complaints : `list` [`str`]
        What is wrong.
    """
    lazy = [name for name, item in nodes.items() if is_lazy(item.node)]
    complaints = []
    if len(lazy) > 1:
        complaints.append(f"A run can have one job that adds others (a lazy group); this has {_and(lazy)}.")
    after = sorted({name for name, item in nodes.items() if set(item.parents) & set(lazy)})
    if after:
        complaints.append(
            f"{_and(after)} would run after {_and(lazy)}, which adds jobs to the run; put it among these."
        )
    if lazy and workflow.get_final() is not None:
        complaints.append(f"The final job has to be among those that {_and(lazy)} adds to the run.")
    return complaints


def _and(names: list[str]) -> str:
    return " and ".join(names)


def is_for_live_run(workflow: GenericWorkflow, config: BpsConfig, paths: SubmitPaths) -> bool:
    """Tell whether a workflow is the second part of the run that is there.

    Parameters
    ----------
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        The workflow that is to be prepared.
    config : `lsst.ctrl.bps.BpsConfig`
        Its configuration.
    paths : `SubmitPaths`
        Where it is to be prepared.

    Returns
    -------
    is_payload : `bool`
        `True` where there is a run of its name that waits for more jobs.

    Raises
    ------
    ConfigurationError
        Raised if there is a run that does not.
    """
    if not paths.plan.exists() or paths.plan.is_symlink():
        return False
    plan = Plan(paths.plan)
    name = get_bps_config_value(config, "uniqProcName", str, workflow.name)
    is_first = any(is_lazy(workflow.get_job(node)) for node in workflow.nodes)
    if plan.lazy_job is None or plan.run != name or is_first:
        raise ConfigurationError(
            f"submitPath: {paths.submit_path} exists, and has a run. Choose another one, or resume "
            f"the run in it with: bps restart --id {paths.submit_path}"
        )
    return True
