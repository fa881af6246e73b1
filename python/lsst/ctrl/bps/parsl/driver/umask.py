# SPDX-License-Identifier: BSD-3-Clause
"""The umask while a run goes on.

Parsl and Work Queue make scripts, directories and serialized functions by the
umask alone, in several threads and processes; jobs have the user's.
"""

from __future__ import annotations

import os
import threading

__all__ = ["close_umask", "restore_umask"]

_OTHERS_WRITE = 0o022

_LOCK = threading.Lock()
_before: list[int] = []
"""The user's umask, as often as there are runs in this process."""


def close_umask() -> int:
    """Have this process make nothing that others can write to.

    Returns
    -------
    umask : `int`
        What it was before: the user's.
    """
    with _LOCK:
        if not _before:
            _before.append(os.umask(0o077))
            os.umask(_before[0] | _OTHERS_WRITE)
        else:
            _before.append(_before[0])
        return _before[0]


def restore_umask() -> None:
    """Undo it once."""
    with _LOCK:
        before = _before.pop()
        if not _before:
            os.umask(before)
