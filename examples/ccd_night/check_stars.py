#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compare the result of a run with the stars which the simulation put there.

Exits with status 1 if in any exposure with any detector fewer than 90 % of
them were found, if a coadd is not less noisy than a single exposure, or if the
fluxes of the stars on a coadd are not those of the simulation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

HINT = "Use the Python of the environment which has 'bps', with ccd_night's directory on the PYTHONPATH."

try:
    import numpy as np
    from astropy.table import Table
    from lsst.daf.butler import Butler, ButlerUserError

    from ccd_night.frame import CcdFrame
    from ccd_night.instrument import NightCam
    from ccd_night.pixels import robust_sigma
    from ccd_night.stars import flux_ratios
    from ccd_night.tasks import DetectStarsTask
except ModuleNotFoundError as error:
    sys.exit(f"check_stars.py: cannot import {error.name}. {HINT}")

MATCH_RADIUS = 2.0
"""Largest distance of a detection to the injected star (pixels)."""

MIN_COMPLETENESS = 0.9
"""Fraction of the injected stars which has to be found in each exposure."""

FLUX_TOLERANCE = 0.03
"""Largest relative difference of the fluxes on the coadd to the injected ones."""


class ImageCheck(NamedTuple):
    """How well the stars in one image were found."""

    found: int
    """Number of simulated stars which are in the catalogue."""

    spurious: int
    """Number of stars in the catalogue which were not simulated."""

    flux_ratio: float
    """Median of the measured flux divided by the simulated one."""

    noise: float
    """Standard deviation of the background (electron)."""


class DetectorCheck(NamedTuple):
    """How good the images of one detector are."""

    injected: int
    """Number of simulated stars."""

    exposures: list[ImageCheck]
    """The reduced exposures, at least one."""

    coadd: ImageCheck
    """The coadd, which the pipeline itself does not search for stars."""

    @property
    def fewest_found(self) -> int:
        """Number of stars which were found in the worst exposure (`int`)."""
        return min(image.found for image in self.exposures)

    @property
    def lowest_noise(self) -> float:
        """Noise of the best exposure (`float`, electron)."""
        return min(image.noise for image in self.exposures)

    @property
    def good(self) -> bool:
        """Whether the result is as good as expected (`bool`)."""
        return (
            self.fewest_found >= MIN_COMPLETENESS * self.injected
            and self.coadd.noise < self.lowest_noise
            and abs(self.coadd.flux_ratio - 1.0) <= FLUX_TOLERANCE
        )

    def describe(self) -> str:
        """Return the result in words.

        Returns
        -------
        line : `str`
            One line of text.
        """
        ratios = [image.flux_ratio for image in self.exposures]
        return (
            f"found at least {self.fewest_found} of {self.injected} injected stars in each exposure, "
            f"and {sum(image.spurious for image in self.exposures)} others in all; "
            f"measured/true flux {self.coadd.flux_ratio:.3f} on the coadd "
            f"({min(ratios):.3f} to {max(ratios):.3f} in the exposures); "
            f"noise {self.coadd.noise:.1f} electrons ({self.lowest_noise:.1f} in the best exposure)"
        )


def check_image(frame: CcdFrame, stars: Table, truth: Table) -> ImageCheck:
    """Compare an image and its catalogue with the simulation.

    Parameters
    ----------
    frame : `ccd_night.frame.CcdFrame`
        The image.
    stars : `astropy.table.Table`
        Stars found in it.
    truth : `astropy.table.Table`
        Simulated stars on the detector.

    Returns
    -------
    check : `ImageCheck`
        What was found.
    """
    ratios = flux_ratios(stars, truth, MATCH_RADIUS)
    return ImageCheck(
        found=len(ratios),
        spurious=len(stars) - len(ratios),
        flux_ratio=float(np.median(ratios)) if len(ratios) else float("nan"),
        noise=robust_sigma(frame.pixels),
    )


def check_detector(butler: Butler, collection: str, number: int) -> DetectorCheck:
    """Compare the images and catalogues of a detector with the simulation.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Butler of the repository.
    collection : `str`
        Output collection of the run.
    number : `int`
        ID of the detector.

    Returns
    -------
    check : `DetectorCheck`
        What was found.
    """
    data_id = {"instrument": NightCam.getName(), "detector": number}
    truth = butler.get("injected_stars", data_id, collections=NightCam().makeCollectionName("truth"))
    coadd = butler.get("coadd", data_id, physical_filter="nightcam-r", collections=collection)
    frames = butler.query_datasets("reduced", collections=collection, data_id=data_id)
    catalogues = [butler.get("stars", ref.dataId, collections=collection) for ref in frames]
    return DetectorCheck(
        injected=len(truth),
        exposures=[
            check_image(butler.get(ref), stars, truth) for ref, stars in zip(frames, catalogues, strict=True)
        ],
        coadd=check_image(coadd, DetectStarsTask().run(coadd).stars, truth),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all detectors and print a line for each.

    Parameters
    ----------
    arguments : sequence of `str`, optional
        Arguments; by default those of the process.

    Returns
    -------
    status : `int`
        Exit status: 0 if all detectors are as good as expected.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repo", help="Butler repository")
    parser.add_argument("collection", help="output collection of the run")
    options = parser.parse_args(arguments)
    checks = []
    try:
        with Butler.from_config(options.repo) as butler:
            for number, name in enumerate(NightCam.detectors):
                checks.append(check_detector(butler, options.collection, number))
                print(f"Detector {name}: {checks[-1].describe()}")
    except (ButlerUserError, OSError) as error:
        sys.exit(f"check_stars.py: {error}")
    return 0 if all(check.good for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
