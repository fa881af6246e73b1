# SPDX-License-Identifier: BSD-3-Clause
"""Following what the nodes record while they record it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps.parsl.driver.tail import NodeTail, recorded_ends
from lsst.ctrl.bps.parsl.node.journal import encode_line
from lsst.ctrl.bps.parsl.paths import SubmitPaths


@pytest.fixture
def paths(tmp_path: Path) -> SubmitPaths:
    paths = SubmitPaths(tmp_path)
    paths.create()
    return paths


def event(job: int, kind: str = "start", **more: Any) -> dict[str, Any]:
    return {"e": kind, "j": job, "a": 1, "t": 1.0, **more}


def add(paths: SubmitPaths, raw: bytes, node: str = "node-a-1.jsonl") -> None:
    with (paths.journals / node).open("ab") as stream:
        stream.write(raw)


def jobs(tail: NodeTail) -> list[int]:
    return [found["j"] for found in tail.read(lambda line: True)]


def test_only_what_is_new_is_read(paths: SubmitPaths) -> None:
    """What an earlier driver's nodes wrote is left out, and each event comes once, of old and new nodes."""
    add(paths, encode_line(event(0)))
    tail = NodeTail(paths)
    assert jobs(tail) == []
    add(paths, encode_line(event(1)))
    add(paths, encode_line(event(2)) + encode_line(event(3)), "node-b-2.jsonl")
    assert jobs(tail) == [1, 2, 3]
    assert jobs(tail) == []


def test_half_a_line_is_read_when_it_is_whole(paths: SubmitPaths) -> None:
    """A node that is just writing is waited for."""
    tail = NodeTail(paths)
    line = encode_line(event(1))
    for byte in range(len(line)):
        assert jobs(tail) == []
        add(paths, line[byte : byte + 1])
    assert jobs(tail) == [1]


def test_line_that_cannot_be_read_is_left_out(paths: SubmitPaths) -> None:
    """Somebody watches a run: a damaged line is no reason to end it."""
    tail = NodeTail(paths)
    add(
        paths,
        encode_line(event(1)) + b"garbage\n" + encode_line(event(2)).replace(b"start", b"stxrt") + b"\n",
    )
    add(paths, encode_line(event(3)))
    assert jobs(tail) == [1, 3]


def test_only_lines_that_are_wanted_are_decoded(paths: SubmitPaths) -> None:
    """The reader says of a line as it stands whether it is of interest."""
    tail = NodeTail(paths)
    add(paths, b"".join(encode_line(event(job)) for job in range(5)))
    assert [found["j"] for found in tail.read(lambda line: b'"j":3' in line)] == [3]


def test_journal_that_goes_away_is_no_error(paths: SubmitPaths) -> None:
    """A file that cannot be read any more is passed over."""
    tail = NodeTail(paths)
    add(paths, encode_line(event(1)))
    (paths.journals / "node-c-1.jsonl").mkdir()
    assert jobs(tail) == [1]


def test_recorded_ends_of_attempts(paths: SubmitPaths) -> None:
    """The ends of just those attempts are found, in the files of all nodes."""
    add(
        paths,
        encode_line(event(1)) + encode_line(event(1, "end", exit=0)) + encode_line(event(11, "end", exit=0)),
    )
    add(paths, encode_line({**event(2, "end", exit=3), "a": 2}), "node-b-2.jsonl")
    found = recorded_ends(paths, {(1, 1), (2, 2), (2, 1), (3, 1)})
    assert {attempt: end["exit"] for attempt, end in found.items()} == {(1, 1): 0, (2, 2): 3}
