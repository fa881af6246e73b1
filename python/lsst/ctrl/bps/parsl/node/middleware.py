# SPDX-License-Identifier: BSD-3-Clause
"""What the LSST middleware reads from its own files at each start.

The files are part of its packages, or named by ``DAF_BUTLER_CONFIG_PATH``;
what is read is kept in the middleware's own places for that.
"""

from __future__ import annotations

import sys

__all__ = ["warm_middleware"]


def warm_middleware() -> None:
    """Have the middleware read its defaults, where it is loaded."""
    butler = sys.modules.get("lsst.daf.butler")
    if butler is None:
        return
    # Both keep one instance for each process.
    for name in ("StorageClassFactory", "DimensionUniverse"):
        try:
            getattr(butler, name)()
        except Exception:
            # Only that much slower; a job with the same trouble says so.
            pass
