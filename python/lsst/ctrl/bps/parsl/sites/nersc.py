# SPDX-License-Identifier: BSD-3-Clause
"""NERSC (https://docs.nersc.gov/systems/perlmutter/running-jobs/)."""

from __future__ import annotations

import logging
from typing import Any

from .slurm import Slurm, TripleSlurm

__all__ = ["CoriKnl", "Perlmutter"]

_LOG = logging.getLogger(__name__)


class Perlmutter(Slurm):
    """Runs the jobs on Perlmutter's CPU nodes.

    A node has 128 cores and 512 GB, of which DESC leaves 32 GB to the system.
    Without a qos NERSC takes ``debug``. Set ``account`` to your project's.
    """

    defaults = {
        "nodes": 1,
        "cores_per_node": 128,
        "mem_per_node": "480000 MB",
        "mem_per_worker": "3750 MB",
        "walltime": "05:00:00",
        "qos": "regular",
        "constraint": "cpu",
        "exclusive": True,
        "scheduler_options": "#SBATCH --module=cvmfs",
        "max_blocks": 10,
    }


class CoriKnl(TripleSlurm):
    """Cori's KNL nodes; the machine was retired in 2023."""

    defaults = {
        "constraint": "knl",
        "scheduler_options": ("#SBATCH --module=cvmfs\n#SBATCH --licenses=cvmfs\n#SBATCH --time-min=2:00:00"),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _LOG.warning(
            "%s: Cori was retired in 2023; use the class lsst.ctrl.bps.parsl.sites.nersc.Perlmutter.",
            self.where,
        )
