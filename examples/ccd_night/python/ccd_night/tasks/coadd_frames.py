# SPDX-License-Identifier: BSD-3-Clause
"""Combine the reduced exposures of the sky."""

from __future__ import annotations

__all__ = ["CoaddFramesConfig", "CoaddFramesConnections", "CoaddFramesTask"]

import numpy as np
from astropy.table import Table
from lsst.pex.config import RangeField
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
    connectionTypes,
)
from numpy.typing import NDArray

from ..frame import CcdFrame
from ..pixels import median_stack, robust_sigma, subtract_sky
from ..stars import flux_ratios


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
    catalogues = connectionTypes.Input(
        doc="Catalogues of the stars in these exposures.",
        name="stars",
        storageClass="AstropyTable",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
    )
    coadd = connectionTypes.Output(
        doc="Sky-subtracted combination of the exposures, at the zero point of the clearest one.",
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
    match_radius = RangeField(
        doc="Largest distance of the positions of a star in two exposures (pixels).",
        dtype=float,
        default=2.0,
        min=0.0,
        inclusiveMin=False,
    )
    min_stars = RangeField(
        doc="Number of stars which each exposure must at least have in common with the first one.",
        dtype=int,
        default=5,
        min=1,
    )


class CoaddFramesTask(PipelineTask):
    """Combine exposures with the same pointing with a median.

    Before that, each exposure is scaled to the zero point of the clearest one,
    with the stars which they have in common. The median removes cosmic rays,
    which hit a pixel in one exposure but not in the others.
    """

    ConfigClass = CoaddFramesConfig
    _DefaultName = "coaddFrames"
    config: CoaddFramesConfig

    def runQuantum(  # noqa: N802
        self,
        butlerQC: QuantumContext,  # noqa: N803
        inputRefs: InputQuantizedConnection,  # noqa: N803
        outputRefs: OutputQuantizedConnection,  # noqa: N803
    ) -> None:
        """Read the inputs, put each catalogue to its exposure, run and write.

        Parameters
        ----------
        butlerQC : `lsst.pipe.base.QuantumContext`
            Butler for the datasets of this quantum.
        inputRefs : `lsst.pipe.base.InputQuantizedConnection`
            Datasets to read. Exposures without a catalogue are left out.
        outputRefs : `lsst.pipe.base.OutputQuantizedConnection`
            Datasets to write.
        """
        frames = {ref.dataId["exposure"]: ref for ref in inputRefs.frames}
        catalogues = {ref.dataId["exposure"]: ref for ref in inputRefs.catalogues}
        exposures = sorted(frames.keys() & catalogues.keys())
        result = self.run(
            frames=butlerQC.get([frames[exposure] for exposure in exposures]),
            catalogues=butlerQC.get([catalogues[exposure] for exposure in exposures]),
        )
        butlerQC.put(result, outputRefs)

    def run(self, frames: list[CcdFrame], catalogues: list[Table]) -> Struct:
        """Combine reduced exposures.

        Parameters
        ----------
        frames : `list` [`~ccd_night.frame.CcdFrame`]
            Reduced exposures (electron), aligned to the pixel.
        catalogues : `list` [`astropy.table.Table`]
            Stars in each of them; see `~ccd_night.stars.measure_stars` for the
            columns.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            Result with the attribute ``coadd``
            (`~ccd_night.frame.CcdFrame`, electron).

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Raised if there are fewer exposures than ``config.min_frames``.
        RuntimeError
            Raised if an exposure has fewer stars in common with the first one
            than ``config.min_stars``.
        """
        if len(frames) < self.config.min_frames:
            raise NoWorkFound(f"{len(frames)} exposures; a coadd needs {self.config.min_frames}.")
        scales = self._find_scales(catalogues)
        pixels = median_stack(
            subtract_sky(frame.pixels) * scale for frame, scale in zip(frames, scales, strict=True)
        )
        noise = robust_sigma(pixels)
        self.log.info("Noise of %d exposures is %.2f electrons per pixel.", len(frames), noise)
        return Struct(coadd=CcdFrame(pixels, "electron", {"NCOMBINE": len(frames), "SKYNOISE": noise}))

    def _find_scales(self, catalogues: list[Table]) -> NDArray[np.float64]:
        """Return the factors which give all exposures the zero point of the clearest."""
        ratios = [flux_ratios(stars, catalogues[0], self.config.match_radius) for stars in catalogues]
        common = [len(ratio) for ratio in ratios]
        if min(common) < self.config.min_stars:
            raise RuntimeError(
                f"The exposures have {common} stars in common with the first one; "
                f"each needs {self.config.min_stars}."
            )
        medians = np.array([np.median(ratio) for ratio in ratios])
        scales: NDArray[np.float64] = medians.max() / medians
        self.log.info("Scaled the exposures by %s.", ", ".join(f"{scale:.3f}" for scale in scales))
        return scales
