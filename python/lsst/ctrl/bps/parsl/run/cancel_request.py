# SPDX-License-Identifier: BSD-3-Clause
"""A request to cancel a run: a file that its driver looks for."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..files import storage_errors, write_atomic
from .holder import Holder, read_holder

__all__ = ["ask_to_cancel", "is_asked", "take_cancel_request", "withdraw"]


def ask_to_cancel(path: Path, holder: Holder) -> None:
    """Ask a driver to cancel its run.

    Parameters
    ----------
    path : `pathlib.Path`
        File of the request.
    holder : `Holder`
        The driver; no later one is meant.
    """
    with storage_errors(path, "ask the driver to cancel the run"), write_atomic(path) as stream:
        stream.write(json.dumps(asdict(holder)).encode())


def take_cancel_request(path: Path) -> bool:
    """Tell whether this process was asked to cancel its run.

    Parameters
    ----------
    path : `pathlib.Path`
        File of the request; it is removed.

    Returns
    -------
    asked : `bool`
        `False` also where an earlier driver was meant.
    """
    if not is_asked(path):
        return False
    asked = read_holder(path) == Holder.this_process()
    withdraw(path)
    return asked


def is_asked(path: Path) -> bool:
    """Tell whether a request to cancel a run waits for its driver.

    Parameters
    ----------
    path : `pathlib.Path`
        File of the request.

    Returns
    -------
    asked : `bool`
        Whether it is there.
    """
    return os.path.lexists(path)


def withdraw(path: Path) -> None:
    """Remove a request to cancel a run.

    Parameters
    ----------
    path : `pathlib.Path`
        File of the request.
    """
    with suppress(OSError):  # It is for one driver alone: no other will heed it.
        path.unlink()
