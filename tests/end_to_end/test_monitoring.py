# SPDX-License-Identifier: BSD-3-Clause
"""Parsl's monitoring database says what ran."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from .support import Sandbox, Step


@pytest.mark.slow
def test_monitoring_database(box: Sandbox) -> None:
    """There is a task for each attempt, by the name of its label, with the paths of its output; failures
    are failures; and the workflow has the name that people know.
    """
    steps = [Step("a", label="isr"), Step("b", label="isr"), Step("c", ["a"], label="calibrate")]
    site = {"monitorEnable": True, "monitorFilename": "sub/monitor.db"}
    workflow = box.prepare(steps, site=site, numberOfRetries=0)
    box.break_step("b", 3)
    box.bps("restart", "--id", workflow.name).complained("step b was told to fail")
    with closing(sqlite3.connect(box.submit_path / "sub" / "monitor.db")) as database:
        (run,) = database.execute(
            "select workflow_name, tasks_completed_count, tasks_failed_count from workflow"
        )
        assert run == ("tests.steps", 2, 1)
        tasks = set(database.execute("select task_func_name, task_stdout, task_stderr from task"))
    logs = box.submit_path / "logs"
    expected = {("isr", "a"), ("isr", "b"), ("calibrate", "c")}
    assert tasks == {
        (label, str(logs / label / f"{name}.stdout"), str(logs / label / f"{name}.stderr"))
        for label, name in expected
    }
