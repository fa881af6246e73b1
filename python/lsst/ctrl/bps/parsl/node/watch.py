# SPDX-License-Identifier: BSD-3-Clause
"""Sees whether an import does more than to define things; standard library only.

A module may write, log, or change this process when it is imported. It would
do so in a fresh process of each job that imports it, and in no other.
"""

from __future__ import annotations

import ctypes
import locale
import logging
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .processes import children, umask

__all__ = ["Watch"]

_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


class Watch:
    """What imports do to this process.

    The state that it is compared with is that of the beginning; see `begin`.
    """

    def __init__(self) -> None:
        self._noted: str | None = None
        self._threads = 1
        self._state: dict[str, Any] = {}
        self._originals: list[tuple[Any, str, Any]] = []
        self._numpy = False

    def begin(self) -> None:
        """Take the state of this process for the one that it should have."""
        self._state = _state()

    def complaint(self) -> str | None:
        """Say what imports did that they should not do.

        Returns
        -------
        complaint : `str` or `None`
            What a module did, as in "writes"; `None` if it did nothing.
        """
        if self._noted:
            return self._noted
        state = _state()
        for what, before in self._state.items():
            if state[what] != before:
                return what
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1 and threads != self._threads:
            # Some libraries end their threads for a fork, and make new ones.
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            if len(os.listdir("/proc/self/task")) > 1:
                return "leaves a thread running"
        self._threads = threads
        return None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note calls of functions that have another result in each process."""
        self._replace(logging.Logger, "isEnabledFor", self._is_enabled)
        self._replace(random.Random, "seed", self._seed)
        try:
            yield
        finally:
            for owner, name, original in self._originals:
                setattr(owner, name, original)
            self._originals.clear()
            self._numpy = False

    def look(self) -> None:
        """Watch also what was imported in the meantime."""
        generator = sys.modules.get("numpy.random.bit_generator")
        if not self._numpy and hasattr(generator, "randbits"):
            self._numpy = True
            self._replace(generator, "randbits", self._randbits)

    def _replace(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        self._originals.append((owner, name, original))
        setattr(owner, name, _bound(replacement, original))

    def _is_enabled(self, original: Callable[..., bool], logger: logging.Logger, level: int) -> bool:
        if level >= logging.INFO:
            self._noted = "logs"
        return original(logger, level)

    def _seed(self, original: Callable[..., None], generator: random.Random, *arguments: Any) -> None:
        if not any(argument is not None for argument in arguments):
            self._noted = "makes random numbers"
        original(generator, *arguments)

    def _randbits(self, original: Callable[..., int], *arguments: Any) -> int:
        # NumPy's own is seeded again in each child.
        if not _caller().startswith("numpy."):
            self._noted = "makes random numbers"
        return original(*arguments)


def _bound(replacement: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(*arguments: Any) -> Any:
        return replacement(original, *arguments)

    return replaced


def _caller() -> str:
    """Return the name of the module whose code is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(("importlib", __name__.rpartition(".")[0])):
            return name
        frame = frame.f_back
    return ""


def _state() -> dict[str, Any]:
    """Return what a job would find changed, by what to say of who changed it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ctypes.CDLL(None).fflush(None)  # C code may have written, too.
    return {
        "writes": [os.fstat(fd).st_size for fd in (1, 2)],
        "replaces the standard streams": [id(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        # threadpoolctl, which LSST's middleware imports, sets one for Intel's library.
        "changes the environment": {k: v for k, v in os.environ.items() if not k.startswith("KMP_")},
        "changes the directory": os.getcwd(),
        "changes the umask": umask(),
        "changes where modules are looked for": (list(sys.path), len(sys.meta_path), len(sys.path_hooks)),
        "sets a signal handler": [signal.getsignal(number) for number in range(1, 32)],
        "sets a timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "changes a limit": [resource.getrlimit(limit) for limit in _LIMITS],
        "changes the recursion limit": sys.getrecursionlimit(),
        "changes the locale": locale.setlocale(locale.LC_ALL),
        "chooses processors": os.sched_getaffinity(0),
        "leaves a file open": sorted(os.listdir("/proc/self/fd"), key=int),
        "leaves a process running": children(os.getpid()),
    }
