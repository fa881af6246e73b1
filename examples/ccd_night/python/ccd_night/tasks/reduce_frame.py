# SPDX-License-Identifier: BSD-3-Clause
"""Remove the signature of the detector from an exposure of the sky."""

from __future__ import annotations

__all__ = ["ReduceFrameConfig", "ReduceFrameConnections", "ReduceFrameTask"]

import numpy as np
from lsst.pipe.base import (
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
    connectionTypes,
)

from ..frame import CcdFrame


class ReduceFrameConnections(PipelineTaskConnections, dimensions=("instrument", "exposure", "detector")):
    """Datasets which `ReduceFrameTask` reads and writes."""

    raw = connectionTypes.Input(
        doc="Raw exposure of the sky.",
        name="raw",
        storageClass="CcdFrame",
        dimensions=("instrument", "exposure", "detector"),
    )
    bias = connectionTypes.Input(
        doc="Combined bias of the detector.",
        name="bias",
        storageClass="CcdFrame",
        dimensions=("instrument", "detector"),
    )
    flat = connectionTypes.Input(
        doc="Combined flat field of the detector in the filter of the exposure.",
        name="flat",
        storageClass="CcdFrame",
        dimensions=("instrument", "physical_filter", "detector"),
    )
    reduced = connectionTypes.Output(
        doc="Exposure of the sky in electrons, without bias and flat-field pattern.",
        name="reduced",
        storageClass="CcdFrame",
        dimensions=("instrument", "exposure", "detector"),
    )


class ReduceFrameConfig(PipelineTaskConfig, pipelineConnections=ReduceFrameConnections):
    """Configuration of `ReduceFrameTask`, which has no options of its own."""


class ReduceFrameTask(PipelineTask):
    """Subtract the bias, divide by the flat field and apply the gain."""

    ConfigClass = ReduceFrameConfig
    _DefaultName = "reduceFrame"

    def run(self, raw: CcdFrame, bias: CcdFrame, flat: CcdFrame) -> Struct:
        """Reduce one exposure of the sky.

        Parameters
        ----------
        raw : `~ccd_night.frame.CcdFrame`
            Raw exposure (adu); its header has the ``GAIN`` (electron/adu).
        bias : `~ccd_night.frame.CcdFrame`
            Combined bias of the detector (adu).
        flat : `~ccd_night.frame.CcdFrame`
            Combined flat field of the detector (a ratio).

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            Result with the attribute ``reduced``
            (`~ccd_night.frame.CcdFrame`, electron).
        """
        gain = np.float32(raw.header["GAIN"])
        pixels = (raw.pixels - bias.pixels) / flat.pixels * gain
        header = {key: value for key, value in raw.header.items() if key != "GAIN"}
        self.log.info("Sky level is %.1f electrons per pixel.", np.median(pixels))
        return Struct(reduced=CcdFrame(pixels, "electron", header))
