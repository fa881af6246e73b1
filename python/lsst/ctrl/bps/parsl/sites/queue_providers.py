# SPDX-License-Identifier: BSD-3-Clause
"""Parsl's providers for Torque, PBS Professional and LSF, without their faults."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parsl.providers import LSFProvider, PBSProProvider, TorqueProvider

from ..errors import SchedulerError
from ..pilot_records import record_pilots

__all__ = ["LSFBlocks", "PBSProBlocks", "TorqueBlocks"]

STATUS_SECONDS = 15
"""Time between two looks at the queue."""


class _Blocks:
    """What is added to each of Parsl's classes.

    Parameters
    ----------
    record : `pathlib.Path`
        Where what was submitted is written down.
    seconds : `int`
        Walltime of a block in seconds.
    **options : `~typing.Any`
        As for Parsl's class.
    """

    scheduler = ""
    script_dir: str | None
    resources: dict[Any, dict[str, Any]]

    def __init__(self, record: Path, seconds: int, **options: Any) -> None:
        super().__init__(**options)
        self.record = record
        self.seconds = seconds
        self.refusal: SchedulerError | None = None
        self._said = ""

    def execute_wait(self, cmd: str, timeout: int | None = None) -> tuple[int, str, str]:
        """Run a command in the directory of the scripts, where its files are in nobody's way."""
        directory = shlex.quote(self.script_dir) + " && " if self.script_dir else ""
        code, out, err = super().execute_wait(f"cd {directory}{cmd}" if directory else cmd, timeout)  # type: ignore[misc]
        self._said = " ".join(f"{err} {out}".split())
        return code, out, err

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        """Submit a block, and write down that it was.

        Parameters
        ----------
        command : `str`
            What starts the workers, in bash.
        tasks_per_node : `int`
            1.
        job_name : `str`, optional
            Parsl's name for the block.

        Returns
        -------
        id : `str`
            The batch system's name for the job.

        Raises
        ------
        SchedulerError
            Raised if the batch system refuses.
        """
        number = super().submit(command, tasks_per_node, job_name)  # type: ignore[misc]
        if number is None:
            self.refusal = SchedulerError(self._said or "the batch system gave no reason")
            raise self.refusal
        self.refusal = None
        record_pilots(self.record, self.scheduler, id=str(number), name=job_name)
        return str(number)

    def cancel(self, job_ids: Sequence[object]) -> list[bool]:
        """Cancel blocks; one that has ended is no failure.

        Parameters
        ----------
        job_ids : `~collections.abc.Sequence` [`str`]
            The batch system's names for their jobs.

        Returns
        -------
        cancelled : `list` [`bool`]
            Whether the batch system took it, for each.
        """
        self._status()  # type: ignore[attr-defined]
        alive = [number for number in job_ids if not self.resources[number]["status"].terminal]
        taken = dict(zip(alive, super().cancel(alive), strict=True)) if alive else {}  # type: ignore[misc]
        return [taken.get(number, True) for number in job_ids]

    @property
    def status_polling_interval(self) -> int:
        """Seconds between two looks at the queue."""
        return STATUS_SECONDS


class TorqueBlocks(_Blocks, TorqueProvider):
    """Asks Torque for blocks."""

    scheduler = "torque"


class PBSProBlocks(_Blocks, PBSProProvider):
    """Asks PBS Professional for blocks."""

    scheduler = "pbspro"


class LSFBlocks(_Blocks, LSFProvider):
    """Asks LSF for blocks."""

    scheduler = "lsf"
