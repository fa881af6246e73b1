# SPDX-License-Identifier: BSD-3-Clause
"""Parsl's providers for Torque, PBS Professional and LSF, without their faults."""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from parsl.providers import LSFProvider, PBSProProvider, TorqueProvider
from parsl.providers.cluster_provider import ClusterProvider

from ..errors import SchedulerError
from .command_environment import taken_out
from .launchers import with_temporary_directory
from .pilot_records import record_pilots

__all__ = ["LSFBlocks", "PBSProBlocks", "TorqueBlocks"]

STATUS_SECONDS = 15
"""Time between two looks at the queue."""

_LOGS = ("job_stdout_path", "job_stderr_path")
"""Parsl's names for the output of a block, in its template for PBS Professional."""


_NAME = "BLOCK"
_WORKERS = "# Here is what starts the workers, with the ports of the run."


class _ShownError(Exception):
    """Ends a submission when its script is known, which is the argument."""


class _Commands(ClusterProvider):
    """Runs the commands of a batch system; the last of the base classes, since
    some of Parsl's call their own base class's.
    """

    said = ""
    """What the last command wrote."""

    def execute_wait(self, cmd: str, timeout: int | None = None) -> tuple[int, str, str]:
        """Run a command in the directory of the scripts, where its files are in nobody's way."""
        if self.script_dir:
            directory = os.path.abspath(self.script_dir)
            # The path is in the command once, quoted.
            cmd = f"cd {shlex.quote(directory)} && {cmd.replace(f'{directory}/', './')}"
        if names := taken_out():
            # Parsl gives commands the environment as it is.
            cmd = f"unset {' '.join(names)}; {cmd}"
        code, out, err = super().execute_wait(cmd, timeout)  # type: ignore[no-untyped-call]
        self.said = " ".join(f"{err} {out}".split())
        return code, out, err


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
    said: str
    script_dir: str | None
    resources: dict[Any, dict[str, Any]]

    def __init__(self, record: Path, seconds: int, **options: Any) -> None:
        super().__init__(**options)
        self.record = record
        self.seconds = seconds
        self.refusal: SchedulerError | None = None
        self._shows = False

    def script(self) -> str:
        """Return the batch script of the blocks.

        Returns
        -------
        script : `str`
            The script, with ``BLOCK`` for the name of a block, and a comment
            in place of what starts the workers.
        """
        self._shows, directory = True, self.script_dir
        try:
            self.script_dir = directory or "."  # Parsl sets it later.
            super().submit(with_temporary_directory(_WORKERS), 1, _NAME)  # type: ignore[misc]
        except _ShownError as shown:
            return str(shown)
        finally:
            self._shows, self.script_dir = False, directory
        raise AssertionError("Parsl writes no script")

    def _write_submit_script(self, template: str, path: str, job_name: str, configs: dict[str, Any]) -> None:
        # The command that submits it runs there, and a directive cannot hold every path.
        template = template.replace("${submit_script_dir}/", "")
        logs = {key: os.path.basename(value) for key, value in configs.items() if key in _LOGS}
        if self._shows:
            text = Template(template).substitute(jobname=job_name, **{**configs, **logs})
            raise _ShownError(text.replace(job_name, _NAME))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        super()._write_submit_script(template, path, job_name, {**configs, **logs})  # type: ignore[misc]

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
        # By this name it is told from the jobs of other runs.
        name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', job_name)}-{secrets.token_hex(4)}"
        record_pilots(self.record, self.scheduler, name=name)
        reason = ""
        try:
            command = with_temporary_directory(command)
            number = super().submit(command, tasks_per_node, name)  # type: ignore[misc]
        except Exception as exc:  # Parsl's classes differ in what they do about a refusal.
            number, reason = None, str(exc)
        if number is None:
            said = self.said or " ".join(reason.split()) or "the batch system gave no reason"
            missing = "command not found" in said or ": not found" in said
            self.refusal = SchedulerError(said, final=missing)
            raise self.refusal
        self.refusal = None
        record_pilots(self.record, self.scheduler, id=str(number), name=name)
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


class TorqueBlocks(_Blocks, TorqueProvider, _Commands):
    """Asks Torque for blocks.

    Parameters
    ----------
    record, seconds : optional
        As for the other classes.
    cores_per_node : `int`
        Cores of each node to ask for.
    **options : `~typing.Any`
        As for Parsl's class.
    """

    scheduler = "torque"

    def __init__(self, record: Path, seconds: int, cores_per_node: int, **options: Any) -> None:
        super().__init__(record, seconds, **options)
        self.template_string = self.template_string.replace("ppn=${tasks_per_node}", f"ppn={cores_per_node}")


class PBSProBlocks(_Blocks, PBSProProvider, _Commands):
    """Asks PBS Professional for blocks."""

    scheduler = "pbspro"


class LSFBlocks(_Blocks, LSFProvider, _Commands):
    """Asks LSF for blocks."""

    scheduler = "lsf"
