# SPDX-License-Identifier: BSD-3-Clause
"""What matters of a log: its end, and what went wrong before that."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..node.processes import os_bytes

__all__ = ["last_lines", "printable", "said"]

_LAST_LINES = 5
_LAST_BYTES = 1 << 16
_LONGEST_LINE = 2000
_COMPLAINT = "Error: "
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_EXCEPTION = re.compile(r"(?:\d+: )?[\w.]*(?:Error|Exception): ")
"""A line that ends a traceback; srun puts the number of the task before it."""


def printable(text: str) -> str:
    """Return a text of somebody else's as a terminal may show it.

    Parameters
    ----------
    text : `str`
        One line.

    Returns
    -------
    shown : `str`
        The line with its control characters spelled out, which could change
        what stands elsewhere, and cut where it is very long.
    """
    shown = _CONTROL.sub(lambda match: repr(match[0])[1:-1], text.rstrip("\r"))
    return shown if len(shown) <= _LONGEST_LINE else shown[:_LONGEST_LINE] + " ..."


def last_lines(path: Path) -> list[str]:
    """Read the end of a log.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.

    Returns
    -------
    lines : `list` [`str`]
        Its last lines, after the last exception before them; empty where
        there is no log.
    """
    lines = _lines(path)
    last = lines[-_LAST_LINES:]
    # What went wrong is often said earlier than what follows from it.
    causes = [line for line in lines[:-_LAST_LINES] if _EXCEPTION.match(line)]
    return [*causes[-1:], *last]


def said(path: Path) -> list[str]:
    """Read what a job that prepares others complained of.

    Parameters
    ----------
    path : `pathlib.Path`
        Its log.

    Returns
    -------
    lines : `list` [`str`]
        All lines from ``Error:`` on, which is how ``bps`` begins a complaint;
        the last lines where there is none.
    """
    lines = _lines(path)
    begins = [number for number, line in enumerate(lines) if line.startswith(_COMPLAINT)]
    return lines[begins[-1] :] if begins else last_lines(path)


def _lines(path: Path) -> list[str]:
    """Read the lines at the end of a log that say something."""
    try:
        with open(os_bytes(str(path)), "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LAST_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    shown = (printable(line) for line in text.split("\n"))
    return [line for line in shown if line.strip() and not line.startswith("---- attempt ")]
