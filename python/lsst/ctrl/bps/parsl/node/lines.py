# SPDX-License-Identifier: BSD-3-Clause
"""Writing bytes whole; reading messages in JSON, one a line; standard library only."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import Any

__all__ = ["Lines", "write_whole"]


def write_whole(fd: int, data: bytes) -> None:
    """Write bytes, all of them.

    Parameters
    ----------
    fd : `int`
        File descriptor, which is not for appending by several processes:
        a disk may take a part at a time.
    data : `bytes`
        What to write.

    Raises
    ------
    OSError
        Raised if it cannot be written whole. A system that is out of space
        writes what it can, and says why only when it is asked again.
    """
    rest = memoryview(data)
    while rest:
        written = os.write(fd, rest)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest = rest[written:]


class Lines:
    """Messages that come from a socket.

    Parameters
    ----------
    source : `socket.socket`
        The socket.
    """

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._rest = b""

    def read(self) -> list[dict[str, Any]] | None:
        """Return the messages that are there, waiting for some where the socket waits; `None` at the end."""
        try:
            data = self._source.recv(1 << 18)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]
