# SPDX-License-Identifier: BSD-3-Clause
"""The process that starts jobs, and the client that talks to it: real processes throughout."""

from __future__ import annotations

import gc
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest

from lsst.ctrl.bps.parsl.driver.tasks import node_setup
from lsst.ctrl.bps.parsl.environment import write_environment
from lsst.ctrl.bps.parsl.node.client import RunnerClient, forget_clients, kill_jobs, run_job
from lsst.ctrl.bps.parsl.node.records import RUN_VARIABLE, expand
from lsst.ctrl.bps.parsl.node.setup import NodeSetup
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.run.journal import read_journal
from plan.test_command import HOSTILE
from support.plans import umask, world_writable

Result = dict[str, Any]


class Node:
    """A runner with a submit directory, and jobs to give to it."""

    def __init__(self, directory: Path) -> None:
        self.paths = SubmitPaths(directory / "run")
        self.paths.create()
        self.cwd = directory / "cwd"
        self.cwd.mkdir()
        self.setup: dict[str, Any] = asdict(node_setup(self.paths, str(self.cwd)))
        self.environment({"PATH": os.environ["PATH"]})
        self._number = 0
        self._client: RunnerClient | None = None
        self._fifos: list[Fifo] = []

    def environment(self, environ: dict[str, str], prefix: str = "") -> None:
        """Write what prepare writes."""
        write_environment(self.paths.environment, environ, prefix)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of the client's runner."""
        assert self.client.process is not None
        return self.client.process

    @property
    def client(self) -> RunnerClient:
        """The client, which is started by its first use."""
        if self._client is None:
            self._client = RunnerClient(NodeSetup(**self.setup))
        return self._client

    def spec(
        self, *argv: str, script: str | None = None, job: int | None = None, **more: Any
    ) -> dict[str, Any]:
        """Describe a job."""
        self._number += 1
        number = self._number if job is None else job
        stem = f"{self.paths.logs}/a/b/{number}"
        spec = {"j": number, "a": 1, "n": self._number, "env": {}, "cpus": 1, "memory": 0}
        spec |= {"stdout": f"{stem}.stdout", "stderr": f"{stem}.stderr", **more}
        return {**spec, "script": script} if script is not None else {**spec, "argv": list(argv)}

    def run(self, *argv: str, **more: Any) -> Result:
        """Run a job to its end."""
        return self.begin(*argv, **more).result(60)

    def begin(self, *argv: str, **more: Any) -> Future[Result]:
        """Run a job beside this thread."""
        return beside(self.client.run, self.spec(*argv, **more))

    def begin_sent(self, *argv: str, **more: Any) -> Future[Result]:
        """Run a job beside this thread, and wait until it has been sent to the runner."""
        sent = threading.Event()
        send = self.client._send
        number = self._number + 1

        def send_and_tell(message: dict[str, Any]) -> None:
            send(message)
            if message.get("n") == number:
                sent.set()

        with patch.object(self.client, "_send", send_and_tell):
            future = self.begin(*argv, **more)
            assert sent.wait(60)
        return future

    def begin_held(self, code: str = "", **more: Any) -> tuple[Future[Result], Fifo]:
        """Run bash code that says when it is there and then waits."""
        fifo = self.fifo()
        future = self.begin(script=f"{code}\necho $BASHPID > {fifo.said}\n{fifo.read}", **more)
        fifo.wait()
        return future, fifo

    def fifo(self) -> Fifo:
        """Make something for a job to wait at."""
        self._fifos.append(Fifo(self.cwd))
        return self._fifos[-1]

    def out(self, number: int | None = None) -> str:
        return Path(f"{self.paths.logs}/a/b/{number or self._number}.stdout").read_text(
            errors="surrogateescape"
        )

    def err(self, number: int | None = None) -> str:
        return Path(f"{self.paths.logs}/a/b/{number or self._number}.stderr").read_text(
            errors="surrogateescape"
        )

    def events(self) -> list[dict[str, Any]]:
        """Return what the nodes recorded."""
        return [event for path in self.paths.node_journals() for event in read_journal(path)]

    def close(self) -> None:
        """End the runner."""
        if self._client is not None:
            self._client.close()
        while self._fifos:
            self._fifos.pop().close()

    def left(self) -> list[psutil.Process]:
        """Return the processes of the run."""
        path = str(self.paths.submit_path)
        return [process for process in psutil.process_iter() if _variable(process, RUN_VARIABLE) == path]


def _variable(process: psutil.Process, name: str) -> str | None:
    with suppress(psutil.Error):
        value: str | None = process.environ().get(name)
        return value
    return None


def beside(function: Callable[..., Result], *args: Any) -> Future[Result]:
    """Call a function in a thread that nobody has to wait for."""
    future: Future[Result] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=call, daemon=True).start()
    return future


class Fifo:
    """Where a job says that it is there, and waits to be told to go on."""

    _count = 0

    def __init__(self, directory: Path) -> None:
        Fifo._count += 1
        self.said = directory / f"said{Fifo._count}"
        self.told = directory / f"told{Fifo._count}"
        os.mkfifo(self.said)
        os.mkfifo(self.told)
        # Open for both, so that it does not matter who comes first.
        self._said = os.open(self.said, os.O_RDWR)
        self._told = os.open(self.told, os.O_RDWR)
        self.pid = 0

    @property
    def read(self) -> str:
        """Bash code that waits. A signal that comes just before bash reads is heard after a second."""
        return f"until read -t 1 x < {self.told}; do :; done"

    def wait(self) -> None:
        """Wait until the job has said its process id."""
        readable, _, _ = select.select([self._said], [], [], 60)
        assert readable, "the job did not begin"
        self.pid = int(os.read(self._said, 100))

    def release(self) -> None:
        """Let it go on."""
        os.write(self._told, b"\n")

    def close(self) -> None:
        """Close the files."""
        os.close(self._said)
        os.close(self._told)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Give a node; at the end of the test its runner and all jobs must be gone."""
    node = Node(tmp_path)
    yield node
    node.close()
    left = node.left()
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    assert left == []


def wait_gone(*pids: int) -> None:
    """Wait until processes, not children of this one, have ended."""
    processes = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    end = time.monotonic() + 60
    while (alive := [process for process in processes if is_alive(process)]) and time.monotonic() < end:
        time.sleep(0.005)
    assert alive == []


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process has not ended."""
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


# How a job ends.


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("code", "exit"),
    [("true", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("kill -INT $$", 130)],
)
def test_exit_code_is_the_jobs_own(node: Node, code: str, exit: int) -> None:
    """A job's exit code is reported, and 128 and the signal where one ended it, with or without bash."""
    assert node.run(script=code)["exit"] == exit
    assert node.run("/bin/bash", "-c", code)["exit"] == exit


def test_command_that_does_not_exist(node: Node) -> None:
    """127, as a shell has it, and the reason in the job's own log."""
    for command in ("no-such-command", "/no/such/command", "./no", ""):
        result = node.run(command)
        assert result["exit"] == 127
        assert command in result["why"]
        assert "cannot start" in node.err()
    assert node.run(script="no-such-command")["exit"] == 127
    assert "no-such-command" in node.err()


def test_command_that_cannot_be_executed(node: Node) -> None:
    """126, as a shell has it, and the reason in the job's own log."""
    (node.cwd / "text").write_text("text")
    (node.cwd / "directory").mkdir()
    for command in ("./text", "./directory", str(node.cwd / "text")):
        result = node.run(command)
        assert result["exit"] == 126
        assert "ermission denied" in result["why"]
        assert command in node.err()


def test_variable_that_is_not_set_is_named(node: Node) -> None:
    """A command in a directory that a missing variable names says which variable that is."""
    result = node.run("<ENV:CTRL_MPEXEC_DIR>/bin/pipetask")
    assert result["exit"] == 127
    assert "CTRL_MPEXEC_DIR" in result["why"]


def test_argument_that_is_too_long(node: Node) -> None:
    """An argument of 128 KiB ends this job, with the reason, and no other."""
    result = node.run("/bin/echo", "x" * 131072)
    assert result["exit"] == 126
    assert "too long" in result["why"]
    assert node.run("/bin/true")["exit"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ["/bin/echo", "a\0b"]},
        {"argv": ["/bin/echo", "\ud800"]},
        {"argv": ["a\0b"]},
        {"env": {"A": "a\0b"}},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"stdout": "/tmp/a\0b"},
    ],
)
def test_what_no_process_can_be_given_ends_one_job(node: Node, change: dict[str, Any]) -> None:
    """A job with a NUL in it cannot start; the runner and the jobs beside it go on."""
    held, fifo = node.begin_held()
    spec = node.spec("/bin/true")
    result = beside(node.client.run, {**spec, **change})
    assert result.result(60).get("exit") == 126
    fifo.release()
    assert held.result(60).get("exit") == 0
    assert node.run("/bin/true")["exit"] == 0


def test_log_that_cannot_be_opened(node: Node) -> None:
    """A job whose log cannot be written is told as one that cannot start, with the file."""
    (node.cwd / "file").touch()
    result = node.run("/bin/true", stdout=f"{node.cwd}/file/x")
    assert result["exit"] == 126
    assert f"{node.cwd}/file" in result["why"]
    (node.cwd / "link").symlink_to("file")
    assert node.run("/bin/echo", "x", stdout=f"{node.cwd}/link")["exit"] == 126
    assert (node.cwd / "file").read_text() == ""


def test_many_jobs(node: Node) -> None:
    """Hundreds of jobs, many at a time, each have their own result."""
    futures = [node.begin("/bin/bash", "-c", f"exit {number % 100}") for number in range(300)]
    assert [future.result(60)["exit"] for future in futures] == [number % 100 for number in range(300)]


# What a job is given.


def test_output_goes_to_the_jobs_files_and_is_added_to(node: Node) -> None:
    """Each attempt adds to the logs; a line in the second one says where a later attempt begins."""
    for attempt in (1, 2):
        node.run(script=f"echo out {attempt}; echo err {attempt} >&2", job=7, a=attempt)
    assert node.out(7) == "out 1\nout 2\n"
    assert node.err(7) == "err 1\n---- attempt 2 ----\nerr 2\n"


def test_job_reads_nothing_and_knows_nobody(node: Node) -> None:
    """Standard input is empty, no file of the runner is open, and no signal is ignored or blocked."""
    node.run("/bin/bash", "-c", "cat; ls /proc/self/fd; grep -E 'Sig(Ign|Blk)' /proc/self/status")
    *descriptors, ignored, blocked = sorted(
        node.out().split("\n")[:-1], key=lambda line: line.startswith("Sig")
    )
    assert set(descriptors) <= {"0", "1", "2", "3"}
    # The C library has the two signals after these for itself.
    assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in (ignored, blocked)] == [0, 0]


def test_job_has_a_process_group_of_its_own(node: Node) -> None:
    """A signal for a job's group reaches nobody else."""
    node.run("/bin/bash", "-c", "echo $$ $(ps -o pgid= $$)")
    pid, group = node.out().split()
    assert pid == group


def test_environment_is_that_of_prepare(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job has the variables of prepare, not the driver's; but this session's own, such as DISPLAY."""
    monkeypatch.setenv("V_DRIVER", "driver")
    monkeypatch.setenv("V_BOTH", "driver")
    monkeypatch.setenv("DISPLAY", "here:0")
    node.environment({"PATH": os.environ["PATH"], "V_BOTH": "prepare", "V_TEXT": "a\nb 'c' \"$d\""})
    node.run("/usr/bin/env", "-0")
    found = dict(item.partition("=")[::2] for item in node.out().split("\0")[:-1])
    assert "V_DRIVER" not in found
    assert found["V_BOTH"] == "prepare"
    assert found["V_TEXT"] == "a\nb 'c' \"$d\""
    assert found["DISPLAY"] == "here:0"
    assert found["PWD"] == str(node.cwd)
    assert found[RUN_VARIABLE] == str(node.paths.submit_path)


def test_environment_may_be_the_workers_own(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment is not exported, a job has what the worker has."""
    monkeypatch.setenv("V_WORKER", "worker")
    node.environment({"V_PREPARE": "1"})
    node.setup["export"] = False
    node.run("/bin/bash", "-c", "echo $V_WORKER,$V_PREPARE")
    assert node.out() == "worker,\n"


def test_commands_beside_the_workers_python(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the environment is not exported, jobs find BPS's commands beside the worker's Python, after all
    that is on the worker's PATH.
    """
    beside, own = tmp_path / "prefix" / "bin", tmp_path / "own"
    for directory, names in ((beside, ("pipetask", "butler", "bps", "tool")), (own, ("tool",))):
        directory.mkdir(parents=True)
        for name in names:
            (directory / name).write_text(f"#!/bin/sh\necho {directory.name} {name}\n")
            (directory / name).chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(beside.parent))
    monkeypatch.setenv("PATH", f"{own}:/usr/bin:/bin")
    node.setup["export"] = False
    node.run("pipetask")
    assert node.out() == "bin pipetask\n"
    node.run("/bin/bash", "-c", "butler; tool")
    assert node.out() == "bin butler\nown tool\n"


def test_job_has_variables_of_its_own(node: Node) -> None:
    """BPS's ``environment`` of a job is set last, and may name variables that were there before."""
    node.environment({"PATH": os.environ["PATH"], "A": "1"})
    node.run("/bin/bash", "-c", "echo $A $B", env={"A": "<ENV:A>2", "B": "x;$A"})
    assert node.out() == "12 x;$A\n"
    node.run("/bin/bash", "-c", "echo $A")
    assert node.out() == "1\n"


def test_command_is_looked_up_on_the_jobs_path(node: Node) -> None:
    """The PATH of the job counts, also where it is the job's own."""
    tool = node.cwd / "bin" / "my-tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    node.environment({"PATH": f"/nowhere:{tool.parent}:/bin:/usr/bin"})
    assert node.run("my-tool")["exit"] == 0
    assert node.run("my-tool", env={"PATH": "/bin"})["exit"] == 127
    assert node.run(script="my-tool")["exit"] == 0


def test_jobs_run_where_the_run_was_prepared(node: Node) -> None:
    """The working directory is that of prepare, for each job."""
    node.run("/bin/pwd")
    assert node.out() == f"{node.cwd}\n"
    node.run(script="cd /; pwd")
    node.run(script="pwd")
    assert node.out() == f"{node.cwd}\n"


PRINT = ["/usr/bin/printf", r"%s\0"]


@pytest.mark.parametrize("prefix", ["", "export A=1", "set -euf -o pipefail"])
def test_words_arrive_as_they_are(node: Node, prefix: str) -> None:
    """Arguments reach the job unchanged, with and without a command prefix, and nothing is executed."""
    node.environment({"PATH": os.environ["PATH"]}, prefix)
    values = list(HOSTILE)
    assert node.run(*PRINT, *values)["exit"] == 0
    assert node.out().split("\0")[:-1] == values
    assert not (node.cwd / "canary").exists()


def test_variables_in_words_are_replaced(node: Node) -> None:
    """``<ENV:name>`` is the job's variable; its value is not read again."""
    node.environment({"PATH": os.environ["PATH"], "A": "x y;$B"})
    node.run(*PRINT, "<ENV:A>/z", "a<ENV:A>", "<ENV:NONE>", "<ENV:5>")
    assert node.out().split("\0")[:-1] == ["x y;$B/z", "ax y;$B", "", "$5"]


def test_prefix_runs_before_each_command(node: Node) -> None:
    """What the prefix exports and defines is there for commands with and without a shell's grammar."""
    prefix = 'export A="it\'s $USER_NAME"\nf() { echo "f:$1:$A"; }\nexport -f f\ncd /'
    node.environment({"PATH": os.environ["PATH"], "USER_NAME": "me"}, prefix)
    node.run("/bin/bash", "-c", 'echo "$A $PWD"; f 1')
    assert node.out() == "it's me /\nf:1:it's me\n"
    node.run(script='echo "$A $PWD" && f 2')
    assert node.out() == "it's me /\nf:2:it's me\n"
    node.run("f", "3")
    assert node.out() == "f:3:it's me\n"


def test_prefix_does_not_change_the_command(node: Node) -> None:
    """A prefix that sets the shell's arguments, or sources a script that reads them, is harmless."""
    (node.cwd / "setup.sh").write_text('echo "sourced with $#"; set -- other words; shift\n')
    node.environment({"PATH": os.environ["PATH"]}, "source ./setup.sh\nset -- x y z\nshift")
    assert node.run("/bin/echo", "a", "b")["exit"] == 0
    assert node.out() == "sourced with 0\na b\n"


def test_exit_code_is_not_the_prefixs(node: Node) -> None:
    """The command's exit code counts; a prefix that fails stops the job only where it says so."""
    node.environment({"PATH": os.environ["PATH"]}, "false")
    assert node.run("/bin/bash", "-c", "exit 5")["exit"] == 5
    assert node.run(script="exit 6")["exit"] == 6


def test_prefix_that_ends_the_job(node: Node) -> None:
    """``set -e`` in the prefix, or ``exit``, ends the job before its command."""
    node.environment({"PATH": os.environ["PATH"]}, "set -e; test -d /nowhere")
    assert node.run("/bin/echo", "ran")["exit"] == 1
    assert node.out() == ""


def test_functions_of_the_environment(node: Node) -> None:
    """A function that was exported at prepare (``setup``, ``module``) is there in a job's shell."""
    node.environment({"PATH": os.environ["PATH"], "BASH_FUNC_setup%%": '() {  echo "setup: $*"\n}'})
    node.run(script="setup lsst && echo done")
    assert node.out() == "setup: lsst\ndone\n"


def test_secrets_are_on_no_command_line(node: Node) -> None:
    """Neither the prefix nor the environment nor a script can be seen in the list of processes."""
    secret = f"s3cret{random.randrange(10**12)}"
    node.environment({"PATH": os.environ["PATH"], "TOKEN": f"{secret}1"}, f"export OTHER={secret}2")
    held, fifo = node.begin_held(f"THIRD={secret}3")
    second = node.fifo()
    other = node.begin("/bin/bash", "-c", f"echo $$ > {second.said}; read x < {second.told}")
    second.wait()
    lines = b""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines += process.read_bytes()
    for waiting in (fifo, second):
        waiting.release()
    assert held.result(60)["exit"] == other.result(60)["exit"] == 0
    assert b"node.runner" in lines
    assert secret.encode() not in lines
    for path in [*node.paths.journals.iterdir(), *node.paths.logs.rglob("*.std*")]:
        assert secret not in path.read_text()


@pytest.mark.parametrize("prefix", ["", "export A=1"])
def test_long_command(node: Node, prefix: str) -> None:
    """A command of a megabyte, each word of it shorter than 128 KiB, runs."""
    node.environment({"PATH": os.environ["PATH"]}, prefix)
    words = ["x" * 100_000] * 11
    assert node.run("/bin/bash", "-c", 'echo "$# ${#11}"', "bash", *words)["exit"] == 0
    assert node.out() == "11 100000\n"


def test_long_script(node: Node) -> None:
    """A script of more than 128 KiB runs: it is no argument."""
    lines = "\n".join(f"x={number}" for number in range(30_000))
    assert node.run(script=f"{lines}\necho $x")["exit"] == 0
    assert node.out() == "29999\n"


def test_nothing_a_node_makes_can_be_written_by_others(tmp_path: Path) -> None:
    """Logs, their directories and the journal are closed to others under umask 000."""
    with umask(0):
        node = Node(tmp_path)
        node.run("/bin/true")
        node.close()
    assert world_writable(node.paths.submit_path) == []


# What is recorded.


def test_journal_of_the_node(node: Node) -> None:
    """Start and end of each attempt are recorded with measurements, before anybody hears of it."""
    result = node.run(script="x=$(printf '%50000000s'); exit 3", job=5, a=2)
    start, end = node.events()
    assert (start["e"], start["j"], start["a"]) == ("start", 5, 2)
    assert (end["e"], end["j"], end["a"], end["exit"]) == ("end", 5, 2, 3)
    assert result["exit"] == 3
    assert result["start"] <= result["end"]
    assert 40 < result["memory"] < 2000
    assert 0 < result["cpu"] < 10
    for key in ("start", "end", "memory", "cpu"):
        assert end[key] == result[key]


def test_job_that_cannot_start_is_recorded_too(node: Node) -> None:
    """The journal has the reason."""
    node.run("/no/such/command")
    (end,) = node.events()
    assert (end["e"], end["exit"]) == ("end", 127)
    assert "/no/such/command" in end["why"]


# How many at a time.


def check_never_more(node: Node, amounts: dict[int, int], limit: int) -> None:
    """Check what ran at one time, by the order of the events."""
    running: dict[int, int] = {}
    most = 0
    for event in node.events():
        if event["e"] == "start":
            running[event["j"]] = amounts[event["j"]]
            assert sum(running.values()) <= limit or len(running) == 1
            most = max(most, len(running))
        else:
            del running[event["j"]]
    assert most > 1
    assert running == {}


@pytest.mark.parametrize("what", ["cpus", "memory"])
def test_jobs_wait_until_there_is_room(node: Node, what: str) -> None:
    """Jobs that run at one time never ask for more than there is; one that asks for more runs alone."""
    node.setup[what] = 4
    rng = random.Random(1)
    amounts = {number: rng.choice([1, 1, 2, 3, 4, 9]) for number in range(1, 25)}
    other = {"memory": 9999} if what == "cpus" else {"cpus": 9999}
    # A read from a pipe that nobody writes to takes its time and no processor.
    code = ["/bin/bash", "-c", "read -t 0.03 <> <(:)"]
    futures = [node.begin(*code, job=number, **{what: amount, **other}) for number, amount in amounts.items()]
    assert all("exit" in future.result(60) for future in futures)
    check_never_more(node, amounts, 4)


def test_room_is_given_back_when_a_job_cannot_start(node: Node) -> None:
    """A command that does not exist takes no processor from those after it."""
    node.setup["cpus"] = 1
    for _ in range(3):
        assert node.run("/no/such/command")["exit"] == 127
    assert node.run("/bin/true")["exit"] == 0


# Ending jobs.

WAITING = "echo ready; while :; do read -t 1 <> <(:); done"


def test_killed_job_has_time_to_end(node: Node) -> None:
    """SIGTERM comes first, and what a job does about it is its own affair."""
    held, _ = node.begin_held("trap 'echo bye; exit 7' TERM")
    node.client.kill(30.0, 100)
    result = held.result(60)
    assert result["exit"] == 7
    assert node.out() == "bye\n"


def test_job_that_does_not_end_is_killed(node: Node) -> None:
    """After the time that was given SIGKILL comes."""
    held, _ = node.begin_held("trap '' TERM")
    node.client.kill(0.2, 100)
    assert held.result(60)["exit"] == 137


def test_job_over_its_walltime(node: Node) -> None:
    """A job that has used up its walltime is ended, and the result says why; others go on."""
    other, fifo = node.begin_held(walltime=3600)
    result = node.begin(script="sleep 60 & echo $! ; wait", walltime=0.3).result(60)
    assert result["exit"] == 143
    assert result["overdue"]
    assert "walltime" in result["why"]
    # On a slow machine it was ended before it began another process.
    wait_gone(*map(int, node.out().split()))
    fifo.release()
    assert other.result(60)["exit"] == 0


def test_job_within_its_walltime(node: Node) -> None:
    """A job that ends in time is not overdue, nor is the next one."""
    for _ in range(2):
        result = node.run("/bin/true", walltime=60)
        assert (result["exit"], result.get("overdue")) == (0, None)


def test_job_that_ends_with_its_node_is_lost(node: Node) -> None:
    """Where a batch system ends all processes of a node, it is not the job that failed: whichever of
    the two processes is hit first.
    """
    held, fifo = node.begin_held()
    # The runner hears of both at once, however slow this process is.
    node.process.send_signal(signal.SIGSTOP)
    os.kill(fifo.pid, signal.SIGTERM)
    wait_gone(fifo.pid)
    node.process.terminate()
    node.process.send_signal(signal.SIGCONT)
    assert "worker" in held.result(60)["lost"]
    assert [event.get("lost") for event in node.events() if event["e"] == "end"] == ["its worker was ended"]


def test_job_that_is_killed_alone_has_failed(node: Node) -> None:
    """A job that somebody killed while its node lives has failed with that signal."""
    held, fifo = node.begin_held()
    os.kill(fifo.pid, signal.SIGKILL)
    result = held.result(60)
    assert (result["exit"], result.get("lost")) == (137, None)


def test_stopped_job_hears_that_it_has_to_end(node: Node) -> None:
    """A job that somebody stopped does not wait for the end of its time."""
    held, fifo = node.begin_held()
    os.kill(fifo.pid, signal.SIGSTOP)
    node.client.kill(30.0, 100)
    assert held.result(60)["exit"] == 143


def test_jobs_that_wait_are_not_started_any_more(node: Node) -> None:
    """What has not begun, or is still on its way, is given back and leaves no trace."""
    node.setup["cpus"] = 1
    held, _ = node.begin_held()
    waiting = [node.begin("/bin/true") for _ in range(3)]
    late = node.spec("/bin/true")
    node.client.kill(30.0, late["n"])
    results = [future.result(60) for future in waiting]
    assert all("lost" in result for result in results)
    assert held.result(60)["exit"] == 143
    assert "lost" in beside(node.client.run, late).result(60)
    assert node.run("/bin/true")["exit"] == 0
    assert [event["j"] for event in node.events() if event["e"] == "start"] == [1, late["j"] + 1]


def test_job_that_comes_after_a_kill_is_not_killed(node: Node) -> None:
    """The final job of a cancelled run is not ended with those that were cancelled."""
    stubborn, _ = node.begin_held("trap '' TERM")
    node.client.kill(0.5, 1)
    final, fifo = node.begin_held()
    assert stubborn.result(60)["exit"] == 137
    fifo.release()
    assert final.result(60)["exit"] == 0


def test_what_a_job_leaves_behind_ends_with_it(node: Node) -> None:
    """Children that are still there when the job ends are killed, also those that ignore signals."""
    node.run(
        script=f"(trap '' TERM HUP INT; {WAITING}) > /dev/null & echo $!; sleep 100 > /dev/null & echo $!"
    )
    wait_gone(*map(int, node.out().split()))


def test_all_of_a_job_hears_the_signal(node: Node) -> None:
    """The children of a job are ended with it."""
    held, fifo = node.begin_held("sleep 100 & echo $! $(sleep 100 > /dev/null & echo $!)")
    children = [int(pid) for pid in node.out().split()]
    node.client.kill(30.0, 100)
    assert held.result(60)["exit"] == 143
    wait_gone(fifo.pid, *children)


def test_close_ends_what_runs(node: Node) -> None:
    """A driver that ends takes its jobs along, and they are on record."""
    held, fifo = node.begin_held()
    node.close()
    assert not psutil.pid_exists(fifo.pid)
    assert "lost" in held.result(60) or held.result(60)["exit"] == 143
    assert [(event["e"], event.get("exit")) for event in node.events()] == [("start", None), ("end", 143)]


DRIVER = """
import json, sys
from lsst.ctrl.bps.parsl.node.client import RunnerClient
from lsst.ctrl.bps.parsl.node.setup import NodeSetup
setup, spec = json.loads(sys.argv[1])
client = RunnerClient(NodeSetup(**setup))
print(client.process.pid, flush=True)
client.run(spec)
"""


@pytest.mark.slow
def test_jobs_end_with_a_driver_that_is_killed(node: Node) -> None:
    """``kill -9`` of the driver leaves no runner, no job and no child; the journal has their ends."""
    fifo = node.fifo()
    spec = node.spec(script=f"sleep 100 & echo $!\necho $$ > {fifo.said}\nread x < {fifo.told}")
    command = [sys.executable, "-c", DRIVER, json.dumps([node.setup, spec])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        runner = int(driver.stdout.readline())
        fifo.wait()
        driver.kill()
    wait_gone(runner, fifo.pid, int(node.out()))
    assert [(event["e"], event.get("exit")) for event in node.events()] == [("start", None), ("end", 143)]


def test_runner_that_is_killed(node: Node) -> None:
    """Without its runner a job is lost, and has ended before that is said; the next job gets a new runner."""
    fifo = node.fifo()
    spec = node.spec(script=f"echo $$ > {fifo.said}\nread x < {fifo.told}")
    future = beside(run_job, NodeSetup(**node.setup), spec)
    fifo.wait()
    supervisor, runner, *_ = psutil.Process(fifo.pid).parents()
    assert supervisor.cmdline() == runner.cmdline()
    runner.kill()
    assert set(future.result(60)) == {"lost"}
    wait_gone(fifo.pid)
    assert beside(run_job, NodeSetup(**node.setup), node.spec("/bin/true")).result(60)["exit"] == 0
    (client,) = forget_clients(str(node.paths.submit_path))
    client.close()
    assert len(node.paths.node_journals()) == 1, "the next runner goes on with the journal"


def test_runner_that_is_terminated_ends_its_jobs(node: Node) -> None:
    """SIGTERM to the runner ends its jobs first."""
    held, fifo = node.begin_held()
    node.process.terminate()
    result = held.result(60)
    assert "lost" in result or result["exit"] == 143
    wait_gone(fifo.pid, node.process.pid)


def test_terminal_does_not_reach_the_jobs(node: Node) -> None:
    """Ctrl-C, and a terminal that closes, are for the driver to answer, and not for the runner."""
    node.run("/bin/true")
    assert os.getsid(node.process.pid) == node.process.pid
    for number in (signal.SIGINT, signal.SIGHUP):
        node.process.send_signal(number)
    assert node.run("/bin/true")["exit"] == 0


def test_one_runner_for_all_jobs_of_a_process(node: Node) -> None:
    """The first job starts the runner, and later ones use it; a kill goes to it."""
    parents = set()
    for _ in range(3):
        beside(run_job, NodeSetup(**node.setup), node.spec("/bin/bash", "-c", "ps -o ppid= $PPID")).result(60)
        parents.add(node.out())
    assert len(parents) == 1
    kill_jobs(str(node.paths.submit_path), 0.0, 100)
    assert "lost" in beside(run_job, NodeSetup(**node.setup), node.spec("/bin/true")).result(60)
    (client,) = forget_clients(str(node.paths.submit_path))
    client.close()
    assert forget_clients(str(node.paths.submit_path)) == []


def test_damaged_environment_leaves_no_process(node: Node) -> None:
    """A runner that cannot be told what jobs get is not left behind."""
    node.paths.environment.write_text("{")
    before = set(psutil.Process().children())
    with pytest.raises(ValueError, match="line 1"):
        RunnerClient(NodeSetup(**node.setup))
    assert set(psutil.Process().children()) <= before
    gc.collect()  # What was not closed is said now, in this test.


def test_client_that_was_closed_runs_nothing(node: Node) -> None:
    """A job that comes too late is lost, and nobody waits for it."""
    node.run("/bin/true")
    node.close()
    assert set(node.begin("/bin/true").result(60)) == {"lost"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("<ENV:A>", "1"),
        ("x<ENV:A>y<ENV:B>", "x1y2 <ENV:A>"),
        ("<ENV:A/b>", "1/b"),
        ("<ENV:A.b>", "1.b"),
        ("<ENV:NONE>", ""),
        ("<ENV:5>", "$5"),
        ("<ENV:>", "$"),
        ("<ENV:A", "<ENV:A"),
    ],
)
def test_expand(text: str, expanded: str) -> None:
    """BPS's placeholder is the variable's value, and what BPS took for one comes out as it was."""
    assert expand(text, {"A": "1", "B": "2 <ENV:A>"}) == expanded
