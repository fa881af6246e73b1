# SPDX-License-Identifier: BSD-3-Clause
"""The clusters, which of them a test gets, and sandboxes that use them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from end_to_end.tinycam.repo import make_repo

from . import control
from .engines import KILLED, SLURM, Bench, Engine

HERE = Path(__file__).parent
LONG = (
    "test_killed_failed_cancelled",
    "test_time_left",
    "test_singleton",
)
"""Tests that take long, the longest first; begun last, the end would wait for one of them."""


def pytest_configure(config: pytest.Config) -> None:
    """Name our markers."""
    config.addinivalue_line("markers", "alone: disturbs the cluster, and has a second one for itself")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests out where there is no cluster, unless CI runs them."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    others = [item for item in items if not item.path.is_relative_to(HERE)]
    for item in ours:
        # Parsl looks at each network interface with a socket that it does not close.
        item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))
        item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
    if control.is_up() or os.environ.get("CI"):
        workers = getattr(config, "workerinput", {}).get("workercount", 1)
        items[:] = [*_in_order(ours, workers), *others]
        return
    if ours:
        items[:] = others
        config.hook.pytest_deselected(items=ours)


def _in_order(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Have each worker begin with tests that take long, and the first one with those on the second cluster.

    xdist (``--dist worksteal``) cuts the list into a part for each worker, and
    those that have come to their end take tests from the ends of others.
    """

    def length(item: pytest.Item) -> int:
        name = item.name.partition("[")[0]
        return LONG.index(name) if name in LONG else len(LONG)

    alone = [item for item in items if item.get_closest_marker("alone")]
    rest = sorted((item for item in items if item not in alone), key=length)
    return alone + [item for number in range(workers) for item in rest[(number - 1) % workers :: workers]]


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
def use_cluster(cluster: None) -> None:
    """Have it for each test here."""


@pytest.fixture
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cluster, shared with other tests; for a test that disturbs it, the second one."""
    up = control.is_up()
    with ExitStack() as stack:
        if up and request.node.get_closest_marker("alone") is not None:
            monkeypatch.setenv("SLURM_CONF", control.second_configuration())
            lock = stack.enter_context(open(control.cluster_directory() / "tests.lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            up = control.is_up()
        if not up:
            pytest.fail("No cluster is up. Start it with: make cluster", pytrace=False)
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
