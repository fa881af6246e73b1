# SPDX-License-Identifier: BSD-3-Clause
"""A run from Python, on the real Local site, with commands in place of quanta."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps import BpsConfig, GenericWorkflow, GenericWorkflowExec, GenericWorkflowJob
from lsst.ctrl.bps.parsl import ParslWorkflow
from lsst.ctrl.bps.parsl.errors import RunCancelledError, RunFailedError, RunStateError
from lsst.ctrl.bps.parsl.node.journal import encode_line
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.journal import Journal, read_journal
from lsst.ctrl.bps.parsl.run.replay import replay
from package.test_paths import HOSTILE_NAMES
from plan.test_command import HOSTILE
from support.plans import umask, world_writable

PRINT = r"/usr/bin/printf '%s\0' "


def make_job(name: str, command: str, label: str = "l", **fields: Any) -> GenericWorkflowJob:
    executable, _, arguments = command.partition(" ")
    executable = GenericWorkflowExec(os.path.basename(executable), executable)
    return GenericWorkflowJob(name, label, executable=executable, arguments=arguments, **fields)


def prepare(
    directory: Path, *jobs: GenericWorkflowJob, final: GenericWorkflowJob | None = None, **config: Any
) -> ParslWorkflow:
    """Prepare a run; each job waits for the one before it where its name ends with ``+``."""
    settings = BpsConfig(
        {
            "uniqProcName": "u_me_x",
            "submitPath": str(directory / "run"),
            "subDirTemplate": "{label}",
            "computeSite": "here",
            "site": {"here": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2}},
            **config,
        }
    )
    workflow = GenericWorkflow("u_me_x")
    for number, job in enumerate(jobs):
        workflow.add_job(job)
        if job.name.endswith("+"):
            workflow.add_job_relationships(jobs[number - 1].name, job.name)
    if final is not None:
        workflow.add_final(final)
    run = ParslWorkflow.from_generic_workflow(settings, workflow, str(directory / "run"), "x")
    run.write(str(directory / "run"))
    return run


def logs(run: ParslWorkflow) -> dict[str, str]:
    """Return what the jobs printed, by name of the log."""
    return {path.name.removesuffix(".stdout"): path.read_text() for path in run.paths.logs.rglob("*.stdout")}


def job_events(run: ParslWorkflow, kind: str) -> list[int]:
    """Return the jobs of which nodes recorded something."""
    found = (event for path in run.paths.node_journals() for event in read_journal(path))
    return [event["j"] for event in found if event["e"] == kind]


def test_run_to_its_end(tmp_path: Path) -> None:
    """Jobs run in their order, the final one last; the run is found by its id and has nothing more to do."""
    record = tmp_path / "order"
    jobs = [make_job(name, f"/bin/bash -c 'echo {name} >> {record}'") for name in ("a", "b+", "c+")]
    final = make_job("finalJob", f"/bin/bash -c 'echo final >> {record}'", "finalJob")
    run = prepare(tmp_path, *jobs, final=final)
    assert not record.exists()
    run.run()
    assert record.read_text() == "a\nb+\nc+\nfinal\n"
    again = ParslWorkflow.read("u_me_x")
    assert again.submit_path == run.submit_path
    assert "TOTAL" in again.status()
    with pytest.raises(RunStateError, match="nothing to do"):
        again.restart()
    with pytest.raises(RunStateError, match="nothing to cancel"):
        again.cancel()


def test_empty_run(tmp_path: Path) -> None:
    """A workflow without jobs succeeds."""
    run = prepare(tmp_path)
    run.run()
    assert run.wait()


def test_values_reach_the_jobs_unchanged_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the workflow to the process, through plan and runner, with and without bash, data stays data."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    jobs = []
    for number, value in enumerate(HOSTILE):
        jobs.append(make_job(f"exec{number}", PRINT + "'{v}'", cmdvals={"v": value}))
        jobs.append(make_job(f"bash{number}", PRINT + '"{v}" | cat', cmdvals={"v": value}))
    run = prepare(tmp_path, *jobs)
    run.run()
    found = logs(run)
    for number, value in enumerate(HOSTILE):
        assert found[f"exec{number}"] == found[f"bash{number}"] == value + "\0"
    assert os.listdir(tmp_path / "cwd") == []


def test_any_name_can_be_run(tmp_path: Path) -> None:
    """Jobs whose names hold anything run, and each has a log of its own in the submit directory."""
    names = [name for name in HOSTILE_NAMES if name.isprintable()] + ["Job", "job"]
    run = prepare(
        tmp_path, *(make_job(name, f"/bin/echo {number}", label=name) for number, name in enumerate(names))
    )
    run.run()
    assert sorted(int(text) for text in logs(run).values()) == list(range(len(names)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_failed_run_goes_on_when_its_reason_is_mended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A failure is told with its log's last lines; a restart runs what failed and what waited for it."""
    command = f"/bin/bash -c 'echo reason >&2; test -e {tmp_path}/mended'"
    run = prepare(tmp_path, make_job("a", "/bin/true"), make_job("b+", command), make_job("c+", "/bin/true"))
    with pytest.raises(RunFailedError) as caught:
        run.run()
    assert "1 job of u_me_x failed" in caught.value.message
    assert "bps restart --id u_me_x" in caught.value.message
    shown = capfd.readouterr().err
    assert "b+" in shown
    assert "| reason" in shown
    (tmp_path / "mended").touch()
    ParslWorkflow.read(run.submit_path or "").restart()
    assert job_events(run, "start") == [0, 1, 1, 2]


def test_memory_grows_to_the_limit_of_the_configuration(tmp_path: Path) -> None:
    """``memoryLimit`` caps the growth; a job that was tried with that much is given up."""
    job = make_job(
        "a", "/bin/bash -c 'kill -9 $$'", request_memory=2048, memory_multiplier=2, number_of_retries=5
    )
    run = prepare(tmp_path, job, memoryLimit=3000)
    with pytest.raises(RunFailedError):
        run.run()
    state = replay(Plan(run.paths.plan), run.paths)
    assert state.memory == {0: 3000}
    assert job_events(run, "start") == [0, 0]


def test_nothing_of_a_run_can_be_written_by_others(tmp_path: Path) -> None:
    """Plan, journals, logs and Parsl's files are closed to others, whatever the umask."""
    with umask(0):
        os.mkdir(tmp_path / "run", 0o777)
        run = prepare(
            tmp_path, make_job("a", "/bin/true"), final=make_job("finalJob", "/bin/true", "finalJob")
        )
        run.run()
    assert world_writable(tmp_path / "run") == []
    for path in (run.paths.config, run.paths.environment):
        assert path.stat().st_mode & 0o077 == 0


def test_run_beside_this_thread(tmp_path: Path) -> None:
    """``run(block=False)`` comes back at once; ``wait`` and ``cancel`` are for the same process."""
    os.mkfifo(tmp_path / "fifo")
    command = f"/bin/bash -c 'echo here > {tmp_path}/fifo; sleep 100'"
    final = make_job("finalJob", f"/bin/touch {tmp_path}/gathered", "finalJob")
    run = prepare(tmp_path, make_job("a", command), make_job("b+", "/bin/true"), final=final)
    run.run(block=False)
    assert (tmp_path / "fifo").read_text() == "here\n"
    assert not run.wait(0)
    with pytest.raises(RunStateError, match="already running"):
        run.run(block=False)
    assert "ends the jobs" in run.cancel()
    with pytest.raises(RunCancelledError, match="1 of 3"):
        run.wait(60)
    assert (tmp_path / "gathered").exists()
    assert threading.active_count() < 20
    state = replay(Plan(run.paths.plan), run.paths)
    assert state.finished == JobState.DELETED.name


def test_cancel_of_a_dead_run_keeps_what_had_succeeded(tmp_path: Path) -> None:
    """What a node saw succeed before the driver was killed is not run again by a restart after a cancel."""
    run = prepare(tmp_path, make_job("a", "/bin/true"), make_job("b", "/bin/true"))
    journal = Journal(run.paths.driver_journal, "u_me_x")
    journal.append({"e": "session", "t": 1.0, "n": 1, "host": "h", "pid": 1})
    journal.append({"e": "pending", "t": 1.0, "j": [0, 1]})
    journal.close()
    with (run.paths.journals / "node-h-1.jsonl").open("wb") as stream:
        stream.write(encode_line({"e": "end", "j": 0, "a": 1, "t": 2.0, "exit": 0}))
    assert "was not running" in run.cancel()
    run.restart()
    assert sorted(job_events(run, "start")) == [1]


def test_end_is_told_whatever_stands_in_a_journal(tmp_path: Path) -> None:
    """A line that cannot be read in a node's journal does not take the place of what a run came to."""
    damage = f"echo garbage > {tmp_path}/run/parsl/journal/node-x-0.jsonl"
    run = prepare(tmp_path, make_job("a", f"/bin/bash -c '{damage}; exit 3'"))
    with pytest.raises(RunFailedError):
        run.run()
