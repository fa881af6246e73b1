# SPDX-License-Identifier: BSD-3-Clause
"""Processes for which calls fail or take seconds, or whose clock is wrong (see ``faulty.c``), and
what several tests of them need.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.engines import Bench
from end_to_end.support import Step

SOURCE = Path(__file__).with_name("faulty.c")


@dataclass(frozen=True)
class Fault:
    """What goes wrong, in a process and those that it starts."""

    paths: str = ""
    """Paths on which calls fail, as a shell has them."""

    calls: str = ""
    """Names of the calls with blanks between them, or ``*``."""

    first: int = 1
    """Number of the first of them, in each process, that fails."""

    error: int = 0
    """The error number; 0 where nothing fails."""

    last: int = 0
    """Number of the last one that fails; 0 where all that follow do."""

    short: bool = False
    """Whether the first write that fails writes one half."""

    delay: float = 0.0
    """Seconds that each of the calls takes."""

    clock: Path | None = None
    """A file that says by how many seconds the clock is wrong."""

    process: str = ""
    """The command lines of the processes that it is about; all where it is empty."""

    def environment(self, library: Path, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a process that has it."""
        return {
            **base,
            "LD_PRELOAD": str(library),
            "FAULTY_PATH": self.paths,
            "FAULTY_CALLS": self.calls if self.calls == "*" else f" {self.calls} ",
            "FAULTY_FIRST": str(self.first),
            "FAULTY_LAST": str(self.last or ""),
            "FAULTY_ERRNO": str(self.error),
            "FAULTY_SHORT": "1" if self.short else "",
            "FAULTY_DELAY": str(self.delay) if self.delay else "",
            "FAULTY_CLOCK": str(self.clock or ""),
            "FAULTY_PROCESS": self.process,
        }


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library to preload."""
    path = tmp_path_factory.mktemp("faulty") / "faulty.so"
    options = ["-Wall", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run(["gcc", *options, "-o", str(path), str(SOURCE), "-ldl"], check=True)
    return path


def layers(count: int) -> list[Step]:
    """Return six steps in each of some layers; each comes after two of the layer above."""
    return [
        Step(
            f"s{layer}x{number}",
            [f"s{layer - 1}x{(number + shift) % 6}" for shift in range(2)] if layer else [],
        )
        for layer in range(count)
        for number in range(6)
    ]


def finish(bench: Bench) -> None:
    """Resume a run, and see it come to its end."""
    bench.drive("restart", "--id", bench.id).finish().succeeded()
