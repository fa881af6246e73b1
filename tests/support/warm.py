# SPDX-License-Identifier: BSD-3-Clause
"""Runs scripts warm, forked from a process that has modules loaded, and cold, as new processes."""

from __future__ import annotations

import difflib
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from lsst.ctrl.bps.parsl.node.client import RunnerClient
from lsst.ctrl.bps.parsl.node.setup import NodeSetup
from node.test_runner import Node, Result, beside

SHEBANG = f"#!{sys.executable}\n"
_HEAD = "" if sys.version_info[:2] == (3, 12) else r"Exception ignored on threading shutdown:\n"
STALE = re.compile(rf"^{_HEAD}(Traceback .*\n(  .*\n)*)?(OverflowError|ValueError): .*\n\Z", re.M)
"""What Python 3.12 and 3.13 say of an exit status that they could not convert, once more and in the wrong
place: a slip of the interpreter's, which is not imitated."""


class Outcome(NamedTuple):
    """What is seen of a job from outside."""

    exit: int
    signal: int
    out: str
    err: str


def check_same(warm: Outcome, cold: Outcome) -> None:
    """Check that two outcomes are equal, and say in few words how they are not."""
    cold_lines, warm_lines = (_text(outcome).splitlines() for outcome in (cold, warm))
    diff = difflib.unified_diff(cold_lines, warm_lines, "cold", "warm", n=0, lineterm="")
    assert warm == cold, "\n".join(diff)


def _text(outcome: Outcome) -> str:
    long = outcome.out.replace(", ", ",\n") if len(outcome.out) < 20_000 else outcome.out
    return f"exit {outcome.exit} {outcome.signal}\n[stdout]\n{long}\n[stderr]\n{outcome.err}"


class Sides(Node):
    """A node with two runners, of which one starts jobs warm."""

    def __init__(self, directory: Path, prefix: str = "", **environ: str) -> None:
        super().__init__(directory)
        self.setup["warm"] = True
        self.bin = directory / "bin"
        self.bin.mkdir()
        # Whatever asks Python for more than a user does is left out.
        usual = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        self.environment({**usual, "PATH": path, **environ}, prefix)
        self._cold: RunnerClient | None = None

    @property
    def cold(self) -> RunnerClient:
        """The client of the other runner."""
        if self._cold is None:
            self._cold = RunnerClient(NodeSetup(**{**self.setup, "warm": False}))
        return self._cold

    def script(
        self, code: str, name: str = "script", shebang: str = SHEBANG, *, own_ways: bool = False
    ) -> str:
        """Write an executable script.

        Without ``own_ways``, it is not taken for one that looks for modules in a way of its own.
        """
        path = self.bin / name
        path.parent.mkdir(exist_ok=True)
        if not own_ways:
            code = re.sub(r"\b(sys|site)\.", r"\1 . ", code)
        path.write_bytes(f"{shebang}{textwrap.dedent(code)}".encode("utf-8", "surrogateescape"))
        path.chmod(0o755)
        return str(path)

    def outcome(self, result: Result, number: int) -> Outcome:
        """Return what is seen of a job, but for addresses in memory and the name of its runner."""
        marks = "|".join(client._mark for client in (self._client, self._cold) if client is not None)
        out, err = (
            re.sub(f"0x[0-9a-f]+|{marks}", "_", text) for text in (self.out(number), self.err(number))
        )
        return Outcome(result["exit"], result.get("signal", 0), out, err)

    def run_warm(self, *argv: str, **more: Any) -> Outcome:
        """Run a job in a child of the fork server."""
        result = self.run(*argv, **more)
        assert result.get("warm"), result
        return self.outcome(result, self._number)

    def run_any(self, *argv: str, **more: Any) -> Outcome:
        """Run a job warm, or cold where its fork server is just about to leave out a module."""
        return self.outcome(self.run(*argv, **more), self._number)

    def run_cold(self, *argv: str, **more: Any) -> Outcome:
        """Run a job as a new process."""
        result = beside(self.cold.run, self.spec(*argv, **more)).result(60)
        assert "warm" not in result
        return self.outcome(result, self._number)

    def same(self, *argv: str, **more: Any) -> Outcome:
        """Run a job cold, and warm before and after its modules are loaded; all must be equal."""
        future = self.begin(*argv, **more)
        number = self._number
        cold = self.run_cold(*argv, **more)
        result = future.result(60)
        assert result.get("warm"), result
        warm = self.outcome(result, number)
        if warm != cold:
            cold = cold._replace(err=STALE.sub("", cold.err))
        check_same(warm, cold)
        check_same(self.run_warm(*argv, **more), cold)
        return cold

    def is_gone(self) -> bool:
        """Tell whether no process of the run is left: one that was killed ends a moment later."""
        return not self.left()

    def same_cold(self, *argv: str, **more: Any) -> Outcome:
        """Run a job that nobody can fork."""
        result = self.run(*argv, **more)
        assert "warm" not in result
        outcome = self.outcome(result, self._number)
        check_same(outcome, self.run_cold(*argv, **more))
        return outcome

    def teach(self, *modules: str) -> None:
        """Have the fork server load modules."""
        lines = "".join(f"import {module}\n" for module in modules)
        names = f"{set(modules)} <= set(sys.modules)"
        path = self.script(f"import sys\nprint({names})\n{lines}", "teach")
        wait_until(lambda: self.run_any(path).out == "True\n")

    def runner(self) -> psutil.Process:
        """Return the runner that starts jobs warm."""
        assert self.client.process is not None
        return psutil.Process(self.client.process.pid)

    def servers(self) -> list[psutil.Process]:
        """Return the fork servers."""
        found = []
        for child in self.runner().children():
            with suppress(psutil.Error):  # It has just ended.
                if "bps_parsl_node" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def close(self) -> None:
        """End the runners."""
        if self._cold is not None:
            self._cold.close()
        super().close()


def wait_until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for what no event tells."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Sides]]:
    """Make runners; at the end of the test nothing of them may be left."""
    all_sides: list[Sides] = []

    def make(prefix: str = "", **environ: str) -> Sides:
        directory = tmp_path / f"{len(all_sides)}"
        directory.mkdir()
        all_sides.append(Sides(directory, prefix, **environ))
        return all_sides[-1]

    yield make
    for sides in all_sides:
        sides.close()
        wait_until(sides.is_gone, 60)
