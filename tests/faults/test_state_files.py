# SPDX-License-Identifier: BSD-3-Clause
"""Whatever becomes of a run's files: no success is forgotten, or a sentence names the file, which is kept."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from end_to_end.conftest import shared_box  # noqa: F401  # a fixture
from end_to_end.support import Finished, Running, Sandbox, Step
from lsst.ctrl.bps.parsl.errors import ParslBpsError
from lsst.ctrl.bps.parsl.node.journal import encode_line, open_journal
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.journal import read_journal
from lsst.ctrl.bps.parsl.run.registry import Registry, read_registry

from .checker import Record
from .matrix import Matrix
from .state_files import (
    NUMBERED,
    OWN,
    TRUSTED,
    Run,
    bear,
    files,
    kill_in,
    look,
    make_run,
    remove,
    report,
    restart,
    take_down,
)


@pytest.fixture(scope="module")
def run(shared_box: Sandbox) -> Run:  # noqa: F811  # It is the fixture.
    """A run whose driver was killed; another one is beside it."""
    make_run(shared_box, "other", killed=False)
    return make_run(shared_box, "run", killed=True)


@pytest.mark.some(2)
@pytest.mark.quick
@pytest.mark.parametrize("name", OWN)
def test_cut(run: Run, matrix: Matrix, name: str) -> None:
    """A file that ends at any byte of its last record has lost that record at most."""
    content = run.content[run.file(name)]
    begin = content.rstrip(b"\n").rfind(b"\n") + 1
    wrong = []
    sizes = range(max(begin, len(content) - 400), len(content))
    for size in sizes:
        with run.damaged(name) as path:
            path.write_bytes(content[:size])
            wrong += bear(run, path, f"{size} of {len(content)} bytes", report, restart)
    take_down(matrix, f"{name} is cut in its last record", wrong, len(sizes))


@pytest.mark.some(2)
@pytest.mark.quick
@pytest.mark.parametrize("name", OWN)
def test_zeros(run: Run, matrix: Matrix, name: str) -> None:
    """Zeros after the last record, or in its place, as a crash of the host leaves them, cost no success."""
    content = run.content[run.file(name)]
    begin = content.rstrip(b"\n").rfind(b"\n") + 1
    wrong, tries = [], 0
    for kept in (len(content), len(content) - 1, len(content) - 5, begin, 0):
        for count in (1, 7, 512, 4096, 70000):
            for end in (b"", b"\n"):
                with run.damaged(name) as path:
                    path.write_bytes(content[:kept] + bytes(count) + end)
                    what = f"{kept} of {len(content)} bytes, {count} zeros, {end!r}"
                    wrong += bear(run, path, what, report, restart)
                tries += 1
    take_down(matrix, f"{name} has zeros at its end", wrong, tries)


@pytest.mark.some(1)
@pytest.mark.quick
@pytest.mark.parametrize("name", TRUSTED)
def test_flipped_bit(run: Run, matrix: Matrix, name: str) -> None:
    """A bit that is wrong, anywhere, is noticed, or it tells nothing that is not known anyway."""
    content = run.content[run.file(name)]
    wrong = []
    for index in range(len(content)):
        changed = bytearray(content)
        changed[index] ^= 1 << (index % 7)
        with run.damaged(name) as path:
            path.write_bytes(changed)
            wrong += bear(run, path, f"byte {index} is {changed[index]:#x}", look)
    take_down(matrix, f"{name} has a wrong bit", wrong, len(content))


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_of_a_node(run: Run, matrix: Matrix, bit: int) -> None:
    """What nodes recorded is all that there is, where the driver's journal is lost: each bit counts."""
    content = run.content[run.file("node")]
    wrong = []
    for index in range(len(content)):
        changed = bytearray(content)
        changed[index] ^= 1 << bit
        with run.damaged("node") as path:
            run.paths.driver_journal.unlink()
            path.write_bytes(changed)
            last = content.rfind(b"\n", 0, -1) + 1
            may_lose = run.succeeded if index >= last else frozenset[int]()
            wrong += bear(run, path, f"byte {index} is {changed[index]:#x}", look, may_lose=may_lose)
    take_down(matrix, "node has a wrong bit and driver_journal is missing", wrong, len(content))


@pytest.mark.parametrize("name", ["lock", "cancel_request", "pilots", "config", "environment", "entry"])
def test_flipped_bit_of_others(run: Run, matrix: Matrix, name: str) -> None:
    """Where no checksum tells of a wrong bit, it costs no success, and no traceback."""
    content = run.content[run.file(name)]
    wrong = []
    indices = range(0, len(content), max(1, len(content) // 60))
    for index in indices:
        changed = bytearray(content)
        changed[index] ^= 1 << (index % 7)
        with run.damaged(name) as path:
            path.write_bytes(changed)
            wrong += bear(run, path, f"byte {index} is {changed[index]:#x}", report, restart)
            assert "other" in {entry.run for entry in read_registry()}
    take_down(matrix, f"{name} has a wrong bit", wrong, len(indices))


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _missing(path: Path, other: Path) -> None:
    path.unlink()


def _of_another_run(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def _behind_a_link(path: Path, other: Path) -> None:
    kept = path.rename(path.with_name("kept"))
    path.symlink_to(kept)


def _link_to_nothing(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


def _directory(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def _of_somebody_else(path: Path, other: Path) -> None:
    os.chown(path, 65534, 65534)


DAMAGES: list[Any] = [
    _empty,
    _missing,
    _of_another_run,
    _behind_a_link,
    _link_to_nothing,
    _directory,
    pytest.param(_of_somebody_else, marks=pytest.mark.as_root),
]


@pytest.mark.quick
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
@pytest.mark.parametrize("name", OWN)
def test_damage(run: Run, matrix: Matrix, name: str, damage: Callable[[Path, Path], None]) -> None:
    """A file that is empty, gone, another's or no file costs no success, or is named and left as it is."""
    other = Run(run.box, SubmitPaths(run.paths.submit_path.with_name("other")), run.succeeded, {})
    theirs, before = other.file(name), files(other.paths.submit_path)
    with run.damaged(name) as path:
        damage(path, theirs)
        wrong = bear(run, path, damage.__name__, report, restart)
        assert not path.with_name("nothing").exists(), "something was written through the link"
        assert {entry.run for entry in read_registry()} >= {"other"}
        path.with_name("kept").unlink(missing_ok=True)
    assert files(other.paths.submit_path) == before
    assert path.stat().st_uid == os.geteuid()
    take_down(matrix, f"{name} is {damage.__name__.strip('_').replace('_', ' ')}", wrong, 2)


@pytest.mark.quick
@pytest.mark.parametrize("name", NUMBERED)
def test_newer_format(run: Run, matrix: Matrix, name: str) -> None:
    """A file that a later release wrote is not guessed at, and is left as it is for that release."""
    first, _, rest = run.content[run.file(name)].partition(b"\n")
    with run.damaged(name) as path:
        if name in ("driver_journal", "node"):
            header = json.loads(first)
            del header["crc"]
            path.write_bytes(encode_line({**header, "format": 9}) + rest)
        else:
            text = first + b"\n" + rest if rest else first
            path.write_bytes(re.sub(rb'("format": ?)\d', rb"\g<1>9", text, count=1))
        newer = path.read_bytes()
        assert newer != run.content[path]
        with pytest.raises(ParslBpsError) as caught:
            _ = restart(run) if name != "entry" else Registry().find("run")
        assert path.read_bytes() == newer
        assert name == "entry" or f"{path} has format 9" in caught.value.message
        wrong = bear(run, path, "format 9", report, restart)
    take_down(matrix, f"{name} is of a newer format", wrong, 2)


@pytest.mark.quick
def test_entry_of_another_run(run: Run, matrix: Matrix) -> None:
    """Two entries of one run are one run; that whose entry is lost is found by its submit path."""
    other = next(run.box.state.glob("other@*.json"))
    with run.damaged("entry") as path:
        shutil.copyfile(other, path)
        assert Registry().find("other") == run.paths.submit_path.with_name("other")
        assert Registry().find(str(run.paths.submit_path)) == run.paths.submit_path
    matrix.add("entry is that of another run", "all")


@pytest.mark.quick
def test_lost_lines(run: Run, matrix: Matrix) -> None:
    """The driver's host crashed, and its journal has lost what was not on the disk: any number of lines
    after the last session's, or all. What other hosts recorded counts, and no attempt has a number that
    was used.
    """
    lines = run.content[run.paths.driver_journal].splitlines(keepends=True)
    session = max(number for number, line in enumerate(lines) if b'"e":"session"' in line)
    used = dict.fromkeys(range(4), 0)
    for start in Record.read(run.paths.submit_path).starts:
        used[start["j"]] = max(used[start["j"]], start["a"])
    wrong = []
    for kept in (0, *range(session + 1, len(lines) + 1)):
        with run.damaged("driver_journal") as path:
            path.write_bytes(b"".join(lines[:kept]))
            wrong += bear(run, path, f"{kept} of {len(lines)} lines", report, restart)
            state = look(run)
            wrong += [
                f"{kept} lines: {job} has {state.attempts[job]}"
                for job in used
                if state.attempts[job] < used[job]
            ]
            assert JobState.READY <= state.state(2) <= JobState.RUNNING
            assert state.state(3) == JobState.UNREADY
    take_down(matrix, "driver_journal lost its last lines", wrong, len(lines) - session + 1)


@pytest.mark.quick
@pytest.mark.parametrize("size", [1, 4096, 65535, 65536, 70000, 200000])
def test_next_writer_after_zeros(tmp_path: Path, matrix: Matrix, size: int) -> None:
    """A node that goes on in a file with zeros at its end, as of a crash, writes after its last line."""
    for kind, zeros in (("start", bytes(size)), ("end", b"")):
        fd, name = open_journal(str(tmp_path))
        os.write(fd, encode_line({"e": kind, "j": 0, "a": 1, "t": 1.0}) + zeros)
        os.close(fd)
    assert [event["e"] for event in read_journal(Path(name))] == ["start", "end"]
    matrix.add("node is written on after zeros", "all")


@pytest.mark.long
@pytest.mark.parametrize("name", OWN)
def test_pipe(run: Run, matrix: Matrix, name: str) -> None:
    """Nothing waits for somebody to write into a named pipe that is in the place of a file, and other
    runs are reported.
    """
    submit_path = run.paths.submit_path
    with run.damaged(name) as path:
        remove(path)
        os.mkfifo(path)
        looks = [run.box.fork(verb, "--id", submit_path) for verb in ("report", "status")]
        looks += [run.box.fork("report", "--id", "other"), run.box.fork("report", "--hist", "1")]
        ended = [within(looks[0], 60.0), *(within(running, 60.0) for running in looks[1:])]
        ended.append(within(run.box.fork("restart", "--id", submit_path), 60.0))
    wrong = [str(finished) for finished in ended if finished.code < 0 or "Traceback" in finished.text]
    wrong += [str(ended[2])] if ended[2].code else []
    take_down(matrix, f"{name} is a named pipe", wrong, len(ended))


def within(running: Running, seconds: float) -> Finished:
    """Wait for the end of a process; -1 is that of one that had to be killed."""
    try:
        return running.finish(seconds)
    except AssertionError as exc:
        return Finished(running.args, -1, "", str(exc))


LOST: dict[str, Callable[[SubmitPaths], object]] = {
    "whole": lambda paths: paths.driver_journal.unlink(),
    "content": lambda paths: paths.driver_journal.write_bytes(b""),
    "zeros": lambda paths: paths.driver_journal.write_bytes(bytes(paths.driver_journal.stat().st_size)),
    "last lines": lambda paths: cut_after_session(paths.driver_journal),
    "request": lambda paths: paths.cancel_request.mkdir(),
    "lock": lambda paths: paths.lock.unlink(),
}


def cut_after_session(path: Path) -> None:
    """Cut all that a driver wrote after its first line."""
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if b'"e":"session"' in line)
    path.write_bytes(b"".join(lines[: last + 1]) + bytes(4096))


@pytest.mark.some(1)
@pytest.mark.quick
@pytest.mark.parametrize("lost", LOST)
def test_restart_after_loss(box: Sandbox, matrix: Matrix, lost: str) -> None:
    """A real driver goes on after the loss: what nodes saw succeed does not run again, and the rest does,
    with numbers of attempts that were not used.
    """
    box.prepare([Step("a"), Step("b", ["a"]), Step("c", ["b"])], final=Step("last"))
    kill_in(box, "run", "c")
    paths = SubmitPaths(box.submit_path)
    os.utime(paths.lock, (0, 0))
    LOST[lost](paths)
    box.bps("report", "--id", "run").succeeded()
    box.bps("restart", "--id", "run").succeeded()
    assert box.steps("begin") == ["a", "b", "c", "c", "c", "last"]
    matrix.check(f"loss before a restart: {lost}", box)
