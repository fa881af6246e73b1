# SPDX-License-Identifier: BSD-3-Clause
"""Following what the nodes record while they record it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps.parsl import files
from lsst.ctrl.bps.parsl.driver.node_tail import NodeTail
from lsst.ctrl.bps.parsl.node.journal import encode_line
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.run import journal


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
    return [found["j"] for found in tail.read()]


def following(paths: SubmitPaths) -> NodeTail:
    """Follow the first attempts of some jobs."""
    tail = NodeTail(paths)
    for job in range(20):
        tail.expect(job, 1)
    return tail


def test_only_what_is_new_is_read(paths: SubmitPaths) -> None:
    """What an earlier driver's nodes wrote is left out, and each event comes once, of old and new nodes."""
    add(paths, encode_line(event(0)))
    tail = following(paths)
    assert jobs(tail) == []
    add(paths, encode_line(event(1)))
    add(paths, encode_line(event(2)) + encode_line(event(3)), "node-b-2.jsonl")
    assert sorted(jobs(tail)) == [1, 2, 3]
    assert jobs(tail) == []


def test_half_a_line_is_read_when_it_is_whole(paths: SubmitPaths) -> None:
    """A node that is just writing is waited for."""
    tail = following(paths)
    line = encode_line(event(1))
    for byte in range(len(line)):
        assert jobs(tail) == []
        add(paths, line[byte : byte + 1])
    assert jobs(tail) == [1]


def test_what_cannot_be_read_yet_comes_later(
    paths: SubmitPaths, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros that NFS shows in place of lines are waited for, while those that follow are read; nothing
    comes twice. What never can be read is left out with one warning, and opened no more.
    """
    tail = following(paths)
    lines = [encode_line(event(job)) for job in range(5)]
    late, where = lines[1] + lines[2], len(lines[0])
    add(paths, lines[0] + bytes(len(late) - 1) + b"\n" + lines[3])
    assert jobs(tail) == [0, 3]
    assert jobs(tail) == []
    with (paths.journals / "node-a-1.jsonl").open("r+b") as stream:
        stream.seek(where)
        stream.write(late)
    add(paths, lines[4])
    assert jobs(tail) == [1, 2, 4]
    assert caplog.text == ""
    add(paths, b"garbage\n" + encode_line(event(6)).replace(b"start", b"stxrt"))
    add(paths, encode_line(event(7)))
    assert jobs(tail) == [7]
    monkeypatch.setattr(journal, "PATIENCE_SECONDS", 0.0)
    assert jobs(tail) == []
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all("node-a-1.jsonl" in record.getMessage() for record in caplog.records)
    monkeypatch.setattr(journal, "open_regular", None)
    assert jobs(tail) == []


def test_only_attempts_that_are_expected(paths: SubmitPaths) -> None:
    """What nodes write of other attempts, such as an earlier driver's, or of jobs that the plan does not
    have, is passed over.
    """
    tail = NodeTail(paths)
    tail.expect(3, 1)
    tail.expect(4, 2)
    add(paths, b"".join(encode_line(event(job)) for job in (1, 2, 3, 4, 10**6)))
    assert jobs(tail) == [3]


def test_journal_that_cannot_be_read_is_no_error(paths: SubmitPaths) -> None:
    """A file that is gone is passed over, and so is what only has the place of one: nobody waits for a
    named pipe.
    """
    tail = following(paths)
    add(paths, encode_line(event(1)))
    (paths.journals / "node-c-1.jsonl").mkdir()
    os.mkfifo(paths.journals / "node-d-1.jsonl")
    (paths.journals / "node-e-1.jsonl").symlink_to("node-f-1.jsonl")
    assert jobs(tail) == [1]
    shutil.rmtree(paths.journals)
    assert list(tail.read(fresh=True)) == []


def test_recorded_ends_of_attempts(paths: SubmitPaths) -> None:
    """The ends of just the attempts that are expected are kept, from the files of all nodes, and each until
    it is asked for: nothing is read twice, and nothing stays.
    """
    tail = NodeTail(paths)
    for attempt in ((1, 1), (2, 2), (3, 1)):
        tail.expect(*attempt)
    ends = [event(1), event(1, "end", exit=0), event(11, "end", exit=0)]
    add(paths, b"".join(map(encode_line, ends)))
    add(paths, encode_line({**event(2, "end", exit=3), "a": 2}), "node-b-2.jsonl")
    assert jobs(tail) == [1]
    found = {attempt: tail.take_end(*attempt) for attempt in ((1, 1), (2, 2), (2, 1), (3, 1), (11, 1))}
    assert {attempt: end["exit"] for attempt, end in found.items() if end} == {(1, 1): 0, (2, 2): 3}
    assert tail.take_end(1, 1) is None
    add(paths, encode_line(event(1, "end", exit=0)))
    assert jobs(tail) == []
    assert tail.take_end(1, 1) is None


def test_only_files_that_have_grown_are_opened(paths: SubmitPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the journals of many nodes, a look at the sizes tells which are to be opened; all are where the
    last word on an attempt that was lost is wanted.
    """
    opened: list[str] = []
    really = files.open_regular

    def noting(path: Path, flags: int) -> int:
        opened.append(path.name)
        return really(path, flags)

    monkeypatch.setattr(journal, "open_regular", noting)
    names = [f"node-h{number}-0.jsonl" for number in range(50)]
    for name in names:
        add(paths, encode_line(event(0)), name)
    tail = following(paths)
    assert (jobs(tail), opened) == ([], [])
    add(paths, encode_line(event(1)) + b'{"e":"sta', names[7])
    assert (jobs(tail), opened) == ([1], [names[7]])
    assert (jobs(tail), opened) == ([], [names[7]])
    opened.clear()
    assert list(tail.read(fresh=True)) == []
    assert sorted(opened) == sorted(names)
