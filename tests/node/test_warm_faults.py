# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong between a runner and its fork servers, and what it costs: one job at most."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from lsst.ctrl.bps.parsl.node.jobs import Job
from node.test_runner import Result, beside
from support.warm import Sides, made, wait_until

__all__ = ["made"]


@pytest.mark.some(5)
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
@pytest.mark.parametrize(
    "change",
    [
        {"argv": ["a\0b"]},
        {"argv": ["/a\0b"]},
        {"argv": ["", "a\0b"]},
        {"argv": ["", "\ud800"]},
        {"env": {"A": "a\0b"}},
        {"env": {"A": "\ud800"}},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"env": {"TMPDIR": "a\0b"}},
        {"env": {"PATH": "/a\0b"}},
    ],
    ids=repr,
)
def test_what_no_process_can_be_given_ends_one_job(
    made: Callable[..., Sides], change: dict[str, Any], first: bool
) -> None:
    """A job with a NUL in it, or with a name that no variable can have, cannot start, as on the cold way; the
    runner and its other jobs go on.
    """
    sides = made()
    script = sides.script("print(1)")
    if not first:
        assert sides.run_warm(script).out == "1\n"
    spec = {**sides.spec(script), **change}
    if not spec["argv"][0]:
        spec["argv"] = [script, *spec["argv"][1:]]
    warm, cold = (beside(client.run, dict(spec)).result(60) for client in (sides.client, sides.cold))
    assert (warm.get("exit"), warm.get("why")) == (126, cold["why"])
    assert sides.run_warm(script).out == "1\n"


def write_modules(directory: Path, number: int, code: str = "") -> list[str]:
    """Make many modules with long paths; return their names, of which the last one has code."""
    for name in ("package" * 5, "of_modules" * 10):
        directory /= name
        directory.mkdir(exist_ok=True)
        (directory / "__init__.py").touch()
    names = [f"module_{n:05}" for n in range(number)]
    for name in names:
        (directory / f"{name}.py").touch()
    (directory / f"{names[-1]}.py").write_text(code)
    return [f"{'package' * 5}.{'of_modules' * 10}.{name}" for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("code", ["", "print('imported')"], ids=["harmless", "one of them prints"])
def test_thousands_of_modules(made: Callable[..., Sides], tmp_path: Path, code: str) -> None:
    """A job that imports 5,000 modules, more than a socket has room for, teaches its fork server all of them;
    also where one of them must be left out, and the server is started again with the others.
    """
    library = tmp_path / "library"
    library.mkdir()
    names = write_modules(library, 5000, code)
    listed = tmp_path / "names"
    listed.write_text("\n".join(names))
    sides = made(PYTHONPATH=str(library))
    script = sides.script(
        f"""
        import importlib, sys
        names = open({str(listed)!r}).read().split()
        print(len([name for name in names if name in sys.modules]))
        for name in names: importlib.import_module(name)
        """
    )
    expected = "4999\nimported\n" if code else "5000\n"
    wait_until(lambda: sides.run_any(script).out == expected, 180)
    assert sides.run_warm(script).out == expected


def test_server_that_does_not_read(made: Callable[..., Sides]) -> None:
    """A fork server that is stopped, or busy, has only so many jobs waiting for it: the runner starts the
    others as new processes, and goes on.
    """
    sides = made()
    script = sides.script("print(1)")
    sides.run_warm(script)
    (server,) = sides.servers()
    server.suspend()
    try:
        futures = [sides.begin_sent(script) for _ in range(200)]
        assert sides.run("/bin/true")["exit"] == 0
    finally:
        server.resume()
    results = [future.result(60) for future in futures]
    assert {result["exit"] for result in results} == {0}
    assert 0 < sum("warm" in result for result in results) < 200


def test_supervisor_that_does_not_read() -> None:
    """A supervisor that is stopped can be told to end its job as often as need be: nobody waits for it."""
    job = object.__new__(Job)
    job._control, theirs = socket.socketpair()
    with job._control, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)

        def kill_often() -> Result:
            for _ in range(2000):
                job.kill()
            return {}

        assert beside(kill_often).result(60) == {}


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_log_without_room_leaves_nothing_open(made: Callable[..., Sides], warm: bool) -> None:
    """A job whose log cannot be written, not even its first line, leaves no file open in the runner."""
    sides = made()
    script = sides.script("print(1)")
    assert sides.run_warm(script).out == "1\n"
    command = script if warm else "/bin/true"
    before = sides.runner().num_fds()
    for _ in range(5):
        assert sides.run(command, a=2, stderr="/dev/full")["exit"] == 126
        assert sides.run(command, stderr="/dev/null/x")["exit"] == 126
    wait_until(lambda: sides.runner().num_fds() == before)


def test_supervisor_that_is_not_known_yet(made: Callable[..., Sides]) -> None:
    """A job that a fork server has begun in its last moment goes on, whatever is ended of another one.

    The kernel gives the runner the server's children, of which it has not heard: they are no remains of
    a job whose own supervisor was killed.
    """
    sides = made()
    script = sides.script(
        """
        import os, sys
        with open(sys.argv[1], "w") as said: print(os.getpid(), file=said)
        with open(sys.argv[2]) as told: told.readline()
        """
    )
    sides.run_warm(sides.script("print(1)", "other"))
    other, other_fifo = sides.begin_held()
    fifo = sides.fifo()
    (server,) = sides.servers()
    runner = sides.runner()
    server.suspend()
    future = sides.begin_sent(script, str(fifo.said), str(fifo.told))
    assert sides.run("/bin/true")["exit"] == 0  # The server was asked before.
    runner.suspend()
    supervisor = psutil.Process(other_fifo.pid).parent()
    assert supervisor is not None
    supervisor.kill()
    server.resume()
    fifo.wait()
    server.kill()
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    runner.resume()
    assert set(other.result(60)) == {"lost"}
    fifo.release()
    assert future.result(60).get("exit") == 0


HELD = """
import os, signal, sys, time
began = time.monotonic()
import large
touched = os.pipe()
children = []
for _ in range(2):
    if not (pid := os.fork()):
        children = None
        break
    children.append(pid)
x = b"x" * (50 << 20)
if children is None:
    os.write(touched[1], b"x")
    signal.pause()
for _ in range(2):
    os.read(touched[0], 1)
# It is looked at them all the less often, the longer they run.
time.sleep(1 + (time.monotonic() - began) / 5)
for child in children:
    os.kill(child, 9)
"""


@pytest.mark.parametrize("neighbours", [0, 3])
def test_memory_of_several_forked_processes(
    made: Callable[..., Sides], tmp_path: Path, neighbours: int
) -> None:
    """What the fork server has loaded counts once for a job, and in full, however many processes the job has,
    and however many other jobs were forked from there.
    """
    (tmp_path / "large.py").write_text("X = b'x' * (200 << 20)\n")
    sides = made(PYTHONPATH=str(tmp_path))
    sides.teach("large")
    held = []
    for _ in range(neighbours):
        fifo = sides.fifo()
        code = (
            "import os, sys\nprint(os.getpid(), file=open(sys.argv[1], 'w'))\nopen(sys.argv[2]).readline()\n"
        )
        held.append((sides.begin(sides.script(code, "held"), str(fifo.said), str(fifo.told)), fifo))
        fifo.wait()
    result = sides.run(sides.script(HELD, "several"))
    for future, fifo in held:
        fifo.release()
        assert future.result(60)["exit"] == 0
    assert result["warm"]
    assert 350 <= result["memory"] <= 400
