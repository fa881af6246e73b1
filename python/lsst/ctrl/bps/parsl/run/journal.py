# SPDX-License-Identifier: BSD-3-Clause
"""The journal: what happened, in lines that are only ever added.

Each file has one writer. A driver adds to ``driver.jsonl``, one after the
other under the run's lock; each node has a file of its own. A line that was
cut short at the end of a file is skipped; any other damage is an error.

Events of the driver (``e`` is the kind, ``t`` the time in seconds since 1970,
``j`` numbers of jobs):

==========  ==================================================================
session     a driver begins: ``n``, ``host``, ``pid``; what an earlier one had
            not finished is to be done again
attempts    ``[job, attempts]`` of jobs of which nodes know more attempts than
            this journal, as its last lines were lost in a crash of the host
pending     the jobs in ``j`` were given to Parsl, each for another attempt
ok          the jobs in ``j`` succeeded: ``[job, start, end, MB, CPU s]``
payload     from here on the jobs of the plan's second part count: ``plan``, its
            identity
fail        job ``j`` failed: ``exit``, ``why``, ``retry``, ``charged``
            (whether it counts against the retries), ``memory`` (MB of the
            next attempt, where it changes), ``lost`` (nothing is known)
cancel      what has not ended will not run
stop        the driver ended its jobs and itself: ``why``
finish      nothing is left to do: ``state``
==========  ==================================================================

Events of nodes: ``start`` and ``end`` of attempt ``a`` of job ``j``.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError, StorageError
from ..files import open_append, open_regular, storage_errors
from ..node.records import encode_line
from ..plan.plan import Plan

__all__ = ["Journal", "decode_line", "read_journal"]

_FORMAT = 1
_CHUNK = 1 << 16


class Journal:
    """A journal open for writing.

    Parameters
    ----------
    path : `pathlib.Path`
        The file; made where it is missing.
    run : `str`
        Name of the run.
    plan : `str`, optional
        Identity of its plan.
    """

    def __init__(self, path: Path, run: str, plan: str = "") -> None:
        self.path = path
        with storage_errors(path, "open the journal"):
            self._fd = open_append(path)
            whole = _whole_size(path)
            if whole != os.fstat(self._fd).st_size:
                # What a driver that was killed left of its last line.
                os.ftruncate(self._fd, whole)
            if whole == 0:
                self.append({"format": _FORMAT, "kind": "driver", "run": run, "plan": plan})

    def append(self, event: dict[str, Any]) -> None:
        """Add an event.

        Parameters
        ----------
        event : `dict`
            The event.

        Raises
        ------
        StorageError
            Raised if it cannot be written whole.
        """
        line = encode_line(event)
        with storage_errors(self.path, "write to the journal"):
            if os.fstat(self._fd).st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "it has been removed while the run was going on")
            written = os.write(self._fd, line)
        if written != len(line):
            raise StorageError(
                f"Cannot write to the journal: {self.path}: no space left. Make space, then resume the run."
            )

    def sync(self) -> None:
        """Have the system put what was added on the disk."""
        with storage_errors(self.path, "write the journal to the disk"):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _whole_size(path: Path) -> int:
    """Return the size of a file up to its last newline."""
    with open(path, "rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - _CHUNK)
            stream.seek(begin)
            newline = stream.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
    return 0


def read_journal(
    path: Path, wanted: Callable[[bytes], bool] | None = None, plan: Plan | None = None
) -> Iterator[dict[str, Any]]:
    """Read the events of a journal.

    Parameters
    ----------
    path : `pathlib.Path`
        The file; one that does not exist has no events.
    wanted : `~collections.abc.Callable`, optional
        Tells of a line, as it stands in the file, whether it is worth
        decoding; all are by default. Those that are passed over are checked
        for damage all the same.
    plan : `Plan`, optional
        The plan that the journal has to be of.

    Yields
    ------
    event : `dict`
        An event, without its checksum; the header is checked and left out.

    Raises
    ------
    DamagedFileError
        Raised if a line other than an unfinished one is damaged, or if the
        file has another format or is of another run.
    """
    with storage_errors(path, "read the journal"):
        try:
            fd = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        with open(fd, "rb", buffering=1 << 20) as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return  # Its writer was killed, or is writing it now.
                body = _checked(line)
                if body is not None and wanted is not None and not wanted(line):
                    continue
                event = None if body is None else _decoded(body)
                if event is None:
                    raise DamagedFileError(
                        f"{path} is damaged in line {number}. The run cannot be resumed from it; "
                        "restore the file, or submit the run again."
                    )
                if "format" in event:
                    _check_header(path, event, plan)
                else:
                    yield event


def _check_header(path: Path, header: dict[str, Any], plan: Plan | None) -> None:
    if header["format"] != _FORMAT:
        raise DamagedFileError(
            f"{path} has format {header['format']!r}; this version of lsst-ctrl-bps-parsl "
            f"reads format {_FORMAT}. Use the version that started the run."
        )
    found = header.get("plan")
    if plan is not None and found and plan.id and found != plan.id:
        raise DamagedFileError(
            f"{path} is of another run than {plan.path}. Restore the one of the two that was changed."
        )


def decode_line(line: bytes) -> dict[str, Any] | None:
    """Decode one line of a journal.

    Parameters
    ----------
    line : `bytes`
        The line.

    Returns
    -------
    record : `dict` or `None`
        What was written; `None` where that is not what is in the line.
    """
    body = _checked(line)
    return None if body is None else _decoded(body)


def _checked(line: bytes) -> bytes | None:
    """Return what a line holds beside its checksum, if that is right."""
    body, _, crc = line.rpartition(b',"crc":')
    body += b"}"
    digits = crc[:-2]
    right = crc.endswith(b"}\n") and digits.isdigit() and zlib.crc32(body) == int(digits)
    return body if right else None


def _decoded(body: bytes) -> dict[str, Any] | None:
    try:
        event: dict[str, Any] = json.loads(body.decode())
    except ValueError:
        return None
    return event
