# SPDX-License-Identifier: BSD-3-Clause
"""What runners and the rest of the package have in common; standard library
only.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

__all__ = ["CANNOT_EXECUTE", "NOT_FOUND", "encode_line", "expand", "variables"]

CANNOT_EXECUTE = 126
"""Exit code of a command that exists and cannot be started (POSIX shell)."""

NOT_FOUND = 127
"""Exit code of a command that does not exist (POSIX shell)."""

_ENV = re.compile(r"<ENV:([^>]*)>")
_ENV_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def encode_line(record: dict[str, Any]) -> bytes:
    """Encode one line of a journal.

    Parameters
    ----------
    record : `dict`
        What to write; not empty.

    Returns
    -------
    line : `bytes`
        JSON with a last member ``crc``, the CRC-32 of the record without it.
    """
    body = json.dumps(record, separators=(",", ":"))
    return f'{body[:-1]},"crc":{zlib.crc32(body.encode())}}}\n'.encode()


def expand(text: str, environ: dict[str, str]) -> str:
    """Put the values of environment variables into a text.

    Parameters
    ----------
    text : `str`
        Text with BPS's ``<ENV:name>``.
    environ : `dict` [`str`, `str`]
        The variables; one that is not set stands for nothing.

    Returns
    -------
    expanded : `str`
        The text. BPS writes ``$5`` as ``<ENV:5>`` and ``$HOME/x`` as
        ``<ENV:HOME/x>``; both come out as they were meant.
    """

    def value(match: re.Match[str]) -> str:
        content = match.group(1)
        name = _ENV_NAME.match(content)
        if name is None:
            return "$" + content
        return environ.get(name.group(), "") + content[name.end() :]

    return _ENV.sub(value, text)


def variables(text: str) -> list[str]:
    """Return the names of the environment variables in a text.

    Parameters
    ----------
    text : `str`
        Text with BPS's ``<ENV:name>``.

    Returns
    -------
    names : `list` [`str`]
        The names, as they stand there.
    """
    return _ENV.findall(text)
