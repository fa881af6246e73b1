# SPDX-License-Identifier: BSD-3-Clause
"""What it takes to start and to end a process; standard library only."""

from __future__ import annotations

import fcntl
import os
import signal

__all__ = ["end_with_parent", "find_program", "make_directory", "script_descriptor", "signal_group"]

_PR_SET_PDEATHSIG = 1


def make_directory(path: str) -> None:
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
    import ctypes  # Only few processes need it.

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if there is anybody of it left."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # Nobody of that group is left, or it became another user's.


def find_program(name: str, environ: dict[str, str]) -> str:
    """Look a command up on the job's PATH, as its shell would."""
    if "/" in name:
        return name
    for directory in environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise FileNotFoundError(2, "command not found", name)


def script_descriptor(code: str) -> int:
    """Put bash code where only this job sees it: no file, no argument."""
    fd = os.memfd_create("script", os.MFD_CLOEXEC)
    try:
        os.write(fd, code.encode("utf-8", "surrogateescape"))
        # A number that is free of the ones that the job gets.
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    finally:
        os.close(fd)
