# SPDX-License-Identifier: BSD-3-Clause
"""Combine the bias exposures of a detector."""

from __future__ import annotations

__all__ = ["CombineBiasConfig", "CombineBiasConnections", "CombineBiasTask"]

from lsst.pipe.base import (
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
    connectionTypes,
)

from ..frame import CcdFrame
from ..pixels import median_stack


class CombineBiasConnections(PipelineTaskConnections, dimensions=("instrument", "detector")):
    """Datasets which `CombineBiasTask` reads and writes.

    The exposures are *prerequisite* inputs: the pipeline takes all which are in
    the repository for the detector. Regular inputs would have to belong to the
    exposures which the data query selects, and those are the sky exposures.
    """

    biases = connectionTypes.PrerequisiteInput(
        doc="Raw bias exposures of a detector.",
        name="raw_bias",
        storageClass="CcdFrame",
        dimensions=("instrument", "detector", "exposure"),
        multiple=True,
    )
    bias = connectionTypes.Output(
        doc="Combined bias of a detector.",
        name="bias",
        storageClass="CcdFrame",
        dimensions=("instrument", "detector"),
    )


class CombineBiasConfig(PipelineTaskConfig, pipelineConnections=CombineBiasConnections):
    """Configuration of `CombineBiasTask`, which has no options of its own."""


class CombineBiasTask(PipelineTask):
    """Combine the bias exposures of a detector with a median."""

    ConfigClass = CombineBiasConfig
    _DefaultName = "combineBias"

    def run(self, biases: list[CcdFrame]) -> Struct:
        """Combine bias exposures.

        Parameters
        ----------
        biases : `list` [`~ccd_night.frame.CcdFrame`]
            Raw bias exposures (adu).

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            Result with the attribute ``bias``
            (`~ccd_night.frame.CcdFrame`, adu).
        """
        pixels = median_stack(frame.pixels for frame in biases)
        return Struct(bias=CcdFrame(pixels, "adu", {"OBSTYPE": "bias", "NCOMBINE": len(biases)}))
