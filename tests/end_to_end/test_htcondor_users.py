# SPDX-License-Identifier: BSD-3-Clause
"""YAML that was written for BPS's plugin for HTCondor: what is said of it, and that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from .support import HERE, Sandbox
from .test_bps_settings import Scripted, make_scripted, report_table
from .test_pipeline import submit_path_of

FILES = HERE / "htcondor"
HEAD = "WARNING: Keys of the HTCondor plugin that have no effect here: "

SAID = {
    "nodeset": (
        "profile.condor (use constraint or scheduler_options of the site); releaseExpr (use numberOfRetries)."
    ),
    "provisioned": (
        "provisioning (use walltime, partition, account and max_blocks of the site); "
        "nodeset (blocks run the jobs of one run); wmsConfig (it configures DAGMan)."
    ),
    "payload_command": (
        "bpsMakeCommand, payloadCommand, jobCleanup (use preCmdline and postCmdline); "
        "setupEnv (use worker_init of the site, or commandPrefix)."
    ),
}
"""What is said of each file."""


@pytest.fixture(scope="module")
def scripted(shared_tiny: Sandbox) -> Scripted:
    """The tiny pipeline; its quanta are small scripts."""
    return make_scripted(shared_tiny)


@pytest.fixture
def pipeline(box: Sandbox, scripted: Scripted) -> Scripted:
    """The same in a sandbox of one test."""
    return scripted.moved(box)


def adapted(pipeline: Scripted, name: str, **more: Any) -> Path:
    """Write what the user adds: the file itself is included as it stands. Only the pipeline is ours."""
    ours = yaml.safe_load(pipeline.write(name).read_text())
    keys = "submitPath createQuantumGraph pipelineYaml runQuantumCommand pipetask finalJob".split()
    content = {key: ours[key] for key in keys}
    content["payload"] = {"butlerConfig": "none", "dataQuery": "none"}
    content["includeConfigs"] = [str(FILES / f"{name}.yaml")]
    content["operator"] = "tester"
    content["finalJob"].update(requestCpus=1, requestMemory=512)
    content["site"] = {"s3df": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2}}
    path = pipeline.box.path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, **more}, sort_keys=False))
    return path


@pytest.mark.some(1)
@pytest.mark.parametrize("name", SAID)
def test_files_of_users(pipeline: Scripted, name: str) -> None:
    """With a site class, the file runs; one line says which keys have no effect, and what to use."""
    box = pipeline.box
    box.env["NODESET"] = "tester_20260115"
    done = box.bps("submit", adapted(pipeline, name)).succeeded()
    lines = [line for line in done.stderr.splitlines() if "HTCondor" in line]
    said = SAID[name].replace("nodeset (", "provisionResources (this site has no blocks); nodeset (")
    assert [line.partition(" ")[2] for line in lines] == [HEAD + said]
    assert report_table(box, submit_path_of(done.stdout))["TOTAL"]["SUCCEEDED"] == 8


@pytest.mark.parametrize("name", SAID)
def test_files_at_a_facility(pipeline: Scripted, name: str) -> None:
    """With nothing but the service's name, the file can be prepared for its facility: its class is known."""
    box = pipeline.box
    box.env["NODESET"] = "tester_20260115"
    done = box.bps("prepare", adapted(pipeline, name, site={})).succeeded()
    assert done.stderr.count("HTCondor") == 1
    assert HEAD + SAID[name] in done.stderr


def test_logs_of_attempts_and_labels(pipeline: Scripted) -> None:
    """``overwriteJobFiles`` and ``subDirTemplate`` of the file do what they do with HTCondor."""
    done = pipeline.box.bps("submit", adapted(pipeline, "provisioned")).succeeded()
    logs = submit_path_of(done.stdout) / "logs"
    found = sorted(str(path.relative_to(logs)) for path in logs.rglob("*.stdout"))
    assert [name for name in found if "isr" not in name and "combine" not in name] == [
        "final/finalJob.attempt1.stdout",
        "pipetaskInit.attempt1.stdout",
    ]
    assert sum(name.startswith(("isr/g/", "isr/r/")) for name in found) == 4
    assert all(name.endswith(".attempt1.stdout") for name in found)


def test_keys_that_the_user_makes_use_of(pipeline: Scripted) -> None:
    """``commandPrefix`` with the file's own set-up is a translation, of which nothing is said."""
    box = pipeline.box
    site = {
        "s3df": {
            "class": "lsst.ctrl.bps.parsl.sites.Local",
            "cores": 2,
            "commandPrefix": "{setupEnv}",
        }
    }
    more = {"setupEnv": f"touch {box.path}/set.up.{{lsstVersion}}", "postCmdline": "{jobCleanup}"}
    (box.path / "butler_cache").mkdir()
    box.env["TMPDIR"] = str(box.path)
    done = box.bps("submit", adapted(pipeline, "payload_command", site=site, **more)).succeeded()
    assert f"{HEAD}bpsMakeCommand, payloadCommand (use preCmdline and postCmdline)." in done.stderr
    assert (box.path / "set.up.w_2026_30").exists()
    assert not (box.path / "butler_cache").exists()
