# SPDX-License-Identifier: BSD-3-Clause
"""The faults' table, and sandboxes of every engine.

What needs a cluster, or root, is left out where there is none, and the last
lines say so; CI leaves nothing out.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cluster import control
from cluster.conftest import cluster, make_bench, slurm, tiny_repo, with_repo  # noqa: F401  # fixtures
from end_to_end.conftest import box, tiny  # noqa: F401  # fixtures
from support.releases import HAS_BATCH_SUBMISSION

from .matrix import PROPERTY, Matrix, merge, save, show

HERE = Path(__file__).parent
NEEDS = {
    "on_cluster": (
        control.is_up,
        "No cluster is up: faults on it were not tried. To have them tried: make cluster",
    ),
    "as_root": (lambda: os.geteuid() == 0, "Faults that only root can bring about were not tried."),
    "with_gcc": (
        lambda: shutil.which("gcc") is not None,
        "There is no gcc: faults of disks and clocks were not tried.",
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the name of a file."""
    parser.addoption("--faults-table", type=Path, help="write the table of faults into this file (CSV)")


def pytest_configure(config: pytest.Config) -> None:
    """Name our markers."""
    for marker in (
        "quick: also in make test, or where it is slow, in make slow",
        "on_cluster: needs the cluster",
        "with_gcc: needs the library that has calls fail",
        "as_root: needs root",
        "long: begins before the others",
        "batch_submission: needs a BPS that has it",
        "alone: disturbs the cluster, and has a second one for itself",
    ):
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot be tried here, and begin with what takes long."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        if "library" in getattr(item, "fixturenames", ()):
            item.add_marker("with_gcc")
        item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))
        item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
    missing = {marker for marker, _ in _missing()}
    out = [item for item in ours if any(item.get_closest_marker(marker) for marker in missing)]
    config.hook.pytest_deselected(items=out)
    ours = [item for item in ours if item not in out]
    alone = [item for item in ours if item.get_closest_marker("alone")]
    long = [item for item in ours if item.get_closest_marker("long") and item not in alone]
    rest = [item for item in ours if item not in alone and item not in long]
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    ordered = list(alone)
    for number in range(workers):
        ordered += [*long[(number - 1) % workers :: workers], *rest[(number - 1) % workers :: workers]]
    items[:] = [*(item for item in items if not item.path.is_relative_to(HERE)), *ordered]


def _missing() -> list[tuple[str, str]]:
    """Return what is needed and not there, and what to say about it."""
    old = "BPS has no bpsBatchSubmission before 30.2026.4300: faults of it were not tried."
    missing = [] if HAS_BATCH_SUBMISSION else [("batch_submission", old)]
    if os.environ.get("CI"):
        return missing
    return missing + [(marker, said) for marker, (there, said) in NEEDS.items() if not there()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and what was left out."""
    reports = [
        report
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
        if getattr(report, "when", "") == "call"
    ]
    rows = merge(pair for report in reports for pair in report.user_properties if pair[0] == PROPERTY)
    if rows:
        terminalreporter.write_line(show(rows))
    if path := config.getoption("--faults-table"):
        save(rows, path)
    for _, said in _missing():
        terminalreporter.write_line(said)


@pytest.fixture
def matrix(request: pytest.FixtureRequest) -> Matrix:
    """Where a test takes down what it found."""
    return Matrix(request.node)


@pytest.fixture(autouse=True)
def use_cluster(request: pytest.FixtureRequest) -> None:
    """Have the cluster where a test needs it."""
    if request.node.get_closest_marker("on_cluster"):
        request.getfixturevalue("cluster")
