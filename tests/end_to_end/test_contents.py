# SPDX-License-Identifier: BSD-3-Clause
"""What is in a job reaches it unchanged, and nothing else of it runs."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps import GenericWorkflowFile, GenericWorkflowGroup, GenericWorkflowNoopJob
from lsst.ctrl.bps.parsl.errors import RunFailedError, WorkflowError

from .support import Sandbox, Step, assert_done_once, node_events

TELL = """\
import json, os, sys
names = [name for name in os.environ if name.startswith("TEST_") or name == "PATH"]
environ = {name: os.environ[name] for name in names}
with open(sys.argv[1], "w") as stream:
    json.dump({"argv": sys.argv[2:], "environ": environ, "cwd": os.getcwd()}, stream)
print("told")
"""

NASTY = {
    "newline": "one\ntwo\n",
    "quotes": 'it\'s "so"',
    "dollar": "$HOME ${HOME} $(touch {box}/ran1) $$ $5",
    "backtick": "`touch {box}/ran2`",
    "semicolon": "; touch {box}/ran3 &",
    "backslash": "a\\ b\\n \\\\",
    "glob": "* ? [a-z] ~ {a,b}",
    "unicode": "Ångström ☃ 日本",
    "options": "-rf --help",
    "blanks": "  a \t b  ",
    "percent": "%s %(x)s {x} {{y}} #c ! | < > 2>&1",
}


@pytest.fixture
def tell(box: Sandbox) -> Path:
    """A script that writes its arguments and environment into a file."""
    path = box.path / "tell.py"
    path.write_text(f"#!{sys.executable} -IS\n{TELL}")
    path.chmod(0o755)
    return path


def told(box: Sandbox, name: str) -> dict[str, Any]:
    """Return what a job told."""
    content: dict[str, Any] = json.loads((box.path / f"{name}.json").read_text())
    return content


def run(box: Sandbox, *steps: Step, **settings: Any) -> None:
    """Run some jobs to their end."""
    workflow = box.prepare(steps, **settings)
    with box.as_process():
        workflow.run()


def test_values(box: Sandbox, tell: Path) -> None:
    """Values of commands and of the environment reach the job unchanged,
    whatever they hold, quoted or not, and nothing in them is executed.
    """
    values = {name: text.replace("{box}", str(box.path)) for name, text in NASTY.items()}
    steps = []
    for name, value in values.items():
        quoted = f"{box.path}/{name}.json \"{{v}}\" '{{v}}' x{{w}}y"
        fields = {
            "cmdvals": {"v": value, "w": "plain"},
            "environment": {"TEST_VALUE": value, "TEST_EMPTY": ""},
        }
        steps.append(Step(name, executable=str(tell), arguments=quoted, fields=fields))
    run(box, *steps)
    for name, value in values.items():
        content = told(box, name)
        assert content["argv"] == [value, value, "xplainy"], name
        assert content["environ"]["TEST_VALUE"] == value, name
        assert content["environ"]["TEST_EMPTY"] == "", name
        assert content["cwd"] == str(box.path)
    assert not list(box.path.glob("ran*"))


def test_values_with_a_shell(box: Sandbox, tell: Path) -> None:
    """The same where the command line is one that needs a shell."""
    values = {name: text.replace("{box}", str(box.path)) for name, text in NASTY.items()}
    steps = [
        Step(
            name,
            executable=str(tell),
            arguments=f"{box.path}/{name}.json \"{{v}}\" '{{v}}' && echo done",
            fields={"cmdvals": {"v": value}},
        )
        for name, value in values.items()
    ]
    run(box, *steps)
    for name, value in values.items():
        assert told(box, name)["argv"] == [value, value], name
    assert not list(box.path.glob("ran*"))
    assert (box.submit_path / "logs/step/newline.stdout").read_text() == "told\ndone\n"


def test_environment_variables_of_the_job(box: Sandbox, tell: Path) -> None:
    """BPS's ``<ENV:name>`` is filled in on the node, with the job's own
    variables too; what the value holds is not executed.
    """
    box.env["TEST_OUTSIDE"] = f"$(touch {box.path}/ran) ; x"
    argument = f"{box.path}/env.json <ENV:TEST_OUTSIDE> <ENV:TEST_INSIDE>/y"
    fields = {"environment": {"TEST_INSIDE": "in side", "TEST_BOTH": "<ENV:TEST_OUTSIDE>+"}}
    run(box, Step("env", executable=str(tell), arguments=argument, fields=fields))
    content = told(box, "env")
    assert content["argv"] == [box.env["TEST_OUTSIDE"], "in side/y"]
    assert content["environ"]["TEST_BOTH"] == box.env["TEST_OUTSIDE"] + "+"
    assert not (box.path / "ran").exists()


NAMES = {
    "slash": "a/b/c",
    "spaces": "name with  spaces",
    "quotes": 'it\'s "quoted" `x` $y; z',
    "unicode": "Ångström_☃_日本",
    "long": "n" * 300,
    "long other": "n" * 299 + "m",
    "long unicode": "☃" * 300,
    "above": "../../x",
    "absolute": "/etc/x",
    "case": "Name",
    "other case": "name",
    "dots": "..",
    "dash": "-rf",
    "newline": "two\nlines",
    "braces": "{label}",
    "hidden": ".hidden",
    "replaced": "a_b_c",
}


def test_names(box: Sandbox) -> None:
    """Jobs and labels may have any name: each job runs once and has log files
    of its own below the logs directory; report shows them.
    """
    labels = ["plain", "with {braces}", "a/b", "../..", "x y;z"]
    steps = [
        Step(name, label=labels[number % len(labels)], executable="/bin/echo", arguments=f"{number}")
        for number, name in enumerate(NAMES.values())
    ]
    run(box, *steps)
    assert_done_once(box.submit_path)
    logs = [path for path in (box.submit_path / "logs").rglob("*") if path.is_file()]
    assert len(logs) == 2 * len(NAMES)
    folded = {str(path).casefold() for path in logs if "Name" not in path.name and path.name != "name"}
    assert len(folded) >= 2 * len(NAMES) - 4
    said = sorted(path.read_text() for path in logs if path.suffix == ".stdout")
    assert said == sorted(f"{number}\n" for number in range(len(NAMES)))
    outside = {path.name for path in box.path.iterdir()} - {
        "home",
        "tmp",
        "out",
        "state",
        "step.sh",
        "submit",
    }
    assert not outside
    assert [path.name for path in (box.path / "submit").iterdir()] == ["run"]
    report = box.bps("report", "--id", "run").succeeded()
    for label in labels:
        assert label in report.stdout


def test_failing_names(box: Sandbox) -> None:
    """A failing job of whatever name is reported, and its log is found."""
    steps = [
        Step(name, label="[bold]{x}", executable="/bin/sh", arguments="-c 'echo moan >&2; exit 3'")
        for name in (NAMES["above"], "[red]brackets[/red]", NAMES["newline"])
    ]
    box.prepare(steps)
    failed = box.bps("restart", "--id", "run").complained(
        "3 jobs of run failed", "[red]brackets[/red]", "[bold]{x}"
    )
    assert failed.stderr.count("| moan") == 3


def test_command_prefix(box: Sandbox, tell: Path) -> None:
    """``commandPrefix`` is bash code that runs before each job's command,
    with and without a shell; its braces and quotes are its own.
    """
    prefix = 'set -e; export TEST_PREFIX="it\'s ${USER} $(echo {a,b})"\ntest -n "$TEST_PREFIX"'
    run(
        box,
        Step("words", executable=str(tell), arguments=f"{box.path}/words.json 'a  b' \"c\""),
        Step("shell", executable=str(tell), arguments=f'{box.path}/shell.json "$TEST_PREFIX" | cat'),
        site={"commandPrefix": prefix},
    )
    assert told(box, "words")["environ"]["TEST_PREFIX"] == "it's tester a b"
    assert told(box, "words")["argv"] == ["a  b", "c"]
    assert told(box, "shell")["argv"] == ["it's tester a b"]


def test_failing_prefix(box: Sandbox) -> None:
    """A prefix that ends the shell keeps the command from running, and its
    exit code is the job's.
    """
    workflow = box.prepare([Step("a")], site={"commandPrefix": "exit 9"})
    with box.as_process(), pytest.raises(RunFailedError, match="run failed"):
        workflow.run()
    assert not box.steps("begin")
    report = box.bps("report", "--id", "run", "--return-exit-codes").succeeded()
    assert " 9" in report.stdout[report.stdout.index("PAYLOAD ERROR COUNT") :]


def test_too_many_cpus(box: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    """Jobs that ask for more CPUs than the site has get them all, one at a
    time, with one warning for each label.
    """
    steps = [
        Step(f"{label}{n}", label=label, fields={"request_cpus": 64}) for label in "ab" for n in range(3)
    ]
    with caplog.at_level(logging.WARNING):
        run(box, *steps)
    warnings = [record.getMessage() for record in caplog.records if "64 CPUs" in record.getMessage()]
    assert len(warnings) == 2
    assert all("2" in warning for warning in warnings)
    lines = (box.path / "steps.txt").read_text().splitlines()
    for begin, end in zip(lines[::2], lines[1::2], strict=True):
        assert begin.replace("begin", "end") == end, "two ran at once"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("request_memory", 9000, "asks for 9000 MB; the most that site local has for a job is 4096 MB"),
        ("priority", "high", "its priority is 'high'; a whole number is wanted"),
        ("arguments", "<FILE:nothing> x", "its command names <FILE:nothing>"),
        ("arguments", "'open", "cannot be read"),
        ("arguments", "x" * 140_000, "an argument of its command has 140000 bytes"),
    ],
    ids=["memory", "priority", "file", "quotation", "argument"],
)
def test_impossible_job(box: Sandbox, field: str, value: object, said: str) -> None:
    """A job that could never run is named before anything is submitted."""
    steps = [Step("good"), Step("bad", fields={field: value})]
    with pytest.raises(WorkflowError) as caught:
        box.prepare(steps, site={"memory": "4 GB"})
    assert "Job bad" in caught.value.message
    assert said in caught.value.message
    assert "good" not in caught.value.message
    assert not (box.submit_path / "parsl/plan.jsonl").exists()


def test_long_command_line(box: Sandbox, tell: Path) -> None:
    """A command line of more than 128 KiB in many words is no trouble, with a
    shell and without.
    """
    words = " ".join(f"word{number}" for number in range(30_000))
    assert len(words) > 2 * 128 * 1024
    run(
        box,
        Step("words", executable=str(tell), arguments=f"{box.path}/words.json {words}"),
        Step("shell", executable=str(tell), arguments=f"{box.path}/shell.json {words} && true"),
    )
    for name in ("words", "shell"):
        assert len(told(box, name)["argv"]) == 30_000


def test_files(box: Sandbox, tell: Path) -> None:
    """``<FILE:name>`` stands for the file's path, as one word."""
    workflow = box.generic(
        [Step("a", executable=str(tell), arguments=f"{box.path}/a.json <FILE:in> --out=<FILE:out>")]
    )
    workflow.add_job_inputs("a", [GenericWorkflowFile("in", "/with a space/$in", True)])
    workflow.add_job_outputs("a", [GenericWorkflowFile("out", "/out;put", True)])
    box.prepare(workflow)
    box.bps("restart", "--id", "run").succeeded()
    assert told(box, "a")["argv"] == ["/with a space/$in", "--out=/out;put"]


def test_cyclic_graph(box: Sandbox) -> None:
    """Jobs that wait for each other in a circle: the circle is named."""
    steps = [Step("start"), Step("a", ["start", "c"]), Step("b", ["a"]), Step("c", ["b"])]
    with pytest.raises(WorkflowError) as caught:
        box.prepare(steps)
    assert "in a circle: " in caught.value.message
    circle = caught.value.message.split("in a circle: ")[1].rstrip(".").split(" -> ")
    assert circle[0] == circle[-1]
    assert set(circle) == {"a", "b", "c"}


def test_empty_workflow(box: Sandbox) -> None:
    """A workflow of no jobs succeeds, and so does one of a final job only."""
    box.prepare([])
    box.bps("restart", "--id", "run").succeeded()
    box.bps("status", "--id", "run").succeeded()
    box.bps("report", "--id", "run").succeeded()
    box.prepare([], "last", final=Step("final", label="finalJob"))
    box.bps("restart", "--id", "last").succeeded()
    assert box.steps("end") == ["final"]


def test_groups(box: Sandbox) -> None:
    """A group waits for what is before it, and what is after it waits for the
    success of all of it. Noop nodes order jobs and run nothing.
    """
    workflow = box.generic([Step("before"), Step("after")])
    group = GenericWorkflowGroup("group", "group")
    for step in (Step("g1"), Step("g2")):
        group.add_job(box.job(step))
    workflow.add_job(group, parent_names=["before"])
    workflow.add_job(GenericWorkflowNoopJob("noop", "order"), parent_names=["group"], child_names=["after"])
    run_steps = box.prepare(workflow)
    box.break_step("g1")
    with box.as_process(), pytest.raises(RunFailedError):
        run_steps.run()
    assert box.steps("end") == ["before", "g2"]
    assert box.steps("begin")[0] == "before"
    box.mend_step("g1")
    with box.as_process():
        run_steps.run()
    assert box.steps("end") == ["before", "g2", "g1", "after"]


@pytest.mark.parametrize(
    ("command", "code"), [("/no/such/program", 127), ("/etc/passwd", 126), ("no_such_program", 127)]
)
def test_command_cannot_start(box: Sandbox, command: str, code: int) -> None:
    """A command that cannot start is not tried again; the log and the summary
    say why.
    """
    box.prepare([Step("a", executable=command, fields={"number_of_retries": 3})])
    failed = box.bps("restart", "--id", "run").complained("cannot start", command)
    assert "will be run again" not in failed.stderr
    assert node_events(box.submit_path, "start")["a"] <= 1
    report = box.bps("report", "--id", "run", "--return-exit-codes").succeeded()
    assert str(code) in report.stdout[report.stdout.index("INFRASTRUCTURE ERROR COUNT") :]


@pytest.mark.slow
def test_memory_grows(box: Sandbox) -> None:
    """A job that is killed with signal 9 gets more memory at each attempt, up
    to the most it may have, and is then given up.
    """
    fields = {
        "request_memory": 100,
        "request_memory_max": 300,
        "memory_multiplier": 2,
        "number_of_retries": 5,
    }
    box.prepare([Step("a", executable="/bin/sh", arguments="-c 'kill -9 $$'", fields=fields)])
    box.bps("restart", "--id", "run").complained("out of memory", "asked for 300 MB, the most it may have")
    assert node_events(box.submit_path, "start")["a"] == 3


def test_jobs_leave_nothing(box: Sandbox) -> None:
    """A process that a job leaves behind in its group ends with the job; it
    gets no terminal and no descriptors of ours.
    """
    script = "ls -l /proc/self/fd | wc -l; cat; sleep 300 & exit 0"
    run(box, Step("a", executable="/bin/sh", arguments=f"-c '{script}'"))
    box.assert_nothing_runs()
    # "total", 0, 1, 2 and the directory itself.
    assert (box.submit_path / "logs/step/a.stdout").read_text().split() == ["5"]


def test_secrets_stay_private(box: Sandbox, tell: Path) -> None:
    """A secret of the environment is in no command line, no log, no journal
    and no file that others can read; variables of this session stay behind.
    """
    box.env |= {"TEST_TOKEN": "tuna-sandwich", "SSH_AUTH_SOCK": "/tmp/x", "SLURM_JOB_ID": "5"}
    names = '-c \'env | cut -d= -f1; sleep 0; tr "\\0" " " </proc/$PPID/cmdline\''
    workflow = box.prepare([Step("a", executable="/bin/sh", arguments=names)])
    with box.as_process():
        workflow.run()
    out = (box.submit_path / "logs/step/a.stdout").read_text()
    assert "TEST_TOKEN" in out.split()
    assert "tuna-sandwich" not in out
    leaking = [
        str(path)
        for path in box.submit_path.rglob("*")
        if path.is_file() and b"tuna-sandwich" in path.read_bytes() and os.stat(path).st_mode & 0o077
    ]
    assert not leaking
