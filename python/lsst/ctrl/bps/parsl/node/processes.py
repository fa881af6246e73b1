# SPDX-License-Identifier: BSD-3-Clause
"""What it takes to start and to end a process; standard library only."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, AnyStr

from .lines import write_whole

__all__ = [
    "BASH",
    "IGNORED_HERE",
    "SCRIPT_FD",
    "become_subreaper",
    "can_be_given",
    "children",
    "descendants",
    "end",
    "end_descendants",
    "end_with_parent",
    "find_program",
    "group",
    "high_copy",
    "make_directory",
    "memory_descriptor",
    "os_bytes",
    "own_start_time",
    "parent",
    "pid_namespace",
    "show_command",
    "signal_group",
    "start_time",
    "umask",
]

SCRIPT_FD = 3
"""File descriptor on which bash has its code; see `memory_descriptor`."""

BASH = ("/bin/bash", f"/dev/fd/{SCRIPT_FD}")
"""Bash with that code; its arguments are to follow."""

IGNORED_HERE = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that a runner ignores, itself or since it was started in a shell's background, and what it starts
does not.
"""

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def show_command(name: str, words: Sequence[str]) -> None:
    """Have ``ps`` and ``top`` show a command as this process's own.

    Parameters
    ----------
    name : `str`
        Name of the program.
    words : `~collections.abc.Sequence` [`str`]
        The command; what has no room is left out.
    """
    import ctypes

    _prctl(_PR_SET_NAME, ctypes.c_char_p(os.fsencode(name)[:15]))
    fields = _status(os.getpid())
    first, after = int(fields[45]), int(fields[46])
    if 0 < first < after:
        text = b"".join(os.fsencode(word) + b"\0" for word in words)[: after - first - 1]
        ctypes.memmove(first, text.ljust(after - first, b"\0"), after - first)


def make_directory(path: AnyStr) -> None:
    """Make a directory and those above it, none writable by others.

    `os.makedirs` would apply its mode to the last one only.
    """
    if os.path.isdir(path):
        return
    make_directory(os.path.dirname(path))
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass  # Another node was faster.


def end_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def become_subreaper() -> None:
    """Ask the kernel for the orphans among this process's descendants."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: Any) -> None:
    _libc().prctl(option, value)


@cache
def _libc() -> Any:
    # Only few processes need it. One that has it gives it to its forks.
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def end(pid: int) -> None:
    """End a process of ours at once, if it has not ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # It has ended, or become another user's.


def end_descendants(pid: int) -> None:
    """End at once what is below a process of ours now, but for itself."""
    for below in descendants(pid):
        end(below)


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if there is anybody of it left."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # Nobody of that group is left, or it became another user's.


def find_program(name: str, environ: Mapping[str, str]) -> str:
    """Look a command up on the job's PATH, as its shell would."""
    if "/" in name:
        return name
    for directory in environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise FileNotFoundError(2, "command not found", name)


def can_be_given(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Tell whether a new program could have these words and variables.

    Parameters
    ----------
    argv : `~collections.abc.Sequence` [`str`]
        Its command.
    environ : `~collections.abc.Mapping` [`str`, `str`]
        Its environment.

    Returns
    -------
    can : `bool`
        `False` where there is a NUL in it, or what has no encoding, or a
        variable with a name that the kernel's form of them has no room for.
    """
    text = "".join((*argv, *environ, *environ.values()))
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and not any(name == "" or "=" in name for name in environ)


def os_bytes(text: str) -> bytes:
    """Return a path, an argument or a variable as the system has it.

    Parameters
    ----------
    text : `str`
        The text.

    Returns
    -------
    raw : `bytes`
        As `os.fsencode` makes it. What the locale has no bytes for, such as a
        label's letters, is in UTF-8: it came from a file that is.
    """
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return b"".join(map(_character, text))


def _character(character: str) -> bytes:
    try:
        return os.fsencode(character)
    except UnicodeEncodeError:
        return character.encode()


def memory_descriptor(text: str = "") -> int:
    """Put text, such as bash code, where only one job sees it: no file, no argument."""
    fd = os.memfd_create("text", os.MFD_CLOEXEC)
    try:
        write_whole(fd, text.encode("utf-8", "surrogateescape"))
        return high_copy(fd)
    finally:
        os.close(fd)


def high_copy(fd: int) -> int:
    """Return another descriptor of a file, free of the numbers that a job gets."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)


def descendants(pid: int) -> list[int]:
    """Return the processes below a process.

    Parameters
    ----------
    pid : `int`
        The process, which is not one of them.

    Returns
    -------
    pids : `list` [`int`]
        Their numbers, as of now.
    """
    found: list[int] = []
    todo = [pid]
    while todo:
        for child in children(todo.pop()):
            found.append(child)
            todo.append(child)
    return found


def children(pid: int) -> list[int]:
    """Return the children of a process.

    Parameters
    ----------
    pid : `int`
        The process.

    Returns
    -------
    pids : `list` [`int`]
        Their numbers, as of now.
    """
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:
                found += map(int, stream.read().split())
        except OSError:
            continue  # It has ended.
    return found


def start_time(pid: int | str) -> int | None:
    """Return when a process began, in the kernel's ticks since the boot.

    Parameters
    ----------
    pid : `int` or `str`
        The process; ``self`` is this one.

    Returns
    -------
    ticks : `int` or `None`
        The time; `None` where there is no such process.
    """
    state, *fields = _status(pid)
    return None if state in (b"", b"Z") else int(fields[18])


def own_start_time() -> int:
    """Return when this process began; 0 where that cannot be seen.

    Its own number may be another one in ``/proc`` (see pid_namespaces(7)).
    """
    return start_time("self") or 0


def pid_namespace() -> str:
    """Return the namespace that this process's number belongs to; nothing where the kernel does not tell."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def parent(pid: int) -> int:
    """Return the parent of a process.

    Parameters
    ----------
    pid : `int`
        The process.

    Returns
    -------
    parent : `int`
        Its number; 1 where the process has ended.
    """
    state, *fields = _status(pid)
    return int(fields[0]) if state else 1


def group(pid: int) -> int | None:
    """Return the process group of a process; `None` where it has ended."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def umask() -> int:
    """Return this process's umask.

    Returns
    -------
    mask : `int`
        The umask, which is left as it is: `os.umask` would have to change it,
        under the feet of other threads.
    """
    with open("/proc/self/status", "rb") as stream:
        return next(int(line.split()[1], 8) for line in stream if line.startswith(b"Umask"))


def _status(pid: int | str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            # The name of the program, in parentheses, may have blanks.
            return stream.read().rpartition(b")")[2].split()
    except OSError:
        return [b""]
