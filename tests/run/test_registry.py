# SPDX-License-Identifier: BSD-3-Clause
"""The list of a user's runs."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from lsst.ctrl.bps.parsl.errors import ParslBpsError, RunNotFoundError
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.run.holder import Holder
from lsst.ctrl.bps.parsl.run.registry import Registry, read_registry, register_run, state_directory
from lsst.ctrl.bps.parsl.service import ParslService
from support.plans import make_plan, umask, world_writable


def add_run(directory: Path, run: str, submit_path: str | None = None) -> Path:
    path = directory / (submit_path or run.replace("/", "_"))
    make_plan(path, [], run=run)
    register_run(run, path)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """Register three runs, two of which begin alike."""
    return {
        run: add_run(tmp_path, run)
        for run in ("u_me_a_20260101T000000Z", "u_me_a_20260102T000000Z", "u_me_b")
    }


def test_run_is_found_by_its_id_and_any_beginning_that_is_its_own(runs: dict[str, Path]) -> None:
    """The whole id finds a run, and so does as much of it as no other has."""
    for run, path in runs.items():
        assert Registry().find(run) == path
    assert Registry().find("u_me_b") == runs["u_me_b"]
    assert Registry().find("u_me_a_20260102") == runs["u_me_a_20260102T000000Z"]


def test_run_is_found_by_its_submit_path(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The submit path finds a run, absolute or relative, whether it is in the list or not."""
    path = runs["u_me_b"]
    monkeypatch.setenv("BPS_PARSL_STATE_DIR", "/nowhere")
    assert Registry().find(str(path)) == path
    monkeypatch.chdir(path.parent)
    assert Registry().find("u_me_b/") == path
    monkeypatch.chdir(path)
    assert Registry().find(".") == path


def test_ambiguous_beginning_lists_the_choice(runs: dict[str, Path]) -> None:
    """A beginning that two runs have is an error that shows both, and where they are."""
    with pytest.raises(RunNotFoundError) as caught:
        Registry().find("u_me_a")
    assert "2 runs match 'u_me_a'" in caught.value.message
    for run in list(runs)[:2]:
        assert f"{run}  {runs[run]}" in caught.value.message
    assert "u_me_b" not in caught.value.message


def test_id_that_is_the_beginning_of_another_is_not_ambiguous(tmp_path: Path) -> None:
    """A whole id wins over longer ones."""
    short = add_run(tmp_path, "u_me_a")
    add_run(tmp_path, "u_me_a_2")
    assert Registry().find("u_me_a") == short


def test_two_runs_of_one_id_are_ambiguous(tmp_path: Path) -> None:
    """Runs of one id in two directories are both in the list, and neither is taken for the other."""
    first = add_run(tmp_path, "u_me_a", "first")
    second = add_run(tmp_path, "u_me_a", "second")
    with pytest.raises(RunNotFoundError) as caught:
        Registry().find("u_me_a")
    assert str(first) in caught.value.message
    assert str(second) in caught.value.message
    assert Registry().find(str(first)) == first


@pytest.mark.parametrize("wanted", ["", "u_me_c", "u_me_b_and_more", "../x"])
def test_unknown_run_says_how_to_list_runs(runs: dict[str, Path], wanted: str) -> None:
    """An id that no run has is an error that says what to type."""
    with pytest.raises(RunNotFoundError, match="bps report --hist"):
        Registry().find(wanted)


def test_directory_without_a_run_is_named(tmp_path: Path) -> None:
    """A directory that is no submit directory of ours is an error that says so."""
    with pytest.raises(RunNotFoundError, match="is not the submit directory of a prepared run"):
        Registry().find(str(tmp_path))


@pytest.mark.parametrize("run", ["../../x", "a/b", "a b'c\"", "é→", "x" * 300, "{label}"])
def test_any_id_can_be_listed(tmp_path: Path, run: str) -> None:
    """An id with characters that a file name cannot have is found again."""
    path = add_run(tmp_path, run, "run")
    assert Registry().find(run) == path
    assert [entry.run for entry in read_registry()] == [run]


def test_runs_are_listed_oldest_first_and_once(tmp_path: Path) -> None:
    """The list is in the order in which runs were first prepared; preparing again adds no second entry."""
    for run in ("c", "a", "b"):
        add_run(tmp_path, run)
    register_run("a", tmp_path / "a")
    assert [entry.run for entry in read_registry()] == ["c", "b", "a"]


def test_run_whose_directory_is_gone_is_not_listed(runs: dict[str, Path]) -> None:
    """A submit directory that was deleted takes its run out of the list."""
    (runs["u_me_b"] / "parsl" / "plan.jsonl").unlink()
    assert "u_me_b" not in [entry.run for entry in read_registry()]


def damage(directory: Path, content: bytes) -> Path:
    path = directory / "u_me_x@0123456789.json"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"5",
        b"null",
        b'{"run": "x"}',
        b'{"format": 99, "run": "x", "submit_path": "/", "created": 1}',
        b'{"format": 1, "run": "x", "submit_path": "/"}',
        b'{"format": 1, "run": "x", "submit_path": "/", "created": 1, "more": 1}',
        b'{"format": 1, "run": "x", "submit_path": 5, "created": 1}',
        b'{"format": 1, "run": "x", "submit_path": null, "created": 1}',
        b'{"format": 1, "run": 5, "submit_path": "@", "created": 1}',
        b'{"format": 1, "run": "x", "submit_path": "@", "created": "yesterday"}',
        b'{"format": 1, "run": "x", "submit_path": "a\\u0000b", "created": 1}',
    ],
)
def test_damaged_entry_is_a_warning(
    runs: dict[str, Path], caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """An entry that cannot be understood is left out with a warning that names it; the others are found."""
    path = damage(state_directory(), content.replace(b"@", os.fsencode(runs["u_me_b"])))
    assert [entry.run for entry in read_registry()] == list(runs)
    assert Registry().find("u_me_b") == runs["u_me_b"]
    if b"\\u0000" not in content:
        assert str(path) in caplog.text


def test_truncated_entry_is_a_warning(runs: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    """The same holds wherever an entry was cut."""
    (entry,) = state_directory().glob("u_me_b@*")
    whole = entry.read_bytes()
    for size in range(len(whole)):
        caplog.clear()
        entry.write_bytes(whole[:size])
        assert [run.run for run in read_registry()] == list(runs)[:2]
        assert str(entry) in caplog.text


def test_entry_that_cannot_be_read_is_a_warning(
    runs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """One entry that cannot be read does not hide the other runs."""
    (state_directory() / "x@0.json").mkdir()
    assert [entry.run for entry in read_registry()] == list(runs)
    assert "x@0.json" in caplog.text


def test_list_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory has mode 0700 and an entry 0600, under umask 000 too, with all that is made above."""
    monkeypatch.setenv("BPS_PARSL_STATE_DIR", str(tmp_path / "made" / "state"))
    with umask(0):
        add_run(tmp_path, "r")
    assert stat.S_IMODE(state_directory().stat().st_mode) == 0o700
    (entry,) = state_directory().iterdir()
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert world_writable(tmp_path / "made") == []


def test_list_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run is not lost because of the list: a warning says to use its submit path."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BPS_PARSL_STATE_DIR", str(tmp_path / "file" / "state"))
    path = add_run(tmp_path, "r")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"use the submit path {path}" in record.getMessage()
    assert read_registry() == []


def test_where_the_list_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Our variable moves the list; otherwise it is in the XDG state directory of the user."""
    monkeypatch.setenv("BPS_PARSL_STATE_DIR", "relative")
    monkeypatch.chdir(tmp_path)
    assert state_directory() == tmp_path / "relative"
    monkeypatch.delenv("BPS_PARSL_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert state_directory() == Path("/xdg/lsst-ctrl-bps-parsl")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert state_directory() == Path("/home/me/.local/state/lsst-ctrl-bps-parsl")


def test_entry_is_text(tmp_path: Path) -> None:
    """An entry is one JSON object that begins with its format, for people and later releases to read."""
    path = add_run(tmp_path, "r")
    (entry,) = state_directory().iterdir()
    content = json.loads(entry.read_text())
    assert next(iter(content)) == "format"
    assert (content["run"], content["submit_path"]) == ("r", str(path))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note each file of the list that is read."""
    found: list[Path] = []

    def read(path: Path) -> bytes:
        found.append(path)
        return path.read_bytes()

    monkeypatch.setattr("lsst.ctrl.bps.parsl.run.registry.read_file", read)
    return found


def test_list_is_read_once_for_all_runs(
    runs: dict[str, Path], reads: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A report on all runs reads each entry once, and warns once of one that is damaged."""
    path = damage(state_directory(), b"{")
    service = ParslService.__new__(ParslService)
    reports, problems = service.report(hist=30)
    assert ([report.wms_id for report in reports], problems) == (list(runs), "")
    assert len(reads) == len(runs) + 1
    assert caplog.text.count(str(path)) == 1
    reads.clear()
    service.report("u_me_b")
    assert len(reads) == len(runs) + 1
    service.report(str(runs["u_me_b"]))


def test_entries_of_runs_that_are_gone_for_long_are_removed(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list does not grow for ever: a run whose submit directory was removed loses its entry after a
    month. One of a file system that is not here today keeps it, and so does a run that exists.
    """
    shutil.rmtree(runs["u_me_b"])
    away = add_run(tmp_path, "u_me_away")
    shutil.rmtree(away)
    (entry,) = state_directory().glob("u_me_away@*")
    entry.write_text(entry.read_text().replace(str(away), "/not-mounted-today/u_me_away"))
    before = sorted(state_directory().iterdir())
    kept = list(runs)[:2]
    assert [run.run for run in read_registry()] == kept
    assert sorted(state_directory().iterdir()) == before
    monkeypatch.setattr("lsst.ctrl.bps.parsl.run.registry.KEPT_SECONDS", -1.0)
    stat_really = os.stat
    root = stat_really("/")
    others = os.stat_result([*root[:4], os.geteuid() + 1, *root[5:]])
    monkeypatch.setattr(os, "stat", lambda path, **more: others if path == "/" else stat_really(path, **more))
    assert [run.run for run in read_registry()] == kept
    left = sorted(path.name.partition("@")[0] for path in state_directory().iterdir())
    assert left == sorted([*kept, "u_me_away"])


def test_damaged_run_keeps_no_other_from_being_cancelled(
    tmp_path: Path, runs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Where all runs are to be cancelled, one whose files are damaged is said and passed over."""
    for path in runs.values():
        write = SubmitPaths(path).lock
        write.write_text(json.dumps(asdict(Holder.this_process())))
    service = ParslService.__new__(ParslService)
    assert service.list_submitted_jobs() == list(runs)
    first, second, third = runs.values()
    plan = SubmitPaths(first).plan
    plan.write_bytes(plan.read_bytes()[:-5])
    assert service.list_submitted_jobs() == list(runs)[1:]
    assert str(plan) in caplog.text
    # The second has no configuration, which is seen only when it is cancelled.
    for path in (second, third):
        done, why = service.cancel(path.name)
        assert (done, str(path) in why) == (False, True)
    with pytest.raises(ParslBpsError, match=re.escape(str(plan))):
        service.cancel(first.name)
    with pytest.raises(ParslBpsError):
        ParslService.__new__(ParslService).cancel(second.name)
