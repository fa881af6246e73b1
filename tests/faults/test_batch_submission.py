# SPDX-License-Identifier: BSD-3-Clause
"""Whatever happens while jobs of a run build and add the others: all is done in the end, once, or said."""

from __future__ import annotations

import errno
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import control
from cluster.engines import Bench, Engine
from end_to_end.support import events_of_kind, report_counts, wait_until
from lsst.ctrl.bps import WmsStates
from lsst.ctrl.bps.parsl.paths import SubmitPaths

from .batch_runs import ADDED, AMONG, BUILDING, PHASES, WRITTEN, BatchRun, Phase
from .checker import leftovers
from .engines import BY_NAME, on_engines
from .faulty import Fault, library  # noqa: F401  # fixture
from .matrix import Matrix

pytestmark = pytest.mark.batch_submission

in_phases = pytest.mark.parametrize("phase", PHASES, ids=str)


@pytest.fixture
def make_run(
    make_bench: Callable[[Engine], Bench], with_repo: Callable[[Bench], Bench]
) -> Callable[..., BatchRun]:
    """Make runs in sandboxes of their own."""

    def make(name: str = "threads", **how: Any) -> BatchRun:
        return BatchRun(with_repo(make_bench(BY_NAME[name])), **how)

    return make


@on_engines("threads", "htex", "slurm")
@in_phases
def test_driver_killed(make_run: Callable[..., BatchRun], matrix: Matrix, name: str, phase: Phase) -> None:
    """The driver is killed: a restart ends the job that runs, before it begins again, and does the rest."""
    run = make_run(name)
    run.hold_in(phase).kill()
    driver = run.bench.drive("restart", "--id", run.path)
    run.await_again(driver)
    run.let_go()
    driver.finish(240).succeeded()
    run.assert_all_done()
    matrix.check(f"driver killed {phase.said}", run.bench, path=run.path)


def cancel(run: BatchRun, phase: Phase) -> None:
    """Have ``bps cancel`` end a run that is held."""
    driver = run.hold_in(phase)
    run.bench.bps("cancel", "--id", run.path).succeeded()
    driver.finish(120).complained("was cancelled")
    assert run.bench.bps("status", "--id", run.path).code == WmsStates.DELETED.value


def interrupt(run: BatchRun, phase: Phase) -> None:
    """Have Ctrl-C end a run that is held."""
    driver = run.hold_in(phase)
    driver.signal(signal.SIGINT)
    assert driver.finish(120).code == 130
    assert run.bench.bps("status", "--id", run.path).code == WmsStates.FAILED.value


STOPS = {"bps cancel": cancel, "Ctrl-C": interrupt}


@pytest.mark.quick
@pytest.mark.parametrize("how", STOPS)
def test_stopped_quick(make_run: Callable[..., BatchRun], matrix: Matrix, how: str) -> None:
    """As below, in `make test`, too, and without a restart."""
    run = make_run()
    STOPS[how](run, BUILDING)
    matrix.check(f"{how} {BUILDING.said}", run.bench, path=run.path)


@in_phases
@pytest.mark.parametrize("how", STOPS)
def test_stopped(make_run: Callable[..., BatchRun], matrix: Matrix, how: str, phase: Phase) -> None:
    """The run is ended by its user: nothing is left, and a restart does the rest. After a cancel, the final
    job runs where it is known.
    """
    run = make_run()
    STOPS[how](run, phase)
    early = int(phase is AMONG and how == "bps cancel")
    assert run.bench.steps("end").count("finalJob") == early
    matrix.check(f"{how} {phase.said}", run.bench, path=run.path, tries=0)
    run.let_go()
    run.restart()
    run.assert_all_done(finals=1 + early)
    matrix.check(f"{how} {phase.said}", run.bench, path=run.path)


_ONCE = """\
#!/bin/sh
# once.sh NAME: fails the first time.
[ -e "$0.$1" ] && exit 0
touch "$0.$1"
echo "attempt was told to fail in $1" >&2
exit 5
"""


def test_fails_twice(make_run: Callable[..., BatchRun], matrix: Matrix, tmp_path: Path) -> None:
    """The job that adds others fails before it has added them, and then after that: its third attempt
    succeeds, with the jobs of the second, and nothing of the first is left.
    """
    once = tmp_path / "once.sh"
    once.write_text(_ONCE)
    once.chmod(0o755)
    again = {"numberOfRetries": 2, "retryUnlessExit": [2]}
    run = make_run(prepare=again, when_written=f"{once} written", after=f"&& {once} added")
    run.submit().succeeded()
    assert [event["exit"] for event in events_of_kind(run.path, "fail")] == [5, 5]
    run.assert_all_done()
    matrix.check("job that adds the others fails twice", run.bench, path=run.path)


def test_refused(make_run: Callable[..., BatchRun], matrix: Matrix) -> None:
    """Jobs that no site can run are not added; what is wrong is said, and once mended, the rest is done."""
    run = make_run(site={"memory": 40000}, isr={"requestMemory": 50000})
    run.submit().complained("it asks for 50000 MB; the most that site here has for a job is 40000 MB")
    assert not SubmitPaths(run.path).payload.exists()
    assert "50000 MB" in run.bench.bps("report", "--id", run.path).succeeded().stdout
    matrix.check("jobs that prepare refuses", run.bench, path=run.path, tries=0)
    (dumped,) = run.path.glob("*_config.yaml")
    dumped.write_text(dumped.read_text().replace("50000", "500"))
    run.restart()
    run.assert_all_done()
    matrix.check("jobs that prepare refuses", run.bench, path=run.path)


def runner(run: BatchRun) -> psutil.Process:
    """Return the runner of the job that is held; there may be others."""
    step = run.bench.processes(f"step.sh {run.held}")[0]
    *_, top = [process for process in step.parents() if "node.runner" in " ".join(process.cmdline())]
    return top


ADDING = pytest.mark.parametrize("phase", [WRITTEN, ADDED], ids=str)


def goes_on(run: BatchRun, matrix: Matrix, fault: str) -> None:
    """See that the job that was lost runs again, uncharged, and all is done."""
    run.await_again(run.driver)
    run.let_go()
    run.driver.finish(240).succeeded()
    assert not any(event["charged"] for event in events_of_kind(run.path, "fail"))
    run.assert_all_done()
    matrix.check(fault, run.bench, path=run.path)


@on_engines("threads", "htex", "slurm")
@ADDING
def test_runner_killed(make_run: Callable[..., BatchRun], matrix: Matrix, name: str, phase: Phase) -> None:
    """The runner of the job that adds the others is killed: it runs again, and adds them once."""
    run = make_run(name)
    run.hold_in(phase)
    runner(run).kill()
    goes_on(run, matrix, f"runner killed {phase.said}")


@pytest.mark.on_cluster
@ADDING
def test_pilot_cancelled(make_run: Callable[..., BatchRun], matrix: Matrix, phase: Phase) -> None:
    """The block that the job runs in is cancelled by somebody: it runs again in another one."""
    run = make_run("slurm")
    run.hold_in(phase)
    (pilot,) = run.bench.jobs()
    control.cancel(pilot.id)
    goes_on(run, matrix, f"scancel of the pilot {phase.said}")


@pytest.mark.on_cluster
@pytest.mark.alone
def test_node_down(make_run: Callable[..., BatchRun], matrix: Matrix) -> None:
    """The node goes down when the job there has added the others and not ended: another block runs it."""
    run = make_run("slurm")
    run.hold_in(ADDED)
    *_, (_, _, node) = run.bench.where()
    control.set_node(node, "DOWN")
    try:
        goes_on(run, matrix, f"node DOWN {ADDED.said}")
    finally:
        control.set_node(node, "RESUME")
        wait_until(lambda: control.node_state(node) == "idle", "the node is back")


UNATTACHED = "*/parsl/payload-*.jsonl*"
FULL = {
    "jobs' environments": Fault("*/parsl/payload-*.environments.json*", "open", 1, errno.ENOSPC),
    "payload": Fault(UNATTACHED, "write", 1, errno.ENOSPC, short=True),
    "payload, flushed": Fault(UNATTACHED, "fsync", 1, errno.EIO),
    "payload, renamed": Fault(UNATTACHED, "rename", 1, errno.ENOSPC),
    "payload, added": Fault("*/parsl/payload.jsonl", "link", 1, errno.EDQUOT),
}
"""Of the job that adds the others."""

_FAULTY = """\
#!/bin/sh
# faulty.sh COMMAND ...: runs a command, for which things go wrong while there is a file beside this.
[ -e "$0.env" ] && . "$0.env"
exec "$@"
"""


@pytest.mark.parametrize("what", FULL)
def test_disk_full(
    make_run: Callable[..., BatchRun],
    matrix: Matrix,
    library: Path,  # noqa: F811
    tmp_path: Path,
    what: str,
) -> None:
    """The disk is full when the jobs are written or added: the run ends with the file's name, and has none
    of them; with space, a restart adds all.
    """
    faulty, fault = tmp_path / "faulty.sh", FULL[what]
    faulty.write_text(_FAULTY)
    faulty.chmod(0o755)
    variables = fault.environment(library, {}).items()
    env = Path(f"{faulty}.env")
    env.write_text("".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables))
    run = make_run(before=str(faulty), isr={"environment": {"A": "1"}})
    run.submit().complained("1 of 2 jobs succeeded", "parsl/payload", os.strerror(fault.error))
    assert not SubmitPaths(run.path).payload.exists()
    said = f"{errno.errorcode[fault.error]}: {what.partition(',')[0]}"
    matrix.check(said, run.bench, path=run.path, tries=0)
    env.unlink()
    run.restart()
    run.assert_all_done()
    matrix.check(said, run.bench, path=run.path)


@pytest.mark.parametrize("number", [4, 5, 6, 7])
def test_disk_full_for_the_driver(
    make_run: Callable[..., BatchRun],
    matrix: Matrix,
    library: Path,  # noqa: F811
    number: int,
) -> None:
    """The disk is full when the driver takes note of the jobs, just before or just after: the run ends with
    the file's name; with space, a restart does the rest.
    """
    run = make_run()
    run.hold_in(BUILDING).kill()
    run.let_go()
    # Session, two jobs begin and succeed, the others are there, the next one begins ...
    journal = "*/parsl/journal/driver.jsonl"
    fault = Fault(journal, "write", number, errno.ENOSPC, short=True, process="*bps restart*")
    env = fault.environment(library, run.bench.env)
    ended = run.bench.run("bps", "restart", "--id", run.path, env=env, timeout=240)
    ended.complained("driver.jsonl", "space")
    matrix.check("ENOSPC: journal when the jobs are added", run.bench, path=run.path, tries=0)
    run.restart()
    run.assert_all_done()
    matrix.check("ENOSPC: journal when the jobs are added", run.bench, path=run.path)


def cut(path: Path) -> None:
    """Have a file lose its second half."""
    os.truncate(path, path.stat().st_size // 2)


def test_cut_before_added(make_run: Callable[..., BatchRun], matrix: Matrix) -> None:
    """What the job has written loses its end: it is not added, which is said; a restart writes it again."""
    run = make_run(prepare={"numberOfRetries": 0})
    driver = run.hold_in(WRITTEN)
    (part,) = SubmitPaths(run.path).directory.glob("payload-*.jsonl")
    cut(part)
    run.let_go()
    ended = driver.finish(240).complained("1 of 2 jobs succeeded", part.name, "is damaged")
    assert ended.code == 1
    assert not SubmitPaths(run.path).payload.exists()
    matrix.check("payload is cut before it is added", run.bench, path=run.path, tries=0)
    run.restart()
    run.assert_all_done()
    matrix.check("payload is cut before it is added", run.bench, path=run.path)


def check_restored(run: BatchRun, matrix: Matrix, fault: str, content: bytes) -> None:
    """See that a run goes on when its payload, which has been kept as it was, is whole again."""
    payload = SubmitPaths(run.path).payload
    damaged = content[: len(content) // 2]
    run.bench.bps("restart", "--id", run.path).complained(f"{payload} is damaged")
    assert payload.read_bytes() == damaged
    assert not leftovers(run.bench, run.path)
    payload.write_bytes(content)
    run.restart()
    run.assert_all_done()
    matrix.check(fault, run.bench, path=run.path)


def test_cut_after_added(make_run: Callable[..., BatchRun], matrix: Matrix) -> None:
    """What was added loses its end before the driver reads it: the driver says which file is damaged, and so
    does a restart; the report has the two jobs that ran. With the file restored, the run goes on.
    """
    run = make_run()
    driver = run.hold_in(ADDED)
    payload = SubmitPaths(run.path).payload
    content = payload.read_bytes()
    cut(payload)
    run.let_go()
    assert driver.finish(240).complained(f"{payload} is damaged").code == 1
    shown = run.bench.bps("report", "--id", run.path).succeeded()
    assert report_counts(shown.stdout, "TOTAL") == {"SUCCEEDED": 2, "EXPECTED": 2}
    check_restored(run, matrix, "payload is cut when it was added", content)


def test_cut_when_known(make_run: Callable[..., BatchRun], matrix: Matrix) -> None:
    """What was added loses its end among the jobs, with the driver: each command says which file is damaged.
    With the file restored, the run goes on.
    """
    run = make_run()
    run.hold_in(AMONG).kill()
    run.bench.assert_nothing_runs()
    run.let_go()
    payload = SubmitPaths(run.path).payload
    content = payload.read_bytes()
    cut(payload)
    for verb in ("report", "cancel"):
        assert run.bench.bps(verb, "--id", run.path).complained(f"{payload} is damaged").code == 1
    check_restored(run, matrix, "payload is cut when its jobs run", content)
