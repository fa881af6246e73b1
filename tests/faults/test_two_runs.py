# SPDX-License-Identifier: BSD-3-Clause
"""Two runs: in one submit directory, side by side, and of two users."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cluster.engines import Bench, Engine
from end_to_end.support import TINYCAM, Sandbox, Step, wait_until
from lsst.ctrl.bps import WmsStates
from lsst.ctrl.bps.parsl.errors import ParslBpsError
from node.test_listener import OTHER

from .engines import BY_NAME, on_engines
from .matrix import Matrix
from .test_two import FOUR, HERE, begin


def contents(top: Path) -> dict[Path, bytes]:
    """Return all files below a directory."""
    return {path: path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.mark.quick
def test_two_runs_in_one_directory(tiny: Sandbox, matrix: Matrix) -> None:
    """A second run in the submit directory of another one is refused, before and after that one has
    begun, and nothing of the first one is changed; from Python, too.
    """
    tiny.prepare([Step("a"), Step("b", ["a"])])
    submit_path = tiny.submit_path
    text = (TINYCAM / "bps.yaml").read_text() + f"\nsubmitPath: {submit_path}\n"
    (tiny.path / "second.yaml").write_text(text)
    for state in ("prepared", "failed"):
        before = contents(submit_path)
        for verb in ("prepare", "submit"):
            done = tiny.bps(verb, tiny.path / "second.yaml")
            done.complained(f"submitPath: {submit_path} exists", f"bps restart --id {submit_path}")
        with pytest.raises(ParslBpsError, match="exists"):
            tiny.prepare([Step("other")])
        assert contents(submit_path) == before, state
        tiny.break_step("b")
        tiny.bps("restart", "--id", "run").complained("bps restart --id run")
    tiny.mend_step("b")
    tiny.bps("restart", "--id", "run").succeeded()
    assert tiny.steps("end") == ["a", "b"]
    matrix.check("a second run in a submit directory", tiny, tries=6)


def test_two_prepares_at_once(tiny: Sandbox, matrix: Matrix) -> None:
    """Of two runs that are prepared in one submit directory at the same moment, one is refused, and
    the other is whole.
    """
    submit_path = tiny.path / "submit" / "same"
    text = (TINYCAM / "bps.yaml").read_text() + f"\nsubmitPath: {submit_path}\n"
    (tiny.path / "same.yaml").write_text(text)
    made = [tiny.fork("prepare", tiny.path / "same.yaml") for _ in range(2)]
    done = [running.finish() for running in made]
    assert sorted(bool(one.code) for one in done) == [False, True], "\n".join(map(str, done))
    for one in done:
        if one.code:
            one.complained(str(submit_path), "exist")
    tiny.bps("restart", "--id", submit_path).succeeded()
    matrix.check("two runs are prepared in one submit directory at once", tiny, path=submit_path)


@on_engines("threads", "htex")
def test_side_by_side(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """Two runs of one user with the same jobs go on side by side; when one of them is cancelled, or
    its driver is killed and it is resumed, the other does not notice.
    """
    bench = make_bench(BY_NAME[name])
    steps = [Step("first"), *(Step(step, ["first"]) for step in FOUR)]
    runs = [f"{bench.id}-{number}" for number in range(3)]
    for run in runs:
        # Beside each other, they do not share files that say what steps do.
        there = own_script(bench, run)
        bench.prepare([replace(step, executable=str(there)) for step in steps], run)
        (there.parent / "hold").touch()
    drivers = [bench.drive("restart", "--id", run) for run in runs]
    for run in runs:
        wait_until(partial(has_begun, bench, run), f"{run} begins")
    bench.bps("cancel", "--id", runs[0]).succeeded()
    drivers[0].finish().complained("was cancelled")
    drivers[1].kill()
    for run in runs:
        (scripts(bench, run) / "hold").unlink()
    bench.drive("restart", "--id", runs[1]).finish().succeeded()
    drivers[2].finish().succeeded()
    assert Counter(said(bench, runs[2])) == Counter(
        f"{kind} {step.name}" for step in steps for kind in ("begin", "end")
    )
    assert "end first" not in said(bench, runs[0])
    for run in runs:
        assert not [line for line in said(bench, run) if line.startswith("overlap")]
        where = bench.submit_path.with_name(run)
        matrix.check("one of three runs is cancelled, one killed", bench, path=where)


def scripts(bench: Bench, run: str) -> Path:
    """Return where the script of a run is, and what it writes."""
    return bench.path / f"steps-of-{run}"


def own_script(bench: Bench, run: str) -> Path:
    """Give a run a script of its own for its steps."""
    there = scripts(bench, run) / "step.sh"
    there.parent.mkdir()
    there.write_text(bench.step.read_text())
    there.chmod(0o755)
    return there


def has_begun(bench: Bench, run: str) -> bool:
    """Tell whether the first step of a run has begun."""
    return "begin first" in said(bench, run)


def said(bench: Bench, run: str) -> list[str]:
    """Return what the steps of a run wrote of their beginnings and ends."""
    try:
        lines = (scripts(bench, run) / "steps.txt").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line for line in lines if line.startswith(("begin", "end", "overlap"))]


def give_away(box: Sandbox) -> None:
    """Have the whole submit directory be another user's."""
    for path in (box.submit_path, *box.submit_path.rglob("*")):
        os.chown(path, OTHER, OTHER, follow_symlinks=False)


@pytest.mark.as_root
@pytest.mark.quick
@pytest.mark.parametrize("verb", ["restart", "cancel"])
def test_root_and_a_run_of_another_user(box: Sandbox, matrix: Matrix, verb: str) -> None:
    """Root can look at another user's run whose driver died; a restart or a cancel is refused in a
    sentence, with nothing changed, or does all that it should: the run is its owner's as before.
    """
    driver = begin(box, HERE)
    driver.kill()
    box.assert_nothing_runs()
    box.let_go("held")
    give_away(box)
    assert "its driver died" in box.bps("report", "--id", box.submit_path).succeeded().stdout
    before = contents(box.submit_path)
    done = box.bps(verb, "--id", box.submit_path)
    if done.code:
        done.complained(str(box.submit_path))
        assert contents(box.submit_path) == before
    else:
        done.succeeded()
        assert Counter(box.steps("end")) == Counter(["first"] + ["held", "last"] * (verb == "restart"))
        expected = 0 if verb == "restart" else WmsStates.DELETED.value
        assert box.bps("status", "--id", box.submit_path).code == expected
    for path in before:
        assert path.stat().st_uid == OTHER, path
    matrix.check("another user's run, restarted or cancelled by root", box)
