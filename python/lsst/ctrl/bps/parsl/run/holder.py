# SPDX-License-Identifier: BSD-3-Clause
"""Who a process is, for others that look at it from elsewhere.

Two processes are one where the boot of the host, the namespace of their
numbers, the number and the time when they began are the same. A host's name
may change; it is there for people, and to tell that a process of an earlier
boot is dead.

A container may number its processes by itself (pid_namespaces(7)). A number
of another namespace says nothing here, where another process may have it.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ..files import read_file
from ..node.processes import own_start_time, pid_namespace, start_time

__all__ = ["Holder", "read_holder"]

_OF_THE_HOST = "pid:[4026531836]"
"""The namespace that a host boots with has the same number on all hosts (``PROC_PID_INIT_INO``)."""


@dataclass(frozen=True)
class Holder:
    """A process that drives a run."""

    host: str = field(compare=False)
    """Name of its host, at that time."""

    pid: int
    """Its process id, in its own namespace."""

    started: int
    """When the process began, in clock ticks since the boot: a clock that is
    set does not change it."""

    boot: str
    """Identity of the host's boot; process ids begin anew with each."""

    namespace: str = ""
    """Namespace of its process id; nothing where that is not known."""

    def __str__(self) -> str:
        if self.namespace in ("", pid_namespace()):
            return f"{self.host} (pid {self.pid})"
        if self.namespace != _OF_THE_HOST:
            return f"{self.host}, in a process namespace of its own (pid {self.pid} there)"
        if self.boot == _boot_id():
            return f"{self.host}, outside this process namespace (pid {self.pid} there)"
        return f"{self.host} (pid {self.pid})"

    @classmethod
    def this_process(cls) -> Holder:
        """Describe this process."""
        return cls(socket.gethostname(), os.getpid(), own_start_time(), _boot_id(), pid_namespace())

    def is_seen_here(self) -> bool:
        """Tell whether its number is one of those that this process sees."""
        return (
            self.is_of_this_boot()
            and self.namespace in ("", pid_namespace())
            # A namespace may have been made without a /proc of its own.
            and os.readlink("/proc/self") == str(os.getpid())
        )

    def runs_here(self) -> bool:
        """Tell whether it is a living process that is seen here, whatever this host is called by now."""
        return self.is_seen_here() and start_time(self.pid) == self.started

    def is_of_this_boot(self) -> bool:
        """Tell whether its locks are this kernel's, too."""
        return self.boot == _boot_id()

    def was_here(self) -> bool:
        """Tell whether it was a process of this host that would be seen here, so that it is dead where
        it is not.
        """
        if self.is_of_this_boot():
            return self.is_seen_here()
        return self.host == socket.gethostname()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def read_holder(path: Path) -> Holder | None:
    """Read who held a lock last.

    Parameters
    ----------
    path : `pathlib.Path`
        The lock file.

    Returns
    -------
    holder : `Holder` or `None`
        `None` where nobody ever did, or where the file cannot be read: it
        only serves to name the holder.
    """
    try:
        content = json.loads(read_file(path))
        return Holder(**content)
    except (OSError, ValueError, TypeError):
        return None
