# SPDX-License-Identifier: BSD-3-Clause
"""What is known of the blocks of an executor, and in what words it is said."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parsl.executors import HighThroughputExecutor
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import JobState, JobStatus

from ..errors import SchedulerError
from ..report.excerpt import last_lines

__all__ = ["Block", "Blocks", "Demand", "last_words", "needed", "refusal_text", "slots_per_node", "trouble"]

_LOG = logging.getLogger(__name__)


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
    """Blocks in a row that ended soon and before any job did."""
    fruitless: int = 0
    """Blocks in a row that lasted, and of whose jobs none ended."""
    surplus_since: float | None = None
    last_refusal: str = ""
    say_again: float = 0.0
    """When to say it once more."""
    errors: dict[str, str] = field(default_factory=dict)
    """What was raised last, by what was being done."""

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Do something that is tried again if it fails; say what is raised, each thing once.

        What providers of users raise is not known, and they raise it each
        time that they are asked.

        Parameters
        ----------
        what : `str`
            What is done, such as "Ending the blocks of x".
        """
        try:
            yield
        except Exception as exc:
            text = f"{type(exc).__name__}: {exc}"
            if self.errors.get(what) != text:
                self.errors[what] = text
                _LOG.warning("%s failed (%s); it is tried again.", what, text)
                _LOG.debug("Where that was:", exc_info=True)
        else:
            self.errors.pop(what, None)

    def poll(self, parsls: Callable[[], None]) -> None:
        """Have Parsl ask for the blocks' states; it asks for those of all executors in one go.

        Parameters
        ----------
        parsls : `~collections.abc.Callable`
            Parsl's method.
        """
        with self.trying(f"Asking for the blocks of {self.executor.label}"):
            parsls()

    def end(self) -> bool:
        """End all blocks.

        Returns
        -------
        gone : `bool`
            Whether the batch system has none of them any more.
        """
        executor, provider = self.executor, self.provider
        ids = list(executor.job_ids_to_block)
        if not ids and not getattr(provider, "uncertain", False):
            return True
        with self.trying(f"Ending the blocks of {executor.label}"), suppress(SchedulerError):
            # Some providers of users return nothing.
            taken = provider.cancel(ids) or [True] * len(ids)
            for number in ids:
                block = executor.job_ids_to_block[number]
                status = JobStatus(JobState.SCALED_IN)
                executor._status[block] = executor._simulated_status[block] = status
                self.blocks.setdefault(block, Block(0.0)).ended = True
            if hasattr(provider, "sweep"):
                return bool(provider.sweep() == 0)
            return all(taken) or all(status.terminal for status in provider.status(ids))
        return False


def slots_per_node(item: Blocks) -> float:
    """Return how many jobs run on a node at once, as far as Parsl knows."""
    return max(1.0, float(item.executor.workers_per_node))


def needed(item: Blocks, demand: Demand) -> int:
    """Return how many blocks jobs fill, as ``parallelism`` has it; one at least for any."""
    if not demand.jobs:
        return 0
    provider = item.provider
    nodes = provider.nodes_per_block
    cores, memory = getattr(provider, "cores_per_node", None), getattr(provider, "mem_per_node", None)
    needs = [1.0]
    if isinstance(item.executor, HighThroughputExecutor):
        needs.append(demand.jobs / (slots_per_node(item) * nodes))
    if cores:
        needs.append(demand.cpus / (cores * nodes))
    if memory:
        needs.append(demand.memory / (1024 * memory * nodes))
    return max(1, math.ceil(max(needs) * float(provider.parallelism)))


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
        return f"{refusal.message.rstrip('.')}. {refusal.change}" if refusal.change else refusal.message
    messages = [status.message for status in executor._simulated_status.values() if status.message]
    return " ".join(messages[-1].split()) if messages else "the batch system did not take it"


def last_words(status: JobStatus) -> str:
    """Return the last lines of a block's output, and what went wrong before them, for a sentence."""
    path = status.stderr_path
    if path is None:
        return f" ({status.state.name})"
    if lines := last_lines(Path(path)):
        return f"; the last lines of {path}:\n  " + "\n  ".join(lines)
    return f"; see {path}"
