#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compare the catalogues of a run with the stars which the simulation put there.

Exits with status 1 if on any detector fewer than 90 % of them were found, or
if the coadd is not less noisy than a single exposure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

HINT = "Use the Python of the environment which has 'bps', with ccd_night's directory on the PYTHONPATH."

try:
    import numpy as np
    from lsst.daf.butler import Butler, ButlerUserError

    from ccd_night.instrument import NightCam
    from ccd_night.pixels import robust_sigma
    from ccd_night.stars import match_stars
except ModuleNotFoundError as error:
    sys.exit(f"check_stars.py: cannot import {error.name}. {HINT}")

MATCH_RADIUS = 2.0
"""Largest distance of a detection to the injected star (pixels)."""

MIN_COMPLETENESS = 0.9
"""Fraction of the injected stars which has to be found."""


class DetectorCheck(NamedTuple):
    """How well the stars on one detector were found."""

    injected: int
    """Number of simulated stars."""

    found: int
    """Number of those which are in the catalogue."""

    spurious: int
    """Number of stars in the catalogue which were not simulated."""

    flux_ratio: float
    """Median of the measured flux divided by the simulated one."""

    coadd_noise: float
    """Standard deviation of the background of the coadd (electron)."""

    single_noise: float
    """Median of that of the reduced exposures (electron)."""

    @property
    def good(self) -> bool:
        """Whether the result is as good as expected (`bool`)."""
        return self.found >= MIN_COMPLETENESS * self.injected and self.coadd_noise < self.single_noise

    def describe(self) -> str:
        """Return the result in words.

        Returns
        -------
        line : `str`
            One line of text.
        """
        return (
            f"found {self.found} of {self.injected} injected stars and {self.spurious} others; "
            f"measured/true flux {self.flux_ratio:.2f}; "
            f"noise {self.coadd_noise:.1f} electrons ({self.single_noise:.1f} in one exposure)"
        )


def check_detector(butler: Butler, collection: str, number: int) -> DetectorCheck:
    """Compare the catalogue of a detector with the simulation.

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
    stars = butler.get("stars", data_id, physical_filter="nightcam-r", collections=collection)
    coadd = butler.get("coadd", data_id, physical_filter="nightcam-r", collections=collection)
    exposures = butler.query_datasets("reduced", collections=collection, data_id=data_id)
    pairs = match_stars(stars, truth, MATCH_RADIUS)
    ratios = [stars["flux"][star] / truth["flux"][partner] for star, partner in pairs]
    return DetectorCheck(
        injected=len(truth),
        found=len(pairs),
        spurious=len(stars) - len(pairs),
        flux_ratio=float(np.median(ratios)) if ratios else float("nan"),
        coadd_noise=robust_sigma(coadd.pixels),
        single_noise=float(np.median([robust_sigma(butler.get(ref).pixels) for ref in exposures])),
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
