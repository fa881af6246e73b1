# SPDX-License-Identifier: BSD-3-Clause
"""Whatever is wrong is said in a sentence, nothing is made and nothing is lost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from end_to_end.support import Finished, Sandbox, Step, wait_until
from lsst.ctrl.bps import WmsStates
from lsst.ctrl.bps.parsl.errors import ParslBpsError

from .bad_inputs import BASE, FLOWS, IDS, RUNS, SECTIONS, SITE, SITES, TOP
from .matrix import Matrix

MOST_SECONDS = 60.0
"""What waits for something waits for longer."""


def configuration(box: Sandbox, change: str) -> Path:
    """Write a configuration that is right but for a change."""
    content: dict[str, Any] = yaml.safe_load(BASE)
    section = yaml.safe_load(SECTIONS["Local"]) | {"class": f"{SITES}.Local"}
    content |= {"submitPath": str(box.path / "submit/run"), "outputRun": "run", "site": {"here": section}}
    content |= yaml.safe_load(change)
    path = box.path / "bps.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def complains(box: Sandbox, words: tuple[str | Path, ...], said: tuple[str, ...]) -> Finished:
    """Have ``bps`` complain of something soon."""
    begin = time.monotonic()
    finished = box.bps(*words).complained(*said)
    assert time.monotonic() - begin < MOST_SECONDS
    return finished


def snapshot(box: Sandbox) -> dict[Path, bytes]:
    """Return all that there is in a sandbox, but for output of processes."""
    return {
        path: path.read_bytes() if path.is_file() else b""
        for path in box.path.rglob("*")
        if not path.is_relative_to(box.path / "out")
    }


def clean(box: Sandbox, before: Mapping[Path, bytes], matrix: Matrix, fault: str) -> None:
    """Check that nothing is there that was not, and nothing changed; take it down."""
    assert snapshot(box) == before
    matrix.add(fault, "threads")


NUMBERS = [
    pytest.param(number, id=f"{site}-{change[:24]}", marks=() if number % 3 else pytest.mark.quick)
    for number, (site, change, _) in enumerate(SITE)
]


@pytest.mark.some(8)
@pytest.mark.parametrize("number", NUMBERS)
def test_site(box: Sandbox, matrix: Matrix, number: int) -> None:
    """A wrong setting of a site is named with its value and what is wanted."""
    site, change, said = SITE[number]
    section = yaml.safe_load(SECTIONS[site]) | {"class": f"{SITES}.{site}"} | yaml.safe_load(change)
    path = configuration(box, yaml.safe_dump({"site": {"here": section}}))
    before = snapshot(box)
    complains(box, ("submit", path), ("site.here", *said))
    clean(box, before, matrix, "wrong setting of a site")


@pytest.mark.some(8)
@pytest.mark.quick
@pytest.mark.parametrize("number", range(len(TOP)), ids=lambda n: TOP[n][0][:24])
def test_top(box: Sandbox, matrix: Matrix, number: int) -> None:
    """So is one of the whole."""
    change, said = TOP[number]
    (box.path / "file").touch()
    (box.path / "dangling").symlink_to("nothing")
    path = configuration(box, change)
    before = snapshot(box)
    complains(box, ("submit", path), said)
    clean(box, before, matrix, "wrong setting of the whole")


@pytest.mark.some(8)
@pytest.mark.quick
@pytest.mark.parametrize("name", FLOWS)
def test_workflow(box: Sandbox, matrix: Matrix, name: str) -> None:
    """A workflow that cannot run is refused when it is prepared: no plan is made, no run is listed."""
    flow = FLOWS[name]
    begin = time.monotonic()
    with pytest.raises(ParslBpsError) as caught:
        box.prepare(flow.make(box), site=flow.site)
    assert time.monotonic() - begin < MOST_SECONDS
    assert caught.value.exit_code != 0
    for part in flow.said:
        assert part in caught.value.message
    assert not (box.submit_path / "parsl/plan.jsonl").exists()
    assert not box.state.exists()
    box.bps("restart", "--id", box.submit_path).complained("is not the submit directory of a prepared run")
    matrix.add("wrong workflow", "threads")


@pytest.mark.parametrize("name", RUNS)
def test_command_that_cannot_start(box: Sandbox, matrix: Matrix, name: str) -> None:
    """A job that cannot start says why, and is not tried again."""
    flow = RUNS[name]
    box.prepare(flow.make(box))
    complains(box, ("restart", "--id", "run"), flow.said)
    matrix.check("command that cannot start", box)


VERBS = ("report", "status", "cancel", "restart")


@pytest.mark.some(4)
@pytest.mark.quick
@pytest.mark.parametrize("name", IDS)
def test_id(box: Sandbox, matrix: Matrix, name: str) -> None:
    """An id that no run has, or two, is shown as it is with the choice, by every verb; no run changes."""
    for run in ("run_one", "run_two", "gone"):
        box.prepare([Step("a")], run)
    shutil.rmtree(box.path / "submit/gone")
    before = snapshot(box)
    wanted, said = IDS[name]
    for verb in VERBS:
        words = (verb, "--id", wanted.format(box=box.path))
        complained = complains(box, words, tuple(part.format(box=box.path) for part in said))
        assert verb != "status" or complained.code == WmsStates.UNKNOWN.value
    clean(box, before, matrix, "wrong id")


@pytest.mark.quick
def test_empty_id(box: Sandbox, matrix: Matrix) -> None:
    """An empty id, as of a variable that is not set, is no run: not that of all that are going."""
    box.prepare([Step("a")])
    box.hold()
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "the job begins")
    box.bps("status", "--id", "").complained("No run matches ''")
    said = [box.bps(verb, "--id", "") for verb in ("restart", "cancel")]
    box.let_go()
    driver.finish().succeeded()
    for finished in said:
        finished.complained("Give its id")
    matrix.check("empty id", box)


@pytest.mark.quick
def test_finished_run(box: Sandbox, matrix: Matrix) -> None:
    """A run that succeeded, or was cancelled, is not cancelled again; the first is not restarted either."""
    box.prepare([Step("a")])
    box.prepare([Step("b")], "dropped")
    box.bps("restart", "--id", "run").succeeded()
    box.bps("cancel", "--id", "dropped").succeeded()
    before = snapshot(box)
    complains(box, ("restart", "--id", "run"), ("All jobs of run run have succeeded", "bps report --id run"))
    complains(box, ("cancel", "--id", "run"), ("run has ended before (SUCCEEDED)", "nothing to cancel"))
    complains(box, ("cancel", "--id", "dropped"), ("dropped has ended before (DELETED)",))
    assert snapshot(box) == before
    assert box.steps("begin") == ["a"]
    matrix.check("restart or cancel of a finished run", box, tries=3)


@pytest.mark.quick
def test_driven_run(box: Sandbox, matrix: Matrix) -> None:
    """A run that is driven is not driven twice, by whatever name; its journal stays its driver's."""
    box.prepare([Step("a")])
    box.hold()
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "the job begins")
    for wanted in ("run", "ru", box.submit_path, f"{box.path}/./submit//run/"):
        complains(box, ("restart", "--id", wanted), (f"(pid {driver.pid})", "bps cancel --id run"))
    path = configuration(box, yaml.safe_dump({"submitPath": str(box.submit_path)}))
    complains(box, ("submit", path), ("submitPath", "exists", f"bps restart --id {box.submit_path}"))
    box.let_go()
    driver.finish().succeeded()
    assert box.steps("begin") == ["a"]
    matrix.check("restart of a driven run", box, tries=5)


STATES = {
    "a file": "{box}/step.sh",
    "below a file": "{box}/step.sh/below",
    "a loop": "{box}/loop",
    "long": "{box}/" + "x" * 300,
}


@pytest.mark.some(1)
@pytest.mark.quick
@pytest.mark.parametrize("name", STATES)
def test_state_directory(box: Sandbox, matrix: Matrix, name: str) -> None:
    """A list of runs that is no directory costs a warning that names it, and no run: that is found by
    its submit path.
    """
    (box.path / "loop").symlink_to("loop")
    box.env["BPS_PARSL_STATE_DIR"] = STATES[name].format(box=box.path)
    submit_path = box.path / "submit/custom"
    warned = box.bps("submitcmd", "--dry-run", command(box)).succeeded()
    for part in ("Cannot write the list of your runs", str(box.path), "BPS_PARSL_STATE_DIR"):
        assert part in warned.text
    complains(box, ("report", "--id", "custom"), ("No run matches 'custom'",))
    complains(box, ("ping",), ("The list of your runs cannot be written",))
    box.bps("report", "--hist", "1").succeeded()
    box.bps("restart", "--id", submit_path).succeeded()
    matrix.check("wrong BPS_PARSL_STATE_DIR", box, path=submit_path)


def command(box: Sandbox, **job: Any) -> Path:
    """Write the configuration of one command."""
    custom = {"executable": str(box.step), "arguments": "a", **job}
    change = {
        "customJob": custom,
        "uniqProcName": "custom",
        "submitPath": str(box.path / "submit/custom"),
        "site": {"here": {"class": f"{SITES}.Local", "cores": 1, "memory": 4000}},
    }
    return configuration(box, yaml.safe_dump(change))


COMMANDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "number": ({"arguments": 5}, ("arguments", "5")),
    "memory": ({"requestMemory": 5000}, ("asks for 5000 MB", "site here", "4000 MB")),
    "no memory": ({"requestMemory": "lots"}, ("requestMemory is 'lots'", "(MB) is wanted")),
    "bash": ({"preCmdline": "if"}, ("preCmdline cannot be read", "syntax error")),
    "site": ({"computeSite": "nowhere"}, ("There is no site.nowhere", "Known sites:", "here")),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", COMMANDS)
def test_command(box: Sandbox, matrix: Matrix, name: str) -> None:
    """A command that cannot run as it is asked for is refused before it is a run."""
    job, said = COMMANDS[name]
    complains(box, ("submitcmd", command(box, **job)), said)
    assert not (box.path / "submit/custom/parsl/plan.jsonl").exists()
    assert not box.state.exists()
    assert not box.steps("begin")
    matrix.add("wrong command", "threads")
