# SPDX-License-Identifier: BSD-3-Clause
"""A site of the benchmarks' own, for both plugins: Parsl's workers on this machine.

``workers`` in its section is their number, however many cores there are. Where
``BENCHMARK_ASKED`` is set, the workers are asked again and again what they are,
and the answers are written to the file of that name.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from types import FunctionType
from typing import Any

from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor
from parsl.providers import LocalProvider

from lsst.ctrl.bps.parsl.site import SiteConfig

__all__ = ["Workers"]

PAUSE = 0.5


class Workers(SiteConfig):
    """Runs jobs on workers of this machine."""

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor.

        Returns
        -------
        executors : `list` [`parsl.executors.HighThroughputExecutor`]
            The executor.
        """
        executor = HighThroughputExecutor(
            label="workers",
            provider=LocalProvider(init_blocks=1, max_blocks=1),
            address="127.0.0.1",
            cores_per_worker=0.01,
            max_workers_per_node=int(self.site["workers"]),
        )
        if path := os.environ.get("BENCHMARK_ASKED"):
            threading.Thread(target=ask_for_ever, args=(executor, path), daemon=True).start()
        return [executor]

    def select_executor(self, job: Any) -> str:
        """Return its label.

        Parameters
        ----------
        job : `object`
            The job.

        Returns
        -------
        label : `str`
            The label.
        """
        return "workers"


def ask_for_ever(executor: HighThroughputExecutor, path: str) -> None:
    """Ask workers, as long as this process lives.

    Parameters
    ----------
    executor : `parsl.executors.HighThroughputExecutor`
        Their executor, which need not have started.
    path : `str`
        The file for the answers.
    """
    while True:
        time.sleep(PAUSE)
        # Before it has started and after it has ended, it may raise anything.
        with suppress(Exception):
            answer = executor.submit(sent, {}).result(timeout=30)
            with open(path, "a") as stream:
                stream.write(f"{json.dumps(answer)}\n")


def describe() -> dict[str, Any]:
    """Describe the process in which this runs; it is sent to workers as code."""
    import os
    import sys

    memory = {}
    with open("/proc/self/smaps_rollup") as stream:
        for line in stream:
            key, *words = line.split()
            if key in ("Rss:", "Pss:"):
                memory[key[:-1].lower()] = int(words[0]) / 1024
    imported = [name for name in ("lsst.daf.butler", "lsst.ctrl.bps") if name in sys.modules]
    return {"pid": os.getpid(), "imported": imported, "modules": len(sys.modules), **memory}


# Parsl sends a function of a module by its name: workers would import this one, and with it BPS.
sent = FunctionType(describe.__code__, {"__builtins__": __builtins__}, "describe")
sent.__module__ = "__main__"
