# SPDX-License-Identifier: BSD-3-Clause
"""Work Queue's Python module, under whichever name it is installed.

conda-forge has it as ``ndcctools.work_queue``, which Parsl imports; Debian's
package and older releases have it as ``work_queue``.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import parsl.executors.workqueue.executor as executor_module

from ..errors import ConfigurationError

__all__ = ["work_queue_executor"]

_STAND_IN = str(Path(__file__).parent / "work_queue_stand_in")


def work_queue_executor() -> type:
    """Return Parsl's WorkQueueExecutor.

    Returns
    -------
    executor : `type`
        The class.

    Raises
    ------
    ConfigurationError
        Raised if Work Queue is not installed.
    """
    if not executor_module._work_queue_enabled:
        if not _is_there("work_queue"):
            raise ConfigurationError(
                "Work Queue is not installed. With conda: conda install -c conda-forge ndcctools; on Debian "
                "and Ubuntu: apt-get install coop-computing-tools python3-workqueue. (The package "
                "'work-queue' of the Python package index is something else.)"
            )
        # A path, since Parsl's manager process has to find it as well.
        sys.path.append(_STAND_IN)
        importlib.invalidate_caches()
        importlib.reload(executor_module)
    found: type = executor_module.WorkQueueExecutor
    return found


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
