# SPDX-License-Identifier: BSD-3-Clause
"""A pseudo-terminal, and what a person would see on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_SEQUENCE = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|\x1b[=>]|(.)", re.DOTALL)


class Screen:
    """A screen without a bottom: nothing scrolls out of it.

    It knows the control sequences that it takes for a live display; any other
    is remembered in `unknown`.
    """

    def __init__(self) -> None:
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0
        self.unknown: set[str] = set()
        self.cursor_shown = True

    def write(self, text: str) -> None:
        """Show a text."""
        for match in _SEQUENCE.finditer(text):
            parameters, letter, character = match.groups()
            if letter:
                self._control(parameters, letter)
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self.row += 1
            elif character and character >= " ":
                self._put(character)
            elif character and character not in "\x07":
                self.unknown.add(repr(character))
            while self.row >= len(self.lines):
                self.lines.append([])

    def _put(self, character: str) -> None:
        line = self.lines[self.row]
        line.extend(" " * (self.column + 1 - len(line)))
        line[self.column] = character
        self.column += 1

    def _control(self, parameters: str, letter: str) -> None:
        count = int(parameters) if parameters.isdigit() else 1
        if letter == "A":
            self.row = max(0, self.row - count)
        elif letter == "B":
            self.row += count
        elif letter == "K":
            line = self.lines[self.row]
            if parameters == "2":
                line.clear()
            else:
                del line[self.column :]
        elif parameters == "?25":
            self.cursor_shown = letter == "h"
        elif letter != "m":
            self.unknown.add(f"ESC[{parameters}{letter}")

    @property
    def text(self) -> str:
        """All that is on the screen."""
        return "\n".join("".join(line).rstrip() for line in self.lines).rstrip()


def run_on_terminal(
    args: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    watch: Callable[[Screen], None],
    *,
    columns: int = 100,
    timeout: float = 180.0,
) -> tuple[int, Screen, str]:
    """Run a command on a terminal of its own.

    ``watch`` is called with the screen after each piece of output. Returned
    are the exit status, the last screen, and all that was written.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(
        args,
        env={**env, "TERM": "xterm-256color"},
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        screen, written = Screen(), b""
        shown = 0
        end = time.monotonic() + timeout
        try:
            while time.monotonic() < end:
                try:
                    data = os.read(ours, 1 << 16)
                except OSError:
                    break  # The other end is closed.
                if not data:
                    break
                written += data
                text = written[shown:].decode("utf-8", "ignore")
                if text.endswith("\x1b") or re.search(r"\x1b\[[?0-9;]*$", text):
                    continue  # The rest of a control sequence is to come.
                shown = len(written)
                screen.write(text)
                watch(screen)
            else:
                raise AssertionError(f"not done within {timeout:.0f} s:\n{screen.text}")
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(ours)
        return process.wait(60), screen, written.decode("utf-8", "replace")
