# SPDX-License-Identifier: BSD-3-Clause
"""What a report says of a run's blocks: asked of Slurm, from any shell, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsst.ctrl.bps.parsl.batch import queue_text
from lsst.ctrl.bps.parsl.batch.pilot_records import record_pilots
from lsst.ctrl.bps.parsl.batch.queue_text import queue_lines
from lsst.ctrl.bps.parsl.report.view import RunView, run_report
from lsst.ctrl.bps.parsl.run.journal import Journal
from support.plans import make_plan, plan_line

from .test_slurm_queue import Commands

TAG = "bps-parsl:u_me_x:0123456789"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Put Slurm's commands on the PATH."""
    commands = Commands(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands.bin}:/usr/bin:/bin")
    return commands


@pytest.fixture
def pilots(tmp_path: Path) -> Path:
    """A run that asked Slurm for blocks, by two executors and two drivers."""
    path = tmp_path / "pilots.jsonl"
    for _ in range(4):
        record_pilots(path, "slurm", tag=TAG, clusters=None)
    return path


def test_nothing_was_asked(tmp_path: Path, slurm: Commands) -> None:
    """Slurm is not asked about a run without blocks of its, nor about Torque's."""
    path = tmp_path / "pilots.jsonl"
    assert queue_lines(path) == []
    record_pilots(path, "torque", id="7", name="x")
    assert queue_lines(path) == []
    assert slurm.calls("squeue") == []


def test_counts_and_reasons(pilots: Path, slurm: Commands) -> None:
    """The run's own blocks count: those that run, and those that wait with Slurm's reasons, which may hold
    anything; others' jobs and those that have ended do not. Slurm is asked once.
    """
    slurm.jobs(
        f"1|R|None|{TAG}:a",
        f"2|CG|None|{TAG}:b",
        f"3|PD|Priority|{TAG}:c",
        f"4|PD|ReqNodeNotAvail, UnavailableNodes:n[1-2]|{TAG}:d",
        f"5|PD|Priority|{TAG}:e",
        f"6|CF|None|{TAG}:f",
        f"7|CD|None|{TAG}:g",
        f"8|R|None|{TAG}0:h",
        "9|R|None|(null)",
    )
    assert queue_lines(pilots) == [
        "Blocks in Slurm's queue: 2 run, 4 wait "
        "(2 Priority, 1 ReqNodeNotAvail, UnavailableNodes:n[1-2], 1 CF).",
        "Priority: jobs of a higher priority come first.",
        "ReqNodeNotAvail: nodes that it needs are down, or reserved for a maintenance. A shorter walltime "
        "may fit in before.",
        "CF: Slurm or the nodes make ready for it.",
    ]
    assert len(slurm.calls("squeue")) == 1


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ([], "none"),
        (["R|None"], "1 runs"),
        (["PD|Resources"], "1 waits (Resources)"),
        (["PD|Priority", "PD|Priority"], "2 wait (Priority)"),
        (["R|None", "PD|QOSMaxJobsPerUserLimit"], "1 runs, 1 waits (QOSMaxJobsPerUserLimit)"),
    ],
)
def test_words(pilots: Path, slurm: Commands, jobs: list[str], said: str) -> None:
    """The words are those of a sentence, for any number."""
    slurm.jobs(*(f"{number}|{job}|{TAG}:x" for number, job in enumerate(jobs)))
    assert queue_lines(pilots)[0] == f"Blocks in Slurm's queue: {said}."


def test_meanings(pilots: Path, slurm: Commands) -> None:
    """What needs somebody is said with what to type or to change, once for all blocks of a kind."""
    slurm.jobs(
        f"1|PD|JobHeldUser|{TAG}:a",
        f"2|PD|JobHeldUser|{TAG}:b",
        f"3|PD|PartitionTimeLimit|{TAG}:c",
        f"4|PD|SomethingNew|{TAG}:d",
        f"5|R|None|{TAG}:d",
    )
    assert queue_lines(pilots)[1:] == [
        "JobHeldUser: you hold it. Release it with: scontrol release 1 2.",
        "PartitionTimeLimit: such a block never starts: the walltime is longer than the partition allows. "
        "Change walltime or partition.",
        "SomethingNew: see squeue(1) for what that means.",
    ]


def test_clusters(pilots: Path, slurm: Commands) -> None:
    """There is a line, and one call, for each choice of clusters."""
    record_pilots(pilots, "slurm", tag=TAG, clusters="a,b")
    slurm.jobs(f"1|R|None|{TAG}:a")
    assert queue_lines(pilots) == [
        "Blocks in Slurm's queue: 1 runs.",
        "Blocks in Slurm's queue (a,b): 1 runs.",
    ]
    assert ["--clusters=a,b" in words for words in slurm.calls("squeue")] == [False, True]


def test_no_slurm_here(pilots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Slurm's commands shows the rest of the report."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert queue_lines(pilots) == [
        "What the blocks in Slurm's queue do is not known: there is no squeue here."
    ]


def test_slurm_does_not_answer(pilots: Path, slurm: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report does not wait for long."""
    slurm.does("squeue", "exec sleep 60")
    monkeypatch.setattr(queue_text, "ANSWER_SECONDS", 0.2)
    (line,) = queue_lines(pilots)
    assert line.startswith("What the blocks in Slurm's queue do is not known: squeue did not answer")


def test_file_that_cannot_be_read(pilots: Path) -> None:
    """What was submitted is for the user's own eyes: others see the rest of the report."""
    pilots.unlink()
    pilots.mkdir()
    (line,) = queue_lines(pilots)
    assert line.startswith("What the blocks do is not known: ")


def test_shells_own_options_of_squeue(pilots: Path, slurm: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile's SQUEUE_PARTITION and the like hide no block."""
    slurm.does("squeue", '[ -z "$SQUEUE_PARTITION$SQUEUE_STATES" ] && cat queue')
    slurm.jobs(f"1|R|None|{TAG}:a")
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    monkeypatch.setenv("SQUEUE_STATES", "PD")
    assert queue_lines(pilots) == ["Blocks in Slurm's queue: 1 runs."]


def test_report_asks_while_there_may_be_blocks(tmp_path: Path, slurm: Commands) -> None:
    """The report of one run has it while the run goes on, and after its driver died, until the run has
    ended; lists of runs do not ask.
    """
    _, paths = make_plan(tmp_path / "run", [plan_line("a")])
    record_pilots(paths.pilots, "slurm", tag=TAG, clusters=None)
    slurm.jobs(f"1|PD|Priority|{TAG}:a")
    said = "Blocks in Slurm's queue: 1 waits (Priority)."
    assert said in str(run_report(RunView(paths), usage=True).specific_info)
    assert len(slurm.calls("squeue")) == 1
    assert "Blocks" not in str(run_report(RunView(paths)).specific_info)
    journal = Journal(paths.driver_journal, "u_me_x")
    journal.append({"e": "session", "t": 1.0, "n": 1, "host": "h", "pid": 1})
    assert said in str(run_report(RunView(paths), usage=True).specific_info)
    assert len(slurm.calls("squeue")) == 2
    journal.append({"e": "finish", "t": 2.0, "state": "FAILED"})
    assert "Blocks" not in str(run_report(RunView(paths), usage=True).specific_info)
    assert len(slurm.calls("squeue")) == 2
    journal.close()
