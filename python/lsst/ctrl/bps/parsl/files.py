# SPDX-License-Identifier: BSD-3-Clause
"""Writing and reading files on machines that other people use too.

Modes are given when a file is made, never afterwards, so that there is no
moment in which others could write to it; symbolic links are not followed.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import StorageError

__all__ = [
    "PRIVATE",
    "PUBLIC",
    "check_own",
    "make_directory",
    "open_append",
    "open_regular",
    "read_file",
    "storage_errors",
    "write_atomic",
    "write_private_text",
]

PUBLIC = 0o644
"""Mode of a file that others may read."""

PRIVATE = 0o600
"""Mode of a file that holds an environment or a key."""


_OTHERS_WRITE = 0o022


@contextmanager
def storage_errors(path: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Turn an `OSError` into a sentence that names the file.

    Parameters
    ----------
    path : `str` or `os.PathLike`
        The file or directory.
    doing : `str`
        What is being done, as in "write the plan".

    Raises
    ------
    StorageError
        Raised in place of an `OSError`.
    """
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise StorageError(f"Cannot {doing}: {os.fspath(path)}: {reason}.") from exc


def make_directory(path: str | os.PathLike[str], mode: int = 0o755) -> None:
    """Make a directory, and those above it, that others cannot write to.

    Parameters
    ----------
    path : `str` or `os.PathLike`
        The directory; it may exist.
    mode : `int`, optional
        Permission bits of what is created.

    Notes
    -----
    `os.makedirs` applies its mode to the last directory only.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent and parent != path:
        make_directory(parent, mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def check_own(path: str | os.PathLike[str]) -> None:
    """Check that a directory is this user's; close it to others' writing.

    Parameters
    ----------
    path : `str` or `os.PathLike`
        The directory.

    Raises
    ------
    StorageError
        Raised if it is another user's, or if another user's link leads to it.
    """
    me = _owner_of_new_files(path)
    if os.lstat(path).st_uid != me or (found := os.stat(path)).st_uid != me:
        raise StorageError(
            f"{os.fspath(path)} is another user's, who could change what is run. Choose another submitPath."
        )
    if found.st_mode & _OTHERS_WRITE:
        os.chmod(path, stat.S_IMODE(found.st_mode) & ~_OTHERS_WRITE)


def _owner_of_new_files(directory: str | os.PathLike[str]) -> int:
    """Return whose this process's files are there: a file system may have names of its own for users."""
    fd, path = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=directory)
    try:
        return os.fstat(fd).st_uid
    finally:
        os.close(fd)
        os.unlink(path)


def open_append(path: str | os.PathLike[str], mode: int = PUBLIC) -> int:
    """Open a file for appending, making it where it is missing.

    Parameters
    ----------
    path : `str` or `os.PathLike`
        The file.
    mode : `int`, optional
        Permission bits of a new file.

    Returns
    -------
    fd : `int`
        File descriptor; each write to it goes to the end of the file.
    """
    return open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, mode)


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY, mode: int = PUBLIC) -> int:
    """Open a file, and nothing that only has the place of one.

    Parameters
    ----------
    path : `str` or `os.PathLike`
        The file.
    flags : `int`, optional
        As for `os.open`.
    mode : `int`, optional
        Permission bits of a new file.

    Returns
    -------
    fd : `int`
        File descriptor.

    Raises
    ------
    OSError
        Raised if it cannot be opened. A named pipe, which would be waited for
        without end, is refused as well.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a file", os.fspath(path))
    return fd


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a file, as `open_regular` opens it.

    Parameters
    ----------
    path : `str` or `os.PathLike`
        The file.

    Returns
    -------
    content : `bytes`
        All that is in it.
    """
    with open(open_regular(path), "rb") as stream:
        return stream.read()


@contextmanager
def write_atomic(path: str | os.PathLike[str], mode: int = PUBLIC) -> Iterator[IO[bytes]]:
    """Write a file that appears whole or not at all.

    Parameters
    ----------
    path : `str` or `os.PathLike`
        The file; it is replaced where it exists.
    mode : `int`, optional
        Permission bits.

    Yields
    ------
    stream : `~typing.IO` [`bytes`]
        Where to write.
    """
    path = os.fspath(path)
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, mode)
    try:
        with os.fdopen(fd, "wb", buffering=1 << 20) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_private_text(path: Path, text: str, doing: str) -> None:
    """Write a text that nobody else may read, into a directory of this user's, which is made.

    Parameters
    ----------
    path : `pathlib.Path`
        The file, which appears whole or not at all.
    text : `str`
        What to write.
    doing : `str`
        As for `storage_errors`.

    Raises
    ------
    StorageError
        Raised if it cannot be written, or if the directory is another user's.
    """
    with storage_errors(path, doing):
        make_directory(path.parent)
        check_own(path.parent)
        with write_atomic(path, PRIVATE) as stream:
            stream.write(text.encode("utf-8", "surrogateescape"))
