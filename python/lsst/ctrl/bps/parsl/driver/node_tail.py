# SPDX-License-Identifier: BSD-3-Clause
"""Following what the nodes record while they record it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..node.journal import beginning
from ..paths import SubmitPaths
from ..run.journal import JournalTail

__all__ = ["NodeTail"]


class NodeTail:
    """Reads what is added to the nodes' journals about the attempts of a driver.

    A file is opened where its size has changed: there may be hundreds, on a
    file system that other hosts write to. Nothing is read twice, and what is
    kept does not grow with the attempts that have ended.

    Parameters
    ----------
    paths : `SubmitPaths`
        Where the journals are. What is in them already is left out.
    """

    def __init__(self, paths: SubmitPaths) -> None:
        self._paths = paths
        self._ends: dict[tuple[int, int], dict[str, Any] | None] = {}
        self._files = {path: JournalTail(Path(path), size) for path, size in self._sizes().items()}

    def expect(self, job: int, attempt: int) -> None:
        """Look for what nodes record of an attempt, from now on.

        Parameters
        ----------
        job, attempt : `int`
            Numbers of the job and of its attempt.
        """
        self._ends[job, attempt] = None

    def take_end(self, job: int, attempt: int) -> dict[str, Any] | None:
        """Return how an attempt ended, and look for no more of it.

        Parameters
        ----------
        job, attempt : `int`
            Numbers of the job and of its attempt.

        Returns
        -------
        end : `dict` or `None`
            Its ``end`` event, where that was read.
        """
        return self._ends.pop((job, attempt), None)

    def read(self, *, fresh: bool = False) -> Iterator[dict[str, Any]]:
        """Read what is new.

        Parameters
        ----------
        fresh : `bool`, optional
            Whether each file is opened, whatever size this host believes it
            to have: NFS looks for itself only then.

        Yields
        ------
        event : `dict`
            The ``start`` of an attempt. Ends are kept, see `take_end`.
        """
        for path, size in self._sizes().items():
            tail = self._files.get(path)
            if tail is None:
                tail = self._files[path] = JournalTail(Path(path))
            if fresh or tail.waits or size != tail.size:
                for event in tail.read(self._is_expected):
                    if event.get("e") == "start":
                        yield event
                    elif event.get("e") == "end":
                        self._ends[event["j"], event["a"]] = event

    def _sizes(self) -> dict[str, int]:
        with suppress(OSError):
            return self._paths.node_journal_sizes()
        return {}

    def _is_expected(self, line: bytes) -> bool:
        about = beginning(line)
        return about is None or (about.job, about.attempt) in self._ends
