# SPDX-License-Identifier: BSD-3-Clause
"""Variables of the environment in commands, as users and BPS write them.

BPS writes ``<ENV:name>`` for the ``$name`` of a command. It does not read a
shell's grammar: releases before 2026.4300 take all up to the next blank for
the name, later ones all up to the next ``$``, ``(`` or ``}``.
"""

from __future__ import annotations

import re

from ..node.records import ATTEMPT_VARIABLE

__all__ = [
    "VARIABLE",
    "bash_text",
    "data_variables",
    "fill_in_attempt",
    "name_file",
    "named_by_bps",
    "unreadable_variable",
]

VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|{([A-Za-z_]\w*)})", re.ASCII)
"""A variable of a shell's, and no other expansion."""

_ENV_OF_ANY = re.compile(r"<ENV:((?:[^<>]|<ENV:)*)>")
_EXPANSION = re.compile(r":[-=+?]|[#%\[]")
_WMS = re.compile(r"<WMS:([^>]*)>")
_ENV_OF_BPS = re.compile(r"(\\?)<ENV:([^>]*)>")
_ESCAPE_OR_VARIABLE = re.compile(rf"\\.|{VARIABLE.pattern}", re.ASCII | re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def fill_in_attempt(text: str) -> str:
    """Put in what BPS leaves to the plugin.

    Parameters
    ----------
    text : `str`
        Text with BPS's ``<WMS:name>``.

    Returns
    -------
    filled : `str`
        The text with BPS's ``<ENV:name>`` in place of ``<WMS:attemptNum>``,
        the only one that there is.

    Raises
    ------
    ValueError
        Raised if there is another.
    """

    def variable(match: re.Match[str]) -> str:
        if match.group(1) != "attemptNum":
            raise ValueError(f"{match.group()} is not known; there is <WMS:attemptNum>")
        return f"<ENV:{ATTEMPT_VARIABLE}>"

    return _WMS.sub(variable, text) if "<WMS:" in text else text


def bash_text(text: str) -> str:
    """Write bash code of the user's as it was before BPS read it.

    Parameters
    ----------
    text : `str`
        Bash code with BPS's ``<ENV:name>`` and ``<WMS:attemptNum>``.

    Returns
    -------
    code : `str`
        The code. BPS writes ``$NAME/x`` and ``${NAME/x}`` alike; it is taken
        for the first, and with the operators ``:-``, ``:=``, ``:+``, ``:?``,
        ``#``, ``%`` and ``[`` for the second.

    Raises
    ------
    ValueError
        Raised if there is a variable in the braces of another, which BPS
        takes apart, or a ``<WMS:name>`` that is not known.
    """

    def variable(match: re.Match[str]) -> str:
        content = match.group(1)
        if "<ENV:" in content:
            raise ValueError("BPS cannot read a variable in the braces of another; write it into a script")
        name = _NAME.match(content)
        if name is None or name.end() == len(content) or _EXPANSION.match(content, name.end()):
            return f"${{{content}}}" if name or content[:1] in "#!" else f"${content}"
        return f"${{{name.group()}}}{content[name.end() :]}"

    return _ENV_OF_ANY.sub(variable, fill_in_attempt(text))


def name_file(text: str, name: str, file: str) -> str:
    """Name a file where a name in braces stands for it.

    Parameters
    ----------
    text : `str`
        A command.
    name : `str`
        Name in braces; with a "$" before them it is a variable of the shell's.
    file : `str`
        Logical name of the file.

    Returns
    -------
    text : `str`
        The command with BPS's ``<FILE:name>``.
    """
    braced = f"{{{name}}}"
    if braced not in text:
        return text
    return re.sub(rf"(?<!\$){re.escape(braced)}", lambda _: f"<FILE:{file}>", text)


def named_by_bps(text: str) -> str:
    """Write variables as BPS does, in a text that is data.

    Parameters
    ----------
    text : `str`
        Text with ``$name`` and ``${name}``.

    Returns
    -------
    text : `str`
        The same with ``<ENV:name>``; any other ``$``, and one after a
        backslash, is left.
    """

    def variable(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        return f"<ENV:{name}>" if name else match.group()

    return _ESCAPE_OR_VARIABLE.sub(variable, text)


def data_variables(text: str) -> str:
    """Write BPS's variables so that only a name is in each.

    Parameters
    ----------
    text : `str`
        Text with BPS's ``<ENV:name>``.

    Returns
    -------
    text : `str`
        The same; what BPS took for a part of a name follows it, and a "$"
        that begins something else of the shell's, or is escaped, is a "$".
    """
    return _ENV_OF_BPS.sub(_variable, text) if "<ENV:" in text else text


def _variable(match: re.Match[str]) -> str:
    """Write an environment variable of BPS's so that only its name is in it.

    BPS takes a "$" and all up to the next blank for a variable, also where it
    begins something else of the shell's, or is escaped.
    """
    escape, content = match.groups()
    name = _NAME.match(content)
    if escape or name is None:
        return f"{escape}${content}"
    rest = VARIABLE.sub(r"<ENV:\1\2>", content[name.end() :])
    return f"<ENV:{name.group()}>{rest}"


def unreadable_variable(text: str) -> str | None:
    """Return a variable of BPS's that has lost what was around it.

    Parameters
    ----------
    text : `str`
        Text with BPS's ``<ENV:name>``.

    Returns
    -------
    variable : `str` or `None`
        The first in which a blank, or a brace of BPS's, follows the name:
        nobody can tell where it ends, since a ``>`` may have been in it.
    """
    for match in _ENV_OF_BPS.finditer(text):
        content = match.group(2)
        name = _NAME.match(content)
        rest = content[name.end() :] if name else content
        expands = rest and (_EXPANSION.match(rest) or (name is None and rest[0] in "#!"))
        if not expands and re.search(r"[\s{]", rest):
            return match.group()
    return None
