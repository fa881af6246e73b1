# SPDX-License-Identifier: BSD-3-Clause
"""A job as sites see it."""

from __future__ import annotations

from typing import Any

import pytest

from lsst.ctrl.bps import (
    BpsConfig,
    GenericWorkflow,
    GenericWorkflowExec,
    GenericWorkflowFile,
    GenericWorkflowJob,
)
from lsst.ctrl.bps.parsl import ParslJob, get_file_paths


def make_job(arguments: str = "", files: dict[str, str | None] | None = None, **fields: Any) -> ParslJob:
    executable = GenericWorkflowExec("tool", "/bin/tool")
    generic = GenericWorkflowJob("j", "isr", executable=executable, arguments=arguments, **fields)
    config = BpsConfig({"submitPath": "/runs/x", "subDirTemplate": "{label}/{visit}"})
    return ParslJob(generic, config, files or {})


def test_attributes() -> None:
    """What users' site classes read is there: name, BPS's description, configuration, files."""
    job = make_job(files={"f": "/x"}, request_memory=4096)
    assert job.name == "j"
    assert job.generic.request_memory == 4096
    assert job.config["submitPath"] == "/runs/x"
    assert job.file_paths == {"f": "/x"}
    assert "j" in repr(job)


def test_logs_are_where_bps_template_says() -> None:
    """``<submitPath>/logs/<subDirTemplate>/<name>``, from the label and the tags."""
    job = make_job(tags={"visit": 12, "band": "r"})
    assert job.stdout == "/runs/x/logs/isr/12/j.stdout"
    assert job.stderr == "/runs/x/logs/isr/12/j.stderr"


def test_resources_have_work_queues_names() -> None:
    """Memory and disk in MB, cores, time in minutes; the priority only where there is one."""
    assert make_job().get_resources() == {"memory": 0, "cores": 1, "disk": 0, "running_time_min": 0}
    job = make_job(request_memory=2048, request_cpus=4, request_disk=10, request_walltime="90", priority="7")
    assert job.get_resources() == {
        "memory": 2048,
        "cores": 4,
        "disk": 10,
        "running_time_min": 5400,
        "priority": 7,
    }
    assert "priority" not in make_job(priority="").get_resources()
    assert make_job(priority=0).get_resources()["priority"] == 0


def test_command_line_is_bash() -> None:
    """The command line has the values and files in it, quoted where need be; variables are still named."""
    job = make_job("-b {repo} <FILE:f> <ENV:HOME>/x", {"f": "/a b"}, cmdvals={"repo": "r"})
    assert job.get_command_line() == """/bin/tool -b r '/a b' "${HOME}"/x"""
    assert job.get_command_line(False) == job.get_command_line(allow_stage=True)


def test_command_is_evaluated_here_and_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """``evaluate_command_line`` puts values, files and this process's variables into a command."""
    monkeypatch.setenv("V_HERE", "here")
    job = make_job(files={"f": "/x", "none": None}, cmdvals={"repo": "r"})
    assert job.evaluate_command_line("tool {repo} <FILE:f> <ENV:V_HERE>/y") == "tool r /x here/y"


def test_command_needs_neither_arguments_nor_values() -> None:
    """A command may be an executable and nothing else."""
    generic = GenericWorkflowJob(
        "j", "l", executable=GenericWorkflowExec("true", "/bin/true"), arguments=None
    )
    assert ParslJob(generic, BpsConfig({}), {}).command.words == ["/bin/true"]


def test_files_of_a_job_are_its_inputs_and_outputs() -> None:
    """``get_file_paths`` has the paths of all of a job's files, and of no other job's."""
    workflow = GenericWorkflow("w")
    executable = GenericWorkflowExec("true", "/bin/true")
    for name in ("a", "b"):
        workflow.add_job(GenericWorkflowJob(name, "l", executable=executable))
    workflow.add_job_inputs("a", [GenericWorkflowFile("in", "/in")])
    workflow.add_job_outputs("a", [GenericWorkflowFile("out", "/out")])
    workflow.add_job_inputs("b", [GenericWorkflowFile("other", "/other")])
    assert get_file_paths(workflow, "a") == {"in": "/in", "out": "/out"}
    assert get_file_paths(workflow, "b") == {"other": "/other"}
