# SPDX-License-Identifier: BSD-3-Clause
"""How a Parsl worker has a job run: it asks the runner process.

There is one runner for each site on the submit host, and one for each pilot,
which its workers share; the first job starts it. On a worker this module is loaded without the
packages above it, which take a second to import (see
`~lsst.ctrl.bps.parsl.driver.functions`): it uses what is in this directory,
and psutil.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from .environment import capture_environment, load_environment, path_with_commands, without_shape
from .leftovers import end_leftovers
from .lines import Lines
from .listener import RunnerDirectory
from .pilot import capacity, task_worker, time_left
from .processes import end_with_parent, start_time, umask
from .records import RUN_VARIABLE, RUNNER_VARIABLE
from .setup import NodeSetup

__all__ = ["RunnerClient", "run_job"]

_START = f"""
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
from node.runner import main
main()
"""
"""Python code that starts a runner. It is found beside this file, and not as a
part of the packages above, which take a second to import."""

_CLIENTS: dict[tuple[str, str], RunnerClient] = {}
_REFUSED: dict[str, int] = {}
_CLIENTS_LOCK = threading.Lock()


class RunnerClient:
    """A connection to a runner process, and the jobs that wait for it.

    Parameters
    ----------
    setup : `NodeSetup`
        The run and the site.
    worker : `tuple` [`int`, `int` or `None`], optional
        The worker that has started this process for one job; see
        `~lsst.ctrl.bps.parsl.node.pilot.task_worker`.
    """

    def __init__(self, setup: NodeSetup, worker: tuple[int, int | None] | None = None) -> None:
        self._setup = setup
        self._worker = worker
        # Who sends may have to wait for the runner, which may wait for the
        # thread that reads: that one needs the other lock only.
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[dict[str, Any]]] = {}
        self._mark = ""
        self._closing = False
        self._notes: list[str] = []
        self._exported, self._prefix = load_environment(setup.environment, setup.site)
        self.process: subprocess.Popen[bytes] | None = None
        self._socket = self._shared() if setup.shared else self._own()
        self.alive = True
        self._reader = threading.Thread(target=self._serve, name="runner-replies", daemon=True)
        self._reader.start()
        self._send({"setup": self._first_message()})

    def _own(self) -> socket.socket:
        """Start a runner that ends with this process."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._start(theirs.fileno(), "connected", str(theirs.fileno()))
        return ours

    def _shared(self) -> socket.socket:
        """Connect to the runner of this pilot, starting it where needed."""
        worker = self._worker
        pilot = worker or (os.getppid(), start_time(os.getppid()))
        place = RunnerDirectory(self._setup.submit_path, self._setup.site, *map(str, pilot))
        try:
            if connected := place.connect():
                return connected
            with place.locked():
                # Another process may have been faster.
                if connected := place.connect():
                    return connected
                with place.listen() as listening:
                    known = dict(zip(("worker", "since"), worker or (), strict=False))
                    what = {"fd": listening.fileno(), "directory": place.directory, **known}
                    self._start(listening.fileno(), "listening", json.dumps(what))
                connected = place.connect()
                assert connected is not None, "the socket was just made"
                return connected
        except OSError:
            # No room, or not ours: this process can do without the others.
            return self._own()

    def _start(self, fd: int, *arguments: str) -> None:
        self._mark = secrets.token_hex(8)
        # A worker may wait until nobody has the output of its task open.
        output = subprocess.DEVNULL if self._setup.own_process else None
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, *arguments],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, RUN_VARIABLE: self._setup.submit_path, RUNNER_VARIABLE: self._mark},
            stdout=output,
            stderr=output,
        )

    def _first_message(self) -> dict[str, Any]:
        here = without_shape(os.environ) if self._setup.shared else dict(os.environ)
        if self._setup.export:
            # The submit host's variables, and this session's own.
            own = set(here) - set(capture_environment(here))
            environment = {**self._exported, **{name: here[name] for name in own}}
        else:
            environment = here
        if path := path_with_commands(environment):
            environment["PATH"] = path
        environment[RUN_VARIABLE] = self._setup.submit_path
        environment["PWD"] = self._setup.cwd
        pool = self._setup.shared and not self._setup.own_process
        return {
            "journals": self._setup.journals,
            "plan": self._setup.plan,
            "cwd": self._setup.cwd,
            "warm": self._setup.warm,
            "enforce": self._setup.enforce,
            "umask": self._umask(),
            "pool": (os.getppid(), start_time(os.getppid())) if pool else None,
            "environment": environment,
            "prefix": self._prefix,
            **capacity(self._setup),
        }

    def _umask(self) -> int | None:
        """Return the jobs' umask: the user's, or what the user set on this node."""
        users, own = self._setup.umask, umask()
        return own if users is None or own != users | 0o022 else users

    def run(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Run one job and wait for its end.

        Parameters
        ----------
        spec : `dict`
            The job; see `~lsst.ctrl.bps.parsl.driver.tasks.job_spec`.

        Returns
        -------
        result : `dict`
            ``exit``, ``start``, ``end``, ``memory`` (MB), ``cpu`` (s), or
            ``lost`` with the reason why nothing is known; and perhaps
            ``note``, a sentence about this node.
        """
        key = f"{spec['j']}.{spec['a']}"
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if not self.alive:
                return {"lost": "the runner process has ended"}
            self._waiting[key] = future
        self._send({**spec, "key": key})
        result = future.result()
        with self._lock:
            if self._notes:
                result["note"] = " ".join(self._notes)
                self._notes.clear()
        return result

    def kill(self, grace: float, upto: int) -> None:
        """End jobs, and refuse those of them that are still to come.

        Parameters
        ----------
        grace : `float`
            Seconds from SIGTERM to SIGKILL.
        upto : `int`
            The last job to end, by the order in which they were submitted.
        """
        self._send({"kill": grace, "upto": upto})

    def close(self, timeout: float = 10.0) -> None:
        """End the process, and with it what still runs.

        Parameters
        ----------
        timeout : `float`, optional
            Seconds to wait before the process is killed.
        """
        self._closing = True
        self._hang_up()
        # One that others use goes on.
        if self.process is not None and not self._setup.shared:
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join()
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(data)
        except OSError:
            self._hang_up()

    def _hang_up(self) -> None:
        """Have the reader come to the end, after what the runner has said before."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The runner was gone before.

    def _serve(self) -> None:
        """Take what the runner says; then end what it has left, and only then give up its jobs."""
        with ExitStack() as afterwards:
            afterwards.callback(self._fail, "the runner process ended")
            afterwards.callback(self._end_what_is_left)
            self._read()

    def _read(self) -> None:
        lines = Lines(self._socket)
        with suppress(OSError):  # As good as the end of the stream.
            while (replies := lines.read()) is not None:
                for reply in replies:
                    self._take(reply)

    def _take(self, reply: dict[str, Any]) -> None:
        future = None
        with self._lock:
            if "mark" in reply:
                self._mark = reply["mark"]
            elif "note" in reply:
                self._notes.append(reply["note"])
            else:
                future = self._waiting.pop(reply.pop("key"))
        if future is not None:
            future.set_result(reply)

    def _end_what_is_left(self) -> None:
        if self._closing:
            return
        self._hang_up()
        try:
            if self.process is not None:
                self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            pass  # It ends its jobs first.
        if self._mark:
            # Its jobs may be alive, and must not be when they are run again.
            end_leftovers(RUNNER_VARIABLE, self._mark, timeout=2.0)

    def _fail(self, why: str) -> None:
        with self._lock:
            self.alive = False
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_result({"lost": why})


def client_for(setup: NodeSetup, worker: tuple[int, int | None] | None = None) -> RunnerClient:
    """Return this process's runner for the jobs of a site, starting it where needed.

    Parameters
    ----------
    setup : `NodeSetup`
        The run and the site.
    worker : `tuple` [`int`, `int` or `None`], optional
        As for `RunnerClient`.

    Returns
    -------
    client : `RunnerClient`
        The connection to the runner.
    """
    key = (setup.submit_path, setup.site)
    with _CLIENTS_LOCK:
        client = _CLIENTS.get(key)
        if client is not None and not client.alive:
            client.close()
            client = None
        if client is None:
            client = _CLIENTS[key] = RunnerClient(setup, worker)
        return client


def forget_clients(submit_path: str) -> list[RunnerClient]:
    """Take the runners of a run out of the table.

    Parameters
    ----------
    submit_path : `str`
        Submit directory of the run.

    Returns
    -------
    clients : `list` [`RunnerClient`]
        The connections, for the caller to close.
    """
    with _CLIENTS_LOCK:
        _REFUSED.pop(submit_path, None)
        return [_CLIENTS.pop(key) for key in list(_CLIENTS) if key[0] == submit_path]


def kill_jobs(submit_path: str, grace: float, upto: int) -> None:
    """End jobs of a run that this process has, begun or not.

    Parameters
    ----------
    submit_path : `str`
        Submit directory of the run.
    grace : `float`
        Seconds from SIGTERM to SIGKILL.
    upto : `int`
        As for `RunnerClient.kill`.
    """
    with _CLIENTS_LOCK:
        _REFUSED[submit_path] = upto
        clients = [client for key, client in _CLIENTS.items() if key[0] == submit_path]
    for client in clients:
        client.kill(grace, upto)


def run_job(setup: NodeSetup, spec: dict[str, Any], **parsl: Any) -> dict[str, Any]:
    """Run a job; the function that Parsl is given.

    Parameters
    ----------
    setup : `NodeSetup`
        The run and the site.
    spec : `dict`
        As for `RunnerClient.run`.
    **parsl : `~typing.Any`
        What Parsl is told about the task, and passes on.

    Returns
    -------
    result : `dict`
        As for `RunnerClient.run`; or ``declined``, the seconds that are left
        here, where they are less than the job's ``walltime``.

    Raises
    ------
    RuntimeError
        Raised with the result if the job failed, and Parsl's monitoring is
        to know (``monitored`` in the setup).
    """
    if setup.shared:
        # A worker whose manager was killed would have its jobs run on.
        end_with_parent()
    worker = task_worker() if setup.own_process else None
    if worker is not None and os.getpgrp() != os.getpid():
        # The worker ends the group of a process that it has started, and
        # may not have made it in time.
        os.setpgid(0, 0)
    if spec["n"] <= _REFUSED.get(setup.submit_path, 0):
        return {"lost": "ended before it was started"}
    # The driver may be a job of a pilot: beside it, there is no other place.
    left = time_left() if setup.shared else None
    if left is not None and left < spec.get("walltime", 0):
        return {"declined": left}
    result = client_for(setup, worker).run(spec)
    if setup.monitored and result.get("exit", 0) != 0:
        # What Parsl's monitoring takes for a failure. A class of ours could
        # not be loaded where this arrives.
        raise RuntimeError(f"exit code {result['exit']}; its output: {spec['stderr']}", result)
    return result
