# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: E501  # Each prefix is a line of its table.
"""Jobs that a fork server starts, with a command prefix, with an environment of their own, and when one of
the processes is killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from node.test_runner import Fifo, Result, wait_gone
from support.warm import Sides, check_same, made, wait_until

__all__ = ["made"]

JOBS = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "search" else 2_000


# The command prefix.

SAY = """
import os, resource, signal, sys
print(sorted((k, v) for k, v in os.environ.items() if k != "_"), os.getcwd(), os.umask(0), sys.argv[1:])
print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE), os.nice(0))
print([repr(signal.getsignal(s)) for s in sorted(signal.valid_signals()) if s < 32], file=sys.stderr)
print(os.readlink("/proc/self/fd/0"), sys.stdin.read())
"""

WARM_PREFIXES = {
    "variables": "export A=1 B='two words' C=$'x\\ny'; D=4; unset HOME",
    "path": 'export PATH="/x:$PATH" PYTHONPATH=/y',
    "cwd": "cd /",
    "umask and limits": "umask 077; ulimit -n 100; ulimit -c 0",
    "output": "echo out; echo err >&2; printf 'no end'",
    "much output": "head -c 300000 /dev/zero | tr '\\0' x",
    "false": "false",
    "shell options": "set -euf -o pipefail; shopt -s extglob",
    "ignored signals": "trap '' HUP USR1",
    "arguments": "set -- x y z; shift",
    "own variable": "export BPS_OWN=${BPS_PARSL_OTHER:-none}",
    "child": "sleep 0.01 &",
    "function": "f() { echo f; }; export -f f",
    "command variable": "bps_command_x=1; readonly Y=2; declare -A Z=([a]=b)",
    "shlvl": "export SHLVL=7",
    "time": "export NOW=fixed; TMPFILE=$(mktemp -u) ",
    "comment": "# nothing",
    "unused trap": "trap 'echo never' USR1",
    "child that stays": "sleep 100 > /dev/null 2>&1 &",
    "nice": "renice -n 3 -p $$ > /dev/null",
}  # fmt: skip


@pytest.mark.some(5)
@pytest.mark.parametrize("prefix", WARM_PREFIXES.values(), ids=WARM_PREFIXES)
def test_prefix(made: Callable[..., Sides], prefix: str) -> None:
    """What the command prefix sets and says is in each job's process and log."""
    sides = made(prefix)
    sides.same(sides.script(SAY), "a b", "$x")


COLD_PREFIXES = {
    "fails": "echo out; exit 3",
    "set -e": "set -e; false",
    "trap": "trap 'echo trapped $?' EXIT",
    "redirects": "exec > other.log 2>&1",
    "redirects stderr": "exec 2> /dev/null",
    "merges": "exec 2>&1",
    "function": "script() { echo instead; }",
    "alias of path": "python3() { echo instead; }; export -f python3",
    "job": "export OUT=$BPS_PARSL_JOB; echo $BPS_PARSL_JOB",
    "syntax": "if",
    "becomes": "exec /bin/echo instead",
    "input": "exec < /etc/hostname",
    "descriptor": "exec 7> seven.log",
    "kill": "kill -TERM $$",
    "temporary": "export TMPDIR=$(mktemp -d -p .)",
    "background output": "(sleep 60; echo late) &",
    "debug trap": "trap 'echo debug' DEBUG",
    "return trap": "trap 'echo err' ERR",
    "pid": "export SHELL_PID=$$; echo x",
}  # fmt: skip


@pytest.mark.some(6)
@pytest.mark.parametrize("prefix", COLD_PREFIXES.values(), ids=COLD_PREFIXES)
@pytest.mark.parametrize("by_path", [False, True])
def test_prefix_that_only_bash_can_run(made: Callable[..., Sides], prefix: str, by_path: bool) -> None:
    """A prefix that does more than a fork can repeat has the same effect, however the job is started."""
    sides = made(prefix)
    code = (
        "import os, sys\nprint(sys.argv[1:], os.environ.get('OUT'), sys.stdin.read(), flush=True)\n"
        "print('err', file=sys.stderr)\nsys.exit(int(sys.argv[1]))"
    )
    path = sides.script(code)
    sides.environment({**os.environ, "PATH": f"{sides.bin}:{os.environ['PATH']}"}, prefix)
    for number, exit in (("0", "0"), ("1", "4")):
        env = {"BPS_PARSL_JOB": f"job{number}"}
        cold = sides.run_cold(path if by_path else "script", exit, env=env)
        result = sides.run(path if by_path else "script", exit, env=env)
        check_same(sides.outcome(result, sides._number), cold)


# The job's own environment.


def test_environment_of_a_job(made: Callable[..., Sides], tmp_path: Path) -> None:
    """Variables of one job are its own, also those that Python and the loader read at the start."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which.py").write_text(f"NAME = '{name}'\n")
    sides = made()
    code = (
        "import os, sys, tempfile\ntry:\n    import which\nexcept ImportError:\n    which = None\n"
        "print(which and which.NAME, sys.path, tempfile.gettempdir(), sys.flags, sys.stdout.encoding, hash('a') if sys.flags.hash_randomization == 0 else 0)\n"
        "print(sorted((k, v) for k, v in os.environ.items() if k != '_'), flush=True)\nos.system('env | grep -v ^_= | sort')"
    )
    script = sides.script(code)
    environments: list[dict[str, str]] = [
        {},
        {"PYTHONPATH": str(tmp_path / "one")},
        {"PYTHONPATH": str(tmp_path / "two"), "TMPDIR": str(tmp_path)},
        {"TMPDIR": str(tmp_path)},
        {"BPS_PARSL_JOB": "a", "BPS_PARSL_ATTEMPT": "2", "CORES": "3"},
        {"LD_LIBRARY_PATH": "/x", "OMP_NUM_THREADS": "1"},
        {"PYTHONHASHSEED": "0"},
        {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "latin-1"},
        {"PYTHONINSPECT": ""},
        {"TZ": "Asia/Tokyo", "LC_ALL": "C"},
    ]
    for _ in range(2):
        for env in environments:
            cold = sides.run_cold(script, env=env)
            result = sides.run(script, env=env)
            check_same(sides.outcome(result, sides._number), cold)


def test_logs_of_attempts(made: Callable[..., Sides]) -> None:
    """Both ways, an attempt adds to the log of the one before, after a line that says so."""
    sides = made()
    script = sides.script(
        "import sys\nfor n in range(50_000): print(n, file=sys.stderr if n % 3 else sys.stdout)\n"
    )
    logs = []
    for job, client in ((1000, sides.client), (1001, sides.cold)):
        for attempt in (1, 2, 3):
            assert client.run(sides.spec(script, job=job, a=attempt))["exit"] == 0
        logs.append((sides.out(job), sides.err(job)))
    assert logs[0] == logs[1]
    assert logs[0][1].count("---- attempt") == 2


# Processes that end.

HOLD = """
import os, signal, sys
print("begun")
sys.stdout.flush()
child = os.fork()
if not child:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pause()
with open(sys.argv[1], "w") as said: said.write(f"{os.getpid()} {os.getppid()} {child}")
open(sys.argv[2]).read(1)
"""


def hold(sides: Sides) -> tuple[Future[Result], Fifo, list[int]]:
    """Run a job that waits; return its future, where it waits, and the pids of it, its supervisor and child."""
    fifo = sides.fifo()
    script = sides.script(HOLD, "hold")
    future = sides.begin(script, str(fifo.said), str(fifo.told))
    text = os.read(fifo._said, 100)
    return future, fifo, [int(pid) for pid in text.split()]


def test_fork_server_that_is_killed(made: Callable[..., Sides]) -> None:
    """Running jobs go on, later ones get a new server, and after its third end start cold with one note."""
    sides = made()
    script = sides.script("print('x')")
    notes = []
    for number in range(3):
        future, fifo, pids = hold(sides)
        (server,) = sides.servers()
        server.kill()
        wait_gone(server.pid)
        fifo.release()
        result = future.result(60)
        assert (result["exit"], result.get("lost")) == (0, None)
        wait_gone(*pids)
        results = [sides.run(script) for _ in range(3)]
        assert [result["exit"] for result in results] == [0] * 3
        assert [result.get("warm") for result in results] == [True if number < 2 else None] * 3
        notes += [result["note"] for result in [result, *results] if "note" in result]
    assert len(notes) == 1
    assert "without preloaded modules" in notes[0]


def test_requests_to_a_server_that_is_killed(made: Callable[..., Sides]) -> None:
    """Of many jobs none fails, and each runs once to its end, while their server is killed again and again."""
    sides = made()
    script = sides.script("import os, sys\nos.write(1, b'x')\n")
    sides.run_warm(script)
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.05):
            with suppress(psutil.Error):
                for server in sides.servers():
                    server.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    futures = [sides.begin(script) for _ in range(100)]
    numbers = range(sides._number - 99, sides._number + 1)
    results = [future.result(60) for future in futures]
    done.set()
    killer.join()
    assert {result.get("exit", "lost") for result in results} <= {0, "lost"}
    assert {
        sides.out(number) for number, result in zip(numbers, results, strict=True) if "lost" not in result
    } == {"x"}


def test_server_that_stops(made: Callable[..., Sides]) -> None:
    """Jobs of a server that is stopped are not lost when it goes on."""
    sides = made()
    script = sides.script("print('x')")
    sides.run_warm(script)
    (server,) = sides.servers()
    server.suspend()
    futures = [sides.begin(script) for _ in range(5)]
    server.resume()
    assert [future.result(60)["exit"] for future in futures] == [0] * 5


@pytest.mark.parametrize("warm", [True, False])
def test_supervisor_that_is_killed(made: Callable[..., Sides], warm: bool) -> None:
    """The job is lost, and gone with what it has started; others go on."""
    sides = made()
    sides.setup["warm"] = warm
    other, other_fifo, _ = hold(sides)
    future, _, (pid, supervisor, child) = hold(sides)
    os.kill(supervisor, signal.SIGKILL)
    assert set(future.result(60)) == {"lost"}
    wait_gone(pid, supervisor, child)
    other_fifo.release()
    assert other.result(60)["exit"] == 0


def test_supervisor_and_server_that_are_killed(made: Callable[..., Sides]) -> None:
    """Where the server has ended before, the supervisor of one job is still not another's affair."""
    sides = made()
    other, other_fifo, _ = hold(sides)
    future, _, (pid, supervisor, child) = hold(sides)
    (server,) = sides.servers()
    server.kill()
    wait_gone(server.pid)
    os.kill(supervisor, signal.SIGKILL)
    assert set(future.result(60)) == {"lost"}
    wait_gone(pid, supervisor, child)
    other_fifo.release()
    assert other.result(60).get("exit") == 0


@pytest.mark.parametrize("warm", [True, False])
def test_runner_that_is_killed(made: Callable[..., Sides], warm: bool) -> None:
    """Its jobs are lost, and gone, and so are the fork server and the supervisors."""
    sides = made()
    sides.setup["warm"] = warm
    future, _, pids = hold(sides)
    servers = sides.servers()
    assert len(servers) == warm
    sides.runner().kill()
    assert set(future.result(60)) == {"lost"}
    wait_gone(*pids, *[server.pid for server in servers])


@pytest.mark.parametrize("warm", [True, False])
def test_job_that_is_killed_or_cancelled(made: Callable[..., Sides], warm: bool) -> None:
    """A kill of the job alone is its own; a cancelled job is ended with its children."""
    sides = made()
    sides.setup["warm"] = warm
    future, _, (pid, supervisor, child) = hold(sides)
    os.kill(pid, signal.SIGKILL)
    assert future.result(60)["exit"] == 137
    wait_gone(pid, supervisor, child)
    future, _, pids = hold(sides)
    sides.client.kill(5.0, 99)
    assert future.result(60)["exit"] == 143
    wait_gone(*pids)


DAEMON = """
import os, signal, sys
told = os.open(sys.argv[2], os.O_RDWR)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(100):
            if number != told:
                try: os.close(number)
                except OSError: pass
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
        os.chdir("/")
        said = os.open(sys.argv[1], os.O_RDWR)
        os.write(said, str(os.getpid()).encode())
        while True: signal.pause()
    os._exit(0)
os.wait()
os.read(told, 1)
"""


def test_daemon_ends_with_its_job(made: Callable[..., Sides]) -> None:
    """A process that has a session of its own, closed all files and ignores signals ends with its job."""
    sides = made()
    script = sides.script(DAEMON, "daemon")
    for client in (sides.client, sides.cold):
        fifo = sides.fifo()
        with ThreadPoolExecutor() as pool:
            future = pool.submit(client.run, sides.spec(script, str(fifo.said), str(fifo.told)))
            fifo.wait()
            fifo.release()
            assert future.result(60)["exit"] == 0
        wait_gone(fifo.pid)


def test_server_that_cannot_start(made: Callable[..., Sides], tmp_path: Path) -> None:
    """Where the interpreter of the server cannot be started, jobs run cold, and that is noted once."""
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif '-c' in sys.orig_argv: os._exit(1)\n")
    sides = made(PYTHONPATH=str(tmp_path))
    script = sides.script("print('x')")
    results = [sides.run(script) for _ in range(3)]
    assert [(result["exit"], result.get("warm")) for result in results] == [(0, None)] * 3
    assert len([result for result in results if "note" in result]) == 1


@pytest.mark.slow
def test_many_quick_jobs_leave_nothing(
    made: Callable[..., Sides], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of jobs (10,000 with HYPOTHESIS_PROFILE=search) leave no descriptor, process or file."""
    own = tmp_path / "tmp"
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))  # Also the runner's own, and that of its fork server.
    sides = made(TMPDIR=str(own))
    script = sides.script("import json, tempfile\nprint(len(tempfile.mkdtemp.__name__))\n")
    sides.teach("json", "tempfile")

    def state() -> Any:
        (server,) = sides.servers()
        return server.pid, server.num_fds(), sides.runner().num_fds(), sides.runner().children() == [server]

    wait_until(lambda: state()[-1])
    before = state()
    with ThreadPoolExecutor(8) as pool:
        specs = [sides.spec(script) for _ in range(JOBS)]
        results = list(pool.map(sides.client.run, specs))
    assert {(result["exit"], result.get("warm")) for result in results} == {(0, True)}
    wait_until(lambda: state() == before)
    assert list(own.iterdir()) == []
