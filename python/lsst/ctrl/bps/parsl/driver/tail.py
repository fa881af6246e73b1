# SPDX-License-Identifier: BSD-3-Clause
"""Following what the nodes record while they record it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..paths import SubmitPaths
from ..run.journal import decode_line, read_journal

__all__ = ["NodeTail", "recorded_ends"]


class NodeTail:
    """Reads what was added to the nodes' journals since the last time.

    Parameters
    ----------
    paths : `SubmitPaths`
        Where the journals are. What is in them already is left out.
    """

    def __init__(self, paths: SubmitPaths) -> None:
        self._paths = paths
        self._offsets: dict[Path, int] = {}
        for path in paths.node_journals():
            self._offsets[path] = path.stat().st_size

    def read(self, wanted: Callable[[bytes], bool]) -> Iterator[dict[str, Any]]:
        """Iterate over the events that are new.

        Parameters
        ----------
        wanted : `~collections.abc.Callable`
            Tells of a line, as it stands in the file, whether it is worth
            decoding.

        Yields
        ------
        event : `dict`
            An event. One that cannot be read is left out: this is for people
            to look at, and `replay` is strict.
        """
        for path in self._paths.node_journals():
            with suppress(OSError), open(path, "rb") as stream:
                stream.seek(self._offsets.get(path, 0))
                data = stream.read()
                whole = data.rfind(b"\n") + 1
                self._offsets[path] = stream.seek(whole - len(data), os.SEEK_CUR)
                for line in data[:whole].splitlines(keepends=True):
                    if wanted(line) and (event := decode_line(line)) is not None:
                        yield event


def recorded_ends(
    paths: SubmitPaths, attempts: Collection[tuple[int, int]]
) -> dict[tuple[int, int], dict[str, Any]]:
    """Look attempts up in what the nodes recorded.

    Parameters
    ----------
    paths : `SubmitPaths`
        Where the journals are.
    attempts : `~collections.abc.Collection` [`tuple` [`int`, `int`]]
        Numbers of jobs and of their attempts.

    Returns
    -------
    ends : `dict`
        The ``end`` event of each attempt that has one.
    """
    beginnings = tuple(f'{{"e":"end","j":{job},"a":{attempt},'.encode() for job, attempt in attempts)
    ends = {}
    for path in paths.node_journals():
        for event in read_journal(path, lambda line: line.startswith(beginnings)):
            ends[event["j"], event["a"]] = event
    return ends
