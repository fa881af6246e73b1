# SPDX-License-Identifier: BSD-3-Clause
"""The sites that come with the package.

Names are imported when they are first used: a run on this machine need not
load what belongs to clusters.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ccin2p3 import Ccin2p3
    from .csd3 import Csd3
    from .local import Local
    from .nersc import CoriKnl, Perlmutter
    from .pbs_work_queue import LocalMpiWorkQueue, PBSProWorkQueue
    from .princeton import Tiger
    from .slac import S3df, Sdf
    from .slurm import Slurm, TripleSlurm
    from .task_vine import LocalTaskVine, SlurmTaskVine
    from .thread_pool import ThreadPool
    from .torque import LSF, PBSPro, Torque
    from .work_queue import LocalSrunWorkQueue, SlurmWorkQueue, WorkQueue

_MODULES = {
    "LSF": "torque",
    "Ccin2p3": "ccin2p3",
    "CoriKnl": "nersc",
    "Csd3": "csd3",
    "Local": "local",
    "LocalMpiWorkQueue": "pbs_work_queue",
    "LocalSrunWorkQueue": "work_queue",
    "LocalTaskVine": "task_vine",
    "PBSPro": "torque",
    "PBSProWorkQueue": "pbs_work_queue",
    "Perlmutter": "nersc",
    "S3df": "slac",
    "Sdf": "slac",
    "Slurm": "slurm",
    "SlurmTaskVine": "task_vine",
    "SlurmWorkQueue": "work_queue",
    "ThreadPool": "thread_pool",
    "Tiger": "princeton",
    "Torque": "torque",
    "TripleSlurm": "slurm",
    "WorkQueue": "work_queue",
}

__all__ = [
    "LSF",
    "Ccin2p3",
    "CoriKnl",
    "Csd3",
    "Local",
    "LocalMpiWorkQueue",
    "LocalSrunWorkQueue",
    "LocalTaskVine",
    "PBSPro",
    "PBSProWorkQueue",
    "Perlmutter",
    "S3df",
    "Sdf",
    "Slurm",
    "SlurmTaskVine",
    "SlurmWorkQueue",
    "ThreadPool",
    "Tiger",
    "Torque",
    "TripleSlurm",
    "WorkQueue",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
