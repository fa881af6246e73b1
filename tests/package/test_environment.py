# SPDX-License-Identifier: BSD-3-Clause
"""The environment of jobs: all of it arrives as it was, but for what is local."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsst.ctrl.bps.parsl.environment import (
    capture_environment,
    export_environment,
    read_environment,
    set_command_directories,
    travels,
    write_environment,
)
from lsst.ctrl.bps.parsl.errors import DamagedFileError, StorageError
from lsst.ctrl.bps.parsl.node.environment import LOCAL_NAMES, LOCAL_PREFIXES, without_shape
from lsst.ctrl.bps.parsl.node.pilot import PILOT_END
from support.plans import umask

names = st.from_regex(r"V_[A-Za-z0-9_]{1,6}", fullmatch=True)
values = st.text(alphabet="ab \n\t'\"$`;&|<>(){}*?!#~\\=é→\udc80", max_size=15)


def environment_of_bash(commands: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    """Run commands in bash and return the environment of what it starts."""
    raw = subprocess.run(
        ["/bin/bash", "-s"],
        input=commands.encode("utf-8", "surrogateescape") + b"\nexec /usr/bin/env -0\n",
        env=environ or {},
        capture_output=True,
        check=True,
    ).stdout
    pairs = (item.partition("=") for item in raw.decode("utf-8", "surrogateescape").split("\0")[:-1])
    return {name: value for name, _, value in pairs}


@pytest.mark.slow
@given(environ=st.dictionaries(names, values, max_size=6))
@example(environ={"NOT_UNICODE": "\udcff"})
def test_exported_values_arrive(environ: dict[str, str]) -> None:
    """Bash that runs the exported text has every variable with its value, whatever is in it."""
    found = environment_of_bash(export_environment(environ))
    assert {name: found.get(name) for name in environ} == environ


def test_exported_functions_arrive(tmp_path: Path) -> None:
    """A function that bash exported (``module`` of a cluster) is one again, with its braces and quotes."""
    define = 'my-f.x() { local a="it\'s $1"; echo "<${a}>"; }; export -f my-f.x'
    exported = environment_of_bash(define)
    assert "BASH_FUNC_my-f.x%%" in exported
    text = export_environment(exported)
    script = f"{text}\nmy-f.x 1\n/bin/bash -c 'my-f.x 2'"
    done = subprocess.run(["/bin/bash", "-c", script], env={}, capture_output=True, text=True, check=True)
    assert done.stdout == "<it's 1>\n<it's 2>\n"


def test_names_that_bash_cannot_have_are_left_out() -> None:
    """A name that is no identifier, or a function that is none, would be an error or worse in bash."""
    environ = {
        "A.B": "1",
        "x y": "1",
        "1A": "1",
        "A\n": "1",
        "$(touch x)": "1",
        "BASH_FUNC_a;b%%": "() { :; }",
        "BASH_FUNC_f%%": "touch x",
        "OK": "1",
    }
    assert export_environment(environ) == "export OK=1"


def test_what_is_local_does_not_travel() -> None:
    """The names of the documented list, and those with its beginnings, are left out; others are not."""
    local = [*LOCAL_NAMES, *(f"{prefix}X" for prefix in LOCAL_PREFIXES)]
    environ = dict.fromkeys((*local, "PATH", "HOME", "LD_LIBRARY_PATH", "SSHX", "MY_PWD"), "x")
    assert sorted(capture_environment(environ)) == ["HOME", "LD_LIBRARY_PATH", "MY_PWD", "PATH", "SSHX"]
    assert not any(travels(name) for name in local)


@pytest.mark.parametrize(
    "name",
    [
        "DISPLAY",
        "SSH_AUTH_SOCK",
        "SSH_CONNECTION",
        "SLURM_JOB_ID",
        "SLURM_MEM_PER_NODE",
        "PBS_NODEFILE",
        "PWD",
    ],
)
def test_names_that_break_jobs_elsewhere_are_local(name: str) -> None:
    """What a login session or a batch job set for itself must not reach the jobs."""
    assert not travels(name)


ALLOCATION = {
    "PATH": "/bin",
    "SLURM_CONF": "x",
    "SLURM_CPUS_ON_NODE": "2",
    "SLURM_JOB_ID": "5",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_MEM_PER_NODE": "3000",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_SUBMIT_DIR": "/x",
    "SLURM_TASKS_PER_NODE": "1(x2)",
    "SLURMD_NODENAME": "n2",
}
WORKERS = {
    "PMIX_RANK": "1",
    "PMI_FD": "9",
    "SLURM_CPUS_PER_TASK": "2",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_CPU_BIND_LIST": "0x1",
    "SLURM_DISTRIBUTION": "cyclic",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_LABELIO": "1",
    "SLURM_NPROCS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_OVERLAP": "1",
    "SLURM_PROCID": "1",
    "SLURM_SRUN_COMM_PORT": "4",
    "SLURM_STEPID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_UMASK": "0022",
    "SRUN_CPUS_PER_TASK": "2",
    "SRUN_DEBUG": "3",
}


@pytest.mark.parametrize("inside", [{PILOT_END: "1"}, {"SLURM_STEP_ID": "0"}], ids=["block", "step"])
def test_jobs_see_the_allocation_and_not_the_workers(inside: dict[str, str]) -> None:
    """What says which job of Slurm's this is, and where, reaches a job of ours; what shapes the workers, and
    what its own srun starts, does not.
    """
    expected = {name: value for name, value in inside.items() if name == PILOT_END}
    assert without_shape({**ALLOCATION, **WORKERS, **inside}) == {**ALLOCATION, **expected}


def test_batch_script_of_a_user_keeps_its_shape() -> None:
    """In an allocation that is the user's own, jobs have all of it."""
    environ = {name: value for name, value in WORKERS.items() if not name.startswith("SLURM_STEP")}
    assert without_shape({**ALLOCATION, **environ}) == {**ALLOCATION, **environ}


def test_own_environment_is_taken_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument it is this process's environment."""
    monkeypatch.setenv("V_OWN", "a b")
    assert capture_environment()["V_OWN"] == "a b"
    assert "export V_OWN='a b'" in export_environment().splitlines()


@given(environ=st.dictionaries(st.text(max_size=5), values, max_size=4), prefix=values)
@example(environ={"NOT_UNICODE": "\udcff"}, prefix="\udcff")
def test_file_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str], prefix: str
) -> None:
    """Environment and prefix come back from the file as they went in."""
    path = tmp_path_factory.getbasetemp() / "environment.json"
    write_environment(path, environ, prefix)
    assert read_environment(path) == (environ, prefix)


def test_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """An environment holds keys: mode 0600 under umask 000, and also where the file existed."""
    path = tmp_path / "environment.json"
    path.touch(0o666)
    with umask(0):
        write_environment(path, {"TOKEN": "x"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["environment.json"]


def test_truncated_file_is_damaged(tmp_path: Path) -> None:
    """A file that ends too early is an error that names it, wherever it ends."""
    path = tmp_path / "environment.json"
    write_environment(path, {"A": "1", "B": "x\ny"}, "echo hello")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedFileError, match=str(path)):
            read_environment(path)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"format": 1},
        {"format": 1, "environment": {}},
        {"format": 1, "environment": 5, "prefix": ""},
        {"format": 1, "environment": {"A": 1}, "prefix": ""},
        {"format": 1, "environment": {}, "prefix": None},
    ],
)
def test_file_with_other_content_is_damaged(tmp_path: Path, content: object) -> None:
    """What is JSON and no environment is an error too, and not a job's surprise."""
    path = tmp_path / "environment.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedFileError, match=str(path)):
        read_environment(path)


def test_unknown_format_says_which(tmp_path: Path) -> None:
    """A file of a later release is not guessed at."""
    path = tmp_path / "environment.json"
    path.write_text(json.dumps({"format": 99, "environment": {}, "prefix": ""}))
    with pytest.raises(DamagedFileError, match="format 99"):
        read_environment(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that cannot be read is an error with its name."""
    with pytest.raises(StorageError, match=r"environment\.json: No such file"):
        read_environment(tmp_path / "environment.json")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install pipetask and butler as pip does, and unset what EUPS sets."""
    for name in ("pipetask", "butler", "bps"):
        path = tmp_path / "prefix" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'prefix' / 'bin'}:/usr/bin")
    for variable in ("CTRL_MPEXEC_DIR", "DAF_BUTLER_DIR"):
        monkeypatch.setenv(variable, "")  # So that the test's end takes back what is set.
        monkeypatch.delenv(variable)
    return tmp_path / "prefix"


def test_directories_of_commands_are_filled_in_and_said_once(
    commands: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a pip installation BPS's default commands are found, and one line says where."""
    with caplog.at_level(logging.INFO):
        set_command_directories()
        set_command_directories()
    assert os.environ["CTRL_MPEXEC_DIR"] == os.environ["DAF_BUTLER_DIR"] == str(commands)
    (record,) = caplog.records
    assert f"CTRL_MPEXEC_DIR={commands}" in record.getMessage()


def test_directories_that_are_set_are_kept(
    commands: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """EUPS knows better."""
    monkeypatch.setenv("CTRL_MPEXEC_DIR", "/eups/mpexec")
    monkeypatch.setenv("DAF_BUTLER_DIR", "/eups/butler")
    with caplog.at_level(logging.INFO):
        set_command_directories()
    assert os.environ["CTRL_MPEXEC_DIR"] == "/eups/mpexec"
    assert os.environ["DAF_BUTLER_DIR"] == "/eups/butler"
    assert caplog.records == []


def test_commands_beside_the_interpreter_come_last(
    commands: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a command is not on the PATH, those beside the interpreter are found after all that is."""
    for path in ("", "/usr/bin", f"{commands.parent}/empty:/usr/bin"):
        monkeypatch.setattr(sys, "prefix", str(commands))
        monkeypatch.setenv("PATH", path)
        for variable in ("CTRL_MPEXEC_DIR", "DAF_BUTLER_DIR"):
            monkeypatch.delenv(variable, raising=False)
        with caplog.at_level(logging.INFO):
            set_command_directories()
            set_command_directories()
        assert os.environ["PATH"] == f"{path or os.defpath}:{commands}/bin"
        assert os.environ["CTRL_MPEXEC_DIR"] == str(commands)
    said = [record.getMessage() for record in caplog.records if "PATH" in record.getMessage()]
    assert said == [f"Not all of BPS's commands are on the PATH; added: {commands}/bin"] * 3


def test_commands_on_the_path_change_nothing(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all are on the PATH, it stays as it is; so it does where there are none to add."""
    monkeypatch.setattr(sys, "prefix", str(commands.parent / "other"))
    path = os.environ["PATH"]
    set_command_directories()
    assert os.environ["PATH"] == path
    monkeypatch.setenv("PATH", "/usr/bin")
    set_command_directories()
    assert os.environ["PATH"] == "/usr/bin"


def test_commands_that_are_not_in_a_bin_directory_set_nothing(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``${CTRL_MPEXEC_DIR}/bin/pipetask`` must be the command that was found."""
    (commands / "bin").rename(commands / "scripts")
    monkeypatch.setenv("PATH", f"{commands / 'scripts'}")
    set_command_directories()
    assert os.environ.get("CTRL_MPEXEC_DIR") != str(commands)
