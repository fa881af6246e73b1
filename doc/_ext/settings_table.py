# SPDX-License-Identifier: BSD-3-Clause
"""Directives that write what the code says: settings, values and lists of names.

``settings-table``
    A row for each field of a pydantic model: key, type, default, docstring.
    With ``:own:`` only those that the model does not take over from others.
``which-tables``
    For each site class of a module, links to the tables of its settings.
``values-table``
    Keys and values of a mapping, such as the defaults of a facility; a column
    for each entry where the values are mappings themselves.
``types-table``
    The types of a module that have a docstring.
``names-list``
    The strings of a tuple of the package, side by side.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.functional_validators import AfterValidator, BeforeValidator
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from lsst.ctrl.bps.parsl.settings import types

_TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_KINDS = {
    "Walltime": "walltime",
    "Memory": "number of MB, or with a unit",
    "Gigabytes": "number of GB, or with a unit",
    "Lines": "text, or list of lines",
    "Options": "mapping",
    "Limits": "mapping of names to whole numbers",
    "Word": "one word",
    "Words": "command line options",
}
"""Words for the types of settings that say more than Python's."""

_NAMES = {"SiteSettings": "all sites", "BlockSettings": "blocks", "QueueSettings": "queues"}
"""Names of tables that are not those of one site class."""


def find(path: str) -> Any:
    """Import an object.

    Parameters
    ----------
    path : `str`
        Its module and name, with dots; perhaps an attribute of a class.

    Returns
    -------
    found : `~typing.Any`
        The object.
    """
    parent, _, name = path.rpartition(".")
    try:
        return getattr(import_module(parent), name)
    except ModuleNotFoundError:
        return getattr(find(parent), name)


def _functions(metadata: Iterable[Any]) -> list[Any]:
    return [item.func for item in metadata if isinstance(item, BeforeValidator | AfterValidator)]


def _known(name: str) -> tuple[Any, list[Any]]:
    base, *metadata = typing.get_args(getattr(types, name))
    return base, _functions(metadata)


_KNOWN = [(_known(name), name, words) for name, words in _KINDS.items()]


def kind_of(annotation: Any, metadata: list[Any]) -> tuple[str, str] | None:
    """Recognise one of the types of `lsst.ctrl.bps.parsl.settings.types`.

    Parameters
    ----------
    annotation : `~typing.Any`
        Type of the field.
    metadata : `list`
        What pydantic knows besides.

    Returns
    -------
    kind : `tuple` or `None`
        Its name and the words for it; `None` for other types.
    """
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        members = [member for member in typing.get_args(annotation) if member is not NoneType]
        if len(members) == 1:
            annotation = members[0]
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *metadata = typing.get_args(annotation)
    sought = (annotation, _functions(metadata))
    return next(((name, words) for known, name, words in _KNOWN if sought == known), None)


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
    if kind := kind_of(annotation, metadata):
        return kind[1]
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


def describe_value(value: Any, kind: str = "") -> str:
    """Write a value as it would stand in YAML.

    Parameters
    ----------
    value : `~typing.Any`
        The value.
    kind : `str`, optional
        Name of its type in `lsst.ctrl.bps.parsl.settings.types`.

    Returns
    -------
    text : `str`
        The value, in reStructuredText.
    """
    if value is None:
        return "not set"
    if value in ("", {}):
        return "empty"
    if kind == "Walltime":
        value = types.clock_time(value)
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float):
        value = f"{value:g}"
    return " ".join(f"``{line}``" for line in str(value).splitlines())


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
    kind = kind_of(field.annotation, field.metadata)
    return describe_value(field.get_default(call_default_factory=True), kind[0] if kind else "")


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


def own_fields(model: type[BaseModel]) -> list[str]:
    """Return the fields that a model defines itself.

    Parameters
    ----------
    model : `type`
        The model.

    Returns
    -------
    names : `list` [`str`]
        Their names.
    """
    return [name for name in vars(model).get("__annotations__", {}) if name in model.model_fields]


def list_table(widths: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table.

    Parameters
    ----------
    widths : `str`
        Widths of the columns.
    head : `~collections.abc.Iterable` [`str`]
        The first row.
    rows : `~collections.abc.Iterable`
        The others.

    Returns
    -------
    text : `str`
        The table, in reStructuredText.
    """
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (head, *rows):
        for number, cell in enumerate(row):
            lines.append(f"   {'  -' if number else '* -'} {cell}")
    return "\n".join(lines) + "\n"


class SettingsTable(SphinxDirective):
    """The table of the settings of a model."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"own": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        model = find(self.arguments[0])
        names = own_fields(model) if "own" in self.options else list(model.model_fields)
        rows = []
        for name in names:
            field = model.model_fields[name]
            if not field.description:
                raise self.error(f"{self.arguments[0]}.{name} has no docstring")
            meaning = " ".join(inspect.cleandoc(field.description).split())
            kind = describe_type(field.annotation, field.metadata)
            rows.append((f"``{key_of(name, field)}``", kind, describe_default(field), meaning))
        table = list_table("20 20 15 45", ("key", "type", "default", "meaning"), rows)
        return self.parse_text_to_nodes(f".. _settings-{model.__name__}:\n\n{table}")


class WhichTables(SphinxDirective):
    """Which tables have the settings of each site class."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        module = import_module(self.arguments[0])
        rows = []
        for name in module.__all__:
            model = getattr(module, name).settings_model
            tables = [base for base in model.__mro__ if issubclass(base, BaseModel) and own_fields(base)]
            links = (
                f":ref:`{_NAMES.get(table.__name__, table.__name__.removesuffix('Settings'))} "
                f"<settings-{table.__name__}>`"
                for table in tables
            )
            rows.append((f"`~{self.arguments[0]}.{name}`", ", ".join(links)))
        table = list_table("30 70", ("class", "its settings"), rows)
        return self.parse_text_to_nodes(table)


class ValuesTable(SphinxDirective):
    """The table of a mapping."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        values = find(self.arguments[0])
        if all(isinstance(value, dict) for value in values.values()):
            keys = list(dict.fromkeys(key for value in values.values() for key in value))
            rows = [
                (f"``{name}``", *(describe_value(value.get(key)) for key in keys))
                for name, value in values.items()
            ]
            head = ["", *(f"``{key}``" for key in keys)]
            widths = " ".join("1" for _ in head)
        else:
            rows = [(f"``{key}``", describe_value(value)) for key, value in values.items()]
            head, widths = ["key", "value"], "30 70"
        return self.parse_text_to_nodes(list_table(widths, head, rows))


class TypesTable(SphinxDirective):
    """The table of the types of a module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        documented = ModuleAnalyzer.for_module(self.arguments[0]).find_attr_docs()
        public = import_module(self.arguments[0]).__all__
        rows = [
            (f"``{name}``", " ".join(lines).strip())
            for (_, name), lines in sorted(documented.items())
            if name in public
        ]
        return self.parse_text_to_nodes(list_table("20 80", ("type", "meaning"), rows))


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
    app.add_directive("which-tables", WhichTables)
    app.add_directive("values-table", ValuesTable)
    app.add_directive("types-table", TypesTable)
    app.add_directive("names-list", NamesList)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
