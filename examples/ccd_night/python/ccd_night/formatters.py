# SPDX-License-Identifier: BSD-3-Clause
"""How the Butler reads and writes the frames of this example."""

from __future__ import annotations

__all__ = ["CcdFrameFormatter"]

from lsst.daf.butler import FormatterV2
from lsst.resources import ResourcePath

from .frame import CcdFrame


class CcdFrameFormatter(FormatterV2):
    """Read and write `~ccd_night.frame.CcdFrame` datasets as FITS files."""

    default_extension = ".fits"
    can_read_from_local_file = True

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> CcdFrame:
        """Read a frame from a local FITS file.

        Parameters
        ----------
        path : `str`
            File to read.
        component : `str`, optional
            Not used: the storage class has no components.
        expected_size : `int`, optional
            Not used: size of the file in bytes.

        Returns
        -------
        frame : `~ccd_night.frame.CcdFrame`
            The frame.
        """
        return CcdFrame.read(path)

    def write_local_file(self, in_memory_dataset: CcdFrame, uri: ResourcePath) -> None:
        """Write a frame to a local FITS file.

        Parameters
        ----------
        in_memory_dataset : `~ccd_night.frame.CcdFrame`
            The frame.
        uri : `lsst.resources.ResourcePath`
            Local file to write.
        """
        in_memory_dataset.write(uri.ospath)
