# SPDX-License-Identifier: BSD-3-Clause
"""Process that starts jobs, waits for them and reports what became of them.

It is started without the packages above this one (see
`~lsst.ctrl.bps.parsl.node.client`) and uses the standard library only, so that
it is up in milliseconds. It has one thread. Requests and replies are JSON
lines on sockets; when the other end of one goes away, its jobs are ended. What
the runner saw is in its own journal before the other end hears of it.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
from functools import partial
from typing import Any

from .connection import Connection
from .fork_server_process import ForkServerProcess
from .jobs import Job, Logs
from .journal import add, encode_event, open_journal
from .listener import Listener
from .pool import Pools
from .processes import become_subreaper, children, end, end_descendants, start_time
from .records import RUNNER_VARIABLE
from .timer import Timer
from .waiting import WaitingJobs
from .warm import WarmStart

__all__ = ["Runner", "main"]

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL where the driver is gone, and for a job
over its walltime."""

HOLD = 1.0
"""Seconds for which the end of a killed job is held back."""

MOST_LOOKS = 250
"""How often the remains of a job are looked for, every 20 ms."""

_GONE: dict[str, Any] = {}
_ENDED_BY_OTHERS = (128 + signal.SIGTERM, 128 + signal.SIGKILL)


class Runner:
    """Starts jobs, waits for them and reports what became of them.

    Parameters
    ----------
    first : `socket.socket`, optional
        Connection to the one process that asks for jobs. The first line on a
        connection is a `dict` with ``journals`` (directory), ``plan``, ``cwd``,
        ``environment``, ``prefix`` (bash code before each command), ``cpus``
        and ``memory`` (MB; what the jobs of this node may have in total, or
        `None`), ``warm`` (whether there are fork servers) and ``enforce``
        (whether a job over its memory request is ended).
    listener : `Listener`, optional
        Where several processes connect, in place of ``first``.
    """

    def __init__(self, first: socket.socket | None = None, listener: Listener | None = None) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._connections: set[Connection] = set()
        self._logs = Logs()
        self._waiting = WaitingJobs()
        self._jobs: set[Job] = set()
        self._timer = Timer()
        self._warm = WarmStart(self._selector, self._timer, self._begin)
        self._held: dict[Job, dict[str, Any]] = {}
        self._pools = Pools()
        self._journal, self._journal_path = -1, ""
        self._unfit = ""
        self._lines: list[bytes] = []
        self._terminated = self._stopping = False
        if first is not None:
            self._connect(first)
        if listener is not None:
            self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Serve until nobody is left who asks for jobs."""
        become_subreaper()
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_terminate)
        for name in (signal.SIGINT, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        self._selector.register(wake_read, selectors.EVENT_READ, partial(self._reap, wake_read))
        while self._wanted() or self._jobs or self._held:
            often = None if self._listener is None else self._listener.interval
            for key, _ in self._selector.select(self._timer.time_left(often)):
                key.data()
            if self._terminated and not self._stopping:
                self._stop()
            self._timer.do_what_is_due()
            self._release_ending()
            self._start_waiting()
            self._report()
        for connection in self._connections:
            connection.close()
        self._warm.close()
        self._pools.end_orphans()
        if self._listener is not None:
            self._listener.close()

    def _wanted(self) -> bool:
        if self._stopping:
            return False
        if self._listener is None:
            return bool(self._connections)
        if self._connections or self._listener.wanted():
            return True
        # Who connected just now is still served.
        self._listener.stop()
        self._accept()
        return bool(self._connections)

    def _on_terminate(self, *_: object) -> None:
        # Only noted: the loop may be in the middle of anything.
        self._terminated = True

    def _stop(self) -> None:
        """End all jobs, and then this process; who asked is still told."""
        self._stopping = True
        if self._listener is not None:
            self._listener.stop()
        for connection in self._connections:
            self._kill_jobs(connection, GRACE)

    def _reap(self, wake: int) -> None:
        os.read(wake, 4096)
        try:
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self._warm.reaped(pid)
        except ChildProcessError:
            pass  # That was all.

    # The conversation.

    def _accept(self) -> None:
        assert self._listener is not None
        for connected in self._listener.accept():
            self._connect(connected)

    def _connect(self, connected: socket.socket) -> None:
        connection = Connection(connected)
        self._connections.add(connection)
        self._selector.register(connection, selectors.EVENT_READ, partial(self._read, connection))

    def _read(self, connection: Connection) -> None:
        messages = connection.read()
        if messages is None:
            self._hang_up(connection)
            return
        for request in messages:
            if "setup" in request:
                self._set_up(connection, request["setup"])
            elif "kill" in request:
                connection.refused = request["upto"]
                self._kill_jobs(connection, float(request["kill"]))
            elif self._stopping or request["n"] <= connection.refused:
                connection.reply({"key": request["key"], "lost": "ended before it was started"})
            elif self._unfit:
                connection.reply({"key": request["key"], "lost": f"it could not be started: {self._unfit}"})
            else:
                if connection.setup.get("enforce") and request["memory"]:
                    request["limit"] = request["memory"]
                self._waiting.add({**request, "owner": connection})

    def _set_up(self, connection: Connection, setup: dict[str, Any]) -> None:
        connection.setup = setup
        setup["environment"][RUNNER_VARIABLE] = mark = os.environ.get(RUNNER_VARIABLE, "")
        connection.reply({"mark": mark})
        if setup.get("pool"):
            self._pools.note(*setup["pool"])
        if self._journal < 0:
            try:
                self._begin_run(setup)
            except OSError as exc:
                self._unfit = f"{exc.filename}: {exc.strerror}"

    def _begin_run(self, setup: dict[str, Any]) -> None:
        self._waiting.cpus, self._waiting.memory = setup.get("cpus"), setup.get("memory")
        os.chdir(setup["cwd"])
        self._journal, self._journal_path = open_journal(setup["journals"], setup.get("plan") or "")
        self._unfit = ""
        if setup.get("umask") is not None:
            os.umask(setup["umask"])  # For the jobs; what is made here has its mode.

    def _report(self) -> None:
        """Write the journal, then tell those who asked."""
        more: dict[str, Any] = {}
        try:
            if self._lines:
                add(self._journal, b"".join(self._lines))
                self._lines.clear()
        except OSError as exc:  # They are written later, together with the next ones.
            more["unrecorded"] = f"{self._journal_path}: {exc.strerror or exc}"
        if self._warm.notes:
            for connection in self._connections:
                connection.say({"note": " ".join(self._warm.notes)})
            self._warm.notes.clear()
        for connection in list(self._connections):
            if not connection.flush(more):
                self._hang_up(connection)
                continue
            key = self._selector.get_key(connection)
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.is_behind else 0)
            if key.events != wanted:
                self._selector.modify(connection, wanted, key.data)

    def _hang_up(self, connection: Connection) -> None:
        if connection.open:
            self._kill_jobs(connection, GRACE)
            connection.flush({})
            self._selector.unregister(connection)
            connection.close()
            self._connections.discard(connection)

    # Ending jobs.

    def _kill_jobs(self, owner: Connection, grace: float) -> None:
        for spec in self._waiting.remove(lambda spec: spec["owner"] is owner):
            owner.reply({"key": spec["key"], "lost": "ended before it was started"})
        for job in [job for job in self._jobs if job.owner is owner]:
            if self._warm.drop(job):
                self._finish(job, {"lost": "ended before it was started"})
                continue
            job.doomed = True
            job.terminate()
            job.timers.append(self._timer.later(grace, self._kill_late, job))

    def _kill_late(self, job: Job) -> None:
        if job in self._jobs:
            job.kill()
            job.timers.append(self._timer.later(1.0, self._kill_late, job))

    def _end_overdue(self, job: Job) -> None:
        """End a job that has used up its walltime."""
        if job not in self._jobs:
            return
        if job.overdue:
            job.kill()
        else:
            job.terminate()
        job.timers.append(self._timer.later(1.0 if job.overdue else GRACE, self._end_overdue, job))
        job.overdue = True

    # Starting jobs.

    def _start_waiting(self) -> None:
        while spec := self._waiting.next():
            job = Job(spec, spec.pop("owner"), self._logs)
            self._jobs.add(job)
            self._warm.start(job)

    def _begin(self, job: Job, server: ForkServerProcess | None) -> None:
        try:
            if server is not None and job.begin_warm(server):
                self._warm.asked(job, server)
            else:
                job.begin_cold()
        except (OSError, ValueError) as exc:  # Such as a NUL in an argument.
            self._finish(job, job.cannot_start(exc))
        else:
            self._selector.register(job, selectors.EVENT_READ, partial(self._hear, job))

    # What became of them.

    def _hear(self, job: Job) -> None:
        messages = job.read()
        for message in [_GONE] if messages is None else messages:
            if "pid" in message:
                self._begun(job, message)
                continue
            self._selector.unregister(job)
            job.close()
            if "exit" in message:
                self._ended(job, message)
            elif "error" in message:
                number, text = message["error"]
                error = ValueError(text) if number is None else OSError(number, text, job.argv[0])
                self._finish(job, job.cannot_start(error))
            elif job.leader is None and job.server is not None and not job.doomed:
                self._warm.answered(job)  # The server did not take it, or has ended.
                self._begin(job, None)
            elif "cold" in message:
                self._finish(job, {"lost": "ended before it was started"})
            else:
                self._warm.answered(job)
                self._end_remains(job)
            return

    def _end_remains(self, job: Job, tries: int = 0) -> None:
        """Report a job whose supervisor was ended, when all of it has ended."""
        if self._remains_have_ended(job) or tries > MOST_LOOKS:
            self._finish(job, {"lost": "its supervisor was ended"})
        else:
            self._timer.later(0.02, self._end_remains, job, tries + 1)

    def _remains_have_ended(self, job: Job) -> bool:
        """End what is left of such a job, as far as it is known.

        The kernel closes the supervisor's socket first, and hands its children
        to this process last.
        """
        if start_time(job.supervisor) is not None:
            return False
        known = self._warm.processes() | {other.supervisor for other in self._jobs if other is not job}
        strangers = [pid for pid in children(os.getpid()) if pid not in known and start_time(pid) is not None]
        if strangers and self._warm.has_left_supervisors():
            return False  # They may be those, which are about to make themselves known.
        for pid in strangers:
            end_descendants(pid)
            end(pid)
        return not strangers

    def _begun(self, job: Job, message: dict[str, Any]) -> None:
        job.leader, job.supervisor = message["pid"], message["supervisor"]
        self._warm.answered(job)
        if walltime := job.spec.get("walltime"):
            job.timers.append(self._timer.later(walltime, self._end_overdue, job))
        self._lines.append(encode_event("start", job.spec, message["t"], pid=job.leader))

    def _ended(self, job: Job, result: dict[str, Any]) -> None:
        if job.server is not None:
            result["warm"] = True
        if left := result.pop("left", None):
            self._say_left(job, left)
        if (peak := result.pop("over", None)) is not None:
            result["why"] = f"ended at {peak} MB of memory; it had asked for {job.spec['memory']} MB"
            self._say(job, f"---- {result['why']} (enforceMemory) ----")
        elif job.overdue:
            minutes = job.spec["walltime"] / 60
            result["why"] = f"ended after its walltime of {minutes:g} minutes (exit code {result['exit']})"
            result["overdue"] = True
        elif result["exit"] in _ENDED_BY_OTHERS and not job.doomed:
            # Perhaps the whole node is being ended, and this process is next.
            self._held[job] = result
            self._timer.later(HOLD, self._release, job)
            return
        self._finish(job, self._excused(job, result))

    def _say_left(self, job: Job, left: list[int]) -> None:
        """Say which processes of a job are still there, though they were killed."""
        which = f"processes {', '.join(map(str, left))} of a job cannot be ended"
        job.owner.say({"note": f"On {socket.gethostname()}, {which}; see {job.spec['stderr']}"})
        self._say(job, f"---- {which}: they sleep in the kernel, or are another user's ----")

    def _say(self, job: Job, sentence: str) -> None:
        try:
            self._logs.say(job.spec["stderr"], sentence)
        except OSError:
            pass  # The journal and the driver have it.

    def _release(self, job: Job) -> None:
        """Report a job that was killed, now that it is clear whether it alone was."""
        if job in self._held:
            self._finish(job, self._excused(job, self._held.pop(job)))

    def _release_ending(self) -> None:
        for job in [job for job in self._held if self._is_ending(job)]:
            self._release(job)

    def _excused(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        """Mark a failure as lost with the worker, where the worker is being ended."""
        if not self._is_ending(job) or result["exit"] == 0 or result.get("overdue"):
            return result
        return {**result, "lost": "its worker was ended"}

    def _is_ending(self, job: Job) -> bool:
        return self._stopping or not job.owner.open

    def _finish(self, job: Job, result: dict[str, Any]) -> None:
        self._jobs.discard(job)
        self._warm.answered(job)
        for number in job.timers:
            self._timer.cancel(number)
        self._waiting.release(job.spec)
        if "end" in result:
            self._lines.append(encode_event("end", job.spec, result["end"], **result))
        job.owner.reply({"key": job.spec["key"], **result})


def main() -> None:
    """Serve as the arguments say: ``connected <fd>``, or ``listening <JSON>``."""
    kind, what = sys.argv[-2:]
    if kind == "connected":
        os.set_inheritable(int(what), False)
        Runner(first=socket.socket(fileno=int(what))).run()
    else:
        Runner(listener=Listener(**json.loads(what))).run()
