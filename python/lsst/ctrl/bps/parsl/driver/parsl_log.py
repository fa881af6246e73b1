# SPDX-License-Identifier: BSD-3-Clause
"""Where Parsl's log goes while a run goes on."""

from __future__ import annotations

import copy
import logging
import os

from ..files import open_append, storage_errors

__all__ = ["ParslLog"]

_CHATTY = ("parsl.dataflow.dflow", "parsl.dataflow.memoization", "parsl.process_loggers")
"""Loggers of Parsl that write several lines for each job."""


class ParslLog:
    """Parsl's log: a file, and the terminal for what matters.

    Parameters
    ----------
    path : `str`
        The file; it gets what is at INFO and above.
    level : `int`
        Level from which on the terminal gets it as well.
    """

    def __init__(self, path: str, level: int) -> None:
        self._logger = logging.getLogger("parsl")
        self._before = (self._logger.level, self._logger.propagate)
        with storage_errors(path, "write Parsl's log"):
            os.close(open_append(path))
        self._file = logging.FileHandler(path, delay=True, encoding="utf-8", errors="backslashreplace")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
        self._terminal = _ToRoot(level)
        self._logger.setLevel(min(level, logging.INFO))
        self._file.setLevel(logging.INFO)
        self._logger.propagate = False
        for handler in (self._file, self._terminal):
            self._logger.addHandler(handler)
        self._chatty_before = [(name, logging.getLogger(name).level) for name in _CHATTY]
        if level > logging.INFO:
            for name in _CHATTY:
                logging.getLogger(name).setLevel(level)

    def close(self) -> None:
        """Leave logging as it was."""
        for handler in (self._file, self._terminal):
            self._logger.removeHandler(handler)
        self._file.close()
        level, propagate = self._before
        self._logger.setLevel(level)
        self._logger.propagate = propagate
        for name, before in self._chatty_before:
            logging.getLogger(name).setLevel(before)


_NO_NEWS = ("Could not find enough blocks to kill", "Task %s failed after")
"""What Parsl says is wrong, and is meant to be so, or is said by the driver."""


class _ToRoot(logging.Handler):
    """Hands records on to the handlers of the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith(_NO_NEWS):
            return
        record = copy.copy(record)
        # A traceback of Parsl's is in its log.
        record.exc_info = record.exc_text = None
        logging.getLogger().handle(record)
