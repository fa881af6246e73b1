# SPDX-License-Identifier: BSD-3-Clause
"""Parsl plugin for the Batch Production Service.

Names are imported when they are first used, so that looking at a run does not
load Parsl.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..configuration import (
        get_bps_config_value,
        get_workflow_filename,
        get_workflow_name,
        set_parsl_logging,
    )
    from ..job import ParslJob, get_file_paths
    from ..service import ParslService
    from ..site import SiteConfig
    from ..workflow import ParslWorkflow, get_parsl_config, start_pipeline

_MODULES = {
    "ParslJob": "job",
    "ParslService": "service",
    "ParslWorkflow": "workflow",
    "SiteConfig": "site",
    "get_bps_config_value": "configuration",
    "get_file_paths": "job",
    "get_parsl_config": "workflow",
    "get_workflow_filename": "configuration",
    "get_workflow_name": "configuration",
    "set_parsl_logging": "configuration",
    "start_pipeline": "workflow",
}

__all__ = [
    "ParslJob",
    "ParslService",
    "ParslWorkflow",
    "SiteConfig",
    "get_bps_config_value",
    "get_file_paths",
    "get_parsl_config",
    "get_workflow_filename",
    "get_workflow_name",
    "set_parsl_logging",
    "start_pipeline",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
