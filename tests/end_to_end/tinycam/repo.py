# SPDX-License-Identifier: BSD-3-Clause
"""The repository of the tiny camera."""

from __future__ import annotations

__all__ = ["DETECTORS", "FILTERS", "INSTRUMENT", "RAW", "contents", "make_repo"]

from pathlib import Path

from lsst.daf.butler import Butler, DatasetType

INSTRUMENT = "TinyCam"
DETECTORS = 20
FILTERS = ("g", "r")
RAW = "TinyCam/raw"


def make_repo(root: Path) -> None:
    """Make a repository with a raw number for each detector and filter."""
    Butler.makeRepo(str(root))
    with Butler.from_config(str(root), writeable=True) as butler:
        registry = butler.registry
        registry.insertDimensionData(
            "instrument",
            {
                "name": INSTRUMENT,
                "class_name": "lsst.pipe.base.Instrument",
                "detector_max": DETECTORS,
                "exposure_max": 1,
                "visit_max": 1,
            },
        )
        for number in range(DETECTORS):
            registry.insertDimensionData(
                "detector", {"instrument": INSTRUMENT, "id": number, "full_name": f"D{number:02d}"}
            )
        for name in FILTERS:
            registry.insertDimensionData(
                "physical_filter", {"instrument": INSTRUMENT, "name": name, "band": name}
            )
        dimensions = ("instrument", "physical_filter", "detector")
        raw = DatasetType("raw", dimensions, "StructuredDataDict", universe=butler.dimensions)
        registry.registerDatasetType(raw)
        butler.collections.register(RAW)
        with butler.transaction():
            for number in range(DETECTORS):
                for offset, name in enumerate(FILTERS):
                    butler.put(
                        {"value": 100 * offset + number},
                        "raw",
                        run=RAW,
                        instrument=INSTRUMENT,
                        detector=number,
                        physical_filter=name,
                    )


def contents(root: Path, collection: str) -> dict[str, dict[str, object]]:
    """Return what a collection has: contents by data id by dataset type.

    Logs and metadata hold times and host names; only their being there is
    of interest.
    """
    found: dict[str, dict[str, object]] = {}
    with Butler.from_config(str(root)) as butler:
        for dataset_type in butler.registry.queryDatasetTypes():
            name = dataset_type.name
            if name == "raw":
                continue
            refs = butler.query_datasets(
                dataset_type, collections=collection, find_first=True, explain=False, limit=None
            )
            for ref in refs:
                value = butler.get(ref) if name in ("flat", "total") else None
                found.setdefault(name, {})[str(ref.dataId)] = value
    return found
