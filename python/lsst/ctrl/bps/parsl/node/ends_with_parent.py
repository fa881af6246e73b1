# SPDX-License-Identifier: BSD-3-Clause
"""Becomes a program that ends when the process that started it ends.

Parsl's interchange outlives a driver that is killed, and goes on handing out
what it holds. Called as ``ends_with_parent.py <pid of the parent> <submit path> <program>
<arguments>``; standard library only.

A program in Python gets a clock that is not set: the interchange compares the
times of day of what it hears, and would take all pilots for lost at once.
"""

import ctypes
import os
import runpy
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_STEADY = "--steady"


def main() -> None:
    """Ask the kernel for a signal at the parent's death, then run the program."""
    parent, submit_path, *command = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the driver has ended")
    os.setsid()  # Ctrl-C at a terminal is for the driver.
    # Where the kernel did not do it, a restart finds it by this.
    os.environ["BPS_PARSL_SUBMIT_PATH"] = submit_path
    if _is_python(command[0]):
        # This interpreter again, with its packages.
        command = [sys.executable, os.path.abspath(__file__), _STEADY, *command]
    os.execv(command[0], command)


def _is_python(program: str) -> bool:
    with open(program, "rb") as stream:
        first = stream.readline(1000)
    return first.startswith(b"#!") and b"python" in first


def run_steadily() -> None:
    """Run a script with a time of day that goes on as time itself does."""
    sys.argv = sys.argv[2:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    offset = time.time() - time.monotonic()
    time.time = lambda: offset + time.monotonic()
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    run_steadily() if sys.argv[1] == _STEADY else main()
