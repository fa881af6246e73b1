# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's pending reasons and answers: each has its row, and what is not known is waited for."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from lsst.ctrl.bps.parsl.batch.pending import PENDING, UNKNOWN, Wait, pending
from lsst.ctrl.bps.parsl.batch.refusals import ANSWERS, answer_to

DOCUMENTATION = Path(__file__).parents[2] / "doc/troubleshooting.rst"

NEVER = """
PartitionTimeLimit PartitionNodeLimit BadConstraints DependencyNeverSatisfied ReservationDeleted
InvalidAccount InvalidQOS AccountNotAllowed QOSNotAllowed MaxMemPerLimit QOSMaxWallDurationPerJobLimit
QOSMaxNodePerJobLimit QOSMaxCpuPerJobLimit QOSMaxCpuPerNode QOSMaxMemoryPerJob QOSMaxMemoryPerNode
QOSMaxGRESPerJob QOSMaxCpuMinutesPerJobLimit QOSMaxMemoryMinutesPerJob AssocMaxWallDurationPerJobLimit
AssocMaxNodePerJobLimit AssocMaxCpuPerJobLimit AssocMaxCpuMinutesPerJobLimit AssocMaxMemPerJob
AssocMaxGRESPerNode AssocMaxBBPerJob QOSMinCpuNotSatisfied QOSMinMemory QOSMinNode QOSMinGRES
"""
SOMEBODY = """
PartitionDown PartitionInactive JobHeldUser JobHeldAdmin JobHoldMaxRequeue AssocGrpCPUMinutesLimit
AssocGrpGRESMinutes QOSGrpCPUMinutesLimit QOSGrpBillingMinutes AssocGrpWallLimit QOSUsageThreshold
"""
PASSES = """
Priority Resources Dependency BeginTime Licenses ReqNodeNotAvail Reservation NodeDown Cleaning
JobArrayTaskLimit QOSMaxJobsPerUserLimit QOSMaxCpuPerUserLimit QOSMaxMemoryPerUser
QOSMaxSubmitJobPerUserLimit MaxCpuPerAccount AssocGrpCpuLimit AssocGrpMemLimit AssocGrpJobsLimit
AssocGrpCPURunMinutesLimit QOSGrpCpuLimit QOSGrpJobsLimit QOSGrpCPURunMinutesLimit AssocMaxJobsLimit
AssocMaxSubmitJobLimit AssociationJobLimit QOSJobLimit PartitionConfig BurstBufferStageIn PowerNotAvail
Prolog SchedDefer FedJobLock FrontEndDown None PD CF
"""
"""Reasons of Slurm 22.05 by what may be done about them."""


@pytest.mark.parametrize(
    ("reason", "wait"),
    [
        (reason, wait)
        for wait, reasons in ((Wait.NEVER, NEVER), (Wait.SOMEBODY, SOMEBODY), (Wait.PASSES, PASSES))
        for reason in reasons.split()
    ],
)
def test_reason(reason: str, wait: Wait) -> None:
    """A run ends where nobody can wait a reason out, and says what to change; it waits for all else."""
    row = pending(reason)
    assert row.wait is wait
    assert row is not UNKNOWN
    assert row.change or wait is Wait.PASSES
    assert row.change.startswith("Change ") or wait is not Wait.NEVER


@pytest.mark.parametrize(
    ("reason", "known"),
    [
        ("(Resources)", "Resources"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", "ReqNodeNotAvail"),
        ("ReqNodeNotAvail,_Reserved_for_maintenance", "ReqNodeNotAvail"),
        ("Nodes required for job are DOWN, DRAINED or reserved", "ReqNodeNotAvail"),
        ("(Nodes_required_for_job_are_DOWN,_DRAINED)", "ReqNodeNotAvail"),
        ("Dependency never satisfied", "DependencyNeverSatisfied"),
        ("launch failed requeued held", "JobHoldMaxRequeue"),
        ("job requeued in held state", "JobHoldMaxRequeue"),
        ("job_requeued_in_held_state", "JobHoldMaxRequeue"),
    ],
)
def test_spelling(reason: str, known: str) -> None:
    """What releases and plugins put around a reason, or in place of its blanks, changes nothing."""
    assert pending(reason) is pending(known)


@pytest.mark.parametrize("reason", ["SomethingNew", "", "N/A", "*", "[x"])
def test_reason_that_nobody_knows(reason: str) -> None:
    """What a later Slurm says is shown, and waited for."""
    assert pending(reason) is UNKNOWN
    assert pending(reason).wait is Wait.PASSES


def test_no_row_hides_another() -> None:
    """Each reason that is written out in the table is found in its own row."""
    for row in PENDING:
        for reason in row.reasons.split():
            assert pending(reason.replace("*", "x")) is row, reason
    for first, second in combinations(PENDING, 2):
        assert not set(first.reasons.split()) & set(second.reasons.split())


def test_numbers_of_jobs() -> None:
    """What is to be typed has the numbers of the jobs."""
    assert pending("JobHeldUser").text(["7", "8"]).endswith("scontrol release 7 8")


def test_documentation_has_the_table() -> None:
    """The documentation's table is this one, row by row."""
    section = DOCUMENTATION.read_text().partition("\nBlocks that wait\n")[2].partition("\nA block that ")[0]
    found = [
        [" ".join(cell.split()) for cell in re.split(r"\n     -(?: |$)", row.rstrip())]
        for row in re.split(r"\n   \* - ", section)[2:]
    ]
    wanted = []
    for row in (*PENDING, UNKNOWN):
        reasons = ", ".join(f"``{reason}``" for reason in row.reasons.split())
        means = f"{row.words[0].upper()}{row.words[1:]}."
        wanted.append([reasons if row is not UNKNOWN else "any other", means, row.wait.value, row.change])
    assert found == wanted


# What sbatch answers.


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("fatal: --mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive.", ""),
        ("sbatch: fatal: something that a later Slurm says", ""),
        (
            "Batch job submission failed: Invalid account or account/partition combination specified",
            "account",
        ),
        ("Batch job submission failed: Requested node configuration is not available", "cores_per_node"),
        ("QOSMaxWallDurationPerJobLimit sbatch: error: ... Job violates accounting/QOS policy", "walltime"),
        ("AssocMaxNodePerJobLimit sbatch: error: ... Job violates accounting/QOS policy", "nodes"),
    ],
)
def test_final_answer(said: str, change: str) -> None:
    """What will be said again at every try ends the run; the setting to change is said where it is known."""
    answer = answer_to(said)
    assert answer.final
    assert change in answer.change


@pytest.mark.parametrize(
    "said",
    [
        "fatal: Unable to contact slurm controller (connect failure)",
        "fatal: fork: Resource temporarily unavailable",
        "Batch job submission failed: Transport endpoint is not connected",
        "error: Munge encode failed: Failed to connect to munged: fatal: ...",
        "QOSMaxSubmitJobPerUserLimit sbatch: error: ... Job violates accounting/QOS policy",
        "AssocMaxSubmitJobLimit sbatch: error: ... Job violates accounting/QOS policy",
        "Batch job submission failed: Job violates accounting/QOS policy",
        "something new",
    ],
)
def test_answer_that_passes(said: str) -> None:
    """A controller that is away is asked again, and so is one that has as many jobs as it takes."""
    assert not answer_to(said).final


def test_words_of_answers() -> None:
    """They are compared in small letters, and none stands twice."""
    words = [words for row in ANSWERS for words in row.words]
    assert words == [text.lower() for text in words]
    assert len(set(words)) == len(words)
