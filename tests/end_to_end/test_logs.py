# SPDX-License-Identifier: BSD-3-Clause
"""Where jobs write what they say, by BPS's settings."""

from __future__ import annotations

from typing import Any

from .support import Sandbox, Step

CODE = 'echo "out $BPS_PARSL_ATTEMPT"; echo "err $BPS_PARSL_ATTEMPT" >&2; [ "$BPS_PARSL_ATTEMPT" = "$1" ]'


def attempts(box: Sandbox, name: str, succeeds: int) -> Step:
    """Describe a job that succeeds in a certain attempt, of two that it has."""
    script = box.path / "attempts.sh"
    script.write_text(f"#!/bin/sh\n{CODE}\n")
    script.chmod(0o755)
    fields: dict[str, Any] = {"number_of_retries": 1, "tags": {"visit": 5}}
    return Step(name, label=name, executable=str(script), arguments=str(succeeds), fields=fields)


def logs(box: Sandbox) -> dict[str, str]:
    """Return what is in the log files that are not empty."""
    files = (path for path in (box.submit_path / "logs").rglob("*") if path.is_file())
    return {str(path.relative_to(box.submit_path / "logs")): path.read_text() for path in files}


def test_log_files_of_each_attempt(box: Sandbox) -> None:
    """With ``overwriteJobFiles: false`` each attempt has log files of its own; the summary shows those of the
    last one. Without it, the attempts of a job follow each other in one file: nothing is overwritten.
    """
    steps = [attempts(box, "mends", 2), attempts(box, "fails", 9), attempts(box, "shares", 2)]
    box.prepare(steps, overwriteJobFiles=False, pipetask={"shares": {"overwriteJobFiles": True}})
    done = box.bps("restart", "--id", "run").complained("logs/fails/fails.attempt2.stderr", "err 2")
    assert "attempt1" not in done.stderr
    assert logs(box) == {
        "mends/mends.attempt1.stdout": "out 1\n",
        "mends/mends.attempt1.stderr": "err 1\n",
        "mends/mends.attempt2.stdout": "out 2\n",
        "mends/mends.attempt2.stderr": "---- attempt 2 ----\nerr 2\n",
        "fails/fails.attempt1.stdout": "out 1\n",
        "fails/fails.attempt1.stderr": "err 1\n",
        "fails/fails.attempt2.stdout": "out 2\n",
        "fails/fails.attempt2.stderr": "---- attempt 2 ----\nerr 2\n",
        "shares/shares.stdout": "out 1\nout 2\n",
        "shares/shares.stderr": "err 1\n---- attempt 2 ----\nerr 2\n",
    }


def test_directories_for_logs_by_label(box: Sandbox) -> None:
    """``subDirTemplate`` may have a template for each label; the summary finds the files."""
    steps = [attempts(box, "isr", 1), attempts(box, "coadd", 9), attempts(box, "other", 1)]
    box.prepare(steps, subDirTemplate={"isr": "{label}/{visit}", "coadd": "coadds"})
    box.bps("restart", "--id", "run").complained("logs/coadds/coadd.stderr")
    assert {name for name in logs(box) if name.endswith("out")} == {
        "isr/5/isr.stdout",
        "coadds/coadd.stdout",
        "other.stdout",
    }
