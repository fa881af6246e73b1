# SPDX-License-Identifier: BSD-3-Clause
"""Process that starts jobs, waits for them and measures them.

It is started without the packages above this one (see
`~lsst.ctrl.bps.parsl.node.client`) and uses the standard library only, so that
it is up in milliseconds. It has one thread. Requests and replies are JSON
lines on a socket that it inherits; when the other end goes away, it ends its
jobs and itself. What it saw is in its own journal before the other end hears
of it.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from typing import Any, NamedTuple

from .processes import find_program, make_directory, script_descriptor, signal_group
from .records import (
    ATTEMPT_VARIABLE,
    CANNOT_EXECUTE,
    NOT_FOUND,
    encode_line,
    expand,
    open_journal,
    variables,
)
from .script import bash_code

__all__ = ["Runner", "main"]

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL where the driver is gone, and for a job
over its walltime."""

HOLD = 1.0
"""Seconds for which the end of a killed job is held back."""

_ENDED_BY_OTHERS = (128 + signal.SIGTERM, 128 + signal.SIGKILL)
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_SCRIPT_FD = 3


class Running(NamedTuple):
    """A job that was started."""

    spec: dict[str, Any]
    started: float
    clock: float
    deadline: float


class Runner:
    """Starts jobs, waits for them and reports what became of them.

    Parameters
    ----------
    control : `socket.socket`
        Connection to the process that asks for jobs. The first line on it is
        a `dict` with ``journals`` (directory), ``cwd``, ``environment``,
        ``prefix`` (bash code before each command), ``cpus`` and ``memory``
        (MB; what the jobs of this node may have in total, or `None`).
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._buffer = b""
        self._running: dict[int, Running] = {}
        self._doomed: set[int] = set()
        self._waiting: deque[dict[str, Any]] = deque()
        self._directories: set[str] = set()
        self._setup: dict[str, Any] = {}
        self._kill_at: float | None = None
        self._deadlines: list[tuple[float, int]] = []
        self._overdue: set[int] = set()
        self._held: deque[tuple[float, dict[str, Any], dict[str, Any]]] = deque()
        self._open = True
        self._journal, self._journal_path = -1, ""
        self._lines: list[bytes] = []
        self._replies: list[dict[str, Any]] = []
        self._cpus = 0.0
        self._memory = 0.0
        self._terminated = False
        self._refused = 0

    def run(self) -> None:
        """Serve until the other end closes the connection."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_terminate)
        for name in (signal.SIGINT, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ, "control")
        selector.register(wake_read, selectors.EVENT_READ, "child")
        while self._open or self._running or self._held:
            for key, _ in selector.select(self._time_left()):
                if key.data == "child":
                    os.read(wake_read, 4096)
                elif not self._read_requests():
                    selector.unregister(self._control)
                    self._hang_up()
            if self._terminated:
                self._hang_up()
            self._reap()
            self._release_held()
            self._kill_late_ones()
            self._end_overdue_ones()
            self._start_waiting()
            self._report()

    def _on_terminate(self, *_: object) -> None:
        # Only noted: the loop may be in the middle of anything.
        self._terminated = True

    # The conversation.

    def _read_requests(self) -> bool:
        try:
            data = self._control.recv(1 << 18)
        except ConnectionError:
            return False
        if not data:
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "setup" in request:
                self._set_up(request["setup"])
            elif "kill" in request:
                self._refused = request["upto"]
                self._kill_all(float(request["kill"]))
            elif request["n"] <= self._refused:
                self._replies.append({"key": request["key"], "lost": "ended before it was started"})
            else:
                self._waiting.append(request)
        return True

    def _set_up(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._journal, self._journal_path = open_journal(setup["journals"])
        os.chdir(setup["cwd"])

    def _report(self) -> None:
        """Write the journal, then tell the other end."""
        error = None
        if self._lines:
            try:
                os.write(self._journal, b"".join(self._lines))
            except OSError as exc:
                error = f"{self._journal_path}: {exc.strerror}"
            self._lines.clear()
        if self._replies:
            for reply in self._replies:
                if error:
                    reply["unrecorded"] = error
            message = b"".join(json.dumps(reply).encode() + b"\n" for reply in self._replies)
            self._replies.clear()
            try:
                self._control.sendall(message)
            except OSError:
                self._hang_up()

    def _hang_up(self) -> None:
        if self._open:
            self._open = False
            self._kill_all(GRACE)

    # Ending jobs.

    def _kill_all(self, grace: float) -> None:
        for spec in self._waiting:
            self._replies.append({"key": spec["key"], "lost": "ended before it was started"})
        self._waiting.clear()
        self._doomed.update(self._running)
        for pid in self._doomed:
            signal_group(pid, signal.SIGTERM)
            signal_group(pid, signal.SIGCONT)
        deadline = time.monotonic() + grace
        self._kill_at = deadline if self._kill_at is None else min(deadline, self._kill_at)

    def _time_left(self) -> float | None:
        moments = [moment for moment, _ in self._deadlines[:1]]
        if self._kill_at is not None:
            moments.append(self._kill_at)
        if self._held:
            moments.append(self._held[0][0])
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _kill_late_ones(self) -> None:
        if not self._doomed:
            self._kill_at = None
        elif self._kill_at is not None and time.monotonic() >= self._kill_at:
            for pid in self._doomed:
                signal_group(pid, signal.SIGKILL)
            self._kill_at = time.monotonic() + 1.0

    def _end_overdue_ones(self) -> None:
        """End jobs that have used up their walltime, the whole group of each."""
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            moment, pid = heapq.heappop(self._deadlines)
            running = self._running.get(pid)
            if running is None or running.deadline > moment:
                continue  # It has ended, or another job has its number now.
            first = pid not in self._overdue
            self._overdue.add(pid)
            signal_group(pid, signal.SIGTERM if first else signal.SIGKILL)
            signal_group(pid, signal.SIGCONT)
            heapq.heappush(self._deadlines, (now + (GRACE if first else 1.0), pid))

    # Starting jobs.

    def _start_waiting(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            spec = self._waiting.popleft()
            try:
                self._start(spec)
            except (OSError, ValueError) as exc:  # Such as a NUL in an argument.
                self._cannot_start(spec, exc)

    def _fits(self, spec: dict[str, Any]) -> bool:
        if not self._running:
            return True
        cpus, memory = self._setup.get("cpus"), self._setup.get("memory")
        if cpus is not None and self._cpus + spec["cpus"] > cpus:
            return False
        return memory is None or self._memory + spec["memory"] <= memory

    def _start(self, spec: dict[str, Any]) -> None:
        environ = {**self._setup["environment"], ATTEMPT_VARIABLE: str(spec["a"])}
        for name, value in spec["env"].items():
            environ[name] = expand(value, environ)
        out = self._open_log(spec["stdout"])
        err = self._open_log(spec["stderr"])
        script = -1
        try:
            if spec["a"] > 1:
                os.write(err, f"---- attempt {spec['a']} ----\n".encode())
            actions: list[tuple[Any, ...]] = [
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, err, 2),
            ]
            argv, code = self._command(spec, environ)
            if code is not None:
                script = script_descriptor(code)
                actions.append((os.POSIX_SPAWN_DUP2, script, _SCRIPT_FD))
            pid = os.posix_spawn(
                find_program(argv[0], environ),
                argv,
                environ,
                file_actions=actions,
                setpgroup=0,
                setsigdef=[signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ],
            )
        finally:
            for fd in (out, err, script):
                if fd >= 0:
                    os.close(fd)
        now, clock = time.time(), time.monotonic()
        deadline = clock + spec["walltime"] if spec.get("walltime") else math.inf
        self._running[pid] = Running(spec, now, clock, deadline)
        if deadline < math.inf:
            heapq.heappush(self._deadlines, (deadline, pid))
        self._cpus += spec["cpus"]
        self._memory += spec["memory"]
        record = {"e": "start", "j": spec["j"], "a": spec["a"], "t": round(now, 3), "pid": pid}
        self._lines.append(encode_line(record))

    def _command(self, spec: dict[str, Any], environ: dict[str, str]) -> tuple[list[str], str | None]:
        """Return the command and, where bash is needed, what bash runs."""
        code = bash_code(spec, self._setup["prefix"])
        argv = [expand(word, environ) for word in spec.get("argv", ())]
        return (argv, None) if code is None else (["/bin/bash", f"/dev/fd/{_SCRIPT_FD}", *argv], code)

    def _open_log(self, path: str) -> int:
        directory = os.path.dirname(path)
        if directory not in self._directories:
            make_directory(directory)
            self._directories.add(directory)
        return os.open(path, _APPEND, 0o644)

    def _cannot_start(self, spec: dict[str, Any], exc: OSError | ValueError) -> None:
        code = NOT_FOUND if isinstance(exc, FileNotFoundError) else CANNOT_EXECUTE
        what = getattr(exc, "filename", None) or spec.get("argv", ["bash"])[0]
        why = f"cannot start {what!r}: {getattr(exc, 'strerror', None) or exc}"
        for variable in variables(str(spec.get("argv", [""])[0])):
            if variable not in self._setup["environment"]:
                why += f" (the environment variable {variable} is not set)"
        try:
            fd = self._open_log(spec["stderr"])
            os.write(fd, f"{why}\n".encode("utf-8", "replace"))
            os.close(fd)
        except (OSError, ValueError) as second:
            why += f"; nor write its log: {second}"
        now = round(time.time(), 3)
        result = {"exit": code, "start": now, "end": now, "memory": 0, "cpu": 0.0, "why": why}
        self._finish(spec, result)

    # What became of them.

    def _reap(self) -> None:
        while self._running:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            running = self._running.pop(pid, None)
            ordered = pid in self._doomed or pid in self._overdue
            self._doomed.discard(pid)
            if running is None:
                continue
            # What a job leaves behind in its process group ends with it.
            signal_group(pid, signal.SIGKILL)
            self._cpus -= running.spec["cpus"]
            self._memory -= running.spec["memory"]
            result = _measured(running, status, usage)
            if pid in self._overdue:
                self._overdue.discard(pid)
                minutes = running.spec["walltime"] / 60
                result["why"] = (
                    f"ended after its walltime of {minutes:g} minutes (exit code {result['exit']})"
                )
                result["overdue"] = True
            if result["exit"] in _ENDED_BY_OTHERS and not ordered:
                # Perhaps the whole node is being ended, and this process is next.
                self._held.append((time.monotonic() + HOLD, running.spec, result))
            else:
                self._finish(running.spec, self._excused(result))

    def _release_held(self) -> None:
        """Report jobs that were killed, once it is clear whether they alone were."""
        now = time.monotonic()
        while self._held and (self._held[0][0] <= now or not self._open):
            _, spec, result = self._held.popleft()
            self._finish(spec, self._excused(result))

    def _excused(self, result: dict[str, Any]) -> dict[str, Any]:
        """Mark a failure as lost with the worker, where the worker is being ended."""
        if self._open or result["exit"] == 0 or result.get("overdue"):
            return result
        return {**result, "lost": "its worker was ended"}

    def _finish(self, spec: dict[str, Any], result: dict[str, Any]) -> None:
        record = {"e": "end", "j": spec["j"], "a": spec["a"], "t": result["end"], **result}
        self._lines.append(encode_line(record))
        self._replies.append({"key": spec["key"], **result})


def _measured(running: Running, status: int, usage: resource.struct_rusage) -> dict[str, Any]:
    code = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - running.clock
    return {
        "exit": code if code >= 0 else 128 - code,
        "signal": -code if code < 0 else 0,
        "start": round(running.started, 3),
        "end": round(running.started + wall, 3),
        "memory": usage.ru_maxrss // 1024,
        "cpu": round(usage.ru_utime + usage.ru_stime, 3),
    }


def main() -> None:
    """Serve on the socket whose file descriptor is the last argument."""
    fd = int(sys.argv[-1])
    # It is ours alone: with a copy in a job, nobody would notice our end.
    os.set_inheritable(fd, False)
    Runner(socket.socket(fileno=fd)).run()
