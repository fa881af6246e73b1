# SPDX-License-Identifier: BSD-3-Clause
"""See whether jobs stay within the memory of a node, and how well they are packed.

Jobs that ask for 1, 2 and 4 GB, and use that, run on this machine as if it had
6 GB: a cgroup has the kernel kill what would use more. That needs root; without
it nothing is killed, and the memory that was used tells what would have been.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from measuring import environment, print_table, run_timed
from memory_jobs import SIZES, requests

SCRIPT = Path(__file__).with_name("memory_jobs.py")
NODE = 6
"""GB for jobs."""

OVERHEAD = 1.0
"""GB for the driver and the workers."""

SLOTS = 6
"""So many jobs that memory alone decides how many run at once."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    peak: float
    """The most memory (GB) that the jobs had together at any time."""

    makespan: float
    """Seconds from the begin of the first job to the end of the last."""

    area: float
    """GB times seconds, of the jobs that succeeded."""

    durations: list[tuple[int, float]]
    """Memory (GB) and time (s) of the jobs that succeeded."""

    failed: int
    """Jobs that did not succeed."""

    killed: int | None
    """Processes that the kernel killed; `None` where it had no limit."""


@contextmanager
def limited(gigabytes: float) -> Iterator[Path | None]:
    """Make a cgroup with so much memory; there is none where that is not allowed.

    Parameters
    ----------
    gigabytes : `float`
        Its memory.

    Yields
    ------
    directory : `pathlib.Path` or `None`
        The cgroup.
    """
    first = Path("/sys/fs/cgroup/memory")
    limit = "memory.limit_in_bytes"
    if not first.is_dir():
        first, limit = Path("/sys/fs/cgroup"), "memory.max"
        with suppress(OSError):
            (first / "cgroup.subtree_control").write_text("+memory")
    group = first / f"bps_benchmark_{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(int(gigabytes * 2**30)))
    except OSError:
        with suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def kills(group: Path) -> int:
    """Return how many processes of a cgroup were killed for its limit."""
    for name in ("memory.oom_control", "memory.events"):
        with suppress(FileNotFoundError):
            words = (group / name).read_text().split()
            return int(words[words.index("oom_kill") + 1])
    return 0


def run(python: str, jobs: int, site: dict[str, Any]) -> Outcome:
    """Run the jobs with the plugin of an environment.

    Parameters
    ----------
    python : `str`
        The environment's interpreter.
    jobs : `int`
        Number of jobs.
    site : `dict`
        Settings of the site.

    Returns
    -------
    outcome : `Outcome`
        What it came to.
    """
    peak = 0

    def watch() -> None:
        nonlocal peak
        if records.exists():
            peak = max(peak, resident(records.read_text().splitlines()))

    with limited(NODE + OVERHEAD) as group, tempfile.TemporaryDirectory(prefix="memory") as name:
        records = Path(name, "records.txt")
        command = [python, str(SCRIPT), str(jobs), name, json.dumps(site)]
        if group is not None:
            enter = f'echo $$ >{group}/cgroup.procs && exec "$@"'
            command = ["sh", "-c", enter, "sh", *command]
        ended = run_timed(command, Path(name), environment(python), watch=watch)
        if not records.exists():
            sys.exit(f"{ended.output}\nNo job began: exit code {ended.code}.")
        killed = None if group is None else kills(group)
        return evaluate(records.read_text().splitlines(), jobs, peak / 2**30, killed)


def resident(records: Sequence[str]) -> int:
    """Return the memory (bytes) of the jobs that have begun and not ended."""
    ended = {record.split()[3] for record in records if record.startswith("end")}
    total = 0
    for record in records:
        pid = record.split()[3]
        if record.startswith("start") and pid not in ended:
            with suppress(psutil.Error):  # It has just ended.
                total += psutil.Process(int(pid)).memory_info().rss
    return total


def evaluate(records: Sequence[str], jobs: int, peak: float, killed: int | None) -> Outcome:
    """Say what a run came to, from what its jobs wrote when they began and ended."""
    sizes = {name: size for name, size, _ in requests(jobs)}
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}
    times = []
    for record in records:
        kind, name, time, _ = record.split()
        times.append(float(time))
        (begun if kind == "start" else ended)[name] = float(time)
    durations = [(sizes[name], end - begun[name]) for name, end in ended.items()]
    return Outcome(
        peak=peak,
        makespan=max(times) - min(times),
        area=sum(size * seconds for size, seconds in durations),
        durations=durations,
        failed=jobs - len(ended),
        killed=killed,
    )


def least_makespan(durations: Sequence[tuple[int, float]]) -> float:
    """Return a time below which no packing can be, however clever.

    It is the bound of all fractional packings: with 1, 2 and 4 GB in 6 GB,
    what fits at once is full (the area decides), or has one job of 4 GB, of
    which no two fit (they run one after the other).
    """
    area = sum(size * seconds for size, seconds in durations) / NODE
    large = sum(seconds for size, seconds in durations if size == max(SIZES))
    return max(area, large, max(seconds for _, seconds in durations))


def greedy_makespan(durations: Sequence[tuple[int, float]]) -> float:
    """Return the time of a packing that knows all times: of what fits, the largest and longest first."""
    waiting = sorted(durations, reverse=True)
    running: list[tuple[float, int]] = []
    now, free = 0.0, NODE
    while waiting or running:
        for job in list(waiting):
            if job[0] <= free:
                waiting.remove(job)
                free -= job[0]
                heapq.heappush(running, (now + job[1], job[0]))
        now, size = heapq.heappop(running)
        free += size
    return now


def row(name: str, outcome: Outcome, jobs: int) -> list[str]:
    """Return a row of the table."""
    cells = [name, f"{outcome.peak:.2f}", f"{outcome.peak / NODE:.2f}", f"{outcome.makespan:.1f}"]
    if outcome.failed:
        # Nothing can be said of the packing of jobs that are not known.
        cells += ["-", "-", "-"]
    else:
        least, greedy = least_makespan(outcome.durations), greedy_makespan(outcome.durations)
        cells += [f"{least:.1f}", f"{outcome.makespan / least:.2f}", f"{greedy:.1f}"]
    killed = "no limit" if outcome.killed is None else str(outcome.killed)
    return [*cells, f"{outcome.failed} of {jobs}", killed]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="interpreter of the released plugin's environment")
    parser.add_argument("--jobs", type=int, default=60)
    arguments = parser.parse_args()
    ours = run(sys.executable, arguments.jobs, {"cores": SLOTS, "memory": f"{NODE} GB"})
    rows = [row("this plugin", ours, arguments.jobs)]
    most = SLOTS * max(SIZES)
    if arguments.peer and ours.killed is None and psutil.virtual_memory().available < most * 2**30:
        print(f"No cgroup can be made here, and this machine does not have {most} GB: no released plugin.")
    elif arguments.peer:
        # Its own Local has no more workers than the machine has cores.
        theirs = run(arguments.peer, arguments.jobs, {"class": "workers_site.Workers", "workers": SLOTS})
        rows.append(row("released plugin", theirs, arguments.jobs))
    columns = "peak GB,of 6 GB,makespan s,least possible s,ratio,packed by size s,failed,killed"
    print_table(
        f"{arguments.jobs} jobs of 1, 2 and 4 GB on a node of {NODE} GB",
        ["", *columns.split(",")],
        rows,
        "peak: resident memory of all jobs at once. killed: processes, by the kernel, for the limit of the "
        f"node and {OVERHEAD:.0f} GB for the plugin. packed by size: a packing that knows all times. "
        "The released plugin has 6 workers, as many as this one runs at most.",
    )


if __name__ == "__main__":
    main()
