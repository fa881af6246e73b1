# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of Sphinx. Nothing is fetched: the build works offline."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import lsst.ctrl.bps.parsl
import lsst.ctrl.bps.parsl.sites

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

# Names that these packages import when they are first used: automodapi looks
# for them where names of a module usually are.
for _module in (lsst.ctrl.bps.parsl, lsst.ctrl.bps.parsl.sites):
    for _name in _module.__all__:
        vars(_module)[_name] = getattr(_module, _name)
