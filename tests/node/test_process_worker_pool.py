# SPDX-License-Identifier: BSD-3-Clause
"""Parsl's pool of workers where the paths of temporary files are long."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import util
from pathlib import Path

import pytest

from lsst.ctrl.bps.parsl.node import process_worker_pool

_POOL = """
import multiprocessing, sys

def work(shared):
    shared["worker"] = [len(sys.argv), sys.path[0]]

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        shared = manager.dict()
        worker = context.Process(target=work, args=(shared,))
        worker.start()
        worker.join()
        print(len(manager.address), *shared["worker"], *sys.argv[1:])
"""
"""What Parsl's pool does with `multiprocessing`, in short."""


@pytest.mark.parametrize("length", [0, 119, 240])
def test_long_temporary_directory(length: int, tmp_path: Path) -> None:
    """The manager has its socket, and a worker reaches it, however long the path is; nothing is left there.
    Where it is, the name of a directory is short.
    """
    package = tmp_path / "parsl/executors/high_throughput"
    package.mkdir(parents=True)
    for directory in (package, *package.parents[:2]):
        (directory / "__init__.py").touch()
    (package / "process_worker_pool.py").write_text(_POOL)
    temporary = tmp_path
    while (missing := length - len(str(temporary)) - 1) > 0:
        temporary /= "x" * min(missing, 200)
    temporary.mkdir(exist_ok=True, parents=True)
    if not length:
        temporary /= "not there"
    before = set(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, process_worker_pool.__file__, "--option", "value"],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    address, *rest = done.stdout.split()
    assert int(address) <= 107
    assert rest == ["3", str(tmp_path), "--option", "value"]
    assert done.stderr == ""
    assert set(tmp_path.iterdir()) == before
    assert not temporary.exists() or temporary == tmp_path or not list(temporary.iterdir())


def test_short_directory_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a path is short enough, nothing of `multiprocessing` is changed."""
    monkeypatch.setattr(util, "get_temp_dir", lambda: "/tmp/pymp-x")
    monkeypatch.setattr(process_worker_pool, "process", None)
    process_worker_pool.shorten_sockets()
