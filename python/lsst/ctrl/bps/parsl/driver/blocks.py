# SPDX-License-Identifier: BSD-3-Clause
"""What is known of the blocks of an executor, and in what words it is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import JobStatus

from ..errors import SchedulerError

__all__ = ["Block", "Blocks", "Demand", "last_words", "refusal_text", "slots_per_node", "trouble"]


@dataclass
class Demand:
    """What the jobs of an executor need that were given to it and have not ended."""

    jobs: int = 0
    """Number of jobs."""

    cpus: float = 0.0
    """Cores, all together."""

    memory: float = 0.0
    """Memory in MB, all together."""

    declined: int = 0
    """Jobs among them that no block with workers to spare has time for."""

    walltime: float = 0.0
    """The least time in seconds that one of those needs."""


@dataclass
class Block:
    """A block as it was last seen."""

    asked: float
    started: float | None = None
    ended: bool = False


@dataclass
class Blocks:
    """An executor and its blocks."""

    executor: BlockProviderExecutor
    provider: Any
    initial: int
    blocks: dict[str, Block] = field(default_factory=dict)
    result_at: float = 0.0
    pause: float = 0.0
    next_try: float = 0.0
    deaths: int = 0
    surplus_since: float | None = None
    told: str = ""


def slots_per_node(item: Blocks) -> float:
    """Return how many jobs run on a node at once, as far as Parsl knows."""
    return max(1.0, float(item.executor.workers_per_node))


def trouble(item: Blocks, demand: Demand) -> str | None:
    """Return why jobs can never run, where that is so."""
    label = item.executor.label
    if (gone := _lost_process(item.executor)) is not None:
        return f"{gone.format(label)}; jobs cannot be handed out."
    longest = getattr(item.provider, "seconds", None)
    if longest is not None and demand.walltime >= longest:
        return (
            f"A job asks for {demand.walltime / 60:.0f} minutes (requestWalltime), and a block of {label} "
            f"lasts {longest / 60:.0f} (walltime)."
        )
    return None


def _lost_process(executor: Any) -> str | None:
    """Return what became of a process without which the executor is of no use."""
    interchange = getattr(executor, "interchange_proc", None)
    if interchange is not None and interchange.poll() is not None:
        return "Parsl's interchange of {} has ended"
    if not getattr(getattr(executor, "command_client", None), "ok", True):
        return "Parsl's interchange of {} does not answer"
    manager = getattr(executor, "submit_process", None)
    if manager is not None and not manager.is_alive():
        return "Work Queue's manager process of {} has ended"
    return None


def refusal_text(executor: BlockProviderExecutor, refusal: SchedulerError | None) -> str:
    """Return why a block was not to be had."""
    if refusal is not None:
        return refusal.message
    messages = [status.message for status in executor._simulated_status.values() if status.message]
    return " ".join(messages[-1].split()) if messages else "the batch system did not take it"


def last_words(status: JobStatus) -> str:
    """Return the last lines of a block's output, for a sentence."""
    path = status.stderr_path
    if path is None:
        return f" ({status.state.name})"
    try:
        with open(path, errors="replace") as stream:
            lines = stream.read()[-4000:].splitlines()[-5:]
    except OSError:
        lines = []
    if lines:
        return f"; the last lines of {path}:\n  " + "\n  ".join(lines)
    return f"; see {path}"
