# SPDX-License-Identifier: BSD-3-Clause
"""What a run writes is its owner's alone to write, and its secrets his alone to read."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from cluster.engines import Bench, Engine
from end_to_end.support import TINYCAM, Finished, Running, Sandbox, Step, run_bps
from lsst.ctrl.bps import GenericWorkflowExec
from node.test_listener import OTHER
from support.plans import umask

from .engines import BY_NAME, on_engines
from .matrix import Matrix

PRIVATE = (
    "parsl/config.yaml",
    "parsl/environment.json",
    "parsl/environment.sh",
    "parsl/pilots.jsonl",
    "parsl/workers.password",
    "blocks/*.sh",
    "blocks/*.workers",
    "runinfo/*/*/certificates/**/*",
    "*.env.info.yaml",
)
"""Files that hold an environment or a key, or that a batch system runs."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(*tops: Path) -> list[str]:
    """Return what group or others can write to, in directories and these themselves."""
    found = []
    for path in (path for top in tops for path in (top, *top.rglob("*"))):
        if not path.is_symlink() and mode(path) & 0o022:
            found.append(f"{stat.filemode(path.lstat().st_mode)} {path}")
    return found


def is_closed(path: Path, top: Path) -> bool:
    """Tell whether a directory on the way to a file is closed to group and others."""
    on_the_way = (parent for parent in path.parents if parent.is_relative_to(top))
    return any(not mode(parent) & 0o077 for parent in on_the_way)


def readable(top: Path) -> list[str]:
    """Return which of the private files group or others can read."""
    found = (path for pattern in PRIVATE for path in top.glob(pattern) if not is_closed(path, top))
    return [f"{stat.filemode(path.lstat().st_mode)} {path}" for path in found if mode(path) & 0o077]


@on_engines("threads", "htex", "slurm", "slurm-work-queue")
def test_modes(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """Under umask 000, nothing that a run makes, a failure and a restart among it, can be
    written by anybody else while it goes on or afterwards, and what is private stays so.
    """
    bench = make_bench(BY_NAME[name])
    bench.break_step("b")
    with umask(0):
        bench.prepare([Step("a"), Step("b", ["a"])], site={"environment": True} if name != "htex" else {})
        # That is what BPS writes by itself when we are done: see the test of the whole command.
        (bench.submit_path / f"{bench.id}_config.yaml").unlink()
        bench.hold("a")
        driver = bench.drive("restart", "--id", bench.id)
        bench.await_step(driver, "a")
        found = open_to_others(bench.submit_path, bench.state)
        bench.let_go("a")
        driver.finish().complained()
        bench.mend_step("b")
        bench.drive("restart", "--id", bench.id).finish().succeeded()
    found += open_to_others(bench.submit_path, bench.state)
    assert sorted(set(found)) == []
    assert readable(bench.submit_path) == []
    assert mode(bench.state) == 0o700
    assert [mode(path) for path in bench.state.iterdir()] == [0o600]
    matrix.check("umask 000", bench)


@pytest.mark.quick
def test_modes_of_the_whole_command(tiny: Sandbox) -> None:
    """What ``bps prepare`` leaves under umask 000 in the submit directory, BPS's own files
    among it, is nobody else's to write.
    """
    with umask(0):
        done = tiny.bps("prepare", TINYCAM / "bps.yaml").succeeded()
    (plan,) = (tiny.path / "submit").rglob("parsl/plan.jsonl")
    top = plan.parents[1]
    assert any(path.name.endswith("_config.yaml") for path in top.iterdir()), done
    assert open_to_others(top) == []
    assert readable(top) == []


# What somebody else put there.

HOST_JOURNAL = f"parsl/journal/node-{os.uname().nodename}-0.jsonl"
FILES = (
    "parsl/plan.jsonl",
    "parsl/config.yaml",
    "parsl/environment.json",
    "parsl/environment.sh",
    "parsl/bin/tool",
)
"""What prepare writes."""

LATER = (
    "parsl/driver.lock",
    "parsl/journal/driver.jsonl",
    HOST_JOURNAL,
    "parsl/cancel",
    "parsl/pilots.jsonl",
    "logs/step/a.stdout",
    "logs/step/a.stderr",
    "runinfo/parsl.log",
)
"""What is written when it runs."""


class Planted:
    """A link in the place of a file, and where it leads to."""

    def __init__(self, box: Sandbox, path: Path, dangling: bool) -> None:
        self.path, self.dangling = path, dangling
        aside = box.path / "aside"
        aside.mkdir()
        self.target = aside / "target"
        if not dangling:
            self.target.write_bytes(b"theirs\n")
            os.chown(self.target, OTHER, OTHER)
            self.target.chmod(0o666)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(self.target)

    def check(self, *attempts: Finished) -> None:
        """Check that nothing was written through the link, and that a failure names it."""
        for done in attempts:
            if done.code:
                done.complained(self.path.name)
        if self.dangling:
            assert not self.target.exists(), f"written through {self.path}"
        else:
            assert self.target.read_bytes() == b"theirs\n", f"written through {self.path}"
            assert (self.target.stat().st_uid, mode(self.target)) == (OTHER, 0o666)


DANGLING = pytest.mark.parametrize("dangling", [True, False], ids=["to nowhere", "to another user's"])


@pytest.mark.some(4)
@pytest.mark.as_root
@pytest.mark.quick
@pytest.mark.parametrize("file", LATER)
@DANGLING
def test_link_in_place_of_what_a_run_writes(box: Sandbox, matrix: Matrix, file: str, dangling: bool) -> None:
    """A link somebody planted where the run writes is not followed: the run goes on without
    it, or ends with a sentence that names it.
    """
    box.prepare([Step("a"), Step("b", ["a"])])
    planted = Planted(box, box.submit_path / file, dangling)
    first = box.bps("restart", "--id", "run")
    planted.check(first, box.bps("report", "--id", "run"))
    if planted.path.is_symlink():
        planted.path.unlink()
    if first.code:
        box.bps("restart", "--id", "run").succeeded()
    matrix.check("link in place of a file of the run", box)


@pytest.mark.as_root
@pytest.mark.quick
@pytest.mark.parametrize("file", FILES)
@DANGLING
def test_link_in_place_of_what_prepare_writes(
    box: Sandbox, matrix: Matrix, file: str, dangling: bool
) -> None:
    """Prepare replaces such a link; it does not write through it."""
    planted = Planted(box, box.submit_path / file, dangling)
    workflow = box.generic([Step("a"), Step("b", ["a"])])
    (box.path / "tool").write_bytes(box.step.read_bytes())
    (box.path / "tool").chmod(0o755)
    workflow.get_job("a").executable = GenericWorkflowExec("tool", str(box.path / "tool"), True)
    box.prepare(workflow)
    assert not planted.path.is_symlink()
    planted.check()
    matrix.add("link in place of a file of prepare", "threads")


@pytest.mark.as_root
@pytest.mark.quick
@pytest.mark.parametrize("kind", ["directory", "link"])
@pytest.mark.parametrize("name", ["parsl", "parsl/journal", "logs"])
def test_directory_that_is_another_users(box: Sandbox, matrix: Matrix, name: str, kind: str) -> None:
    """Where another user was faster in a submit directory that was open to him, a directory of
    his is not used: he could replace what is in it, such as the environment of all jobs.
    """
    theirs = box.path / "theirs"
    path = box.submit_path / name
    path.parent.mkdir(parents=True)
    box.submit_path.chmod(0o777)
    theirs.mkdir(0o777)
    os.chown(theirs, OTHER, OTHER)
    theirs.chmod(0o777)
    theirs.rename(path) if kind == "directory" else path.symlink_to(theirs)
    refused = ""
    try:
        box.prepare([Step("a")])
    except Exception as exc:
        refused = str(exc)
        assert str(path) in refused, "the sentence names it"
    assert refused or (not path.is_symlink() and path.stat().st_uid == os.getuid()), f"{path} is used"
    assert refused or open_to_others(box.submit_path) == []
    matrix.add("directory of another user in the submit directory", "threads")


@pytest.mark.quick
def test_submit_directory_that_is_open(box: Sandbox, matrix: Matrix) -> None:
    """A submit directory that group and others can write to is closed by prepare, with what is in it."""
    box.submit_path.mkdir(parents=True)
    (box.submit_path / "of_bps.yaml").touch()
    for path in (box.submit_path, box.submit_path / "of_bps.yaml"):
        path.chmod(0o777)
    box.prepare([Step("a")])
    assert open_to_others(box.submit_path) == []
    matrix.add("submit directory that others can write to", "threads")


# Pickles.


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


PICKLES = (
    "parsl_workflow.pickle",
    "run.pickle",
    "{run}_generic_workflow.pickle",
    "{run}.qgraph",
    "parsl/plan.pickle",
    "parsl/state.pkl",
    "runinfo/000/checkpoint/tasks.pkl",
    "runinfo/000/htex/log_config/log_config.pkl",
    "logs/step/a.pickle",
)
"""Names that BPS, Parsl and plugins before this one have for pickles."""

INSTEAD = ("parsl/plan.jsonl", "parsl/config.yaml", "parsl/environment.json", "parsl/driver.lock")


@pytest.mark.some(2)
@pytest.mark.quick
@pytest.mark.parametrize("file", ["beside", *INSTEAD, "parsl/journal/driver.jsonl", "parsl/pilots.jsonl"])
def test_pickle_is_never_loaded(box: Sandbox, matrix: Matrix, file: str) -> None:
    """Pickles that somebody put beside the files of a run, or in place of one, are loaded by no command."""
    box.prepare([Step("a")])
    canary = box.path / "canary"
    content = pickle.dumps(_Canary(canary), protocol=0)
    names = [name.format(run="run") for name in PICKLES] if file == "beside" else [file]
    for name in names:
        path = box.submit_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + b"\n")
    for verb in ("report", "status", "restart", "cancel"):
        done = box.bps(verb, "--id", box.submit_path)
        assert "Traceback" not in done.text, done
    assert not canary.exists()
    pickle.loads(content)
    assert canary.exists(), "it would have been seen"
    matrix.add("planted pickle", "threads")


@pytest.mark.quick
@pytest.mark.parametrize("name", ["config.yaml"])
def test_configuration_makes_no_objects(box: Sandbox, name: str) -> None:
    """YAML that makes objects of Python's is refused with the name of the file."""
    box.prepare([Step("a")])
    canary = box.path / "canary"
    (box.submit_path / "parsl" / name).write_text(f'x: !!python/object/apply:os.mkdir ["{canary}"]\n')
    box.bps("restart", "--id", "run").complained(f"parsl/{name}", "damaged")
    assert not canary.exists()
    yaml.unsafe_load((box.submit_path / "parsl" / name).read_text())
    assert canary.exists(), "it would have been seen"


# Two accounts.


@pytest.fixture
def open_box() -> Iterator[Sandbox]:
    """A sandbox that another account can reach."""
    top = Path(tempfile.mkdtemp(prefix="open"))
    top.chmod(0o755)
    box = Sandbox(top / "box")
    try:
        yield box
        box.assert_nothing_runs()
    finally:
        box.close()
        shutil.rmtree(top)


def as_other(box: Sandbox, *words: str | Path) -> Finished:
    """Run ``bps`` as another account, with a home directory and a list of runs of its own."""
    home = box.path / "other"
    if not home.exists():
        home.mkdir(0o700)
        os.chown(home, OTHER, OTHER)
    env = {**box.env, "HOME": str(home), "TMPDIR": str(home), "BPS_PARSL_STATE_DIR": str(home / "state")}

    def action() -> int:
        # All is imported before: the other account may not be able to read the interpreter's files.
        run_bps([str(words[0]), "--id", "nothing"])
        import_module("lsst.ctrl.bps.parsl.driver.session")
        os.setgroups([])
        os.setgid(OTHER)
        os.setuid(OTHER)
        return run_bps([str(word) for word in words])

    running = Running(
        ["bps", *map(str, words)], box.path / "out" / f"other{len(list(home.parent.iterdir()))}"
    )
    running.fork(action, env, box.path)
    return running.finish()


def contents(top: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.mark.as_root
@pytest.mark.quick
def test_run_of_somebody_else(open_box: Sandbox, matrix: Matrix) -> None:
    """Another account can look at a run by its submit path; what it cannot do is said in a
    sentence, without what is private, and nothing of the run is changed.
    """
    open_box.env["CANARY"] = "canary-of-the-owner"
    open_box.prepare([Step("a")])
    before = contents(open_box.submit_path)
    shown = as_other(open_box, "report", "--id", open_box.submit_path).succeeded()
    attempts = [as_other(open_box, verb, "--id", open_box.submit_path) for verb in ("restart", "cancel")]
    for done in attempts:
        done.complained("Cannot ", "Permission denied", str(open_box.submit_path / "parsl"))
    assert not any("canary" in done.text for done in (shown, *attempts))
    assert contents(open_box.submit_path) == before
    open_box.bps("restart", "--id", "run").succeeded()
    matrix.check("another account's commands on a run", open_box)


@pytest.mark.as_root
@pytest.mark.quick
@pytest.mark.parametrize("file", ["parsl/journal/driver.jsonl", "parsl/driver.lock"])
def test_file_of_another_user(open_box: Sandbox, matrix: Matrix, file: str) -> None:
    """A journal or a lock that is another user's, and cannot be written, is named, and kept as it is."""
    open_box.prepare([Step("a")])
    for path in (open_box.path, *open_box.path.rglob("*")):
        os.chown(path, OTHER, OTHER, follow_symlinks=False)
    path = open_box.submit_path / file
    path.touch(0o644)
    os.chown(path, 0, 0)
    before = path.read_bytes()
    done = as_other(open_box, "restart", "--id", open_box.submit_path)
    done.complained(path.name, "Permission denied")
    assert path.read_bytes() == before
    assert path.stat().st_uid == 0
    matrix.add("journal or lock of another user", "threads")
