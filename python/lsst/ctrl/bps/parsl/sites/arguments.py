# SPDX-License-Identifier: BSD-3-Clause
"""Arguments for Parsl's classes that users write."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigurationError
from ..settings.model import read_settings
from ..settings.types import plain_text
from .blocks import BlockSettings

__all__ = ["parsl_arguments"]

_COMMANDS = ("init_command", "interchange_launch_cmd", "launch_cmd", "worker_executable")
"""Those that Parsl documents to be commands."""


def parsl_arguments(settings: BlockSettings, name: str, where: str) -> dict[str, Any]:
    """Return arguments for one of Parsl's classes.

    Parsl puts many of them into batch scripts and commands as they are.

    Parameters
    ----------
    settings : `BlockSettings`
        The settings.
    name : `str`
        The one that has the arguments: ``provider_options`` or
        ``executor_options``.
    where : `str`
        Name of the site's section, for complaints.

    Returns
    -------
    arguments : `dict`
        The arguments. A text for one that has the name of a setting is read
        as that setting is.

    Raises
    ------
    ConfigurationError
        Raised if a text is code where Parsl documents none.
    """
    arguments: dict[str, Any] = getattr(settings, name)
    model = type(settings)
    texts = {key: value for key, value in arguments.items() if isinstance(value, str | list | tuple | dict)}
    own = {key: value for key, value in texts.items() if key in model.model_fields}
    read = read_settings(model, {"class": settings.class_name, **own}, f"{where}.{name}")
    complaints = []
    for key in set(texts).difference(own, _COMMANDS):
        parts = texts[key] if isinstance(texts[key], list | tuple) else [texts[key]]
        try:
            for part in parts:
                if isinstance(part, str):
                    plain_text(part)
        except ValueError as exc:
            complaints.append(f"{where}.{name}.{key}: {texts[key]!r}: {exc}.")
    if complaints:
        raise ConfigurationError(sorted(complaints))
    return {**arguments, **{key: getattr(read, key) for key in own if isinstance(getattr(read, key), str)}}
