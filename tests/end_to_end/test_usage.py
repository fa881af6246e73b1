# SPDX-License-Identifier: BSD-3-Clause
"""What jobs used, as the system measured it, becomes what the next run asks for."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lsst.ctrl.bps.parsl import ParslWorkflow

from .support import Sandbox, Step
from .test_bps_settings import Scripted, fields_by_label, make_scripted, merged
from .test_pipeline import submit_path_of

_EATER = f"""\
#!{sys.executable} -IS
# eat.py MB ...: uses as much memory, and half a second.
import sys, time
eaten = bytearray(int(sys.argv[1]) << 20)
eaten[::4096] = b"x" * len(eaten[::4096])
time.sleep(0.5)
"""
INTERPRETER = 30
"""MB that an interpreter takes at most, and what counting shared pages adds."""


def make_eater(box: Sandbox) -> Path:
    """Write the script that uses memory."""
    path = box.path / "eat.py"
    path.write_text(_EATER)
    path.chmod(0o755)
    return path


def usage_rows(text: str) -> dict[str, list[str]]:
    """Return the cells of the table of what jobs used, by label."""
    lines = iter(text.splitlines())
    assert any(line.startswith("Peak memory (MB)") for line in lines), text
    next(lines)
    rows = {}
    for line in lines:
        if not line.strip():
            break
        label, *cells = line.split()
        rows[label] = cells
    return rows


@pytest.mark.slow
def test_known_memory(box: Sandbox) -> None:
    """``bps report --id`` shows for each label the memory that its jobs used,
    of what they asked for, and ``bps submit`` ends with the requests of those
    that asked for far too much; where nothing ran, nothing is shown.
    """
    eater = str(make_eater(box))
    steps = [
        Step(f"{label}_{n}", label=label, executable=eater, arguments=str(size), fields=fields)
        for label, size, fields in (
            ("isr", 150, {"request_memory": 4096, "request_walltime": 5}),
            ("calibrate", 60, {"request_memory": 512}),
        )
        for n in range(3)
    ]
    run = box.prepare(steps, final=Step("final", label="finalJob"))
    assert "Peak memory" not in box.bps("report", "--id", "run").succeeded().stdout
    assert run.suggest_requests() == "# Too little is measured of run to suggest requests.\n"

    said = box.bps("restart", "--id", "run").succeeded().stderr
    assert "What jobs asked for is far from what they used (isr)." in said
    pasted = yaml.safe_load(said[said.index("pipetask:") :])
    assert pasted == {"pipetask": {"isr": {"requestMemory": 512, "requestWalltime": 10}}}

    rows = usage_rows(box.bps("report", "--id", "run").succeeded().stdout)
    assert list(rows) == ["isr", "calibrate", "finalJob"]
    for label, size, asked, minutes in (("isr", 150, "4096", "5"), ("calibrate", 60, "512", "-")):
        count, memory_asked, median, high, most, used, minutes_asked, *times, cpu = rows[label]
        assert (count, memory_asked, minutes_asked) == ("3", asked, minutes)
        for value in (median, high, most):
            assert size <= int(value) <= size + INTERPRETER
        assert used == f"{int(most) / int(asked):.0%}"
        assert all(0.5 / 60 - 0.01 <= float(value) < 0.5 for value in times)
        assert re.fullmatch(r"\d+%", cpu)
    everything = yaml.safe_load(ParslWorkflow.read(box.submit_path).suggest_requests())
    requests = {"requestMemory": 512, "requestWalltime": 10}
    assert everything == {"pipetask": {"isr": requests, "calibrate": requests}, "finalJob": requests}


@pytest.fixture
def pipeline(tiny: Sandbox) -> Scripted:
    """The tiny pipeline, with a script in the place of each quantum."""
    return make_scripted(tiny)


@pytest.mark.slow
def test_pasted_requests_are_taken(pipeline: Scripted) -> None:
    """What `ParslWorkflow.suggest_requests` returns, put into BPS's YAML, is
    what the jobs of the next run ask for: those of tasks, of clusters, and the
    final job; it is no less than what they used.
    """
    box = pipeline.box
    settings: dict[str, Any] = {
        "runQuantumCommand": f"{make_eater(box)} 450 {{qgraphNodeId}}",
        "requestMemory": 8192,
        "clusterAlgorithm": "lsst.ctrl.bps.quantum_clustering_funcs.dimension_clustering",
        "cluster": {
            "perFilter": {"pipetasks": "isr", "dimensions": "physical_filter", "requestMemory": 4096}
        },
        "site": {"local": {"memory": 65536}},
        "finalJob": {"requestMemory": 8192},
    }
    submitted = box.bps("submit", pipeline.write(**settings)).succeeded()
    with box.as_process():
        text = ParslWorkflow.read(submit_path_of(submitted.stdout)).suggest_requests()
    changes = yaml.safe_load(text)
    assert {section: set(of) for section, of in changes.items()} == {
        "pipetask": {"pipetaskInit", "combine"},
        "cluster": {"perFilter"},
        "finalJob": {"requestMemory", "requestWalltime"},
    }
    box.bps("prepare", pipeline.write("again", **merged(settings, changes))).succeeded()
    asked = {
        label: (fields["request_memory"], fields["request_walltime"])
        for label, fields in fields_by_label(box.path / "submit/again").items()
    }
    assert asked == {
        "pipetaskInit": (512, 10),
        "perFilter": (768, 10),
        "combine": (768, 10),
        "finalJob": (512, 10),
    }
