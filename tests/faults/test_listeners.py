# SPDX-License-Identifier: BSD-3-Clause
"""Who listens while a run goes on, and what strangers on the machine get from it: nothing."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import zmq
from parsl import curvezmq

from cluster.engines import Bench, Engine
from end_to_end.support import Running, Step, wait_until
from node.test_listener import OTHER, by_others
from sites.test_sites import ALL, make_site
from sites.test_sites import every_module as every_module  # fixtures
from sites.test_sites import infiniband as infiniband
from sites.test_sites import on_x86 as on_x86
from sites.test_sites import resource_tracker_ends as resource_tracker_ends
from sites.test_sites import with_task_vine as with_task_vine
from sites.test_sites import with_work_queue as with_work_queue

from .engines import BY_NAME, on_engines
from .matrix import Matrix

BUSY = 4
"""Number of jobs that the workers of an engine run at once."""

CLIENT, WORKERS = range(55000, 56001), range(54000, 55001)
"""Ports of Parsl's: for its interchange's connections to the driver, and for workers."""


class Socket(NamedTuple):
    """A socket that somebody could send something to."""

    kind: str
    address: str
    port: int
    command: str


def plain(address: str) -> str:
    """Write an address of IPv4 as such."""
    return address.removeprefix("::ffff:")


def processes(bench: Bench) -> list[psutil.Process]:
    """Return the processes of a run; the driver is a copy of this one, and has its environment."""
    driver = psutil.Process(bench.driver_pid())
    return list(
        {one.pid: one for one in (driver, *driver.children(recursive=True), *bench.processes())}.values()
    )


def listening(bench: Bench) -> list[Socket]:
    """Return the sockets of the run's processes on which they listen, or get datagrams."""
    found = []
    # The driver is a copy of this process, and has its sockets.
    inherited = {one.laddr for one in psutil.Process().net_connections("inet")}
    for process in processes(bench):
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            for one in process.net_connections("inet"):
                if one.laddr in inherited:
                    continue
                if one.type == socket.SOCK_DGRAM:
                    found.append(Socket("udp", plain(one.laddr[0]), int(one.laddr[1]), command))
                elif one.status == psutil.CONN_LISTEN:
                    found.append(Socket("tcp", plain(one.laddr[0]), int(one.laddr[1]), command))
    return found


def unix_sockets(bench: Bench) -> set[str]:
    """Return the names of the Unix sockets of the run's processes."""
    inherited = {str(one.laddr) for one in psutil.Process().net_connections("unix")}
    found: set[str] = set()
    for process in processes(bench):
        with suppress(psutil.Error):
            found |= {str(one.laddr) for one in process.net_connections("unix") if one.laddr}
    return found - inherited


@pytest.fixture
def busy(make_bench: Callable[[Engine], Bench]) -> Iterator[Callable[[str], tuple[Bench, Running]]]:
    """Have a run whose workers are all busy, with as many jobs again that wait for them."""
    running: list[tuple[Bench, Running]] = []

    def make(name: str) -> tuple[Bench, Running]:
        bench = make_bench(BY_NAME[name])
        bench.prepare([Step(f"s{number}") for number in range(2 * BUSY)])
        bench.hold()
        driver = bench.drive("restart", "--id", bench.id)
        running.append((bench, driver))
        wait_until(lambda: len(bench.steps("begin")) == BUSY, "all workers are busy")
        return bench, driver

    yield make
    for bench, _ in running:
        (bench.path / "hold").unlink(missing_ok=True)


def finish(bench: Bench, driver: Running) -> None:
    """Have a run end as if nobody had been there."""
    bench.let_go()
    driver.finish().succeeded()
    bench.assert_each_once([f"s{number}" for number in range(2 * BUSY)])


@pytest.mark.as_root
@on_engines("threads", "htex", "slurm", "slurm-work-queue")
def test_only_expected_listeners(
    busy: Callable[[str], tuple[Bench, Running]], matrix: Matrix, name: str
) -> None:
    """On threads nobody listens on the network; HTEX has its driver's ports on the loopback and
    one for workers; Work Queue has one. No port gets datagrams, and no worker listens. Another
    account cannot connect to any Unix socket.
    """
    bench, driver = busy(name)
    sockets = listening(bench)
    assert not [one for one in sockets if one.kind == "udp"], "monitoring is off"
    here = [one for one in sockets if one.port in CLIENT]
    others = [one for one in sockets if one.port not in CLIENT]
    assert all(one.address in ("127.0.0.1", "::1") for one in here), here
    expected = {"threads": (0, 0), "htex": (3, 1), "slurm": (3, 1), "slurm-work-queue": (0, 1)}[name]
    assert (len(here), len(others)) == expected, sockets
    if name in ("htex", "slurm"):
        assert others[0].port in WORKERS
        assert "interchange" in others[0].command
    if name == "htex":
        assert others[0].address == "127.0.0.1", "it is the address that the workers were given"
    paths = unix_sockets(bench)
    assert not [path for path in paths if not path.startswith("/")], "one that no mode protects"
    for path in paths:
        done = subprocess.run(by_others(path, "connect", "x"), capture_output=True, text=True, timeout=100)
        assert done.stdout.strip() in ("PermissionError", "FileNotFoundError"), (path, done)
    assert name == "threads" or paths, "there are some"
    finish(bench, driver)
    matrix.check("another account looks for sockets of a run", bench)


# Of HTEX.

ROGUE = """
import sys
sys.path[:0] = sys.argv[3:]
import os, json, zmq
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
context = zmq.Context()
answers = 0
for port in json.loads(sys.argv[2]):
    for form in (zmq.DEALER, zmq.ROUTER, zmq.REQ):
        for encrypted in (False, True):
            sock = context.socket(form)
            sock.linger = 0
            if encrypted:
                sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
                sock.curve_serverkey = zmq.curve_keypair()[0]
            sock.connect(f"tcp://127.0.0.1:{port}")
            for message in MESSAGES:
                try:
                    sock.send(message, zmq.NOBLOCK)
                except zmq.ZMQError:
                    pass
            answers += bool(sock.poll(100))
            sock.close()
print("answers", answers)
"""
"""A stranger who says to each port all that a worker, or the driver, might say."""


class _Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (self.path,)


def messages(canary: str) -> list[bytes]:
    """Return messages of Parsl's, and one that runs code where it is read."""
    worker: dict[str, Any] = {
        "type": "registration",
        "worker_count": 64,
        "max_capacity": 64,
        "uid": "rogue",
        "block_id": "0",
    }
    said = [_Canary(canary), {"type": "connection_probe"}, worker, "WORKERS", "SHUTDOWN"]
    return [pickle.dumps(one) for one in said]


@pytest.mark.as_root
@on_engines("htex", "slurm")
def test_stranger_at_the_interchange(
    busy: Callable[[str], tuple[Bench, Running]], matrix: Matrix, name: str
) -> None:
    """Another account that talks to the ports of HTEX as a worker or as the driver would, with
    and without encryption, gets no answer and no job, and what it sends is not even unpickled.
    """
    bench, driver = busy(name)
    canary = bench.path / "canary"
    ports = sorted({one.port for one in listening(bench)})
    code = ROGUE.replace("MESSAGES", repr(messages(str(canary))))
    paths = [sysconfig.get_path("purelib")]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(OTHER), str(ports).replace("'", ""), *paths],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "answers 0\n", done
    assert not canary.exists()
    (port,) = [one.port for one in listening(bench) if one.port in WORKERS]
    (certificates,) = bench.submit_path.glob("runinfo/*/*/certificates")
    assert stat.S_IMODE(certificates.stat().st_mode) == 0o700
    assert answers_to_its_own(port, certificates), "it answers to who has the keys"
    finish(bench, driver)
    matrix.check("another account at the ports of HTEX", bench)


def answers_to_its_own(port: int, certificates: Path) -> bool:
    """Tell whether the interchange answers to a process that can read the keys."""
    context = curvezmq.ClientContext(str(certificates))
    try:
        sock = context.socket(zmq.DEALER)
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(f"tcp://127.0.0.1:{port}")
        sock.send(pickle.dumps({"type": "connection_probe"}))
        return bool(sock.poll(60_000))
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.quick
def test_every_site_is_closed(name: str, every_module: None) -> None:
    """Each site class has HTEX encrypted, and gives Work Queue and TaskVine a password file."""
    for executor in make_site(ALL[name][0], **ALL[name][1]).get_executors():
        kind = type(executor).__name__
        if kind == "HighThroughputExecutor":
            assert executor.encrypted
            assert executor.loopback_address == "127.0.0.1"
        elif kind == "WorkQueueExecutor":
            assert executor.project_password_file
            assert executor.project_name is None, "it is announced to no catalog"
        elif kind == "TaskVineExecutor":
            assert executor.manager_config.project_password_file
        else:
            assert kind == "ThreadPoolExecutor"


# Of Work Queue.


@pytest.fixture
def their_directory() -> Iterator[Path]:
    """A directory of another account's."""
    path = Path(tempfile.mkdtemp(prefix="other"))
    os.chown(path, OTHER, OTHER)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def rogue_worker(directory: Path, port: int, *options: str) -> subprocess.Popen[str]:
    """Start a worker of another account's that has room for everything."""
    return subprocess.Popen(
        ["work_queue_worker", "--cores=64", "--memory=64000", "--disk=1000", "--debug=all",
         f"--debug-file={directory}/log", f"--workdir={directory}", "--timeout=20", "--connect-timeout=5",
         "--single-shot", *options, "127.0.0.1", str(port)],
        cwd=directory, user=OTHER, group=OTHER, extra_groups=[], text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(directory), "HOME": str(directory)},
    )  # fmt: skip


@pytest.mark.as_root
@on_engines("slurm-work-queue")
def test_stranger_at_work_queue(
    busy: Callable[[str], tuple[Bench, Running]], matrix: Matrix, their_directory: Path, name: str
) -> None:
    """A worker of another account gets no job without the password, nor with a wrong one; it
    cannot read the password, and the same worker is let in where it has it.
    """
    bench, driver = busy(name)
    (port,) = {one.port for one in listening(bench)}
    password = bench.submit_path / "parsl/workers.password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    assert len(password.read_bytes()) == 64
    mine = their_directory / "password"
    mine.write_text("0" * 64)
    mine.chmod(0o644)
    for options in ((), (f"--password={mine}",)):
        with rogue_worker(their_directory, port, *options) as worker:
            worker.communicate(timeout=120)
        said = (their_directory / "log").read_text(errors="replace")
        assert "connected to manager" in said or "connection to" in said or "connected" in said, said[-2000:]
        assert len(bench.steps("begin")) == BUSY, "it got a job"
        (their_directory / "log").unlink()
    mine.write_bytes(password.read_bytes())
    with rogue_worker(their_directory, port, f"--password={mine}") as worker:
        log = their_directory / "log"
        wait_until(lambda: log.exists() and "task" in log.read_text(errors="replace"), "it gets a job")
        worker.kill()
    finish(bench, driver)
    matrix.check("another account's worker at Work Queue", bench)
