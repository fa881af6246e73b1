# SPDX-License-Identifier: BSD-3-Clause
"""What is checked and said before anything is made."""

from __future__ import annotations

import logging
import os

from lsst.ctrl.bps import BpsConfig

from .configuration import parsl_log_level
from .errors import ConfigurationError
from .paths import SubmitPaths

__all__ = ["config_complaints", "leave_if_surplus", "say_what_is_understood", "submit_path_complaints"]

_LOG = logging.getLogger(__name__)


def config_complaints(config: BpsConfig) -> list[str]:
    """Return what is wrong with the configuration; empty where nothing is."""
    from .site import site_complaints

    complaints = site_complaints(config)
    _, limit = config.search("memoryLimit", opt={"default": None})
    if limit is not None and not isinstance(limit, int | float):
        complaints.append(f"memoryLimit: {limit!r}: a number of MB is wanted.")
    try:
        parsl_log_level(config)
    except ConfigurationError as exc:
        complaints.extend(exc.complaints)
    return complaints


def leave_if_surplus(config: BpsConfig) -> None:
    """End this process where another one does the same."""
    from .site import SiteConfig

    try:
        surplus = SiteConfig.from_config(config).is_surplus()
    except ConfigurationError:
        return  # It is said with all the others.
    if surplus:
        _LOG.info("The first task of this srun does it all; this one ends.")
        raise SystemExit(0)


def say_what_is_understood(config: BpsConfig) -> None:
    """Log how settings were understood that people often get wrong."""
    from .site import SiteConfig
    from .sites.foreign_keys import foreign_keys

    site = SiteConfig.from_config(config)
    for warning in foreign_keys(site):
        _LOG.warning("%s", warning)
    for remark in site.remarks():
        _LOG.info("%s", remark)


def submit_path_complaints(config: BpsConfig) -> list[str]:
    """Return why the submit directory cannot be made; empty where it can."""
    path = os.path.abspath(config["submitPath"])
    if os.path.lexists(path):
        resume = f", or resume the run in it with: bps restart --id {path}"
        return [
            f"submitPath: {path} exists. Choose another one"
            + (resume if SubmitPaths(path).plan.exists() else ".")
        ]
    parent = os.path.dirname(path)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        return [f"submitPath: {path} cannot be made: {parent} cannot be written to."]
    return []
