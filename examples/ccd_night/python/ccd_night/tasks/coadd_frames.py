# SPDX-License-Identifier: BSD-3-Clause
"""Combine the reduced exposures of the sky."""

from __future__ import annotations

__all__ = ["CoaddFramesConfig", "CoaddFramesConnections", "CoaddFramesTask"]

import numpy as np
from lsst.pex.config import RangeField
from lsst.pipe.base import (
    NoWorkFound,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
    connectionTypes,
)

from ..frame import CcdFrame
from ..pixels import median_stack, robust_sigma


class CoaddFramesConnections(
    PipelineTaskConnections, dimensions=("instrument", "physical_filter", "detector")
):
    """Datasets which `CoaddFramesTask` reads and writes."""

    frames = connectionTypes.Input(
        doc="Reduced exposures of the sky with one detector and in one filter.",
        name="reduced",
        storageClass="CcdFrame",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
    )
    coadd = connectionTypes.Output(
        doc="Sky-subtracted combination of the exposures.",
        name="coadd",
        storageClass="CcdFrame",
        dimensions=("instrument", "physical_filter", "detector"),
    )


class CoaddFramesConfig(PipelineTaskConfig, pipelineConnections=CoaddFramesConnections):
    """Configuration of `CoaddFramesTask`."""

    min_frames = RangeField(
        doc="Number of exposures below which no coadd is made; a median needs three to reject an outlier.",
        dtype=int,
        default=3,
        min=1,
    )


class CoaddFramesTask(PipelineTask):
    """Combine exposures with the same pointing with a median.

    The median also removes cosmic rays, which hit a pixel in one exposure but
    not in the others.
    """

    ConfigClass = CoaddFramesConfig
    _DefaultName = "coaddFrames"
    config: CoaddFramesConfig

    def run(self, frames: list[CcdFrame]) -> Struct:
        """Combine reduced exposures.

        Parameters
        ----------
        frames : `list` [`~ccd_night.frame.CcdFrame`]
            Reduced exposures (electron), aligned to the pixel.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            Result with the attribute ``coadd``
            (`~ccd_night.frame.CcdFrame`, electron).

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if there are fewer exposures than ``config.min_frames``.
        """
        if len(frames) < self.config.min_frames:
            raise NoWorkFound(f"{len(frames)} exposures; a coadd needs {self.config.min_frames}.")
        pixels = median_stack(frame.pixels - np.median(frame.pixels) for frame in frames)
        noise = robust_sigma(pixels)
        self.log.info("Noise of %d exposures is %.2f electrons per pixel.", len(frames), noise)
        return Struct(coadd=CcdFrame(pixels, "electron", {"NCOMBINE": len(frames), "SKYNOISE": noise}))
