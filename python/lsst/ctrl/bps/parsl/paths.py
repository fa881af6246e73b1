# SPDX-License-Identifier: BSD-3-Clause
"""Where things live in a submit directory."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .files import check_own, make_directory

__all__ = ["PAYLOAD", "SubmitPaths", "safe_name"]

PAYLOAD = "payload.jsonl"
"""Name of the plan's second part, beside the first one."""

_LONGEST_NAME = 200
"""Bytes of a file name that we make; file systems take 255, and we add
suffixes."""

_UNSAFE = re.compile(r"[^\w.,=+@%-]")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,=+@%-]*")
_VARIABLE = re.compile(r"{([^{}]*)}")


def safe_name(name: str) -> str:
    """Make a file name of a text that may hold anything.

    Parameters
    ----------
    name : `str`
        Such as the name of a job.

    Returns
    -------
    safe : `str`
        The text itself where it is a plain file name. Otherwise what is left
        of it without the characters that a path or a shell gives a meaning,
        and a digest that keeps two different texts apart.
    """
    if len(name) < _LONGEST_NAME and _PLAIN.fullmatch(name):
        return name
    safe = _UNSAFE.sub("_", name) or "_"
    if safe.startswith((".", "-")):
        safe = "_" + safe[1:]
    encoded = safe.encode("utf-8", "replace")
    if safe == name and len(encoded) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return encoded[:_LONGEST_NAME].decode("utf-8", "ignore") + f"-{digest}"


class SubmitPaths:
    """Every path that this package uses in a submit directory.

    Parameters
    ----------
    submit_path : `str` or `os.PathLike`
        The submit directory.
    """

    def __init__(self, submit_path: str | os.PathLike[str]) -> None:
        self.submit_path = Path(os.path.abspath(submit_path))
        self._logs = str(self.logs)

    def __repr__(self) -> str:
        return f"SubmitPaths({str(self.submit_path)!r})"

    @property
    def directory(self) -> Path:
        """Where our own files are."""
        return self.submit_path / "parsl"

    @property
    def plan(self) -> Path:
        """What to run; written once."""
        return self.directory / "plan.jsonl"

    @property
    def payload(self) -> Path:
        """The second part of the plan, which a job of the run adds."""
        return self.directory / PAYLOAD

    def unattached_payload(self, token: str) -> Path:
        """Return where an attempt of that job writes it first."""
        return self.directory / f"payload-{token}.jsonl"

    def unattached_payloads(self) -> list[Path]:
        """Return what attempts of that job have written and not put into its place, whole or not."""
        return sorted(self.directory.glob("payload-*"))

    @property
    def config(self) -> Path:
        """The configuration as it was understood at prepare (private)."""
        return self.directory / "config.yaml"

    @property
    def environment(self) -> Path:
        """The environment that jobs get (private)."""
        return self.directory / "environment.json"

    @property
    def job_environments(self) -> Path:
        """What single jobs get in addition (private)."""
        return self.directory / "job_environments.json"

    def payload_environments(self, header: Mapping[str, object]) -> Path:
        """Return the same for the jobs of the second part, by its header (private)."""
        return self.directory / os.path.basename(str(header.get("job_environments", "")))

    @property
    def environment_script(self) -> Path:
        """The same in bash, for workers on other hosts (private)."""
        return self.directory / "environment.sh"

    @property
    def pilots(self) -> Path:
        """What was asked of a batch system."""
        return self.directory / "pilots.jsonl"

    def block_script(self, name: str) -> Path:
        """Return the batch script of the blocks of a name; what they write is beside it."""
        return self.submit_path / "blocks" / f"{safe_name(name)}.sh"

    @property
    def password(self) -> Path:
        """What Work Queue and its workers know each other by (private)."""
        return self.directory / "workers.password"

    @property
    def executables(self) -> Path:
        """Directory of the executables that were brought to the jobs."""
        return self.directory / "bin"

    @property
    def lock(self) -> Path:
        """Who drives the run."""
        return self.directory / "driver.lock"

    @property
    def cancel_request(self) -> Path:
        """Its presence asks the driver to cancel the run."""
        return self.directory / "cancel"

    @property
    def journals(self) -> Path:
        """Directory of the journals."""
        return self.directory / "journal"

    @property
    def driver_journal(self) -> Path:
        """What the drivers of this run did."""
        return self.journals / "driver.jsonl"

    def node_journals(self) -> list[Path]:
        """Return what the nodes recorded, one file for each."""
        return sorted(map(Path, self.node_journal_sizes()))

    def node_journal_sizes(self) -> dict[str, int]:
        """Return the sizes of the nodes' journals by their paths, without opening any."""
        sizes = {}
        with suppress(FileNotFoundError), os.scandir(self.journals) as entries:
            for entry in entries:
                if entry.name.startswith("node-") and entry.name.endswith(".jsonl"):
                    with suppress(FileNotFoundError):
                        sizes[entry.path] = entry.stat(follow_symlinks=False).st_size
        return sizes

    @property
    def logs(self) -> Path:
        """Directory of the jobs' output."""
        return self.submit_path / "logs"

    def log_stem(
        self, template: str | Mapping[str, str], name: str, label: str, tags: Mapping[str, object]
    ) -> str:
        """Return the path of a job's log files, without their suffix.

        Parameters
        ----------
        template : `str` or `~collections.abc.Mapping` [`str`, `str`]
            BPS's ``subDirTemplate``, one for all or by label; names in braces
            stand for the label and the tags, and a part of which nothing is
            left is dropped.
        name, label : `str`
            Name and label of the job.
        tags : `~collections.abc.Mapping` [`str`, `object`]
            Tags of the job.

        Returns
        -------
        stem : `str`
            Path below the logs directory, whatever the values hold.
        """
        if not isinstance(template, str):
            template = template.get(label, "")
        values = {**tags, "label": label}
        parts = [self._logs]
        for part in template.split("/"):
            filled = _VARIABLE.sub(lambda match: str(values.get(match.group(1), "")), part)
            if filled:
                parts.append(safe_name(filled))
        parts.append(safe_name(name))
        # Text, not a path object: this is done for each job.
        return "/".join(parts)

    def create(self) -> None:
        """Make the directories, and close the submit directory to others.

        Notes
        -----
        BPS makes the submit directory and its own files by the user's umask.
        Some of them hold the whole environment, or the configuration, secrets
        and all. While others could write to the submit directory, one of them
        may have made a directory there that we are about to use.
        """
        make_directory(self.submit_path)
        check_own(self.submit_path)
        for path in (self.submit_path, *self.submit_path.iterdir()):
            # BPS's copies of the configuration and of the environment hold secrets.
            keep = 0o7700 if path.suffix in (".yaml", ".pickle") else 0o7755
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & ~keep and not path.is_symlink():
                path.chmod(mode & keep)
        for directory in (self.directory, self.journals, self.logs):
            make_directory(directory)
            check_own(directory)
