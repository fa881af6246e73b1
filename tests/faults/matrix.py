# SPDX-License-Identifier: BSD-3-Clause
"""The table: each fault, on which engine, how often tried, and what came of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from end_to_end.support import Sandbox

from .checker import Findings, examine

PROPERTY = "fault"
WIDTH = 120


@dataclass
class Row:
    """What came of one kind of fault."""

    area: str
    fault: str
    engine: str
    tries: int = 0
    lost: int = 0
    rerun: int = 0
    leftovers: int = 0


HEADINGS = ("Area", "Fault", "Engine", "Tries", "Jobs lost", "Jobs rerun", "Leftovers")
assert len(HEADINGS) == len(fields(Row))


class Matrix:
    """Takes down what a test found, for the table.

    Parameters
    ----------
    node : `pytest.Item`
        The test.
    """

    def __init__(self, node: pytest.Item) -> None:
        self._node = node
        self.area = (node.path.stem.removeprefix("test_")).replace("_", " ")

    def check(
        self,
        fault: str,
        box: Sandbox,
        *,
        engine: str = "",
        report: bool = True,
        path: Path | None = None,
        tries: int = 1,
    ) -> None:
        """Examine a run, take down what was found, and fail where a promise was broken."""
        name = engine or str(getattr(box, "engine", "threads"))
        self.add(fault, name, examine(box, submit_path=path, report=report), tries)

    def add(self, fault: str, engine: str, found: Findings | None = None, tries: int = 1) -> None:
        """Take down what was found in some tries, and fail where a promise was broken."""
        found = found or Findings()
        row = Row(self.area, fault, engine, tries, len(found.lost), len(found.rerun), len(found.leftovers))
        self._node.user_properties.append((PROPERTY, json.dumps(asdict(row))))
        if not found.is_clean:
            raise AssertionError(f"{fault} on {engine}: {found}")


def merge(properties: Iterable[tuple[str, object]]) -> list[Row]:
    """Add up the rows of the same fault on the same engine."""
    merged: dict[tuple[str, str, str], Row] = {}
    for name, value in properties:
        if name != PROPERTY:
            continue
        row = Row(**json.loads(str(value)))
        key = (row.area, row.fault, row.engine)
        if key not in merged:
            merged[key] = row
            continue
        for column in ("tries", "lost", "rerun", "leftovers"):
            setattr(merged[key], column, getattr(merged[key], column) + getattr(row, column))
    return sorted(merged.values(), key=lambda row: (row.area, row.fault, row.engine))


def show(rows: Iterable[Row]) -> str:
    """Return the table as text for a terminal."""
    table = Table(*HEADINGS)
    for row in rows:
        table.add_row(*map(str, astuple(row)))
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def save(rows: Iterable[Row], path: Path) -> None:
    """Write the table for the documentation."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADINGS)
        writer.writerows(astuple(row) for row in rows)
