# SPDX-License-Identifier: BSD-3-Clause
"""What is written is written whole, or it is said that it was not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lsst.ctrl.bps.parsl as package
from lsst.ctrl.bps.parsl.node.journal import add, beginning, cut, encode_event, encode_line
from lsst.ctrl.bps.parsl.node.lines import write_whole

LIMIT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))
"""
"""A disk with space for 30 bytes: of more, a part is written, and no error is told at first."""

PARTS = {
    "pilots": "from lsst.ctrl.bps.parsl.batch.pilot_records import record_pilots as write\n"
    "write(path, 'slurm', tag='x' * 40)",
    "journal": "from lsst.ctrl.bps.parsl.run.journal import Journal\nJournal(path, 'r')",
    "lock": "from lsst.ctrl.bps.parsl.run.liveness import RunLock\nRunLock(path, 'r').acquire()",
}


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[int]:
    """Open a file for appending."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the system take three bytes at a time; what is left of a disk, in bytes, is in the list."""
    write, left = os.write, [1 << 20]

    def write_some(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0] -= (size := min(3, len(data), left[0]))
        return write(fd, data[:size])

    monkeypatch.setattr(os, "write", write_some)
    return left


def content(fd: int) -> bytes:
    return os.pread(fd, 1000, 0)


def test_short_writes_go_on(stream: int, small_steps: list[int]) -> None:
    """A system that takes a part at a time gets the rest."""
    write_whole(stream, b"0123456789")
    add(stream, b"abcdefgh\n")
    assert content(stream) == b"0123456789abcdefgh\n"


@pytest.mark.parametrize("space", [0, 1, 5])
def test_lines_are_added_all_or_none(stream: int, small_steps: list[int], space: int) -> None:
    """Of lines that have no place nothing stays in the file, and they can be added later."""
    add(stream, b"first\n")
    small_steps[0] = space
    with pytest.raises(OSError, match="No space left"):
        add(stream, b"second\n")
    assert content(stream) == b"first\n"
    small_steps[0] = 1000
    add(stream, b"second\n")
    assert content(stream) == b"first\nsecond\n"


@pytest.mark.some(1)
@pytest.mark.parametrize("what", PARTS)
def test_full_disk_is_said(tmp_path: Path, what: str) -> None:
    """Whatever cannot be written whole is an error in words that names the file, and half a line of it
    does not stay.
    """
    path = tmp_path / what
    code = f"{LIMIT}\nfrom pathlib import Path\npath = Path(sys.argv[1])\n{PARTS[what]}"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()[-1]
    assert re.search(rf"StorageError: Cannot write .*{re.escape(str(path))}: File too large", said)
    assert path.read_bytes() == b"" or what == "lock"


def test_line_that_a_killed_writer_began_is_cut_off(stream: int) -> None:
    """All up to the last newline is kept."""
    for begun in (b"", b"x", b"\0" * 200_000):
        os.ftruncate(stream, 0)
        write_whole(stream, b"first\n" + begun)
        assert cut(stream) == os.fstat(stream).st_size == 6
    os.ftruncate(stream, 0)
    write_whole(stream, b"x" * 200_000)
    assert cut(stream) == os.fstat(stream).st_size == 0


def test_beginning_of_a_node_event() -> None:
    """What a line of a node is about is read without decoding it; other lines have no such beginning."""
    line = encode_event("end", {"j": 12, "a": 3, "argv": ["x"]}, 5.5, exit=0)
    assert line == encode_line({"e": "end", "j": 12, "a": 3, "t": 5.5, "exit": 0})
    assert beginning(line) == ("end", 12, 3)
    others = (b"", b"\0" * 20, line[1:], encode_line({"format": 1}), encode_line({"e": "ok", "j": [1]}))
    assert [beginning(other) for other in others] == [None] * len(others)


def test_nothing_else_writes_in_parts() -> None:
    """`os.write` is called where a part is taken for what it is, and by messages that are sent whole or
    not at all.
    """
    root = Path(str(package.__file__)).parent
    used = {
        str(path.relative_to(root)): count
        for path in sorted(root.rglob("*.py"))
        if (count := len(re.findall(r"os\.p?writev?\(", path.read_text())))
    }
    # The fork server's are to sockets; a script's last words go where they can.
    allowed = {"node/lines.py", "node/fork_server.py", "node/main_script.py"}
    assert used.keys() <= allowed
