# SPDX-License-Identifier: BSD-3-Clause
"""Compare this plugin with the released one: real quanta that do nothing.

The tiny camera of the tests is processed by ``bps submit`` with each plugin,
and by ``pipetask run`` without BPS, each time in a fresh copy of one Butler
repository. What is compared is the submit stage: from BPS's line "Starting
submit stage" to the end of ``bps submit``, the final job included.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lsst.ctrl.bps.parsl.run.journal import read_journal
from measuring import Ended, environment, print_table, ratio, run_timed

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
TINYCAM = TESTS / "end_to_end" / "tinycam"
SITES = {
    "local": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2},
    "slurm": {
        "class": "lsst.ctrl.bps.parsl.sites.Slurm",
        "nodes": 2,
        "cores_per_node": 1,
        "mem_per_node": 4,
        "walltime": "0:30:00",
    },
    "workers": {"class": "workers_site.Workers", "workers": 2},
}
"""On Slurm, two pilots of one worker each; ``workers`` is for ``workers.py``."""

CORES = 2
PEER = "released plugin"
CAPTION = (
    "steady: seconds of a core for each quantum after the first few. CPU: of all processes, for each "
    "quantum; that of blocks is not known. final job: from the last quantum to the end. job's: median of the "
    "jobs, where they are recorded. ratio: of the released plugin's time."
)
EARLY = 6
"""Quanta that are not yet in the steady state."""


T = TypeVar("T")


@dataclass(frozen=True)
class Contender:
    """What processes the quanta."""

    name: str
    python: str
    settings: Mapping[str, Any] | None
    """More settings for BPS; `None` has ``pipetask run`` without BPS."""


@dataclass(frozen=True)
class Result:
    """What processing took; times are seconds."""

    stage: float
    whole: float
    steady: float
    """Of a core, for each quantum after the first few."""

    cpu: float
    """CPU time of all processes."""

    after: float
    """From the end of the last quantum to that of the command."""

    jobs: list[tuple[float, float]]
    """Wall and CPU time of each job of a quantum, where that is known."""


def make_repo(root: Path, detectors: int) -> None:
    """Make the repository of a tiny camera with so many detectors."""
    sys.path.insert(0, str(TESTS))
    from end_to_end.tinycam import repo

    repo.DETECTORS = detectors
    repo.make_repo(root)


def process(
    contender: Contender,
    directory: Path,
    repo: Path,
    quanta: int,
    site: str,
    watch: Callable[[], None] | None = None,
) -> Result:
    """Process the quanta once.

    Parameters
    ----------
    contender : `Contender`
        What processes them.
    directory : `pathlib.Path`
        Directory for that; made, and not removed.
    repo : `pathlib.Path`
        The repository, of which a copy is used.
    quanta : `int`
        Number of quanta.
    site : `str`
        Name of the site.
    watch : `~collections.abc.Callable`, optional
        As for `run_timed`.

    Returns
    -------
    result : `Result`
        What it took.
    """
    directory.mkdir()
    shutil.copytree(repo, directory / "repo")
    env = environment(
        contender.python,
        PYTHONPATH=f"{TINYCAM.parent}:{HERE}",
        TINYCAM_DIR=str(directory),
        TINYCAM_SOURCE=str(TINYCAM),
        TINYCAM_DETECTORS=str(detectors_of(quanta)),
        BPS_PARSL_STATE_DIR=str(directory / "state"),
    )
    command, mark = command_of(contender, directory, quanta, site)
    ended = run_timed(command, directory, env, [mark], watch)
    ends = sorted(path.stat().st_mtime for path in directory.glob("repo/u/**/*_metadata/**/*.json"))
    if ended.code or len(ends) != quanta or mark not in ended.marks:
        sys.exit(f"{ended.output}\n{contender.name}: exit code {ended.code}, {len(ends)} of {quanta} quanta.")
    return summarize(ended, ended.marks[mark], ends, directory)


def summarize(ended: Ended, stage_begun: float, ends: Sequence[float], directory: Path) -> Result:
    """Say what a run took.

    Parameters
    ----------
    ended : `Ended`
        The process.
    stage_begun : `float`
        Seconds from its begin to that of the submit stage.
    ends : `~collections.abc.Sequence` [`float`]
        When each quantum ended, since 1970.
    directory : `pathlib.Path`
        Directory of the run.

    Returns
    -------
    result : `Result`
        The result.
    """
    last_isr = len(ends) - 3
    steady = CORES * (ends[last_isr] - ends[EARLY]) / (last_isr - EARLY)
    return Result(
        stage=ended.wall - stage_begun,
        whole=ended.wall,
        steady=steady,
        cpu=ended.cpu,
        after=ended.begun + ended.wall - ends[-1],
        jobs=list(job_times(directory)),
    )


def job_times(directory: Path) -> Iterator[tuple[float, float]]:
    """Yield the wall and CPU time of each job of a quantum, from this plugin's journal."""
    for journal in directory.glob("submit/**/journal/driver.jsonl"):
        # Without the first job, which makes the collections, and the final one.
        jobs = [job for event in read_journal(journal) if event["e"] == "ok" for job in event["j"]][1:-1]
        for _, begun, ended, _, cpu in jobs[EARLY:]:
            yield ended - begun, cpu


def detectors_of(quanta: int) -> int:
    """Return the number of detectors: each has one quantum in two filters, and each filter has one more."""
    return (quanta - 2) // 2


def bps_settings(site: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for ``bps submit``: those of the tests, but for what BPS has defaults for."""
    settings: dict[str, Any] = yaml.safe_load((TINYCAM / "bps.yaml").read_text())
    for name in ("finalJob", "requestMemory", "numberOfRetries", "retryUnlessExit"):
        settings.pop(name, None)
    return {**settings, "computeSite": site, "site": {site: SITES[site]}, **more}


def command_of(contender: Contender, directory: Path, quanta: int, site: str) -> tuple[list[str], str]:
    """Return a contender's command, and what it writes when it has the quantum graph and begins."""
    if contender.settings is not None:
        path = directory / "bps.yaml"
        path.write_text(yaml.safe_dump(bps_settings(site, contender.settings)))
        return ["bps", "submit", str(path)], "Starting submit stage"
    query = f"instrument = 'TinyCam' AND detector < {detectors_of(quanta)}"
    words = f"pipetask --long-log run -j {CORES} --butler-config {directory}/repo --input TinyCam/raw"
    words += f" --output u/tester/tiny --pipeline {TINYCAM}/pipeline.yaml --register-dataset-types"
    return [*words.split(), "--data-query", query], "QuantumGraph contains"


def compare(contenders: Sequence[Contender], quanta: int, site: str, repeat: int) -> dict[str, Result]:
    """Process so many quanta with all contenders in turn, and print what it took.

    Parameters
    ----------
    contenders : `~collections.abc.Sequence` [`Contender`]
        What processes them.
    quanta : `int`
        Number of quanta.
    site : `str`
        Name of the site.
    repeat : `int`
        How often.

    Returns
    -------
    results : `dict` [`str`, `Result`]
        By the contender's name, that with the median submit stage.
    """
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="quanta", ignore_cleanup_errors=True) as name:
        make_repo(Path(name, "repo"), detectors_of(quanta))
        for turn in range(repeat):
            for number, contender in enumerate(contenders):
                directory = Path(name, f"{turn}-{number}")
                try:
                    result = process(contender, directory, Path(name, "repo"), quanta, site)
                finally:
                    if site == "slurm":
                        cancel_batch_jobs(directory)
                results.setdefault(contender.name, []).append(result)
                shutil.rmtree(directory, ignore_errors=True)
    medians = {
        name: sorted(several, key=lambda result: result.stage)[repeat // 2]
        for name, several in results.items()
    }
    print_results(medians, quanta, site)
    return medians


def reference_of(results: Mapping[str, T]) -> T:
    """Return the released plugin's, or where there is none the last."""
    return results.get(PEER) or list(results.values())[-1]


def print_results(results: Mapping[str, Result], quanta: int, site: str) -> None:
    """Print a table; ratios say how many times faster than the reference each is."""
    reference = reference_of(results)
    rows = []
    for name, result in results.items():
        rows.append(
            [
                name,
                f"{result.stage:.1f}",
                ratio(reference.stage, result.stage),
                f"{result.whole:.1f}",
                ratio(reference.whole, result.whole),
                f"{result.steady:.2f}",
                "-" if site == "slurm" else f"{result.cpu / quanta:.2f}",
                f"{result.after:.1f}",
                *(f"{statistics.median(column):.2f}" for column in zip(*result.jobs, strict=True)),
            ]
        )
    columns = "submit stage,ratio,whole command,ratio,steady,CPU,final job,job's wall,job's CPU"
    print_table(
        f"{quanta} quanta, site {site}, {CORES} cores",
        ["seconds", *columns.split(",")],
        rows,
        CAPTION,
    )


def print_growth(tables: Sequence[Mapping[str, Result]], sizes: Sequence[int], site: str) -> None:
    """Print what each further quantum takes: the difference of two sizes."""
    (small, large), more = tables, sizes[1] - sizes[0]
    each = {
        name: [(large[name].stage - small[name].stage) / more, (large[name].cpu - small[name].cpu) / more]
        for name in small
    }
    first = reference_of(each)
    print_table(
        f"Each quantum from {sizes[0]} to {sizes[1]}",
        ["seconds", "submit stage", "ratio", "CPU", "ratio"],
        [
            [name, f"{wall:.3f}", ratio(first[0], wall)]
            + (["-", "-"] if site == "slurm" else [f"{cpu:.3f}", ratio(first[1], cpu)])
            for name, (wall, cpu) in each.items()
        ],
    )


def cancel_batch_jobs(directory: Path) -> None:
    """Cancel what a run has left in the queue of Slurm."""
    listed = subprocess.run(["squeue", "-h", "-o", "%A %Z"], capture_output=True, text=True, timeout=60)
    for line in listed.stdout.splitlines():
        job, _, where = line.partition(" ")
        if Path(where).is_relative_to(directory):
            subprocess.run(["scancel", job], timeout=60)


def slurm_answers() -> bool:
    """Tell whether there is a Slurm."""
    try:
        return subprocess.run(["sinfo", "-h"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="interpreter of the released plugin's environment")
    parser.add_argument("--quanta", type=int, nargs="+", default=[42, 200], help="even numbers, from 12 on")
    parser.add_argument("--site", choices=["local", "slurm"], default="local")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=["ours", "warm", "peer", "pipetask"])
    arguments = parser.parse_args()
    if any(quanta % 2 or quanta < 12 for quanta in arguments.quanta):
        parser.error("--quanta: even numbers from 12 on are wanted")
    if arguments.site == "slurm" and not slurm_answers():
        sys.exit("There is no Slurm here. Start one with: make cluster; . .cluster/env.sh")
    known = {
        "ours": Contender("this plugin", sys.executable, {"warmStart": False}),
        "warm": Contender("this plugin, warmStart", sys.executable, {"warmStart": True}),
        "peer": Contender(PEER, arguments.peer, {}),
        "pipetask": Contender(f"pipetask run -j {CORES}", sys.executable, None),
    }
    contenders = [known[name] for name in arguments.only or known if known[name].python]
    tables = [compare(contenders, quanta, arguments.site, arguments.repeat) for quanta in arguments.quanta]
    if len(tables) == 2:
        print_growth(tables, arguments.quanta, arguments.site)


if __name__ == "__main__":
    main()
