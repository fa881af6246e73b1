# SPDX-License-Identifier: BSD-3-Clause
"""The environment of jobs: what travels with them and what must not."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from .errors import DamagedFileError
from .files import PRIVATE, read_file, storage_errors, write_atomic
from .node.environment import capture_environment, path_with_commands, travels

__all__ = ["add_prefixes", "capture_environment", "export_environment", "read_environment", "travels"]

_LOG = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FUNCTION = re.compile(r"BASH_FUNC_(.+)%%\Z")
_FUNCTION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:+-]*\Z")
_DECLARE = 'for name; do declare -f "$name" && printf "export -f %s\\n" "$name"; done'
_FORMAT = 1
_ENVIRONMENT = TypeAdapter(dict[str, str], config=ConfigDict(strict=True))
_JOB_ENVIRONMENTS = TypeAdapter(list[dict[str, Any]], config=ConfigDict(strict=True))


def export_environment(environ: Mapping[str, str] | None = None) -> str:
    """Write the environment as bash commands.

    Parameters
    ----------
    environ : `~collections.abc.Mapping` [`str`, `str`], optional
        Environment to write; this process's by default.

    Returns
    -------
    commands : `str`
        One ``export`` a variable, every value quoted; and for each function
        that bash exported (``BASH_FUNC_name%%`` since its 2014 releases) its
        definition and an ``export -f``. Names that must not travel are left
        out, and so are names that bash cannot have.
    """
    lines, functions = [], {}
    for name, value in sorted(capture_environment(environ).items()):
        if _NAME.match(name):
            lines.append(f"export {name}={shlex.quote(value)}")
        elif (match := _FUNCTION.match(name)) and _FUNCTION_NAME.match(match.group(1)) and "\0" not in value:
            functions[match.group(1)] = value
    if functions:
        lines.append(_definitions(functions))
    return "\n".join(filter(None, lines))


def _definitions(functions: Mapping[str, str]) -> str:
    """Have bash write functions that it has imported.

    Of a value that goes on after the function, or is none, bash takes nothing
    since it would run the rest (CVE-2014-6271); neither do we.
    """
    variables = {f"BASH_FUNC_{name}%%": value for name, value in functions.items()}
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", _DECLARE, "bash", *functions],
        env={"PATH": os.environ.get("PATH", os.defpath), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")


def write_environment(
    path: Path,
    environment: Mapping[str, str],
    prefix: str = "",
    prefixes: Mapping[str, str] | None = None,
) -> None:
    """Write what jobs get into a file that only its owner can read.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.
    environment : `~collections.abc.Mapping` [`str`, `str`]
        The variables.
    prefix : `str`, optional
        Bash commands to run before each command.
    prefixes : `~collections.abc.Mapping` [`str`, `str`], optional
        The same for the jobs of certain sites, by the names of the sites.
    """
    content = {
        "format": _FORMAT,
        "environment": dict(environment),
        "prefix": prefix,
        "prefixes": dict(prefixes or {}),
    }
    with storage_errors(path, "write the environment of the jobs"), write_atomic(path, PRIVATE) as stream:
        stream.write(json.dumps(content, indent=1).encode("utf-8", "surrogateescape"))


def add_prefixes(path: Path, prefixes: Mapping[str, str]) -> list[str]:
    """Add the commands of more sites to what `write_environment` wrote.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.
    prefixes : `~collections.abc.Mapping` [`str`, `str`]
        Bash commands to run before each command, by the names of the sites.

    Returns
    -------
    added : `list` [`str`]
        Names of the sites that were not there.
    """
    read_environment(path)
    content = json.loads(read_file(path).decode("utf-8", "surrogateescape"))
    known = content["prefixes"]
    added = [name for name in prefixes if name not in known]
    if added:
        environment, prefix = content["environment"], content["prefix"]
        write_environment(path, environment, prefix, {**prefixes, **known})
    return added


def write_environment_script(path: Path) -> None:
    """Write the environment for bash, into a file that only its owner can read.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.
    """
    text = export_environment() + "\n"
    with storage_errors(path, "write the environment of the workers"), write_atomic(path, PRIVATE) as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))


def read_environment(path: Path) -> tuple[dict[str, str], str]:
    """Read what `write_environment` wrote.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.

    Returns
    -------
    environment : `dict` [`str`, `str`]
        The variables.
    prefix : `str`
        Bash commands to run before each command.

    Raises
    ------
    DamagedFileError
        Raised if the file is not what was written.
    StorageError
        Raised if it cannot be read.
    """
    with storage_errors(path, "read the environment of the jobs"):
        raw = read_file(path)
    try:
        content = json.loads(raw.decode("utf-8", "surrogateescape"))
        _check_format(path, content["format"])
        if not isinstance(content["prefix"], str):
            raise TypeError("its prefix is no text")
        return _ENVIRONMENT.validate_python(content["environment"]), content["prefix"]
    except (ValueError, TypeError, KeyError) as exc:
        raise _damaged(path, exc) from exc


def write_job_environments(path: Path, environments: Sequence[Mapping[str, object]]) -> None:
    """Write what single jobs get in addition into a file that only its owner can read.

    Parameters
    ----------
    path : `pathlib.Path`
        The file; where there is nothing to write, it is not made.
    environments : `~collections.abc.Sequence` [`~collections.abc.Mapping`]
        The variables; the plan names each by its number.
    """
    if not environments:
        return
    content = {"format": _FORMAT, "environments": list(environments)}
    with storage_errors(path, "write the environments of jobs"), write_atomic(path, PRIVATE) as stream:
        stream.write(json.dumps(content, default=str).encode())


def read_job_environments(path: Path) -> list[dict[str, Any]]:
    """Read what `write_job_environments` wrote.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.

    Returns
    -------
    environments : `list` [`dict`]
        The variables; no jobs' where there is no such file.

    Raises
    ------
    DamagedFileError
        Raised if the file is not what was written.
    StorageError
        Raised if it cannot be read.
    """
    with storage_errors(path, "read the environments of jobs"):
        try:
            raw = read_file(path)
        except FileNotFoundError:
            return []
    try:
        content = json.loads(raw)
        _check_format(path, content["format"])
        return _JOB_ENVIRONMENTS.validate_python(content["environments"])
    except (ValueError, TypeError, KeyError) as exc:
        raise _damaged(path, exc) from exc


def _check_format(path: Path, found: object) -> None:
    if found != _FORMAT:
        raise DamagedFileError(
            f"{path} has format {found!r}; this version of lsst-ctrl-bps-parsl reads format {_FORMAT}. "
            "Use the version that prepared the run."
        )


def _damaged(path: Path, exc: Exception) -> DamagedFileError:
    return DamagedFileError(f"{path} is damaged ({exc}). The run cannot be resumed; submit it again.")


def set_command_directories() -> None:
    """Have BPS's default commands found.

    Notes
    -----
    BPS calls ``pipetask`` and ``butler``, before its release 30.2026.4300
    ``${CTRL_MPEXEC_DIR}/bin/pipetask`` and ``${DAF_BUTLER_DIR}/bin/butler``.
    EUPS sets both variables, pip sets neither: there the commands are on the
    PATH, or beside the interpreter. What is on the PATH comes first.
    """
    if path := path_with_commands(os.environ):
        os.environ["PATH"] = path
        _LOG.info("Not all of BPS's commands are on the PATH; added: %s", path.rpartition(os.pathsep)[2])
    filled = []
    for variable, command in (("CTRL_MPEXEC_DIR", "pipetask"), ("DAF_BUTLER_DIR", "butler")):
        if os.environ.get(variable):
            continue
        found = shutil.which(command)
        if found and os.path.basename(os.path.dirname(found)) == "bin":
            os.environ[variable] = os.path.dirname(os.path.dirname(os.path.abspath(found)))
            filled.append(f"{variable}={os.environ[variable]}")
    if filled:
        _LOG.info("Not set, and taken from the installed commands: %s", ", ".join(filled))
