# SPDX-License-Identifier: BSD-3-Clause
"""Messages in JSON, one a line; standard library only."""

from __future__ import annotations

import json
import socket
from typing import Any

__all__ = ["Lines"]


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
        """Return the messages that are there, waiting for some; `None` at the end."""
        try:
            data = self._source.recv(1 << 18)
        except ConnectionError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]
