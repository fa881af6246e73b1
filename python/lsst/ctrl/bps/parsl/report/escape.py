# SPDX-License-Identifier: BSD-3-Clause
"""Text that cannot be shown as it is, shown escaped."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

__all__ = ["ascii_text", "escape_output"]

_ESCAPED = "backslashreplace"


def ascii_text(text: str) -> str:
    r"""Return a text for BPS's tables, which have room for bytes and no other letters than ASCII.

    Parameters
    ----------
    text : `str`
        The text.

    Returns
    -------
    shown : `str`
        The text with all other letters as ``\xe9`` and their like.
    """
    return text.encode("ascii", _ESCAPED).decode()


def escape_output() -> None:
    """Have letters escaped that the encoding of the terminal, or of a log, has none of.

    A label is whatever the pipeline says, and the locale may have no letters
    for it; what has been written before stays as it is.
    """
    for stream in (sys.stdout, sys.stderr):
        _escape(stream)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is None:
            handler.errors = _ESCAPED
        _escape(getattr(handler, "stream", None))


def _escape(stream: Any) -> None:
    errors, encoding = getattr(stream, "errors", None), getattr(stream, "encoding", None) or ""
    is_utf8 = encoding.lower().replace("-", "") == "utf8"
    # In UTF-8, names of files that are not go through as they are.
    if errors == "strict" or (errors == "surrogateescape" and not is_utf8):
        with suppress(AttributeError, OSError, ValueError):  # No stream of text of Python's, or closed.
            stream.reconfigure(errors=_ESCAPED)
