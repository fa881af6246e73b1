# SPDX-License-Identifier: BSD-3-Clause
"""Keys in a site's section that belong to another site class."""

from __future__ import annotations

from functools import cache

from .. import sites
from ..settings.model import bps_keys, keys_of
from ..site import SiteConfig

__all__ = ["foreign_keys", "owners"]


@cache
def owners() -> dict[str, list[str]]:
    """Return the names of our site classes by the keys that they know."""
    owners: dict[str, list[str]] = {}
    for name in sites.__all__:
        model = getattr(sites, name).settings_model
        for key in keys_of(model) if model is not None else ():
            owners.setdefault(key, []).append(name)
    return owners


def foreign_keys(site: SiteConfig) -> list[str]:
    """Look for settings that the site's class does not know, and another does.

    Parameters
    ----------
    site : `SiteConfig`
        The site.

    Returns
    -------
    warnings : `list` [`str`]
        A sentence for each; none for a class without a settings model.
    """
    if site.settings_model is None:
        return []
    unknown = [key for key in site.site if key not in keys_of(site.settings_model) and key not in bps_keys()]
    return [
        f"{site.where}.{key} has no effect: {type(site).__name__} has no such setting "
        f"({', '.join(owners()[key][:3])} {'have' if len(owners()[key]) > 1 else 'has'} it)."
        for key in unknown
        if key in owners()
    ]
