# SPDX-License-Identifier: BSD-3-Clause
"""A job that a runner has begun, and its supervisor; standard library only."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from .connection import Connection
from .fork_server_process import ForkServerProcess
from .lines import Lines, write_whole
from .processes import (
    BASH,
    IGNORED_HERE,
    SCRIPT_FD,
    find_program,
    make_directory,
    memory_descriptor,
    os_bytes,
)
from .records import CANNOT_EXECUTE, NOT_FOUND, expand, variables
from .script import bash_code
from .supervisor import KILL, TERMINATE, supervise

__all__ = ["Job", "Logs"]

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Logs:
    """Opens the log files of jobs, and makes their directories."""

    def __init__(self) -> None:
        self._directories: set[bytes] = set()

    def open(self, path: str) -> int:
        """Open a log file to write at its end.

        Parameters
        ----------
        path : `str`
            The file.

        Returns
        -------
        fd : `int`
            Its file descriptor.
        """
        name = os_bytes(path)
        directory = os.path.dirname(name)
        if directory not in self._directories:
            make_directory(directory)
            self._directories.add(directory)
        try:
            return os.open(name, _APPEND, 0o644)
        except FileNotFoundError:
            # Somebody has removed it, such as a job.
            make_directory(directory)
            return os.open(name, _APPEND, 0o644)

    def say(self, path: str, sentence: str) -> None:
        """Write a sentence of the runner's own into a log file.

        Parameters
        ----------
        path : `str`
            The file.
        sentence : `str`
            What to write.
        """
        fd = self.open(path)
        try:
            write_whole(fd, f"{sentence}\n".encode("utf-8", "replace"))
        finally:
            os.close(fd)


class Job:
    """A job that has been taken from those that wait.

    Parameters
    ----------
    spec : `dict`
        The job; see `~lsst.ctrl.bps.parsl.driver.tasks.job_spec`.
    owner : `Connection`
        Who asked for it.
    logs : `Logs`
        Opens its log files.
    """

    def __init__(self, spec: dict[str, Any], owner: Connection, logs: Logs) -> None:
        self.spec = spec
        self.owner = owner
        self._logs = logs
        self._control: socket.socket | None = None
        self._lines: Lines | None = None
        self.environ = owner.environment(spec)
        self.argv = [expand(word, self.environ) for word in spec.get("argv", ())]
        self.server: ForkServerProcess | None = None
        self.forked_by: int | None = None
        self.asked = time.monotonic()
        self.timers: list[int] = []
        self.supervisor = 0
        self.leader: int | None = None
        self.doomed = self.overdue = False
        self._headed = False

    @property
    def plain(self) -> bool:
        """Whether the command alone is to be run: no code of bash's, but for
        the command prefix.
        """
        return not (self.spec.get("script") or self.spec.get("pre") or self.spec.get("post"))

    def begin_warm(self, server: ForkServerProcess) -> bool:
        """Ask a fork server for the job.

        Parameters
        ----------
        server : `ForkServerProcess`
            The server, which is ready.

        Returns
        -------
        asked : `bool`
            `False` where it is not for that server.
        """
        with ExitStack() as opened:
            out, err = self._open_logs(opened)
            ours, theirs = socket.socketpair()
            opened.enter_context(theirs)
            if not server.request(self.spec, self.argv, self.environ, [out, err, theirs.fileno()]):
                ours.close()
                return False
        self.server, self.forked_by = server, server.pid
        self._listen_to(ours)
        return True

    def begin_cold(self) -> None:
        """Start the job as a new program, with a supervisor that is forked.

        Raises
        ------
        OSError
            Raised if there is no such program, or no log can be written.
        """
        code = bash_code(self.spec, self.owner.setup["prefix"])
        script = -1
        argv = self.argv
        with ExitStack() as opened:
            out, err = self._open_logs(opened)
            if code is not None:
                script = memory_descriptor(code)
                opened.callback(os.close, script)
                argv = [*BASH, *argv]
            program = find_program(argv[0], self.environ)
            self.server = None
            self._listen_to(self._fork(_spawner(program, argv, self.environ, out, err, script)))

    def _listen_to(self, control: socket.socket) -> None:
        self._control, self._lines = control, Lines(control)

    def _open_logs(self, opened: ExitStack) -> tuple[int, int]:
        """Open the logs, which are closed with what was opened besides."""
        out, err = (self._open_log(self.spec[name], opened) for name in ("stdout", "stderr"))
        if self.spec["a"] > 1 and not self._headed:
            write_whole(err, f"---- attempt {self.spec['a']} ----\n".encode())
        self._headed = True
        return out, err

    def _open_log(self, path: str, opened: ExitStack) -> int:
        fd = self._logs.open(path)
        opened.callback(os.close, fd)
        return fd

    def _fork(self, begin: Callable[[], int]) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.supervisor = os.fork()
            except OSError:
                ours.close()
                raise
            if self.supervisor == 0:
                supervise(theirs.detach(), begin, self.spec.get("limit"))
        return ours

    def fileno(self) -> int:
        """Return the file descriptor of the supervisor's socket."""
        assert self._control is not None
        return self._control.fileno()

    def read(self) -> list[dict[str, Any]] | None:
        """Return what the supervisor says; `None` at the end."""
        assert self._lines is not None
        return self._lines.read()

    def close(self) -> None:
        """Let go of the supervisor."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def terminate(self) -> None:
        """Ask the job to end."""
        self._tell(TERMINATE)

    def kill(self) -> None:
        """End the job."""
        self._tell(KILL)

    def _tell(self, what: bytes) -> None:
        if self._control is not None:
            try:
                # Of one that is stopped, nobody knows when it reads what it has been told already.
                self._control.send(what, socket.MSG_DONTWAIT)
            except OSError:
                pass  # Or its end is about to be read.

    def cannot_start(self, exc: OSError | ValueError) -> dict[str, Any]:
        """Say that it cannot be started, also in its log.

        Parameters
        ----------
        exc : `OSError` or `ValueError`
            Why.

        Returns
        -------
        result : `dict`
            The result of the job. Where the node has no room for one more
            process, it is lost, and none of the job's making.
        """
        if getattr(exc, "errno", None) in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            return {"lost": f"it could not be started: {exc}"}
        what = getattr(exc, "filename", None) or (self.argv or ["bash"])[0]
        of_log = what in (self.spec["stdout"], self.spec["stderr"])
        code = NOT_FOUND if isinstance(exc, FileNotFoundError) and not of_log else CANNOT_EXECUTE
        why = f"cannot start {what!r}: {getattr(exc, 'strerror', None) or exc}"
        for variable in variables(str(self.spec.get("argv", [""])[0])):
            if variable not in self.owner.setup["environment"]:
                why += f" (the environment variable {variable} is not set)"
        try:
            self._logs.say(self.spec["stderr"], why)
        except (OSError, ValueError) as second:
            why += f"; nor write its log: {second}"
        now = round(time.time(), 3)
        return {"exit": code, "start": now, "end": now, "memory": 0, "cpu": 0.0, "why": why}


def _spawner(
    program: str, argv: list[str], environ: dict[str, str], out: int, err: int, script: int
) -> Callable[[], int]:
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, out, 1),
        (os.POSIX_SPAWN_DUP2, err, 2),
    ]
    if script >= 0:
        actions.append((os.POSIX_SPAWN_DUP2, script, SCRIPT_FD))

    def spawn() -> int:
        return os.posix_spawn(
            os_bytes(program),
            [os_bytes(word) for word in argv],
            {os_bytes(name): os_bytes(value) for name, value in environ.items()},
            file_actions=actions,
            setpgroup=0,
            setsigdef=IGNORED_HERE,
        )

    return spawn
