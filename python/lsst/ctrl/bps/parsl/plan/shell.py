# SPDX-License-Identifier: BSD-3-Clause
"""What bash has for its own words, and where in its grammar a place in a command line is."""

from __future__ import annotations

import re

__all__ = ["COMMENT", "SHELL_WORDS", "open_quotation"]

SHELL_WORDS = frozenset(
    ". : ! [[ ]] { } alias bg bind break builtin caller case cd command compgen complete compopt continue "
    "coproc declare dirs disown do done elif else enable esac eval exec exit export fc fg fi for function "
    "getopts hash help history if in jobs let local logout mapfile popd pushd read readarray readonly return "
    "select set shift shopt source suspend then time times trap type typeset ulimit umask unalias unset "
    "until wait while".split()
)
"""Bash's own words (``compgen -b -k``), but for those that are programs, too."""

COMMENT = "#"
"""What `open_quotation` says of a place in a comment."""

_UNCLEAR = re.compile(r"<<|`|\$'|\bcase\b|\besac\b")
"""Here documents, back quotes and their kin: what comes after them is not followed."""

_ENDS = {"'": "'", '"': '"', "(": ")", "{": "}", COMMENT: "\n"}
_BEFORE_COMMENT = " \t\n;&|()<>"


def open_quotation(text: str) -> str | None:
    """Return the quotation that is open at the end of a text.

    Parameters
    ----------
    text : `str`
        Beginning of a command line.

    Returns
    -------
    quotation : `str` or `None`
        A quote, or nothing where none is open, also within ``$(...)``; `COMMENT`
        in a comment; `None` where it is not clear what a quote would mean.
    """
    if _UNCLEAR.search(text):
        return None
    inside = [""]
    before = " "
    characters = iter(text)
    for character in characters:
        top = inside[-1]
        if top in ("'", COMMENT):
            if character == _ENDS[top]:
                inside.pop()
        elif character == "\\":
            if next(characters, None) is None:
                return None  # What comes next is escaped.
            character = ""
        elif before == "$" and character in "({":
            inside.append(character)
        elif character == _ENDS.get(top):
            inside.pop()
        elif character == '"' or (top != '"' and character in "'("):
            inside.append(character)
        elif character == "#" and before and before in _BEFORE_COMMENT and top in ("", "("):
            inside.append(COMMENT)
        before = character
    return {"(": "", "{": None}.get(inside[-1], inside[-1])
