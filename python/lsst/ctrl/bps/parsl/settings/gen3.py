# SPDX-License-Identifier: BSD-3-Clause
"""The block ``parsl_config`` of gen3_workflow, in the words of a site section."""

from __future__ import annotations

from typing import Any

from lsst.ctrl.bps import BpsConfig

from ..errors import ConfigurationError
from .types import clock_time, walltime_seconds

__all__ = ["PARSL_CONFIG", "section_of_parsl_config"]

PARSL_CONFIG = "parsl_config"
"""Name of the block."""

_SITES = "lsst.ctrl.bps.parsl.sites"

_CLASSES: dict[tuple[str, str | None], tuple[str, dict[str, Any]]] = {
    ("ThreadPool", None): ("ThreadPool", {"max_threads": 1}),
    ("WorkQueue", "Local"): ("work_queue.LocalSrunWorkQueue", {"nodes_per_block": 1}),
    ("WorkQueue", "Slurm"): (
        "SlurmWorkQueue",
        {"nodes": 1, "constraint": "knl", "qos": "regular", "walltime": "10:00:00"},
    ),
    ("WorkQueue", "PBSPro"): (
        "PBSProWorkQueue",
        {
            "nodes": 1,
            "queue": "expert",
            "parallelism": 0.0,
            "walltime": "10:00:00",
            "init_blocks": 1,
            "max_blocks": 32,
            "cores_per_node": 1,
        },
    ),
    ("WorkQueue", "LocalPBSPro"): ("LocalMpiWorkQueue", {"nodes_per_block": 1}),
}
"""Site class and gen3_workflow's defaults by executor and provider."""

_NAMES = {
    "monitoring": "monitorEnable",
    "monitoring_interval": "monitorInterval",
    "cpus_per_node": "cores_per_node",
}
"""Keys that have another name in a site section."""

_PROVIDER_NAMES = {
    "Slurm": {"nodes_per_block": "nodes"},
    "PBSPro": {"nodes_per_block": "nodes", "qos": "queue"},
}
"""Those for one provider alone."""

_ELSEWHERE = (
    "executor",
    "provider",
    "log_level",
    "workflow_name",
    "checkpoint",
    "monitoring_hub_port",
    "time_min",
    "coprocess",
)
"""Keys that name the class, that are read by themselves, or that have no
meaning here: a run can always be resumed, and Parsl's log level is
``parsl.log_level``."""


def section_of_parsl_config(config: BpsConfig) -> dict[str, Any]:
    """Translate the block into a site section.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration with a block ``parsl_config``.

    Returns
    -------
    section : `dict`
        What would stand below ``site.<computeSite>``.

    Raises
    ------
    ConfigurationError
        Raised if it names an executor or a provider that there is not.
    """
    block = config[PARSL_CONFIG]
    block = block.toDict() if isinstance(block, BpsConfig) else block
    if not isinstance(block, dict):
        raise ConfigurationError(f"{PARSL_CONFIG}: settings are wanted here, not {block!r}.")
    executor, provider = str(block.get("executor")), block.get("provider")
    found = _CLASSES.get((executor, None if executor == "ThreadPool" else provider))
    if found is None:
        known = ", ".join(" with ".join(filter(None, key)) for key in _CLASSES)
        raise ConfigurationError(
            f"{PARSL_CONFIG}: there is no executor {executor!r} with provider {provider!r}; "
            f"known are: {known}."
        )
    name, defaults = found
    names: dict[str, str] = {**_NAMES, **_PROVIDER_NAMES.get(str(provider), {})}
    section: dict[str, Any] = {
        "class": f"{_SITES}.{name}",
        "retries": 0,
        "monitorInterval": 60.0,
        "monitorFilename": "runinfo/monitoring.db",
        **defaults,
    }
    for key, value in block.items():
        if key not in _ELSEWHERE and value is not None:
            section[names.get(str(key), str(key))] = value
    if block.get("time_min") is not None:
        section["scheduler_options"] = [*_lines_of(section), f"#SBATCH --time-min={_time_min(block)}"]
    if block.get("coprocess") is not None:
        options = section.get("executor_options") or {}
        section["executor_options"] = {**options, "coprocess": block["coprocess"]}
    return section


def _lines_of(section: dict[str, Any]) -> list[str]:
    lines = section.get("scheduler_options") or []
    return [lines] if isinstance(lines, str) else list(lines)


def _time_min(block: dict[str, Any]) -> str:
    try:
        return clock_time(walltime_seconds(block["time_min"]))
    except ValueError as exc:
        raise ConfigurationError(f"{PARSL_CONFIG}.time_min: {block['time_min']!r}: {exc}.") from None
