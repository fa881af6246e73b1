# SPDX-License-Identifier: BSD-3-Clause
"""Several processes of one pilot, which share a runner, and who else might want to."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import chdir, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lsst.ctrl.bps.parsl.node import client, listener
from lsst.ctrl.bps.parsl.node.listener import Listener, RunnerDirectory
from lsst.ctrl.bps.parsl.node.processes import start_time
from lsst.ctrl.bps.parsl.node.runner import GRACE
from node.test_runner import Fifo, Node, beside, check_never_more, wait_gone
from node.test_runner import node as node  # a fixture
from support.plans import umask

OTHER = 65534
"""Another account; nobody's."""

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can be another account as well: what others cannot do is not tried"
)

NODE_PACKAGE = str(Path(client.__file__).parents[1])

WORKER = """
import json, sys, threading, time
sys.path.append(sys.argv[1])
from node.client import _CLIENTS, client_for, forget_clients, run_job
from node.setup import NodeSetup
from node.listener import RunnerDirectory
RunnerDirectory.__init__.__kwdefaults__["base"] = sys.argv[2]

def run(message):
    while time.monotonic() < message.get("at", 0):
        pass
    try:
        task_worker = message["setup"].pop("worker", None)
        setup = NodeSetup(**message["setup"])
        if task_worker:
            client_for(setup, task_worker)
        result = run_job(setup, message["spec"])
        made = _CLIENTS[message["setup"]["submit_path"], message["setup"]["site"]]
        result["started"] = made.process.pid if made.process else None
    except BaseException as exc:
        result = {"error": repr(exc)}
    answer(message, result)

def answer(message, result):
    sys.stdout.write(json.dumps({"number": message["number"], "result": result}) + "\\n")
    sys.stdout.flush()

for line in sys.stdin:
    message = json.loads(line)
    if "forget" in message:
        for found in forget_clients(message["forget"]):
            found.close(message["timeout"])
        answer(message, {})
    else:
        threading.Thread(target=run, args=[message], daemon=True).start()
"""
"""A worker of Parsl's: it has jobs run, each in a thread, until its input ends."""


class Worker:
    """A process that asks for jobs, of this process's or of a parent of its own.

    Parameters
    ----------
    setup : `dict`
        What its clients get.
    base : `str`
        The directory of runners' directories.
    own_parent : `bool`, optional
        Whether a process of its own starts it: it is of another pilot.
    """

    def __init__(self, setup: dict[str, Any], base: str, own_parent: bool = False) -> None:
        self.setup = setup
        command = [sys.executable, "-c", WORKER, NODE_PACKAGE, base]
        if own_parent:
            command = ["/bin/bash", "-c", '"$@"; exit $?', "bash", *command]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._numbers = itertools.count()
        self._answers: dict[int, Future[dict[str, Any]]] = {}
        self._reader = beside(self._read)

    def ask(self, **message: Any) -> Future[dict[str, Any]]:
        """Have it do something."""
        assert self.process.stdin is not None
        number = next(self._numbers)
        self._answers[number] = Future()
        self.process.stdin.write(json.dumps({"number": number, "setup": self.setup, **message}) + "\n")
        self.process.stdin.flush()
        return self._answers[number]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                answer = json.loads(line)
                self._answers[answer["number"]].set_result(answer["result"])
        return {}

    def begin(self, spec: dict[str, Any], **more: Any) -> Future[dict[str, Any]]:
        """Begin a job."""
        return self.ask(spec=spec, **more)

    def run(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Run a job."""
        return self.begin(spec).result(60)

    def kill(self) -> None:
        """End it without notice."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(60)

    def join(self) -> None:
        """Wait until nobody has its output open: the runner that it started has it, too."""
        self._reader.result(60)


class Pilot:
    """A node, and workers on it. Runners of other tests, which may be running at the same time, and remove
    what killed ones left, are not there.
    """

    def __init__(self, node: Node, base: str) -> None:
        self.node = node
        self.base = base
        self.node.setup["shared"] = True
        self.workers: list[Worker] = []

    def worker(self, own_parent: bool = False, **change: Any) -> Worker:
        """Start a worker."""
        self.workers.append(Worker({**self.node.setup, **change}, self.base, own_parent))
        return self.workers[-1]

    def place(self, pid: int | None = None, **change: Any) -> RunnerDirectory:
        """Return where the workers of a parent meet; by default, of this process."""
        pid = os.getpid() if pid is None else pid
        setup = {**self.node.setup, **change}
        parts = setup["submit_path"], setup["site"], str(pid), str(start_time(pid))
        return RunnerDirectory(*parts, base=self.base)

    def who(self, **more: Any) -> dict[str, Any]:
        """Describe a job that prints its runner: what it is, and which one."""
        return self.node.spec("/bin/bash", "-c", 'ps -o ppid= $PPID; echo "$BPS_PARSL_RUNNER"', **more)

    def runner(self, worker: Worker) -> int:
        """Return the runner of a worker."""
        spec = self.who()
        assert worker.run(spec)["exit"] == 0
        return int(Path(spec["stdout"]).read_text().split()[0])

    def hold(self, worker: Worker, code: str = "", **more: Any) -> tuple[Future[dict[str, Any]], Fifo]:
        """Begin a job that waits."""
        fifo = self.node.fifo()
        script = f"{code}\necho $BASHPID > {fifo.said}\n{fifo.read}"
        future = worker.begin(self.node.spec(script=script, **more))
        fifo.wait()
        return future, fifo

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.close()
        while self.workers:
            self.workers.pop().join()


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for what other processes do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def wait_for_end(place: RunnerDirectory) -> None:
    """Wait until nothing is left of a place."""
    wait_until(lambda: not os.path.lexists(place.directory), "the runner ends, and its directory with it")


@pytest.fixture
def short() -> Iterator[str]:
    """Give a directory with a path that is short enough for a socket."""
    with TemporaryDirectory(dir="/tmp") as base:
        yield base


@pytest.fixture
def pilot(node: Node, short: str) -> Iterator[Pilot]:
    """Give a pilot; at its end no runner, no job and no directory is left."""
    os.chmod(short, 0o711)  # As open to other accounts as /tmp is.
    pilot = Pilot(node, short)
    yield pilot
    pilot.close()
    node.close()
    wait_until(lambda: not node.left(), f"no process is left: {node.left()}")
    left = Path(pilot.place().directory)
    found = [str(path) for path in (left, *left.glob("*")) if os.path.lexists(path)]
    shutil.rmtree(left, ignore_errors=True)
    assert found == []


# Who shares a runner.


@pytest.mark.parametrize("count", [2, 10])
def test_workers_share_a_runner(pilot: Pilot, count: int) -> None:
    """The workers of a pilot have one runner, whatever worker starts it, and nobody else can see it."""
    workers = [pilot.worker() for _ in range(count)]
    place = pilot.place()
    spec = [pilot.who() for _ in workers]
    futures = [worker.begin(one) for worker, one in zip(workers, spec, strict=True)]
    results = [future.result(60) for future in futures]
    assert [result.get("exit") for result in results] == [0] * count
    assert len({Path(one["stdout"]).read_text() for one in spec}) == 1
    assert len([result for result in results if result["started"]]) == 1
    assert len(pilot.node.paths.node_journals()) == 1
    assert stat.S_IMODE(os.stat(place.directory).st_mode) == 0o700
    assert os.stat(place.directory).st_uid == os.getuid()
    assert os.listdir(place.directory) == ["socket"]
    assert stat.S_ISSOCK(os.stat(place.path).st_mode)


def test_directory_is_closed_under_any_umask(pilot: Pilot) -> None:
    """Under umask 000, nobody else can open the directory either."""
    with umask(0):
        worker = pilot.worker()
    held, fifo = pilot.hold(worker)
    assert stat.S_IMODE(os.stat(pilot.place().directory).st_mode) == 0o700
    fifo.release()
    assert held.result(60)["exit"] == 0


@pytest.mark.parametrize("other", ["site", "parent"])
def test_others_have_a_runner_of_their_own(pilot: Pilot, other: str) -> None:
    """Workers of another site, or of another pilot, do not share it."""
    first = pilot.worker()
    second = pilot.worker(own_parent=other == "parent", **({"site": "other"} if other == "site" else {}))
    assert pilot.runner(first) == pilot.runner(first)
    assert pilot.runner(first) != pilot.runner(second)


def test_one_runner_for_those_that_begin_at_once(pilot: Pilot) -> None:
    """However close two workers' first jobs are, there is one runner, and nothing left of it."""
    workers = [pilot.worker() for _ in range(2)]
    for worker in workers:
        pilot.runner(worker)
    rng = random.Random(3)
    path = pilot.node.setup["submit_path"]
    for trial in range(50):
        setup = {**pilot.node.setup, "site": f"site {trial}"}
        place = pilot.place(site=setup["site"])
        specs = [pilot.who() for _ in workers]
        at = time.monotonic() + 0.005
        futures = [
            worker.begin(spec, setup=setup, at=at + rng.choice([0, 0, 0.001, 0.01]))
            for worker, spec in zip(workers, specs, strict=True)
        ]
        results = [future.result(60) for future in futures]
        assert [result.get("exit") for result in results] == [0, 0], results
        assert len({Path(spec["stdout"]).read_text() for spec in specs}) == 1
        assert len([result for result in results if result["started"]]) == 1
        for future in [worker.ask(forget=path, timeout=10) for worker in workers]:
            future.result(60)
        wait_for_end(place)


@pytest.mark.parametrize("what", ["cpus", "memory"])
def test_room_is_that_of_all_workers(pilot: Pilot, what: str) -> None:
    """What runs for all workers together stays within what the node has."""
    pilot.node.setup[what] = 4
    workers = [pilot.worker() for _ in range(4)]
    rng = random.Random(4)
    amounts = {number: rng.choice([1, 1, 2, 3, 4, 9]) for number in range(1, 41)}
    other = {"memory": 9999} if what == "cpus" else {"cpus": 9999}
    code = ["/bin/bash", "-c", "read -t 0.03 <> <(:)"]
    specs = [{**pilot.node.spec(*code, job=n), **other, what: amount} for n, amount in amounts.items()]
    futures = [worker.begin(spec) for spec, worker in zip(specs, itertools.cycle(workers), strict=False)]
    assert all("exit" in future.result(60) for future in futures)
    assert len(pilot.node.paths.node_journals()) == 1
    check_never_more(pilot.node, amounts, 4)


# Who ends, and what of it.


@pytest.mark.some(1)
@pytest.mark.parametrize("starter", [True, False], ids=["that started the runner", "that did not"])
@pytest.mark.parametrize("code", ["", "trap '' TERM"], ids=["jobs end", "jobs ignore SIGTERM"])
def test_worker_that_is_killed(pilot: Pilot, starter: bool, code: str) -> None:
    """Its jobs end, those that wait do not begin, and the room is the others', whose jobs go on."""
    pilot.node.setup["cpus"] = 2
    victim, other = pilot.worker(), pilot.worker()
    first, second = (victim, other) if starter else (other, victim)
    assert pilot.runner(first) == pilot.runner(second)
    _, lost = pilot.hold(victim, code + "\nsetsid sleep 100 > /dev/null &\n")
    held, fifo = pilot.hold(other)
    victim.begin(pilot.node.spec("/bin/touch", str(pilot.node.cwd / "begun"), priority=9))
    waiting = other.begin(pilot.node.spec("/bin/true"))
    killed = time.monotonic()
    victim.kill()
    assert waiting.result(GRACE + 60)["exit"] == 0
    assert time.monotonic() - killed < GRACE + 60
    wait_gone(lost.pid)
    assert not held.done()
    fifo.release()
    assert held.result(60)["exit"] == 0
    assert not (pilot.node.cwd / "begun").exists()
    assert pilot.runner(other)


def test_worker_that_lets_go_of_its_runner(pilot: Pilot) -> None:
    """The worker that started the runner may be done with it: the others' jobs go on."""
    first, second = pilot.worker(), pilot.worker()
    assert pilot.runner(first) == pilot.runner(second)
    held, fifo = pilot.hold(second)
    first.ask(forget=pilot.node.setup["submit_path"], timeout=0.2).result(60)
    fifo.release()
    assert held.result(60).get("exit") == 0


@pytest.mark.parametrize("end", ["close", "kill"])
def test_runner_ends_with_the_last_worker(pilot: Pilot, end: str) -> None:
    """The runner stays for the second worker when the first one has gone, and ends with that, within
    seconds; socket and directory go with it.
    """
    first, second = pilot.worker(), pilot.worker()
    runner = pilot.runner(first)
    assert pilot.runner(second) == runner
    getattr(first, end)()
    third = pilot.worker()
    assert pilot.runner(second) == pilot.runner(third) == runner
    getattr(third, end)()
    getattr(second, end)()
    wait_until(lambda: not pilot.node.left(), "the runner ends")
    wait_for_end(pilot.place())


def test_next_runner_after_the_last_worker(pilot: Pilot) -> None:
    """Workers that come and go without a pause always find a runner, and one at a time."""
    for _ in range(15):
        worker = pilot.worker()
        spec = pilot.who()
        assert worker.run(spec).get("exit") == 0
        worker.kill()
    wait_until(lambda: not pilot.node.left(), "the runner ends")


@pytest.mark.parametrize("times", [1, 3])
def test_runner_that_is_killed_is_replaced(pilot: Pilot, times: int) -> None:
    """The jobs of a runner that was killed are lost, and gone; the next job of any worker gets a new
    runner, in the same directory, which all share.
    """
    workers = [pilot.worker() for _ in range(2)]
    for _ in range(times):
        runner = pilot.runner(workers[0])
        held = [pilot.hold(worker, "trap '' TERM") for worker in workers]
        before = os.stat(pilot.place().directory).st_ino
        os.kill(runner, signal.SIGKILL)
        assert all("lost" in future.result(60) for future, _ in held)
        wait_gone(*(fifo.pid for _, fifo in held))
        specs = [pilot.who() for _ in workers]
        futures = [worker.begin(spec) for worker, spec in zip(workers, specs, strict=True)]
        assert [future.result(60).get("exit") for future in futures] == [0, 0]
        (text,) = {Path(spec["stdout"]).read_text() for spec in specs}
        assert int(text.split()[0]) != runner
        assert os.stat(pilot.place().directory).st_ino == before
    assert len(pilot.node.paths.node_journals()) == 1


# A runner that stays as long as the worker that starts a process for each task.

KEEPER = """
import subprocess, sys
for line in sys.stdin:
    command = [sys.executable, *sys.argv[1:], line]
    done = subprocess.run(command, process_group=0, capture_output=True, text=True)
    print(done.stdout.strip() or done.stderr, flush=True)
"""
"""Starts a process for each line, in a group of its own, as Work Queue's worker does."""

ONE_TASK = """
import json, sys
sys.path.append(sys.argv[1])
from node.client import run_job
from node.setup import NodeSetup
from node.listener import RunnerDirectory
RunnerDirectory.__init__.__kwdefaults__["base"] = sys.argv[2]
setup, spec = json.loads(sys.argv[3])
print(json.dumps(run_job(NodeSetup(**setup), spec)))
"""


@pytest.mark.some(1)
@pytest.mark.parametrize("nested", [False, True], ids=["direct", "below a shell"])
def test_runner_stays_with_its_task_worker(pilot: Pilot, nested: bool) -> None:
    """Where each task is a process, the runner stays between them, and ends with the process that starts
    them, within seconds.
    """
    pilot.node.setup["own_process"] = True
    task = ["-c", ONE_TASK, NODE_PACKAGE, pilot.base]
    if nested:
        task = ["-c", "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])", *task]
    command = [sys.executable, "-c", KEEPER, *task]
    runners = set()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as task_worker:
        assert task_worker.stdin is not None
        assert task_worker.stdout is not None
        place = pilot.place(task_worker.pid)
        for number in range(3):
            if number == 2:
                time.sleep(1.5)  # There is no sign of a runner that would end: its interval is 1 s.
            spec = pilot.who()
            task_worker.stdin.write(json.dumps([pilot.node.setup, spec]) + "\n")
            task_worker.stdin.flush()
            assert json.loads(task_worker.stdout.readline()).get("exit") == 0
            runners.add(Path(spec["stdout"]).read_text())
        assert len(runners) == 1
        assert os.listdir(place.directory) == ["socket"]
        task_worker.kill()
    wait_until(lambda: not pilot.node.left(), "the runner ends")
    assert not os.path.exists(place.directory)


def test_task_worker_whose_number_is_anothers_now(pilot: Pilot) -> None:
    """A process that has the worker's number, and began at another time, keeps no runner."""
    task_worker = [os.getpid(), (start_time(os.getpid()) or 0) - 1]
    worker = pilot.worker(worker=task_worker)
    pilot.runner(worker)
    worker.close()
    wait_until(lambda: not pilot.node.left(), "the runner ends")
    parts = pilot.node.setup["submit_path"], pilot.node.setup["site"], *map(str, task_worker)
    place = RunnerDirectory(*parts, base=pilot.base)
    assert not os.path.exists(place.directory)


def test_killed_runner_of_a_task_worker_is_replaced(pilot: Pilot) -> None:
    """It is the next task that starts another one."""
    pid = os.getpid()
    workers = [pilot.worker(worker=[pid, start_time(pid)]) for _ in range(2)]
    runner = pilot.runner(workers[0])
    workers[0].close()
    os.kill(runner, signal.SIGKILL)
    wait_gone(runner)
    again = pilot.runner(workers[1])
    assert again != runner
    workers[1].close()
    assert os.path.exists(pilot.place().path), "it stays as long as its worker: this process"
    os.kill(again, signal.SIGTERM)
    wait_until(lambda: not pilot.node.left(), "the runner ends")


# Who else may be there.


def planted(kind: str, path: Path, aside: Path) -> None:
    """Put something where the directory would be."""
    if kind == "file":
        path.touch(0o600)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "symlink":
        aside.mkdir(0o700)
        path.symlink_to(aside)
    elif kind == "symlink to nowhere":
        path.symlink_to(aside)
    else:
        path.mkdir()
        path.chmod(int(kind, 8))


KINDS = ["755", "750", "701", "file", "fifo", "symlink", "symlink to nowhere"]


def check_own_runners(pilot: Pilot) -> None:
    """Check that two workers each have a runner of their own, and their jobs run."""
    workers = [pilot.worker() for _ in range(2)]
    assert len({pilot.runner(worker) for worker in workers}) == 2
    pilot.close()


@pytest.mark.some(2)
@pytest.mark.parametrize("kind", KINDS)
def test_planted_directory_is_not_used(pilot: Pilot, tmp_path: Path, kind: str) -> None:
    """What is there and not a directory of the user's alone is left as it is; jobs run all the same."""
    path = Path(pilot.place().directory)
    planted(kind, path, tmp_path / "aside")
    try:
        before = os.lstat(path)
        check_own_runners(pilot)
        assert os.path.samestat(before, os.lstat(path))
        assert before.st_mode == os.lstat(path).st_mode
        if path.is_dir():
            assert os.listdir(path) == []
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


@pytest.mark.parametrize(
    ("kind", "owner"),
    [
        ("755", os.getuid()),
        ("symlink", os.getuid()),
        pytest.param("symlink", OTHER, marks=as_root),
        pytest.param("755", OTHER, marks=as_root),
    ],
)
def test_socket_in_a_planted_directory_is_not_used(
    pilot: Pilot, tmp_path: Path, kind: str, owner: int
) -> None:
    """Also where there is a socket of this user's inside, as where a link leads to another runner's
    directory: that one's jobs are of another run. (The kernel may be set to follow no such link.)
    """
    path = Path(pilot.place().directory)
    planted(kind, path, tmp_path / "aside")
    os.chown(path, owner, owner, follow_symlinks=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        with chdir(tmp_path / "aside" if kind == "symlink" else path):
            listening.bind("socket")
        listening.listen()
        listening.settimeout(0)
        try:
            result = pilot.worker().begin(pilot.who())
            wait_until(lambda: result.done() or can_accept(listening), "the job runs")
            assert "exit" in result.result(60), "the planted socket was used"
        finally:
            pilot.close()
            path.unlink() if kind == "symlink" else shutil.rmtree(path)


def can_accept(listening: socket.socket) -> bool:
    try:
        listening.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@as_root
@pytest.mark.parametrize("kind", ["700", "777", "file", "symlink"])
def test_directory_of_another_account_is_not_used(pilot: Pilot, tmp_path: Path, kind: str) -> None:
    """What another account has planted is not used, whatever its mode."""
    path = Path(pilot.place().directory)
    planted(kind, path, tmp_path / "aside")
    os.chown(path, OTHER, OTHER, follow_symlinks=False)
    try:
        check_own_runners(pilot)
        assert os.lstat(path).st_uid == OTHER
        if path.is_dir():
            assert os.listdir(path) == []
    finally:
        shutil.rmtree(path) if kind in ("700", "777") else path.unlink()


BY_OTHERS = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
connected = socket.socket(socket.AF_UNIX)
if sys.argv[3] == "connect":
    try:
        connected.connect(sys.argv[2])
        connected.settimeout(60)
        connected.sendall(sys.argv[4].encode())
        print(repr(connected.recv(1000)))
    except OSError as exc:
        print(type(exc).__name__)
else:
    connected.bind(sys.argv[2])
    connected.listen()
    os.chmod(sys.argv[2], 0o777)
    print("listening", flush=True)
    connected.accept()[0].recv(1000)
    print("accepted", flush=True)
    sys.stdin.read()
"""
"""Another account's process, which connects to a socket, or listens at it."""


def by_others(path: str, *arguments: str) -> Sequence[str]:
    return [sys.executable, "-I", "-S", "-c", BY_OTHERS, str(OTHER), path, *arguments]


@as_root
@pytest.mark.parametrize("opened", [False, True], ids=["closed", "opened"])
def test_another_account_cannot_use_the_runner(pilot: Pilot, opened: bool) -> None:
    """Another account cannot reach the socket; were the directory open to it, the runner would say
    nothing to it, start nothing for it, and serve on.
    """
    worker = pilot.worker()
    runner = pilot.runner(worker)
    held, fifo = pilot.hold(worker)
    place = pilot.place()
    if opened:
        os.chmod(place.directory, 0o777)
        os.chmod(place.path, 0o777)
    canary = pilot.node.cwd / "canary"
    spec = {**pilot.node.spec("/bin/touch", str(canary)), "key": "1.1"}
    setup = {**pilot.node.setup, "environment": {}, "prefix": ""}
    said = "".join(
        json.dumps(message) + "\n" for message in ({"setup": setup}, spec, {"kill": 0, "upto": 99})
    )
    command = by_others(place.path, "connect", said)
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    if opened:
        assert done.stdout.strip() in ("b''", "BrokenPipeError", "ConnectionResetError")
        os.chmod(place.directory, 0o700)
    else:
        assert done.stdout.strip() == "PermissionError"
    assert pilot.runner(worker) == runner
    assert not canary.exists()
    assert not held.done()
    fifo.release()
    assert held.result(60)["exit"] == 0


@as_root
def test_server_of_another_account_is_refused(pilot: Pilot) -> None:
    """A client tells nothing to a process of another account that listens where its runner would."""
    place = pilot.place()
    os.mkdir(place.directory)
    os.chmod(place.directory, 0o777)  # Or it could not listen there.
    command = by_others(place.path, "listen")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "listening\n"
            os.chmod(place.directory, 0o700)
            with pytest.raises(PermissionError, match="another user"):
                place.connect()
            assert server.stdout.readline() == "accepted\n"
            check_own_runners(pilot)
        finally:
            server.kill()
            shutil.rmtree(place.directory)


# The directory by itself.


def test_directories_are_told_apart() -> None:
    """Every part counts, and where one ends and the next begins; the path is short enough for a socket."""
    parts = [("a", "b", "c"), ("a", "b", "d"), ("ab", "", "c"), ("a", "bc", ""), ("a" * 5000, "\udcff", "")]
    found = {RunnerDirectory(*part).path for part in parts}
    assert len(found) == len(parts)
    assert all(len(path) < 100 and path.startswith(f"/tmp/bps-parsl-{os.getuid()}-") for path in found)


def test_containers_share_no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pilots on a node that are each process 7 of their own container have different directories."""
    here = RunnerDirectory("a", "b", "7", "100").path
    assert RunnerDirectory("a", "b", "7", "100").path == here
    monkeypatch.setattr(listener, "pid_namespace", lambda: "pid:[7]")
    assert RunnerDirectory("a", "b", "7", "100").path != here


def test_one_process_at_a_time_has_the_directory(tmp_path: Path) -> None:
    """Who waits for a directory that is removed meanwhile gets the new one, not the old one."""
    first, second = (RunnerDirectory("x", base=str(tmp_path)) for _ in range(2))
    entered: list[int] = []

    def enter() -> dict[str, Any]:
        with second.locked():
            entered.append(os.stat(second.directory).st_ino)
        return {}

    with first.locked():
        waiting = beside(enter)
        wait_until(lambda: is_blocked(tmp_path), "the other waits")
        assert entered == []
        os.rename(first.directory, tmp_path / "gone")
        os.mkdir(first.directory, 0o700)
    waiting.result(60)
    assert entered == [os.stat(first.directory).st_ino]


def is_blocked(directory: Path) -> bool:
    """Tell whether somebody waits for a lock on something here."""
    inodes = {str(path.stat().st_ino) for path in directory.iterdir()}
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any("->" in line and line[-3].split(":")[-1] in inodes for line in lines)


@pytest.mark.parametrize("kind", ["file", "fifo", "symlink to nowhere"])
def test_connecting_to_what_is_no_socket_leaves_nothing_open(tmp_path: Path, kind: str) -> None:
    """A client that could not connect has no file open."""
    place = RunnerDirectory("x", base=str(tmp_path))
    planted(kind, Path(place.directory), tmp_path / "aside")
    before = set(os.listdir("/proc/self/fd"))
    with suppress(OSError):
        assert place.connect() is None
    with suppress(OSError), place.locked():
        raise AssertionError("it was used")
    assert set(os.listdir("/proc/self/fd")) <= before


def test_next_runner_removes_what_killed_ones_left() -> None:
    """Directories of runners that were killed with all their workers go when another runner starts; those
    where somebody listens, or is about to, stay.
    """
    with TemporaryDirectory(dir="/tmp") as base:  # Short enough for a socket.
        stale, listening, starting, new = (RunnerDirectory(name, base=base) for name in "abcd")
        with stale.locked():
            stale.listen().close()
        with listening.locked():
            server = listening.listen()
        with server, starting.locked(), new.locked(), new.listen():
            left = set(os.listdir(base))
    assert left == {Path(place.directory).name for place in (listening, starting, new)}


def test_runner_that_begins_to_listen_meanwhile_stays(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that begins to listen while another one looks for what killed ones left keeps its socket."""
    late, new = (RunnerDirectory(name, base=short) for name in "ab")
    os.mkdir(late.directory, 0o700)
    look = listener._unused
    servers: list[socket.socket] = []

    def then_listen(directories: Iterable[str]) -> list[str]:
        found = look(directories)
        monkeypatch.setattr(listener, "_unused", look)
        with late.locked():
            servers.append(late.listen())
        return found

    monkeypatch.setattr(listener, "_unused", then_listen)
    with new.locked(), new.listen(), servers[0]:
        connected = late.connect()
        assert connected is not None
        connected.close()


def test_runner_that_ends_leaves_the_directory_to_the_next(short: str) -> None:
    """The directory of a runner that ends stays where somebody is about to start the next one."""
    place = RunnerDirectory("x", base=short)
    with place.locked():
        ending = Listener(place.listen().detach(), place.directory)
    ending.stop()
    with place.locked():
        ending.close()
        with place.listen():
            assert os.path.exists(place.path)
    assert os.path.isdir(place.directory)


def test_runner_that_ends_leaves_the_socket_of_another(short: str) -> None:
    """A runner whose socket somebody has removed does not remove that of the runner in its place."""
    place = RunnerDirectory("x", base=short)
    listeners = []
    for _ in range(2):
        with place.locked():
            listeners.append(Listener(place.listen().detach(), place.directory))
    first, second = listeners
    first.stop()
    first.close()
    assert os.path.exists(place.path)
    second.stop()
    second.close()
    assert os.listdir(short) == []
