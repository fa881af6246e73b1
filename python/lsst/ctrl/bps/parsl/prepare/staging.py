# SPDX-License-Identifier: BSD-3-Clause
"""Executables that BPS leaves to the plugin to bring to the jobs."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from lsst.ctrl.bps import GenericWorkflowExec

from ..errors import WorkflowError
from ..files import make_directory, storage_errors, write_atomic
from ..node.records import ATTEMPT_VARIABLE, expand
from ..paths import SubmitPaths, safe_name
from ..plan.variables import fill_in_attempt

__all__ = ["stage_executables"]

FINAL_SCRIPT = "final_job.bash"
"""Name of the script that BPS makes of ``finalJob.command1`` and its kin."""


def stage_executables(executables: Iterable[GenericWorkflowExec], paths: SubmitPaths) -> dict[str, str]:
    """Put executables where jobs can run them.

    Parameters
    ----------
    executables : `~collections.abc.Iterable` [`lsst.ctrl.bps.GenericWorkflowExec`]
        Those with ``transfer_executable``.
    paths : `SubmitPaths`
        Where the run is.

    Returns
    -------
    staged : `dict` [`str`, `str`]
        Paths of the executables by their ``src_uri``.

    Raises
    ------
    StorageError
        Raised if one cannot be copied.
    WorkflowError
        Raised if one does not exist, or if two have one name.

    Notes
    -----
    One that BPS has put into the submit directory stays where it is. BPS
    leaves the number of the attempt in its final job's script to the plugin
    since its release 30.2026.4300; it becomes a variable of the job's. The
    others are copied, so that the jobs of a restart run the same. All can be
    executed afterwards, as with HTCondor, which transfers them so.
    """
    staged: dict[str, str] = {}
    names: dict[str, str] = {}
    for executable in executables:
        source = executable.src_uri or ""
        if source in staged:
            continue
        if other := names.get(executable.name):
            raise WorkflowError(f"Two executables have the name {executable.name}: {other} and {source}.")
        names[executable.name] = source
        found = os.path.abspath(expand(source, dict(os.environ)))
        if not os.path.isfile(found):
            raise WorkflowError(f"{source} does not exist: the executable that is to be brought to the jobs.")
        staged[source] = str(_stage(Path(found), executable.name, paths))
        if executable.name == FINAL_SCRIPT and Path(found).is_relative_to(paths.submit_path):
            _fill_in_attempt(Path(found))
    return staged


def _fill_in_attempt(script: Path) -> None:
    with storage_errors(script, "write the number of the attempt into it"):
        code = script.read_text("utf-8", "surrogateescape")
        try:
            filled = fill_in_attempt(code).replace(f"<ENV:{ATTEMPT_VARIABLE}>", f"${{{ATTEMPT_VARIABLE}}}")
        except ValueError as exc:
            raise WorkflowError(f"A command of finalJob cannot be read: {exc}.") from None
        if filled != code:
            with write_atomic(script, stat.S_IMODE(script.stat().st_mode)) as stream:
                stream.write(filled.encode("utf-8", "surrogateescape"))


def _stage(source: Path, name: str, paths: SubmitPaths) -> Path:
    path = source
    with storage_errors(source, "bring an executable to the jobs"):
        if not source.is_relative_to(paths.submit_path):
            make_directory(paths.executables)
            path = paths.executables / safe_name(name)
            with open(source, "rb") as stream, write_atomic(path, 0o755) as copy:
                shutil.copyfileobj(stream, copy)
        elif not os.access(source, os.X_OK) or not source.stat().st_mode & stat.S_IXUSR:
            path.chmod(stat.S_IMODE(source.stat().st_mode) | stat.S_IXUSR)
    return path
