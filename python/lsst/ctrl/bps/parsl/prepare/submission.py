# SPDX-License-Identifier: BSD-3-Clause
"""What is checked and said before anything is made."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping

from lsst.daf.butler import Config

from lsst.ctrl.bps import BpsConfig

from ..configuration import parsl_log_level
from ..errors import ConfigurationError
from ..paths import SubmitPaths
from ..settings.model import near_miss
from ..settings.section import get_text
from ..settings.types import one_line
from .htcondor_keys import htcondor_keys

__all__ = [
    "config_complaints",
    "leave_if_surplus",
    "say_what_is_understood",
    "submit_path_complaints",
    "why_not_writable",
]

_LOG = logging.getLogger(__name__)

_LONGEST_PATH = 4096
"""Linux's PATH_MAX."""


def config_complaints(config: BpsConfig) -> list[str]:
    """Return what is wrong with the configuration; empty where nothing is."""
    from ..site import site_complaints

    complaints = site_complaints(config)
    _, limit = config.search("memoryLimit", opt={"default": None})
    if limit is not None and not _is_size(limit):
        complaints.append(f"memoryLimit: {limit!r}: a number of MB is wanted.")
    for check in (_check_parsl, _check_name, _check_log_directories, _submit_path):
        try:
            check(config)
        except ConfigurationError as exc:
            complaints.extend(exc.complaints)
    return complaints


def _is_size(value: object) -> bool:
    """Tell whether a value is a number of MB, be it in quotes."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return 0 < float(value) < math.inf
    except ValueError:
        return False


def _check_parsl(config: BpsConfig) -> None:
    """Check the section ``parsl``."""
    section = config.get("parsl") or {}
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"parsl: {section!r}: settings are wanted here, as in {{log_level: INFO}}.")
    for key in section:
        if meant := near_miss(str(key), ["log_level"]):
            raise ConfigurationError(f"parsl.{key}: unknown setting; did you mean {meant}?")
    parsl_log_level(config)


def _check_name(config: BpsConfig) -> None:
    """Check the name of the run, of which BPS makes names of files."""
    name = get_text(config, "uniqProcName", "uniqProcName") or ""
    try:
        one_line(name)
        if "/" in name:
            raise ValueError("files have this name; write it without /")
    except ValueError as exc:
        raise ConfigurationError(f"uniqProcName: {name!r}: {exc}.") from None


def _check_log_directories(config: BpsConfig) -> None:
    """Check the directories of the log files, for all labels or one for each."""
    _, given = config.search("subDirTemplate", opt={"replaceVars": False, "default": ""})
    by_label = Config(given).toDict() if isinstance(given, Mapping) else {"": given}
    complaints = []
    for label, template in by_label.items():
        if not isinstance(template, str | None):
            where = f"subDirTemplate.{label}" if label else "subDirTemplate"
            wanted = "a text is wanted" if label else "a text is wanted, or one for each label"
            complaints.append(f"{where}: {template!r}: {wanted}.")
    _, when = config.search("whenSaveJobQgraph", opt={"default": "NEVER"})
    if isinstance(given, Mapping) and str(when).upper() != "NEVER":
        complaints.append(
            "subDirTemplate: BPS takes one text, and none for each label, where it saves a quantum graph "
            f"for each job (whenSaveJobQgraph: {when})."
        )
    if complaints:
        raise ConfigurationError(complaints)


def _submit_path(config: BpsConfig) -> str:
    given = get_text(config, "submitPath", "submitPath") or ""
    try:
        return os.path.abspath(one_line(given))
    except ValueError as exc:
        raise ConfigurationError(f"submitPath: {given!r}: {exc}.") from None


def leave_if_surplus(config: BpsConfig) -> None:
    """End this process where another one does the same."""
    from ..site import SiteConfig

    try:
        surplus = SiteConfig.from_config(config).is_surplus()
    except ConfigurationError:
        return  # It is said with all the others.
    if surplus:
        _LOG.info("The first task of this srun does it all; this one ends.")
        raise SystemExit(0)


def say_what_is_understood(config: BpsConfig) -> None:
    """Log how settings were understood that people often get wrong."""
    from ..site import SiteConfig
    from ..sites import Local, LocalSrunWorkQueue, LocalTaskVine
    from ..sites.foreign_keys import foreign_keys

    site = SiteConfig.from_config(config)
    has_blocks = not isinstance(site, Local | LocalSrunWorkQueue | LocalTaskVine)
    for warning in (*foreign_keys(site), htcondor_keys(config, has_blocks=has_blocks)):
        if warning:
            _LOG.warning("%s", warning)
    for remark in site.remarks():
        _LOG.info("%s", remark)


def submit_path_complaints(config: BpsConfig) -> list[str]:
    """Return why the submit directory cannot be made; empty where it can."""
    try:
        path = _submit_path(config)
    except ConfigurationError:
        return []  # It is said with all the others.
    if os.path.lexists(path):
        resume = f", or resume the run in it with: bps restart --id {path}"
        return [
            f"submitPath: {path} exists. Choose another one"
            + (resume if SubmitPaths(path).plan.exists() else ".")
        ]
    why = why_not_writable(path)
    return [f"submitPath: {path} cannot be made: {why}."] if why else []


def why_not_writable(path: str) -> str:
    """Return why a directory cannot be made, or written to where it exists.

    Parameters
    ----------
    path : `str`
        The directory, as an absolute path.

    Returns
    -------
    why : `str`
        The reason; empty where there is none.
    """
    there, missing = path, []
    while not os.path.lexists(there):
        there, name = os.path.split(there)
        missing.append(name)
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written to"
    longest = max((len(os.fsencode(name)) for name in missing), default=0)
    is_long = longest > os.pathconf(there, "PC_NAME_MAX") or len(os.fsencode(path)) >= _LONGEST_PATH
    return "its name is too long" if is_long else ""
