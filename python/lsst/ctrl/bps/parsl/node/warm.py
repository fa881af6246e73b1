# SPDX-License-Identifier: BSD-3-Clause
"""Which jobs are forked from a process with their modules loaded, and from
which; standard library only.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from typing import Any

from .fork_server_process import VARYING, ForkServerProcess
from .jobs import Job
from .processes import can_be_given, end_descendants, find_program, start_time
from .python_scripts import interpreter_of
from .timer import Timer

__all__ = ["WarmStart"]

MOST_SERVERS = 4
"""How many environments have a fork server; a server is as large as a job."""

PATIENCE = 120.0
"""Seconds for which a job waits for a fork server."""

_UNFIT = ("PYTHONINSPECT", "PYTHONPROFILEIMPORTTIME", "PYTHONVERBOSE")
"""Variables that have Python say or do more at its start or end."""


class WarmStart:
    """The fork servers of a runner: one for each environment that its jobs have.

    Parameters
    ----------
    selector : `selectors.BaseSelector`
        What the runner waits for; the functions are called that belong to it.
    timer : `Timer`
        The runner's timer.
    begin : `~collections.abc.Callable`
        Begins a job, with a server that is ready or, for `None`, without.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        timer: Timer,
        begin: Callable[[Job, ForkServerProcess | None], None],
    ) -> None:
        self._selector = selector
        self._timer = timer
        self._begin = begin
        self._servers: dict[tuple[Any, ...], ForkServerProcess] = {}
        self._waiting: dict[ForkServerProcess, list[Job]] = {}
        self._asked: set[Job] = set()
        self._said: set[str] = set()
        self.notes: list[str] = []

    def start(self, job: Job) -> None:
        """Begin a job, now or when its server is ready.

        Parameters
        ----------
        job : `Job`
            The job.
        """
        # What is wrong with a job is said on the cold way; no other job is to suffer from it.
        wanted = job.owner.setup.get("warm") and job.plain and can_be_given(job.argv, job.environ)
        server = self._server_for(job) if wanted else None
        if server is None or server.ready:
            self._begin(job, server)
        else:
            self._waiting.setdefault(server, []).append(job)
            self._expect(server)

    def drop(self, job: Job) -> bool:
        """Take a job back.

        Parameters
        ----------
        job : `Job`
            The job.

        Returns
        -------
        dropped : `bool`
            Whether it had not begun.
        """
        for jobs in self._waiting.values():
            if job in jobs:
                jobs.remove(job)
                return True
        return False

    def asked(self, job: Job, server: ForkServerProcess) -> None:
        """Take note that a server was asked for a job.

        Parameters
        ----------
        job : `Job`
            The job.
        server : `ForkServerProcess`
            The server.
        """
        self._asked.add(job)
        self._expect(server)

    def answered(self, job: Job) -> None:
        """Take note that a job has begun, or will not.

        Parameters
        ----------
        job : `Job`
            The job.
        """
        self._asked.discard(job)

    def processes(self) -> set[int]:
        """Return the numbers of the servers."""
        return {server.pid for server in self._servers.values() if server.pid is not None}

    def has_left_supervisors(self) -> bool:
        """Tell whether a server that has ended may have left supervisors that have not been heard of.

        Returns
        -------
        has : `bool`
            Whether such a server was asked for a job that has neither begun
            nor come back.
        """
        return any(job.forked_by is None or start_time(job.forked_by) is None for job in self._asked)

    def reaped(self, pid: int) -> None:
        """Take note that a process has ended, whose number may be another's now.

        Parameters
        ----------
        pid : `int`
            The number.
        """
        for server in self._servers.values():
            if server.pid == pid:
                server.pid = None

    def close(self) -> None:
        """End the servers, and what the command prefix has left running."""
        for server in self._servers.values():
            server.socket.close()
            server.kill()
        end_descendants(os.getpid())

    def _server_for(self, job: Job) -> ForkServerProcess | None:
        environ, prefix, command = job.environ, job.owner.setup["prefix"], job.argv[0]
        if any(environ.get(name) for name in _UNFIT) or not _may_be_python(command, environ, prefix):
            return None
        if any(name in prefix for name in VARYING if name != "_"):
            self._note("the command prefix depends on the job")
            return None
        fixed = frozenset(item for item in environ.items() if item[0] not in VARYING)
        # With a prefix, a word without a slash may be a function of bash.
        key = (prefix, fixed, command if prefix and "/" not in command else "")
        server = self._servers.get(key) or self._new(environ, prefix, command)
        if server is None:
            return None  # Not kept: each job may have an environment of its own.
        self._servers[key] = server
        return None if server.why_not else server

    def _new(self, environ: dict[str, str], prefix: str, command: str) -> ForkServerProcess | None:
        if len(self._servers) >= MOST_SERVERS:
            self._note(f"jobs have more than {MOST_SERVERS} different environments")
            return None
        try:
            server = ForkServerProcess(environ, prefix, command)
        except OSError as exc:
            self._note(f"the fork server cannot be started: {exc}")
            return None
        self._listen_to(server)
        return server

    def _listen_to(self, server: ForkServerProcess) -> None:
        self._selector.register(server.socket, selectors.EVENT_READ, lambda: self._read(server))

    def _read(self, server: ForkServerProcess) -> None:
        fd = server.socket.fileno()
        if not server.read():
            self._selector.unregister(fd)
            self._ended(server)
        if server.ready or server.why_not:
            for job in self._waiting.pop(server, ()):
                self._begin(job, server if server.ready else None)

    def _ended(self, server: ForkServerProcess) -> None:
        try:
            if server.start_again():
                self._listen_to(server)
                return
        except OSError as exc:
            server.why_not = str(exc)
        if server.expected:
            self._note(f"the fork server cannot be used: {server.why_not}")

    def _expect(self, server: ForkServerProcess) -> None:
        """Look from time to time whether a server answers."""
        if not server.watched:
            server.watched = True
            self._timer.later(PATIENCE / 4, self._look_after, server)

    def _look_after(self, server: ForkServerProcess) -> None:
        server.watched = False
        jobs = [*self._waiting.get(server, ()), *(job for job in self._asked if job.server is server)]
        if not jobs:
            return
        if min(job.asked for job in jobs) < time.monotonic() - PATIENCE:
            server.why_not = f"it did not answer within {PATIENCE:.0f} s"
            server.kill()
        else:
            self._expect(server)

    def _note(self, why: str) -> None:
        note = f"Jobs start without preloaded modules: {why}."
        if note not in self._said:
            self._said.add(note)
            self.notes.append(note)


def _may_be_python(command: str, environ: dict[str, str], prefix: str) -> bool:
    """Tell whether it is worth while to start a server for a command."""
    if "/" not in command:
        try:
            command = find_program(command, environ)
        except FileNotFoundError:
            return bool(prefix)  # Which may change the PATH.
    elif prefix and not os.path.exists(command):
        return True
    return interpreter_of(command, environ) is not None
