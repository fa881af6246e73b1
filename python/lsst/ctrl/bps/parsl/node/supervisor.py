# SPDX-License-Identifier: BSD-3-Clause
"""Process between the runner and one job: waits for it, measures it, and ends
with it all that it has started.

The kernel gives it the orphans among the job's descendants, whatever session
or group they have made for themselves: so it has them all, and what they used
in all. Standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

from .memory import resident
from .processes import become_subreaper, descendants, end_descendants, group, signal_group, start_time

__all__ = ["KILL", "TERMINATE", "supervise"]

TERMINATE = b"T"
"""What the runner says to have a job end (SIGTERM)."""

KILL = b"K"
"""What it says to end it at once (SIGKILL)."""

LAST_WORDS = 5.0
"""Seconds that a job's other processes have when somebody else than the runner
has ended its first one by SIGTERM."""

LONGEST_WAIT = 10.0
"""Seconds for which processes are waited for that were killed. What is in
uninterruptible sleep, or another user's, may be there for ever."""

_FIRST_LOOK = 0.25
_LONGEST_PAUSE = 10.0
_ENFORCING_PAUSE = 0.25


def supervise(
    control: int,
    begin: Callable[[], int],
    limit: float | None = None,
    *,
    keep: int | None = None,
    afterwards: Callable[[], None] | None = None,
) -> NoReturn:
    """Become the supervisor of a job, in a process that was forked for it.

    Parameters
    ----------
    control : `int`
        File descriptor of a socket whose other end the runner has. When that
        is closed, the job is ended.
    begin : `~collections.abc.Callable`
        Starts the job as the leader of a process group; returns its number.
    limit : `float`, optional
        Memory in MB over which the job is ended.
    keep : `int`, optional
        File descriptor that is not closed.
    afterwards : `~collections.abc.Callable`, optional
        What to do when the job has ended and the runner knows.
    """
    code = 1
    try:
        with socket.socket(fileno=control) as connection:
            become_subreaper()
            began = time.time(), time.monotonic()
            try:
                pid = begin()
            except (OSError, ValueError) as exc:  # Such as a NUL in an argument.
                error = [exc.errno, exc.strerror] if isinstance(exc, OSError) else [None, str(exc)]
                _send(connection, {"error": error})
            else:
                _Supervisor(connection, pid, limit, began).run({control, keep or control})
                if afterwards is not None:
                    afterwards()
        code = 0
    finally:
        os._exit(code)


class _Supervisor:
    def __init__(
        self, control: socket.socket, pid: int, limit: float | None, began: tuple[float, float]
    ) -> None:
        self._control = control
        self._pid = pid
        self._limit = limit
        self._peak = 0
        self._over = self._asked = self._killed = self._by_sigterm = False
        self._wake = -1
        self._started, self._clock = began

    def run(self, keep: set[int]) -> None:
        # At once: until the runner knows it, nobody could end it in our place.
        begun = {"pid": self._pid, "supervisor": os.getpid(), "t": round(self._started, 3)}
        _send(self._control, begun)
        self._wake = self._prepare(keep)
        next_look = self._clock + (_ENFORCING_PAUSE if self._limit else _FIRST_LOOK)
        while not self._ended():
            self._wait(next_look - time.monotonic())
            if time.monotonic() >= next_look:
                self._look()
                next_look = time.monotonic() + self._pause()
        deadline = time.monotonic() + LAST_WORDS
        while self._has_last_words(deadline):
            self._wait(0.05)
        _send(self._control, self._measured())

    def _wait(self, seconds: float) -> None:
        """Wait for the end of a process, or for what the runner says, which is done."""
        if self._wait_for_child(seconds, self._control.fileno()):
            self._obey()

    def _wait_for_child(self, seconds: float, *besides: int) -> bool:
        """Wait for the end of a process; tell whether there is something to read from another file."""
        poll = select.poll()
        for fd in (self._wake, *besides):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)}
        if self._wake in ready:
            os.read(self._wake, 4096)
        return bool(ready - {self._wake})

    def _has_last_words(self, deadline: float) -> bool:
        """Tell whether others of the job's group are about to end, now that its first process has.

        A shell that gets SIGTERM ends at once, and not what it has started.
        """
        if self._killed or not (self._asked or (self._by_sigterm and time.monotonic() < deadline)):
            return False
        others = [pid for pid in descendants(os.getpid()) if pid != self._pid and group(pid) == self._pid]
        return any(start_time(pid) is not None for pid in others)

    def _prepare(self, keep: set[int]) -> int:
        """Close what belongs to others; return what a child's end can be read from."""
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # In place of that of the process that was forked, before it is closed.
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        low = 3
        for fd in sorted({*keep, wake_read, wake_write}):
            os.closerange(low, fd)
            low = fd + 1
        os.closerange(low, 1 << 16)
        return wake_read

    def _obey(self) -> None:
        try:
            said = self._control.recv(64)
        except ConnectionError:
            said = b""
        if said and KILL not in said:
            self._asked = True
            signal_group(self._pid, signal.SIGTERM)
            signal_group(self._pid, signal.SIGCONT)
        else:
            # Without a runner, nobody would hear of the job, and another
            # attempt must find it gone.
            self._kill()
            if not said:
                self._end_children()
                os._exit(0)

    def _kill(self) -> None:
        self._killed = True
        signal_group(self._pid, signal.SIGKILL)
        end_descendants(os.getpid())

    def _ended(self) -> bool:
        """Tell whether the job has ended, and reap its orphans.

        The job itself is left as a zombie, so that its number stays its own.
        """
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return False
            if ended.si_pid == self._pid:
                self._by_sigterm = (ended.si_code, ended.si_status) == (os.CLD_KILLED, signal.SIGTERM)
                return True
            os.waitpid(ended.si_pid, 0)

    def _end_children(self) -> list[int]:
        """End all children and wait for them; each that ends may leave us others.

        Returns those that cannot be ended.
        """
        deadline = time.monotonic() + LONGEST_WAIT
        while self._has_children():
            end_descendants(os.getpid())
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            if time.monotonic() > deadline:
                return descendants(os.getpid())
            self._wait_for_child(0.1)
        return []

    def _has_children(self) -> bool:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _measured(self) -> dict[str, Any]:
        wall = time.monotonic() - self._clock
        # What a job leaves behind ends with it, and its group while it is its own.
        signal_group(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        left = self._end_children()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = os.waitstatus_to_exitcode(status)
        result: dict[str, Any] = {
            "exit": code if code >= 0 else 128 - code,
            "signal": -code if code < 0 else 0,
            "start": round(self._started, 3),
            "end": round(self._started + wall, 3),
            "memory": max(self._peak, usage.ru_maxrss // 1024),
            "cpu": round(usage.ru_utime + usage.ru_stime, 3),
        }
        if self._over:
            result["over"] = self._peak
        if left:
            result["left"] = left
        return result

    def _look(self) -> None:
        """See how much memory the job has.

        Of one process, the kernel keeps the peak; of several in total, nobody
        does.
        """
        pids = descendants(os.getpid())
        if len(pids) > 1 or self._limit:
            memory = resident(pids)
            self._peak = max(self._peak, memory)
            if self._limit and memory > self._limit:
                self._over = True
                self._kill()

    def _pause(self) -> float:
        if self._limit:
            return _ENFORCING_PAUSE
        return min(_LONGEST_PAUSE, _FIRST_LOOK + (time.monotonic() - self._clock) / 10)


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # The runner is gone; the next look at the socket tells.
