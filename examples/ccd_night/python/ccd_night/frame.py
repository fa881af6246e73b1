# SPDX-License-Identifier: BSD-3-Clause
"""The in-memory form of one CCD image, and how it is stored as FITS."""

from __future__ import annotations

__all__ = ["CcdFrame", "HeaderValue", "read_header"]

import os
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

HeaderValue: TypeAlias = str | int | float | bool
"""Types which a FITS header card of a frame may hold."""

_OMITTED_KEYS = frozenset(
    {"SIMPLE", "BITPIX", "EXTEND", "BSCALE", "BZERO", "BUNIT", "COMMENT", "HISTORY", ""}
)
"""Keywords which describe the stored array, or whose cards hold no value."""


@dataclass
class CcdFrame:
    """One CCD image with its unit and header.

    Parameters
    ----------
    pixels : `numpy.ndarray`, shape (n_rows, n_columns)
        Pixel values in ``unit``. The pixel in column ``x`` and row ``y`` is
        ``pixels[y, x]``; the centre of the first pixel is at (0, 0).
    unit : `str`
        Unit of the pixel values, as in the FITS keyword ``BUNIT``: ``adu``,
        ``electron``, or an empty string for a ratio.
    header : `dict` [`str`, `str` | `int` | `float` | `bool`], optional
        FITS keywords, of at most eight characters, and their values. The
        keywords which describe the stored array are not part of it.
    """

    pixels: NDArray[Any]
    unit: str
    header: dict[str, HeaderValue] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CcdFrame:
        """Read a frame from the primary HDU of a FITS file.

        Parameters
        ----------
        path : `str` or `os.PathLike`
            File to read.

        Returns
        -------
        frame : `CcdFrame`
            The frame, its pixels converted to 32-bit floating point.
        """
        with fits.open(path) as hdus:
            primary = hdus[0]
            pixels = np.array(primary.data, dtype=np.float32)
            return cls(pixels, primary.header.get("BUNIT", ""), _plain_header(primary.header))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the frame to the primary HDU of a new FITS file.

        Parameters
        ----------
        path : `str` or `os.PathLike`
            File to write. The pixels keep their type.
        """
        hdu = fits.PrimaryHDU(self.pixels)
        hdu.header.update(self.header)
        hdu.header["BUNIT"] = self.unit
        hdu.writeto(path)


def read_header(path: str | os.PathLike[str]) -> dict[str, HeaderValue]:
    """Read the header of a frame without reading its pixels.

    Parameters
    ----------
    path : `str` or `os.PathLike`
        FITS file to read.

    Returns
    -------
    header : `dict` [`str`, `str` | `int` | `float` | `bool`]
        Keywords and values, without those which describe the stored array.
    """
    return _plain_header(fits.getheader(path))


def _plain_header(header: fits.Header) -> dict[str, HeaderValue]:
    """Return the cards of a FITS header which do not describe the array."""
    return {
        key: value
        for key, value in header.items()
        if key not in _OMITTED_KEYS and not key.startswith("NAXIS")
    }
