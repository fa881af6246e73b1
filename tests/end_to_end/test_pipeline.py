# SPDX-License-Identifier: BSD-3-Clause
"""The tiny pipeline through ``bps``, with a real Butler repository."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from lsst.ctrl.bps import WmsStates

from .support import (
    SERVICE,
    TINYCAM,
    Sandbox,
    assert_done_once,
    events_of_kind,
    job_names,
    node_events,
    wait_until,
)
from .test_kill import restart_elsewhere
from .tinycam.repo import DETECTORS, FILTERS, contents
from .tinycam.tasks import executed

OUTPUT = "u/tester/tiny"


def quanta(detectors: int) -> list[str]:
    """Return the names of all quanta, as `executed` does."""
    isr = [f"isr {name} {number}" for name in FILTERS for number in range(detectors)]
    return [*isr, *(f"combine {name}" for name in FILTERS)]


def pipetask_run(tiny: Sandbox, repo: Path) -> None:
    """Run the same pipeline in one process, without BPS."""
    shutil.copytree(tiny.path / "repo", repo)
    there = repo.parent / "pipetask"
    there.mkdir()
    tiny.run(
        "pipetask",
        "run",
        "--butler-config",
        repo,
        "--input",
        "TinyCam/raw",
        "--output",
        OUTPUT,
        "--pipeline",
        TINYCAM / "pipeline.yaml",
        "--data-query",
        f"instrument = 'TinyCam' AND detector < {tiny.env['TINYCAM_DETECTORS']}",
        "--register-dataset-types",
        env={**tiny.env, "TINYCAM_DIR": str(there)},
    ).succeeded()
    assert Counter(executed(there)) == Counter(quanta(int(tiny.env["TINYCAM_DETECTORS"])))


def submit_path_of(text: str) -> Path:
    """Return the submit directory that ``bps submit`` printed."""
    match = re.search(r"^Submit dir: (.*)$", text, re.MULTILINE)
    assert match, text
    return Path(match.group(1))


def run_id_of(text: str) -> str:
    """Return the run id that ``bps submit`` printed."""
    match = re.search(r"^Run Id: (.*)$", text, re.MULTILINE)
    assert match, text
    return match.group(1)


@pytest.mark.slow
def test_same_datasets_as_pipetask(tiny: Sandbox) -> None:
    """42 quanta through ``bps submit`` make the datasets that ``pipetask run``
    makes: types, data ids and contents; each quantum is executed once. The
    run id is printed when the run begins, and from then on other shells see
    the run: while it is going and afterwards.
    """
    tiny.env["TINYCAM_DETECTORS"] = str(DETECTORS)
    pipetask_run(tiny, tiny.path / "other")
    (tiny.path / "hold").touch()
    driver = tiny.start("bps", "submit", TINYCAM / "bps.yaml")
    run_id = run_id_of(driver.wait_for("Run Id: "))
    submit_path = submit_path_of(driver.stdout)
    wait_until(lambda: len(executed(tiny.path)) == 2, "two quanta begin")
    assert tiny.bps("status", "--id", run_id).code == WmsStates.RUNNING.value
    going = tiny.run("bps", "report").succeeded()
    assert "RUNNING" in going.stdout
    assert run_id in going.stdout
    detail = tiny.bps("report", "--id", run_id).succeeded()
    row = next(line.split() for line in detail.stdout.splitlines() if line.startswith("isr "))
    states = [state.name for state in WmsStates]
    counted = dict(zip([*states, "EXPECTED"], map(int, row[1:]), strict=True))
    assert counted["RUNNING"] == 2
    assert counted["EXPECTED"] == 40
    (tiny.path / "hold").unlink()
    finished = driver.finish().succeeded()

    assert finished.stdout.count(f"Run Id: {run_id}") == 2, "once early, and once by BPS"
    assert Counter(executed(tiny.path)) == Counter(quanta(DETECTORS))
    assert_done_once(submit_path)
    assert len(job_names(submit_path)) == 44
    expected = contents(tiny.path / "other", OUTPUT)
    assert contents(tiny.path / "repo", OUTPUT) == expected
    assert {name: len(found) for name, found in expected.items() if name in ("flat", "total")} == {
        "flat": 40,
        "total": 2,
    }
    assert tiny.bps("status", "--id", run_id).code == 0
    assert run_id not in tiny.bps("report").succeeded().stdout
    assert "SUCCEEDED" in tiny.bps("report", "--hist", "1").succeeded().stdout
    order = re.findall(r"^(\w+) .* 0 +\d+$", tiny.bps("report", "--id", run_id).stdout, re.MULTILINE)
    assert order == ["TOTAL", "pipetaskInit", "isr", "combine", "finalJob"]


def _runs(submit_path: Path, label: str) -> bool:
    """Tell whether a job whose name ends so has begun and not ended."""
    begun, ended = node_events(submit_path, "start"), node_events(submit_path, "end")
    return any(name.endswith(label) and begun[name] > ended[name] for name in begun)


@pytest.mark.slow
@pytest.mark.parametrize("moments", [("init", "middle"), ("end", "final")], ids="-".join)
def test_kill(tiny: Sandbox, moments: tuple[str, str]) -> None:
    """The driver killed twice, each time at another moment; restarted from
    another directory and with another environment, the run makes the same
    datasets, and only what was in flight begins again.
    """
    moment_labels = {"init": "pipetaskInit", "final": "finalJob"}
    first = True
    submit_path = tiny.path
    in_flight: list[str] = []
    for moment in moments:
        if moment in ("middle", "end"):
            (tiny.path / "hold").touch()
        if first:
            driver = tiny.start("bps", "submit", TINYCAM / "bps.yaml")
            submit_path = submit_path_of(driver.wait_for("Run Id: "))
            first = False
        else:
            driver = tiny.fork("restart", "--id", submit_path)
        if label := moment_labels.get(moment):
            wait_until(partial(_runs, submit_path, label), f"{label} runs")
        elif moment == "middle":
            wait_until(lambda: len(executed(tiny.path)) == 2, "two quanta begin")
        else:
            wait_until(lambda: len(executed(tiny.path)) == 2, "two quanta begin")
            (tiny.path / "hold").unlink()
            wait_until(lambda: "combine g" in executed(tiny.path), "a last quantum begins")
        driver.kill()
        (tiny.path / "hold").unlink(missing_ok=True)
        tiny.assert_nothing_runs()
        begun, ended = node_events(submit_path, "start"), node_events(submit_path, "end")
        in_flight += [name for name in begun if not ended[name]]
        assert tiny.bps("status", "--id", submit_path).code == WmsStates.FAILED.value
    restart_elsewhere(tiny, submit_path).succeeded()
    assert_done_once(submit_path, in_flight)
    assert len(events_of_kind(submit_path, "session")) == 3
    found = contents(tiny.path / "repo", OUTPUT)
    flats = {str(value) for value in found["flat"].values()}
    assert flats == {str({"value": value}) for value in (0, 2, 200, 202)}
    totals = sorted(str(value) for value in found["total"].values())
    assert totals == [str({"sum": 2, "count": 2}), str({"sum": 402, "count": 2})]
    assert set(executed(tiny.path)) == set(quanta(2))
    for cache in (tiny.path / "tmp").glob("butler-cache-dir-*"):
        shutil.rmtree(cache)  # What quanta that are killed leave is the Butler's.


@pytest.mark.slow
def test_failed_quantum(tiny: Sandbox) -> None:
    """A quantum that raises: exit status not 0, a table and the end of its log
    without a traceback of ours; what depends on it does not run, the rest and
    the final job do; exit codes are reported; mended, a restart completes it.
    """
    (tiny.path / "fail").write_text("isr g 1\n")
    failed = tiny.run("bps", "submit", TINYCAM / "bps.yaml")
    assert failed.code == 1, str(failed)
    assert "The file 'fail' names isr g 1." in failed.stderr, "the end of the job's log"
    assert "lsst.daf.butler.cli.utils ERROR: Caught an exception" not in failed.stderr
    assert "Resume" in failed.stderr or "bps restart --id" in failed.stderr
    run_id = run_id_of(failed.stdout)
    submit_path = submit_path_of(failed.stdout)
    assert Counter(executed(tiny.path)) == Counter([*quanta(2), "isr g 1"]) - Counter(["combine g"])
    report = tiny.bps("report", "--id", run_id, "--return-exit-codes").succeeded()
    table = {line.split()[0]: line.split()[1:] for line in report.stdout.splitlines() if line.split()}
    assert table["isr"] == ["1", "1", "0", "None"], str(report)
    assert table["combine"] == ["0", "None", "0", "None"]
    assert tiny.bps("status", "--id", run_id).code == WmsStates.FAILED.value
    found = contents(tiny.path / "repo", OUTPUT)
    assert (len(found["flat"]), len(found["total"])) == (3, 1)

    (tiny.path / "fail").unlink()
    restart_elsewhere(tiny, submit_path).succeeded()
    found = contents(tiny.path / "repo", OUTPUT)
    assert (len(found["flat"]), len(found["total"])) == (4, 2)
    counts = node_events(submit_path, "end")
    final = {name for name in counts if name.endswith("finalJob")}
    assert {counts[name] for name in final} == {2}
    assert {count for name, count in counts.items() if name not in final} == {1}


@pytest.fixture
def quick(tiny: Sandbox) -> Path:
    """A BPS configuration for the same graph, whose jobs are small scripts."""
    text = (TINYCAM / "bps.yaml").read_text()
    text += f"""
runQuantumCommand: "{tiny.step} {{qgraphNodeId}}"
pipetask:
  pipetaskInit:
    runQuantumCommand: "{tiny.step} init"
"""
    text = text.replace("finalJob:\n", f"finalJob:\n  command1: {tiny.step} final\n  whenRun: WHEN\n")
    path = tiny.path / "quick.yaml"
    path.write_text(text)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("when", ["ALWAYS", "SUCCESS", "NEVER"])
def test_when_run(tiny: Sandbox, quick: Path, when: str) -> None:
    """The final job runs as ``finalJob.whenRun`` says: after a failure, after
    success alone, or not at all.
    """
    quick.write_text(quick.read_text().replace("WHEN", when))
    tiny.break_step("init", 2)
    failed = tiny.bps("submit", quick).complained("step init was told to fail")
    assert tiny.steps("begin") == (["init", "final"] if when == "ALWAYS" else ["init"])
    tiny.mend_step("init")
    tiny.bps("restart", "--id", run_id_of(failed.stdout)).succeeded()
    ended = tiny.steps("end")
    assert len([name for name in ended if name not in ("init", "final")]) == 6
    assert ended.count("final") == {"ALWAYS": 2, "SUCCESS": 1, "NEVER": 0}[when]
    assert when == "NEVER" or ended[-1] == "final"


@pytest.mark.slow
def test_prepare_then_start(tiny: Sandbox, quick: Path) -> None:
    """``bps prepare`` runs nothing, leaves a run that is READY, and says in
    report and status how to start it; ``bps restart`` does.
    """
    quick.write_text(quick.read_text().replace("WHEN", "ALWAYS"))
    prepared = tiny.run("bps", "prepare", quick).succeeded()
    submit_path = submit_path_of(prepared.stdout)
    assert not tiny.steps("begin")
    assert not events_of_kind(submit_path, "session")
    status = tiny.bps("status", "--id", submit_path)
    assert status.code == WmsStates.READY.value
    assert "prepared and was never started. Start it with: bps restart --id" in status.text
    tiny.bps("restart", "--id", submit_path).succeeded()
    assert len(tiny.steps("end")) == 8
    assert SERVICE in quick.read_text()


@pytest.mark.slow
def test_submitted_elsewhere(tiny: Sandbox, quick: Path) -> None:
    """Nothing that we make can be written by others, whatever the umask, and
    what holds environments is for the owner alone.
    """
    quick.write_text(quick.read_text().replace("WHEN", "ALWAYS"))
    tiny.env["TINYCAM_SECRET"] = "tuna-sandwich"
    submitted = tiny.run("/bin/sh", "-c", f"umask 000; exec bps prepare {quick}").succeeded()
    submit_path = submit_path_of(submitted.stdout)
    tiny.bps("restart", "--id", submit_path).succeeded()
    ours = [submit_path, *(submit_path / "parsl").rglob("*"), *(submit_path / "logs").rglob("*"), tiny.state]
    writable = [str(path) for path in ours if path.stat().st_mode & 0o022]
    assert not writable
    secret = [path for path in ours if path.is_file() and "tuna-sandwich" in path.read_text()]
    assert secret, "the environment is kept"
    assert not [str(path) for path in secret if path.stat().st_mode & 0o077]
    assert tiny.state.stat().st_mode & 0o777 == 0o700
