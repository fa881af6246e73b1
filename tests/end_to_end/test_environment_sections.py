# SPDX-License-Identifier: BSD-3-Clause
"""Variables of jobs in several sections of BPS's YAML."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lsst.ctrl.bps import transform

from .support import Sandbox
from .test_bps_settings import Scripted, make_scripted

MERGES = hasattr(transform, "gather_job_environment")
"""Whether BPS puts the sections together; before, the nearest one took the place of all."""


@pytest.fixture
def pipeline(tiny: Sandbox) -> Scripted:
    """The tiny pipeline; its quanta are small scripts."""
    return make_scripted(tiny)


@pytest.mark.skipif(not MERGES, reason="this BPS takes the variables of one section")
def test_environment_of_run_site_and_task(pipeline: Scripted) -> None:
    """Variables of the run, of its site and of a task come together: the task's before the site's before the
    run's, each may go on from what it replaces, and BPS_NONE takes a variable out. ``exportEnvironment``
    is the site's setting of ours that has the same name.
    """
    box = pipeline.box
    tell = box.path / "tell.sh"
    tell.write_text(
        "#!/usr/bin/env python3\n"
        "import json, os, sys\n"
        "found = {name: value for name, value in os.environ.items() if name.startswith('TEST_')}\n"
        f"json.dump(found, open({str(box.path)!r} + '/told.' + sys.argv[1], 'w'))\n"
    )
    tell.chmod(0o755)
    box.env |= {"TEST_SHELL": "shell", "TEST_PATH": "/shell"}
    path = pipeline.write(
        runQuantumCommand=f"{tell} {{label}}",
        environment={
            "TEST_RUN": "run {payloadName}",
            "TEST_PATH": "/run:${TEST_PATH}",
            "TEST_WHO": "run",
            "TEST_GONE": "run",
        },
        site={
            "local": {
                "exportEnvironment": True,
                "environment": {"TEST_SITE": 5, "TEST_PATH": "/site:${TEST_PATH}", "TEST_WHO": "site"},
            }
        },
        pipetask={
            "isr": {
                "environment": {
                    "TEST_PATH": "/isr:${TEST_PATH}",
                    "TEST_WHO": "{label} of {payloadName}",
                    "TEST_GONE": "BPS_NONE",
                    "TEST_SHELL": "BPS_NONE",
                }
            }
        },
        finalJob={"command1": f"{tell} final", "environment": {"TEST_WHO": "final"}},
    )
    box.bps("submit", path).succeeded()
    told: dict[str, dict[str, Any]] = {
        name: json.loads((box.path / f"told.{name}").read_text()) for name in ("isr", "combine", "final")
    }
    common = {"TEST_RUN": "run tiny", "TEST_SITE": "5", "TEST_SHELL": "shell"}
    whole = {**common, "TEST_GONE": "run", "TEST_PATH": "/site:/run:/shell"}
    assert told["combine"] == {**whole, "TEST_WHO": "site"}
    assert told["final"] == {**whole, "TEST_WHO": "final"}
    # What BPS leaves out is what the job's shell has, not nothing.
    assert told["isr"] == {**common, "TEST_PATH": "/isr:/site:/run:/shell", "TEST_WHO": "isr of tiny"}
