# SPDX-License-Identifier: BSD-3-Clause
"""What the benchmarks share: environments, processes that are timed, tables."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from rich.console import Console
from rich.table import Table

__all__ = ["Ended", "descendants", "environment", "print_table", "ratio", "run_timed"]

TIME_LIMIT = 1800.0
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Ended:
    """What a process came to; times are seconds since it began."""

    code: int
    output: str
    """The end of what it wrote."""

    wall: float
    cpu: float
    """Of itself and of all its descendants."""

    marks: Mapping[str, float]
    """When a text was first written."""

    begun: float
    """Since 1970."""


def environment(python: str, **variables: str) -> dict[str, str]:
    """Return the environment variables of a process of some Python environment.

    Parameters
    ----------
    python : `str`
        The environment's interpreter.
    **variables : `str`
        More variables.

    Returns
    -------
    variables : `dict` [`str`, `str`]
        This process's, with the environment's programs first in ``PATH``;
        the two variables that BPS's default commands need.
    """
    programs = Path(os.path.abspath(python)).parent
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("BPS_")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CTRL_MPEXEC_DIR": str(programs.parent),
        "DAF_BUTLER_DIR": str(programs.parent),
        **variables,
    }


def run_timed(
    command: Sequence[str],
    directory: Path,
    env: Mapping[str, str],
    marks: Iterable[str] = (),
    watch: Callable[[], None] | None = None,
    limit: float = TIME_LIMIT,
) -> Ended:
    """Run a command to its end.

    Parameters
    ----------
    command : `~collections.abc.Sequence` [`str`]
        The command.
    directory : `pathlib.Path`
        Where it runs.
    env : `~collections.abc.Mapping` [`str`, `str`]
        Its environment variables.
    marks : `~collections.abc.Iterable` [`str`], optional
        Texts of which the moment is wanted when they are first written.
    watch : `~collections.abc.Callable`, optional
        Called again and again until the process ends.
    limit : `float`, optional
        Seconds after which it is killed.

    Returns
    -------
    ended : `Ended`
        What it came to.
    """
    with tempfile.TemporaryFile() as output:
        begun, since = time.time(), time.monotonic()
        process = _start(command, directory, env)
        found: dict[str, float] = {}
        arguments = (process, output, list(marks), found, since)
        reader = threading.Thread(target=_read, args=arguments, daemon=True)
        reader.start()
        try:
            usage = _wait(process, watch, since + limit)
        except BaseException:  # Such as Ctrl-C, which reaches only this process.
            kill_session(process.pid)
            reap_orphans(0.0)
            raise
        wall = time.monotonic() - since
        cpu = usage.ru_utime + usage.ru_stime + reap_orphans()
        # What it left behind may have its output open for ever.
        reader.join(1.0)
        output.seek(max(0, output.seek(0, os.SEEK_END) - 3000))
        return Ended(process.returncode, output.read().decode(errors="replace"), wall, cpu, found, begun)


def _start(command: Sequence[str], directory: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    adopt_orphans()
    return subprocess.Popen(
        command,
        cwd=directory,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _wait(
    process: subprocess.Popen[bytes], watch: Callable[[], None] | None, end: float
) -> resource.struct_rusage:
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > end:
            kill_session(process.pid)
        if watch is not None:
            watch()
        time.sleep(0.05)


def _read(
    process: subprocess.Popen[bytes],
    output: IO[bytes],
    marks: list[str],
    found: dict[str, float],
    since: float,
) -> None:
    assert process.stdout is not None
    with suppress(ValueError):  # The file was closed: nobody wants to know any more.
        for line in process.stdout:
            output.write(line)
            for mark in marks:
                if mark.encode() in line:
                    found.setdefault(mark, time.monotonic() - since)


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, to know their CPU time and to end them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(patience: float = 15.0) -> float:
    """Wait for the descendants that are left, and end those that stay.

    Parameters
    ----------
    patience : `float`, optional
        Seconds to wait.

    Returns
    -------
    cpu : `float`
        Their CPU time in seconds.
    """
    end, cpu = time.monotonic() + patience, 0.0
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu
        if pid:
            cpu += usage.ru_utime + usage.ru_stime
            continue
        if time.monotonic() > end:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
        time.sleep(0.05)


def descendants(part: str) -> list[psutil.Process]:
    """Return the living processes below this one that have a text in their command."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if part in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_session(leader: int) -> None:
    """End all processes of a session, which was started here.

    Parameters
    ----------
    leader : `int`
        The process that it began with.
    """
    for pid in psutil.pids():
        with suppress(OSError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


def ratio(one: float, other: float) -> str:
    """Say how many times as much the one is as the other."""
    return f"{one / other:.2f}" if other else "-"


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
    """Print a table whose first column is text, and the others numbers."""
    table = Table(title=title, caption=caption, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    # A file or a pipe has no width; the tables are made for this one.
    Console(width=None if sys.stdout.isatty() else 120).print(table)
