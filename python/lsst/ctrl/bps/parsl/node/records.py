# SPDX-License-Identifier: BSD-3-Clause
"""What runners and the rest of the package have in common; standard library
only.
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
from itertools import count
from typing import Any

__all__ = [
    "ATTEMPT_VARIABLE",
    "CANNOT_EXECUTE",
    "LEVEL",
    "MOST_BYTES",
    "NOT_FOUND",
    "RUNNER_VARIABLE",
    "RUN_VARIABLE",
    "append_lines",
    "encode_line",
    "expand",
    "open_journal",
    "variables",
]

CANNOT_EXECUTE = 126
"""Exit code of a command that exists and cannot be started (POSIX shell)."""

NOT_FOUND = 127
"""Exit code of a command that does not exist (POSIX shell)."""

ATTEMPT_VARIABLE = "BPS_PARSL_ATTEMPT"
"""Environment variable that tells a job the number of its attempt, from 1."""

RUN_VARIABLE = "BPS_PARSL_SUBMIT_PATH"
"""Environment variable of every process of a run: its submit directory."""

RUNNER_VARIABLE = "BPS_PARSL_RUNNER"
"""Environment variable of a runner process and its jobs."""

LEVEL = "BPS_PARSL_SHLVL"
"""Environment variable with bash's level before it became a fork server."""

MOST_BYTES = 1 << 17
"""Size of the largest request to a fork server."""

_CHUNK = 1 << 16

_ENV = re.compile(r"<ENV:([^>]*)>")
_ENV_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


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


def append_lines(fd: int, lines: list[bytes]) -> str:
    """Add lines to a journal, all or none.

    Parameters
    ----------
    fd : `int`
        File descriptor of the journal, which has no other writer.
    lines : `list` [`bytes`]
        The lines; the list is emptied when they are written.

    Returns
    -------
    why : `str`
        Why they could not be written; nothing where they were. They may be
        written later, together with the next ones.
    """
    data = b"".join(lines)
    try:
        written = os.write(fd, data)
        if written == len(data):
            lines.clear()
            return ""
        # Half a line would spoil the ones that follow.
        os.ftruncate(fd, os.fstat(fd).st_size - written)
    except OSError as exc:
        return exc.strerror or str(exc)
    return os.strerror(errno.ENOSPC)


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
    """Write the header, or cut off the line that a killed writer began."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a file")
    whole = size = found.st_size
    while whole:
        # A host that crashes may leave any number of zeros.
        begin = max(0, whole - _CHUNK)
        newline = os.pread(fd, whole - begin, begin).rfind(b"\n")
        whole = begin + newline + 1
        if newline >= 0:
            break
    if whole < size:
        os.ftruncate(fd, whole)
    if whole == 0:
        header = {"format": 1, "kind": "node", "plan": plan, "host": socket.gethostname(), "pid": os.getpid()}
        line = encode_line(header)
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def expand(text: str, environ: dict[str, str]) -> str:
    """Put the values of environment variables into a text.

    Parameters
    ----------
    text : `str`
        Text with BPS's ``<ENV:name>``.
    environ : `dict` [`str`, `str`]
        The variables; one that is not set stands for nothing.

    Returns
    -------
    expanded : `str`
        The text. BPS writes ``$5`` as ``<ENV:5>`` and ``$HOME/x`` as
        ``<ENV:HOME/x>``; both come out as they were meant.
    """

    def value(match: re.Match[str]) -> str:
        content = match.group(1)
        name = _ENV_NAME.match(content)
        if name is None:
            return "$" + content
        return environ.get(name.group(), "") + content[name.end() :]

    return _ENV.sub(value, text)


def variables(text: str) -> list[str]:
    """Return the names of the environment variables in a text.

    Parameters
    ----------
    text : `str`
        Text with BPS's ``<ENV:name>``.

    Returns
    -------
    names : `list` [`str`]
        The names, as they stand there.
    """
    return _ENV.findall(text)
