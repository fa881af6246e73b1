# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of Sphinx. Nothing is fetched: the build works offline."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import lsst.ctrl.bps.parsl

project = "lsst.ctrl.bps.parsl"
author = "The lsst-ctrl-bps-parsl developers"
copyright = f"2026, {author}"
version = release = installed_version("lsst-ctrl-bps-parsl")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx_automodapi.automodapi",
    "numpydoc",
    "settings_table",
]
exclude_patterns = ["_build"]
default_role = "py:obj"
nitpicky = False

html_theme = "alabaster"
html_theme_options = {"description": "Parsl plugin for the Batch Production Service"}

automodapi_toctreedirnm = "py-api"
automodsumm_inherited_members = False
numpydoc_show_class_members = False
autodoc_typehints = "none"

# Names that the package imports when they are first used: automodapi looks
# for them where names of a module usually are.
for _name in lsst.ctrl.bps.parsl.__all__:
    vars(lsst.ctrl.bps.parsl)[_name] = getattr(lsst.ctrl.bps.parsl, _name)
