# SPDX-License-Identifier: BSD-3-Clause
"""What the user wrote as a command reaches bash as it was written, whatever BPS made of it."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lsst.ctrl.bps.transform import _enhance_command, _get_job_values, _handle_job_values

from lsst.ctrl.bps import (
    BpsConfig,
    GenericWorkflow,
    GenericWorkflowExec,
    GenericWorkflowFile,
    GenericWorkflowJob,
)
from lsst.ctrl.bps.parsl.driver.sites import Sites
from lsst.ctrl.bps.parsl.driver.tasks import TaskMaker
from lsst.ctrl.bps.parsl.errors import WorkflowError
from lsst.ctrl.bps.parsl.node.records import expand
from lsst.ctrl.bps.parsl.node.script import bash_code
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.prepare.translate import translate
from lsst.ctrl.bps.parsl.sites import Local

ENVIRON = {
    "PATH": os.environ["PATH"],
    "LC_ALL": "C.UTF-8",
    "A": "1",
    "B": "x y",
    "P": "/a/b.txt",
    "EMPTY": "",
    "STAR": "*",
}

TEXTS = (
    "$A",
    "${A}",
    '"$A"',
    '"${A}"',
    "'$A'",
    "'${A}'",
    "$A > {submitPath}/x; cat {submitPath}/x",
    '"$A" > "{submitPath}/x" && cat {submitPath}/x',
    "${A} > {submitPath}/x; cat {submitPath}/x",
    "$A {submitPath} $A",
    "x$A/y",
    "${A}x",
    "${A}${B}",
    "$A:$B",
    "$B",
    '"$B"',
    "x$B",
    "'$B' $B \"$B\"",
    "$EMPTY",
    '"$EMPTY"',
    "$NOT_SET end",
    "$STAR",
    '"$STAR"',
    "$A | cat",
    "$A; true",
    "$A && true",
    "\\$A",
    '"\\$A"',
    "\\\\$A",
    '"it\'s $A"',
    "'say \"$A\"'",
    "${NOT_SET:-$A}",
    "${NOT_SET:-${A}}",
    "${NOT_SET:-a b}",
    "${P##*/}",
    "${P%.txt}",
    "${P/b/c}",
    "${#P}",
    '"${P:1:2}"',
    "$(echo z)",
    '"$(echo "a  b")"',
    "$(echo $A > {submitPath}/x; cat {submitPath}/x)",
    '"$(basename "$P")"',
    "$((1+1))",
    "$((A+1))",
    '"$((1 + $A))"',
    "`echo $A`",
    "$? x",
    '"$?"',
    "$# $1 end",
    '"$@" end',
    "$$ > {submitPath}/x; test -s {submitPath}/x",
    "'$$' '$?' '$1'",
    "$",
    "a$ b",
    '"$ $"',
    "$'a\\tb'",
    "$A # a comment of $B",
    "$(echo 'a b' | awk '{print $2}')",
    "a b | awk '{print $2}'",
    "$A {a,$A} ${A}",
    "$A\necho $B > {submitPath}/x\ncat {submitPath}/x",
    "$A <<END\n$B {submitPath}\nEND\ncat <<END\n$B {mood}\nEND",
    "for {submitPath} $A > /dev/null",
    "<(echo $A) > /dev/null",
)


def config_for(directory: Path, **settings: Any) -> BpsConfig:
    return BpsConfig(
        {
            "uniqProcName": "u_me_x",
            "submitPath": str(directory / "run"),
            "subDirTemplate": "{label}",
            "whenSaveJobQgraph": "NEVER",
            "wmsAttemptNum": "${BPS_PARSL_ATTEMPT}",
            "mood": "good",
            "computeSite": "here",
            "site": {"here": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 4}},
            **settings,
        }
    )


def bps_job(config: BpsConfig, label: str = "l") -> tuple[GenericWorkflow, GenericWorkflowJob]:
    """Have BPS make a job, as it does for a task of the pipeline."""
    options = {
        "curvals": {"curr_pipetask": label},
        "replaceVars": False,
        "expandEnvVars": False,
        "replaceEnvVars": True,
        "required": False,
    }
    job = GenericWorkflowJob("j", label)
    values = _get_job_values(config, options, "runQuantumCommand")
    _handle_job_values({**values, "name": "j", "label": label}, job)
    job.quanta_counts = Counter({label: 1})
    workflow = GenericWorkflow("w")
    file = GenericWorkflowFile("runQgraphFile", f"{config['submitPath']}/x.qg")
    workflow.add_file(file)
    workflow.add_job(job)
    workflow.add_job_inputs("j", [file])
    _enhance_command(config, workflow, job, {})
    return workflow, job


def spec_of(config: BpsConfig, workflow: GenericWorkflow) -> dict[str, Any]:
    """Return what the node is told to run."""
    site = Local(config)
    paths = SubmitPaths(config["submitPath"])
    paths.create()
    translate(config, workflow, site, paths).write(paths)
    sites = Sites(site)
    sites.parsl_config()
    return TaskMaker(Plan(paths.plan), config, sites, paths).make(0, 1, None).spec


def run(argv: list[str], directory: Path) -> tuple[int, bytes, bytes]:
    """Run a command; return its status and what it printed, without where bash saw it."""
    done = subprocess.run(
        argv, cwd=directory, env=ENVIRON, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return done.returncode, done.stdout, done.stderr.rpartition(b": ")[2]


def run_spec(spec: dict[str, Any], directory: Path) -> tuple[int, bytes, bytes]:
    words = [expand(word, ENVIRON) for word in spec.get("argv", ())]
    code = bash_code(spec, "")
    return run(words if code is None else ["/bin/bash", "-c", code, "bash", *words], directory)


def by_bash(written: str, config: BpsConfig, directory: Path) -> tuple[int, bytes, bytes]:
    """Run a text as it was written, but for BPS's variables."""
    for name in ("submitPath", "mood"):
        written = written.replace(f"{{{name}}}", config[name])
    return run(["/bin/bash", "-c", written], directory)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory with two files, and the environment of the jobs."""
    for name in ("one", "two"):
        (tmp_path / name).touch()
    for name in ("A", "B", "P", "EMPTY", "STAR"):
        monkeypatch.setenv(name, ENVIRON[name])
    monkeypatch.delenv("NOT_SET", raising=False)
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.mark.parametrize("text", TEXTS)
def test_command(directory: Path, text: str) -> None:
    """``runQuantumCommand`` does what bash does with the same text."""
    written = f"echo {text}"
    config = config_for(directory, runQuantumCommand=written)
    workflow, _ = bps_job(config)
    spec = spec_of(config, workflow)
    assert run_spec(spec, directory) == by_bash(written, config, directory)


@pytest.mark.parametrize("key", ["preCmdline", "postCmdline"])
@pytest.mark.parametrize("text", TEXTS)
def test_command_around(directory: Path, key: str, text: str) -> None:
    """So do ``preCmdline`` and ``postCmdline``."""
    written = f"echo {text}"
    config = config_for(directory, runQuantumCommand="test -d .", **{key: written})
    workflow, _ = bps_job(config)
    spec = spec_of(config, workflow)
    assert run_spec(spec, directory) == by_bash(written, config, directory)


@pytest.mark.parametrize("key", ["runQuantumCommand", "preCmdline"])
@pytest.mark.parametrize(
    "text", ["echo $A{mood}", 'echo "$A{mood}"', "echo $A{mood} $(true)", "echo ${A}{mood}"]
)
def test_value_after_a_variable(directory: Path, key: str, text: str) -> None:
    """A value of BPS's that follows a variable is not a part of its name."""
    config = config_for(directory, **{"runQuantumCommand": "test -d .", key: text})
    workflow, _ = bps_job(config)
    assert run_spec(spec_of(config, workflow), directory)[1] == b"1good\n"


@pytest.mark.parametrize("key", ["runQuantumCommand", "preCmdline"])
def test_name_in_the_braces_of_the_shell(directory: Path, key: str) -> None:
    """``${name}`` is a variable, also where BPS has a value of that name, and a job a file."""
    written = ": ; mood=$A; runQgraphFile=$A; echo ${mood} ${runQgraphFile} {mood} ${label}"
    config = config_for(directory, **{"runQuantumCommand": "test -d .", key: written})
    workflow, _ = bps_job(config)
    assert run_spec(spec_of(config, workflow), directory)[1] == b"1 1 good\n"


def test_files_and_the_attempt(directory: Path) -> None:
    """The job's files and the number of the attempt are found beside variables."""
    config = config_for(directory, runQuantumCommand="echo $A {qgraphFile} {wmsAttemptNum} $A")
    workflow, _ = bps_job(config)
    spec = spec_of(config, workflow)
    words = [expand(word, {**ENVIRON, "BPS_PARSL_ATTEMPT": "3"}) for word in spec["argv"]]
    assert words == ["echo", "1", f"{config['submitPath']}/x.qg", "3", "1"]


def test_no_shell_where_none_is_needed(directory: Path) -> None:
    """A variable that stands for one word, or is quoted, needs no bash: such jobs are forked from a warm
    process. An unquoted one that bash would split is left to it.
    """
    for written, is_shell in {
        "${A}/bin/tool $A {mood}": False,
        "$NOT_SET/bin/tool x": False,
        'tool "$B" "x $EMPTY" \'$B\'': False,
        "tool $B": True,
        "tool $EMPTY": True,
        "tool $NOT_SET": True,
    }.items():
        config = config_for(directory, runQuantumCommand=written)
        workflow, job = bps_job(config)
        (directory / "run" / "parsl" / "plan.jsonl").unlink(missing_ok=True)
        assert ("script" in spec_of(config, workflow)) == is_shell, written
        assert job.label == "l"


def test_value_with_a_variable(directory: Path) -> None:
    """A value of a command may have variables, and values of BPS's beside them."""
    options = "--a $A/x --b {mood} --c ${A}>{mood} '$B' \\$A"
    config = config_for(
        directory, runQuantumCommand="echo {options} {plain}", options=options, plain="$A {mood}"
    )
    workflow, _ = bps_job(config)
    spec = spec_of(config, workflow)
    words = [expand(word, ENVIRON) for word in spec["argv"]]
    assert words == ["echo", "--a", "1/x", "--b", "good", "--c", "1>good", "x y", "$A", "1", "good"]


@pytest.mark.parametrize(
    "written", ["echo $A > {submitPath}/x; cat {submitPath}/x", "echo ${A} $(echo {mood})"]
)
def test_command_that_bps_has_filled_in(directory: Path, written: str) -> None:
    """It makes no difference that BPS fills in a command itself (``useLazyCommands: false``)."""
    config = config_for(directory, runQuantumCommand=written, useLazyCommands=False)
    workflow, _ = bps_job(config)
    assert run_spec(spec_of(config, workflow), directory) == by_bash(written, config, directory)


@pytest.mark.parametrize("section", ["pipetask", "cluster", "site", "payload"])
def test_command_of_a_section(directory: Path, section: str) -> None:
    """A command is found wherever BPS finds it; another job's, with which it might be confused, is not
    taken for it.
    """
    written = "echo $B > {submitPath}/x; cat {submitPath}/x"
    config = config_for(directory, runQuantumCommand="echo other", preCmdline="echo $A > /dev/null")
    where = {"pipetask": ".pipetask.l", "cluster": ".cluster.l", "site": ".site.here", "payload": ".payload"}
    config[f"{where[section]}.preCmdline"] = written
    options = {"curvals": {"curr_pipetask": "l", "curr_cluster": "l", "curr_site": "here"}}
    _, made = config.search(
        "preCmdline", {**options, "expandEnvVars": False, "replaceEnvVars": True, "replaceVars": False}
    )
    workflow, job = bps_job(config)
    job.pre_cmdline = made
    assert spec_of(config, workflow)["pre"].startswith("echo $B > ")


def test_final_job(directory: Path) -> None:
    """BPS fills in ``preCmdline`` of its final job with the values of the submit host; here it is left to
    bash on the node.
    """
    written = "echo '$A' $A {mood} $(echo $B)"
    config = config_for(directory, finalJob={"preCmdline": written, "mood": "final"})
    _, made = config.search("preCmdline", {"searchobj": config["finalJob"], "curvals": {}, "default": None})
    assert "'1'" in made
    workflow = GenericWorkflow("w")
    job = GenericWorkflowJob("finalJob", "finalJob", pre_cmdline=made)
    job.executable = GenericWorkflowExec("true", "true", False)
    workflow.add_job(job)
    assert spec_of(config, workflow)["pre"] == "echo '$A' $A final $(echo $B)"


@pytest.mark.parametrize("field", ["pre_cmdline", "post_cmdline", "arguments"])
def test_text_that_cannot_be_restored(directory: Path, field: str) -> None:
    """What is not from the configuration, and has lost what was around a variable, is refused with what to
    write instead.
    """
    config = config_for(directory, runQuantumCommand="echo x")
    workflow, job = bps_job(config)
    setattr(job, field, "echo <ENV:HOME > {submitPath>}/x")
    with pytest.raises(WorkflowError) as caught:
        spec_of(config, workflow)
    assert "Job j" in caught.value.message
    assert "Write ${NAME} for $NAME: " in caught.value.message
    assert "echo <ENV:HOME > {submitPath>}/x" in caught.value.message


def test_text_with_clear_variables_is_not_refused(directory: Path) -> None:
    """A workflow that was made by hand may have ``<ENV:name>``."""
    config = config_for(directory, runQuantumCommand="echo x")
    workflow, job = bps_job(config)
    job.arguments = "<ENV:A>/x '<ENV:A/y>'"
    job.pre_cmdline = "echo <ENV:NOT_SET:-a b> > /dev/null"
    spec = spec_of(config, workflow)
    assert run_spec(spec, directory)[1] == b"1/x 1/y\n"
