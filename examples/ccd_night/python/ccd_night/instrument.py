# SPDX-License-Identifier: BSD-3-Clause
"""The camera of this example, as the Butler and the pipeline know it."""

from __future__ import annotations

__all__ = ["NightCam"]

from collections.abc import Mapping
from types import MappingProxyType

from lsst.daf.butler import DataId, FormatterV2
from lsst.daf.butler.registry import Registry
from lsst.pipe.base import Instrument
from lsst.utils.introspection import get_full_type_name

from .formatters import CcdFrameFormatter


class NightCam(Instrument):
    """A simulated camera with four CCDs and one filter."""

    detectors: tuple[str, ...] = ("NW", "NE", "SW", "SE")
    """Name of each detector; its index is the detector's ID."""

    filters: Mapping[str, str] = MappingProxyType({"nightcam-r": "r", "closed": "none"})
    """Band of each physical filter; biases are taken with ``closed``."""

    raw_definition = ("raw", ("instrument", "detector", "exposure"), "CcdFrame")

    @classmethod
    def getName(cls) -> str:  # noqa: N802
        """Return the name used for this camera in data IDs.

        Returns
        -------
        name : `str`
            Name of the instrument.
        """
        return "NightCam"

    def getRawFormatter(self, dataId: DataId) -> type[FormatterV2]:  # noqa: N802, N803
        """Return the formatter for raw files.

        Parameters
        ----------
        dataId : `~lsst.daf.butler.DataId`
            Data ID of the raw file; all of them are read in the same way.

        Returns
        -------
        formatter : `type` [`~lsst.daf.butler.FormatterV2`]
            Class which reads the file.
        """
        return CcdFrameFormatter

    def register(self, registry: Registry, *, update: bool = False) -> None:
        """Insert the records of the camera, its detectors and its filters.

        Parameters
        ----------
        registry : `lsst.daf.butler.Registry`
            Registry of the repository to change.
        update : `bool`, optional
            Whether to replace existing records which differ from the new ones.
        """
        name = self.getName()
        camera = {
            "name": name,
            "class_name": get_full_type_name(self),
            "detector_max": len(self.detectors),
            "exposure_max": 10**11,
            "visit_max": 10**11,
        }
        with registry.transaction():
            registry.syncDimensionData("instrument", camera, update=update)
            for number, full_name in enumerate(self.detectors):
                detector = {
                    "instrument": name,
                    "id": number,
                    "full_name": full_name,
                    "purpose": "SCIENCE",
                }
                registry.syncDimensionData("detector", detector, update=update)
            for physical_filter, band in self.filters.items():
                record = {"instrument": name, "name": physical_filter, "band": band}
                registry.syncDimensionData("physical_filter", record, update=update)
