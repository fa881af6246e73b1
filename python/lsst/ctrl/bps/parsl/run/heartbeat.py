# SPDX-License-Identifier: BSD-3-Clause
"""Signs of life while a driver waits for something."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from ..errors import ParslBpsError, RunHeldError

__all__ = ["Heartbeat"]

LOOKS = 5
"""Number of times that it is looked whether a sign is due, in the time between two."""


class Heartbeat:
    """Has a sign of life be given, also while the driver waits for a command of the batch system.

    Parameters
    ----------
    beat : `~collections.abc.Callable`
        Gives a sign where one is due. What it raises is for the driver, which
        calls it before it writes anything.
    seconds : `float`
        Time between two signs.
    """

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        self._beat = beat
        self._pause = seconds / LOOKS
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause):
            try:
                with suppress(OSError):  # A file system that is away for a while.
                    self._beat()
            except RunHeldError:
                return  # It is another driver's: no more signs of this one.
            except ParslBpsError:
                pass  # It may be back the next time.

    def stop(self) -> None:
        """Give no more signs."""
        self._stopped.set()
        self._thread.join()
