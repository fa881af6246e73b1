# SPDX-License-Identifier: BSD-3-Clause
"""Cambridge's CSD3 (https://docs.hpc.cam.ac.uk/hpc/)."""

from __future__ import annotations

from .work_queue import LocalSrunWorkQueue

__all__ = ["Csd3"]


class Csd3(LocalSrunWorkQueue):
    """Runs the jobs inside an allocation on CSD3.

    Write a batch script that asks for the nodes and calls ``bps``. A node of
    the partition ``cclake`` has 56 cores and 187 GB, of which some is left to
    the driver.
    """

    defaults = {"worker_options": "--memory=160000"}
