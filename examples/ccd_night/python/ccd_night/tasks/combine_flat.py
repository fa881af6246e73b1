# SPDX-License-Identifier: BSD-3-Clause
"""Combine the flat-field exposures of a detector."""

from __future__ import annotations

__all__ = ["CombineFlatConfig", "CombineFlatConnections", "CombineFlatTask"]

from typing import Any

import numpy as np
from lsst.pex.config import RangeField
from lsst.pipe.base import (
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
    connectionTypes,
)
from numpy.typing import NDArray

from ..frame import CcdFrame
from ..pixels import median_stack


class CombineFlatConnections(
    PipelineTaskConnections, dimensions=("instrument", "physical_filter", "detector")
):
    """Datasets which `CombineFlatTask` reads and writes.

    The exposures are prerequisite inputs for the reason given in
    `~ccd_night.tasks.combine_bias.CombineBiasConnections`.
    """

    flats = connectionTypes.PrerequisiteInput(
        doc="Raw flat-field exposures of a detector in one filter.",
        name="raw_flat",
        storageClass="CcdFrame",
        dimensions=("instrument", "detector", "exposure"),
        multiple=True,
    )
    bias = connectionTypes.Input(
        doc="Combined bias of the detector.",
        name="bias",
        storageClass="CcdFrame",
        dimensions=("instrument", "detector"),
    )
    flat = connectionTypes.Output(
        doc="Combined flat field of the detector, with a median of one.",
        name="flat",
        storageClass="CcdFrame",
        dimensions=("instrument", "physical_filter", "detector"),
    )


class CombineFlatConfig(PipelineTaskConfig, pipelineConnections=CombineFlatConnections):
    """Configuration of `CombineFlatTask`."""

    min_response = RangeField(
        doc="Smallest value of the combined flat field; a less sensitive pixel is set to it.",
        dtype=float,
        default=0.05,
        min=0.0,
        inclusiveMin=False,
    )


class CombineFlatTask(PipelineTask):
    """Combine the flat-field exposures of a detector with a median."""

    ConfigClass = CombineFlatConfig
    _DefaultName = "combineFlat"
    config: CombineFlatConfig

    def run(self, flats: list[CcdFrame], bias: CcdFrame) -> Struct:
        """Combine flat-field exposures.

        Parameters
        ----------
        flats : `list` [`~ccd_night.frame.CcdFrame`]
            Raw flat-field exposures (adu). The lamp may have changed between
            them.
        bias : `~ccd_night.frame.CcdFrame`
            Combined bias of the detector (adu).

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            Result with the attribute ``flat``
            (`~ccd_night.frame.CcdFrame`, a ratio).
        """
        flat = _normalise(median_stack(_normalise(frame.pixels - bias.pixels) for frame in flats))
        pixels = np.maximum(flat, np.float32(self.config.min_response))
        return Struct(flat=CcdFrame(pixels, "", {"OBSTYPE": "flat", "NCOMBINE": len(flats)}))


def _normalise(image: NDArray[Any]) -> NDArray[Any]:
    """Divide an image by its median."""
    normalised: NDArray[Any] = image / np.median(image)
    return normalised
