# SPDX-License-Identifier: BSD-3-Clause
"""Compare the memory of Parsl's workers while real quanta are processed.

Both plugins run the same quanta on two workers of a HighThroughputExecutor on
this machine. The workers themselves are asked, as Parsl tasks, how much memory
they have and whether they imported BPS or the Butler: it shall be less than
80 MB, and neither.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from measuring import descendants, print_table, ratio
from quanta import PEER, Contender, detectors_of, make_repo, process

POOL = "process_worker_pool"
TARGET = 80
"""MB for each worker."""


class Pilot:
    """The most memory (MB) of the pilot, all its processes together: workers, jobs, whatever they started."""

    def __init__(self) -> None:
        self.most = 0.0
        self._next = 0.0

    def look(self) -> None:
        """Look once, but not all the time: it takes a while."""
        if time.monotonic() < self._next:
            return
        pids = set()
        for pool in descendants(POOL):
            with suppress(psutil.Error):
                pids |= {pool.pid, *(child.pid for child in pool.children(recursive=True))}
        self.most = max(self.most, sum(proportional(pid) for pid in pids))
        self._next = time.monotonic() + 0.5


def proportional(pid: int) -> float:
    """Return a process's memory (MB), with its share of what it has in common with others."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as stream:
        return sum(int(line.split()[1]) / 1024 for line in stream if line.startswith("Pss:"))
    return 0.0


def measure(contender: Contender, quanta: int) -> dict[str, Any]:
    """Process quanta and look at the workers.

    Parameters
    ----------
    contender : `Contender`
        Which plugin does it.
    quanta : `int`
        Number of quanta.

    Returns
    -------
    found : `dict`
        The most memory (MB) that any worker had (``rss``, ``pss``), the
        number of modules (``modules``), which ones it should not have
        (``imported``), number of ``workers`` and memory of the ``pilot``.
    """
    pilot = Pilot()
    with tempfile.TemporaryDirectory(prefix="workers") as name:
        asked = Path(name, "asked.jsonl")
        os.environ["BENCHMARK_ASKED"] = str(asked)
        make_repo(Path(name, "repo"), detectors_of(quanta))
        process(contender, Path(name, "run"), Path(name, "repo"), quanta, "workers", pilot.look)
        if not asked.exists():
            sys.exit(f"{contender.name}: no worker answered.")
        answers = [json.loads(line) for line in asked.read_text().splitlines()]
    return {
        **{key: max(answer[key] for answer in answers) for key in ("rss", "pss", "modules")},
        "imported": sorted({name for answer in answers for name in answer["imported"]}),
        "workers": len({answer["pid"] for answer in answers}),
        "pilot": pilot.most,
    }


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="interpreter of the released plugin's environment")
    parser.add_argument("--quanta", type=int, default=22, help="an even number")
    arguments = parser.parse_args()
    contenders = [
        Contender("this plugin", sys.executable, {"warmStart": False}),
        Contender("this plugin, warmStart", sys.executable, {"warmStart": True}),
        Contender(PEER, arguments.peer, {}),
    ]
    found = {contender.name: measure(contender, arguments.quanta) for contender in contenders}
    rows = [
        [
            name,
            str(result["workers"]),
            f"{result['rss']:.0f}",
            ratio(found[PEER]["rss"], result["rss"]),
            f"{result['pss']:.0f}",
            ratio(found[PEER]["pss"], result["pss"]),
            ", ".join(result["imported"]) or "neither",
            str(result["modules"]),
            f"{result['pilot']:.0f}",
        ]
        for name, result in found.items()
    ]
    columns = "workers,RSS,ratio,PSS,ratio,imported BPS or Butler,modules,whole pilot"
    print_table(
        f"Memory in MB, the most of any worker (target: {TARGET}), {arguments.quanta} quanta",
        ["", *columns.split(",")],
        rows,
        "ratio: the released plugin's by this one's. whole pilot: PSS of all its processes, jobs too.",
    )


if __name__ == "__main__":
    main()
