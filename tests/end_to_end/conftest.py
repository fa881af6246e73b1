# SPDX-License-Identifier: BSD-3-Clause
"""Sandboxes, and the repository of the tiny camera."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .support import TINYCAM, Sandbox
from .tinycam.repo import make_repo
from .workers import HTEX, THREADS, Bench, Engine


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have each worker begin with slow ones: begun last, the end would wait for one of them.

    xdist (``--dist worksteal``) cuts the list into a part for each worker. The
    others stay side by side: those of a module share what was made for them.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if item not in slow]
    size = -(-len(quick) // workers)
    items[:] = [
        item
        for number in range(workers)
        for item in (*slow[number::workers], *quick[number * size : (number + 1) * size])
    ]


@pytest.fixture(scope="session")
def tiny_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the repository once; tests copy it."""
    root = tmp_path_factory.mktemp("tinycam") / "repo"
    make_repo(root)
    return root


def _sandbox(path: Path) -> Iterator[Sandbox]:
    box = Sandbox(path / "box")
    try:
        yield box
        box.assert_nothing_runs()
        assert not list((box.path / "home").iterdir()), "left in the home directory"
        assert not list((box.path / "tmp").iterdir()), "left among the temporary files"
    finally:
        box.close()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox of one test; nothing is left in it but files of runs."""
    yield from _sandbox(tmp_path)


@pytest.fixture(scope="module")
def shared_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox of the tests of a module."""
    yield from _sandbox(tmp_path_factory.mktemp("shared"))


def _tiny(box: Sandbox, repo: Path) -> Sandbox:
    shutil.copytree(repo, box.path / "repo")
    box.env |= {
        "TINYCAM_DIR": str(box.path),
        "TINYCAM_SOURCE": str(TINYCAM),
        "TINYCAM_DETECTORS": "2",
    }
    return box


@pytest.fixture
def tiny(box: Sandbox, tiny_repo: Path) -> Sandbox:
    """A sandbox with a copy of the repository, and four quanta and two to run."""
    return _tiny(box, tiny_repo)


@pytest.fixture(scope="module")
def shared_tiny(shared_box: Sandbox, tiny_repo: Path) -> Sandbox:
    """The same for the tests of a module."""
    return _tiny(shared_box, tiny_repo)


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[[Engine], Bench]]:
    """Make sandboxes for runs of a test's own."""
    made: list[Bench] = []

    def make(engine: Engine) -> Bench:
        made.append(Bench(tmp_path / f"box{len(made)}", engine))
        return made[-1]

    try:
        yield make
        for bench in made:
            bench.check_clean()
    finally:
        for bench in made:
            bench.close()


@pytest.fixture(params=[THREADS, pytest.param(HTEX, marks=pytest.mark.slow)], ids=str)
def bench(request: pytest.FixtureRequest, make_bench: Callable[[Engine], Bench]) -> Bench:
    """A sandbox of a test's own for each engine."""
    return make_bench(request.param)
