# SPDX-License-Identifier: BSD-3-Clause
"""A run from Python."""

from __future__ import annotations

import sys

import pytest

from lsst.ctrl.bps.parsl import ParslWorkflow, start_pipeline
from lsst.ctrl.bps.parsl.errors import (
    RunCancelledError,
    RunFailedError,
    RunHeldError,
    RunNotFoundError,
    RunStateError,
)

from .support import TINYCAM, Sandbox, Step, events_of_kind, wait_until


def test_start_pipeline(tiny: Sandbox) -> None:
    """``start_pipeline`` prepares and returns the run, and nothing runs; then
    ``run`` does, with steps in place of quanta.
    """
    text = (
        (TINYCAM / "bps.yaml").read_text().replace("finalJob:\n", f"finalJob:\n  command1: {tiny.step} f\n")
    )
    text += f'\nrunQuantumCommand: "{tiny.step} {{qgraphNodeId}}"\n'
    text += f'pipetask:\n  pipetaskInit:\n    runQuantumCommand: "{tiny.step} init"\n'
    (tiny.path / "quick.yaml").write_text(text)
    with tiny.as_process():
        workflow = start_pipeline(str(tiny.path / "quick.yaml"))
        assert isinstance(workflow, ParslWorkflow)
        assert not tiny.steps("begin")
        assert workflow.submit_path
        assert not events_of_kind(tiny.path / workflow.submit_path, "session")
        assert workflow.config["computeSite"] == "local"
        table = {line.split()[0]: line.split()[1:] for line in workflow.status().splitlines()}
        assert list(table) == ["label", "pipetaskInit", "isr", "combine", "finalJob", "TOTAL"]
        assert table["isr"][-1] == "4"
        workflow.run(block=True)
    assert len(tiny.steps("end")) == 8
    total = workflow.status().splitlines()[-1].split()
    assert total == ["TOTAL", "-", "-", "-", "8", "-", "-", "-", "8"]


def test_run_aside(box: Sandbox) -> None:
    """``run(block=False)`` returns while the run goes on in this process;
    ``status`` counts, ``wait`` waits; a second ``run`` is refused, here and in
    another process.
    """
    workflow = box.prepare([Step("a"), Step("b", ["a"])])
    box.hold("b")
    with box.as_process():
        workflow.run(block=False)
        wait_until(lambda: "b" in box.steps("begin"), "b begins")
        assert workflow.wait(timeout=0.05) is False
        # The node's journal is written after the script has begun.
        wait_until(lambda: workflow.status().split()[-8:] == "- - 1 1 - - - 2".split(), "one of each")
        with pytest.raises(RunStateError, match="already running in this process"):
            workflow.run()
        with pytest.raises(RunHeldError, match="still being driven"):
            ParslWorkflow.read("run").run()
        # A copy of this process could be made while a thread of the run has a lock.
        box.run("bps", "restart", "--id", "run").complained("still being driven")
        box.let_go("b")
        assert workflow.wait() is True
        assert workflow.wait() is True
    assert box.steps("end") == ["a", "b"]


def test_failure_and_restart(box: Sandbox) -> None:
    """A failure is raised by ``run`` and, once, by ``wait``; another object of
    the same run restarts it.
    """
    workflow = box.prepare([Step("a"), Step("b", ["a"])])
    box.break_step("a")
    with box.as_process():
        with pytest.raises(RunFailedError, match="0 of 2 jobs succeeded"):
            workflow.run()
        workflow.run(block=False)
        with pytest.raises(RunFailedError):
            workflow.wait()
        assert workflow.wait() is True
        box.mend_step("a")
        other = ParslWorkflow.read(box.submit_path)
        assert other.name == "run"
        assert other.config["computeSite"] == "local"
        other.restart()
        with pytest.raises(RunStateError, match="nothing to do"):
            workflow.run()
    assert box.steps("end") == ["a", "b"]


def test_cancel_aside(box: Sandbox) -> None:
    """``cancel`` ends a run of this process as well; ``wait`` says so, and a
    ``restart`` goes on from there.
    """
    workflow = box.prepare([Step("a"), Step("b", ["a"])], final=Step("final", label="finalJob"))
    box.hold("b")
    with box.as_process():
        workflow.run(block=False)
        wait_until(lambda: "b" in box.steps("begin"), "b begins")
        assert "ends the jobs of run" in workflow.cancel()
        with pytest.raises(RunCancelledError, match="2 of 3 jobs succeeded"):
            workflow.wait(120)
        with pytest.raises(RunStateError, match="nothing to cancel"):
            workflow.cancel()
        box.let_go("b")
        workflow.restart(block=False)
        assert workflow.wait(120) is True
    assert box.steps("end") == ["a", "final", "b", "final"]


@pytest.mark.slow
def test_other_process(box: Sandbox) -> None:
    """``ParslWorkflow.read`` restores a run in another process, by its id or
    submit path, and can run it.
    """
    box.prepare([Step("a")])
    code = (
        "import sys\n"
        "from lsst.ctrl.bps.parsl import ParslWorkflow\n"
        "workflow = ParslWorkflow.read(sys.argv[1])\n"
        "print(workflow.status())\n"
        "workflow.run()\n"
        "print(workflow.status())\n"
    )
    done = box.python(code, box.submit_path).succeeded()
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("TOTAL")]
    assert [row[2] for row in rows] == ["1", "-"]
    assert [row[4] for row in rows] == ["-", "1"]
    with box.as_process(), pytest.raises(RunNotFoundError, match="No run matches"):
        ParslWorkflow.read("nothing")


@pytest.mark.slow
def test_abandoned_process(box: Sandbox) -> None:
    """A program that comes to its end while its run goes on in a thread waits
    for it, or says that it did not and how to resume; and no job is lost.
    """
    box.prepare([Step("a"), Step("b", ["a"])])
    code = (
        "import sys\n"
        "from lsst.ctrl.bps.parsl import ParslWorkflow\n"
        "ParslWorkflow.read(sys.argv[1]).run(block=False)\n"
    )
    done = box.run(sys.executable, "-c", code, box.submit_path)
    box.assert_nothing_runs()
    if box.steps("end") != ["a", "b"]:
        assert "bps restart --id run" in done.stderr, f"nothing was run, and nothing said:\n{done}"
        box.bps("restart", "--id", "run").succeeded()
    assert box.steps("end") == ["a", "b"]
