# SPDX-License-Identifier: BSD-3-Clause
"""Messages with file descriptors, of any length; standard library only.

A socket that keeps messages apart takes each as a whole, and none that is
longer than its buffer (``net.core.wmem_max``, 212,992 bytes). The list of the
modules that a job has imported may well be longer.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Sequence

__all__ = ["receive_packet", "send_packet"]

LONGEST = 1 << 15
"""Bytes of a message that is sent as it is. A longer one is in memory whose
descriptor is sent."""

_IN_MEMORY = b"\0"


def send_packet(sock: socket.socket, data: bytes, fds: Sequence[int] = (), *, wait: bool = True) -> None:
    """Send a message.

    Parameters
    ----------
    sock : `socket.socket`
        A Unix socket of packets or datagrams.
    data : `bytes`
        The message; neither empty nor a NUL.
    fds : `~collections.abc.Sequence` [`int`], optional
        File descriptors that go with it.
    wait : `bool`, optional
        Whether to wait for room where the other end does not read.

    Raises
    ------
    OSError
        Raised if the other end is gone, or would have to be waited for.
    """
    memory = -1
    try:
        if len(data) > LONGEST:
            memory = os.memfd_create("message", os.MFD_CLOEXEC)
            with open(memory, "wb", closefd=False) as stream:
                stream.write(data)
            data, fds = _IN_MEMORY, [*fds, memory]
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        sock.sendmsg([data], passed, 0 if wait else socket.MSG_DONTWAIT)
    finally:
        if memory >= 0:
            os.close(memory)


def receive_packet(sock: socket.socket, most_fds: int = 0) -> tuple[bytes, list[int]]:
    """Take a message, waiting for one.

    Parameters
    ----------
    sock : `socket.socket`
        The other end's socket.
    most_fds : `int`, optional
        How many file descriptors may go with it.

    Returns
    -------
    data : `bytes`
        The message; nothing at the end.
    fds : `list` [`int`]
        The file descriptors; no program that is executed gets them. There are
        fewer than were sent where this process may have no more files open.
    """
    data, fds, _, _ = socket.recv_fds(sock, LONGEST, most_fds + 1, socket.MSG_CMSG_CLOEXEC)
    if data == _IN_MEMORY and fds:
        memory = fds.pop()
        with open(memory, "rb") as stream:
            data = os.pread(memory, os.fstat(stream.fileno()).st_size, 0)
    return data, fds
