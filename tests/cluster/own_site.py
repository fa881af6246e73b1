# SPDX-License-Identifier: BSD-3-Clause
"""A site class as a user might have it."""

from __future__ import annotations

from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor
from parsl.providers import LocalProvider

from lsst.ctrl.bps.parsl import ParslJob, SiteConfig


class LocalWorkers(SiteConfig):
    """Runs jobs on four workers of this machine."""

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor."""
        provider = LocalProvider(init_blocks=1, max_blocks=1)
        return [
            HighThroughputExecutor(
                label="htex",
                provider=provider,
                address="127.0.0.1",
                cores_per_worker=0.01,
                max_workers_per_node=4,
                heartbeat_period=5,
                heartbeat_threshold=20,
            )
        ]

    def select_executor(self, job: ParslJob) -> str:
        """Return its label."""
        return "htex"
