# SPDX-License-Identifier: BSD-3-Clause
"""The batch scripts of a run's blocks, for people to read before they are submitted."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..files import write_private_text
from ..paths import SubmitPaths
from ..settings.gen3 import PARSL_CONFIG
from ..site import SiteConfig

__all__ = ["write_block_scripts"]

_LOG = logging.getLogger(__name__)


def write_block_scripts(sites: Iterable[SiteConfig], paths: SubmitPaths) -> None:
    """Write the batch script of each kind of block, and say where.

    Parameters
    ----------
    sites : `~collections.abc.Iterable` [`SiteConfig`]
        The sites of the run.
    paths : `SubmitPaths`
        Where the run is.
    """
    names = []
    for site in sites:
        for executor in site.get_executors():
            script = getattr(getattr(executor, "provider", None), "script", None)
            if not callable(script):
                continue  # Workers that are started here, or by a user's own class.
            path = paths.block_script(f"{site.name or PARSL_CONFIG}.{executor.label}")
            write_private_text(path, script(), "write the batch script")
            names.append(path.name)
    if names:
        where = paths.block_script("x").parent
        _LOG.info("What is submitted for blocks is in %s: %s", where, ", ".join(names))
