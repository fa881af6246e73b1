# SPDX-License-Identifier: BSD-3-Clause
"""Who drives a run: host, pid, start of the process and a sign of life, never the pid alone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lsst.ctrl.bps.parsl.errors import RunHeldError, StorageError
from lsst.ctrl.bps.parsl.run import holder as holders
from lsst.ctrl.bps.parsl.run import liveness
from lsst.ctrl.bps.parsl.run.cancel_request import ask_to_cancel, is_asked, take_cancel_request
from lsst.ctrl.bps.parsl.run.holder import Holder, read_holder
from lsst.ctrl.bps.parsl.run.liveness import PATIENCE_SECONDS, RunLock, living_holder
from support.plans import umask, world_writable
from support.warm import wait_until

HOLD = """
import sys
from pathlib import Path
from lsst.ctrl.bps.parsl.run.liveness import RunLock
lock = RunLock(Path(sys.argv[1]), "r")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def write_holder(path: Path, holder: Holder, age: float = 0.0) -> None:
    path.write_text(json.dumps(asdict(holder)))
    then = time.time() - age
    os.utime(path, (then, then))


@pytest.fixture
def elsewhere() -> Holder:
    """Describe a driver on another host."""
    return replace(Holder.this_process(), host="another-" + socket.gethostname(), boot="x")


def test_lock_names_its_holder_until_it_is_given_back(tmp_path: Path) -> None:
    """While the lock is held, its file tells by whom; afterwards nobody drives the run."""
    path = tmp_path / "lock"
    assert living_holder(path) is None
    lock = RunLock(path, "r")
    lock.acquire()
    assert living_holder(path) == Holder.this_process()
    lock.release()
    assert living_holder(path) is None
    lock.release()


def test_second_driver_hears_who_has_the_run(tmp_path: Path) -> None:
    """A second driver is refused with host and pid of the first, and with what to type."""
    path = tmp_path / "lock"
    first = RunLock(path, "u_me_x")
    first.acquire()
    with pytest.raises(RunHeldError) as caught:
        RunLock(path, "u_me_x").acquire()
    assert f"{socket.gethostname()} (pid {os.getpid()})" in caught.value.message
    assert "bps cancel --id u_me_x" in caught.value.message
    first.release()
    second = RunLock(path, "u_me_x")
    second.acquire()
    second.release()


def test_killed_driver_gives_the_run_free(tmp_path: Path) -> None:
    """A driver in another process holds the run as long as it lives, and not after ``kill -9``."""
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        holder = living_holder(path)
        assert holder is not None
        assert holder.pid == driver.pid
        with pytest.raises(RunHeldError, match=f"pid {driver.pid}"):
            RunLock(path, "r").acquire()
        driver.kill()
        driver.wait()
        assert living_holder(path) is None
    lock = RunLock(path, "r")
    lock.acquire()
    lock.release()


def test_zombie_is_no_driver(tmp_path: Path) -> None:
    """A driver that has ended and that nobody waited for is dead."""
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        driver.kill()
        os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
        assert living_holder(path) is None


@pytest.mark.parametrize("change", [{"started": 12345.0}, {"boot": "another"}, {"pid": 2**22 - 1}])
def test_pid_alone_is_no_proof(tmp_path: Path, change: dict[str, object]) -> None:
    """A pid that another process has now, or had before the host was booted, is not the driver's."""
    write_holder(tmp_path / "lock", replace(Holder.this_process(), **change))  # type: ignore[arg-type]
    assert living_holder(tmp_path / "lock") is None
    lock = RunLock(tmp_path / "lock", "r")
    lock.acquire()
    lock.release()


@pytest.mark.slow
def test_sign_of_life_tells_of_another_host(tmp_path: Path, elsewhere: Holder) -> None:
    """A driver on another host is alive as long as it touches its file."""
    path = tmp_path / "lock"
    write_holder(path, elsewhere)
    assert living_holder(path) == elsewhere
    with pytest.raises(RunHeldError, match=elsewhere.host):
        RunLock(path, "r").acquire()
    assert living_holder(path) == elsewhere
    write_holder(path, elsewhere, age=PATIENCE_SECONDS + 1)
    assert living_holder(path) is None
    lock = RunLock(path, "r")
    lock.acquire()
    assert living_holder(path) == Holder.this_process()
    lock.release()


def test_looking_at_a_lock_is_no_sign_of_life(tmp_path: Path, elsewhere: Holder) -> None:
    """Somebody who is refused, or who reports, does not keep a dead driver alive."""
    path = tmp_path / "lock"
    write_holder(path, elsewhere, age=PATIENCE_SECONDS / 2)
    before = path.stat().st_mtime
    with pytest.raises(RunHeldError):
        RunLock(path, "r").acquire()
    living_holder(path)
    assert path.stat().st_mtime == before


def test_sign_of_life_is_given_where_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is touched once in ten seconds: not at each call, and never too seldom."""
    path = tmp_path / "lock"
    lock = RunLock(path, "r")
    lock.acquire()
    os.utime(path, (1, 1))
    lock.beat()
    assert path.stat().st_mtime == 1
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.0)
    lock.beat()
    assert path.stat().st_mtime > time.time() - 60
    lock.release()
    assert PATIENCE_SECONDS > 3 * 10.0


def test_signs_of_life_while_the_driver_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that waits for the batch system gives signs of life all the same."""
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.05)
    path = tmp_path / "lock"
    lock = RunLock(path, "r")
    lock.acquire()
    for _ in range(2):
        os.utime(path, (1, 1))
        wait_until(lambda: path.stat().st_mtime > 1)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "heartbeat")
    lock.release()
    assert not thread.is_alive()
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


def test_no_more_signs_for_another_driver(
    tmp_path: Path, elsewhere: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that has lost its run does not keep the other one's lock alive."""
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.05)
    path = tmp_path / "lock"
    lock = RunLock(path, "r")
    lock.acquire()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "heartbeat")
    write_holder(path, elsewhere, age=1000.0)
    thread.join(60)
    assert not thread.is_alive()
    os.utime(path, (1, 1))
    with pytest.raises(RunHeldError):
        lock.beat()
    assert path.stat().st_mtime == 1
    lock.release()


def test_time_in_which_the_host_sleeps_counts(
    tmp_path: Path, elsewhere: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver whose host slept sees before it does anything else that another one has the run now:
    the ordinary clock stands still in that time.
    """
    slept = 0.0

    def clock(which: int) -> float:
        return 1000.0 + (slept if which == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(time, "clock_gettime", clock)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    path = tmp_path / "lock"
    lock = RunLock(path, "r")
    lock.acquire()
    write_holder(path, elsewhere)
    lock.beat()  # It has just looked.
    slept = PATIENCE_SECONDS
    with pytest.raises(RunHeldError, match=elsewhere.host):
        lock.beat()
    lock.release()


@pytest.mark.parametrize("content", ["", "{", "[]", "5", '{"host": "x"}', "pid", "started"])
def test_damaged_lock_file_holds_nobody_up(tmp_path: Path, content: str) -> None:
    """The file serves to name the holder; one that cannot be read names nobody."""
    path = tmp_path / "lock"
    if content in ("pid", "started"):
        content = json.dumps({**asdict(Holder.this_process()), content: "x"})
    path.write_text(content)
    assert living_holder(path) is None
    lock = RunLock(path, "r")
    lock.acquire()
    lock.release()


def test_lock_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A directory in which no lock can be made is an error that names the file."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="take the lock of the run"):
        RunLock(tmp_path / "file" / "lock", "r").acquire()


def test_lock_is_nobody_elses_to_write(tmp_path: Path) -> None:
    """Others may read who drives the run, and not say that it is they."""
    with umask(0):
        lock = RunLock(tmp_path / "lock", "r")
        lock.acquire()
    lock.release()
    assert world_writable(tmp_path) == []


def test_host_that_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop in another network has another name, and the same driver: it keeps its lock, is seen to
    live, hears a request to cancel and gives the lock back; a second driver is refused.
    """
    path, request = tmp_path / "lock", tmp_path / "cancel"
    lock = RunLock(path, "r")
    lock.acquire()
    holder = read_holder(path)
    assert holder is not None
    ask_to_cancel(request, holder)
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop-elsewhere")
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.0)
    os.utime(path, (1, 1))
    assert living_holder(path) == holder
    lock.beat()
    with pytest.raises(RunHeldError, match=f"pid {os.getpid()}"):
        RunLock(path, "r").acquire()
    assert take_cancel_request(request)
    assert not is_asked(request)
    lock.release()
    assert path.read_text() == ""


def test_host_that_was_booted_since_has_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver of an earlier boot of this host is dead at once, though its last sign of life is fresh."""
    write_holder(tmp_path / "lock", replace(Holder.this_process(), boot="earlier"))
    assert living_holder(tmp_path / "lock") is None
    monkeypatch.setattr(liveness, "_gives_signs", None)
    lock = RunLock(tmp_path / "lock", "r")
    lock.acquire()
    lock.release()


def test_number_of_another_namespace_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has the driver's number here is not the driver, which has it in a container: the lock
    tells whether that lives. Who is refused hears where it is; cancelling reaches it alone.
    """
    path, request = tmp_path / "lock", tmp_path / "cancel"
    with monkeypatch.context() as inside:
        inside.setattr(holders, "pid_namespace", lambda: "pid:[7]")
        lock = RunLock(path, "r")
        lock.acquire()
        driver = Holder.this_process()
    os.utime(path, (1, 1))  # The lock counts, and no clock.
    assert living_holder(path) == driver
    place = f"{socket.gethostname()}, in a process namespace of its own (pid {os.getpid()} there)"
    with pytest.raises(RunHeldError, match="is still being driven on") as caught:
        RunLock(path, "r").acquire()
    assert place in caught.value.message
    ask_to_cancel(request, driver)
    assert not take_cancel_request(request), "this process is another, whatever its number"
    ask_to_cancel(request, driver)
    with monkeypatch.context() as inside:
        inside.setattr(holders, "pid_namespace", lambda: "pid:[7]")
        assert take_cancel_request(request)
        lock.release()


def test_driver_that_died_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has given no lock back and its last sign of life is fresh; but nobody has its lock, so it is dead,
    and the run can be resumed at once.
    """
    path = tmp_path / "lock"
    write_holder(path, replace(Holder.this_process(), namespace="pid:[7]"))
    assert living_holder(path) is None
    monkeypatch.setattr(liveness, "_gives_signs", None)
    lock = RunLock(path, "r")
    lock.acquire()
    lock.release()


def test_container_on_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be locked, the signs of life of a driver in a container count, as another host's."""

    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(liveness, "SETTLE_SECONDS", 0.0)
    path = tmp_path / "lock"
    driver = replace(Holder.this_process(), namespace="pid:[7]")
    write_holder(path, driver)
    assert living_holder(path) == driver
    with pytest.raises(RunHeldError):
        RunLock(path, "r").acquire()
    write_holder(path, driver, age=3 * liveness.MOST_CLOCK_ERROR_SECONDS)
    assert living_holder(path) is None
    lock = RunLock(path, "r")
    lock.acquire()
    lock.release()


@pytest.mark.parametrize(
    ("namespace", "own", "boot", "said"),
    [
        ("", "pid:[7]", None, "(pid 5)"),
        ("pid:[7]", "pid:[7]", None, "(pid 5)"),
        ("pid:[8]", "pid:[7]", None, ", in a process namespace of its own (pid 5 there)"),
        ("pid:[4026531836]", "pid:[7]", None, ", outside this process namespace (pid 5 there)"),
        ("pid:[4026531836]", "pid:[7]", "another", "(pid 5)"),
    ],
)
def test_where_a_driver_is(
    namespace: str, own: str, boot: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is not this namespace's is said to be none: no ``ps`` here shows it."""
    monkeypatch.setattr(holders, "pid_namespace", lambda: own)
    me = Holder.this_process()
    text = str(replace(me, pid=5, boot=boot or me.boot, namespace=namespace))
    assert text.removeprefix(socket.gethostname()).lstrip(" ") == said


def test_processes_that_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a namespace without a /proc of its own, numbers are looked up in vain: the lock counts."""
    path = tmp_path / "lock"
    lock = RunLock(path, "r")
    lock.acquire()
    readlink = os.readlink

    def of_others(name: str) -> str:
        return "1" if name == "/proc/self" else readlink(name)

    monkeypatch.setattr(os, "readlink", of_others)
    monkeypatch.setattr(holders, "start_time", lambda pid: None)
    assert living_holder(path) == Holder.this_process()
    with pytest.raises(RunHeldError):
        RunLock(path, "r").acquire()
    lock.release()
    assert path.read_text() == ""


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ESTALE, "has been removed"), (errno.EIO, "Cannot read the lock of the run")]
)
@pytest.mark.parametrize("call", ["fstat", "pread"])
def test_lock_file_that_fails_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, call: str
) -> None:
    """What the file system says of the lock is an error in words that names the file, and no word of
    another driver.
    """
    lock = RunLock(tmp_path / "lock", "r")
    lock.acquire()
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.0)

    def fails(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(StorageError, match=said if call == "fstat" else "Cannot read the lock") as caught:
            lock.beat()
        assert str(tmp_path / "lock") in caught.value.message
    with monkeypatch.context() as patch:
        close = os.close

        def close_late(fd: int) -> None:
            close(fd)
            fails()

        patch.setattr(os, "close", close_late)
        lock.release()
    again = RunLock(tmp_path / "lock", "r")
    again.acquire()
    again.release()


def test_look_at_the_lock_keeps_no_driver_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks, from another host, whether a run is driven has its lock for a moment: a restart in that
    moment waits. Somebody who keeps it has the run.
    """
    path = tmp_path / "lock"
    path.touch()
    with path.open("rb") as looker:
        fcntl.flock(looker, fcntl.LOCK_SH | fcntl.LOCK_NB)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(looker, fcntl.LOCK_UN))
        lock = RunLock(path, "r")
        lock.acquire()
        lock.release()
        fcntl.flock(looker, fcntl.LOCK_SH | fcntl.LOCK_NB)
        monkeypatch.setattr(liveness, "LOOK_SECONDS", -1.0)
        with pytest.raises(RunHeldError, match="by another process"):
            lock.acquire()


def test_request_that_cannot_be_read_is_no_request(tmp_path: Path) -> None:
    """Whatever is in the place of a request to cancel ends no run, neither well nor badly."""
    request = tmp_path / "cancel"
    assert not take_cancel_request(request)
    request.write_text("{")
    assert not take_cancel_request(request)
    assert not is_asked(request)
    request.mkdir()
    assert not take_cancel_request(request)
