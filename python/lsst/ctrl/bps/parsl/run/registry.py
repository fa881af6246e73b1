# SPDX-License-Identifier: BSD-3-Clause
"""Where a user's runs are: a small file for each, in the user's own directory.

The directory is ``$BPS_PARSL_STATE_DIR`` or, where that is unset,
``lsst-ctrl-bps-parsl`` in ``$XDG_STATE_HOME`` (``~/.local/state``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ..errors import RunNotFoundError
from ..files import PRIVATE, make_directory, read_file, write_atomic
from ..paths import SubmitPaths, safe_name

__all__ = ["Entry", "Registry", "read_registry", "register_run"]

_LOG = logging.getLogger(__name__)

VARIABLE = "BPS_PARSL_STATE_DIR"
_FORMAT = 1

KEPT_SECONDS = 30 * 86400.0
"""Time for which the entry of a run is kept whose submit directory is gone."""


class Entry(BaseModel):
    """A run that the user has."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    run: str
    """Its id."""

    submit_path: str
    """Its submit directory."""

    created: float
    """When it was prepared, in seconds since 1970."""


def state_directory() -> Path:
    """Return the directory of the registry.

    Returns
    -------
    directory : `pathlib.Path`
        The directory; it may not exist.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given).absolute()
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base).absolute() / "lsst-ctrl-bps-parsl"


def register_run(run: str, submit_path: Path) -> None:
    """Add a run.

    Parameters
    ----------
    run : `str`
        Its id.
    submit_path : `pathlib.Path`
        Its submit directory.

    Notes
    -----
    A registry that cannot be written is no reason to lose a run: a warning
    says that only the submit path will find it.
    """
    directory = state_directory()
    entry = Entry(run=run, submit_path=str(submit_path), created=time.time())
    digest = hashlib.sha256(os.fsencode(entry.submit_path)).hexdigest()[:10]
    path = directory / f"{safe_name(run)}@{digest}.json"
    try:
        make_directory(directory, 0o700)
        with write_atomic(path, PRIVATE) as stream:
            stream.write(json.dumps({"format": _FORMAT, **entry.model_dump()}).encode())
    except OSError as exc:
        _LOG.warning(
            "Cannot write the list of your runs (%s: %s); use the submit path %s in place of the run id, "
            "or set %s to a directory that can be written.",
            path,
            exc.strerror,
            submit_path,
            VARIABLE,
        )


def read_registry() -> list[Entry]:
    """Read the list of the user's runs, each entry once.

    Returns
    -------
    entries : `list` [`Entry`]
        The runs whose submit directories exist, oldest first. An entry that
        is damaged is reported in a warning and left out. One of a run that is
        gone for long is removed.
    """
    entries = []
    directory = state_directory()
    for path in map(directory.joinpath, _names(directory)):
        try:
            entry = _read_entry(path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            why = str(exc).partition("\n")[0]
            _LOG.warning("%s is damaged or unreadable (%s); its run is found by its submit path.", path, why)
            continue
        if _is_run(entry.submit_path):
            entries.append(entry)
        elif time.time() - entry.created > KEPT_SECONDS and _is_gone(entry.submit_path):
            with suppress(OSError):
                path.unlink()
    return sorted(entries, key=lambda entry: entry.created)


def _names(directory: Path) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.endswith(".json")]
    except FileNotFoundError:
        pass
    except OSError as exc:
        _LOG.warning(
            "Cannot read the list of your runs (%s: %s); use submit paths in place of run ids, or set %s to "
            "the right directory.",
            directory,
            exc.strerror,
            VARIABLE,
        )
    return []


def _read_entry(path: Path) -> Entry:
    content = json.loads(read_file(path))
    if content.pop("format") != _FORMAT:
        raise ValueError("unknown format")
    return Entry.model_validate(content)


def _is_run(submit_path: str) -> bool:
    try:
        return SubmitPaths(submit_path).plan.exists()
    except (OSError, ValueError):
        return False  # No file can have this name.


def _is_gone(submit_path: str) -> bool:
    """Tell whether a submit directory was removed: of a file system that is
    not here today, nothing is left that is the user's.
    """
    try:
        left = submit_path
        while left and not os.path.lexists(left):
            left = os.path.dirname(left)
        return left != submit_path and os.stat(left).st_uid == os.geteuid()
    except (OSError, ValueError):
        return False


class Registry:
    """The user's runs, as they are when they are first asked for.

    Whoever looks at many runs reads the list once.
    """

    @cached_property
    def entries(self) -> list[Entry]:
        """The runs, oldest first."""
        return read_registry()

    def find(self, wanted: str) -> Path:
        """Find a run.

        Parameters
        ----------
        wanted : `str`
            A run id, the beginning of one, or a submit path.

        Returns
        -------
        submit_path : `pathlib.Path`
            Its submit directory.

        Raises
        ------
        RunNotFoundError
            Raised if there is no such run, or more than one.
        """
        if _is_run(wanted):
            return SubmitPaths(wanted).submit_path
        found = self._of_id.get(wanted, [])
        if not found and wanted:
            found = [entry for entry in self.entries if entry.run.startswith(wanted)]
        if len({entry.submit_path for entry in found}) == 1:
            return Path(found[0].submit_path)
        raise _not_found(wanted, found)

    def shortest_id(self, run: str, submit_path: Path) -> str:
        """Return what names a run: its id, or its submit path where the id is not its alone.

        Parameters
        ----------
        run : `str`
            Its id.
        submit_path : `pathlib.Path`
            Its submit directory.

        Returns
        -------
        shortest : `str`
            What `find` knows it by.
        """
        try:
            alone = self.find(run) == submit_path
        except RunNotFoundError:
            alone = False
        return run if alone else str(submit_path)

    @cached_property
    def _of_id(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.run, []).append(entry)
        return found


def _not_found(wanted: str, found: list[Entry]) -> RunNotFoundError:
    if found:
        choice = "\n  ".join(f"{entry.run}  {entry.submit_path}" for entry in found)
        return RunNotFoundError(
            f"{len(found)} runs match {wanted!r}; give more of the id, or the submit path:\n  {choice}"
        )
    if os.path.isdir(wanted):
        return RunNotFoundError(
            f"{os.path.abspath(wanted)} is not the submit directory of a prepared run of this plugin "
            f"(no file {SubmitPaths(wanted).plan})."
        )
    return RunNotFoundError(
        f"No run matches {wanted!r}. List your runs with: bps report --hist 30   "
        "A run of somebody else's is found by its submit path."
    )
