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

import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import DamagedFileError, StorageError
from .files import open_append, storage_errors
from .node.records import encode_line

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
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        with storage_errors(path, "open the journal"):
            self._fd = open_append(path)
            whole = _whole_size(path)
            if whole != os.fstat(self._fd).st_size:
                # What a driver that was killed left of its last line.
                os.ftruncate(self._fd, whole)
            if whole == 0:
                self.append({"format": _FORMAT, "kind": "driver", "run": run})

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


def read_journal(path: Path, wanted: Callable[[bytes], bool] | None = None) -> Iterator[dict[str, Any]]:
    """Read the events of a journal.

    Parameters
    ----------
    path : `pathlib.Path`
        The file; one that does not exist has no events.
    wanted : `~collections.abc.Callable`, optional
        Tells of a line, as it stands in the file, whether it is worth
        decoding; all are by default.

    Yields
    ------
    event : `dict`
        An event, without its checksum; the header is checked and left out.

    Raises
    ------
    DamagedFileError
        Raised if a line other than an unfinished one is damaged, or if the
        file has another format.
    """
    with storage_errors(path, "read the journal"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        with open(fd, "rb", buffering=1 << 20) as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return  # Its writer was killed, or is writing it now.
                if wanted is not None and not wanted(line):
                    continue
                event = decode_line(line)
                if event is None:
                    raise DamagedFileError(
                        f"{path} is damaged in line {number}. The run cannot be resumed from it; "
                        "restore the file, or submit the run again."
                    )
                if "format" not in event:
                    yield event
                elif event["format"] != _FORMAT:
                    raise DamagedFileError(
                        f"{path} has format {event['format']!r}; this version of lsst-ctrl-bps-parsl "
                        f"reads format {_FORMAT}. Use the version that started the run."
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
    body, _, crc = line.rpartition(b',"crc":')
    body += b"}"
    digits = crc[:-2]
    if not (crc.endswith(b"}\n") and digits.isdigit() and zlib.crc32(body) == int(digits)):
        return None
    try:
        event: dict[str, Any] = json.loads(body.decode())
    except ValueError:
        return None
    return event
