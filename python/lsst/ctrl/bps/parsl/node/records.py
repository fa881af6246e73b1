# SPDX-License-Identifier: BSD-3-Clause
"""What runners and the rest of the package have in common; standard library
only.
"""

from __future__ import annotations

import re

__all__ = [
    "ATTEMPT_VARIABLE",
    "CANNOT_EXECUTE",
    "LEVEL",
    "MOST_BYTES",
    "NOT_FOUND",
    "RUNNER_VARIABLE",
    "RUN_VARIABLE",
    "expand",
    "variables",
]

CANNOT_EXECUTE = 126
"""Exit code of a command that exists and cannot be started (POSIX shell)."""

NOT_FOUND = 127
"""Exit code of a command that does not exist (POSIX shell)."""

ATTEMPT_VARIABLE = "BPS_PARSL_ATTEMPT"
"""Environment variable that tells a job the number of its attempt, from 1."""

RUN_VARIABLE = "BPS_PARSL_SUBMIT_PATH"
"""Environment variable of every process of a run: its submit directory."""

RUNNER_VARIABLE = "BPS_PARSL_RUNNER"
"""Environment variable of a runner process and its jobs."""

LEVEL = "BPS_PARSL_SHLVL"
"""Environment variable with bash's level before it became a fork server."""

MOST_BYTES = 1 << 17
"""Size of the largest request to a fork server."""

_ENV = re.compile(r"<ENV:([^>]*)>")
_ENV_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


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
