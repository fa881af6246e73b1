# SPDX-License-Identifier: BSD-3-Clause
"""Detect and measure the stars in an exposure."""

from __future__ import annotations

__all__ = ["DetectStarsConfig", "DetectStarsConnections", "DetectStarsTask"]

from lsst.pex.config import RangeField
from lsst.pipe.base import (
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
    connectionTypes,
)

from ..frame import CcdFrame
from ..pixels import robust_sigma, subtract_sky
from ..stars import find_footprints, measure_stars


class DetectStarsConnections(PipelineTaskConnections, dimensions=("instrument", "exposure", "detector")):
    """Datasets which `DetectStarsTask` reads and writes."""

    frame = connectionTypes.Input(
        doc="Reduced exposure of the sky.",
        name="reduced",
        storageClass="CcdFrame",
        dimensions=("instrument", "exposure", "detector"),
    )
    stars = connectionTypes.Output(
        doc="Catalogue of the stars in the exposure.",
        name="stars",
        storageClass="AstropyTable",
        dimensions=("instrument", "exposure", "detector"),
    )


class DetectStarsConfig(PipelineTaskConfig, pipelineConnections=DetectStarsConnections):
    """Configuration of `DetectStarsTask`."""

    threshold = RangeField(
        doc="Detection threshold (standard deviations of the background).",
        dtype=float,
        default=4.0,
        min=0.0,
        inclusiveMin=False,
    )
    min_pixels = RangeField(
        doc="Number of connected pixels above the threshold below which a detection is dropped.",
        dtype=int,
        default=3,
        min=1,
    )
    aperture_radius = RangeField(
        doc="Radius of the aperture in which the flux is summed (pixels).",
        dtype=float,
        default=5.0,
        min=0.0,
        inclusiveMin=False,
    )


class DetectStarsTask(PipelineTask):
    """Detect stars as groups of connected pixels above a threshold."""

    ConfigClass = DetectStarsConfig
    _DefaultName = "detectStars"
    config: DetectStarsConfig

    def run(self, frame: CcdFrame) -> Struct:
        """Detect and measure stars.

        Parameters
        ----------
        frame : `~ccd_night.frame.CcdFrame`
            Reduced image (electron), with or without the sky.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            Result with the attribute ``stars`` (`astropy.table.Table`); see
            `~ccd_night.stars.measure_stars` for its columns.
        """
        image = subtract_sky(frame.pixels)
        sigma = robust_sigma(image)
        footprints = find_footprints(image > self.config.threshold * sigma, self.config.min_pixels)
        stars = measure_stars(image, footprints, sigma, self.config.aperture_radius)
        self.log.info("Found %d stars.", len(stars))
        return Struct(stars=stars)
