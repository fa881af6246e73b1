# SPDX-License-Identifier: BSD-3-Clause
"""The journal: only the line that was being written can be lost."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsst.ctrl.bps.parsl.errors import DamagedFileError, StorageError
from lsst.ctrl.bps.parsl.run.journal import Journal, read_journal
from support.plans import umask

Event = dict[str, Any]

EVENTS: list[Event] = [
    {"e": "session", "n": 1},
    {"e": "pending", "j": [0, 1]},
    {"e": "fail", "j": 0, "why": 'cannot start "{x}": it is } and } gone', "more": {"a": {"b": 1}}},
    {"e": "ok", "j": [[1, 1.5, 2.5, 100, 0.5]]},
]

events = st.dictionaries(
    st.sampled_from(["e", "j", "why", "crc2"]),
    st.integers() | st.text(max_size=6) | st.lists(st.integers(), max_size=3),
    min_size=1,
)


def write(path: Path, what: list[Event]) -> None:
    journal = Journal(path, "r")
    for event in what:
        journal.append(event)
    journal.sync()
    journal.close()


@given(first=st.lists(events, max_size=4), second=st.lists(events, max_size=4))
def test_events_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, first: list[Event], second: list[Event]
) -> None:
    """All that two drivers wrote, one after the other, is read in their order."""
    path = tmp_path_factory.getbasetemp() / "journal.jsonl"
    path.unlink(missing_ok=True)
    write(path, first)
    write(path, second)
    assert list(read_journal(path)) == first + second


def test_file_says_what_it_is(tmp_path: Path) -> None:
    """The first line has the format and the run; each line is JSON with a checksum of all before it."""
    path = tmp_path / "journal.jsonl"
    write(path, EVENTS)
    first, *lines = path.read_bytes().splitlines()
    assert json.loads(first) == {
        "format": 1,
        "kind": "driver",
        "run": "r",
        "plan": "",
        "crc": json.loads(first)["crc"],
    }
    for line in lines:
        event = json.loads(line)
        body = json.dumps({key: event[key] for key in event if key != "crc"}, separators=(",", ":"))
        assert event["crc"] == zlib.crc32(body.encode())


def test_missing_journal_has_no_events(tmp_path: Path) -> None:
    """A run that was never started has no journal."""
    assert list(read_journal(tmp_path / "journal.jsonl")) == []


def test_cut_anywhere_in_the_last_record_loses_that_record_only(tmp_path: Path) -> None:
    """A driver that was killed in the middle of a line loses that line, and the next one goes on after it."""
    path = tmp_path / "journal.jsonl"
    for count in range(1, len(EVENTS) + 1):
        path.unlink(missing_ok=True)
        write(path, EVENTS[: count - 1])
        start = path.stat().st_size
        write(path, EVENTS[count - 1 : count])
        whole = path.read_bytes()
        for size in range(start, len(whole)):
            path.write_bytes(whole[:size])
            kept = list(read_journal(path))
            assert kept in (EVENTS[: count - 1], EVENTS[:count])
            write(path, [{"e": "session", "n": 2}])
            assert list(read_journal(path)) == [*kept, {"e": "session", "n": 2}], whole[start:size]


def test_cut_in_the_first_line_leaves_a_journal(tmp_path: Path) -> None:
    """A driver that was killed while it began the file leaves one that the next driver can use."""
    path = tmp_path / "journal.jsonl"
    write(path, [])
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert list(read_journal(path)) == []
        write(path, EVENTS)
        assert list(read_journal(path)) == EVENTS


def test_two_cuts(tmp_path: Path) -> None:
    """Each of several drivers may have been killed in the middle of a line."""
    path = tmp_path / "journal.jsonl"
    write(path, EVENTS[:2])
    os.truncate(path, path.stat().st_size - 5)
    write(path, EVENTS[2:3])
    os.truncate(path, path.stat().st_size - 9)
    write(path, EVENTS[3:])
    assert list(read_journal(path)) == [EVENTS[0], EVENTS[3]]


def test_zeros_at_the_end_are_a_cut(tmp_path: Path) -> None:
    """After a power failure some file systems leave zeros in place of the last bytes."""
    path = tmp_path / "journal.jsonl"
    write(path, EVENTS)
    size = path.stat().st_size
    os.truncate(path, size - 10)
    os.truncate(path, size + 100)
    assert list(read_journal(path)) == EVENTS[:-1]
    write(path, [{"e": "session", "n": 2}])
    assert list(read_journal(path)) == [*EVENTS[:-1], {"e": "session", "n": 2}]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_changed_byte_is_damage(tmp_path: Path, number: int) -> None:
    """A changed byte in a line that others follow is an error that names it, and never a lost event."""
    path = tmp_path / "journal.jsonl"
    write(path, EVENTS)
    lines = path.read_bytes().splitlines(keepends=True)
    start = sum(len(line) for line in lines[: number - 1])
    silent = []
    for position in range(start, start + len(lines[number - 1]) - 1):
        whole = bytearray(b"".join(lines))
        for change in (whole[position] ^ 1, whole[position] ^ 0x80, 0):
            whole[position] = change
            path.write_bytes(whole)
            try:
                list(read_journal(path))
                said = ""
            except DamagedFileError as exc:
                said = exc.message
            if f"{path} is damaged in line {number}" not in said:
                silent.append((position - start, bytes(lines[number - 1]), change))
    assert silent == []


def test_changed_byte_in_the_last_whole_line_is_damage(tmp_path: Path) -> None:
    """A last line that has its end was written whole: a changed byte in it is damage, and no cut."""
    path = tmp_path / "journal.jsonl"
    write(path, EVENTS)
    whole = path.read_bytes()
    position = whole.rindex(b'"e":"ok"')
    path.write_bytes(whole[:position] + b"X" + whole[position + 1 :])
    with pytest.raises(DamagedFileError, match="line 5"):
        list(read_journal(path))


def test_lost_newline_is_damage(tmp_path: Path) -> None:
    """Two lines that have become one are an error, and not two events less."""
    path = tmp_path / "journal.jsonl"
    write(path, EVENTS)
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(1, len(lines)):
        merged = [*lines]
        merged[number - 1] = merged[number - 1][:-1] + b"X"
        path.write_bytes(b"".join(merged))
        with pytest.raises(DamagedFileError, match=f"line {number}"):
            list(read_journal(path))


def test_unknown_format_says_what_to_do(tmp_path: Path) -> None:
    """The journal of a later release is not guessed at."""
    body = b'{"format":99,"kind":"driver"}'
    path = tmp_path / "journal.jsonl"
    path.write_bytes(body[:-1] + b',"crc":%d}\n' % zlib.crc32(body))
    with pytest.raises(DamagedFileError, match=r"format 99.*Use the version that started"):
        list(read_journal(path))


def test_journal_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """A directory that is gone or is none, and a link, are errors with the file's name."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for path in (tmp_path / "missing" / "j", tmp_path / "file" / "j", tmp_path / "link"):
        with pytest.raises(StorageError, match=re.escape(str(path))):
            Journal(path, "r")
    (tmp_path / "directory").mkdir()
    with pytest.raises(StorageError, match="read the journal"):
        list(read_journal(tmp_path / "directory"))


FILL = """
import resource, sys
from pathlib import Path
from lsst.ctrl.bps.parsl.errors import StorageError
from lsst.ctrl.bps.parsl.run.journal import Journal, read_journal
path = Path(sys.argv[1])
journal = Journal(path, "r")
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000,) * 2)
written = 0
try:
    while True:
        journal.append({"e": "ok", "j": [written]})
        written += 1
except StorageError as exc:
    assert str(path) in exc.message, exc.message
    assert [event["j"] for event in read_journal(path)] == [[n] for n in range(written)]
    print(written)
"""


def test_no_space_left_is_an_error_that_loses_nothing(tmp_path: Path) -> None:
    """Where a line cannot be written whole the driver hears of it, and what was written before is there."""
    path = tmp_path / "journal.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert int(done.stdout) > 10
    write(path, [{"e": "session"}])
    assert len(list(read_journal(path))) == int(done.stdout) + 1


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without a byte left is an error from the first line on."""
    full = os.open("/dev/full", os.O_WRONLY)
    write_really = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write_really(full, data))
    with pytest.raises(StorageError, match=r"journal.jsonl: No space left on device"):
        Journal(tmp_path / "journal.jsonl", "r")
    os.close(full)


def test_journal_is_nobody_elses_to_write(tmp_path: Path) -> None:
    """What happened is for the owner to say; others may read it."""
    path = tmp_path / "journal.jsonl"
    with umask(0):
        write(path, EVENTS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_reader_sees_what_is_there_while_the_driver_writes(tmp_path: Path) -> None:
    """A report reads a journal that grows: what is written whole is seen, an unfinished line is not."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, "r")
    journal.append(EVENTS[0])
    reader = read_journal(path)
    assert next(reader) == EVENTS[0]
    with path.open("ab") as other:
        other.write(b'{"e":"pend')
    assert list(reader) == []
    journal.close()
