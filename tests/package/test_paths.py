# SPDX-License-Identifier: BSD-3-Clause
"""Paths of a submit directory: inside it, whatever names jobs have."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsst.ctrl.bps.parsl.paths import SubmitPaths, safe_name
from support.plans import umask, world_writable

HOSTILE_NAMES = (
    "../../x",
    "/etc/passwd",
    "a/b",
    "a b",
    ".",
    "..",
    ".hidden",
    "-rf",
    "a\nb",
    "a\0b",
    'it\'s "x" $HOME `x` ; &',
    "é→\U0001f52d",
    "n" * 300,
    "é" * 300,
    "\udc80",
    "{label}",
    "~",
    "a\\b",
)

names = st.one_of(
    st.sampled_from(HOSTILE_NAMES),
    st.text(max_size=20),
    st.text(alphabet="./-_aA é", max_size=8),
    st.text(alphabet="abc/", min_size=195, max_size=310),
)


@given(name=names.filter(bool))
def test_safe_name_is_one_file_name(name: str) -> None:
    """A safe name has no separator, is no special entry or option, and leaves room for a suffix."""
    safe = safe_name(name)
    assert safe
    assert "/" not in safe
    assert "\0" not in safe
    assert not safe.startswith((".", "-"))
    assert not any(character.isspace() or character in "$`'\";&|<>(){}*?~\\!#" for character in safe)
    assert len(os.fsencode(safe)) <= 255 - len(".stdout")


def test_empty_name_has_a_file_name_too() -> None:
    """Nothing is no file name."""
    assert safe_name("")


@given(first=names, second=names)
def test_safe_names_of_two_names_are_two(first: str, second: str) -> None:
    """Two different names are two different files."""
    assert (safe_name(first) == safe_name(second)) == (first == second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Job", "job"), ("a/b", "a_b"), ("a b", "a/b"), ("x" * 300, "x" * 299 + "y"), ("../../x", ".._.._x")],
)
def test_names_that_are_alike_are_kept_apart(first: str, second: str) -> None:
    """Names that differ in case, in a replaced character or after 200 characters do not share a file."""
    assert safe_name(first) != safe_name(second)


@pytest.mark.parametrize("name", ["job", "isr_903342_10", "4d8a-b.c,d=e+f@g%h", "été_2", "x" * 199])
def test_plain_name_is_left_as_it_is(name: str) -> None:
    """People find a log by the name of its job."""
    assert safe_name(name) == name


@given(
    template=st.sampled_from(
        ["{label}/{tract}/{visit}", "../{label}", "/{label}", "{label}", "", "{a}{b}/x/{}", "{label"]
    ),
    name=names.filter(bool),
    label=names,
    tags=st.dictionaries(st.sampled_from(["tract", "visit", "a", "label"]), st.one_of(names, st.integers())),
)
def test_log_is_below_the_logs_directory(
    template: str, name: str, label: str, tags: dict[str, object]
) -> None:
    """Whatever name, label and tags hold, the log of a job is in the submit directory."""
    paths = SubmitPaths("/runs/x")
    stem = paths.log_stem(template, name, label, tags)
    assert os.path.normpath(stem).startswith("/runs/x/logs/")
    assert ".." not in stem.split("/")


def test_log_stem_is_bps_template_filled_in() -> None:
    """Parts for which a job has no tag are left out; values are not looked into for more braces."""
    paths = SubmitPaths("/runs/x")
    template = "{label}/{tract}/{patch}/{visit}"
    assert paths.log_stem(template, "j", "isr", {"visit": 12}) == "/runs/x/logs/isr/12/j"
    assert "isr" not in paths.log_stem("{visit}", "j", "isr", {"visit": "{label}"})


def test_log_stems_of_names_that_differ_in_case_are_two() -> None:
    """Two jobs never write into one file."""
    paths = SubmitPaths("/runs/x")
    stems = {paths.log_stem("{label}", name, "isr", {}) for name in ("Job", "job", "JOB")}
    assert len(stems) == 3


def test_relative_submit_path_does_not_depend_on_later_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths stay the same when the process goes to another directory."""
    monkeypatch.chdir(tmp_path)
    paths = SubmitPaths("run/")
    monkeypatch.chdir("/")
    assert paths.plan == tmp_path / "run" / "parsl" / "plan.jsonl"


def test_nothing_created_can_be_written_to_by_others(tmp_path: Path) -> None:
    """With umask 000, and in a submit directory that BPS made for all to write, nobody else can write."""
    paths = SubmitPaths(tmp_path / "a" / "b")
    with umask(0):
        os.makedirs(tmp_path / "made", 0o777)
        SubmitPaths(tmp_path / "made").create()
        paths.create()
    assert world_writable(tmp_path / "a") == []
    assert world_writable(tmp_path / "made") == []
    assert paths.journals.is_dir()
    assert paths.logs.is_dir()


def test_create_keeps_what_is_there() -> None:
    """A submit directory that exists is used, with what is in it and the mode that its owner chose."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "run"
        directory.mkdir(0o700)
        (directory / "file").write_text("x")
        SubmitPaths(directory).create()
        assert (directory / "file").read_text() == "x"
        assert directory.stat().st_mode & 0o777 == 0o700


def test_node_journals_are_those_of_nodes(tmp_path: Path) -> None:
    """Only files of nodes are read as such, in a fixed order."""
    paths = SubmitPaths(tmp_path)
    paths.create()
    for name in ("node-b-2.jsonl", "node-a-1.jsonl", "driver.jsonl", "node-a-1.jsonl.tmp"):
        (paths.journals / name).touch()
    assert [path.name for path in paths.node_journals()] == ["node-a-1.jsonl", "node-b-2.jsonl"]
