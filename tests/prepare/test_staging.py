# SPDX-License-Identifier: BSD-3-Clause
"""The final job's script, which BPS writes and leaves to the plugin to complete."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lsst.ctrl.bps.transform import create_final_command

from lsst.ctrl.bps import BpsConfig, GenericWorkflowExec
from lsst.ctrl.bps.parsl.errors import WorkflowError
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.prepare.staging import stage_executables


def staged(directory: Path, **commands: Any) -> Path:
    """Have BPS write the final job's script, and stage it."""
    config = BpsConfig(
        {
            "butlerConfig": "/repo",
            "wmsAttemptNum": "${BPS_PARSL_ATTEMPT}",
            "mood": "good",
            "finalJob": commands,
        }
    )
    executable, _ = create_final_command(config, str(directory))
    found = stage_executables([executable], SubmitPaths(directory))
    return Path(found[str(directory / "final_job.bash")])


def printed(script: Path) -> str:
    environ = {"PATH": os.environ["PATH"], "BPS_PARSL_ATTEMPT": "3", "A": "x y"}
    done = subprocess.run(
        [script, "graph.qg", "repo"], env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_number_of_the_attempt(tmp_path: Path) -> None:
    """``{wmsAttemptNum}`` is the attempt's number in each command of the final job, whatever BPS writes for
    it; all else is as it was written.
    """
    script = staged(
        tmp_path,
        command1="echo {wmsAttemptNum} {mood} {qgraphFile}",
        command2="""echo "try-{wmsAttemptNum}" '$A' "$A" $((1+1)) $(echo $A) ${A} > {out}; cat {out}""",
        out=str(tmp_path / "out"),
    )
    assert printed(script) == "3 good graph.qg\ntry-3 $A x y 2 x y x y\n"
    assert stat.S_IMODE(script.stat().st_mode) & 0o700 == 0o700
    assert "<WMS:" not in script.read_text()
    assert script == tmp_path / "final_job.bash"


def test_other_scripts_are_left(tmp_path: Path) -> None:
    """The text of an executable of the user's is the user's."""
    script = tmp_path / "own.sh"
    script.write_text("#!/bin/sh\necho '<WMS:attemptNum>'\n")
    script.chmod(0o755)
    stage_executables([GenericWorkflowExec("own.sh", str(script), True)], SubmitPaths(tmp_path))
    assert "<WMS:attemptNum>" in script.read_text()


def test_unknown_name_is_refused(tmp_path: Path) -> None:
    """What nobody fills in is an error at prepare, with its name."""
    script = tmp_path / "final_job.bash"
    script.write_text("echo <WMS:node>\n")
    executable = GenericWorkflowExec("final_job.bash", str(script), True)
    with pytest.raises(WorkflowError, match=r"finalJob.*<WMS:node>"):
        stage_executables([executable], SubmitPaths(tmp_path))
