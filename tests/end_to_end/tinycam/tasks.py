# SPDX-License-Identifier: BSD-3-Clause
"""Tasks that say when they run, and fail or wait where a file tells them to.

All of it happens in the directory ``$TINYCAM_DIR``:

``executed.txt``
    gets a line for each quantum that is begun;
``fail``
    has lines ``<label> <filter> <detector>``: quanta that raise;
``hold``
    as long as it exists, quanta wait after they have begun.
"""

from __future__ import annotations

__all__ = ["CombineTask", "IsrTask", "describe", "executed"]

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsst.pipe.base import (
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
    connectionTypes,
)


def describe(label: str, data_id: Mapping[str, Any]) -> str:
    """Name a quantum as the files in ``$TINYCAM_DIR`` do."""
    values = [str(data_id[key]) for key in ("physical_filter", "detector") if key in data_id]
    return " ".join([label, *values])


def executed(directory: Path) -> list[str]:
    """Return the names of the quanta that were begun, in order."""
    try:
        return (directory / "executed.txt").read_text().splitlines()
    except FileNotFoundError:
        return []


def _obey(label: str, data_id: Mapping[str, Any]) -> None:
    """Write down that a quantum runs, and do to it what the files say."""
    directory = Path(os.environ["TINYCAM_DIR"])
    name = describe(label, data_id)
    fd = os.open(directory / "executed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{name}\n".encode())
    os.close(fd)
    while (directory / "hold").exists():
        time.sleep(0.02)
    try:
        failing = (directory / "fail").read_text().splitlines()
    except FileNotFoundError:
        failing = []
    if name in failing:
        raise RuntimeError(f"The file 'fail' names {name}.")


class IsrConnections(PipelineTaskConnections, dimensions=("instrument", "physical_filter", "detector")):
    """Datasets of `IsrTask`."""

    raw = connectionTypes.Input(
        doc="A number.",
        name="raw",
        storageClass="StructuredDataDict",
        dimensions=("instrument", "physical_filter", "detector"),
    )
    flat = connectionTypes.Output(
        doc="Its double.",
        name="flat",
        storageClass="StructuredDataDict",
        dimensions=("instrument", "physical_filter", "detector"),
    )


class IsrConfig(PipelineTaskConfig, pipelineConnections=IsrConnections):
    """Configuration of `IsrTask`."""


class IsrTask(PipelineTask):
    """Doubles a number."""

    ConfigClass = IsrConfig
    _DefaultName = "isr"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:  # noqa: N802, N803
        """Run a quantum; this is where its data id is known."""
        _obey("isr", butlerQC.quantum.dataId)
        super().runQuantum(butlerQC, inputRefs, outputRefs)

    def run(self, raw: dict[str, int]) -> Struct:
        """Double the number."""
        return Struct(flat={"value": 2 * raw["value"]})


class CombineConnections(PipelineTaskConnections, dimensions=("instrument", "physical_filter")):
    """Datasets of `CombineTask`."""

    flats = connectionTypes.Input(
        doc="Numbers.",
        name="flat",
        storageClass="StructuredDataDict",
        dimensions=("instrument", "physical_filter", "detector"),
        multiple=True,
    )
    total = connectionTypes.Output(
        doc="Their sum and number.",
        name="total",
        storageClass="StructuredDataDict",
        dimensions=("instrument", "physical_filter"),
    )


class CombineConfig(PipelineTaskConfig, pipelineConnections=CombineConnections):
    """Configuration of `CombineTask`."""


class CombineTask(PipelineTask):
    """Adds numbers."""

    ConfigClass = CombineConfig
    _DefaultName = "combine"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:  # noqa: N802, N803
        """Run a quantum; this is where its data id is known."""
        _obey("combine", butlerQC.quantum.dataId)
        super().runQuantum(butlerQC, inputRefs, outputRefs)

    def run(self, flats: list[dict[str, int]]) -> Struct:
        """Add the numbers."""
        return Struct(total={"sum": sum(flat["value"] for flat in flats), "count": len(flats)})
