# SPDX-License-Identifier: BSD-3-Clause
"""Detection, measurement and matching of stars in a sky-subtracted image."""

from __future__ import annotations

__all__ = ["find_footprints", "flux_ratios", "match_stars", "measure_stars"]

from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import NDArray

Pixel = tuple[int, int]
"""Row and column of a pixel."""


def find_footprints(mask: NDArray[np.bool_], min_pixels: int) -> list[NDArray[np.intp]]:
    """Group the selected pixels of an image which touch each other.

    Parameters
    ----------
    mask : `numpy.ndarray` of `bool`, shape (n_rows, n_columns)
        Pixels above the detection threshold.
    min_pixels : `int`
        Number of pixels below which a group is dropped.

    Returns
    -------
    footprints : `list` [`numpy.ndarray`, shape (n_pixels, 2)]
        Row and column of the pixels of each group, in order of the first
        pixel. Pixels which share only a corner touch each other.
    """
    remaining: dict[Pixel, None] = {(int(row), int(column)): None for row, column in np.argwhere(mask)}
    footprints = []
    while remaining:
        group = _take_group(remaining)
        if len(group) >= min_pixels:
            footprints.append(np.array(group))
    return footprints


def _take_group(remaining: dict[Pixel, None]) -> list[Pixel]:
    """Remove the first pixel, and all connected to it, from ``remaining``."""
    first = next(iter(remaining))
    del remaining[first]
    group = [first]
    for row, column in group:
        for neighbour in [(row + dr, column + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]:
            if neighbour in remaining:
                del remaining[neighbour]
                group.append(neighbour)
    return group


def measure_stars(
    image: NDArray[Any], footprints: list[NDArray[np.intp]], sigma: float, radius: float
) -> Table:
    """Measure the position and the flux of detected stars.

    Parameters
    ----------
    image : `numpy.ndarray`, shape (n_rows, n_columns)
        Sky-subtracted image (electrons).
    footprints : `list` [`numpy.ndarray`, shape (n_pixels, 2)]
        Row and column of the pixels of each star.
    sigma : `float`
        Standard deviation of the background (electrons).
    radius : `float`
        Radius of the aperture (pixels).

    Returns
    -------
    stars : `astropy.table.Table`, length (n_stars)
        Columns ``id``, ``x`` and ``y`` (flux-weighted centroid, pixels),
        ``flux`` and ``flux_err`` (sum in the aperture and its noise from the
        background alone, electrons), ``peak`` (electrons) and ``n_pixels``
        (size of the footprint).
    """
    rows = [_measure_star(image, footprint, sigma, radius) for footprint in footprints]
    stars = Table(
        rows=rows or None,
        names=("x", "y", "flux", "flux_err", "peak", "n_pixels"),
        dtype=(float, float, float, float, float, int),
        units=(u.pix, u.pix, u.electron, u.electron, u.electron, None),
    )
    stars.add_column(np.arange(1, len(stars) + 1), name="id", index=0)
    return stars


def _measure_star(
    image: NDArray[Any], footprint: NDArray[np.intp], sigma: float, radius: float
) -> tuple[float, float, float, float, float, int]:
    """Return one row of the table of `measure_stars`, without its ``id``."""
    values = image[footprint[:, 0], footprint[:, 1]]
    y = np.average(footprint[:, 0], weights=values)
    x = np.average(footprint[:, 1], weights=values)
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    aperture = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    flux_err = sigma * np.sqrt(aperture.sum())
    return float(x), float(y), float(image[aperture].sum()), float(flux_err), float(values.max()), len(values)


def match_stars(stars: Table, reference: Table, radius: float) -> list[tuple[int, int]]:
    """Match two catalogues of stars by position, closest pairs first.

    Parameters
    ----------
    stars : `astropy.table.Table`
        Stars, with the columns ``x`` and ``y`` (pixels).
    reference : `astropy.table.Table`
        Stars to match them with, with the same columns.
    radius : `float`
        Largest distance of a pair (pixels).

    Returns
    -------
    pairs : `list` [`tuple` [`int`, `int`]]
        Row in ``stars`` and row in ``reference`` of each pair. A row occurs in
        one pair at most.
    """
    dx = np.subtract.outer(np.asarray(stars["x"]), np.asarray(reference["x"]))
    dy = np.subtract.outer(np.asarray(stars["y"]), np.asarray(reference["y"]))
    distance = np.hypot(dx, dy)
    candidates = np.argwhere(distance <= radius)
    order = np.argsort(distance[candidates[:, 0], candidates[:, 1]], kind="stable")
    pairs: dict[int, int] = {}
    for star, partner in candidates[order].tolist():
        if star not in pairs and partner not in pairs.values():
            pairs[star] = partner
    return list(pairs.items())


def flux_ratios(stars: Table, reference: Table, radius: float) -> NDArray[np.float64]:
    """Compare the fluxes of the stars which two catalogues have in common.

    Parameters
    ----------
    stars : `astropy.table.Table`
        Stars, with the columns ``x``, ``y`` (pixels) and ``flux``.
    reference : `astropy.table.Table`
        Stars to compare them with, with the same columns and units.
    radius : `float`
        Largest distance of a pair (pixels).

    Returns
    -------
    ratios : `numpy.ndarray` of `float64`, shape (n_pairs,)
        Flux in ``stars`` divided by that in ``reference``, for each pair of
        `match_stars`.
    """
    pairs = match_stars(stars, reference, radius)
    rows, partners = np.array(pairs, dtype=int).reshape(-1, 2).T
    ratios: NDArray[np.float64] = np.asarray(stars["flux"])[rows] / np.asarray(reference["flux"])[partners]
    return ratios
