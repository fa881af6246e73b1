# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share: nothing of a test is left outside its own directory."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Name our markers."""
    config.addinivalue_line("markers", "slow: takes more than ten seconds; begins before the others")


@pytest.fixture(autouse=True)
def state_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test, and the processes it starts, a list of runs of its own."""
    directory = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("BPS_PARSL_STATE_DIR", str(directory))
    return directory
