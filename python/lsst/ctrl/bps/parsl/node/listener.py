# SPDX-License-Identifier: BSD-3-Clause
"""Where the workers of a node find their runner; standard library only.

It is a socket in a directory that only the user can open, and the kernel says
of each end whose process it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from .processes import pid_namespace, start_time

__all__ = ["Listener", "RunnerDirectory", "peer_is_ours"]

BASE = "/tmp"
"""Where the directories are: on each node, and short enough for a socket."""

PREFIX = "bps-parsl-"
"""Beginning of their names."""

SOCKET = "socket"
"""Name of the socket in such a directory."""

FIRST = 60.0
"""Seconds for which a runner waits for the first process."""


class RunnerDirectory:
    """The directory where the processes of one pilot find their runner.

    Parameters
    ----------
    parts : `str`
        What tells it from others: the run, its site and the pilot.
    base : `str`, optional
        The directory of these directories.
    """

    def __init__(self, *parts: str, base: str = BASE) -> None:
        # Containers may share the directory, and each of them has a process 7.
        text = "\0".join((*parts, pid_namespace()))
        name = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
        self.directory = f"{base}/{PREFIX}{os.getuid()}-{name}"
        self.path = f"{self.directory}/{SOCKET}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Have the directory, made where it is not there, for oneself.

        Raises
        ------
        PermissionError
            Raised if it is not a directory of this user's alone.
        """
        while True:
            try:
                os.mkdir(self.directory, 0o700)
            except FileExistsError:
                pass
            try:
                fd = _open_own(self.directory)
            except FileNotFoundError:
                continue  # A runner that ended has just removed it.
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _same(fd, self.directory):
                    yield
                    return
            finally:
                os.close(fd)

    def connect(self) -> socket.socket | None:
        """Connect to the runner; `None` where there is none.

        Raises
        ------
        OSError
            Raised if the directory is not one of this user's alone, or who is
            there is another user.
        """
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            fd = _open_own(self.directory)
            try:
                # In the directory that was looked at, whatever its name leads to now.
                connected.connect(f"/proc/self/fd/{fd}/{SOCKET}")
            finally:
                os.close(fd)
            if not peer_is_ours(connected):
                raise PermissionError(f"{self.directory} has the socket of another user's process")
        except (FileNotFoundError, ConnectionRefusedError):
            connected.close()
            return None
        except OSError:
            connected.close()
            raise
        return connected

    def listen(self) -> socket.socket:
        """Make the socket; the directory is locked.

        Returns
        -------
        listening : `socket.socket`
            The socket.
        """
        _sweep(os.path.dirname(self.directory), self.directory)
        try:
            os.unlink(self.path)  # Of a runner that was killed.
        except FileNotFoundError:
            pass
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(self.path)
        listening.listen(128)
        return listening


class Listener:
    """The socket at which a runner is found.

    Parameters
    ----------
    fd : `int`
        File descriptor of the listening socket.
    directory : `str`
        Its directory, which is removed in the end.
    worker : `int`, optional
        Process that the runner waits for; by default, it ends as soon as no
        process is connected.
    since : `int`, optional
        When that process began, as the kernel counts.
    """

    interval = 1.0
    """Seconds between two looks at who is there."""

    def __init__(self, fd: int, directory: str, worker: int | None = None, since: int | None = None) -> None:
        self._socket: socket.socket | None = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._socket.set_inheritable(False)
        self._fd = fd
        self._directory = directory
        self._path = f"{directory}/{SOCKET}"
        self._bound = os.stat(self._path, follow_symlinks=False)
        self._worker, self._since = worker, since
        self._until: float | None = time.monotonic() + FIRST
        self._stopped = False

    def fileno(self) -> int:
        """Return the file descriptor, for selectors."""
        return self._fd

    def accept(self) -> Iterator[socket.socket]:
        """Iterate over the processes of this user that have connected."""
        while self._socket is not None:
            try:
                connected, _ = self._socket.accept()
            except OSError:
                return
            if not peer_is_ours(connected):
                connected.close()
                continue
            connected.setblocking(True)
            self._until = None
            yield connected

    def wanted(self) -> bool:
        """Tell whether somebody may still connect."""
        if self._stopped:
            return False
        if self._worker is not None:
            return start_time(self._worker) == self._since
        return self._until is not None and time.monotonic() < self._until

    def stop(self) -> None:
        """Be found no more; who has connected can still be accepted."""
        if self._stopped:
            return  # What is there now is the next runner's.
        self._stopped = True
        with suppress(FileNotFoundError):
            # Somebody may have removed it, and another runner have its own there.
            if os.path.samestat(self._bound, os.stat(self._path, follow_symlinks=False)):
                os.unlink(self._path)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        with suppress(OSError), _held(self._directory):
            os.rmdir(self._directory)  # Unless the next runner is there already, or about to be.


def peer_is_ours(connected: socket.socket) -> bool:
    """Tell whether the other end of a socket is a process of this user.

    Parameters
    ----------
    connected : `socket.socket`
        A connected Unix socket.

    Returns
    -------
    ours : `bool`
        What the kernel says of it.
    """
    form = struct.Struct("3i")
    _, user, _ = form.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size))
    return bool(user == os.getuid())


def _sweep(base: str, own: str) -> None:
    """Remove what runners of this user left that were killed with all their workers."""
    with suppress(OSError):
        own_names = [name for name in os.listdir(base) if name.startswith(f"{PREFIX}{os.getuid()}-")]
        found = {f"{base}/{name}" for name in own_names} - {own}
        for directory in _unused(found):
            with suppress(OSError), _held(directory) as fd:  # Somebody is there, or it is not ours.
                # One may have begun to listen before the directory was held.
                if _unused([directory]):
                    with suppress(FileNotFoundError):
                        os.unlink(SOCKET, dir_fd=fd)
                    os.rmdir(directory)


def _unused(directories: Iterable[str]) -> list[str]:
    """Return those of these directories where nobody listens."""
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as stream:
        sockets = {line.split()[-1] for line in stream}
    return [directory for directory in directories if f"{directory}/{SOCKET}" not in sockets]


@contextmanager
def _held(directory: str) -> Iterator[int]:
    """Have a directory for oneself, unless somebody else has it.

    Raises
    ------
    OSError
        Raised if somebody has it, or it is not one of this user's alone.
    """
    fd = _open_own(directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)


def _same(fd: int, path: str) -> bool:
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))


def _open_own(path: str) -> int:
    """Open a directory, if it is one of this user's alone."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(fd)
        raise PermissionError(f"{path} is not a directory that only you can open")
    return fd
