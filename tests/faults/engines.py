# SPDX-License-Identifier: BSD-3-Clause
"""The engines by their names, and how a test is run on some of them."""

from __future__ import annotations

import pytest

from cluster.engines import ENGINES

__all__ = ["BY_NAME", "on_engines"]

BY_NAME = {engine.name: engine for engine in ENGINES}
_HERE = ("threads", "htex")
"""Engines that need no cluster."""


def on_engines(*names: str) -> pytest.MarkDecorator:
    """Run a test on some engines."""
    marks = {name: [] if name in _HERE else [pytest.mark.on_cluster] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in names])
