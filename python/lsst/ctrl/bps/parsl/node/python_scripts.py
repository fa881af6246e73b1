# SPDX-License-Identifier: BSD-3-Clause
"""Which interpreter runs a script; standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from .processes import find_program

__all__ = ["Interpreter", "interpreter_of", "same_interpreter"]

_PYTHON = re.compile(r"python[0-9.]*")

# What pip and others write where the path is too long for the kernel, or has
# a blank: a script that is shell code and Python code at once.
_BY_SHELL = re.compile(rb"""#!/bin/sh\n'''exec' ("[^"$`\\\n]+"|[^\s"$`\\]+) "\$0" "\$@"\n' '''""")


class Interpreter(NamedTuple):
    """What runs a script."""

    path: str
    """Where it is."""

    name: str
    """What it is called by: its path, or a name that ``env`` looks up."""


def interpreter_of(path: str, environ: Mapping[str, str]) -> Interpreter | None:
    """Return the Python that a script asks for.

    Parameters
    ----------
    path : `str`
        An executable file.
    environ : `~collections.abc.Mapping` [`str`, `str`]
        Environment in which it would be started.

    Returns
    -------
    interpreter : `Interpreter` or `None`
        The interpreter; `None` where the file is no script, or none
        of Python, or gives options to its interpreter.
    """
    try:
        if not os.access(path, os.X_OK):
            return None
        with open(path, "rb") as stream:
            head = stream.read(4096)
    except OSError:
        return None
    called = None
    if match := _BY_SHELL.match(head):
        name = os.fsdecode(match.group(1).strip(b'"'))
    else:
        if not head.startswith(b"#!"):
            return None
        # The kernel takes all after the first blank for one argument.
        name, *options = os.fsdecode(head[2:].partition(b"\n")[0]).strip().split(None, 1)
        if os.path.basename(name) == "env" and len(options) == 1 and _PYTHON.fullmatch(options[0]):
            called = options[0]
            try:
                name = find_program(called, environ)
            except FileNotFoundError:
                return None
        elif options:
            return None
    if not _PYTHON.fullmatch(os.path.basename(name)) or not os.path.isabs(name):
        return None
    return Interpreter(name, called or name)


def same_interpreter(one: str, other: str) -> bool:
    """Tell whether two paths are of one interpreter with the same packages.

    Parameters
    ----------
    one, other : `str`
        Paths, such as ``/env/bin/python`` and ``/env/bin/python3``.

    Returns
    -------
    same : `bool`
        Whether they lead to one file from one directory. Virtual
        environments are directories with links to one interpreter.
    """
    if one == other:
        return True
    places = {os.path.realpath(os.path.dirname(path)) for path in (one, other)}
    return len(places) == 1 and os.path.realpath(one) == os.path.realpath(other)
