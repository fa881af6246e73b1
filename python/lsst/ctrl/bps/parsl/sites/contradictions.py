# SPDX-License-Identifier: BSD-3-Clause
"""Options of sbatch that say something else than the settings beside them.

Of two values of one option sbatch takes the later one, which is the user's
line. That is harmless where nothing here depends on the value: a partition,
an account, a qos, a constraint, GPUs, nodes to oneself. It is an error where sbatch refuses the
pair at every try, or where workers and jobs would be handed out by the value
of the setting while the block has another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..batch.directives import Directive, read_directives
from ..settings.types import MEGABYTES, clock_time, walltime_seconds

__all__ = ["contradictions", "replaced"]

_LATER_WINS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "gpus_per_node": "gpus-per-node",
}
"""Options that may stand beside the settings of these names."""


def contradictions(where: str, options: str, has: Mapping[str, Any]) -> list[str]:
    """Return what of some options cannot be, beside the settings.

    Parameters
    ----------
    where : `str`
        Name of the site's section.
    options : `str`
        The setting ``scheduler_options``.
    has : `~collections.abc.Mapping`
        The settings of blocks: ``nodes``, ``walltime`` (s),
        ``cores_per_node``, ``mem_per_node`` (GB), ``exclusive`` and
        ``singleton``.

    Returns
    -------
    complaints : `list` [`str`]
        A sentence for each, which names both.
    """
    found = read_directives(options)
    return [f"{where}.scheduler_options: {said}" for said in _contradictions(found, has)]


def _contradictions(found: Mapping[str, Directive], has: Mapping[str, Any]) -> Iterator[str]:
    yield from _sizes(found, has)
    memory, cores = has["mem_per_node"], has["cores_per_node"]
    for name in ("mem-per-cpu", "mem-per-gpu"):
        if name in found and memory is not None:
            yield (
                f"{found[name].text} and mem_per_node ({memory:g} GB, which is --mem) exclude each other: "
                "sbatch refuses both at every try. Remove the option, and set mem_per_node to what a node "
                "is to have."
            )
    if "oversubscribe" in found and has["exclusive"]:
        default = "" if cores is not None else ", as it is without cores_per_node"
        yield (
            f"{found['oversubscribe'].text} shares the nodes, and exclusive is true{default}. Remove the "
            "option, or set exclusive: false."
        )
    if "dependency" in found and has["singleton"] and "singleton" not in found["dependency"].value:
        yield (
            f"{found['dependency'].text} takes the place of --dependency=singleton, and singleton is true: "
            'blocks would run beside each other. Write "singleton" into it too, with a comma, or set '
            "singleton: false."
        )


def _sizes(found: Mapping[str, Directive], has: Mapping[str, Any]) -> Iterator[str]:
    """Compare what the driver and the workers count on."""
    seconds, memory = has["walltime"], has["mem_per_node"]
    sizes: tuple[tuple[str, str, Any, Any, str], ...] = (
        ("nodes", "nodes", has["nodes"], _number, f"{has['nodes']}"),
        ("cpus-per-task", "cores_per_node", has["cores_per_node"], _number, f"{has['cores_per_node']}"),
        ("time", "walltime", seconds, _seconds, clock_time(seconds)),
        (
            "mem",
            "mem_per_node",
            memory and math.floor(memory * 1024),
            _megabytes,
            f"{memory or 0:g} GB",
        ),
    )
    for option, key, value, read, shown in sizes:
        if option in found and value is not None and read(found[option].value) != value:
            yield (
                f"{found[option].text} would take the place of {key} ({shown}), by which jobs are handed "
                f"out. Set {key} to what is meant, and remove the option."
            )


def replaced(options: str, has: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Iterate over settings in whose place options stand.

    Parameters
    ----------
    options : `str`
        The setting ``scheduler_options``.
    has : `~collections.abc.Mapping`
        The settings.

    Yields
    ------
    key : `str`
        Name of the setting.
    text : `str`
        The option, as it was written.
    """
    found = read_directives(options)
    if "exclusive" in found and has.get("exclusive") is False:
        yield "exclusive", found["exclusive"].text
    for key, option in _LATER_WINS.items():
        if option in found and has.get(key) is not None and str(has[key]) != found[option].value:
            yield key, found[option].text


def _number(text: str) -> int | None:
    least, _, most = text.partition("-")
    return int(least) if least.isdecimal() and (most or least) == least else None


def _seconds(text: str) -> int | None:
    try:
        return walltime_seconds(text)
    except ValueError:
        return None


def _megabytes(text: str) -> int | None:
    match = re.fullmatch(r"(\d+)([kmgt]?)b?", text.lower())
    return math.floor(int(match.group(1)) * MEGABYTES[match.group(2) or "m"]) if match else None
