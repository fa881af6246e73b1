# SPDX-License-Identifier: BSD-3-Clause
"""Everything that this package raises at a user.

::

    click.ClickException
    └── ParslBpsError              base: a sentence, and an exit status
        ├── ConfigurationError     the YAML is wrong (all complaints at once)
        ├── WorkflowError          the workflow cannot be run as it is
        ├── RunNotFoundError       no run, or several, of that id
        ├── RunStateError          the run is not in a state that allows it
        ├── RunHeldError           another driver has the run
        ├── DamagedFileError       a file of ours cannot be trusted
        ├── StorageError           a file cannot be read or written
        ├── SchedulerError         the batch system refuses, or does not answer
        └── RunEndedError          the run ended without success
            ├── RunFailedError     jobs failed for good
            ├── RunCancelledError  somebody cancelled it
            ├── RunInterruptedError  a signal stopped the driver
            ├── NoWorkersError     no worker can be had for the jobs
            └── RunAbortedError    a job ended with its abortOnValue

``bps`` prints a `click.ClickException` as one sentence without a traceback
and exits with its ``exit_code``; from Python they are ordinary exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

import click

__all__ = [
    "ConfigurationError",
    "DamagedFileError",
    "NoWorkersError",
    "ParslBpsError",
    "RunAbortedError",
    "RunCancelledError",
    "RunEndedError",
    "RunFailedError",
    "RunHeldError",
    "RunInterruptedError",
    "RunNotFoundError",
    "RunStateError",
    "SchedulerError",
    "StorageError",
    "WorkflowError",
]


class ParslBpsError(click.ClickException):
    """Base class: what is wrong, where, and what to type next.

    Parameters
    ----------
    message : `str`
        The sentence for the user.
    """

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence, where there still is a terminal.

        Parameters
        ----------
        file : `~typing.IO`, optional
            Where to; standard error by default.
        """
        with suppress(OSError):
            super().show(file)


class ConfigurationError(ParslBpsError):
    """The configuration is wrong.

    Parameters
    ----------
    complaints : `~collections.abc.Sequence` [`str`]
        One sentence for each thing that is wrong.
    """

    def __init__(self, complaints: Sequence[str] | str) -> None:
        self.complaints = [complaints] if isinstance(complaints, str) else list(complaints)
        if len(self.complaints) == 1:
            message = self.complaints[0]
        else:
            lines = [f"{len(self.complaints)} problems in the configuration:"]
            message = "\n  - ".join(lines + self.complaints)
        super().__init__(message)


class WorkflowError(ParslBpsError):
    """The workflow cannot be run as it is."""


class RunNotFoundError(ParslBpsError):
    """No run matches the id that was given, or more than one does."""


class RunStateError(ParslBpsError):
    """The run is in a state that does not allow what was asked."""


class RunHeldError(ParslBpsError):
    """Another driver has the run."""


class DamagedFileError(ParslBpsError):
    """A file of ours is damaged, or of a format that we do not know."""


class StorageError(ParslBpsError):
    """A file cannot be read or written."""


class SchedulerError(ParslBpsError):
    """The batch system refuses, or does not answer.

    Parameters
    ----------
    message : `str`
        What it said.
    final : `bool`, optional
        Whether it would say the same if it were asked again.
    unknown : `bool`, optional
        Whether it may have done what was asked.
    change : `str`, optional
        What helps, as an order.
    """

    def __init__(self, message: str, final: bool = False, unknown: bool = False, change: str = "") -> None:
        super().__init__(message)
        self.final = final
        self.unknown = unknown
        self.change = change


class RunEndedError(ParslBpsError):
    """The run ended without success."""


class RunFailedError(RunEndedError):
    """Jobs of the run failed for good."""


class RunCancelledError(RunEndedError):
    """The run was cancelled while it was going."""


class NoWorkersError(RunEndedError):
    """No worker can be had for the jobs; the run can be resumed."""


class RunAbortedError(RunEndedError):
    """A job ended with the value that aborts the run.

    Parameters
    ----------
    message : `str`
        The sentence for the user.
    exit_code : `int`
        BPS's ``abortReturnValue``, or the job's exit code.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads the instance's.


class RunInterruptedError(RunEndedError):
    """A signal stopped the driver; the run can be resumed.

    Parameters
    ----------
    message : `str`
        The sentence for the user.
    exit_code : `int`, optional
        128 and the number of the signal, as shells have it.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads the instance's.
