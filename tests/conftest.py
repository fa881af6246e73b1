# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share: nothing of a test is left outside its own directory.

``HYPOTHESIS_PROFILE=search`` looks at many more, and each time other,
examples than the default, which is the same in each run.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

# Nor is a slow machine a reason to fail.
UNTIMED = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", UNTIMED, derandomize=True, max_examples=100)
settings.register_profile("search", UNTIMED, derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


WORK_QUEUE = {"slurm-work-queue", "local-srun", "local-srun-apart"}
"""Engines that need Work Queue's Python module, which is not there for each Python."""


def pytest_configure(config: pytest.Config) -> None:
    """Name our markers, and have what tests start begin with ordinary signals."""
    config.addinivalue_line("markers", "slow: begins before the others, and is not in make test")
    config.addinivalue_line("markers", "some(n): n of its cases are in make test, the others are slow")
    config.addinivalue_line("markers", "fault: brings one about")
    config.addinivalue_line("markers", "work_queue: needs Work Queue's Python module")
    # Whoever starts the tests may have these ignored (nohup, a shell's background), and what ignores a
    # signal hands that down. What has a handler does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark faults, what is slow, and what needs Work Queue; leave that out where it is not there, unless
    CI runs it.
    """
    for item in items:
        if "faults" in item.path.parts:
            item.add_marker("fault")
        call = getattr(item, "callspec", None)
        if call is not None and any(str(value) in WORK_QUEUE for value in call.params.values()):
            item.add_marker("work_queue")
    _leave_some(items)
    if not _work_queue_is_there() and not os.environ.get("CI"):
        out = [item for item in items if item.get_closest_marker("work_queue")]
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)


def _leave_some(items: list[pytest.Item]) -> None:
    """Mark as slow all but some cases of a long table, spread evenly over it."""
    tables: dict[tuple[object, ...], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("some"):
            which = (item.path, getattr(item, "originalname", ""), bool(item.get_closest_marker("quick")))
            tables.setdefault(which, []).append(item)
    for cases in tables.values():
        marker = cases[0].get_closest_marker("some")
        assert marker is not None
        (wanted,) = marker.args
        kept = {number * len(cases) // wanted for number in range(wanted)}
        for number, item in enumerate(cases):
            if number not in kept:
                item.add_marker("slow")


def _work_queue_is_there() -> bool:
    return find_spec("ndcctools") is not None or find_spec("work_queue") is not None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    if not _work_queue_is_there() and not os.environ.get("CI"):
        terminalreporter.write_line(
            "Work Queue's module is not there for this Python: tests with it were left out. Debian has "
            "it for its own: make VENV=$PWD/.venv-debian PYTHON=/usr/bin/python3 cluster test-all"
        )


ROOT = Path(__file__).resolve().parents[1]
CACHES = {
    ".git",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "__pycache__",
    "_build",
    "py-api",
}


def _places() -> list[Path]:
    """Return where nothing may be made: directories of the system, of the user, and of the repository."""
    ours = [
        Path(top, name)
        for folder in ("python", "tests", "doc", "examples", "benchmarks")
        for top, names, _ in os.walk(ROOT / folder)
        for name in ["", *names]
        if not CACHES & {*Path(top).parts, name}
    ]
    return [Path("/"), Path.home(), ROOT, *ours]


@pytest.fixture(scope="session")
def places() -> list[Path]:
    """Directories in which no test makes anything."""
    temporary = Path(tempfile.gettempdir()).resolve()
    return [place for place in _places() if os.access(place, os.R_OK) and place.resolve() != temporary]


@pytest.fixture(autouse=True)
def nothing_is_left_elsewhere(places: list[Path]) -> Iterator[None]:
    """Fail a test that makes something outside its own directory (or that ran beside one that does)."""
    before = [set(os.listdir(place)) for place in places]
    yield
    # What others on this machine make for a moment is not left.
    end = time.monotonic() + 10
    while (made := _made(places, before)) and time.monotonic() < end:
        time.sleep(0.1)
    assert made == []


def _made(places: list[Path], before: list[set[str]]) -> list[str]:
    return [
        str(place / name)
        for place, names in zip(places, before, strict=True)
        for name in set(os.listdir(place)) - names - CACHES
    ]


@pytest.fixture(autouse=True)
def state_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test, and the processes it starts, a list of runs of its own."""
    directory = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("BPS_PARSL_STATE_DIR", str(directory))
    return directory


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Fail where the tests of this worker leave a process behind."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    # Python's own ends with this process, and is not a test's.
    tests = [process for process in left if "multiprocessing.resource_tracker" not in _command(process)]
    _, alive = psutil.wait_procs(tests, timeout=60)
    assert [command for process in alive if (command := _command(process))] == []


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):  # It has just ended.
        return " ".join(process.cmdline())
    return ""
