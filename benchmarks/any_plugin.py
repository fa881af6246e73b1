# SPDX-License-Identifier: BSD-3-Clause
"""Run a workflow with whatever plugin is installed.

It uses only what this plugin and the released one have in common.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lsst.ctrl.bps import BpsConfig, GenericWorkflow

__all__ = ["prepare"]


def prepare(workflow: GenericWorkflow, directory: str, site: Mapping[str, Any]) -> tuple[Any, Any]:
    """Prepare a workflow for this machine.

    Parameters
    ----------
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        The workflow.
    directory : `str`
        Directory of the run, which becomes the current one.
    site : `~collections.abc.Mapping` [`str`, `~typing.Any`]
        Settings of the site; its class is ``Local`` by default.

    Returns
    -------
    service : `object`
        The plugin's service.
    prepared : `object`
        What it prepared, for its method ``submit``.
    """
    from lsst.ctrl.bps.parsl import ParslService

    os.chdir(directory)
    os.environ["BPS_PARSL_STATE_DIR"] = f"{directory}/state"
    config = BpsConfig(
        {
            "computeSite": "local",
            "site": {"local": {"class": "lsst.ctrl.bps.parsl.sites.Local", **site}},
            "submitPath": f"{directory}/submit",
            "subDirTemplate": "{label}",
            "uniqProcName": "benchmark",
            "operator": "bench",
            "project": "bench",
            "campaign": "",
        }
    )
    os.mkdir(f"{directory}/submit")
    service = ParslService(config)
    return service, service.prepare(config, workflow, f"{directory}/submit")
