# SPDX-License-Identifier: BSD-3-Clause
"""Which of a user's runs are meant."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..paths import SubmitPaths
from ..run.registry import Registry
from .view import RunView

__all__ = ["all_runs", "belongs_to", "find_run", "is_recent"]

_SECONDS_PER_DAY = 86400.0


def find_run(wms_id: str) -> RunView:
    """Find a run by its id, the beginning of it, or its submit path.

    Parameters
    ----------
    wms_id : `str`
        What was given.

    Returns
    -------
    view : `RunView`
        The run.

    Raises
    ------
    RunNotFoundError
        Raised if there is none, or more than one.
    """
    registry = Registry()
    return RunView(SubmitPaths(registry.find(str(wms_id))), registry)


def all_runs() -> Iterator[tuple[RunView, float]]:
    """Iterate over the user's runs; the list of them is read once.

    Yields
    ------
    view : `RunView`
        A run.
    created : `float`
        When it was prepared, in seconds since 1970.
    """
    registry = Registry()
    for entry in registry.entries:
        yield RunView(SubmitPaths(entry.submit_path), registry), entry.created


def belongs_to(view: RunView, user: str | None) -> bool:
    """Tell whether a run is of a user; of anybody where none is named."""
    return not user or view.plan.header["attributes"].get("bps_operator") == user


def is_recent(view: RunView, created: float, hist: float) -> bool:
    """Tell whether a run is going, or something was written of it in the last ``hist`` days."""
    if view.holder is not None:
        return True
    if not hist:
        return False
    try:
        last = view.paths.driver_journal.stat().st_mtime
    except FileNotFoundError:
        last = created
    return time.time() - last < hist * _SECONDS_PER_DAY
