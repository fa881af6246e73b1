# SPDX-License-Identifier: BSD-3-Clause
"""Process that has the modules of Python jobs loaded, and forks the jobs.

It is an interpreter of the jobs' own, started in the jobs' environment (see
`~lsst.ctrl.bps.parsl.node.fork_server_process`), and uses the standard library only. It has
one thread, and imports what jobs were seen to import.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from types import CodeType
from typing import Any, NamedTuple, NoReturn

from .lines import write_whole
from .main_script import Script, forget_the_past
from .packets import receive_packet, send_packet
from .preload import Lesson, Preloader, Scripts, shadowed
from .processes import become_subreaper, show_command
from .records import LEVEL
from .supervisor import supervise

__all__ = ["main"]


class Job(NamedTuple):
    """A job that this process, a forked child, is to become."""

    message: dict[str, Any]
    code: CodeType
    lesson: Lesson


class ForkServer:
    """Takes requests, forks, and learns.

    Parameters
    ----------
    requests : `socket.socket`
        Socket of whole messages, whose other end the runner has. The first
        message has ``modules``, ``excluded`` and ``careful`` (see
        `Preloader`), and ``hidden``: the variables that the jobs do not have.
    """

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        first = json.loads(receive_packet(requests)[0])
        # Read at once: nothing here is to be taken for the prefix's.
        self._said = [os.pread(fd, os.fstat(fd).st_size, 0) for fd in (1, 2)]
        self._learned, self._teach = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._wake, self._alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if level := os.environ.pop(LEVEL, None):
            os.environ["SHLVL"] = level
        self._hidden: list[str] = first["hidden"]
        self._preloader = Preloader(first["modules"], first["excluded"], careful=first["careful"])
        environ = {name: value for name, value in os.environ.items() if name not in self._hidden}
        self._scripts = Scripts()
        self._say({"ready": environ, "executable": sys.executable})
        gc.disable()

    def serve(self) -> Job:
        """Serve until the runner goes away.

        Returns
        -------
        job : `Job`
            In a forked child, what it is to become.
        """
        poll = select.poll()
        for fd in (self._requests.fileno(), self._learned.fileno(), self._wake):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(0 if self._preloader else None)}
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._reap()
            if self._learned.fileno() in ready:
                self._preloader.add(json.loads(receive_packet(self._learned)[0]))
            elif self._preloader:
                self._load()
            elif self._requests.fileno() in ready and (job := self._take()):
                return job

    def _load(self) -> None:
        if trouble := self._preloader.load():
            self._say({"trouble": trouble})
            os._exit(0)
        gc.collect()
        gc.freeze()  # A collection in a child must not touch every page.

    def _take(self) -> Job | None:
        """Take a request; return the job in the process that is to be it."""
        data, fds = receive_packet(self._requests, most_fds=3)
        if not data:
            os._exit(0)
        if len(fds) < 3:
            _close(fds)  # There was no room for more; the runner sees it.
            return None
        message = json.loads(data)
        script = message["script"]
        job = None
        try:
            code = self._scripts.code(script, self._preloader)
            if self._preloader:
                # Once here costs less than once here and once in the first job.
                self._load()
            refused = self._scripts.own_ways(script) or shadowed(os.path.dirname(os.path.realpath(script)))
        except (OSError, SyntaxError, ValueError):
            refused = "what cannot be read"  # A fresh interpreter says it best.
        if refused:
            self._refuse(fds[2], refused)
        else:
            lesson = Lesson()
            job = self._fork(message, fds, code, lesson)
            if job is None:
                lesson.close()
        if job is None:
            _close(fds)
        return job

    def _refuse(self, control: int, why: str) -> None:
        try:
            os.write(control, json.dumps({"cold": why}).encode() + b"\n")
        except OSError:
            pass  # The job is not wanted any more.

    def _fork(self, message: dict[str, Any], fds: list[int], code: CodeType, lesson: Lesson) -> Job | None:
        if os.fork():
            return None
        # Here is the supervisor, and with the next fork the job. It must have
        # been made before the supervisor closes and ignores things.
        become_subreaper()
        if pid := os.fork():
            self._supervise(pid, message, fds[2], lesson)
        os.setpgid(0, 0)
        self._become(message, fds)
        return Job(message, code, lesson)

    def _supervise(self, pid: int, message: dict[str, Any], control: int, lesson: Lesson) -> NoReturn:
        def begin() -> int:
            try:
                os.setpgid(pid, pid)
            except (ProcessLookupError, PermissionError):
                pass  # It has done so itself.
            return pid

        def tell() -> None:
            if text := lesson.read():
                try:
                    send_packet(self._teach, text, wait=False)
                except OSError:
                    pass  # The next one of its kind tells the same.

        supervise(control, begin, message.get("limit"), keep=self._teach.fileno(), afterwards=tell)

    def _become(self, message: dict[str, Any], fds: list[int]) -> None:
        """Have the signals, files and variables of a fresh process."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, number in ((null, 0), (fds[0], 1), (fds[1], 2)):
            os.dup2(fd, number)
        for sock in (self._requests, self._learned, self._teach):
            sock.close()
        for fd in (self._wake, self._alarm, null, *fds):
            os.close(fd)
        for name in (*self._hidden, *message["unset"]):
            os.environ.pop(name, None)
        os.environ.update(message["env"])
        for number, text in zip((1, 2), self._said, strict=True):
            # What the command prefix writes is in the log of each job.
            if text:
                write_whole(number, text)

    def _reap(self) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def _say(self, message: dict[str, Any]) -> None:
        try:
            send_packet(self._requests, json.dumps(message).encode())
        except OSError:
            os._exit(1)  # The runner is gone.


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def main() -> Script:
    """Serve on the socket whose file descriptor is the last argument.

    Returns
    -------
    script : `Script`
        In a forked child, the script that it is to run.
    """
    with socket.socket(fileno=int(sys.argv[-1])) as requests:
        message, code, lesson = ForkServer(requests).serve()
    interpreter, script, arguments = message["interpreter"], message["script"], message["arguments"]
    # ``env`` and not the kernel has started it.
    program = interpreter[1] if interpreter[0] != interpreter[1] else script
    show_command(os.path.basename(program), [interpreter[1], script, *arguments])
    forget_the_past()
    return Script(interpreter, script, arguments, code, lesson.write)
