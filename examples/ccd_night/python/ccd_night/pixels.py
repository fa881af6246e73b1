# SPDX-License-Identifier: BSD-3-Clause
"""Arithmetic on pixel arrays which several tasks share."""

from __future__ import annotations

__all__ = ["median_stack", "robust_sigma", "subtract_sky"]

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIGMA_PER_MAD = 1.4826
"""Standard deviation of a Gaussian in units of its median absolute deviation."""


def median_stack(images: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Combine aligned images with a median in each pixel.

    Parameters
    ----------
    images : iterable of `numpy.ndarray`, shape (n_rows, n_columns)
        Images to combine, all in the same unit.

    Returns
    -------
    median : `numpy.ndarray` of `float32`, shape (n_rows, n_columns)
        Median image, in the unit of the inputs.
    """
    median: NDArray[np.float32] = np.median(np.stack(list(images)), axis=0).astype(np.float32)
    return median


def robust_sigma(image: NDArray[Any]) -> float:
    """Estimate the noise of an image whose pixels are mostly background.

    Parameters
    ----------
    image : `numpy.ndarray`, shape (n_rows, n_columns)
        Image with a flat background.

    Returns
    -------
    sigma : `float`
        Standard deviation of the background, in the unit of the image, from
        the median absolute deviation; stars hardly change it.
    """
    return float(_SIGMA_PER_MAD * np.median(np.abs(subtract_sky(image))))


def subtract_sky(image: NDArray[Any]) -> NDArray[Any]:
    """Subtract the background of an image whose pixels are mostly background.

    Parameters
    ----------
    image : `numpy.ndarray`, shape (n_rows, n_columns)
        Image with a flat background.

    Returns
    -------
    subtracted : `numpy.ndarray`, shape (n_rows, n_columns)
        Image with a median of zero.
    """
    subtracted: NDArray[Any] = image - np.median(image)
    return subtracted
