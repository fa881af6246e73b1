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
import io
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DamagedFileError
from ..files import open_append, open_regular, storage_errors
from ..node.journal import add, cut, encode_line
from ..plan.plan import Plan

__all__ = ["Journal", "JournalTail", "read_journal"]

_LOG = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""Time that a line may be on its way: NFS keeps what it knows for so long."""

_FORMAT = 1


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
            if cut(self._fd) == 0:
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
        with storage_errors(self.path, "write to the journal"):
            if os.fstat(self._fd).st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, "it has been removed while the run was going on")
            add(self._fd, encode_line(event))

    def sync(self) -> None:
        """Have the system put what was added on the disk."""
        with storage_errors(self.path, "write the journal to the disk"):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; some file systems say only now what they could not write."""
        with storage_errors(self.path, "write the journal to the disk"):
            os.close(self._fd)


def read_journal(
    path: Path,
    wanted: Callable[[bytes], bool] | None = None,
    plan: Plan | None = None,
    *,
    live: bool = False,
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
    live : `bool`, optional
        Whether somebody may be writing it. A line that cannot be read is then
        not there yet, with all that follows: NFS may show zeros in its place.

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
                if event is None and live:
                    return
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


class JournalTail:
    """Reads what is added to a journal that another host writes.

    NFS may show zeros in place of lines that are still on their way. What
    cannot be read yet is read later; when it has not come for a while, a
    warning says so, and it is left out: no run ends because of it.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.
    size : `int`, optional
        Where to begin.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self.size = size
        """How much of the file has been looked at."""
        self._end = size
        self._gaps: list[tuple[int, int, float]] = []

    @property
    def waits(self) -> bool:
        """Whether something could not be read yet."""
        return bool(self._gaps)

    def read(self, wanted: Callable[[bytes], bool]) -> Iterator[dict[str, Any]]:
        """Read what has been added since the last time.

        Parameters
        ----------
        wanted : `~collections.abc.Callable`
            As for `read_journal`.

        Yields
        ------
        event : `dict`
            An event, or the header.
        """
        try:
            with open(open_regular(self.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
                pieces = [(begin, _piece(stream, begin, end), since) for begin, end, since in self._gaps]
                new = _piece(stream, self._end)
        except OSError:
            return  # It is gone, or will be read later.
        self._gaps = []
        pieces.append((self._end, new[: new.rfind(b"\n") + 1], time.monotonic()))
        self.size, self._end = self._end + len(new), self._end + len(pieces[-1][1])
        for begin, data, since in pieces:
            yield from self._events(begin, data, since, wanted)

    def _events(
        self, position: int, data: bytes, since: float, wanted: Callable[[bytes], bool]
    ) -> Iterator[dict[str, Any]]:
        for line in io.BytesIO(data):
            if wanted(line):
                body = _checked(line)
                event = None if body is None else _decoded(body)
                if event is not None:
                    yield event
                elif time.monotonic() - since < PATIENCE_SECONDS:
                    self._gaps.append((position, position + len(line), since))
                else:
                    _LOG.warning(
                        "%s: what is at byte %d cannot be read; it is left out.", self.path, position
                    )
            position += len(line)


def _piece(stream: BinaryIO, begin: int, end: int | None = None) -> bytes:
    """Read a piece of a file."""
    stream.seek(begin)
    return stream.read(-1 if end is None else end - begin)


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
