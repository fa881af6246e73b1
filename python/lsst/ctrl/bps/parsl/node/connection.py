# SPDX-License-Identifier: BSD-3-Clause
"""A process that asks a runner for jobs; standard library only."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

from .lines import Lines
from .records import ATTEMPT_VARIABLE, expand

__all__ = ["Connection"]

THREADS = "OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS".split()
"""What libraries read to know how many threads to start. Without it, they start
one for each core of the node, whatever the job has asked for. HTCondor sets
the same (``STARTER_NUM_THREADS_ENV_VARS``)."""

LAST_WORDS = 1.0
"""Seconds that the other end has to read what is left at the end."""


class Connection:
    """Requests from one process, and replies to it.

    Parameters
    ----------
    connected : `socket.socket`
        The connection. Both ways, a line is a message in JSON.
    """

    def __init__(self, connected: socket.socket) -> None:
        # Nobody else's jobs wait for one who is stopped and does not read.
        connected.setblocking(False)
        self._socket = connected
        self._unsent = bytearray()
        self._lines = Lines(connected)
        self._replies: list[dict[str, Any]] = []
        self.setup: dict[str, Any] = {}
        self.refused = 0
        self.open = True

    def fileno(self) -> int:
        """Return the file descriptor, for selectors."""
        return self._socket.fileno()

    def read(self) -> list[dict[str, Any]] | None:
        """Return the messages that are there; `None` at the end."""
        return self._lines.read()

    def reply(self, message: dict[str, Any]) -> None:
        """Have a message sent with the next `flush`."""
        self._replies.append(message)

    def say(self, message: dict[str, Any]) -> None:
        """Have a message sent before the replies of the next `flush`."""
        self._replies.insert(0, message)

    def flush(self, more: dict[str, Any]) -> bool:
        """Send what there is to send, as far as the other end has room for it.

        Parameters
        ----------
        more : `dict`
            What each message is to have besides.

        Returns
        -------
        good : `bool`
            `False` where nobody is there any more.
        """
        replies, self._replies = self._replies, []
        for reply in replies:
            self._unsent += json.dumps({**reply, **more}).encode() + b"\n"
        try:
            while self._unsent and self.open:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    @property
    def is_behind(self) -> bool:
        """Whether something waits for the other end to read."""
        return bool(self._unsent)

    def close(self) -> None:
        """End the connection; who reads at all gets what was not sent yet."""
        if self._unsent and self.open:
            self._socket.settimeout(LAST_WORDS)
            with suppress(OSError):
                self._socket.sendall(self._unsent)
        self.open = False
        self._socket.close()

    def environment(self, spec: dict[str, Any]) -> dict[str, str]:
        """Return the environment of a job.

        Parameters
        ----------
        spec : `dict`
            The job.

        Returns
        -------
        environ : `dict` [`str`, `str`]
            Its variables.
        """
        environ: dict[str, str] = {**self.setup["environment"], ATTEMPT_VARIABLE: str(spec["a"])}
        for name, value in spec["env"].items():
            environ[name] = expand(value, environ)
        for name in THREADS:
            environ.setdefault(name, str(spec["cpus"]))
        return environ
