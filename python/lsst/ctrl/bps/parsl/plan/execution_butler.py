# SPDX-License-Identifier: BSD-3-Clause
"""A copy of the execution butler for each job.

BPS does without execution butlers since 2023 (``run-qbb`` reads the quantum
graph instead). Whoever still has one names it with ``executionButlerDir``.
Its registry is a file of SQLite, in which jobs would wait for each other.
"""

from __future__ import annotations

import os
import re
import shlex

from lsst.ctrl.bps import BpsConfig

from ..configuration import get_bps_config_value
from ..paths import safe_name
from .command import Command

__all__ = ["ButlerCopy"]


class ButlerCopy:
    """The copy that a job works with.

    Parameters
    ----------
    directory : `str`
        The execution butler.
    job : `str`
        Name of the job.
    """

    def __init__(self, directory: str, job: str) -> None:
        self.directory = directory.rstrip("/")
        self.path = f"{self.directory}-{safe_name(job)}"
        self._name = re.compile(re.escape(self.directory) + r"(?![\w.-])")

    @classmethod
    def for_job(cls, config: BpsConfig, job: str, command: Command) -> ButlerCopy | None:
        """Return the copy for a job.

        Parameters
        ----------
        config : `lsst.ctrl.bps.BpsConfig`
            Configuration of the run.
        job : `str`
            Name of the job.
        command : `Command`
            Its command.

        Returns
        -------
        copy : `ButlerCopy` or `None`
            `None` where there is no execution butler, or the command does
            not name it.
        """
        directory = get_bps_config_value(config, "executionButlerDir", str, "")
        if not directory or not os.path.isdir(directory):
            return None
        copy = cls(directory, job)
        return copy if copy._name.search(command.line) else None

    def command(self, command: Command) -> Command:
        """Have a command use the copy.

        Parameters
        ----------
        command : `Command`
            The command.

        Returns
        -------
        command : `Command`
            The same with the copy's path.
        """
        words = command.words and [self.text(word) for word in command.words]
        return Command(self.text(command.line), words)

    def text(self, code: str) -> str:
        """Have bash code use the copy.

        Parameters
        ----------
        code : `str`
            Bash code.

        Returns
        -------
        code : `str`
            The same with the copy's path.
        """
        return self._name.sub(lambda _: self.path, code)

    @property
    def before(self) -> str:
        """Bash code that makes the copy."""
        copy = shlex.quote(self.path)
        return f"rm -rf -- {copy} && cp -a -- {shlex.quote(self.directory)} {copy} || exit"

    @property
    def after(self) -> str:
        """Bash code that removes it."""
        return f"rm -rf -- {shlex.quote(self.path)}"
