# SPDX-License-Identifier: BSD-3-Clause
"""The states of a job."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["JobState"]


class JobState(IntEnum):
    """State of a job; the names are BPS's ``WmsStates``."""

    UNREADY = 0
    READY = 1
    PENDING = 2
    RUNNING = 3
    SUCCEEDED = 4
    FAILED = 5
    PRUNED = 6
    DELETED = 7

    @property
    def is_final(self) -> bool:
        """Whether a job stays in it."""
        return self >= JobState.SUCCEEDED
