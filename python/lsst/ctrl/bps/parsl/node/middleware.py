# SPDX-License-Identifier: BSD-3-Clause
"""What the LSST middleware reads from its own files at each start.

The files are part of its packages; those that ``DAF_BUTLER_CONFIG_PATH`` names
are read by each job, as before. Standard library only.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

__all__ = ["warm_middleware"]

_PACKAGED = "resource://lsst."


class _Remembering:
    """The module ``yaml`` for one user of it, with the packages' files read once.

    Parameters
    ----------
    yaml : module
        The module.
    """

    def __init__(self, yaml: Any) -> None:
        self._yaml = yaml
        self._read: dict[tuple[bytes, Any], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._yaml, name)

    def load(self, stream: Any, Loader: Any) -> Any:  # noqa: N803  # As yaml has it.
        """Read YAML; each caller gets objects of its own."""
        if not str(getattr(stream, "name", "")).startswith(_PACKAGED):
            return self._yaml.load(stream, Loader=Loader)
        content = stream.read()
        key = (content, Loader)
        if key not in self._read:
            stream.seek(0)
            self._read[key] = self._yaml.load(stream, Loader=Loader)
        return copy.deepcopy(self._read[key])


def warm_middleware() -> None:
    """Have the middleware read its defaults, where it is loaded."""
    butler: Any = sys.modules.get("lsst.daf.butler")
    config: Any = sys.modules.get("lsst.daf.butler._config")
    if butler is None or config is None or isinstance(config.yaml, _Remembering):
        return
    try:
        config.yaml = _Remembering(config.yaml)
        # Most of a repository's configuration is what this one has.
        file_datastore = "lsst.daf.butler.datastores.fileDatastore.FileDatastore"
        butler.ButlerConfig(butler.Config({"datastore": {"cls": file_datastore}}))
        # Of these, a process has one.
        butler.StorageClassFactory()
        butler.DimensionUniverse()
    except Exception:
        # Another version of the middleware: jobs are only that much slower,
        # and say themselves what is wrong, if anything is.
        pass
