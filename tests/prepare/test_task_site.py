# SPDX-License-Identifier: BSD-3-Clause
"""From which site's section BPS reads a job's settings, as ``doc/use.rst`` says of its releases."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lsst.ctrl.bps.transform import create_final_job, create_generic_workflow, create_init_workflow

from lsst.ctrl.bps import BPS_DEFAULTS, BPS_SEARCH_ORDER, BpsConfig, GenericWorkflow, GenericWorkflowFile

RUN, OTHER = 111, 222
"""Memory (MB) in the section of the run's site, and of the other one."""

AS_NEW = hasattr(BpsConfig, "get_search_opts")
"""Whether this is BPS 30.2026.4300 or later."""

THERE = {"computeSite": "there"}


def config_for(directory: Path, **settings: Any) -> BpsConfig:
    site = {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 1}
    sites = {"here": {**site, "requestMemory": RUN}, "there": {**site, "requestMemory": OTHER}}
    given = {
        "uniqProcName": "u",
        "submitPath": str(directory),
        "payload": {"payloadName": "p", "butlerConfig": "b", "runInit": False},
        **dict.fromkeys(("project", "campaign", "operator"), "x"),
        "runQgraphFile": "/x.qg",
        "computeSite": "here",
        "site": sites,
        **settings,
    }
    config = BpsConfig(
        given,
        search_order=BPS_SEARCH_ORDER,
        defaults=BPS_DEFAULTS,
        wms_service_class_fqn="lsst.ctrl.bps.parsl.ParslService",
    )
    del config["requestMemory"]
    return config


class Clusters:
    """A clustered graph with one cluster, of one quantum of the task ``isr``."""

    qgraph = None
    name = "u"

    def __init__(self, label: str) -> None:
        self._cluster = SimpleNamespace(
            name="j", label=label, quanta_counts=Counter(isr=1), tags={}, qgraph_node_ids=[1]
        )

    def clusters(self) -> list[SimpleNamespace]:
        return [self._cluster]

    def get_quantum_info(self, node_id: int) -> dict[str, str]:
        return {"task_label": "isr"}

    def successors(self, parent: object) -> list[object]:
        return []


@pytest.mark.parametrize(
    ("label", "settings", "memory"),
    [
        ("isr", {}, RUN),
        ("isr", {"pipetask": {"isr": THERE}}, OTHER if AS_NEW else RUN),
        ("isr", {"cluster": {"isr": THERE}}, OTHER),
        ("group", {"cluster": {"group": {"pipetasks": "isr", **THERE}}}, OTHER),
        ("group", {"cluster": {"group": {"pipetasks": "isr"}}, "pipetask": {"isr": THERE}}, RUN),
        ("isr", {"pipetask": {"isr": {**THERE, "requestMemory": 5}}}, 5),
    ],
)
def test_job_of_the_pipeline(tmp_path: Path, label: str, settings: dict[str, Any], memory: int) -> None:
    """A task's ``computeSite`` counts since 30.2026.4300, a cluster's in each release."""
    config = config_for(tmp_path, finalJob={"whenRun": "NEVER"}, **settings)
    job = create_generic_workflow(config, Clusters(label), "u", str(tmp_path)).get_job("j")
    assert job.compute_site == ("there" if settings else "here")
    assert job.request_memory == memory


def test_jobs_of_bps(tmp_path: Path) -> None:
    """``pipetaskInit`` and the final job have what their site's section says, in each release."""
    config = config_for(
        tmp_path,
        pipetask={"pipetaskInit": THERE},
        finalJob={**THERE, "command1": "true"},
    )
    del config[".finalJob.requestMemory"]
    file = GenericWorkflowFile("runQgraphFile", "/x.qg")
    init = create_init_workflow(config, None, file).get_job("pipetaskInit")
    workflow = GenericWorkflow("w")
    workflow.add_file(file)
    final = create_final_job(config, workflow, str(tmp_path))
    assert (init.request_memory, final.request_memory) == (OTHER, OTHER)
