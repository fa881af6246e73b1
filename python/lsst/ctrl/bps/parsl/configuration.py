# SPDX-License-Identifier: BSD-3-Clause
"""Reading BPS's configuration."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from lsst.daf.butler import Config

from lsst.ctrl.bps import BpsConfig

from .errors import ConfigurationError, DamagedFileError
from .files import PRIVATE, read_file, storage_errors, write_atomic
from .paths import SubmitPaths

__all__ = [
    "CONTROL_JOBS",
    "get_bps_config_value",
    "get_workflow_filename",
    "get_workflow_name",
    "set_parsl_logging",
]

CONTROL_JOBS = ("buildQuantumGraph", "preparePayloadWorkflow")
"""Labels of the jobs of bpsBatchSubmission, which are names of sections at the top level."""

T = TypeVar("T")


def get_bps_config_value(
    config: BpsConfig, key: str, dataType: type[T], default: T | None = None, *, required: bool = False
) -> T | None:
    """Return a value of the configuration.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration to search, as BPS does: environment variables and BPS
        variables in a text are replaced.
    key : `str`
        Name of the setting.
    dataType : `type`
        Type that the value must have. An integer will do where a `float` is
        wanted.
    default : `~typing.Any`, optional
        What to return where the setting is missing or ``null``.
    required : `bool`, optional
        Whether it must be there.

    Returns
    -------
    value : `~typing.Any`
        The value, or ``default``.

    Raises
    ------
    KeyError
        Raised if the setting is required, missing, and has no default.
    RuntimeError
        Raised if the value has another type.
    """
    options: dict[str, Any] = {"expandEnvVars": True, "replaceVars": True, "required": False, "default": None}
    _, value = config.search(key, options)
    if value is None:
        if required and default is None:
            raise KeyError(f"No value for {key} in the configuration, and it is required")
        return default
    if dataType is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, dataType) or (dataType is int and isinstance(value, bool)):
        raise RuntimeError(
            f"Configuration value {key}={value!r} is a {type(value).__name__}; expected {dataType.__name__}"
        )
    return value


def get_workflow_name(config: BpsConfig) -> str:
    """Return a name for the workflow that people recognise.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.

    Returns
    -------
    name : `str`
        ``<project>.<campaign or operator>`` where ``project`` is set,
        otherwise ``uniqProcName``; in characters that a Slurm job name and a
        file name can have.
    """
    project = get_bps_config_value(config, "project", str, "")
    if project:
        campaign = get_bps_config_value(config, "campaign", str, "")
        second = campaign or get_bps_config_value(config, "operator", str, "")
        name = f"{project}.{second}" if second else project
    else:
        name = get_bps_config_value(config, "uniqProcName", str, required=True) or ""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name)


def get_workflow_filename(out_prefix: str) -> str:
    """Return the name of the file that holds the workflow.

    Parameters
    ----------
    out_prefix : `str`
        Submit directory.

    Returns
    -------
    filename : `str`
        Path of the plan.
    """
    return str(SubmitPaths(out_prefix).plan)


def set_parsl_logging(config: BpsConfig) -> int:
    """Set how much of Parsl's log comes to the terminal.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration; ``parsl.log_level`` is the name of a Python log level,
        as in ``INFO`` or ``logging.INFO``.

    Returns
    -------
    level : `int`
        Level of the ``parsl`` logger; WARNING where nothing is set.

    Raises
    ------
    ConfigurationError
        Raised if there is no such level.
    """
    level = parsl_log_level(config)
    logging.getLogger("parsl").setLevel(level)
    return level


def parsl_log_level(config: BpsConfig) -> int:
    """Return the level from which Parsl's log comes to the terminal.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        As for `set_parsl_logging`.

    Returns
    -------
    level : `int`
        The level.

    Raises
    ------
    ConfigurationError
        Raised if there is no such level.
    """
    _, value = config.search(".parsl.log_level", opt={"default": None})
    if value is None:
        return logging.WARNING
    levels = logging.getLevelNamesMapping()
    if isinstance(value, int) and value in levels.values():
        return value
    name = str(value).upper().rpartition(".")[2]
    if name not in levels:
        raise ConfigurationError(
            f"parsl.log_level: {value!r} is no log level; write one of {', '.join(sorted(levels))}."
        )
    return levels[name]


def write_config(path: Path, config: BpsConfig) -> None:
    """Write a configuration as it is understood here and now.

    Parameters
    ----------
    path : `pathlib.Path`
        The file; only its owner can read it.
    config : `lsst.ctrl.bps.BpsConfig`
        The configuration.

    Notes
    -----
    Environment variables are replaced by their values, which may be secrets:
    a restart has another environment, and must understand the same.
    """
    text = yaml.safe_dump(_expanded(Config(config).toDict()), sort_keys=False)
    with storage_errors(path, "write the configuration"), write_atomic(path, PRIVATE) as stream:
        stream.write(text.encode())


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expanded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return os.path.expandvars(value) if isinstance(value, str) else value


def read_config(path: Path) -> BpsConfig:
    """Read what `write_config` wrote.

    Parameters
    ----------
    path : `pathlib.Path`
        The file.

    Returns
    -------
    config : `lsst.ctrl.bps.BpsConfig`
        The configuration.

    Raises
    ------
    DamagedFileError
        Raised if it is damaged.
    StorageError
        Raised if it cannot be read.
    """
    with storage_errors(path, "read the configuration"):
        raw = read_file(path)
    try:
        content = yaml.safe_load(raw)
        if not content or not isinstance(content, dict):
            raise TypeError("it holds no settings")
        config = BpsConfig(content)
        for section in config.search_order:
            if not isinstance(content.get(section, {}), dict):
                raise TypeError(f"its section {section} holds no settings")
        return config
    except (yaml.YAMLError, ValueError, TypeError) as exc:
        raise DamagedFileError(
            f"{path} is damaged ({exc}). The run cannot be resumed; submit it again."
        ) from exc
