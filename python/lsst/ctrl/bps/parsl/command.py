# SPDX-License-Identifier: BSD-3-Clause
"""From BPS's command templates to what the node runs.

What the user wrote as a command is a command line: it may use a shell's
grammar. What is put into it (data ids, paths, options) is data: it reaches
the job as it is and nothing in it is executed. A command line that needs no
shell is run without one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Command", "build_command"]

LONGEST_WORD = 128 * 1024 - 1
"""Bytes of one argument that Linux takes (``MAX_ARG_STRLEN``)."""

_PLACEHOLDER = re.compile(r"<FILE:([^>]*)>|{([^{}\s]+)}")
_ENV = re.compile(r"(<ENV:[^>]*>)")
_PLAIN = re.compile(r"(?:[\w \t.//:=,+@%~^*?#!{}\[\]-]|<ENV:[^>]*>)*")
_SHELL_CHARACTERS = frozenset("|&;<>()$`\n")
_SHELL_WORDS = frozenset(
    ". ! { [[ alias bind case cd command declare eval exec exit export for function hash if let local "
    "popd pushd read readonly set shopt source time trap type typeset ulimit umask unset until while".split()
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")


class Command(NamedTuple):
    """A command line, and its words where no shell is needed."""

    line: str
    """Text that bash runs; BPS's ``<ENV:name>`` is still in it."""

    words: list[str] | None
    """The words to execute, or `None` where only bash can tell."""


def build_command(template: str, values: Mapping[str, object], files: Mapping[str, str]) -> Command:
    """Put values and file names into a command template.

    Parameters
    ----------
    template : `str`
        Executable and arguments with ``{name}`` and ``<FILE:name>``.
    values : `~collections.abc.Mapping` [`str`, `object`]
        BPS's ``cmdvals``. A name in braces that is not among them is left as
        it is.
    files : `~collections.abc.Mapping` [`str`, `str`]
        Paths by logical file name.

    Returns
    -------
    command : `Command`
        The command.

    Raises
    ------
    KeyError
        Raised if the template names a file that is not among ``files``.
    ValueError
        Raised if a quotation in the template has no end.
    """
    pieces: list[str] = []
    needs_shell = False
    quote = ""
    position = 0
    for match in _PLACEHOLDER.finditer(template):
        text = template[position : match.start()]
        quote, special = _scan(text, quote)
        needs_shell |= special
        pieces.append(text)
        position = match.end()
        file_name, value_name = match.groups()
        if file_name is not None:
            pieces.append(_quoted(files[file_name], quote, one_word=True))
        elif value_name in values:
            pieces.append(_quoted(str(values[value_name]), quote, one_word=False))
        else:
            pieces.append(match.group())
    text = template[position:]
    quote, special = _scan(text, quote)
    if quote:
        raise ValueError(f"a quotation ({quote}) has no end")
    pieces.append(text)
    line = "".join(pieces)
    if needs_shell or special:
        return Command(line, None)
    words = split_words(line)
    if not words or words[0] in _SHELL_WORDS or _ASSIGNMENT.match(words[0]):
        return Command(line, None)
    return Command(line, words)


def split_words(line: str) -> list[str]:
    """Split a line into words as a shell does.

    Parameters
    ----------
    line : `str`
        The line.

    Returns
    -------
    words : `list` [`str`]
        Its words, without their quotations.

    Raises
    ------
    ValueError
        Raised if a quotation has no end.
    """
    if "'" in line or '"' in line or "\\" in line or "#" in line:
        return shlex.split(line)
    return line.split()  # The same, and a hundred times faster.


def _scan(text: str, quote: str) -> tuple[str, bool]:
    """Follow quotations through a part of a template.

    Returns the quotation that is open at the end, and whether the part uses a
    shell's grammar.
    """
    if not quote and _PLAIN.fullmatch(text):
        return "", False
    special = False
    characters = iter(_ENV.sub("", text))
    for character in characters:
        if quote == "'":
            quote = "" if character == "'" else quote
        elif character == "\\":
            next(characters, None)
        elif quote == '"':
            special |= character in "$`"
            quote = "" if character == '"' else quote
        elif character in "'\"":
            quote = character
        elif character in _SHELL_CHARACTERS:
            special = True
    return quote, special


def _quoted(value: str, quote: str, one_word: bool) -> str:
    """Write a value so that a shell reads it as data."""
    if quote:
        # Close the quotation, put the value, open it again.
        return f"{quote}{_inert(value)}{quote}"
    if one_word or not value.strip():
        return _inert(value) if value else ""
    try:
        # Options such as "-c task:key='a b'": several words, by the quotes
        # that are in them.
        words = split_words(value)
    except ValueError:
        words = [value]
    return " ".join(_inert(word) for word in words)


def _inert(value: str) -> str:
    # "<ENV:name>" is not a shell's: it is bash code at the end (`shell_line`)
    # or replaced word by word on the node.
    return shlex.quote(value)


def shell_line(line: str) -> str:
    """Write BPS's ``<ENV:name>`` as bash reads it.

    Parameters
    ----------
    line : `str`
        Line of a `Command`.

    Returns
    -------
    line : `str`
        The same with ``"${name}"``, which bash replaces by the value and does
        not read again.
    """
    pieces = []
    quote = ""
    for piece in _ENV.split(line):
        if _ENV.fullmatch(piece):
            content = piece[5:-1]
            name = re.match(r"[A-Za-z_]\w*", content)
            text = f"${{{name.group()}}}" if name else ""
            rest = content[name.end() :] if name else "$" + content
            if quote == '"':
                pieces.append(text + rest)
            else:
                pieces.append(f'{quote}"{text}"{quote}{rest}')
        else:
            quote, _ = _scan(piece, quote)
            pieces.append(piece)
    return "".join(pieces)
