# SPDX-License-Identifier: BSD-3-Clause
"""The cluster, whom it belongs to for the time of a test, and sandboxes that use it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from end_to_end.tinycam.repo import make_repo

from . import control
from .engines import SLURM, Bench, Engine

HERE = Path(__file__).parent
KILLED = ("pymp-", "worker-", "wq-py-staging-")
"""What Parsl's and Work Queue's processes leave in TMPDIR that are killed."""


def pytest_configure(config: pytest.Config) -> None:
    """Name our markers."""
    config.addinivalue_line("markers", "alone: disturbs the cluster, and has it for itself")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests out where there is no cluster, unless CI runs them."""
    for item in items:
        if item.path.is_relative_to(HERE):
            # Parsl looks at each network interface with a socket that it does not close.
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
    if control.is_up() or os.environ.get("CI"):
        return
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if ours:
        items[:] = [item for item in items if not item.path.is_relative_to(HERE)]
        config.hook.pytest_deselected(items=ours)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take it for no failure that all were left out."""
    left_out = not (control.is_up() or os.environ.get("CI"))
    if left_out and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    if not (control.is_up() or os.environ.get("CI")):
        terminalreporter.write_line(
            "No cluster is up: the tests in tests/cluster were left out. To have them run: make cluster"
        )


@pytest.fixture(autouse=True)
def cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """The cluster, shared with other tests but for those that disturb it."""
    if not control.is_up():
        pytest.fail("No cluster is up. Start it with: make cluster", pytrace=False)
    alone = request.node.get_closest_marker("alone") is not None
    directory = control.cluster_directory()
    with open(directory / "gate.lock", "w") as gate, open(directory / "tests.lock", "w") as lock:
        # Whoever waits keeps the gate, lest newcomers overtake them for ever.
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.fixture(scope="session")
def tiny_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tiny camera's repository once; tests copy it."""
    root = tmp_path_factory.mktemp("tinycam") / "repo"
    make_repo(root)
    return root


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[[Engine], Bench]]:
    """Make sandboxes for engines; nothing is left of them but files of runs."""
    made: list[Bench] = []

    def make(engine: Engine) -> Bench:
        bench = Bench(tmp_path / f"bench{len(made)}", engine)
        made.append(bench)
        return bench

    try:
        yield make
        for bench in made:
            bench.assert_queue_empty()
            bench.assert_nothing_runs()
            assert not list((bench.path / "home").iterdir()), "left in the home directory"
            # Those are what Parsl's and Work Queue's workers leave that are killed.
            left = [path for path in bench.tmp.iterdir() if not path.name.startswith(KILLED)]
            assert not left, "left among the temporary files"
    finally:
        for bench in made:
            bench.close()


@pytest.fixture
def slurm(make_bench: Callable[[Engine], Bench]) -> Bench:
    """A sandbox whose runs use pilots of one node."""
    return make_bench(SLURM)


@pytest.fixture
def with_repo(tiny_repo: Path) -> Callable[[Bench], Bench]:
    """Give a sandbox a copy of the tiny camera's repository."""

    def give(bench: Bench) -> Bench:
        shutil.copytree(tiny_repo, bench.path / "repo")
        return bench

    return give
