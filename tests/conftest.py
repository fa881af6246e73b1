# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share: nothing of a test is left outside its own directory.

``HYPOTHESIS_PROFILE=search`` looks at many more, and each time other,
examples than the default, which is the same in each run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

settings.register_profile("same", deadline=None, database=None, derandomize=True, max_examples=100)
settings.register_profile("search", deadline=None, database=None, derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure(config: pytest.Config) -> None:
    """Name our markers."""
    config.addinivalue_line("markers", "slow: takes more than ten seconds; begins before the others")


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
    children = psutil.Process().children(recursive=True)
    left = [process for process in children if process.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert [process.cmdline() for process in alive] == []
