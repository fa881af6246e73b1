# SPDX-License-Identifier: BSD-3-Clause
"""What is measured of a job, what it may have, and that all of it ends: real processes throughout."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from lsst.ctrl.bps.parsl.driver.retry import decide
from lsst.ctrl.bps.parsl.node import supervisor
from lsst.ctrl.bps.parsl.run.journal import read_journal
from node.test_runner import DRIVER, Node, Result, is_alive, wait_gone
from node.test_runner import node as node  # a fixture
from package.test_workflow import logs, make_job, prepare

WORK = """\
import fcntl, os, signal, sys, termios, time

def wait(*pids):
    for pid in pids:
        os.waitpid(pid, 0)

def fork(function, *arguments):
    pid = os.fork()
    if pid:
        return pid
    function(*arguments)
    sys.stdout.flush()
    os._exit(0)

def daemon(function, *arguments):
    # In a session of its own, and nobody's child.
    read, write = os.pipe()
    def middle():
        os.setsid()
        fork(function, *arguments)
    wait(fork(middle))
    os.close(write)
    return read

touched = os.pipe()

def touch(mb, seconds, together=1):
    data = b"x" * (mb << 20)
    print(time.time(), flush=True)
    os.write(touched[1], b"x")
    # From now on, all of them have it.
    while int.from_bytes(fcntl.ioctl(touched[0], termios.FIONREAD, bytes(4)), sys.byteorder) < together:
        time.sleep(0.01)
    time.sleep(seconds)

def burn(seconds):
    while time.process_time() < seconds:
        pass

shape, amount, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
mb = int(amount)
print(time.process_time(), flush=True)
if shape == "one":
    touch(mb, seconds)
elif shape == "stubborn":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    touch(mb, seconds)
elif shape == "child":
    wait(fork(touch, mb, seconds))
elif shape == "grandchild":
    wait(fork(lambda: wait(fork(touch, mb, seconds))))
elif shape == "daemon":
    os.read(daemon(touch, mb, seconds), 1)
elif shape == "three":
    children = [fork(touch, mb, seconds, 3) for _ in range(2)]
    touch(mb, seconds, 3)
    wait(*children)
elif shape == "three in a row":
    last = lambda: (fork(touch, mb, seconds, 3), touch(mb, seconds, 3))
    wait(fork(lambda: (fork(last), touch(mb, seconds, 3))))
elif shape == "burn":
    burn(amount)
elif shape == "burn in child":
    wait(fork(burn, amount))
elif shape == "burn in daemon":
    os.read(daemon(burn, amount), 1)
elif shape == "burn in daemon that stays":
    read, write = os.pipe()
    def stay():
        burn(amount)
        os.write(write, b"x")
        time.sleep(100)
    daemon(stay)
    os.read(read, 1)
"""
"""A job of one or several processes: its shape, MB or seconds of CPU time, and how long it stays. It prints
what its start took of CPU time, and when a process has its memory.
"""


def work(node: Node, *arguments: object, **more: Any) -> Future[Result]:
    """Begin a job with `WORK`; by its first line, it can be started warm."""
    script = node.cwd / "work.py"
    if not script.exists():
        script.write_text(f"#!{sys.executable}\n{WORK}")
        script.chmod(0o755)
    return node.begin(str(script), *map(str, arguments), **more)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    """Wait for what other processes do; tell whether it has come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


# What is measured.


@pytest.mark.some(3)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize(
    ("shape", "amount", "seconds", "expected"),
    [
        ("one", 200, 0.01, 200),
        ("child", 200, 0.01, 200),
        ("grandchild", 200, 0.01, 200),
        ("daemon", 200, 0.01, 200),
        ("three", 100, 2, 300),
        ("three in a row", 100, 2, 300),
    ],
)
def test_peak_memory(node: Node, warm: bool, shape: str, amount: int, seconds: float, expected: int) -> None:
    """What a job of one process has for an instant is known from the kernel, also where it is not the
    first one; what several have together is seen when they have it for two seconds.
    """
    node.setup["warm"] = warm
    result = work(node, shape, amount, seconds).result(60)
    assert result["exit"] == 0, node.err()
    assert result.get("warm", False) == warm
    assert 0.9 * expected <= result["memory"] <= 1.1 * expected
    *_, end = node.events()
    assert end["memory"] == result["memory"]


@pytest.mark.some(2)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("shape", ["burn", "burn in child", "burn in daemon", "burn in daemon that stays"])
def test_cpu_time(node: Node, warm: bool, shape: str) -> None:
    """The CPU time of all processes of a job counts: of those that nobody of the job waited for, and of
    those that were still there at its end.
    """
    node.setup["warm"] = warm
    result = work(node, shape, 0.4, 0).result(60)
    assert result["exit"] == 0, node.err()
    assert result.get("warm", False) == warm
    # How much Python takes to begin depends on the machine.
    assert result["cpu"] >= 0.4
    assert result["cpu"] - float(node.out()) <= 0.75
    *_, end = node.events()
    assert end["cpu"] == result["cpu"]


def test_wall_time_and_host(node: Node) -> None:
    """Start and end are when they were, and the journal says on which host."""
    before = time.time()
    result = node.run("/bin/sleep", "0.3")
    after = time.time()
    assert before - 0.01 <= result["start"] <= result["end"] <= after + 0.01
    assert 0.2 <= result["end"] - result["start"] <= after - before
    (path,) = node.paths.node_journals()
    assert json.loads(path.read_text().splitlines()[0])["host"] == socket.gethostname()
    start, end = node.events()
    assert (start["t"], end["start"], end["end"]) == (result["start"], result["start"], result["end"])


def test_small_job_is_not_as_large_as_its_runner(node: Node) -> None:
    """A job of 2 MB is not said to have much: of less than 10 MB the kernel tells what its supervisor had."""
    result = node.run("/bin/true")
    assert 0 < result["memory"] <= 16
    assert result["cpu"] < 0.5


# What a job may have.


@pytest.mark.some(3)
@pytest.mark.parametrize(
    ("shape", "amount", "warm"),
    [
        ("one", 150, False),
        ("one", 150, True),
        ("stubborn", 150, False),
        ("grandchild", 150, False),
        ("daemon", 150, False),
        ("daemon", 150, True),
        ("three", 50, False),
        ("three", 50, True),
        ("three in a row", 50, False),
    ],
)
def test_job_over_its_request_is_ended(node: Node, shape: str, amount: int, warm: bool) -> None:
    """Soon after it passed its request, a job is ended, whatever it does about signals; the
    reason is in the result and in its log; the next attempt has more. Its neighbour goes on.
    """
    node.setup |= {"enforce": True, "warm": warm}
    neighbour, fifo = node.begin_held(memory=100)
    result = work(node, shape, amount, 100, memory=100).result(60)
    # On a slow machine it is ended before it has touched, and said, all; and only after a while.
    assert all(result["end"] - touched < 15 for touched in map(float, node.out().split()[1:]))
    assert result["exit"] == 137
    assert result.get("warm", False) == warm
    assert result["why"].endswith("MB of memory; it had asked for 100 MB")
    assert 100 < result["memory"] < 200
    assert result["why"] in node.err()
    assert "enforceMemory" in node.err()
    assert not neighbour.done()
    fifo.release()
    assert neighbour.result(60)["exit"] == 0
    fields = {"number_of_retries": 3, "memory_multiplier": 2.0}
    decision = decide(fields, result, failures=0, losses=0, memory=100)
    assert (decision.retry, decision.charged, decision.memory) == (True, True, 200)
    assert result["why"] in decision.why
    ends = [event for event in node.events() if event["e"] == "end" and event["exit"]]
    assert [(event["exit"], event["why"]) for event in ends] == [(137, result["why"])]


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("enforce", "amount", "memory"),
    [(True, 60, 100), (False, 150, 100), (None, 150, 100), (True, 150, 0)],
    ids=["below its request", "not enforced", "not said", "no request"],
)
@pytest.mark.parametrize("shape", ["one", "child"])
def test_job_is_left_alone(node: Node, shape: str, enforce: bool | None, amount: int, memory: int) -> None:
    """A job that keeps to its request, or has none, or is not held to it, is not ended."""
    node.setup["enforce"] = enforce
    result = work(node, shape, amount, 0.6, memory=memory).result(60)
    assert (result["exit"], result.get("why")) == (0, None)


@pytest.mark.some(1)
@pytest.mark.parametrize(
    ("amount", "requests"), [(60, []), (150, [200]), (250, [200, 400])], ids=["60 MB", "150 MB", "250 MB"]
)
def test_run_with_a_job_over_its_request(tmp_path: Path, amount: int, requests: list[int]) -> None:
    """From the site's ``enforceMemory`` to the next attempt: a job that asks for 100 MB is run again with
    twice as much, as often as it takes, and the run succeeds.
    """
    script = tmp_path / "work.py"
    script.write_text(WORK)
    # Each attempt that is over its request stays until that is seen.
    stays = f"$((BPS_PARSL_ATTEMPT <= {len(requests)} ? 100 : 1))"
    command = f"/bin/bash -c '{sys.executable} -S {script} one {amount} {stays}'"
    job = make_job("a", command, request_memory=100, memory_multiplier=2.0, number_of_retries=5)
    site = {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2, "enforceMemory": True}
    run = prepare(tmp_path, job, site={"here": site})
    run.run()
    failures = [event for event in read_journal(run.paths.driver_journal) if event["e"] == "fail"]
    assert [event["memory"] for event in failures] == requests
    assert all(event["exit"] == 137 and "it had asked for" in event["why"] for event in failures)
    ends = [event for path in run.paths.node_journals() for event in read_journal(path)]
    exits = [(event["a"], event["exit"]) for event in ends if event["e"] == "end"]
    assert exits == [(number + 1, 137) for number in range(len(requests))] + [(len(requests) + 1, 0)]
    assert logs(run)["a"]
    (log,) = run.paths.logs.rglob("*.stderr")
    assert log.read_text().count("(enforceMemory)") == len(requests)


# That all of it ends.

SLEEP = "/bin/sleep 1000"

LEFT_BEHIND = {
    "child": f"{SLEEP} &",
    "own session": f"setsid {SLEEP} &",
    "double fork": f"( {SLEEP} & )",
    "double fork in own session": f"( setsid bash -c '{SLEEP} & {SLEEP} & wait' & )",
    "ignores signals": f"( trap '' TERM INT HUP; setsid {SLEEP} & )",
    "stopped": "( setsid bash -c 'kill -STOP $$' & )",
    "a hundred": f"for ((n = 0; n < 50; n++)); do setsid {SLEEP} & ( {SLEEP} & ); done",
    "own groups": f"set -m; {SLEEP} & ( {SLEEP} & ) & set +m",
}
"""What jobs start and do not wait for."""

left_behind = pytest.mark.parametrize("kind", LEFT_BEHIND)


def is_left(node: Node) -> list[psutil.Process]:
    """Return the processes of a node's jobs: all but the runner and its forks, the supervisors."""
    runner = node.client.process
    assert runner is not None
    own = psutil.Process(runner.pid).cmdline()
    return [process for process in node.left() if is_alive(process) and command(process) not in (own, [])]


def command(process: psutil.Process) -> list[str]:
    """Return a process's command line; nothing where it has ended."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def check_nobody_left(node: Node, seconds: float) -> None:
    """Check that all processes of the jobs are gone; end those that are not."""
    wait_until(lambda: not is_left(node), seconds)
    left = is_left(node)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    assert left == []


@pytest.mark.some(6)
@left_behind
@pytest.mark.parametrize("end", ["exit 0", "exit 3", "kill -KILL $$"])
def test_what_a_job_has_started_ends_with_it(node: Node, kind: str, end: str) -> None:
    """Whatever a job leaves behind is gone when its end is known: nobody has to wait for that."""
    node.run("/bin/true")
    result = node.run("/bin/bash", "-c", f"{{ {LEFT_BEHIND[kind]}\n }} > /dev/null 2>&1; {end}")
    assert is_left(node) == []
    assert result["exit"] == {"exit 0": 0, "exit 3": 3}.get(end, 137)


@pytest.mark.some(2)
@left_behind
def test_job_that_is_killed_ends_with_all_that_it_has_started(node: Node, kind: str) -> None:
    """SIGKILL after the time that was given reaches every process of the job, wherever it has gone."""
    held, _ = node.begin_held(f"trap '' TERM\n{{ {LEFT_BEHIND[kind]}\n }} > /dev/null 2>&1")
    node.client.kill(0.1, 100)
    assert held.result(60)["exit"] == 137
    assert is_left(node) == []


@pytest.mark.parametrize("code", ["", "trap '' TERM"], ids=["ends", "ignores SIGTERM"])
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_stopped_job_is_killed(node: Node, code: str, group: bool) -> None:
    """A job that somebody stopped, alone or with its group, is ended by a kill request."""
    held, fifo = node.begin_held(f"{code}\n{SLEEP} &")
    if group:
        os.killpg(fifo.pid, signal.SIGSTOP)
    else:
        os.kill(fifo.pid, signal.SIGSTOP)
    node.client.kill(0.3 if code else 60.0, 100)
    assert held.result(60)["exit"] == (137 if code else 143)
    assert is_left(node) == []


def supervisor_of(runner: psutil.Process) -> psutil.Process:
    """Wait for a supervisor: a fork of the runner."""
    found: list[psutil.Process] = []
    own = runner.cmdline()

    def look() -> bool:
        found.extend(child for child in runner.children() if command(child) == own and is_alive(child))
        return bool(found)

    assert wait_until(look)
    return found[0]


@pytest.mark.some(1)
@pytest.mark.parametrize("kind", ["child", "own session", "double fork", "double fork in own session"])
def test_supervisor_that_is_killed(node: Node, kind: str) -> None:
    """Whenever a supervisor is killed, its job is lost, and all of it gone; the runner goes on."""
    rng = random.Random(kind)
    assert node.run("/bin/true")["exit"] == 0
    assert node.client.process is not None
    runner = psutil.Process(node.client.process.pid)
    for trial in range(12):
        fifo = node.fifo()
        assert wait_until(lambda: not any(map(is_alive, runner.children()))), "the one before ends"
        # Sometimes in the middle of its start, sometimes beside a job that is all there.
        code = f"{{ {LEFT_BEHIND[kind]}\n }} > /dev/null 2>&1; echo $$ > {fifo.said}; {SLEEP}"
        future = node.begin(script=code)
        found = supervisor_of(runner)
        if trial % 2:
            fifo.wait()
        else:
            time.sleep(rng.uniform(0, 0.01))
        found.kill()
        assert set(future.result(60)) == {"lost"}
        check_nobody_left(node, 20.0)
    assert node.run("/bin/true")["exit"] == 0


def test_two_supervisors_that_are_killed(node: Node) -> None:
    """Of several jobs, exactly those are lost whose supervisors were killed."""
    held = [node.begin_held(f"setsid {SLEEP} > /dev/null 2>&1 &") for _ in range(4)]
    for _, fifo in held[:2]:
        found = psutil.Process(fifo.pid).parent()
        assert found is not None
        found.kill()
    assert all(set(future.result(60)) == {"lost"} for future, _ in held[:2])
    wait_gone(*(fifo.pid for _, fifo in held[:2]))
    for future, fifo in held[2:]:
        fifo.release()
        assert future.result(60)["exit"] == 0
    check_nobody_left(node, 20.0)


@pytest.mark.some(2)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@left_behind
def test_runner_that_is_killed_with_its_driver(node: Node, kind: str, warm: bool) -> None:
    """Without a runner, and with nobody who could look for what it left, jobs, supervisors and fork
    servers are gone soon.
    """
    fifo = node.fifo()
    code = f"{{ {LEFT_BEHIND[kind]}\n }} > /dev/null 2>&1; echo $$ > {fifo.said}; trap '' TERM; {SLEEP}"
    if warm:
        script = node.cwd / "job.py"
        script.write_text(
            f"#!{sys.executable}\nimport subprocess, sys\nsubprocess.run(['/bin/bash', '-c', sys.argv[1]])\n"
        )
        script.chmod(0o755)
        spec = node.spec(str(script), code)
    else:
        spec = node.spec(script=code)
    command = [sys.executable, "-c", DRIVER, json.dumps([{**node.setup, "warm": warm}, spec])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        runner = int(driver.stdout.readline())
        fifo.wait()
        driver.kill()
        os.kill(runner, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, node.left())))
    assert [process for process in node.left() if is_alive(process)] == []


def test_supervisors_say_nothing(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing of a job's start and end is written to where the runner's errors go: a terminal."""
    futures = [node.begin("/bin/true") for _ in range(200)]
    assert all(future.result(60)["exit"] == 0 for future in futures)
    node.close()
    assert capfd.readouterr() == ("", "")


LAST_WORDS = """\
import os, signal, sys, time

def end(*_):
    time.sleep(0.3)  # What it takes to write them.
    print("last words", flush=True)
    sys.exit(3)

signal.signal(signal.SIGTERM, end)
with open(sys.argv[1], "w") as said:
    print(os.getpid(), file=said)
while True:
    time.sleep(0.2)  # A signal that comes just before is heard after it.
"""
"""A command that writes something when it is asked to end."""

AROUND = {
    "script": ({}, "{}"),
    "script that goes on": ({}, "{}; echo next"),
    "subshell": ({}, "( {}; echo next )"),
    "pipeline": ({}, "{} | (trap '' TERM; cat)"),
    "before and after": ({"pre": "echo before", "post": "echo after"}, "{}"),
    "subshell, before and after": ({"pre": "echo before", "post": "echo after"}, "echo a; {}; echo next"),
}


@pytest.mark.some(3)
@pytest.mark.parametrize("how", ["runner", "node"])
@pytest.mark.parametrize(("more", "line"), AROUND.values(), ids=AROUND)
def test_last_words(node: Node, more: dict[str, str], line: str, how: str) -> None:
    """Whatever shell is around a command, it has its time after SIGTERM, before what comes after it; what
    would be next is not begun, and the exit code is the shell's. So it is also where the whole node is asked.
    """
    script = node.cwd / "last.py"
    script.write_text(LAST_WORDS)
    fifo = node.fifo()
    held = node.begin(script=line.format(f"{sys.executable} {script} {fifo.said}"), **more)
    fifo.wait()
    if how == "runner":
        node.client.kill(100.0, 100)
    else:
        for process in is_left(node):
            with suppress(psutil.NoSuchProcess):  # It ended with the one before.
                process.terminate()
    result = held.result(60)
    before, after = ["before"] * bool(more), ["after"] * bool(more)
    assert [word for word in node.out().split("\n") if word not in ("a", "")] == [
        *before,
        "last words",
        *after,
    ]
    assert result["exit"] == 143
    assert result["end"] - result["start"] < 60


def test_group_that_ignores_a_request_is_killed(node: Node) -> None:
    """What stays in a job's group after SIGTERM is killed when its time is over, and what left it at once."""
    held, _ = node.begin_held(f"trap '' TERM; {SLEEP} & trap - TERM")
    begun = time.monotonic()
    node.client.kill(1.0, 1)
    assert held.result(60)["exit"] == 143
    assert time.monotonic() - begun >= 1.0
    assert is_left(node) == []
    held, _ = node.begin_held(f"setsid {SLEEP} &")
    begun = time.monotonic()
    node.client.kill(100.0, 100)
    assert held.result(60)["exit"] == 143
    assert time.monotonic() - begun < 60.0


STUCK = """
import json, os, signal, socket, sys, time
sys.path.append(sys.argv[1])
from node import supervisor
supervisor.LONGEST_WAIT = 0.5
ours, theirs = socket.socketpair()

def begin():
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            os.write(write, b"x")
            time.sleep(100)
        os.read(read, 1)  # It has left the group, which is killed.
        os._exit(3)
    # From now on, no signal has an effect on what is left.
    supervisor.end_descendants = lambda pid: None
    return job

if os.fork() == 0:
    supervisor.supervise(theirs.detach(), begin)
theirs.close()
with ours.makefile() as stream:
    begun, ended = (json.loads(stream.readline()) for _ in range(2))
print(ended["exit"], len(ended["left"]))
for pid in ended["left"]:
    os.kill(pid, signal.SIGKILL)
"""


def test_process_that_cannot_be_ended() -> None:
    """A process that outlives SIGKILL, in uninterruptible sleep or another user's, does not keep the job."""
    directory = str(Path(supervisor.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", STUCK, directory], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("3 1\n", "")


AT_ONCE = """
import os, signal, socket, sys, time
sys.path.append(sys.argv[1])
from node import supervisor

wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
signal.signal(signal.SIGCHLD, lambda *_: None)
ours, theirs = socket.socketpair()
if os.fork() == 0:
    closerange, end = os.closerange, os.pipe()

    def late(low, high):
        # The job ends at the very moment when the files were closed.
        closerange(low, high)
        if high > 1000:
            os.kill(job, signal.SIGKILL)
            os.waitid(os.P_PID, job, os.WEXITED | os.WNOWAIT)

    os.closerange = late
    job = os.fork()
    if job == 0:
        time.sleep(100)
    supervisor.supervise(theirs.detach(), lambda: job)
theirs.close()
while data := ours.recv(1000):
    print(data.decode(), end="")
os.wait()
"""


def test_job_that_ends_while_its_supervisor_prepares_itself() -> None:
    """A job may end at any moment: its supervisor has no complaint, and tells of it."""
    directory = str(Path(supervisor.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", AT_ONCE, directory], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [message.get("exit") for message in said] == [None, 137]
    assert done.stderr == ""
