# SPDX-License-Identifier: BSD-3-Clause
"""Princeton Research Computing (https://researchcomputing.princeton.edu/systems/tiger)."""

from __future__ import annotations

from contextlib import suppress

import psutil

from parsl.addresses import address_by_interface

from .slurm import Slurm

__all__ = ["Tiger"]


class Tiger(Slurm):
    """Runs the jobs on Tiger3.

    A node has 112 cores and 1 TB. Blocks of four nodes run one after the
    other: while one runs, the next one waits in the queue.
    """

    defaults = {
        "nodes": 4,
        "cores_per_node": 112,
        "mem_per_node": 980,
        "mem_per_worker": 8.75,
        "walltime": "05:00:00",
        "singleton": True,
        "max_blocks": 2,
        "cmd_timeout": 300,
        "environment": True,
        "srun_options": "-K0 -k",
    }

    def get_address(self) -> str | None:
        """Return the address on the InfiniBand network.

        Returns
        -------
        address : `str` or `None`
            That of the setting ``interface``, or of the first interface that
            is called ``ib...`` or ``op...``; `None` where there is none.
        """
        if self.settings.interface is None:
            for name in sorted(psutil.net_if_addrs()):
                if name.startswith(("ib", "op")):
                    with suppress(OSError):  # One without an address.
                        address: str = address_by_interface(name)
                        return address
        return super().get_address()
