# SPDX-License-Identifier: BSD-3-Clause
"""The options of sbatch that users write for the head of a batch script."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Directive", "read_directives", "script_lines"]

_MARK = "#SBATCH"

_SHORT = {
    "A": "account",
    "C": "constraint",
    "M": "clusters",
    "N": "nodes",
    "c": "cpus-per-task",
    "d": "dependency",
    "p": "partition",
    "q": "qos",
    "s": "oversubscribe",
    "t": "time",
}
"""Long names of the short options that settings have to do with (sbatch(1))."""

_ALONE = frozenset(("exclusive", "oversubscribe"))
"""Options whose value, where they have one, is in the same word."""


class Directive(NamedTuple):
    """An option of sbatch."""

    option: str
    """Its long name without dashes, or its letter."""

    value: str
    """Its value; empty where there is none."""

    text: str
    """How it was written."""


def script_lines(text: str) -> list[str]:
    """Return the lines that a setting adds to a batch script.

    Parameters
    ----------
    text : `str`
        The setting ``scheduler_options``.

    Returns
    -------
    lines : `list` [`str`]
        The lines, with ``#SBATCH`` before options that were written without.
    """
    # sbatch(1) reads what begins with #SBATCH, without blanks before it.
    lines = [line.lstrip() for line in text.splitlines() if line.strip()]
    return [f"{_MARK} {line}" if line.startswith("-") else line for line in lines]


def read_directives(text: str) -> dict[str, Directive]:
    """Read the options of sbatch in a setting.

    Parameters
    ----------
    text : `str`
        The setting ``scheduler_options``.

    Returns
    -------
    directives : `dict` [`str`, `Directive`]
        The options by their names; of two of one name the last, as in sbatch.
    """
    return {found.option: found for line in _directive_lines(text) for found in _options(line)}


def _directive_lines(text: str) -> Iterator[str]:
    for line in script_lines(text):
        if not line.startswith("#"):
            return  # The first command: sbatch reads no further.
        if line.startswith((f"{_MARK} ", f"{_MARK}\t")):
            yield line.removeprefix(_MARK)


def _options(line: str) -> Iterator[Directive]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        words = line.split()  # A quote that is not closed: sbatch complains of it.
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
        elif word.startswith("-") and len(word) > 1:
            name, value, has_value = _SHORT.get(word[1], word[1]), word[2:], word[2:]
        else:
            continue
        if not has_value and name not in _ALONE and words and not words[0].startswith("-"):
            value = words.pop(0)
            word = f"{word} {value}"
        yield Directive(name, value, word)
