# SPDX-License-Identifier: BSD-3-Clause
"""The tasks of the pipeline, one module for each."""

from .coadd_frames import CoaddFramesConfig, CoaddFramesTask
from .combine_bias import CombineBiasTask
from .combine_flat import CombineFlatConfig, CombineFlatTask
from .detect_stars import DetectStarsConfig, DetectStarsTask
from .reduce_frame import ReduceFrameTask

__all__ = [
    "CoaddFramesConfig",
    "CoaddFramesTask",
    "CombineBiasTask",
    "CombineFlatConfig",
    "CombineFlatTask",
    "DetectStarsConfig",
    "DetectStarsTask",
    "ReduceFrameTask",
]
