# SPDX-License-Identifier: BSD-3-Clause
"""Becomes Parsl's pool of workers, with sockets whose paths are short.

The pool has a process for what its workers share (`multiprocessing.Manager`),
which listens on a Unix socket among the temporary files. Such a path has room
for 107 bytes (unix(7)), and batch systems give jobs a ``TMPDIR`` that is
longer. Called with the arguments of Parsl's ``process_worker_pool.py``;
standard library only, and Parsl.
"""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    sys.path[0] = os.getcwd()  # As with python -m; what is beside this file hides no module.

import runpy
from multiprocessing import process, util

POOL = "parsl.executors.high_throughput.process_worker_pool"
"""Parsl's module."""

LONGEST = 80
"""Bytes of a directory that leaves enough for the names of sockets in it."""


def shorten_sockets() -> None:
    """Have `multiprocessing` reach its temporary directory by the number of an open file.

    It stays where it was, and is removed as before. The processes of the pool
    take the short name over; it is good for as long as the pool lives.
    """
    directory = util.get_temp_dir()
    if len(os.fsencode(directory)) <= LONGEST:
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    short = f"/proc/{os.readlink('/proc/self')}/fd/{fd}"
    process.current_process()._config["tempdir"] = short  # type: ignore[attr-defined]


if __name__ == "__main__":
    shorten_sockets()
    runpy.run_module(POOL, run_name="__main__", alter_sys=True)
