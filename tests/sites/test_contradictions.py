# SPDX-License-Identifier: BSD-3-Clause
"""What ``scheduler_options`` may say beside the settings, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from .test_sites import complaints, make_site

pytestmark = pytest.mark.filterwarnings(
    # Parsl leaves the sockets to the garbage collector by which it looks for its addresses.
    "ignore:unclosed <socket:ResourceWarning",
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning",
)

SITE = {"class": "Slurm", "nodes": 1, "walltime": "2:00:00"}


@pytest.mark.parametrize(
    ("option", "settings", "key"),
    [
        ("--mem-per-cpu=2G", {"mem_per_node": 4}, "mem_per_node (4 GB, which is --mem)"),
        ("--mem-per-gpu=2G", {"mem_per_node": 4}, "mem_per_node"),
        ("--mem=2G", {"mem_per_node": 4}, "mem_per_node (4 GB)"),
        ("--mem=0", {"mem_per_node": 4}, "mem_per_node"),
        ("--mem=much", {"mem_per_node": 4}, "mem_per_node"),
        ("-N 2", {}, "nodes (1)"),
        ("--nodes=1-2", {}, "nodes (1)"),
        ("-c 8", {"cores_per_node": 4}, "cores_per_node (4)"),
        ("--time=1:00:00", {}, "walltime (02:00:00)"),
        ("-t UNLIMITED", {}, "walltime"),
        ("--oversubscribe", {}, "exclusive is true, as it is without cores_per_node"),
        ("-s", {"cores_per_node": 4, "exclusive": True}, "exclusive is true."),
        ("--dependency=afterok:7", {"singleton": True}, "singleton is true"),
    ],
)
def test_contradiction(option: str, settings: dict[str, Any], key: str) -> None:
    """What sbatch refuses at every try, or what makes a block another one than the workers believe, is said
    before anything runs: the option and the key, and what to do.
    """
    (complaint,) = complaints({**SITE, **settings}, scheduler_options=f"#SBATCH {option}")
    assert complaint.startswith(f"site.here.scheduler_options: {option}")
    assert key in complaint
    assert "Remove" in complaint or "remove" in complaint or "Write" in complaint


@pytest.mark.parametrize(
    ("option", "settings"),
    [
        ("--mem-per-cpu=2G", {}),
        ("--mem=4096", {"mem_per_node": 4}),
        ("--mem=4G", {"mem_per_node": 4}),
        ("--mem=4G", {}),
        ("--nodes=1-1", {}),
        ("-c8", {"cores_per_node": 8}),
        ("-c8", {}),
        ("--time=120", {}),
        ("--time-min=1:00:00", {}),
        ("--exclusive", {}),
        ("--exclusive", {"cores_per_node": 4}),
        ("--exclusive", {"cores_per_node": 4, "exclusive": False}),
        ("--oversubscribe", {"cores_per_node": 4}),
        ("--dependency=singleton,afterok:7", {"singleton": True}),
        ("--dependency=afterok:7", {}),
        ("--partition=b", {"partition": "a"}),
        ("--ntasks-per-node=8", {}),
        ("--comment=x --mem", {"mem_per_node": 4, "scheduler_options": ""}),
    ],
)
def test_no_contradiction(option: str, settings: dict[str, Any]) -> None:
    """The same said twice is said, and what no setting is about is left to sbatch."""
    assert complaints({**SITE, "scheduler_options": f"#SBATCH {option}", **settings}) == []


def test_argument_of_parsls() -> None:
    """What ``provider_options`` sets counts like the setting."""
    (complaint,) = complaints(
        SITE, scheduler_options="--mem-per-cpu=1G", provider_options={"mem_per_node": 3}
    )
    assert "mem_per_node (3 GB" in complaint


def test_all_at_once() -> None:
    """All contradictions of a section are said at once."""
    found = complaints(
        SITE, mem_per_node=4, scheduler_options=["#SBATCH --mem-per-cpu=2G", "#SBATCH --time=5", "-N3"]
    )
    assert len(found) == 3


def test_facility() -> None:
    """A facility's value is contradicted like one's own."""
    (complaint,) = complaints({"class": "S3df"}, scheduler_options="#SBATCH --mem-per-cpu=2G")
    assert "mem_per_node (480 GB" in complaint


def test_later_one_wins() -> None:
    """Where an option takes the place of a setting, and may, it is said at submit; twice the same is not."""
    options = "#SBATCH -p other\n#SBATCH --qos=normal --exclusive"
    site = make_site("S3df", scheduler_options=options, exclusive=False)
    assert "site.here.scheduler_options: -p other takes the place of partition." in site.remarks()
    assert "site.here.scheduler_options: --exclusive takes the place of exclusive." in site.remarks()
    assert not any("qos" in remark for remark in site.remarks())
