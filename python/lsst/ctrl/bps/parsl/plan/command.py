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
from enum import IntEnum
from typing import NamedTuple

from .shell import COMMENT, SHELL_WORDS, open_quotation
from .variables import VARIABLE, data_variables, fill_in_attempt

__all__ = [
    "Command",
    "build_command",
    "has_substitutions",
    "placeholders",
    "shell_line",
    "split_words",
]

LONGEST_WORD = 128 * 1024 - 1
"""Bytes of one argument that Linux takes (``MAX_ARG_STRLEN``)."""

_PLACEHOLDER = re.compile(r"<FILE:([^>]*)>|{{(\w+)}}|(?<!\$){([^{}\s]+)}")
_LAST_VARIABLE = re.compile(r"(?<![\\$])\$([A-Za-z_]\w*)\Z", re.ASCII)
_IS_VARIABLE = "\udc00"  # In no text that was decoded.
_ENV = re.compile(r"(<ENV:[^>]*>)")
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_BLANKS = " \t\n"
_PLAIN = re.compile(r"(?:[\w \t./:=,+@%^-]|<ENV:[^>]*>)*")
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./ -]*")
_OPERATORS = frozenset("|&;<>()*?[\n")


class _Grammar(IntEnum):
    """How much of a shell's grammar a text uses."""

    NONE = 0
    SIMPLE = 1
    """Operators and patterns: a quoted value is safe anywhere."""

    NESTED = 2
    """Substitutions, here documents, comments: quotes have other meanings
    there, and so have values."""


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
        it is, and ``{{name}}`` stands for ``{name}``.
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
        Raised if a quotation in the template has no end, or if a value cannot
        be put where the template wants it.
    """
    parts = _parts(data_variables(fill_in_attempt(template)), values)
    grammar = _grammar_of(parts)
    pieces: list[str] = []
    quote = before = ""
    for text, match in parts:
        quote, _ = _scan(text, quote)
        if match is not None and quote != "'":
            text = _LAST_VARIABLE.sub(r"${\1}", text)  # The value is not of its name.
        pieces.append(text)
        before += text
        if match is not None:
            file_name, name = match.group(1), match.group(3)
            if file_name is not None and grammar == _Grammar.NESTED:
                pieces.append(_plain_word(file_name, files[file_name], before))
            elif file_name is not None:
                pieces.append(_filled(file_name, files[file_name], quote, grammar, one_word=True))
            else:
                pieces.append(_filled(name, str(values[name]), quote, grammar, one_word=False))
            before += "x"
    line = "".join(pieces)
    if grammar:
        return Command(line, None)
    words = split_words(line)
    if not words or words[0] in SHELL_WORDS or _ASSIGNMENT.match(words[0]):
        return Command(line, None)
    return Command(line, words)


def has_substitutions(template: str) -> bool:
    """Tell whether a command has substitutions, here documents or comments.

    Parameters
    ----------
    template : `str`
        As for `build_command`.

    Returns
    -------
    found : `bool`
        Whether quotes have other meanings in parts of it. A variable alone
        is no such part.
    """
    return _scan(template, "")[1] == _Grammar.NESTED


def placeholders(template: str) -> list[str]:
    """Return the names in braces in a command template.

    Parameters
    ----------
    template : `str`
        As for `build_command`.

    Returns
    -------
    names : `list` [`str`]
        The names.
    """
    return [name for _, _, name in _PLACEHOLDER.findall(template) if name]


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
    if line.isascii() and line.isprintable() and not any(character in line for character in "'\"\\"):
        return line.split()  # The same, and a hundred times faster.
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace = _BLANKS
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(lexer)


def _parts(template: str, values: Mapping[str, object]) -> list[tuple[str, re.Match[str] | None]]:
    """Part a template at what is to be filled in: each text, and what is to
    come after it.
    """
    parts: list[tuple[str, re.Match[str] | None]] = []
    text = ""
    position = 0
    for match in _PLACEHOLDER.finditer(template):
        text += template[position : match.start()]
        position = match.end()
        if match.group(2) is not None:
            text += f"{{{match.group(2)}}}"
        elif match.group(3) is not None and match.group(3) not in values:
            text += match.group()
        else:
            parts.append((text, match))
            text = ""
    parts.append((text + template[position:], None))
    return parts


def _grammar_of(parts: list[tuple[str, re.Match[str] | None]]) -> _Grammar:
    """Tell what grammar a template uses around its values."""
    grammar = _Grammar.NONE
    quote = ""
    for text, match in parts:
        quote, found = _scan(text, quote)
        grammar = max(grammar, found)
        backslashes = len(text) - len(text.rstrip("\\"))
        if match is not None and quote != "'" and backslashes % 2:
            grammar = _Grammar.NESTED
    if quote not in ("", COMMENT):
        raise ValueError(f"a quotation ({quote}) has no end")
    return grammar


def _scan(text: str, quote: str) -> tuple[str, _Grammar]:
    """Follow quotations through a part of a template.

    Returns the quotation (or comment) that is open at the end, and the grammar
    that the part uses.
    """
    if not quote and _PLAIN.fullmatch(text):
        return "", _Grammar.NONE
    grammar = _Grammar.NONE
    before = ""
    braces = 0
    # What a variable of BPS's stands for is data, whatever is in it.
    characters = iter(VARIABLE.sub(_IS_VARIABLE, _ENV.sub("x", text)))
    for character in characters:
        if quote == "'":
            quote = "" if character == "'" else quote
        elif quote == COMMENT:
            quote = "" if character == "\n" else quote
        elif character == "\\":
            escaped = next(characters, "")
            if escaped == "\n" or (quote and escaped in f"$`{_IS_VARIABLE}"):
                grammar = max(grammar, _Grammar.SIMPLE)  # Only a shell drops this backslash.
        elif character in "$`":
            grammar = _Grammar.NESTED
        elif character == _IS_VARIABLE:
            grammar = max(grammar, _Grammar.SIMPLE)
        elif quote:
            quote = "" if character == '"' else quote
        elif character in "'\"":
            quote = character
        elif character in "{}":
            braces = braces + 1 if character == "{" else max(0, braces - 1)
        elif braces > 0 and (character == "," or character == before == "."):
            grammar = max(grammar, _Grammar.SIMPLE)  # Bash makes several words of it.
        elif (character == "#" and before in " \t\n;&|()<>") or (character == before == "<"):
            grammar = _Grammar.NESTED
            if character == "#" and before:
                quote = COMMENT
        elif character in _OPERATORS or (character == "~" and before in " \t\n=:"):
            grammar = max(grammar, _Grammar.SIMPLE)
        if character in _BLANKS:
            braces = 0
        before = character
    return quote, grammar


def _filled(name: str, value: str, quote: str, grammar: _Grammar, *, one_word: bool) -> str:
    """Write a value so that a shell reads it as data."""
    value = data_variables(fill_in_attempt(value))
    if grammar == _Grammar.NESTED:
        return _plain(name, value)
    if quote:
        # Close the quotation, put the value, open it again.
        return f"{quote}{shlex.quote(value)}{quote}"
    if one_word:
        return shlex.quote(value)
    if not value.strip(_BLANKS):
        return ""
    try:
        # Options such as "-c task:key='a b'": several words, by the quotes
        # that are in them.
        words = split_words(value)
    except ValueError:
        words = [value]
    return " ".join(shlex.quote(word) for word in words)


def _plain(name: str, value: str, unsafe: str = "") -> str:
    """Return a value that is data in whatever grammar it stands."""
    text = _ENV.sub("", value)
    if not _SAFE.fullmatch(text) or (unsafe and unsafe in text):
        raise ValueError(
            f"the value of {name} ({value!r}) cannot be put into a command with substitutions, comments "
            "or here documents; write that command into a script, and give it the value as an argument"
        )
    return value


def _plain_word(name: str, value: str, before: str) -> str:
    """Write a file name that is one word after a part of a template."""
    value = data_variables(fill_in_attempt(value))
    quote = open_quotation(_ENV.sub("x", before))
    value = _plain(name, value, unsafe=" " if quote is None else "")
    return value.replace(" ", r"\ ") if quote == "" else value


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
        if not _ENV.fullmatch(piece):
            quote, _ = _scan(piece, quote)
            pieces.append(piece)
            continue
        content = piece[5:-1]
        name = _NAME.match(content)
        rest = content[name.end() :] if name else "$" + content
        variable = f"${{{name.group()}}}" if name else ""
        if quote == '"':
            pieces.append(variable + re.sub(r'(["$`\\])', r"\\\1", rest))
        else:
            inert = shlex.quote(rest) if rest else ""
            pieces.append(f'{quote}"{variable}"{inert}{quote}')
    return "".join(pieces)
