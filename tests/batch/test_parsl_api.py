# SPDX-License-Identifier: BSD-3-Clause
"""What is taken from inside of Parsl is known, and missed in words."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from lsst.ctrl.bps.parsl.batch.parsl_api import NAMES, Name, require
from lsst.ctrl.bps.parsl.errors import ConfigurationError


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.name)
def test_installed_parsl_has(name: Name) -> None:
    """Each name is in the Parsl that is installed."""
    assert name.is_there()


@pytest.mark.parametrize(
    "name",
    [
        Name("parsl.no_such_module", "name", "a reason"),
        Name("parsl.config", "Config.no_such_method", "a reason"),
        Name("parsl.config", "Config.no_such_value", "a reason", "__init__"),
    ],
    ids=lambda name: name.name,
)
def test_what_is_missing_is_named(name: Name) -> None:
    """The message has the name, what it is for, and both versions."""
    with pytest.raises(ConfigurationError) as caught:
        require([*NAMES, name])
    for word in (name.name, "a reason", version("parsl"), f"parsl {version('lsst-ctrl-bps-parsl')}"):
        assert word in str(caught.value)
