# SPDX-License-Identifier: BSD-3-Clause
"""Files: whole or not at all, and nobody else's to write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lsst.ctrl.bps.parsl.errors import StorageError
from lsst.ctrl.bps.parsl.files import (
    PRIVATE,
    PUBLIC,
    make_directory,
    open_append,
    storage_errors,
    write_atomic,
)
from support.plans import umask, world_writable


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("wanted", [PUBLIC, PRIVATE])
def test_mode_does_not_depend_on_the_umask(tmp_path: Path, wanted: int) -> None:
    """A file has its mode from its first moment, under umask 000 too."""
    with umask(0):
        with write_atomic(tmp_path / "atomic", wanted) as stream:
            stream.write(b"x")
            (temporary,) = tmp_path.glob("atomic.*")
            assert mode(temporary) == wanted
        os.close(open_append(tmp_path / "appended", wanted))
    assert mode(tmp_path / "atomic") == wanted
    assert mode(tmp_path / "appended") == wanted


def test_directories_above_are_closed_to_others_too(tmp_path: Path) -> None:
    """Each directory that is made on the way has the mode, not only the last."""
    with umask(0):
        make_directory(tmp_path / "a" / "b" / "c")
        make_directory(tmp_path / "p" / "q", 0o700)
    assert world_writable(tmp_path / "a") == []
    assert mode(tmp_path / "p") == mode(tmp_path / "p" / "q") == 0o700


def test_directory_that_exists_is_left_alone(tmp_path: Path) -> None:
    """Making a directory again changes nothing; a file in its place is an error."""
    (tmp_path / "d").mkdir(0o700)
    make_directory(tmp_path / "d")
    assert mode(tmp_path / "d") == 0o700
    (tmp_path / "f").touch()
    with pytest.raises(OSError, match="exists"):
        make_directory(tmp_path / "f")


def test_relative_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path relative to this directory will do."""
    monkeypatch.chdir(tmp_path)
    make_directory("a/b/")
    assert (tmp_path / "a" / "b").is_dir()


def test_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """A file that cannot be written to its end is not replaced, and no other file is left."""
    path = tmp_path / "file"
    path.write_text("before")

    def write_half() -> None:
        with write_atomic(path) as stream:
            stream.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "before"


def test_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Somebody else's link in place of a file does not make us write elsewhere."""
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        open_append(tmp_path / "file")
    with write_atomic(tmp_path / "file") as stream:
        stream.write(b"ours")
    assert (tmp_path / "target").read_text() == "theirs"
    assert (tmp_path / "file").read_text() == "ours"


def test_append_goes_to_the_end(tmp_path: Path) -> None:
    """Each write is added to what the file holds by then."""
    path = tmp_path / "file"
    path.write_text("a")
    fd = open_append(path)
    with path.open("a") as other:
        other.write("b")
    os.write(fd, b"c")
    os.close(fd)
    assert path.read_text() == "abc"


def test_storage_error_names_file_and_reason(tmp_path: Path) -> None:
    """An error of the system becomes a sentence: what was done, to which file, and why not."""
    path = tmp_path / "missing" / "file"
    with pytest.raises(StorageError) as caught, storage_errors(path, "write the plan"), write_atomic(path):
        pass
    assert caught.value.message == f"Cannot write the plan: {path}: No such file or directory."
