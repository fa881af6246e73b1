# SPDX-License-Identifier: BSD-3-Clause
"""Which part of the configuration is the site's."""

from __future__ import annotations

from collections.abc import Mapping

from lsst.daf.butler import Config

from lsst.ctrl.bps import BpsConfig

from ..configuration import get_bps_config_value
from ..errors import ConfigurationError
from .gen3 import PARSL_CONFIG, section_of_parsl_config

__all__ = [
    "EXPORT_ENVIRONMENT",
    "check_sites",
    "config_for_site",
    "get_text",
    "set_environment_apart",
    "site_name",
    "site_section",
]

EXPORT_ENVIRONMENT = "exportEnvironment"
"""Where the setting ``environment`` of a site is kept from BPS."""


def site_name(config: BpsConfig) -> str | None:
    """Return the name of the site that the run uses.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.

    Returns
    -------
    name : `str` or `None`
        ``computeSite``, empty where it is not set; `None` where gen3_workflow's
        block ``parsl_config`` takes the place of a site.
    """
    name = get_text(config, "computeSite", "computeSite") or ""
    sites = config.get(".site", {}) or {}
    if PARSL_CONFIG in config and not (name and name in sites):
        return None
    return name


def config_for_site(config: BpsConfig, name: str) -> BpsConfig:
    """Return the configuration for another site.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    name : `str`
        Name of the site.

    Returns
    -------
    config : `lsst.ctrl.bps.BpsConfig`
        A copy that has it as its ``computeSite``.
    """
    copy = BpsConfig(config)
    copy["computeSite"] = name
    return copy


def get_text(config: BpsConfig, key: str, where: str) -> str | None:
    """Return a text of the configuration; complain by its place of anything else."""
    try:
        return get_bps_config_value(config, key, str)
    except RuntimeError:
        raise ConfigurationError(f"{where}: {config[key]!r}: a text is wanted.") from None


def site_section(config: BpsConfig) -> BpsConfig:
    """Return the section of the site that the run uses.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.

    Returns
    -------
    site : `lsst.ctrl.bps.BpsConfig`
        The section ``site.<computeSite>``.

    Raises
    ------
    ConfigurationError
        Raised if there is none.
    """
    name = site_name(config)
    if name is None:
        return BpsConfig(section_of_parsl_config(config))
    sites = config.get(".site", {})
    check_sites(sites)
    known = sorted(key for key in sites if isinstance(key, str)) if sites else []
    choice = f" Known sites: {', '.join(known)}." if known else ""
    if not name:
        raise ConfigurationError(
            "No computeSite in the configuration: add 'computeSite: <name>', where <name> is a key "
            f"below 'site', or give --compute-site.{choice}"
        )
    if name not in known:
        raise ConfigurationError(
            f"There is no site.{name} in the configuration (computeSite: {name}).{choice} "
            f"Add a section 'site: {{{name}: {{class: ...}}}}'."
        )
    section = sites[name]
    if not isinstance(section, BpsConfig):
        raise ConfigurationError(f"site.{name}: settings are wanted here, not {section!r}.")
    return section


def check_sites(sites: object) -> None:
    """Check that ``site`` has sections.

    Parameters
    ----------
    sites : `object`
        What is below ``site``.

    Raises
    ------
    ConfigurationError
        Raised if it is something else.
    """
    if sites and not isinstance(sites, Mapping):
        raise ConfigurationError(
            f"site: {sites!r}: sections are wanted here, one for each site, as in "
            "{here: {class: lsst.ctrl.bps.parsl.sites.Local, cores: 4}}; computeSite names the one to use."
        )


def set_environment_apart(config: Config) -> None:
    """Keep the sites' setting ``environment`` from BPS.

    BPS looks into the site's section for the variables of a job, which have
    the same name (``environment`` since its version 29), and ends with a
    traceback where it finds true or false.

    Parameters
    ----------
    config : `lsst.daf.butler.Config`
        Configuration of the run, which is changed.
    """
    sites = config.get("site", {})
    if not isinstance(sites, Mapping):
        return  # It is said with all the others.
    for name in list(sites):
        section = sites[name]
        # A BpsConfig gives an empty text where there is none.
        value = section.get("environment") if isinstance(section, Mapping) else None
        if isinstance(value, bool | str) and value != "":
            config[f".site.{name}.{EXPORT_ENVIRONMENT}"] = value
            del config[f".site.{name}.environment"]
