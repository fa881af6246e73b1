# SPDX-License-Identifier: BSD-3-Clause
"""Compare this plugin with the released one: jobs that do nothing.

Both run the same workflows on this machine, in turn, and the ratio of their
jobs per second is printed. The chain and the layers are small, since larger
ones end the released plugin or keep it for ever: its time grows with the
number of paths through the graph. A time limit stands in front of that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SHAPES = ("flat", "chain", "layers")
SCRIPT = Path(__file__).with_name("noop_jobs.py")
TIME_LIMIT = 120.0
SMALLER = {"flat": 1, "chain": 5, "layers": 2}
"""By how much a workflow is smaller than the flat one."""


def measure(python: str, shape: str, count: int) -> dict[str, Any] | None:
    """Run one benchmark in an environment.

    Parameters
    ----------
    python : `str`
        The environment's interpreter.
    shape : `str`
        Shape of the workflow.
    count : `int`
        Number of jobs.

    Returns
    -------
    result : `dict` or `None`
        What ``noop_jobs.py`` prints; `None` where it did not end well.
    """
    search_path = os.pathsep.join([os.path.dirname(os.path.abspath(python)), os.environ["PATH"]])
    process = subprocess.Popen(
        [python, str(SCRIPT), shape, str(count)],
        env={**os.environ, "PATH": search_path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return None
    lines = output.splitlines()
    if process.returncode or not lines:
        return None
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="interpreter of the released plugin's environment")
    parser.add_argument("--jobs", type=int, default=1000, help="number of jobs of the flat workflow")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    table = Table(title="Jobs per second, two cores, median of " + str(arguments.repeat))
    for column in ("workflow", "jobs", "this plugin", "released plugin", "ratio"):
        table.add_column(column, justify="left" if column == "workflow" else "right")
    for shape in SHAPES:
        count = arguments.jobs // SMALLER[shape]
        pairs = []
        for _ in range(arguments.repeat):
            ours = measure(sys.executable, shape, count)
            theirs = measure(arguments.peer, shape, count)
            if ours is None:
                sys.exit(f"This plugin did not finish the workflow {shape} of {count} jobs.")
            pairs.append((ours["jobs_per_second"], theirs["jobs_per_second"] if theirs else 0.0))
        rate = statistics.median(pair[0] for pair in pairs)
        peer_rate = statistics.median(pair[1] for pair in pairs)
        ratio = f"{rate / peer_rate:.1f}" if peer_rate else "did not end"
        table.add_row(shape, str(count), f"{rate:.0f}", f"{peer_rate:.0f}" if peer_rate else "-", ratio)
    Console().print(table)


if __name__ == "__main__":
    main()
