# SPDX-License-Identifier: BSD-3-Clause
"""Whatever is wrong is said in a sentence, and nothing is made or lost."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lsst.ctrl.bps import WmsStates
from lsst.ctrl.bps.parsl import ParslService
from lsst.ctrl.bps.parsl.node.journal import encode_line

from .support import TINYCAM, Finished, Sandbox, Step, wait_until


def submit(box: Sandbox, change: Callable[[dict[str, Any]], None], verb: str = "submit") -> Finished:
    """Submit the tiny pipeline with a changed configuration."""
    content = yaml.safe_load((TINYCAM / "bps.yaml").read_text())
    change(content)
    (box.path / "bps.yaml").write_text(yaml.safe_dump(content))
    box.env |= {
        "TINYCAM_DIR": str(box.path),
        "TINYCAM_SOURCE": str(TINYCAM),
        "TINYCAM_DETECTORS": "2",
    }
    return box.bps(verb, box.path / "bps.yaml")


def set_key(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Return a change of one key of the site; of the whole, where it has a dot in front."""

    def change(content: dict[str, Any]) -> None:
        part = content if key.startswith(".") else content["site"]["local"]
        part[key.lstrip(".")] = value

    return change


def drop_key(key: str) -> Callable[[dict[str, Any]], None]:
    """Return a change that removes a key, as `set_key` names it."""

    def change(content: dict[str, Any]) -> None:
        part = content if key.startswith(".") else content["site"]["local"]
        del part[key.lstrip(".")]

    return change


CONFIGURATIONS: dict[str, tuple[Callable[[dict[str, Any]], None], tuple[str, ...]]] = {
    "no computeSite": (drop_key(".computeSite"), ("No computeSite", "add 'computeSite: <name>'", "local")),
    "no site": (
        set_key(".computeSite", "nowhere"),
        ("There is no site.nowhere", "Known sites:", "local", "Add a section"),
    ),
    "no sites at all": (drop_key(".site"), ("There is no site.local",)),
    "site is text": (set_key(".site", {"local": "here"}), ("site.local", "settings are wanted here")),
    "no class": (drop_key("class"), ("site.local.class: missing", "lsst.ctrl.bps.parsl.sites.Local")),
    "no such module": (
        set_key("class", "no_such_module.Site"),
        ("site.local.class", "cannot import no_such_module.Site"),
    ),
    "no such class": (
        set_key("class", "lsst.ctrl.bps.parsl.sites.Lokal"),
        ("site.local.class", "cannot import lsst.ctrl.bps.parsl.sites.Lokal"),
    ),
    "not a site": (
        set_key("class", "collections.OrderedDict"),
        ("site.local.class", "collections.OrderedDict is not a site class", "SiteConfig"),
    ),
    "cores missing": (drop_key("cores"), ("site.local.cores: missing", "required")),
    "cores zero": (set_key("cores", 0), ("site.local.cores: 0", "at least 1")),
    "cores negative": (set_key("cores", -1), ("site.local.cores: -1", "at least 1")),
    "cores text": (set_key("cores", "eight"), ("site.local.cores: 'eight'", "whole number")),
    "cores half": (set_key("cores", 1.5), ("site.local.cores: 1.5", "whole number")),
    "cores true": (set_key("cores", True), ("site.local.cores: True", "number")),
    "cores list": (set_key("cores", [1]), ("site.local.cores: [1]", "whole number")),
    "misspelt": (set_key("core", 2), ("site.local.core: unknown setting; did you mean cores?",)),
    "transposed": (set_key("corse", 2), ("site.local.corse: unknown setting; did you mean cores?",)),
    "misspelt plural": (set_key("retrys", 2), ("site.local.retrys: unknown setting; did you mean retries?",)),
    "other case": (set_key("command_prefix", ":"), ("did you mean commandPrefix?",)),
    "memory": (set_key("memory", "much"), ("site.local.memory: 'much'", "64 GB")),
    "log level": (set_key(".parsl", {"log_level": "LOUD"}), ("parsl.log_level: 'LOUD'", "WARNING")),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration(box: Sandbox, name: str) -> None:
    """A mistake in the YAML is named with what to write, and nothing is made."""
    change, said = CONFIGURATIONS[name]
    submit(box, change).complained(*said)
    assert not (box.path / "submit").exists()
    assert not box.state.exists()


def test_several_complaints(box: Sandbox) -> None:
    """All that is wrong with a configuration is said at once."""

    def change(content: dict[str, Any]) -> None:
        content["site"]["local"] |= {"cores": "eight", "memory": "much", "comandPrefix": ":"}
        content["parsl"] = {"log_level": "LOUD"}
        (box.path / "file").touch()
        content["submitPath"] = str(box.path / "file" / "below")

    said = submit(box, change).complained(
        "5 problems in the configuration",
        "site.local.comandPrefix: unknown setting; did you mean commandPrefix?",
        "site.local.cores: 'eight'",
        "site.local.memory: 'much'",
        "parsl.log_level: 'LOUD'",
        "cannot be made",
    )
    assert said.stderr.count("\n  - ") == 5


def test_submit_path(box: Sandbox) -> None:
    """A submit directory that exists, or that cannot be made, is refused
    before anything is made; the one that exists is left as it is.
    """
    (box.path / "taken").mkdir()
    submit(box, set_key(".submitPath", str(box.path / "taken"))).complained(
        f"submitPath: {box.path}/taken exists", "Choose"
    )
    assert not list((box.path / "taken").iterdir())
    (box.path / "file").touch()
    submit(box, set_key(".submitPath", str(box.path / "file/below"))).complained(
        f"submitPath: {box.path}/file/below cannot be made", f"{box.path}/file cannot be written to"
    )


def test_unknown_and_ambiguous_ids(box: Sandbox) -> None:
    """An id that no run has, or that two begin with, is said with the choice;
    by every verb that takes an id.
    """
    box.prepare([Step("a")], "run_one")
    box.prepare([Step("a")], "run_two")
    for verb in ("report", "cancel", "restart"):
        box.bps(verb, "--id", "nothing").complained("No run matches 'nothing'", "bps report --hist 30")
        box.bps(verb, "--id", "run_").complained(
            "2 runs match 'run_'; give more of the id, or the submit path",
            f"run_one {box.submit_path.with_name('run_one')}",
            "run_two",
        )
        box.bps(verb, "--id", box.path).complained("is not the submit directory of a prepared run")
    for wanted, said in (("nothing", "No run matches"), ("run_", "2 runs match")):
        status = box.bps("status", "--id", wanted).complained(said)
        assert status.code == WmsStates.UNKNOWN.value
    assert not box.steps("begin")


def test_missing_id(box: Sandbox) -> None:
    """``bps restart`` without an id says that it wants one."""
    box.bps("restart").complained("--id")


def test_finished_run(box: Sandbox) -> None:
    """A run that has succeeded is neither cancelled nor restarted, and stays
    as it is.
    """
    box.prepare([Step("a")])
    box.bps("restart", "--id", "run").succeeded()
    journal = (box.submit_path / "parsl/journal/driver.jsonl").read_bytes()
    box.bps("restart", "--id", "run").complained(
        "have succeeded; there is nothing to do", "bps report --id run"
    )
    box.bps("cancel", "--id", "run").complained("has ended before (SUCCEEDED); there is nothing to cancel")
    assert (box.submit_path / "parsl/journal/driver.jsonl").read_bytes() == journal
    assert box.steps("begin") == ["a"]
    box.bps("status", "--id", "run").succeeded()


def test_run_held_by_another_driver(box: Sandbox) -> None:
    """A run that is driven is not driven twice: the second says by whom, and
    how to watch and stop it.
    """
    box.prepare([Step("a")])
    box.hold()
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "the job begins")
    box.bps("restart", "--id", "run").complained(
        f"(pid {driver.pid})", "still being driven", "bps report --id run", "bps cancel --id run"
    )
    box.let_go()
    driver.finish().succeeded()
    assert box.steps("begin") == ["a"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "last line gone": lambda data: data[: data.rstrip(b"\n").rindex(b"\n") + 1],
    "changed": lambda data: data.replace(b"step.sh", b"stop.sh", 1),
    "empty": lambda data: b"",
    "binary": lambda data: b"\x80\xff\0\n" + data,
    "not an object": lambda data: b"5\n" + data,
    "another format": lambda data: data.replace(b'"format":2', b'"format":9', 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_plan(box: Sandbox, damage: str) -> None:
    """A plan that is not whole is named, and nothing runs; other runs are
    reported all the same.
    """
    box.prepare([Step("a"), Step("b")])
    box.prepare([Step("c")], "good")
    plan = box.submit_path / "parsl/plan.jsonl"
    plan.write_bytes(DAMAGES[damage](plan.read_bytes()))
    for verb in ("restart", "report", "status", "cancel"):
        box.bps(verb, "--id", "run").complained(str(plan))
    assert not box.steps("begin")
    hist = box.bps("report", "--hist", "1").succeeded()
    assert "good" in hist.stdout
    assert str(plan) in hist.stdout


@pytest.mark.parametrize("damage", ["changed", "binary first", "another format", "of another plan"])
def test_damaged_journal(box: Sandbox, damage: str) -> None:
    """A journal with damage other than an unfinished line is named; nothing
    runs on its word.
    """
    box.prepare([Step("a"), Step("b", ["a"])])
    box.break_step("b")
    box.bps("restart", "--id", "run").complained()
    journal = box.submit_path / "parsl/journal/driver.jsonl"
    data = journal.read_bytes()
    if damage == "changed":
        data = data.replace(b'"e":"ok"', b'"e":"no"', 1)
    elif damage == "binary first":
        data = b"\x80\xff\0}\n" + data
    elif damage == "another format":
        data = encode_line({"format": 2, "kind": "driver"}) + data
    else:
        data += encode_line({"e": "ok", "t": 1.0, "j": [[77, 0, 0, 0, 0]]})
    journal.write_bytes(data)
    before = box.steps("begin")
    for verb in ("restart", "report", "status", "cancel"):
        box.bps(verb, "--id", "run").complained(str(journal))
    assert box.steps("begin") == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"5", b'{"format": 9}', b'{"format": 1}'])
def test_damaged_registry_entry(box: Sandbox, content: bytes) -> None:
    """A damaged entry of the list of runs is reported with its file name and
    hides no other run; its run is found by its submit path.
    """
    box.prepare([Step("a")], "good")
    box.prepare([Step("a")])
    (entry,) = box.state.glob("run@*.json")
    entry.write_bytes(content)
    hist = box.bps("report", "--hist", "1").succeeded()
    assert "good" in hist.stdout
    assert f"{entry} is damaged" in hist.text
    box.bps("report", "--id", "run").complained("No run matches 'run'")
    box.bps("report", "--id", box.submit_path).succeeded()


@pytest.mark.parametrize(("key", "value"), [("run", None), ("submit_path", 5), ("created", "yesterday")])
def test_registry_entry_of_wrong_types(box: Sandbox, key: str, value: object) -> None:
    """So is one that is JSON, and has a value of the wrong type."""
    box.prepare([Step("a")], "good")
    box.prepare([Step("a")])
    (entry,) = box.state.glob("run@*.json")
    entry.write_text(json.dumps({**json.loads(entry.read_text()), key: value}))
    hist = box.bps("report", "--hist", "1").succeeded()
    assert "good" in hist.stdout
    assert box.bps("status", "--id", "goo").code == WmsStates.READY.value
    assert f"{entry} is damaged" in hist.text


@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"- 5\n", None])
def test_damaged_private_files(box: Sandbox, name: str, content: bytes | None) -> None:
    """A restart that cannot read its configuration or environment names the
    file; no job runs.
    """
    box.prepare([Step("a")])
    path = box.submit_path / "parsl" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    box.bps("restart", "--id", "run").complained(str(path))
    assert not box.steps("begin")


def test_directory_of_prepare_is_gone(box: Sandbox) -> None:
    """Jobs run where the run was prepared; where that is gone, it is said."""
    with box.as_process():
        gone = Path("gone")
        gone.mkdir()
    workflow = box.generic([Step("a")])
    config = box.config()
    with box.as_process(), contextlib.chdir(box.path / "gone"):
        ParslService(config).prepare(config, workflow)
    (box.path / "gone").rmdir()
    box.bps("restart", "--id", "run").complained(f"{box.path}/gone", "Make it again")


def test_journal_cannot_be_written(box: Sandbox) -> None:
    """Where the journal cannot be written, no job begins, and it is said."""
    box.prepare([Step("a")])
    journals = box.submit_path / "parsl/journal"
    journals.rmdir()
    journals.touch()
    box.bps("restart", "--id", "run").complained(str(journals))
    assert not box.steps("begin")


def test_registry_cannot_be_written(box: Sandbox) -> None:
    """A list of runs that cannot be written costs a warning, not the run; and
    ping says it.
    """
    box.state.write_text("a file\n")
    box.prepare([Step("a")])
    box.bps("restart", "--id", box.submit_path).succeeded()
    box.bps("ping").complained(str(box.state))
