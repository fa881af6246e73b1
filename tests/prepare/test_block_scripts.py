# SPDX-License-Identifier: BSD-3-Clause
"""Batch scripts that can be read before they are submitted."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps import BpsConfig
from lsst.ctrl.bps.parsl import SiteConfig
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.prepare.block_scripts import write_block_scripts
from support.plans import umask

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BLOCKS = {"nodes": 1, "walltime": "1:00:00"}


def make_site(tmp_path: Path, name: str, **section: Any) -> SiteConfig:
    """Make a site of a run."""
    config = {"computeSite": name, "submitPath": str(tmp_path), "uniqProcName": "u_me_x"}
    section["class"] = f"lsst.ctrl.bps.parsl.sites.{section['class']}"
    return SiteConfig.from_config(BpsConfig({**config, "site": {name: section}}))


def test_each_kind_of_block(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is a script for each executor that submits some, private, and one line says where they are;
    it is what the executor submits.
    """
    sites = [
        make_site(tmp_path, "three", **{"class": "TripleSlurm", **BLOCKS}),
        make_site(tmp_path, "pbs", **{"class": "Torque", "tasks_per_node": 4, **BLOCKS}),
        make_site(tmp_path, "here", **{"class": "Local", "cores": 1}),
    ]
    with umask(0), caplog.at_level(logging.INFO):
        write_block_scripts(sites, SubmitPaths(tmp_path))
    names = ["three.small.sh", "three.medium.sh", "three.large.sh", "pbs.torque.sh"]
    assert sorted(path.name for path in (tmp_path / "blocks").iterdir()) == sorted(names)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "blocks").iterdir()} == {0o600}
    (line,) = [record.getMessage() for record in caplog.records if "blocks" in record.getMessage()]
    assert line.endswith(f"{tmp_path}/blocks: {', '.join(names)}")
    large: Any = sites[0].get_executors()[-1]
    assert (tmp_path / "blocks" / "three.large.sh").read_text() == large.provider.script()
    torque = (tmp_path / "blocks" / "pbs.torque.sh").read_text()
    assert "#PBS -l nodes=1:ppn=4\n" in torque
    assert "#PBS -N BLOCK\n" in torque


def test_no_blocks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run on this machine has none, and nothing is said."""
    with caplog.at_level(logging.INFO):
        write_block_scripts(
            [make_site(tmp_path, "here", **{"class": "Local", "cores": 1})], SubmitPaths(tmp_path)
        )
    assert not list(tmp_path.iterdir())
    assert not caplog.records
