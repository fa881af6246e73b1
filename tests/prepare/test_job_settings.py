# SPDX-License-Identifier: BSD-3-Clause
"""What of the configuration reaches the jobs of a label: variables, and where they write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps import GenericWorkflow, GenericWorkflowJob
from lsst.ctrl.bps.parsl.driver.tasks import Task
from lsst.ctrl.bps.parsl.job import ParslJob
from lsst.ctrl.bps.parsl.prepare.submission import config_complaints

from .test_translate import Setting, add, make_job


def tasks_of(setting: Setting, *jobs: GenericWorkflowJob, attempt: int = 1, **config: Any) -> dict[str, Task]:
    """Return what Parsl is given for an attempt of jobs, by their names; the last one is the final job."""
    for key, value in config.items():
        setting.config[key] = value
    workflow = add(GenericWorkflow("w"), *jobs[:-1])
    workflow.add_final(jobs[-1])
    plan = setting.translate(workflow)
    maker = setting.maker(plan)
    return {plan.job(number).name: maker.make(number, attempt, None) for number in range(len(plan))}


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """A submit directory and a site."""
    return Setting(tmp_path)


def test_names_that_bps_knows_in_commands(setting: Setting) -> None:
    """``{jobName}``, ``{jobLabel}``, the label and the data id are those of each job in ``preCmdline`` and
    ``postCmdline``, also within other variables; a variable of the final job's section is in its commands.
    """
    code = "echo {jobName} {jobLabel} {label} {visit} '{mark}' {more} {nothing}"
    jobs = [
        make_job(f"j{n}", "isr", tags={"visit": n}, pre_cmdline=code, post_cmdline=code) for n in range(2)
    ]
    final = make_job("finalJob", "finalJob", pre_cmdline="echo {jobName} {mark} {more} {text} {visit}")
    config: dict[str, Any] = {
        "mark": "{jobLabel}: {more}",
        "more": "<{jobName}>",
        "finalJob": {"text": "its own"},
    }
    tasks = tasks_of(setting, *jobs, final, **config)
    for n in range(2):
        said = f"echo j{n} isr isr {n} '''isr: <j{n}>''' '<j{n}>' {{nothing}}"
        assert tasks[f"j{n}"].spec["pre"] == tasks[f"j{n}"].spec["post"] == said
    assert (
        tasks["finalJob"].spec["pre"] == "echo finalJob finalJob: '<finalJob>' '<finalJob>' its own {visit}"
    )


def test_one_directory_for_logs(setting: Setting) -> None:
    """``subDirTemplate`` is for all labels."""
    jobs = [make_job("a", "isr", tags={"visit": 5}), make_job("final", "finalJob")]
    tasks = tasks_of(setting, *jobs)
    stems = {name: os.path.relpath(task.spec["stdout"], setting.paths.logs) for name, task in tasks.items()}
    assert stems == {"a": "isr/5/a.stdout", "final": "finalJob/final.stdout"}


def test_directories_for_logs_by_label(setting: Setting) -> None:
    """``subDirTemplate`` may be one for each label; a label that it has not has no directory."""
    jobs = [
        make_job("a", "isr", tags={"visit": 5}),
        make_job("b", "coadd", tags={"tract": 7}),
        make_job("c", "other"),
        make_job("final", "finalJob"),
    ]
    templates = {"isr": "{label}/{visit}", "coadd": "coadds/{tract}/{band}", "finalJob": None}
    tasks = tasks_of(setting, *jobs, subDirTemplate=templates)
    stems = {name: os.path.relpath(task.spec["stdout"], setting.paths.logs) for name, task in tasks.items()}
    assert stems == {
        "a": "isr/5/a.stdout",
        "b": "coadds/7/b.stdout",
        "c": "c.stdout",
        "final": "final.stdout",
    }
    # So do those who make a job of their own.
    assert ParslJob(jobs[0], setting.config, {}).stderr == str(setting.paths.logs / "isr/5/a.stderr")


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({}, []),
        ({"overwriteJobFiles": True}, []),
        ({"overwriteJobFiles": False}, ["a", "b", "final"]),
        ({"overwriteJobFiles": "{keep}", "keep": False}, ["a", "b", "final"]),
        ({"pipetask": {"isr": {"overwriteJobFiles": False}}}, ["a"]),
        ({"cluster": {"coadd": {"overwriteJobFiles": False}}}, ["b"]),
        ({"finalJob": {"overwriteJobFiles": False}}, ["final"]),
        ({"overwriteJobFiles": False, "pipetask": {"isr": {"overwriteJobFiles": True}}}, ["b", "final"]),
    ],
)
def test_log_files_of_each_attempt(setting: Setting, config: dict[str, Any], own: list[str]) -> None:
    """With ``overwriteJobFiles: false``, of the run or of a label, each attempt has log files of its own."""
    jobs = [make_job("a", "isr"), make_job("b", "coadd"), make_job("final", "finalJob")]
    tasks = tasks_of(setting, *jobs, attempt=3, **config)
    for name, task in tasks.items():
        for stream in ("stdout", "stderr"):
            wanted = f"{name}.attempt3.{stream}" if name in own else f"{name}.{stream}"
            assert os.path.basename(task.spec[stream]) == wanted


def test_log_files_at_a_site(tmp_path: Path) -> None:
    """The section of a site has it for its jobs."""
    setting = Setting(tmp_path, overwriteJobFiles=False)
    jobs = [make_job("a", "isr", compute_site="here"), make_job("final", "finalJob")]
    assert tasks_of(setting, *jobs)["a"].spec["stdout"].endswith("/a.attempt1.stdout")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["a"], "subDirTemplate: ['a']: a text is wanted, or one for each label."),
        (5, "subDirTemplate: 5: a text is wanted, or one for each label."),
        ({"isr": "{label}", "coadd": ["a"]}, "subDirTemplate.coadd: ['a']: a text is wanted."),
        ({"isr": "{label}", "coadd": {"x": "y"}}, "subDirTemplate.coadd: {'x': 'y'}: a text is wanted."),
    ],
)
def test_directories_for_logs_that_are_none(setting: Setting, value: object, said: str) -> None:
    """What is no text is refused."""
    setting.config["subDirTemplate"] = value
    assert config_complaints(setting.config) == [said]


@pytest.mark.parametrize("value", ["", None, "{label}", {"isr": "{label}", "coadd": None}])
def test_directories_for_logs(setting: Setting, value: object) -> None:
    """A text is a template, also an empty one, and so is one for each label."""
    setting.config["subDirTemplate"] = value
    assert config_complaints(setting.config) == []


def test_directories_by_label_and_quantum_graphs_of_jobs(setting: Setting) -> None:
    """BPS itself, which makes directories for these by the same template, knows no mapping: it would end in a
    traceback.
    """
    setting.config["whenSaveJobQgraph"] = "TRANSFORM"
    assert config_complaints(setting.config) == []
    setting.config["subDirTemplate"] = {"isr": "{label}"}
    (said,) = config_complaints(setting.config)
    assert "subDirTemplate" in said
    assert "whenSaveJobQgraph: TRANSFORM" in said
