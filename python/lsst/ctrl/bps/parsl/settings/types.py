# SPDX-License-Identifier: BSD-3-Clause
"""Types of settings: what people write in YAML, and what is meant."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

__all__ = [
    "MEGABYTES",
    "Count",
    "FinalJobPlace",
    "Fraction",
    "Gigabytes",
    "Limits",
    "Line",
    "Lines",
    "Memory",
    "Name",
    "Number",
    "Options",
    "Port",
    "Seconds",
    "Walltime",
    "Whole",
    "Word",
    "Words",
    "clock_time",
    "one_line",
    "plain_text",
    "walltime_seconds",
]

SUBMIT_HOST, WORKERS = "submit host", "workers"

MEGABYTES = {"k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0**2}
"""MB in the units of memory, by their letters."""

_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?")
_HOURS = re.compile(r"\d+\.\d*|\.\d+")
_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+)")


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    return value


def _size(value: object, unit: str) -> object:
    value = _no_boolean(value)
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(?:i?b)?\s*", value, re.IGNORECASE)
    if not match:
        raise ValueError(f'write a number of {unit.upper()}B, or one with a unit, as in "64 GB"')
    megabytes = float(match.group(1)) * MEGABYTES[match.group(2).lower() or unit]
    return megabytes / MEGABYTES[unit]


def _seconds(value: object) -> int:
    """Read a walltime in any of the forms that people have in their YAML.

    YAML 1.1 reads ``2:00:00`` as the integer 7200, and Slurm defines the
    forms of a text.
    """
    how = 'write hours, minutes and seconds, as in "2:00:00"'
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(how)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(how)
        return round(value * 3600)
    if isinstance(value, int):
        if value <= 0:
            raise ValueError("it must be more than 0")
        if value < 60:
            raise ValueError(f'is it minutes or hours? {how}; "0:{value:02d}:00" is {value} minutes')
        return value
    text = value.strip()
    if _HOURS.fullmatch(text):
        return round(float(text) * 3600)  # As without quotes.
    if match := _DAYS.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return 86400 * days + 3600 * hours + 60 * minutes + seconds
    if match := _CLOCK.fullmatch(text):
        first, second, third = match.groups()
        if second is None:
            return 60 * int(third)
        return 3600 * int(first or 0) + 60 * int(second) + int(third)
    raise ValueError(how)


def walltime_seconds(value: object) -> int:
    """Read a time as it stands in YAML.

    Parameters
    ----------
    value : `object`
        As for the type `Walltime`.

    Returns
    -------
    seconds : `int`
        The time in seconds.

    Raises
    ------
    ValueError
        Raised if it cannot be read.
    """
    return _seconds(value)


def clock_time(seconds: int) -> str:
    """Write a time as schedulers read it.

    Parameters
    ----------
    seconds : `int`
        The time in seconds.

    Returns
    -------
    text : `str`
        Hours, minutes and seconds, as in ``26:00:00``.
    """
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _text(value: object) -> object:
    """Take a number for a text: an account may be called 1234."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _one_word(value: str) -> str:
    if not value or re.search(r"[\s\x00-\x1f\x7f\"'`$;#\\]", value):
        raise ValueError("a name is wanted, without spaces, quotes and the like")
    return value


def _plain(value: str) -> str:
    if not re.fullmatch(r"[\w.,:@%+=/-]+", value):
        raise ValueError("a name is wanted, of letters, digits and . , : @ % + = / -")
    return value


def _lines(value: object) -> object:
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return value


def _words(value: object) -> object:
    """Read options as a shell does, and quote them so that it reads the same."""
    if isinstance(value, str):
        try:
            return shlex.join(shlex.split(value))
        except ValueError as exc:
            raise ValueError(f"options are wanted; {exc}") from None
    return value


def one_line(value: str) -> str:
    """Take a text of one line.

    Parameters
    ----------
    value : `str`
        The text.

    Returns
    -------
    value : `str`
        The same.

    Raises
    ------
    ValueError
        Raised if it has a line's end or another control character; a tab will
        do.
    """
    if re.search(r"[\x00-\x08\n-\x1f\x7f]", value):
        raise ValueError("it must be one line, without control characters")
    return value


def plain_text(value: str) -> str:
    """Take a text that means nothing else to a shell.

    Parameters
    ----------
    value : `str`
        The text.

    Returns
    -------
    value : `str`
        The same.

    Raises
    ------
    ValueError
        Raised if it has any other characters.
    """
    if not re.fullmatch(r"[\w.,:@%+=/ -]*", value):
        raise ValueError("letters, digits, blanks and . , : @ % + = / - are wanted; a shell may read others")
    return value


def _final_job_place(value: object) -> object:
    if isinstance(value, Mapping):
        return SUBMIT_HOST  # BPS's own section of that name.
    if value not in (SUBMIT_HOST, WORKERS):
        raise ValueError(f'write "{WORKERS}" or "{SUBMIT_HOST}"')
    return value


def _mapping(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise ValueError("names and values are wanted")


def _limits(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise ValueError("names and numbers are wanted, as in {db_limit: 10}")


Number = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
"""A number."""

Whole = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0)]
"""A number of things, or none."""

Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1)]
"""A number of things, at least one."""

Port = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=65535)]
"""A TCP port; 0 for any."""

Fraction = Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, le=1)]
"""A number from 0 to 1."""

Seconds = Annotated[float, BeforeValidator(_no_boolean), Field(gt=0, allow_inf_nan=False)]
"""A time in seconds."""

Memory = Annotated[float, BeforeValidator(lambda value: _size(value, "m")), Field(gt=0, allow_inf_nan=False)]
"""A memory size in MB."""

Gigabytes = Annotated[
    float, BeforeValidator(lambda value: _size(value, "g")), Field(gt=0, allow_inf_nan=False)
]
"""A memory size in GB."""

Walltime = Annotated[int, BeforeValidator(_seconds), Field(gt=0)]
"""A running time in seconds."""

Word = Annotated[str, BeforeValidator(_text), AfterValidator(_one_word)]
"""A name that may stand in a line of a batch script."""

Name = Annotated[str, BeforeValidator(_text), AfterValidator(_plain)]
"""A name that means nothing else to a shell."""

Words = Annotated[str, BeforeValidator(_words), AfterValidator(one_line)]
"""Options for a command, which a shell takes for nothing else."""

Line = Annotated[str, AfterValidator(one_line)]
"""A text of one line."""

Lines = Annotated[str, BeforeValidator(_lines)]
"""One or more lines; a list of them will do."""

Limits = Annotated[dict[str, Count], BeforeValidator(_limits)]
"""A number of things for each name."""

FinalJobPlace = Annotated[str, BeforeValidator(_final_job_place)]
"""Where the final job runs."""

Options = Annotated[dict[str, Any], BeforeValidator(_mapping)]
"""Keyword arguments for a class of Parsl's."""
