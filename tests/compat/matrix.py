#!/usr/bin/env python
# SPDX-License-Identifier: BSD-3-Clause
"""Try the releases of Python, BPS and Parsl that people have, each in an environment of its own.

In each: the wheel is installed and imported, the demo's night is reduced, a run goes through Parsl's
HighThroughputExecutor on this machine, and each site class is built and compared with its golden files.
Prints a table; ``--csv FILE`` writes it as the documentation has it.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STACK = "ctrl-mpexec daf-butler pipe-base utils resources pex-config sphgeom".split()
BPS = {
    "29.2": ["lsst-ctrl-bps==29.2.1", *(f"lsst-{name}<30" for name in STACK)],
    "30.2026.300": ["lsst-ctrl-bps==30.2026.300"],
    "newest": [],
}
PARSL = {"oldest": ["parsl==2026.3.16"], "between": ["parsl==2026.7.6"], "newest": []}
PYTHON = ("3.11", "3.12", "3.13")
ROWS = (
    ("3.11", "29.2", "oldest"),
    ("3.11", "30.2026.300", "between"),
    ("3.11", "30.2026.300", "newest"),
    ("3.12", "newest", "between"),
    ("3.12", "newest", "newest"),
    ("3.13", "newest", "oldest"),
    ("3.13", "newest", "newest"),
)
"""Python, BPS and Parsl. The newest BPS needs Python 3.12."""
SHORT = (ROWS[0],)
"""What the tests of this machine's newest and Debian's Python do not have."""

HEADINGS = ("Python", "BPS", "Parsl", "Imported", "Demo", "HTEX", "Sites", "Seconds")


@dataclass
class Row:
    """An environment, and what was found in it."""

    python: str
    bps: str
    parsl: str
    directory: Path
    results: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Words for the command line."""
        return f"{self.python}-{self.bps}-{self.parsl}"

    @property
    def good(self) -> bool:
        """Whether all was well."""
        return self.results == ["yes"] * 4

    def run(self, *argv: str | Path, **environ: str) -> bool:
        """Run a program of the environment; its last lines are printed where it fails."""
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=ROOT,
            env={**os.environ, "PATH": path, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=1200,
        )
        if done.returncode:
            print(*done.stdout.splitlines()[-40:], sep="\n", flush=True)
        return done.returncode == 0

    def install(self, wheel: Path) -> bool:
        """Make the environment."""
        found = subprocess.run(
            [ROOT / ".ci/newest-python", self.python], capture_output=True, text=True, check=False
        )
        python = found.stdout.strip()
        pins = [*BPS[self.bps], *PARSL[self.parsl]]
        return bool(
            python
            and self.run(python, "-m", "venv", self.directory)
            and self.run(self.directory / "bin/pip", "install", "--quiet", f"{wheel}[test,demo]", *pins)
        )

    def versions(self) -> tuple[str, ...]:
        """Return what was installed."""
        code = (
            "import platform; from importlib.metadata import version\n"
            "print(platform.python_version(), version('lsst-ctrl-bps'), version('parsl'))"
        )
        done = subprocess.run([self.directory / "bin/python", "-c", code], capture_output=True, text=True)
        return tuple(done.stdout.split()) or (self.python, self.bps, self.parsl)

    def check(self, wheel: Path, scratch: Path) -> None:
        """Try everything, also what comes after a failure."""
        began = time.monotonic()
        python = str(self.directory / "bin/python")
        pytest = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch / 'pytest'}")
        if self.install(wheel):
            code = "from lsst.ctrl.bps.parsl import *; from lsst.ctrl.bps.parsl.sites import *"
            self._note(self.run(python, "-c", code))
            self._note(self.run("examples/ccd_night/demo.sh", scratch / "demo", PYTHON="python"))
            nodes = "tests/end_to_end/test_job_nodes.py"
            self._note(self.run(*pytest, f"{nodes}::test_nodes_of_all_kinds", "-k", "htex"))
            self._note(self.run(*pytest, "tests/sites", "-k", "golden or seed"))
        self.seconds = time.monotonic() - began

    def _note(self, good: bool) -> None:
        self.results.append("yes" if good else "no")


def build_wheel(directory: Path) -> Path:
    """Build the package as people get it."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    # From a copy: setuptools leaves a directory where it builds.
    copy = directory / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "demo", "build", "tests", "doc"))
    subprocess.run([*command, f"--wheel-dir={directory}", copy], check=True)
    (wheel,) = directory.glob("*.whl")
    return wheel


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """Return the lines of the table."""
    lines = []
    for row in rows:
        results = (*row.results, *["no"] * 4)[:4]
        lines.append((*row.versions(), *results, f"{row.seconds:.0f}"))
    return lines


def main() -> int:
    """Try the rows that are named."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    names = ["-".join(row) for row in ROWS]
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of: {', '.join(names)}")
    parser.add_argument("--short", action="store_true", help="only what the other tests do not have")
    parser.add_argument("--csv", type=Path, help="write the table into this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(names):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [
        row
        for row in (SHORT if arguments.short else ROWS)
        if not arguments.rows or "-".join(row) in arguments.rows
    ]
    with tempfile.TemporaryDirectory(prefix="compat-") as name:
        scratch = Path(name)
        wheel = build_wheel(scratch)
        rows = [Row(*row, directory=scratch / "-".join(row)) for row in chosen]
        for row in rows:
            print(f"{row.name} ...", flush=True)
            (scratch / f"{row.name}-work").mkdir()
            row.check(wheel, scratch / f"{row.name}-work")
        lines = table(rows)
    for line in (HEADINGS, *lines):
        print("".join(word.ljust(14) for word in line).rstrip())
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADINGS, *lines])
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
