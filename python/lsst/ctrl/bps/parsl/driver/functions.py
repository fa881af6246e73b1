# SPDX-License-Identifier: BSD-3-Clause
"""What Parsl is given to call for a job.

Parsl names a task after its function, and so do its monitoring and Work
Queue's categories: each label has a function of its own, made of one code.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from ..node import client
from ..node.setup import NodeSetup
from ..paths import SubmitPaths
from ..site import SiteConfig

__all__ = [
    "Function",
    "command_ending_with_driver",
    "function_here",
    "function_on_worker",
    "node_package",
    "worker_setup",
]

Function = Callable[..., dict[str, Any]]

_ONE_PROCESS_EACH = {"WorkQueueExecutor", "TaskVineExecutor"}
"""Parsl's executors whose workers start a process for each task."""


def node_package() -> str:
    """Return the directory of the code that workers load."""
    return str(Path(str(client.__file__)).parent)


def worker_setup(setup: NodeSetup, site: SiteConfig, executor: object) -> NodeSetup:
    """Describe the run to the workers of an executor that are other processes.

    Parameters
    ----------
    setup : `~lsst.ctrl.bps.parsl.node.setup.NodeSetup`
        What does not depend on the executor.
    site : `~lsst.ctrl.bps.parsl.site.SiteConfig`
        The executor's site.
    executor : `object`
        The executor, of one of Parsl's classes.

    Returns
    -------
    setup : `~lsst.ctrl.bps.parsl.node.setup.NodeSetup`
        All that a worker has to know.
    """
    own_process = any(kind.__name__ in _ONE_PROCESS_EACH for kind in type(executor).__mro__)
    # Work Queue and TaskVine count what the jobs of a node have.
    capacity = {} if own_process else site.get_capacity()
    return replace(
        setup,
        export=site.settings.environment,
        package=node_package(),
        shared=True,
        own_process=own_process,
        cpus=capacity.get("cpus"),
        memory=capacity.get("memory"),
    )


@cache
def function_here(label: str) -> Function:
    """Return the function for an executor whose workers are threads of this process.

    Parameters
    ----------
    label : `str`
        Label of the jobs.

    Returns
    -------
    function : `~collections.abc.Callable`
        `~lsst.ctrl.bps.parsl.node.client.run_job` by the name of the label.
    """
    return FunctionType(client.run_job.__code__, client.__dict__, label)


@cache
def function_on_worker(label: str) -> Function:
    """Return the function for an executor that sends it to other processes.

    Parameters
    ----------
    label : `str`
        Label of the jobs.

    Returns
    -------
    function : `~collections.abc.Callable`
        A function that is sent as code: as a reference, it would have each
        worker import all of BPS, which takes seconds.
    """
    function = FunctionType(_run_on_worker.__code__, {"__builtins__": __builtins__}, label)
    function.__module__ = "__main__"
    return function


def command_ending_with_driver(paths: SubmitPaths, command: Sequence[str]) -> list[str]:
    """Return the command of a process that must not outlive this one.

    Parameters
    ----------
    paths : `SubmitPaths`
        Where the run is.
    command : `~collections.abc.Sequence` [`str`]
        The command; the program is looked for beside this Python first.

    Returns
    -------
    command : `list` [`str`]
        The command for `~lsst.ctrl.bps.parsl.node.ends_with_parent`.
    """
    program, *arguments = command
    here = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    found = shutil.which(program, path=here) or program
    script = os.path.join(node_package(), "ends_with_parent.py")
    python = [sys.executable, "-I", "-S", script]
    return [*python, str(os.getpid()), str(paths.submit_path), found, *arguments]


def _run_on_worker(setup: dict[str, Any], spec: dict[str, Any], **parsl: Any) -> dict[str, Any]:
    import importlib.util
    import sys

    name = "bps_parsl_node"
    if name not in sys.modules:
        directory = setup["package"]
        found = importlib.util.spec_from_file_location(
            name, f"{directory}/__init__.py", submodule_search_locations=[directory]
        )
        assert found is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
    made = importlib.import_module(f"{name}.setup").NodeSetup(**setup)
    result: dict[str, Any] = importlib.import_module(f"{name}.client").run_job(made, spec)
    return result
