# SPDX-License-Identifier: BSD-3-Clause
"""The plan: read as it was written, or not at all."""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsst.ctrl.bps.parsl.errors import DamagedFileError, RunNotFoundError, StorageError
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import JobKind, JobTemplate, Plan, PlannedJob, write_plan
from support.plans import HEADER, PlanLine, make_payload, make_plan, plan_line, umask, world_writable

texts = st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
fields = st.dictionaries(
    st.sampled_from(["tags", "cmdvals", "arguments", "priority"]), json_values, max_size=3
)


@st.composite
def plan_lines(draw: st.DrawFn) -> list[PlanLine]:
    """Draw jobs, each with parents among those before it."""
    templates = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "label": texts,
                    "kind": st.sampled_from(["payload", "noop", "group"]),
                    "final": st.booleans(),
                    "on_submit_host": st.booleans(),
                    "blocking": st.booleans(),
                    "fields": fields,
                }
            ),
            min_size=1,
            max_size=4,
        )
    )
    lines: list[PlanLine] = []
    for index in range(draw(st.integers(0, 12))):
        parents = draw(st.lists(st.integers(0, index - 1), unique=True, max_size=4)) if index else []
        files = draw(st.dictionaries(texts, texts, max_size=2))
        lines.append((draw(texts), draw(st.sampled_from(templates)), parents, draw(fields), files))
    return lines


def content(plan: Plan) -> list[Any]:
    """Return all that a plan says."""
    return [plan.header, plan.templates, *plan.jobs(), *(plan.parents(index) for index in range(len(plan)))]


@given(lines=plan_lines(), files=st.dictionaries(texts, texts, max_size=2))
def test_plan_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, lines: list[PlanLine], files: dict[str, str]
) -> None:
    """Jobs come back with their names, templates, parents, fields and files, whatever text is in them."""
    path = tmp_path_factory.getbasetemp() / "plan.jsonl"
    write_plan(path, {**HEADER, "files": files, "labels": ["first"]}, lines)
    plan = Plan(path)
    assert len(plan) == len(lines)
    assert plan.run == HEADER["run"]
    assert plan.labels[0] == "first"
    assert list(plan.jobs()) == [
        PlannedJob(
            index=index,
            name=name,
            template=JobTemplate(**{**template, "kind": JobKind(template["kind"])}),
            parents=tuple(parents),
            fields=own,
            files={**files, **own_files},
        )
        for index, (name, template, parents, own, own_files) in enumerate(lines)
    ]
    for index, (_, _, parents, _, _) in enumerate(lines):
        assert list(plan.parents(index)) == list(parents)
        assert list(plan.children[index]) == [child for child, line in enumerate(lines) if index in line[2]]


def test_jobs_of_a_label_share_one_template(tmp_path: Path) -> None:
    """What jobs have in common is in the file, and in memory, once."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}", request_memory=2048) for n in range(100)])
    assert len(plan.templates) == 1
    assert paths.plan.read_bytes().count(b"request_memory") == 1


def test_values_that_json_does_not_know_are_written(tmp_path: Path) -> None:
    """Tags hold what a data id holds: NumPy's numbers, and values that only have a text."""

    class Number:
        def item(self) -> int:
            return 5

    class Text:
        def __str__(self) -> str:
            return "text"

    template = {"label": "l", "kind": "payload"}
    own = {"tags": {"a": Number(), "b": Text(), "c": Path("/x")}}
    write_plan(tmp_path / "plan", HEADER, [("j", template, [], own, {})])
    assert Plan(tmp_path / "plan").job(0).fields == {"tags": {"a": 5, "b": "text", "c": "/x"}}


def test_empty_plan(tmp_path: Path) -> None:
    """A workflow without jobs has a plan without jobs."""
    plan, _ = make_plan(tmp_path, [])
    assert len(plan) == 0
    assert list(plan.jobs()) == []
    assert plan.labels == []


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write a plan that has a bit of everything, and numbers of two digits."""
    lines = [plan_line(f"j{n}", range(max(0, n - 3), n), label="abc"[n % 3]) for n in range(14)]
    lines.append(plan_line("g", [10, 12], kind="group", blocking=False))
    lines.append(plan_line('é "\\', [13, 14], final=True, priority="5"))
    make_plan(tmp_path, lines, files={"f": "/x"})
    return tmp_path / "parsl" / "plan.jsonl"


def test_truncated_plan_is_damaged(small: Path) -> None:
    """A plan that ends too early, wherever, is an error that names the file; the last newline is no loss."""
    whole = small.read_bytes()
    expected = content(Plan(small))
    for size in range(len(whole)):
        os.truncate(small, size)
        if size == len(whole) - 1:
            assert content(Plan(small)) == expected
        else:
            with pytest.raises(DamagedFileError, match=re.escape(f"{small} is damaged")):
                Plan(small)
        small.write_bytes(whole)


def changes(byte: int) -> Iterator[int]:
    yield from {byte ^ (1 << bit) for bit in range(8)} | set(b'-0e." ]}\n\0\xff') - {byte}


def test_changed_plan_is_damaged(small: Path) -> None:
    """A byte that is not what was written is an error that names the file, and never other content."""
    whole = small.read_bytes()
    expected = content(Plan(small))
    last_line = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    fd = os.open(small, os.O_WRONLY)
    for position, byte in enumerate(whole):
        for change in changes(byte):
            os.pwrite(fd, bytes([change]), position)
            try:
                found: object = content(Plan(small))
            except DamagedFileError as exc:
                found = exc.message
            # Of the last line something may change that says nothing.
            same = position >= last_line and found == expected
            assert same or f"{small} is damaged" in str(found) or f"{small} has format" in str(found)
        os.pwrite(fd, bytes([byte]), position)
    os.close(fd)


@pytest.mark.parametrize(
    "line", [b"5", b"null", b'"x"', b"[]", b"[0]", b"[0,[99],2,{}]", b"[-1,[],2,{}]", b"{}"]
)
def test_line_that_is_no_job_is_damage(tmp_path: Path, line: bytes) -> None:
    """A line that is JSON and nothing of ours is damage too, also where the checksum fits."""
    import zlib

    head = json.dumps({"format": 2, "kind": "plan", **HEADER}).encode()
    template = b'{"template":{"label":"l","kind":"payload"}}'
    body = b"".join(part + b"\n" for part in (head, template, b'[0,[],"j",{}]', line))
    path = tmp_path / "plan"
    path.write_bytes(body + json.dumps({"end": 4, "crc": zlib.crc32(body)}).encode() + b"\n")
    with pytest.raises(DamagedFileError, match="is damaged"):
        Plan(path)


def test_unknown_format_says_what_to_do(small: Path) -> None:
    """The plan of a later release is not guessed at, whatever its lines are."""
    small.write_bytes(small.read_bytes().replace(b'"format":2', b'"format":99'))
    with pytest.raises(DamagedFileError, match=r"format 99.*Use the version that prepared"):
        Plan(small)


def test_missing_plan_says_what_to_type(tmp_path: Path) -> None:
    """A directory without a plan is an error that names both and shows the command."""
    with pytest.raises(RunNotFoundError, match="bps submit") as caught:
        Plan(tmp_path / "run" / "parsl" / "plan.jsonl")
    assert str(tmp_path / "run" / "parsl" / "plan.jsonl") in caught.value.message


def test_plan_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A directory or a link in place of the file is an error that names it, not a traceback."""
    (tmp_path / "directory").mkdir()
    make_plan(tmp_path, [])
    (tmp_path / "link").symlink_to(tmp_path / "parsl" / "plan.jsonl")
    for name in ("directory", "link"):
        with pytest.raises(StorageError, match=re.escape(str(tmp_path / name))):
            Plan(tmp_path / name)


def test_plan_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """Jobs that cannot be described leave no half of a plan that a restart would find."""

    def lines() -> Iterator[PlanLine]:
        yield plan_line("a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_plan(tmp_path / "plan", HEADER, lines())
    assert os.listdir(tmp_path) == []
    with pytest.raises(StorageError, match="Cannot write the plan"):
        write_plan(tmp_path / "missing" / "plan", HEADER, [])


def test_plan_is_nobody_elses_to_write(tmp_path: Path) -> None:
    """A plan is commands that its owner will run."""
    with umask(0):
        make_plan(tmp_path / "run", [plan_line("a")])
    assert world_writable(tmp_path / "run") == []


def test_plan_of_many_jobs_stays_small(tmp_path: Path) -> None:
    """In memory a job is a few numbers; its own line is read when it is asked for."""
    lines = (plan_line(f"job_{n}", [n - 1] if n else []) for n in range(20_000))
    plan, _ = make_plan(tmp_path, list(lines))
    arrays = [value for value in vars(plan).values() if isinstance(value, array)]
    assert sum(len(value) * value.itemsize for value in arrays) < 40 * len(plan)
    assert plan.job(19_999).parents == (19_998,)


# A second part.


def parted(tmp_path: Path) -> tuple[Plan, SubmitPaths]:
    """Write a plan of two parts, and read the first."""
    lines = [plan_line("build", label="build"), plan_line("prepare", [0], label="prepare", lazy=True)]
    plan, paths = make_plan(tmp_path, lines, files={"f": "/first"}, sites=["here"])
    more = [plan_line("a", label="x"), plan_line("b", [0], label="y"), plan_line("c", [0, 1], label="x")]
    make_payload(paths, more, labels=["x", "y"], files={"f": "/second"}, sites=["there"])
    return plan, paths


def test_second_part_is_numbered_on(tmp_path: Path) -> None:
    """Its jobs have numbers, parents, templates and files of their own; labels are in order; the jobs of the
    first part stay what they were.
    """
    plan, _ = parted(tmp_path)
    first = list(plan.jobs())
    assert (len(plan), plan.lazy_job, plan.payload, plan.sites) == (2, 1, None, ["here"])
    assert list(plan.children[1]) == []
    payload = plan.add_payload()
    assert (payload.first_job, payload.jobs, payload.id) == (2, 3, "payload")
    assert plan.add_payload() is payload, "once"
    assert list(plan.jobs())[:2] == first
    assert [job.name for job in plan.jobs()] == ["build", "prepare", "a", "b", "c"]
    assert [job.parents for job in plan.jobs()] == [(), (0,), (), (2,), (2, 3)]
    assert [job.template.label for job in plan.jobs()] == ["build", "prepare", "x", "y", "x"]
    assert [job.files["f"] for job in plan.jobs()] == ["/first"] * 2 + ["/second"] * 3
    assert [list(plan.children[job]) for job in range(5)] == [[1], [], [3, 4], [4], []]
    assert plan.labels == ["build", "prepare", "x", "y"]
    assert plan.sites == ["here", "there"]


def test_second_part_that_is_not_whole_is_damaged(tmp_path: Path) -> None:
    """It is the file of the second part that is named."""
    plan, paths = parted(tmp_path)
    os.truncate(paths.payload, paths.payload.stat().st_size // 2)
    with pytest.raises(DamagedFileError, match=re.escape(str(paths.payload))):
        plan.add_payload()
