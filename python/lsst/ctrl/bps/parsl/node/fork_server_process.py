# SPDX-License-Identifier: BSD-3-Clause
"""A fork server, as its runner starts it and talks to it; standard library
only.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from .packets import receive_packet, send_packet
from .processes import (
    BASH,
    IGNORED_HERE,
    SCRIPT_FD,
    end_with_parent,
    find_program,
    high_copy,
    memory_descriptor,
)
from .python_scripts import Interpreter, interpreter_of, same_interpreter
from .records import LEVEL, MOST_BYTES

__all__ = ["VARYING", "ForkServerProcess", "become_fork_server"]

MOST_DEATHS = 3
"""How often a server may end by itself."""

MOST_STARTS = 12
"""How often it may be started, also to leave out modules."""

VARYING = frozenset(
    "BPS_PARSL_ATTEMPT BPS_PARSL_JOB BPS_PARSL_LABEL PARSL_WORKER_RANK PARSL_WORKER_COUNT "
    "PARSL_WORKER_BLOCK_ID PARSL_WORKER_POOL_ID WORK_QUEUE_SANDBOX VINE_SANDBOX TMPDIR CORES "
    "MEMORY DISK GPUS _".split()
)
"""Variables that may differ between jobs of one fork server: none is read
when Python starts or imports something."""

_OWN_HIDDEN = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""The allocator of pyarrow would have a thread in the fork server."""

_SOCKET_FD = 4

_RESOLVE = f"""
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
from node.fork_server_process import become_fork_server
become_fork_server(sys.argv[1:])
"""

_SERVE = f"""
import sys
if sys.path and not sys.path[0]:
    del sys.path[0]
import importlib.util
_found = importlib.util.spec_from_file_location(
    "bps_parsl_node", {f"{Path(__file__).parent}/__init__.py"!r},
    submodule_search_locations=[{str(Path(__file__).parent)!r}],
)
sys.modules["bps_parsl_node"] = importlib.util.module_from_spec(_found)
from bps_parsl_node.fork_server import main
__name__ = "bps_parsl_node.start"
_script = main()
try:
    exec(_script.code, _script.names)
except BaseException as _exception:
    _script.caught(_exception)
_script.end()
"""


class ForkServerProcess:
    """A fork server, as its runner sees it.

    Parameters
    ----------
    environ : `~collections.abc.Mapping` [`str`, `str`]
        Environment of its first job.
    prefix : `str`
        Bash code before each command.
    command : `str`
        First word of the first job's command.
    """

    def __init__(self, environ: Mapping[str, str], prefix: str, command: str) -> None:
        self._given = dict(environ)
        self._hidden = {name: value for name, value in _OWN_HIDDEN.items() if name not in environ}
        self._prefix = prefix
        self._command = command
        self._excluded: set[str] = set()
        self._modules: list[list[str]] = []
        self._careful = False
        self._starts = 0
        self._deaths = 0
        self._environ: dict[str, str] = {}
        self._executable = ""
        self.ready = False
        self.why_not = ""
        self.expected = True
        self.watched = False
        self.pid: int | None = None
        self._start()

    def _start(self) -> None:
        self._starts += 1
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first = {
            "modules": self._modules,
            "excluded": sorted(self._excluded),
            "careful": self._careful,
            "hidden": sorted(self._hidden),
        }
        try:
            with theirs:
                self._spawn(theirs.fileno())
            send_packet(self.socket, json.dumps(first).encode())
        except BaseException:
            self.socket.close()
            raise

    def _spawn(self, theirs: int) -> None:
        with ExitStack() as opened:

            def own(fd: int) -> int:
                opened.callback(os.close, fd)
                return fd

            out, err = own(memory_descriptor()), own(memory_descriptor())
            inodes = [str(os.fstat(fd).st_ino) for fd in (out, err)]
            argv = [sys.executable, "-I", "-S", "-c", _RESOLVE, self._command, *inodes]
            files = {1: out, 2: err, _SOCKET_FD: own(high_copy(theirs))}
            if self._prefix:
                files[SCRIPT_FD] = own(memory_descriptor(_after(self._prefix, argv)))
                argv = list(BASH)
            actions: list[tuple[Any, ...]] = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in files.items()),
            ]
            signals = [signal.SIGTERM, *IGNORED_HERE]
            environ = {**self._given, **self._hidden}
            self.pid = os.posix_spawn(argv[0], argv, environ, file_actions=actions, setsigdef=signals)

    def read(self) -> bool:
        """Take a message from the server.

        Returns
        -------
        alive : `bool`
            `False` where it has ended.
        """
        message = json.loads(self._receive() or b"null")
        if message is None:
            self.ready = False
            self.socket.close()
        elif "ready" in message:
            self.ready = True
            self._environ, self._executable = message["ready"], message["executable"]
        elif "unfit" in message:
            self.why_not, self.expected = message["unfit"], message["expected"]
        else:
            self._learn(message["trouble"])
        return message is not None

    def _receive(self) -> bytes:
        """Return a message; nothing at the end."""
        try:
            return receive_packet(self.socket)[0]
        except ConnectionError:
            # It has ended with requests unread. The kernel says so first, and
            # only then gives what the server had said before.
            return receive_packet(self.socket)[0]

    def _learn(self, trouble: dict[str, Any]) -> None:
        if self._careful and not trouble["excluded"]:
            self.why_not = trouble["why"]
        self._excluded.update(trouble["excluded"])
        self._modules = trouble["modules"]
        self._careful = True
        self._deaths -= 1  # It ends for that, and not by itself.

    def start_again(self) -> bool:
        """Start a server that has ended, where that may help.

        Returns
        -------
        started : `bool`
            Whether it was started.
        """
        self._deaths += 1
        if not self.why_not and (self._deaths >= MOST_DEATHS or self._starts >= MOST_STARTS):
            self.why_not = f"it ended {self._starts} times"
        if self.why_not:
            return False
        self._start()
        return True

    def request(self, spec: dict[str, Any], argv: list[str], environ: dict[str, str], fds: list[int]) -> bool:
        """Ask for a job.

        Parameters
        ----------
        spec : `dict`
            The job.
        argv : `list` [`str`]
            Its command.
        environ : `dict` [`str`, `str`]
            Its environment.
        fds : `list` [`int`]
            Where it writes (stdout, stderr), and the socket of its supervisor.

        Returns
        -------
        asked : `bool`
            `False` where it is not for this server.
        """
        found = self._script(argv[0])
        if found is None:
            return False
        # What the prefix has set, it would have set after the job's own.
        own = [name for name in VARYING if self._environ.get(name) == self._given.get(name)]
        message: dict[str, Any] = {
            "script": found[0],
            "interpreter": found[1],
            "arguments": argv[1:],
            "env": {name: environ[name] for name in own if name in environ},
            "unset": [name for name in own if name not in environ],
            "limit": spec.get("limit"),
        }
        if self._prefix:  # Bash has set it.
            message["env"]["_"] = found[0]
        data = json.dumps(message).encode()
        if len(data) > MOST_BYTES:
            return False
        try:
            send_packet(self.socket, data, fds, wait=False)
        except OSError:
            return False  # It has ended, or is too busy for one more.
        return True

    def kill(self) -> None:
        """End the process."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def _script(self, command: str) -> tuple[str, Interpreter] | None:
        """Return the script and the interpreter of a command."""
        if "/" not in command:
            try:
                command = find_program(command, self._environ)
            except FileNotFoundError:
                return None
        interpreter = interpreter_of(command, self._environ)
        if interpreter is None or not same_interpreter(interpreter.path, self._executable):
            return None
        return command, interpreter


def _after(prefix: str, argv: list[str]) -> str:
    """Return bash code that becomes a fork server after a prefix.

    What bash would do for the job after its command (a trap), or in place of
    it (a function of that name), no other process can do.
    """
    command = shlex.quote(argv[5])
    return (
        f"{prefix}\n"
        'if [[ -n "$(trap -p EXIT DEBUG ERR RETURN)" ]]; then set -- trap\n'
        f'else set -- "$(type -t -- {command})"; fi\n'
        f'{LEVEL}=$SHLVL exec {shlex.join(argv)} "$1" {SCRIPT_FD}<&-\n'
    )


def become_fork_server(arguments: list[str]) -> NoReturn:
    """Find the interpreter of a command, and become a fork server in it.

    Parameters
    ----------
    arguments : `list` [`str`]
        The command; the inodes of stdout and stderr, as they were before the
        command prefix; and perhaps what bash takes the command for.
    """
    command, out, err, *kind = arguments
    unfit, expected = "", True
    interpreter = None
    if kind and kind[0] not in ("file", ""):
        unfit = "the command prefix sets a trap" if kind[0] == "trap" else f"{command} is a {kind[0]} of bash"
    elif [str(os.fstat(fd).st_ino) for fd in (1, 2)] != [out, err]:
        unfit = "the command prefix redirects the output of jobs"
    elif os.fstat(0).st_rdev != os.stat(os.devnull).st_rdev:
        unfit = "the command prefix redirects the input of jobs"
    else:
        try:
            interpreter = interpreter_of(find_program(command, os.environ), os.environ)
        except FileNotFoundError:
            pass
        if interpreter is None:
            unfit, expected = f"{command} is not a Python script", False
    if interpreter is None:
        with socket.socket(fileno=_SOCKET_FD) as requests:
            send_packet(requests, json.dumps({"unfit": unfit, "expected": expected}).encode())
        os._exit(0)
    end_with_parent()
    os.set_inheritable(_SOCKET_FD, True)
    os.execv(interpreter.path, [interpreter.path, "-c", _SERVE, str(_SOCKET_FD)])
