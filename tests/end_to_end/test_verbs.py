# SPDX-License-Identifier: BSD-3-Clause
"""The verbs of ``bps``, and the names that they take for a run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lsst.ctrl.bps import WmsStates

from .support import SERVICE, Running, Sandbox, Step, events_of_kind, node_events, wait_until


@dataclass
class Runs:
    """A run in each state."""

    box: Sandbox
    going: Running


@pytest.fixture(scope="module")
def runs(shared_box: Sandbox) -> Iterator[Runs]:
    """Make a run that waits, one that goes on, and those that have ended."""
    box = shared_box
    box.prepare([Step("a")], "ready_run")
    for name in ("cancelled_run", "dead_run", "going_run"):
        box.prepare([Step("a"), Step("b", ["a"])], name)
    box.prepare([Step("a")], "succeeded_run")
    box.bps("restart", "--id", "succeeded_run").succeeded()
    box.break_step("bad", 3)
    box.break_step("worse", 1)
    steps = [Step("bad"), Step("worse"), Step("after", ["bad"], label="late")]
    box.prepare(steps, "failed_run")
    box.bps("restart", "--id", "failed_run").complained()
    box.hold("b")
    cancelled = box.fork("restart", "--id", "cancelled_run")
    wait_until(lambda: "b" in box.steps("begin"), "the second job begins")
    box.bps("cancel", "--id", "cancelled_run").succeeded()
    cancelled.finish().complained()
    dead = box.fork("restart", "--id", "dead_run")
    wait_until(lambda: box.steps("begin").count("b") == 2, "the second job begins")
    dead.kill()
    going = box.fork("restart", "--id", "going_run")
    wait_until(lambda: box.steps("begin").count("b") == 3, "the second job begins")
    path = box.submit_path.with_name("going_run")
    wait_until(lambda: node_events(path, "start")["b"], "its node has written that it runs")
    yield Runs(box, going)
    box.let_go("b")
    going.finish().succeeded()


STATES = {
    "ready_run": WmsStates.READY,
    "going_run": WmsStates.RUNNING,
    "succeeded_run": WmsStates.SUCCEEDED,
    "failed_run": WmsStates.FAILED,
    "cancelled_run": WmsStates.DELETED,
    "dead_run": WmsStates.FAILED,
}


@pytest.mark.parametrize("name", STATES)
def test_state(runs: Runs, name: str) -> None:
    """Status exits with the state; report says the same."""
    assert runs.box.bps("status", "--id", name).code == STATES[name].value
    report = runs.box.bps("report", "--id", name).succeeded()
    assert re.search(rf"^.?\s*{STATES[name].name} .* {name} ", report.stdout, re.MULTILINE), str(report)


@pytest.mark.some(2)
@pytest.mark.parametrize("form", ["whole", "beginning", "absolute", "relative", "slash", "dot"])
def test_names_of_a_run(runs: Runs, form: str) -> None:
    """A run is found by its id, by the beginning of it, and by its submit
    path, absolute or relative to where the command is given.
    """
    box = runs.box
    path = box.submit_path.with_name("failed_run")
    cwd = box.path
    wanted = {
        "whole": "failed_run",
        "beginning": "fail",
        "absolute": str(path),
        "relative": os.path.relpath(path, box.path),
        "slash": f"{path}/",
        "dot": ".",
    }[form]
    if form == "dot":
        cwd = path
    assert str(path) in box.bps("report", "--id", wanted, cwd=cwd).succeeded().stdout
    assert box.bps("status", "--id", wanted, cwd=cwd).code == WmsStates.FAILED.value
    sessions = len(events_of_kind(path, "session"))
    box.bps("restart", "--id", wanted, cwd=cwd).complained("bps restart --id failed_run")
    assert len(events_of_kind(path, "session")) == sessions + 1
    box.bps("cancel", "--id", wanted, cwd=cwd).complained("Run failed_run has ended before (FAILED)")


def test_report_of_all(runs: Runs) -> None:
    """Without an id, report has the runs that are going; with ``--hist`` also
    those of the last days; ``--user`` leaves out the others'.
    """
    box = runs.box
    now = box.bps("report").succeeded()
    assert [name for name in STATES if name in now.stdout] == ["going_run"]
    recent = box.bps("report", "--hist", "1").succeeded()
    assert [name for name in STATES if name in recent.stdout] == list(STATES)
    assert box.bps("report", "--hist", "1", "--user", "tester").stdout == recent.stdout
    others = box.bps("report", "--hist", "1", "--user", "somebody").succeeded()
    assert not [name for name in STATES if name in others.stdout]


def test_hist_leaves_out_old_runs(runs: Runs) -> None:
    """A run is as old as the last sign of it."""
    box = runs.box
    journal = box.submit_path.with_name("succeeded_run") / "parsl/journal/driver.jsonl"
    stat = journal.stat()
    os.utime(journal, (stat.st_atime, stat.st_mtime - 3 * 86400))
    try:
        for days, expected in (("2", False), ("4", True)):
            found = box.bps("report", "--hist", days).succeeded()
            assert ("succeeded_run" in found.stdout) == expected
    finally:
        os.utime(journal, (stat.st_atime, stat.st_mtime))


def test_exit_codes(runs: Runs) -> None:
    """``--return-exit-codes`` has the codes of the jobs that failed for good,
    1 and 2 as BPS's payload errors.
    """
    report = runs.box.bps("report", "--id", "failed_run", "--return-exit-codes").succeeded()
    table = report.stdout[report.stdout.index("PAYLOAD ERROR COUNT") :].splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in table[2:] if line.split()}
    assert rows["step"] == ["1", "1", "1", "3"], str(report)
    assert rows["late"] == ["0", "None", "0", "None"]


def test_counts(runs: Runs) -> None:
    """Report counts the jobs of each label by state."""
    report = runs.box.bps("report", "--id", "failed_run").succeeded()
    head = next(line for line in report.stdout.splitlines() if "UNREADY" in line).split()
    rows = {
        line.split()[0]: dict(zip(head, map(int, line.split()[1:]), strict=True))
        for line in report.stdout.splitlines()
        if re.fullmatch(r"\w+( +\d+){12}", line)
    }
    assert list(rows) == ["TOTAL", "step", "late"]
    assert {name: count for name, count in rows["TOTAL"].items() if count} == {
        "FAILED": 2,
        "PRUNED": 1,
        "EXPECTED": 3,
    }
    going = runs.box.bps("report", "--id", "going_run").succeeded()
    row = next(line for line in going.stdout.splitlines() if line.startswith("TOTAL"))
    counted = dict(zip(head, map(int, row.split()[1:]), strict=True))
    assert (counted["RUNNING"], counted["SUCCEEDED"], counted["EXPECTED"]) == (1, 1, 2)


def test_advice(runs: Runs) -> None:
    """Report and status say what to type next, where there is something."""
    box = runs.box
    for name, said in (
        ("ready_run", "was never started. Start it with: bps restart --id ready_run"),
        ("dead_run", "its driver died. Resume it with: bps restart --id dead_run"),
        ("failed_run", "bps restart --id failed_run"),
        ("cancelled_run", "bps restart --id cancelled_run"),
    ):
        assert said in box.bps("report", "--id", name).text
        assert said in box.bps("status", "--id", name).text
    for name in ("going_run", "succeeded_run"):
        assert "bps restart" not in box.bps("report", "--id", name).text


def test_ping(runs: Runs) -> None:
    """Ping says which Parsl there is, and where runs are listed."""
    ping = runs.box.run("bps", "ping").succeeded()
    assert "Parsl 20" in ping.text
    assert str(runs.box.state) in ping.text
    assert "Ping successful" in ping.text


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "arguments", [("report", "--hist", "1"), ("report", "--id", "fail"), ("status", "--id", "succ")]
)
def test_looking_does_not_load_parsl(runs: Runs, arguments: tuple[str, ...]) -> None:
    """``bps report`` and ``bps status`` do not import Parsl."""
    code = (
        "import sys\n"
        "from lsst.ctrl.bps.cli.bps import main\n"
        "sys.argv = ['bps', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally:\n"
        "    names = ('lsst.ctrl.bps.parsl.report.view', 'parsl')\n"
        "    print('imported:', *(name in sys.modules for name in names))\n"
    )
    found = runs.box.python(code, *arguments).succeeded()
    assert "imported: True False" in found.stdout


def test_import_does_not_load_parsl(runs: Runs) -> None:
    """Nor does importing the package, nor having its service."""
    code = "import sys, lsst.ctrl.bps.parsl as p; p.ParslService({}); print('parsl' in sys.modules)"
    assert runs.box.python(code).succeeded().stdout == "False\n"
    assert sys.modules["lsst.ctrl.bps.parsl"]


@pytest.mark.slow
def test_submitcmd(box: Sandbox) -> None:
    """``bps submitcmd`` runs one command with its input and output files."""
    script = box.path / "sort.sh"
    script.write_text('#!/bin/sh\nsort "$1" >"$2"\necho "sorted by $3"\n')
    script.chmod(0o755)
    (box.path / "words.txt").write_text("b\na\n")
    content = {
        "wmsServiceClass": SERVICE,
        "computeSite": "local",
        "site": {"local": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 1}},
        "operator": "tester",
        "project": "tests",
        "campaign": "command",
        "payloadName": "sort",
        "submitPath": str(box.path / "submit" / "{timestamp}"),
        "uniqProcName": "sort_{timestamp}",
        "customJob": {
            "executable": str(script),
            "arguments": "{words} {sorted} 'O Hara'",
            "inputs": {"words": str(box.path / "words.txt")},
            "outputs": {"sorted": "out/sorted.txt"},
        },
    }
    (box.path / "command.yaml").write_text(yaml.safe_dump(content))
    done = box.run("bps", "submitcmd", box.path / "command.yaml").succeeded()
    (submit_path,) = (box.path / "submit").iterdir()
    assert (submit_path / "out/sorted.txt").read_text() == "a\nb\n"
    logs = [path.read_text() for path in Path(submit_path / "logs").rglob("*.stdout")]
    assert logs == ["sorted by O Hara\n"]
    match = re.search("^Run Id: (.*)$", done.stdout, re.MULTILINE)
    assert match
    box.bps("status", "--id", match.group(1)).succeeded()
    assert match.group(1) in box.bps("report", "--hist", "1").stdout
