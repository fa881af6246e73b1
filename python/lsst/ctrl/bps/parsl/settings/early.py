# SPDX-License-Identifier: BSD-3-Clause
"""What BPS itself would fall over, before it does.

BPS calls a plugin's checks for some of its verbs only, and for some settings
too late: ``bps transform`` never does, and a ``site`` that is a text, or a
site's ``environment: true``, end there in a traceback; before its release
30.2026.4300 ``bps submit`` looks at ``remoteBuild`` first. What it does for each
verb, before it looks at anything, is to ask the service for its defaults,
while it makes a ``BpsConfig`` of the user's YAML. It does not pass on the YAML;
so it is taken from there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from lsst.daf.butler import Config

from lsst.ctrl.bps import BpsConfig

from ..errors import ConfigurationError
from .section import check_sites, set_environment_apart

__all__ = ["being_read", "check_early"]


def being_read() -> Config | None:
    """Return the user's settings, of which BPS is making a configuration.

    Returns
    -------
    config : `lsst.daf.butler.Config` or `None`
        The settings; `None` where this is not called from there.
    """
    frame = sys._getframe(1)
    while frame.f_code is not BpsConfig.__init__.__code__:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    found = frame.f_locals.get("other_config")
    return found if isinstance(found, Config) else None


def check_early(config: Config) -> None:
    """Check what BPS looks at before it calls the plugin's checks.

    Parameters
    ----------
    config : `lsst.daf.butler.Config`
        The user's settings. ``environment`` of a site is set apart in them,
        and an empty ``computeSite`` is taken out.

    Raises
    ------
    ConfigurationError
        Raised with the first thing that is wrong.
    """
    check_sites(config.get("site"))
    site = config.get("computeSite")
    if site is not None and not isinstance(site, str):
        raise ConfigurationError(f"computeSite: {site!r}: a text is wanted.")
    if site == "":
        del config["computeSite"]  # The same to us; BPS would look for a section of that name.
    sites = config.get("site")
    section = sites.get(site) if site and isinstance(sites, Mapping) else None
    if section is not None and not isinstance(section, Mapping):
        raise ConfigurationError(f"site.{site}: settings are wanted here, not {section!r}.")
    remote = config.get("remoteBuild")
    if isinstance(remote, Mapping) and remote.get("enabled") is True:
        raise ConfigurationError(
            "remoteBuild.enabled: true is for PanDA. Take it out; to have the quantum graph built in a job, "
            "write bpsBatchSubmission: true, which BPS has since its release 30.2026.4300."
        )
    set_environment_apart(config)
