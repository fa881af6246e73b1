# SPDX-License-Identifier: BSD-3-Clause
"""The lines of journals: how they look, and how they are added to a file;
standard library only.

The driver's journal and the nodes' are written and repaired by the same
functions. What the events mean is in `~lsst.ctrl.bps.parsl.run.journal`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import stat
import zlib
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple

from .lines import write_whole

__all__ = ["Beginning", "add", "beginning", "cut", "encode_event", "encode_line", "open_journal"]

_CHUNK = 1 << 16

_BEGINNING = re.compile(rb'{"e":"(start|end)","j":(\d+),"a":(\d+),')


class Beginning(NamedTuple):
    """What a line of a node begins with, whatever follows."""

    kind: str
    """``start`` or ``end``."""

    job: int
    """Number of the job."""

    attempt: int
    """Number of its attempt."""


def encode_event(kind: str, spec: dict[str, Any], time: float, **more: Any) -> bytes:
    """Encode an event of a node.

    Parameters
    ----------
    kind : `str`
        ``start`` or ``end``.
    spec : `dict`
        The job: its ``j`` and ``a`` are its number and that of its attempt.
    time : `float`
        When it was, in seconds since 1970.
    **more : `~typing.Any`
        What else there is to say.

    Returns
    -------
    line : `bytes`
        The line, with the beginning that `beginning` knows.
    """
    return encode_line({"e": kind, "j": spec["j"], "a": spec["a"], "t": time, **more})


def beginning(line: bytes) -> Beginning | None:
    """Tell what a line of a node is about, without decoding it.

    Parameters
    ----------
    line : `bytes`
        The line.

    Returns
    -------
    beginning : `Beginning` or `None`
        What it begins with; `None` where it is no event of a node.
    """
    match = _BEGINNING.match(line)
    return match and Beginning(match[1].decode(), int(match[2]), int(match[3]))


def encode_line(record: dict[str, Any]) -> bytes:
    """Encode one line of a journal.

    Parameters
    ----------
    record : `dict`
        What to write; not empty.

    Returns
    -------
    line : `bytes`
        JSON with a last member ``crc``, the CRC-32 of the record without it.
    """
    body = json.dumps(record, separators=(",", ":"))
    return f'{body[:-1]},"crc":{zlib.crc32(body.encode())}}}\n'.encode()


def add(fd: int, lines: bytes) -> None:
    """Add lines to a file, all or none.

    Parameters
    ----------
    fd : `int`
        File descriptor, for appending; the file has no other writer.
    lines : `bytes`
        The lines.

    Raises
    ------
    OSError
        Raised if they could not be written. They may be written later.
    """
    size = os.fstat(fd).st_size
    try:
        write_whole(fd, lines)
    except OSError:
        # Half a line would spoil the ones that follow.
        with suppress(OSError):
            os.ftruncate(fd, size)
        raise


def cut(fd: int) -> int:
    """Cut off the line that a writer began who was killed.

    Parameters
    ----------
    fd : `int`
        File descriptor, for reading and writing.

    Returns
    -------
    size : `int`
        Size of the file, up to its last newline.
    """
    whole = size = os.fstat(fd).st_size
    while whole:
        # A host that crashes may leave any number of zeros.
        begin = max(0, whole - _CHUNK)
        newline = os.pread(fd, whole - begin, begin).rfind(b"\n")
        whole = begin + newline + 1
        if newline >= 0:
            break
    if whole < size:
        os.ftruncate(fd, whole)
    return whole


def open_journal(directory: str, plan: str = "") -> tuple[int, str]:
    """Open a journal that nobody else writes.

    Parameters
    ----------
    directory : `str`
        Directory of the journals.
    plan : `str`, optional
        Identity of the plan that the jobs are of.

    Returns
    -------
    fd : `int`
        File descriptor, for appending.
    path : `str`
        The file, ``node-<host>-<number>.jsonl`` with the first number that is
        free: a host has as many files as runners at once, not in total.

    Raises
    ------
    OSError
        Raised with the name of the file if it cannot be written.
    """
    for number in count():
        path = f"{directory}/node-{socket.gethostname()}-{number}.jsonl"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        except OSError:  # A file system without locks.
            os.close(fd)
            path = f"{directory}/node-{socket.gethostname()}-p{os.getpid()}.jsonl"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            _begin(fd, plan)
        except OSError as exc:
            os.close(fd)
            raise OSError(exc.errno, exc.strerror, path) from None
        return fd, path
    raise AssertionError("the numbers do not end")


def _begin(fd: int, plan: str) -> None:
    """Write the header, where there is none yet."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, "it is not a file")
    if cut(fd) == 0:
        add(
            fd,
            encode_line(
                {"format": 1, "kind": "node", "plan": plan, "host": socket.gethostname(), "pid": os.getpid()}
            ),
        )
