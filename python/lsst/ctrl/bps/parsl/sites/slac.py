# SPDX-License-Identifier: BSD-3-Clause
"""SLAC's Shared Scientific Data Facility, S3DF (https://s3df.slac.stanford.edu)."""

from __future__ import annotations

from .slurm import Slurm

__all__ = ["S3df", "Sdf"]


class S3df(Slurm):
    """Runs the jobs on S3DF's batch nodes.

    Each block is a whole node of the partitions ``roma`` or ``milano``: 120
    cores and 480 GB that jobs can use, 4 GB for each worker. The account
    ``rubin`` without a repository would be preemptible.
    """

    defaults = {
        "nodes": 1,
        "cores_per_node": 120,
        "mem_per_node": 480,
        "mem_per_worker": 4,
        "walltime": "10:00:00",
        "partition": "roma,milano",
        "account": "rubin:developers",
        "qos": "normal",
        "max_blocks": 10,
    }


class Sdf(S3df):
    """S3DF by its old name, with the smaller blocks of that time."""

    defaults = {
        **S3df.defaults,
        "cores_per_node": 100,
        "mem_per_node": 400,
        "walltime": "02:00:00",
        "singleton": True,
        "max_blocks": 2,
    }
