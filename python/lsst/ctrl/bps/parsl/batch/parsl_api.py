# SPDX-License-Identifier: BSD-3-Clause
"""What is taken from inside of Parsl, and why: names that any release of Parsl may change."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from typing import NamedTuple

from ..errors import ConfigurationError

__all__ = ["NEWEST_TRIED", "OLDEST_TRIED", "require"]

OLDEST_TRIED, NEWEST_TRIED = "2026.3.16", "2026.10.26"
"""Releases of Parsl with which ``make compat`` was run."""


class Name(NamedTuple):
    """A name that the documentation of Parsl does not promise."""

    module: str
    name: str
    """A name in it, or that of a class and of what the class has."""

    why: str
    set_in: str | None = None
    """Method that sets it, where only objects of the class have it."""

    def is_there(self) -> bool:
        """Tell whether the installed Parsl has it."""
        try:
            found: object = import_module(self.module)
            *above, last = self.name.split(".")
            for part in above:
                found = getattr(found, part)
            if self.set_in is None:
                return hasattr(found, last)
            return last in getattr(found, self.set_in).__code__.co_names
        except (ImportError, AttributeError):
            return False


_BLOCKS = "parsl.executors.status_handling"
_HTEX = "parsl.executors.high_throughput.executor"
_KERNEL = "parsl.dataflow.dflow"
NAMES = (
    Name(_KERNEL, "DataFlowKernel.add_executors", "sites have executors of their own"),
    Name(_KERNEL, "DataFlowKernel.atexit_cleanup", "what does not end must not hold up the driver's end"),
    Name(_BLOCKS, "BlockProviderExecutor.scale_out_facade", "the driver says how many blocks there are"),
    Name(_BLOCKS, "BlockProviderExecutor.scale_in_facade", "the driver says which blocks end"),
    Name(_BLOCKS, "BlockProviderExecutor.status_facade", "states of blocks, for report and restart"),
    Name(
        _BLOCKS,
        "BlockProviderExecutor._status",
        "an ended block is not asked for",
        "__init__",
    ),
    Name(_BLOCKS, "BlockProviderExecutor._simulated_status", "the same for blocks never begun", "__init__"),
    Name(_BLOCKS, "BlockProviderExecutor._last_poll_time", "a clock set back stops the polling", "__init__"),
    Name(
        _BLOCKS,
        "BlockProviderExecutor.blocks_to_job_id",
        "which batch job a block is",
        "__init__",
    ),
    Name(
        _BLOCKS,
        "BlockProviderExecutor.job_ids_to_block",
        "which block a batch job is",
        "__init__",
    ),
    Name("parsl.jobs.error_handlers", "noop_error_handler", "two blocks that fail do not end a run"),
    Name(_HTEX, "HighThroughputExecutor.connected_managers", "which blocks give signs of life"),
    Name(_HTEX, "HighThroughputExecutor.connected_blocks", "which blocks have come"),
    Name("parsl.executors.high_throughput.errors", "ManagerLost", "a lost block is no failure of its job"),
    Name("parsl.providers.cluster_provider", "ClusterProvider._write_submit_script", "logs of blocks"),
)


def require(names: Iterable[Name] = NAMES) -> None:
    """Check that the installed Parsl has what is taken from inside of it.

    Parameters
    ----------
    names : `~collections.abc.Iterable` [`Name`], optional
        What is needed.

    Raises
    ------
    ConfigurationError
        Raised if something is missing; the message has both versions.
    """
    if missing := [name for name in names if not name.is_there()]:
        listed = "; ".join(f"{item.module}.{item.name} ({item.why})" for item in missing)
        raise ConfigurationError(
            f"lsst-ctrl-bps-parsl {version('lsst-ctrl-bps-parsl')} does not work with Parsl "
            f"{version('parsl')}, which lacks {listed}. It was tried with Parsl {OLDEST_TRIED} to "
            f"{NEWEST_TRIED}: pip install parsl=={NEWEST_TRIED}"
        )
