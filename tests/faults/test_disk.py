# SPDX-License-Identifier: BSD-3-Clause
"""Disks that are full, broken, slow or gone: a sentence names the file, and nothing is done twice."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.engines import ENGINES, LOCAL, Bench, Engine
from end_to_end.support import Finished, Sandbox, Step
from lsst.ctrl.bps.parsl.paths import SubmitPaths

from .engines import BY_NAME
from .faulty import Fault, finish, layers, library  # noqa: F401  # fixture
from .matrix import Matrix

HTEX = ENGINES[1]
ENOSPC, EDQUOT, EIO = errno.ENOSPC, errno.EDQUOT, errno.EIO
JOURNAL = "*/parsl/journal/driver.jsonl"
NODES = "*/parsl/journal/node-*.jsonl"

DRIVER = {
    "journal, 1st write": Fault(JOURNAL, "write", 1, ENOSPC),
    "journal, 1st write, cut": Fault(JOURNAL, "write", 1, ENOSPC, short=True),
    "journal, 2nd write": Fault(JOURNAL, "write", 2, EDQUOT),
    "journal, 3rd write": Fault(JOURNAL, "write", 3, EIO),
    "journal, 4th write, cut": Fault(JOURNAL, "write", 4, ENOSPC, short=True),
    "journal, 5th write": Fault(JOURNAL, "write", 5, EDQUOT),
    "journal, 7th write, cut": Fault(JOURNAL, "write", 7, EDQUOT, short=True),
    "journal, opened": Fault(JOURNAL, "open", 1, EIO),
    "lock, opened": Fault("*/driver.lock", "open", 1, ENOSPC),
    "lock, written": Fault("*/driver.lock", "pwrite", 1, ENOSPC),
    "plan, read": Fault("*/plan.jsonl", "open", 1, EIO),
    "configuration, read": Fault("*/parsl/config.yaml", "open", 1, EIO),
    "environment, read": Fault("*/parsl/environment.json", "open", 1, EIO),
    "logs of jobs, opened": Fault("*/logs/*.stdout", "open", 1, ENOSPC),
    "directories of logs": Fault("*/logs/*", "mkdir", 1, EDQUOT),
}
"""Of a driver that has threads."""


def drive(bench: Bench, fault: Fault, built: Path, timeout: float = 300.0) -> Finished:
    """Run a driver for which something goes wrong."""
    env = fault.environment(built, bench.env)
    return bench.run("bps", "restart", "--id", bench.id, env=env, timeout=timeout)


def named(fault: Fault) -> str:
    """Return what a sentence about it has to say at least."""
    parts = fault.paths.strip("*").split("*")
    return parts[0]


@pytest.mark.parametrize("what", DRIVER)
def test_driver(make_bench: Callable[[Engine], Bench], matrix: Matrix, library: Path, what: str) -> None:  # noqa: F811
    """A file cannot be written or read: the command fails with a sentence that names it, its
    jobs end; when it can be, a restart does the rest.
    """
    bench = make_bench(LOCAL)
    bench.prepare(layers(3))
    fault = DRIVER[what]
    drive(bench, fault, library).complained(named(fault))
    bench.assert_nothing_runs()
    finish(bench)
    matrix.check(f"{errno.errorcode[fault.error]}: {what.partition(',')[0]}", bench)


@pytest.mark.slow
@pytest.mark.quick
@pytest.mark.parametrize("name", ["threads", "htex"])
def test_full_journal_while_jobs_run(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
    name: str,
) -> None:
    """The disk is full while a job runs: it is ended with the driver, and runs again later; what
    has succeeded does not.
    """
    bench = make_bench(BY_NAME[name])
    bench.prepare([Step("a"), Step("b", ["a"]), Step("long"), Step("c", ["long", "b"])])
    bench.hold("long")
    # Session, two or three jobs begin, the first succeeds ...
    fault = Fault(JOURNAL, "write", 5, ENOSPC, short=True)
    drive(bench, fault, library).complained("driver.jsonl", "space")
    bench.assert_nothing_runs()
    bench.let_go("long")
    finish(bench)
    assert bench.steps("end").count("long") == 1
    matrix.check("ENOSPC: journal", bench)


RECORDS = {
    "opened": Fault(NODES, "open", 1, ENOSPC),
    "1st write": Fault(NODES, "write", 1, ENOSPC),
    "1st write, cut": Fault(NODES, "write", 1, ENOSPC, short=True),
    "2nd write": Fault(NODES, "write", 2, EDQUOT),
    "2nd write, cut": Fault(NODES, "write", 2, ENOSPC, short=True),
    "2nd write, cut, then there is space": Fault(NODES, "write", 2, ENOSPC, last=2, short=True),
    "5th write": Fault(NODES, "write", 5, EIO),
}


@pytest.mark.parametrize("name", ["threads", "htex"])
@pytest.mark.parametrize("what", RECORDS)
def test_records_of_nodes(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
    what: str,
    name: str,
) -> None:
    """A node cannot write its records: it writes them when it can, or that is said with the file's
    name; no job is lost or runs twice, and the run ends or can be resumed.
    """
    bench = make_bench(BY_NAME[name])
    bench.prepare(layers(3))
    fault = RECORDS[what]
    first = drive(bench, fault, library)
    assert first.code == 0 or "parsl/journal/node-" in first.stderr, first
    assert "Traceback" not in first.text, first
    bench.assert_nothing_runs()
    ended = bench.steps("end")
    bench.bps("report", "--id", bench.id).succeeded()
    if first.code:
        finish(bench)
    assert sorted(bench.steps("end")) == sorted(step.name for step in layers(3)), ended
    # What no node could record, only the driver knows.
    matrix.check(f"{errno.errorcode[fault.error]}: records of a node", bench, report=False)


def test_records_cut_in_the_middle(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
) -> None:
    """A node's line is cut by a full disk, and more is written after space was made: the run is
    resumed, and what succeeded does not run again.
    """
    bench = make_bench(LOCAL)
    bench.prepare(layers(3))
    # The driver stops as well, so that the node's records are read.
    both = Fault("*/parsl/journal/*.jsonl", "write", 6, ENOSPC, short=True)
    drive(bench, both, library).complained("parsl/journal/")
    bench.assert_nothing_runs()
    for fault in (replace(both, first=3), replace(both, first=4)):
        drive(bench, fault, library).complained("parsl/journal/")
    finish(bench)
    matrix.check("ENOSPC: journal and records of a node", bench, tries=3)


PREPARED = {
    "plan": Fault("*/parsl/plan.jsonl*", "write", 1, ENOSPC),
    "plan, flushed": Fault("*/parsl/plan.jsonl*", "fsync", 1, EIO),
    "configuration": Fault("*/parsl/config.yaml*", "write", 1, EDQUOT),
    "environment": Fault("*/parsl/environment.json*", "write", 1, ENOSPC),
    "directories": Fault("*/parsl", "mkdir", 1, ENOSPC),
}


@pytest.mark.parametrize("what", PREPARED)
def test_prepare(tiny: Sandbox, matrix: Matrix, library: Path, what: str) -> None:  # noqa: F811
    """What ``bps prepare`` cannot write it names, and leaves no half of it; the next one goes well."""
    tiny.env["TINYCAM_DETECTORS"] = "1"
    yaml = tiny.path / "bps.yaml"
    shutil.copy(Path(tiny.env["TINYCAM_SOURCE"]) / "bps.yaml", yaml)
    fault = PREPARED[what]
    env = fault.environment(library, tiny.env)
    tiny.run("bps", "prepare", yaml, env=env).complained(named(fault).removesuffix("*"))
    assert not list(tiny.path.rglob("*.tmp"))
    for failed in (tiny.path / "submit").rglob("parsl"):
        tiny.bps("report", "--id", failed.parent).complained(str(failed.parent))
    shutil.rmtree(tiny.path / "submit")
    tiny.bps("prepare", yaml).succeeded()
    assert len(list(tiny.path.rglob("plan.jsonl"))) == 1
    matrix.add(f"{errno.errorcode[fault.error]}: {what.partition(',')[0]}", "threads")


@pytest.mark.parametrize("call", ["write", "open"])
def test_registry(tiny: Sandbox, matrix: Matrix, library: Path, call: str) -> None:  # noqa: F811
    """A list of runs that cannot be written costs a warning that names it, not the run."""
    tiny.env["TINYCAM_DETECTORS"] = "1"
    yaml = tiny.path / "bps.yaml"
    shutil.copy(Path(tiny.env["TINYCAM_SOURCE"]) / "bps.yaml", yaml)
    env = Fault(f"{tiny.state}*", call, 1, ENOSPC).environment(library, tiny.env)
    said = tiny.run("bps", "prepare", yaml, env=env).succeeded()
    assert str(tiny.state) in said.text
    assert not list(tiny.path.rglob("*.tmp"))
    (plan,) = tiny.path.rglob("plan.jsonl")
    tiny.bps("report", "--id", plan.parents[1]).succeeded()
    matrix.add("ENOSPC: registry", "threads")


@pytest.mark.parametrize("name", ["threads", "htex"])
def test_submit_directory_is_removed(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str
) -> None:
    """The run directory goes away under a driver: it ends its jobs and says what is gone."""
    bench = make_bench(BY_NAME[name])
    bench.prepare([Step("a"), Step("b", ["a"]), Step("c", ["b"])])
    bench.hold("a")
    driver = bench.fork("restart", "--id", bench.id)
    bench.await_step(driver, "a")
    shutil.rmtree(bench.submit_path)
    bench.let_go("a")
    driver.finish().complained(str(bench.submit_path))
    bench.assert_nothing_runs()
    bench.bps("restart", "--id", bench.id).complained(bench.id)
    matrix.add("run directory removed", name)


@pytest.mark.parametrize("limit", [16, 32, 64])
@pytest.mark.parametrize("name", ["threads", "htex"])
def test_few_file_descriptors(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str, limit: int
) -> None:
    """With so few file descriptors a run succeeds, or says it in a sentence and can be resumed."""
    bench = make_bench(BY_NAME[name])
    bench.prepare(layers(3))
    command = f"ulimit -n {limit}; exec bps restart --id {bench.id}"
    first = bench.run("bash", "-c", command, timeout=120)
    assert "Traceback" not in first.text, first
    bench.assert_nothing_runs()
    if first.code:
        first.complained("open files")
        finish(bench)
    matrix.check("few file descriptors", bench)


@pytest.mark.long
@pytest.mark.parametrize("name", ["threads", "htex"])
def test_slow_file_system(
    make_bench: Callable[[Engine], Bench],
    matrix: Matrix,
    library: Path,  # noqa: F811
    name: str,
) -> None:
    """On a file system that takes seconds for each call a run succeeds, all the time alive for
    others, and no job runs twice.
    """
    bench = make_bench(BY_NAME[name])
    bench.prepare([Step("a"), Step("b", ["a"])])
    bench.hold("b")
    fault = Fault(f"{bench.submit_path}/*", "write pwrite open fsync ftruncate rename mkdir", delay=1.0)
    env = fault.environment(library, bench.env)
    driver = bench.start("bps", "restart", "--id", bench.id, env=env)
    bench.await_step(driver, "b")
    bench.bps("restart", "--id", bench.id).complained("still being driven")
    assert "RUNNING" in bench.bps("report", "--id", bench.id).succeeded().stdout
    bench.let_go("b")
    driver.finish().succeeded()
    matrix.check("file system that answers in seconds", bench)


@pytest.fixture
def small_disk(make_bench: Callable[[Engine], Bench]) -> Iterator[Bench]:
    """A sandbox with submit directories on a small disk."""
    bench = make_bench(LOCAL)
    disk = bench.path / "submit"
    disk.mkdir()
    bench.run("mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk).succeeded()
    yield bench
    bench.run("umount", "--lazy", disk).succeeded()


@pytest.mark.quick
@pytest.mark.as_root
def test_full_disk(small_disk: Bench, matrix: Matrix) -> None:
    """Jobs' output fills the disk: the driver says which file it cannot write; when space is made, a
    restart does the rest and no more.
    """
    bench = small_disk
    fill = "-c 'while echo filled; do :; done 2>/dev/null; ./step.sh filler'"
    filler = Step("filler", ["s1x0"], executable="/bin/bash", arguments=fill)
    below = [Step(f"z{number:02d}", ["filler"]) for number in range(60)]
    bench.prepare([*layers(2), filler, *below])
    bench.bps("restart", "--id", bench.id).complained(str(bench.submit_path), "space")
    bench.assert_nothing_runs()
    (SubmitPaths(bench.submit_path).logs / "step/filler.stdout").unlink()
    bench.bps("restart", "--id", bench.id).succeeded()
    assert len(set(bench.steps("end"))) == 12 + 1 + 60
    # What no node could record, only the driver knows.
    matrix.check("ENOSPC: a small disk", bench, report=False)
