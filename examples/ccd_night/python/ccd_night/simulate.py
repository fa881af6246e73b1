# SPDX-License-Identifier: BSD-3-Clause
"""Simulation of one short night with the camera of this example.

The frames are written as a real camera would: one FITS file for each detector
and exposure, with all that is known about the exposure in its header.
"""

from __future__ import annotations

__all__ = ["DetectorModel", "Exposure", "make_detector", "plan_night", "simulate_night"]

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Table
from astropy.time import Time, TimeDelta
from numpy.typing import NDArray

from .frame import CcdFrame, HeaderValue
from .instrument import NightCam

SHAPE = (256, 256)
"""Number of rows and columns of a detector."""

BEGIN = Time("2026-01-15T20:00:00", scale="tai")
"""Beginning of the first exposure."""

DAY_OBS = int(BEGIN.strftime("%Y%m%d"))
"""Night of the observations, as the date on which it began (YYYYMMDD)."""

TRANSPARENCIES = (0.95, 1.0, 0.85, 0.9)
"""Fraction of the starlight which the air lets pass in each sky exposure."""

EXPOSURES = {"bias": (5, 0.0), "flat": (5, 5.0), "science": (len(TRANSPARENCIES), 60.0)}
"""Number of exposures of each type, and their exposure time (seconds)."""

EXPOSURE_INTERVAL = 120.0
"""Time between the beginnings of two exposures (seconds)."""

GAIN = 2.0
"""Gain of the amplifiers (electron/adu)."""

READ_NOISE = 5.0
"""Standard deviation of the noise of reading a pixel (electron)."""

PSF_SIGMA = 1.3
"""Standard deviation of the Gaussian image of a star (pixels)."""

FLAT_LEVEL = 40_000.0
"""Mean signal of a flat-field exposure (electron)."""

SKY_RATE = 2.0
"""Brightness of the sky (electron per second and pixel)."""

STAR_RATES = (25.0, 400.0)
"""Fluxes of the faintest and the brightest star (electron per second).

The faintest are bright enough to be seen in a single exposure.
"""

STAR_COUNTS = (30, 45)
"""Smallest and largest number of stars on a detector."""

STAR_SEPARATION = 14.0
"""Smallest distance of two stars, and twice that of a star to the edge (pixels)."""

COSMIC_RAYS = 12
"""Number of cosmic rays in each detector of a sky exposure."""


@dataclass(frozen=True)
class Exposure:
    """One exposure with all detectors of the camera.

    Parameters
    ----------
    seq_num : `int`
        Number of the exposure in the night, from one.
    kind : `str`
        Type of the observation: ``bias``, ``flat`` or ``science``.
    physical_filter : `str`
        Name of the filter.
    seconds : `float`
        Exposure time (seconds).
    begin : `astropy.time.Time`
        When the exposure began.
    brightness : `float`
        Brightness of the lamp or of the sky, relative to its nominal value.
    transparency : `float`
        Fraction of the starlight which the air lets pass.
    """

    seq_num: int
    kind: str
    physical_filter: str
    seconds: float
    begin: Time
    brightness: float = 1.0
    transparency: float = 1.0

    @property
    def obs_id(self) -> str:
        """Name of the exposure (`str`)."""
        return f"NC{DAY_OBS}_{self.seq_num:03d}"


@dataclass(frozen=True)
class DetectorModel:
    """The properties of a detector which do not change during the night.

    Parameters
    ----------
    number : `int`
        ID of the detector.
    bias : `numpy.ndarray`, shape (n_rows, n_columns)
        Signal which is read from a pixel without light (adu).
    response : `numpy.ndarray`, shape (n_rows, n_columns)
        Sensitivity of each pixel, with a median of one.
    starlight : `numpy.ndarray`, shape (n_rows, n_columns)
        Light of the stars with a transparency of one (electron per second and
        pixel).
    stars : `astropy.table.Table`
        The stars: columns ``x`` and ``y`` (pixels) and ``flux`` (electrons in
        one science exposure with a transparency of one).
    """

    number: int
    bias: NDArray[np.float64]
    response: NDArray[np.float64]
    starlight: NDArray[np.float64]
    stars: Table


def plan_night() -> list[Exposure]:
    """List the exposures of the night.

    Returns
    -------
    exposures : `list` [`Exposure`]
        The exposures, in order of time. The lamp and the sky get brighter
        during the night, and the transparency of the air changes.
    """
    kinds = [kind for kind, (count, _) in EXPOSURES.items() for _ in range(count)]
    brightness = np.linspace(0.9, 1.1, len(kinds))
    transparencies = iter(TRANSPARENCIES)
    return [
        Exposure(
            seq_num=index + 1,
            kind=kind,
            physical_filter="closed" if kind == "bias" else "nightcam-r",
            seconds=EXPOSURES[kind][1],
            begin=BEGIN + TimeDelta(index * EXPOSURE_INTERVAL * u.s),
            brightness=float(brightness[index]),
            transparency=next(transparencies) if kind == "science" else 1.0,
        )
        for index, kind in enumerate(kinds)
    ]


def make_detector(number: int, rng: np.random.Generator) -> DetectorModel:
    """Draw the fixed properties of a detector.

    Parameters
    ----------
    number : `int`
        ID of the detector.
    rng : `numpy.random.Generator`
        Source of random numbers.

    Returns
    -------
    detector : `DetectorModel`
        The detector and the stars on it.
    """
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    bias = 1000.0 + 0.05 * rows + rng.normal(0.0, 3.0, size=(1, SHAPE[1]))
    radius2 = ((rows / SHAPE[0] - 0.5) ** 2 + (columns / SHAPE[1] - 0.5) ** 2) / 0.5
    response = (1.0 - 0.25 * radius2) * rng.normal(1.0, 0.02, size=SHAPE)
    x, y, rates = _draw_stars(rng)
    flux = rates * EXPOSURES["science"][1]
    stars = Table({"x": x, "y": y, "flux": flux}, units={"x": u.pix, "y": u.pix, "flux": u.electron})
    return DetectorModel(number, bias, response / np.median(response), _render_stars(x, y, rates), stars)


def _draw_stars(
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Draw columns, rows (pixels) and fluxes (electron/s) of separate stars."""
    count = int(rng.integers(*STAR_COUNTS, endpoint=True))
    size = np.array([SHAPE[1] - 1, SHAPE[0] - 1])
    positions: list[NDArray[np.float64]] = []
    while len(positions) < count:
        position = STAR_SEPARATION / 2 + rng.random(2) * (size - STAR_SEPARATION)
        if all(np.hypot(*(position - other)) >= STAR_SEPARATION for other in positions):
            positions.append(position)
    faintest, brightest = STAR_RATES
    rates = faintest * (brightest / faintest) ** rng.random(count)
    x, y = np.array(positions).T
    return x, y, rates


def _render_stars(
    x: NDArray[np.float64], y: NDArray[np.float64], rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the image (electron/s) of stars as Gaussians of total ``rates``."""
    rows, columns = np.arange(SHAPE[0]), np.arange(SHAPE[1])
    in_y = np.exp(-0.5 * ((rows[:, np.newaxis] - y) / PSF_SIGMA) ** 2)
    in_x = np.exp(-0.5 * ((columns[:, np.newaxis] - x) / PSF_SIGMA) ** 2)
    return (in_y * rates / (2 * np.pi * PSF_SIGMA**2)) @ in_x.T


def simulate_night(directory: Path, seed: int) -> list[Path]:
    """Write the frames of the night, and the stars which are in them.

    Parameters
    ----------
    directory : `pathlib.Path`
        New directory for the files.
    seed : `int`
        Seed of the random numbers; equal seeds give equal pixels.

    Returns
    -------
    frames : `list` [`pathlib.Path`]
        The FITS files, one for each detector and exposure. Next to them is a
        table of stars, ``stars_<detector>.ecsv``, for each detector.
    """
    directory.mkdir(parents=True)
    paths = []
    for number, name in enumerate(NightCam.detectors):
        rng = np.random.default_rng([seed, number])
        detector = make_detector(number, rng)
        detector.stars.write(directory / f"stars_{number}.ecsv")
        for exposure in plan_night():
            pixels = _expose(detector, exposure, rng)
            path = directory / f"{exposure.obs_id}_{name}.fits"
            CcdFrame(pixels, "adu", _header(exposure, number)).write(path)
            paths.append(path)
    return paths


def _expose(detector: DetectorModel, exposure: Exposure, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return the pixels (adu) which are read from a detector after an exposure."""
    electrons = rng.poisson(_light(detector, exposure)).astype(float)
    if exposure.kind == "science":
        rows, columns = (rng.integers(size, size=COSMIC_RAYS) for size in SHAPE)
        electrons[rows, columns] += rng.uniform(1_000.0, 8_000.0, size=COSMIC_RAYS)
    electrons += rng.normal(0.0, READ_NOISE, size=SHAPE)
    counts = np.clip(np.rint(electrons / GAIN + detector.bias), 0, 2**16 - 1)
    pixels: NDArray[np.uint16] = counts.astype(np.uint16)
    return pixels


def _light(detector: DetectorModel, exposure: Exposure) -> NDArray[np.float64]:
    """Return the expected signal (electron) of the light in an exposure."""
    if exposure.kind == "bias":
        return np.zeros(SHAPE)
    if exposure.kind == "flat":
        return detector.response * FLAT_LEVEL * exposure.brightness
    sky = SKY_RATE * exposure.brightness
    starlight = detector.starlight * exposure.transparency
    return detector.response * (sky + starlight) * exposure.seconds


def _header(exposure: Exposure, detector: int) -> dict[str, HeaderValue]:
    """Return the FITS header of a raw frame."""
    end = exposure.begin + TimeDelta(exposure.seconds * u.s)
    return {
        "INSTRUME": NightCam.getName(),
        "DETECTOR": detector,
        "OBSID": exposure.obs_id,
        "DAYOBS": DAY_OBS,
        "SEQNUM": exposure.seq_num,
        "OBSTYPE": exposure.kind,
        "OBJECT": "demo field" if exposure.kind == "science" else exposure.kind,
        "FILTER": exposure.physical_filter,
        "EXPTIME": exposure.seconds,
        "TIMESYS": "TAI",
        "DATE-BEG": exposure.begin.isot,
        "DATE-END": end.isot,
        "GAIN": GAIN,
        "RDNOISE": READ_NOISE,
    }
