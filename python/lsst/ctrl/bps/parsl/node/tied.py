# SPDX-License-Identifier: BSD-3-Clause
"""Becomes a program that ends when the process that started it ends.

Parsl's interchange outlives a driver that is killed, and goes on handing out
what it holds. Called as ``tied.py <pid of the parent> <submit path> <program>
<arguments>``; standard library only.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for a signal at the parent's death, then run the program."""
    parent, submit_path, *command = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the driver has ended")
    os.setsid()  # Ctrl-C at a terminal is for the driver.
    # Where the kernel did not do it, a restart finds it by this.
    os.environ["BPS_PARSL_SUBMIT_PATH"] = submit_path
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
