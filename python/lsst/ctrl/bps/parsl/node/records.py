# SPDX-License-Identifier: BSD-3-Clause
"""What runners and the rest of the package have in common; standard library
only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
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

_LONGEST_LINE = 1 << 16

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


def open_journal(directory: str) -> tuple[int, str]:
    """Open a journal that nobody else writes.

    Parameters
    ----------
    directory : `str`
        Directory of the journals.

    Returns
    -------
    fd : `int`
        File descriptor, for appending.
    path : `str`
        The file, ``node-<host>-<number>.jsonl`` with the first number that is
        free: a host has as many files as runners at once, not in total.
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
        _begin(fd)
        return fd, path
    raise AssertionError("the numbers do not end")


def _begin(fd: int) -> None:
    """Write the header, or cut off the line that a killed writer began."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _LONGEST_LINE, max(0, size - _LONGEST_LINE))
    whole = size - len(tail) + tail.rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(fd, whole)
    if whole == 0:
        header = {"format": 1, "kind": "node", "host": socket.gethostname(), "pid": os.getpid()}
        os.write(fd, encode_line(header))


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
