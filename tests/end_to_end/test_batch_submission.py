# SPDX-License-Identifier: BSD-3-Clause
"""The quantum graph is built and prepared in jobs of the run (``bpsBatchSubmission``)."""

from __future__ import annotations

import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lsst.ctrl.bps import WmsStates
from lsst.ctrl.bps.parsl import ParslWorkflow, start_pipeline
from lsst.ctrl.bps.parsl.errors import RunFailedError
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from support.releases import needs_batch_submission, needs_no_batch_submission

from .support import (
    TINYCAM,
    Finished,
    Running,
    Sandbox,
    assert_done_once,
    events_of_kind,
    job_names,
    node_events,
    report_counts,
    wait_until,
)
from .test_kill import restart_elsewhere
from .test_pipeline import OUTPUT, run_id_of, submit_path_of
from .tinycam.repo import contents
from .tinycam.tasks import executed

CONTROL = ["buildQuantumGraph", "preparePayloadWorkflow"]
PIPELINE = ["pipetaskInit", "isr", "combine", "finalJob"]
STEPS = 11
"""Three of the two jobs', and one of each of the eight that are added."""
PHASES = ["build", "prepare", "added", "init"]
"""Steps that are held while the graph is built, in prepare, between attach and the job's end, and among the
jobs that were added."""


def write(tiny: Sandbox, *more: str, replaced: tuple[tuple[str, str], ...] = ()) -> str:
    """Write a configuration with batch submission, and return its name."""
    text = "\n".join([(TINYCAM / "bps.yaml").read_text(), "bpsBatchSubmission: true", *more])
    for before, after in replaced:
        assert before in text
        text = text.replace(before, after)
    (tiny.path / "batch.yaml").write_text(text + "\n")
    return "batch.yaml"


def quick(tiny: Sandbox, build: str = "", prepare: str = "", *more: str) -> str:
    """Write one whose quanta are steps, and whose two jobs have steps beside what BPS does."""
    return write(
        tiny,
        f'''
runQuantumCommand: "{tiny.step} {{qgraphNodeId}}"
pipetask:
  pipetaskInit:
    runQuantumCommand: "{tiny.step} init"
buildQuantumGraph:
  jobCommand: >-
    {tiny.step} build && bps batch-acquire {{configFile}} --save-qgraph {{qgraphFile}}
  {build}
preparePayloadWorkflow:
  jobCommand: >-
    {tiny.step} prepare && bps batch-prepare {{configFile}} -g {{qgraphFile}} && {tiny.step} added
  {prepare}
''',
        *more,
        replaced=(("finalJob:\n", f"finalJob:\n  command1: {tiny.step} final\n"),),
    )


def submitted(tiny: Sandbox, config: str) -> tuple[Running, str, Path]:
    """Submit, and return the driver, the run's id and its submit directory."""
    driver = tiny.fork("submit", config)
    text = driver.wait_for("Run Id: ")
    return driver, run_id_of(text), submit_path_of(text)


def payload_is_added(submit_path: Path) -> bool:
    """Tell whether the second part of the run is in its place."""
    return SubmitPaths(submit_path).payload.exists()


def has_begun(tiny: Sandbox, moment: str) -> Callable[[], bool]:
    """Return what tells whether a step has begun."""
    return lambda: moment in tiny.steps("begin")


def rows(report: Finished) -> list[str]:
    """Return the labels of a report in order."""
    return re.findall(r"^(\w+) .* \d+ +\d+$", report.stdout, re.MULTILINE)


@needs_batch_submission
@pytest.mark.slow
def test_whole_run(tiny: Sandbox) -> None:
    """One id: first the two jobs, whose number of others is not known; then all, in order; and the datasets
    that the pipeline makes. The submission builds nothing itself. The plan of the run stays what it was.
    """
    tiny.hold("build")
    config = write(
        tiny,
        "buildQuantumGraph:",
        f'  jobCommand: "{tiny.step} build && bps {{bpsPreCommandOpts}} batch-acquire {{configFile}}'
        ' --save-qgraph {fileDistributionEndPoint}{qgraphFile}"',
        "bpsPreCommandOpts: --long-log --log-level=lsst.ctrl.bps=DEBUG",
    )
    driver, run_id, submit_path = submitted(tiny, config)
    wait_until(has_begun(tiny, "build"), "the first job begins")
    assert not list(submit_path.glob("*.qg"))
    plan = SubmitPaths(submit_path).plan.read_bytes()
    assert tiny.bps("status", "--id", run_id).code == WmsStates.RUNNING.value
    going = tiny.bps("report", "--id", run_id).succeeded()
    assert rows(going) == ["TOTAL", *CONTROL]
    assert "The number of jobs is not known yet: preparePayloadWorkflow adds them" in going.stdout
    tiny.let_go("build")
    finished = driver.finish().succeeded()
    assert "The workflow has been prepared: 8 more jobs." in finished.stderr

    assert SubmitPaths(submit_path).plan.read_bytes() == plan
    assert sorted(path.name for path in (submit_path / "parsl").glob("payload*")) == ["payload.jsonl"]
    found = contents(tiny.path / "repo", OUTPUT)
    assert {name: len(values) for name, values in found.items() if name in ("flat", "total")} == {
        "flat": 4,
        "total": 2,
    }
    assert len(executed(tiny.path)) == 6
    assert_done_once(submit_path)
    assert len(job_names(submit_path)) == 10
    assert len(events_of_kind(submit_path, "session")) == 1
    assert tiny.bps("status", "--id", run_id).code == 0
    ended = tiny.bps("report", "--id", run_id).succeeded()
    assert rows(ended)[:7] == ["TOTAL", *CONTROL, *PIPELINE]
    assert "not known" not in ended.stdout
    assert report_counts(ended.stdout, "TOTAL") == {"SUCCEEDED": 10, "EXPECTED": 10}
    assert "DEBUG" in (submit_path / "logs/buildQuantumGraph/buildQuantumGraph.stderr").read_text()


@needs_batch_submission
@pytest.mark.slow
@pytest.mark.parametrize("moment", PHASES)
def test_kill(tiny: Sandbox, moment: str) -> None:
    """Killed in each phase: a restart from elsewhere ends the run; no finished job runs twice, and only what
    was in flight has begun twice.
    """
    tiny.hold(moment)
    driver, run_id, submit_path = submitted(tiny, quick(tiny))
    wait_until(has_begun(tiny, moment), f"{moment} begins")
    assert payload_is_added(submit_path) == (moment in ("added", "init"))
    driver.kill()
    tiny.assert_nothing_runs()
    report = tiny.bps("report", "--id", run_id).succeeded()
    assert "its driver died. Resume it with: bps restart --id" in report.stdout
    assert rows(report)[1:] == (CONTROL if moment != "init" else [*CONTROL, *PIPELINE])
    tiny.let_go(moment)
    restart_elsewhere(tiny, submit_path).succeeded()
    job = {"build": CONTROL[0], "prepare": CONTROL[1], "added": CONTROL[1], "init": "pipetaskInit"}[moment]
    assert_done_once(submit_path, [name for name in job_names(submit_path) if name == job])
    assert len(job_names(submit_path)) == 10
    begun, ended = Counter(tiny.steps("begin")), Counter(tiny.steps("end"))
    assert begun[moment] == 2
    assert ended["final"] == ended["init"] == 1
    assert len(ended) == STEPS
    assert not list((submit_path / "parsl").glob("payload-*.jsonl"))


@needs_batch_submission
@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancel", "interrupt"])
@pytest.mark.parametrize("moment", PHASES)
def test_cancel(tiny: Sandbox, moment: str, how: str) -> None:
    """Cancelled, or stopped by Ctrl-C, in each phase: nothing is left; after a cancel the final job runs
    where it is known; a restart does the rest.
    """
    tiny.hold(moment)
    driver, run_id, submit_path = submitted(tiny, quick(tiny))
    wait_until(has_begun(tiny, moment), f"{moment} begins")
    if how == "cancel":
        said = tiny.bps("cancel", "--id", run_id).succeeded()
        assert ("its final job still runs" in said.text) == (moment == "init")
        driver.finish().complained("was cancelled")
        assert tiny.bps("status", "--id", run_id).code == WmsStates.DELETED.value
    else:
        driver.signal(signal.SIGINT)
        assert driver.finish().code == 130
        assert tiny.bps("status", "--id", run_id).code == WmsStates.FAILED.value
    tiny.assert_nothing_runs()
    assert tiny.steps("end").count("final") == (how == "cancel" and moment == "init")
    tiny.let_go(moment)
    restart_elsewhere(tiny, submit_path).succeeded()
    ended = Counter(tiny.steps("end"))
    assert len(ended) == STEPS
    # The job that adds the others begins with a step, and was held at its end.
    again = {"final", "prepare"} if moment == "added" else {"final"}
    assert {name for name, count in ended.items() if count > 1} <= again


@needs_batch_submission
@pytest.mark.slow
def test_payload_that_prepare_refuses(tiny: Sandbox) -> None:
    """What the checks say of the jobs is printed at the end and in the report, all of it. Mended, the run
    goes on from there, with the graph that there is.
    """
    config = quick(tiny)
    text = (tiny.path / config).read_text()
    text = text.replace("    cores: 2\n", "    cores: 2\n    memory: 40000\n")
    tasks = "  isr: {requestMemory: 50000}\n  combine: {preCmdline: 'echo \"x'}\n"
    (tiny.path / config).write_text(text.replace("  pipetaskInit:\n", f"{tasks}  pipetaskInit:\n"))
    failed = tiny.bps("submit", config)
    failed.complained("1 of 2 jobs succeeded", "bps restart --id")
    wanted = [
        "2 problems in the workflow:",
        "it asks for 50000 MB; the most that site local has for a job is 40000 MB. Set requestMemory of isr",
        "its preCmdline cannot be read",
    ]
    failed.complained(*wanted)
    run_id, submit_path = run_id_of(failed.stdout), submit_path_of(failed.stdout)
    report = tiny.bps("report", "--id", run_id).succeeded()
    for part in wanted:
        assert part in re.sub(r"\s+", " ", report.stdout)
    assert not payload_is_added(submit_path)
    (dumped,) = submit_path.glob("*_config.yaml")
    dumped.write_text(dumped.read_text().replace("50000", "500").replace('echo "x', "echo x"))
    restart_elsewhere(tiny, submit_path).succeeded()
    assert Counter(tiny.steps("end"))["build"] == 1
    assert node_events(submit_path, "end")["preparePayloadWorkflow"] == 1


@needs_batch_submission
@pytest.mark.slow
def test_lazy_job_that_fails_twice(tiny: Sandbox) -> None:
    """It is tried again as its settings say, also where an attempt has added jobs: these are kept."""
    config = quick(tiny, "", "retryUnlessExit: [2]\n  numberOfRetries: 2")
    tiny.break_step("prepare", 5)
    driver, _, submit_path = submitted(tiny, config)
    wait_until(lambda: len(events_of_kind(submit_path, "fail")) == 1, "the first attempt fails")
    tiny.break_step("added", 6)
    tiny.mend_step("prepare")
    wait_until(lambda: len(events_of_kind(submit_path, "fail")) >= 2, "the second attempt fails")
    tiny.mend_step("added")
    driver.finish()
    if events_of_kind(submit_path, "finish")[-1]["state"] != "SUCCEEDED":
        # Attempts were faster than this test.
        tiny.bps("restart", "--id", submit_path).succeeded()
    assert_done_once(submit_path, [CONTROL[1]])
    assert Counter(tiny.steps("end"))["init"] == 1


@needs_batch_submission
@pytest.mark.slow
def test_command_that_adds_nothing(tiny: Sandbox) -> None:
    """A job that ends well and has added nothing has failed, with words that name the setting."""
    config = write(tiny, "preparePayloadWorkflow:", f"  jobCommand: {tiny.step} prepare")
    failed = tiny.bps("submit", config)
    failed.complained("has added no jobs to the run: preparePayloadWorkflow.jobCommand has to run bps")
    report = tiny.bps("report", "--id", run_id_of(failed.stdout)).succeeded()
    assert "preparePayloadWorkflow failed: it ended with exit code 0, and has added no jobs" in report.stdout


@needs_batch_submission
def test_site_that_is_too_small(tiny: Sandbox) -> None:
    """It is refused at submit, with the names of the keys, and nothing runs."""
    config = write(tiny, replaced=(("    cores: 2\n", "    cores: 2\n    memory: 16000\n"),))
    tiny.bps("submit", config).complained(
        "it asks for 32768 MB; the most that site local has for a job is 16000 MB",
        "Set buildQuantumGraph.requestMemory to less",
        "Set preparePayloadWorkflow.requestMemory to less",
    )
    assert not executed(tiny.path)


@needs_batch_submission
@pytest.mark.slow
def test_other_sites(tiny: Sandbox) -> None:
    """The two jobs run at sites of their own; the payload at the run's, and at one that nobody named before,
    with the prefixes of these sites; the graph is read from the site's temporary space.
    """
    (tiny.path / "space").mkdir()
    sites = f"""
    commandPrefix: export WHERE=main
    bpsUseRunTempSpace: true
    fileDistributionEndpoint: {tiny.path}/space/
  first:
    class: lsst.ctrl.bps.parsl.sites.Local
    cores: 1
    commandPrefix: export WHERE=first
  third:
    class: lsst.ctrl.bps.parsl.sites.Local
    cores: 1
    commandPrefix: export WHERE=third
"""
    config = quick(tiny, "computeSite: first", "computeSite: first")
    text = (tiny.path / config).read_text()
    text = text.replace("    cores: 2\n", "    cores: 2" + sites)
    where = '    preCmdline: "echo {label} ${WHERE} >>{submitPath}/where.txt"\n'
    text = text.replace(
        "  pipetaskInit:\n", f"  combine:\n    computeSite: third\n{where}  isr:\n{where}  pipetaskInit:\n"
    )
    text = text.replace("  jobCommand", where[2:] + "  jobCommand")
    (tiny.path / config).write_text(text)
    driver, _, submit_path = submitted(tiny, config)
    driver.finish().succeeded()
    found = Counter((submit_path / "where.txt").read_text().splitlines())
    assert found == {
        "buildQuantumGraph first": 1,
        "preparePayloadWorkflow first": 1,
        "isr main": 4,
        "combine third": 2,
    }
    assert len(list((tiny.path / "space").glob("*.qg"))) == 1
    assert_done_once(submit_path)


@needs_batch_submission
@pytest.mark.slow
def test_from_python(tiny: Sandbox) -> None:
    """``start_pipeline`` prepares the two jobs, and nothing runs; ``run`` does it all, and what is refused is
    raised; another object of the run does the rest.
    """
    config = quick(tiny)
    tiny.break_step("prepare")
    with tiny.as_process():
        workflow = start_pipeline(str(tiny.path / config))
        assert isinstance(workflow, ParslWorkflow)
        assert tiny.steps("begin") == []
        assert [line.split()[0] for line in workflow.status().splitlines()] == ["label", *CONTROL, "TOTAL"]
        with pytest.raises(RunFailedError, match="1 of 2 jobs succeeded"):
            workflow.run()
        tiny.mend_step("prepare")
        again = ParslWorkflow.read(str(workflow.submit_path))
        again.restart(block=False)
        assert again.wait(300)
        assert again.status().splitlines()[-1].split()[-1] == "10"
    assert Counter(tiny.steps("end"))["build"] == 1


@needs_no_batch_submission
@pytest.mark.slow
def test_bps_without_it(tiny: Sandbox) -> None:
    """The key is unknown to BPS, and nothing changes."""
    done = tiny.bps("submit", quick(tiny)).succeeded()
    assert len(tiny.steps("end")) == 8
    assert [name for name in job_names(submit_path_of(done.stdout)) if name in CONTROL] == []


@needs_batch_submission
@pytest.mark.slow
def test_on_workers(tiny: Sandbox) -> None:
    """With HighThroughputExecutor, whose workers run the two jobs and then the others, in one session."""
    tiny.env["PYTHONPATH"] += f":{TINYCAM.parent.parent}"
    config = quick(tiny)
    text = (tiny.path / config).read_text()
    local = "    class: lsst.ctrl.bps.parsl.sites.Local\n    cores: 2\n"
    assert local in text
    own = "    class: end_to_end.workers.Workers\n    workers: 2\n    environment: true\n"
    (tiny.path / config).write_text(text.replace(local, own))
    driver, _, submit_path = submitted(tiny, config)
    driver.finish().succeeded()
    assert_done_once(submit_path)
    assert len(events_of_kind(submit_path, "session")) == 1
    assert len(tiny.steps("end")) == STEPS
    for left in (tiny.path / "tmp").glob("pymp-*"):
        shutil.rmtree(left)  # What workers of Parsl's leave that are ended.
