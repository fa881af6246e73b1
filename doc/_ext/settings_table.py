# SPDX-License-Identifier: BSD-3-Clause
"""Directives that write what the code says: settings and lists of names.

``settings-table``
    A row for each field of a pydantic model: key, type, default, docstring.
    With ``:own:`` only those that its base class does not have.
``names-list``
    The strings of a tuple of the package, side by side.
"""

from __future__ import annotations

import inspect
import typing
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def find(path: str) -> Any:
    """Import an object.

    Parameters
    ----------
    path : `str`
        Its module and name, with dots.

    Returns
    -------
    found : `~typing.Any`
        The object.
    """
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def describe_type(annotation: Any, metadata: list[Any]) -> str:
    """Say in words what a setting takes.

    Parameters
    ----------
    annotation : `~typing.Any`
        Type of the field.
    metadata : `list`
        What pydantic knows besides: bounds, validators.

    Returns
    -------
    text : `str`
        Such as "whole number, at least 1".
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, UnionType):
        members = [describe_type(member, metadata) for member in arguments if member is not NoneType]
        return " or ".join(members)
    if origin is typing.Annotated:
        return describe_type(arguments[0], [*arguments[1:], *metadata])
    text = _TYPES.get(annotation, getattr(annotation, "__name__", str(annotation)))
    flat = [item for entry in metadata for item in getattr(entry, "metadata", [entry])]
    for item in flat:
        for bound, words in _BOUNDS.items():
            if (value := getattr(item, bound, None)) is not None:
                text += f", {words} {value}"
    return text


def describe_default(field: FieldInfo) -> str:
    """Say what holds where a setting is missing.

    Parameters
    ----------
    field : `pydantic.fields.FieldInfo`
        The field.

    Returns
    -------
    text : `str`
        As it would be written in YAML.
    """
    if field.is_required():
        return "*required*"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "not set"
    if isinstance(default, bool):
        return f"``{str(default).lower()}``"
    return f"``{default}``" if default != "" else "empty"


def key_of(name: str, field: FieldInfo) -> str:
    """Return the name that a setting has in the YAML.

    Parameters
    ----------
    name : `str`
        Name of the field.
    field : `pydantic.fields.FieldInfo`
        The field.

    Returns
    -------
    key : `str`
        The name.
    """
    choices = getattr(field.validation_alias, "choices", None)
    return str(choices[0]) if choices else str(field.validation_alias or name)


class SettingsTable(SphinxDirective):
    """The table of the settings of a model."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"own": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        model = find(self.arguments[0])
        inherited = set(model.__mro__[1].model_fields) if "own" in self.options else set()
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 20 20 15 45", ""]
        lines += ["   * - key", "     - type", "     - default", "     - meaning"]
        for name, field in model.model_fields.items():
            if name in inherited:
                continue
            if not field.description:
                raise self.error(f"{self.arguments[0]}.{name} has no docstring")
            meaning = " ".join(inspect.cleandoc(field.description).split())
            lines.append(f"   * - ``{key_of(name, field)}``")
            lines.append(f"     - {describe_type(field.annotation, field.metadata)}")
            lines.append(f"     - {describe_default(field)}")
            lines.append(f"     - {meaning}")
        return self.parse_text_to_nodes("\n".join(lines) + "\n")


class NamesList(SphinxDirective):
    """The strings of a tuple."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"suffix": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Make the list."""
        suffix = self.options.get("suffix", "")
        names = sorted(find(self.arguments[0]))
        return self.parse_text_to_nodes(", ".join(f"``{name}{suffix}``" for name in names) + ".\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives to Sphinx."""
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("names-list", NamesList)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
