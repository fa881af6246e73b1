# SPDX-License-Identifier: BSD-3-Clause
"""Who drives a run, and whether that driver is alive.

The driver holds a lock on a file in which it says who it is, and touches the
file as long as it lives. On its own host the lock and the process itself
tell; from a container there whose processes have numbers of their own, or
from the host where the driver is in one, the lock does; from another host,
where neither can be seen for sure, the touching does.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..errors import RunHeldError, StorageError
from ..files import PUBLIC, open_regular, storage_errors
from ..node.lines import write_whole
from .heartbeat import Heartbeat
from .holder import Holder, read_holder

__all__ = [
    "RunLock",
    "living_holder",
]

_LOG = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
"""Time between two signs of life."""

PATIENCE_SECONDS = 120.0
"""Time without a sign after which a driver on another host counts as dead."""

LOOK_SECONDS = 1.0
"""Time in which somebody who only looks at the lock has given it back."""

SETTLE_SECONDS = 1.0
"""Time that several drivers have to write their names where there are no
locks, before the last one begins."""

WATCH_SECONDS = 3 * HEARTBEAT_SECONDS
"""Time to watch for one before a run of another host's is taken over."""

MOST_CLOCK_ERROR_SECONDS = 2 * 3600.0
"""No two clocks are expected to differ by more."""


def living_holder(path: Path) -> Holder | None:
    """Return the driver of a run, where it is alive.

    Parameters
    ----------
    path : `pathlib.Path`
        The lock file.

    Returns
    -------
    holder : `Holder` or `None`
        The driver, or `None` where nobody drives the run.
    """
    holder = read_holder(path)
    if holder is None:
        return None
    if holder.runs_here():
        return holder
    if holder.was_here():
        return None
    # Clocks of two hosts may differ; a lock that both see does not.
    locked = _is_locked(path)
    if locked is not None and holder.is_of_this_boot():
        return holder if locked else None
    return holder if locked or _was_touched(path) else None


def _was_touched(path: Path) -> bool:
    try:
        return abs(time.time() - path.stat().st_mtime) < PATIENCE_SECONDS
    except OSError:
        return False


def _is_locked(path: Path) -> bool | None:
    """Tell whether somebody has locked a file; `None` where the file system has no locks."""
    try:
        with open(open_regular(path), "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _gives_signs(path: Path) -> bool:
    """Watch for a sign of life, where the clocks of two hosts do not tell."""
    try:
        first = path.stat().st_mtime_ns
        if abs(time.time() - first / 1e9) > MOST_CLOCK_ERROR_SECONDS:
            return False
        _LOG.info("Watching for %.0f s whether the driver on another host lives.", WATCH_SECONDS)
        deadline = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(0.5, WATCH_SECONDS))
            if path.stat().st_mtime_ns != first:
                return True
    except OSError:
        pass  # It has just ended.
    return False


class RunLock:
    """Makes this process the one driver of a run.

    Parameters
    ----------
    path : `pathlib.Path`
        The lock file.
    run : `str`
        Name of the run, for the message.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._run = run
        self._fd = -1
        self._touched = 0.0
        self._heartbeat: Heartbeat | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        RunHeldError
            Raised if another driver has the run.
        StorageError
            Raised if the file cannot be written.
        """
        with storage_errors(self.path, "take the lock of the run"):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            fd = open_regular(self.path, flags, PUBLIC)
        try:
            locked = self._lock(fd)
            if (holder := read_holder(self.path)) and self._lives(holder, locked):
                raise self._held()
            with storage_errors(self.path, "write the lock of the run"):
                content = json.dumps(asdict(Holder.this_process())).encode()
                os.lseek(fd, 0, os.SEEK_SET)
                write_whole(fd, content)
                os.ftruncate(fd, len(content))
            if not locked:
                time.sleep(SETTLE_SECONDS)
                if read_holder(self.path) != Holder.this_process():
                    raise self._held()  # Who wrote last has it.
        except BaseException:
            with suppress(OSError):
                os.close(fd)
            raise
        self._fd = fd
        self.beat()
        self._heartbeat = Heartbeat(self.beat, HEARTBEAT_SECONDS)

    def _lock(self, fd: int) -> bool:
        """Lock the file; `False` where the file system has no locks, and the holder's word counts."""
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = read_holder(self.path)
                if (holder and holder.runs_here()) or time.monotonic() > deadline:
                    raise self._held() from None
                # Perhaps somebody only looks whether it is locked.
                time.sleep(0.05)
            except OSError:
                return False
            else:
                return True

    def _lives(self, holder: Holder, locked: bool) -> bool:
        """Tell whether another driver has the run, where this one has the lock, if there are any."""
        if holder.runs_here():
            return holder != Holder.this_process()
        if holder.was_here() or (locked and holder.is_of_this_boot()):
            return False
        # A lock that hosts share would have told.
        return _was_touched(self.path) or _gives_signs(self.path)

    def _held(self) -> RunHeldError:
        holder = read_holder(self.path)
        who = f"on {holder}" if holder else "by another process"
        return RunHeldError(
            f"Run {self._run} is still being driven {who}. "
            f"Watch it with: bps report --id {self._run}   Stop it with: bps cancel --id {self._run}"
        )

    def beat(self) -> None:
        """Give a sign of life, where one is due; and see that the run is still this driver's.

        Raises
        ------
        RunHeldError
            Raised if another driver has taken the run, while this process was
            stopped for so long that it counted as dead.
        StorageError
            Raised if the file has been removed, and all others with it.
        """
        # The ordinary clock stands still while a laptop sleeps, and others take the run in that time.
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if now - self._touched >= HEARTBEAT_SECONDS or not self._touched:
            self._check_own()
            self._touched = now
            with suppress(OSError):
                # Not the journal: a sign that is missed is no loss.
                os.utime(self._fd)

    def _check_own(self) -> None:
        with storage_errors(self.path, "read the lock of the run"):
            removed = self._is_removed()
            own = not removed and self._is_own()
        if removed:
            raise StorageError(
                f"{self.path} has been removed while the run was going on. Put its directory back; "
                "what is not in its journals will be run again."
            )
        if not own:
            raise self._held()

    def _is_removed(self) -> bool:
        try:
            return os.fstat(self._fd).st_nlink == 0
        except OSError as exc:
            if exc.errno != errno.ESTALE:  # NFS, where another host removed it.
                raise
            return True

    def _is_own(self) -> bool:
        with suppress(ValueError, TypeError):
            return Holder(**json.loads(os.pread(self._fd, 1 << 16, 0))) == Holder.this_process()
        return False

    def release(self) -> None:
        """Give the lock back, if it is this driver's."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if self._fd >= 0:
            with suppress(OSError):
                if self._is_own():
                    os.ftruncate(self._fd, 0)
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1
