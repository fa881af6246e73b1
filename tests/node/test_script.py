# SPDX-License-Identifier: BSD-3-Clause
"""What bash runs for a job: its command, and what goes before and after it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lsst.ctrl.bps import BpsConfig, GenericWorkflowExec
from lsst.ctrl.bps.parsl.errors import WorkflowError
from lsst.ctrl.bps.parsl.node.script import around, bash_code
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.command import Command
from lsst.ctrl.bps.parsl.plan.execution_butler import ButlerCopy
from lsst.ctrl.bps.parsl.prepare.staging import stage_executables


def run(code: str, *arguments: str) -> tuple[int, list[str]]:
    """Run bash code; return its exit code and what it printed."""
    done = subprocess.run(
        ["/bin/bash", "-c", code, "bash", *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("pre", "code", "post", "status", "printed"),
    [
        ("echo a", "echo b", "echo c", 0, ["a", "b", "c"]),
        ("export X=5", 'echo "$X"', 'echo "$X $BPS_PARSL_EXIT"', 0, ["5", "5 0"]),
        ("", "exit 3", "echo after $BPS_PARSL_EXIT", 3, ["after 3"]),
        ("", "exit 3", "exit 4", 3, []),
        ("", "echo b", "exit 4", 4, ["b"]),
        ("exit 6", "echo b", "echo after $BPS_PARSL_EXIT", 6, ["after 6"]),
        ("false", "echo b", "echo c", 1, ["c"]),
        ("if true", "echo b", "echo c", 1, ["c"]),
        ("echo a", "echo b", "if true", 1, ["a", "b"]),
        ("", "echo (", "echo c", 1, ["c"]),
        ("", "kill -9 $BASHPID", "echo after $BPS_PARSL_EXIT", 137, ["after 137"]),
        ("set -e", "false; echo b", "false; echo c", 1, ["c"]),
        ("exec 2>&1", "echo b", "", 0, ["b"]),
        ("echo 'a\nb'  # c", "echo 'it'\"'\"'s'", "cat <<X\nd\nX", 0, ["a", "b", "it's", "d"]),
    ],
)
def test_around(pre: str, code: str, post: str, status: int, printed: list[str]) -> None:
    """Before, command, after: the exit code is that of the first that fails,
    what comes after runs in any case, and a syntax error stays where it is.
    """
    found, lines = run(around(code, pre, post))
    assert lines == printed
    assert found == status or (status == 1 and found in (1, 2))


def test_code_for_words() -> None:
    """Words to execute are bash's arguments; they stay as they are, and none is seen by the prefix."""
    nasty = ["a b", "*", "$HOME", "it's", "", "-n"]
    code = bash_code({"argv": [], "pre": "echo before", "post": "echo after"}, "echo prefix $#")
    assert code is not None
    assert run(code, "printf", "<%s>\n", *nasty) == (
        0,
        ["prefix 0", "before", *(f"<{word}>" for word in nasty), "after"],
    )
    assert bash_code({"argv": ["x"]}, "") is None


def butler_copy(directory: Path, line: str) -> ButlerCopy | None:
    config = BpsConfig({"executionButlerDir": str(directory)})
    return ButlerCopy.for_job(config, "job", Command(line, line.split()))


def test_copy_of_the_execution_butler(tmp_path: Path) -> None:
    """A command works on a copy, which is made before and removed after;
    another directory whose name begins the same is left alone.
    """
    directory = tmp_path / "EXEC REPO"
    directory.mkdir()
    (directory / "file").write_text("original\n")
    line = f"{directory}/butler.yaml {directory}-old {directory}2 {directory}.bak {directory}"
    copy = butler_copy(directory, line)
    assert copy is not None
    assert copy.text(line) == (
        f"{copy.path}/butler.yaml {directory}-old {directory}2 {directory}.bak {copy.path}"
    )
    inside = copy.text(f"cat '{directory}/file' && echo changed >'{directory}/file' && exit 5")
    (tmp_path / "EXEC REPO-job").mkdir()
    assert run(around(inside, copy.before, copy.after)) == (5, ["original"])
    assert (directory / "file").read_text() == "original\n"
    assert [path.name for path in tmp_path.iterdir()] == ["EXEC REPO"]
    assert butler_copy(directory, "/elsewhere/butler.yaml") is None
    assert butler_copy(tmp_path / "missing", f"{tmp_path}/missing") is None


def test_executables_of_one_name(tmp_path: Path) -> None:
    """Two executables of one name would be one file: an error names both."""
    paths = SubmitPaths(tmp_path / "run")
    paths.create()
    executables = []
    for name in ("one", "two"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        executables.append(GenericWorkflowExec("tool", str(tmp_path / name), True))
    with pytest.raises(WorkflowError, match=f"{tmp_path}/one and {tmp_path}/two"):
        stage_executables(executables, paths)
    assert stage_executables([executables[0]] * 2, paths) == {
        str(tmp_path / "one"): str(paths.executables / "tool")
    }
