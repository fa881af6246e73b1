# SPDX-License-Identifier: BSD-3-Clause
"""What has to hold of a run after whatever happened to it.

The truth is what nodes recorded and what the steps wrote themselves; it is
read here with as little of the package's own code as possible.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cluster import control
from cluster.engines import KILLED, Bench
from end_to_end.support import Sandbox, report_counts, wait_until

PAYLOAD = "parsl/payload.jsonl"
"""The second part of a plan, which a job of the run has added."""


@dataclass
class Findings:
    """What was found."""

    lost: list[str] = field(default_factory=list)
    """Jobs that a node saw succeed and that the run does not count as such."""

    rerun: list[str] = field(default_factory=list)
    """Jobs that ran again after they had succeeded, or twice at once."""

    leftovers: list[str] = field(default_factory=list)
    """Processes, batch jobs, locks and temporary files."""

    broken: list[str] = field(default_factory=list)
    """Anything else: order, reports."""

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            self.lost + other.lost,
            self.rerun + other.rerun,
            self.leftovers + other.leftovers,
            self.broken + other.broken,
        )

    @property
    def is_clean(self) -> bool:
        """Whether all promises were kept."""
        return not (self.lost or self.rerun or self.leftovers or self.broken)


@dataclass(frozen=True)
class Record:
    """A run as its files tell it."""

    names: list[str]
    parents: list[list[int]]
    kinds: list[str]
    final: list[bool]
    starts: list[dict[str, Any]]
    ends: list[dict[str, Any]]

    @classmethod
    def read(cls, submit_path: Path) -> Record:
        """Read both parts of the plan, and what the nodes recorded."""
        record = cls([], [], [], [], [], [])
        adding = record._read_part(submit_path / "parsl/plan.jsonl", [])
        if (payload := submit_path / PAYLOAD).exists():
            record._read_part(payload, adding)
        for path in sorted((submit_path / "parsl/journal").glob("node-*.jsonl")):
            for event in _lines(path):
                if event.get("e") in ("start", "end"):
                    (record.starts if event["e"] == "start" else record.ends).append(event)
        return record

    def _read_part(self, path: Path, before: list[int]) -> list[int]:
        """Read jobs, which come after those that added them; return those that add others."""
        templates: list[dict[str, Any]] = []
        first, adding = len(self.names), []
        for value in _lines(path):
            if isinstance(value, list):
                template, parents, name, _ = value
                if templates[template].get("lazy"):
                    adding.append(len(self.names))
                self.names.append(name)
                self.parents.append([first + parent for parent in parents] or before)
                self.kinds.append(templates[template].get("kind", "payload"))
                self.final.append(bool(templates[template].get("final")))
            elif "template" in value:
                templates.append(value["template"])
        return adding

    @property
    def succeeded(self) -> set[int]:
        """Jobs that nodes saw succeed."""
        return {event["j"] for event in self.ends if event["exit"] == 0}

    def needed(self, job: int) -> Iterator[str]:
        """Return the names of the jobs with a command that one comes after."""
        open_jobs = list(self.parents[job])
        while open_jobs:
            parent = open_jobs.pop()
            if self.kinds[parent] == "payload":
                yield self.names[parent]
            else:
                open_jobs += self.parents[parent]


def _lines(path: Path) -> Iterator[Any]:
    for line in path.read_bytes().splitlines(keepends=True):
        with suppress(ValueError):  # Damage is what some tests do.
            yield json.loads(line)


def examine(box: Sandbox, *, submit_path: Path | None = None, report: bool = True) -> Findings:
    """Check a run that has come to an end, or to a stop, against what has to hold.

    Parameters
    ----------
    box : `Sandbox`
        Where it was run; `Bench` for its batch jobs, too.
    submit_path : `pathlib.Path`, optional
        The run; that of `Sandbox.prepare` by default.
    report : `bool`, optional
        Whether to compare with ``bps report`` as well.
    """
    path = submit_path or box.submit_path
    record = Record.read(path)
    found = _jobs(record) + _order(record, box) + Findings(leftovers=leftovers(box, path))
    if report:
        found += _report(record, box, path)
    return found


def _jobs(record: Record) -> Findings:
    """Look for jobs that ran again, or twice at once, by what nodes recorded."""
    found = Findings()
    successes: dict[int, list[int]] = defaultdict(list)
    for end in record.ends:
        if end["exit"] == 0 and not record.final[end["j"]]:
            successes[end["j"]].append(end["a"])
    begun = Counter((start["j"], start["a"]) for start in record.starts)
    for job, attempts in successes.items():
        later = any(j == job and a > min(attempts) for j, a in begun)
        if later or len(attempts) > 1:
            found.rerun.append(f"{record.names[job]} succeeded in attempts {attempts} and began again")
    return found


def _order(record: Record, box: Sandbox) -> Findings:
    """Look at the order in which steps say that they began and ended."""
    found = Findings(rerun=[f"{name} ran twice at the same time" for name in box.steps("overlap")])
    numbers = {name: job for job, name in enumerate(record.names)}
    ended: set[str] = set()
    try:
        text = (box.path / "steps.txt").read_text()
    except FileNotFoundError:
        return found
    for line in text.splitlines():
        kind, _, name = line.partition(" ")
        if kind == "end":
            ended.add(name)
        elif kind == "begin" and name in numbers and not record.final[numbers[name]]:
            early = [parent for parent in record.needed(numbers[name]) if parent not in ended]
            if early:
                found.broken.append(f"{name} began before {early} had ended")
    return found


def _report(record: Record, box: Sandbox, path: Path) -> Findings:
    """Compare with what ``bps report`` says."""
    shown = box.bps("report", "--id", path)
    if shown.code:
        return Findings(broken=[f"bps report: {shown}"])
    counts = report_counts(shown.stdout, "TOTAL")
    succeeded = len({job for job in record.succeeded if record.kinds[job] == "payload"})
    said = counts.get("SUCCEEDED", 0)
    # A final job that is to run again has succeeded before.
    finals = sum(record.final[job] for job in record.succeeded)
    if said < succeeded - finals:
        return Findings(lost=[f"nodes saw {succeeded} jobs succeed, and bps report says {counts}"])
    if said > succeeded:
        return Findings(broken=[f"nodes saw {succeeded} jobs succeed, and bps report says {counts}"])
    return Findings()


def leftovers(box: Sandbox, path: Path, deadline: float = 60.0) -> list[str]:
    """Return what is left of a run that should have nothing any more."""
    found: list[str] = []

    def look() -> bool:
        found[:] = _look(box, path)
        return not found

    with suppress(AssertionError):
        wait_until(look, "nothing is left", deadline)
    return found


def _not_added(path: Path) -> list[Path]:
    """Return what attempts to add jobs have left, where one of them has added its own."""
    if not (payload := path / PAYLOAD).exists():
        return []
    header: dict[str, Any] = next(_lines(payload), {})
    return [left for left in payload.parent.glob("payload-*") if left.name != header.get("job_environments")]


def _look(box: Sandbox, path: Path) -> list[str]:
    found = []
    for process in box.processes():
        with suppress(psutil.Error):
            found.append(f"process {process.pid} {process.cmdline()}")
    if found:
        return found
    if isinstance(box, Bench) and control.is_up():
        found += [f"batch job {job.id} {job.state} {job.name}" for job in box.jobs()]
    temporary = box.tmp if isinstance(box, Bench) else box.path / "tmp"
    found += [f"temporary {entry}" for entry in temporary.iterdir() if not entry.name.startswith(KILLED)]
    found += [f"in the home directory: {entry}" for entry in (box.path / "home").iterdir()]
    found += [f"unfinished {entry}" for entry in path.rglob("*.tmp")]
    found += [f"not added {entry}" for entry in _not_added(path)]
    lock = path / "parsl/driver.lock"
    with suppress(FileNotFoundError):
        if lock.read_bytes() and psutil.pid_exists(json.loads(lock.read_bytes())["pid"]):
            found.append(f"{lock} is held")
    return found
