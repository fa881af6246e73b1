# SPDX-License-Identifier: BSD-3-Clause
"""Why Slurm lets a block wait (squeue(1), "JOB REASON CODES"), and what is done about it.

A block that can start only if somebody changes what was asked for is a
`Wait.NEVER`: nobody can wait that out, and the run ends, with the setting to
change. Where somebody else has to do something, or where a look from here
cannot tell, the run waits (`Wait.SOMEBODY`): a partition that is down comes
back after the maintenance, and a survey's run should still be there. All
others pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

__all__ = ["PENDING", "Pending", "Wait", "pending", "says_never"]


class Wait(Enum):
    """Whether a block that waits can be waited for."""

    PASSES = "the run waits"
    """By itself, as other jobs end."""

    SOMEBODY = "the run waits, and warns"
    """Once somebody has done something who need not be the user."""

    NEVER = "the run ends"
    """Never."""


class Pending(NamedTuple):
    """A row of the table."""

    reasons: str
    """Slurm's reasons, in which ``*`` is any text, with blanks between them."""

    wait: Wait
    words: str
    """What it means."""

    change: str
    """What helps, as an order; ``JOBID`` is put for the numbers of the jobs."""

    def text(self, jobs: Sequence[str] = ()) -> str:
        """Say what it means and what helps.

        Parameters
        ----------
        jobs : `~collections.abc.Sequence` [`str`]
            Numbers of the jobs.

        Returns
        -------
        text : `str`
            One or two sentences, without the last point.
        """
        change = self.change.replace("JOBID", " ".join(jobs) or "JOBID")
        return f"{self.words}. {change}" if change else self.words


_NEVER, _SOMEBODY, _PASSES = Wait.NEVER, Wait.SOMEBODY, Wait.PASSES

PENDING = (
    # Nobody changes a partition's limits for one job, and the request stays what it is.
    Pending(
        "PartitionTimeLimit",
        _NEVER,
        "the walltime is longer than the partition allows",
        "Change walltime or partition",
    ),
    Pending(
        "PartitionNodeLimit",
        _NEVER,
        "the partition does not give that number of nodes to a job",
        "Change nodes or partition",
    ),
    # Slurm holds such a job: it looks at it no more, also when nodes come back.
    Pending(
        "BadConstraints",
        _NEVER,
        "no nodes are what the block asks for",
        "Change constraint, cores_per_node, mem_per_node, partition or scheduler_options",
    ),
    Pending(
        "DependencyNeverSatisfied",
        _NEVER,
        "the job that it was to follow has ended in another way",
        "Change --dependency in scheduler_options",
    ),
    # The reservation is not made again under a job that waits for it.
    Pending(
        "ReservationDeleted ReservationInvalid",
        _NEVER,
        "the reservation is no more",
        "Change --reservation in scheduler_options",
    ),
    Pending(
        "InvalidAccount AccountNotAllowed",
        _NEVER,
        "the account may not be charged there",
        "Change account, partition or qos",
    ),
    Pending(
        "InvalidQOS QOSNotAllowed",
        _NEVER,
        "the quality of service may not be used there",
        "Change qos, partition or account",
    ),
    # Limits on one job, which no other job's end makes larger.
    Pending(
        "QOSMaxWallDurationPerJob* AssocMaxWallDurationPerJob*",
        _NEVER,
        "the walltime is longer than the account or the qos allows",
        "Change walltime, qos or account",
    ),
    Pending(
        "QOSMax*MinutesPerJob* AssocMax*MinutesPerJob*",
        _NEVER,
        "a block is larger, times its walltime, than the account or the qos allows",
        "Change walltime, nodes, cores_per_node, qos or account",
    ),
    Pending(
        "QOSMaxNodePerJob* AssocMaxNodePerJob*",
        _NEVER,
        "a block has more nodes than the account or the qos allows",
        "Change nodes, qos or account",
    ),
    Pending(
        "QOSMaxMem*PerJob* QOSMaxMem*PerNode* AssocMaxMemPerJob* AssocMaxMemPerNode* MaxMemPerLimit",
        _NEVER,
        "a block has more memory than is allowed",
        "Change mem_per_node, nodes, qos or account",
    ),
    Pending(
        "QOSMaxCpuPerJob* QOSMaxCpuPerNode* AssocMaxCpuPerJob* AssocMaxCpuPerNode*",
        _NEVER,
        "a block has more cores than the account or the qos allows",
        "Change cores_per_node, nodes, qos or account",
    ),
    Pending(
        "QOSMax*PerJob* QOSMax*PerNode* AssocMax*PerJob* AssocMax*PerNode*",
        _NEVER,
        "a block asks for more than the account or the qos allows a job",
        "Change gpus_per_node, nodes, scheduler_options, qos or account",
    ),
    Pending(
        "QOSMin*",
        _NEVER,
        "a block asks for less than the qos wants",
        "Change cores_per_node, nodes, mem_per_node, gpus_per_node or qos",
    ),
    # A maintenance ends.
    Pending(
        "PartitionDown PartitionInactive",
        _SOMEBODY,
        "the partition starts no jobs until an administrator has it do so",
        "Wait, or change partition",
    ),
    # Whoever has held a job means to release it.
    Pending(
        "JobHeldUser",
        _SOMEBODY,
        "you hold it",
        "Release it with: scontrol release JOBID",
    ),
    Pending(
        "JobHeldAdmin",
        _SOMEBODY,
        "an administrator holds it",
        "Ask the administrators about job JOBID",
    ),
    Pending(
        "JobHoldMaxRequeue *Held *HeldState",
        _SOMEBODY,
        "it was put back into the queue, where it is held",
        "Release it with: scontrol release JOBID",
    ),
    Pending(
        "AssocGrp*RunMinutes* QOSGrp*RunMinutes*",
        _PASSES,
        "what runs under the account or the qos is all that may run",
        "",
    ),
    # It comes back with time, or when the account is given more.
    Pending(
        "AssocGrp*Minutes* QOSGrp*Minutes* AssocGrpWallLimit QOSGrpWallLimit QOSUsageThreshold "
        "AssociationTimeLimit QOSTimeLimit",
        _SOMEBODY,
        "the account or the qos has used up what it has of computing time",
        "Wait until Slurm has forgotten some of the use, or change account or qos",
    ),
    Pending("Priority", _PASSES, "jobs of a higher priority come first", ""),
    Pending("Resources", _PASSES, "the nodes are busy", ""),
    Pending(
        "Dependency",
        _PASSES,
        "another job has to end before, with singleton the block before it",
        "",
    ),
    Pending("BeginTime", _PASSES, "it begins at a time of its own", ""),
    Pending("Licenses", _PASSES, "the licenses that it asks for are in use", ""),
    Pending("Reservation", _PASSES, "its reservation has not begun", ""),
    Pending(
        "ReqNodeNotAvail NodesRequired* NodeDown FrontEndDown",
        _PASSES,
        "nodes that it needs are down, or reserved for a maintenance",
        "A shorter walltime may fit in before",
    ),
    Pending(
        "*PerUser* *PerAccount* *PerAcct*",
        _PASSES,
        "your jobs, or those of the account, have all that they may have",
        "If none of them runs, a block alone asks for more: then change nodes, cores_per_node, mem_per_node "
        "or qos",
    ),
    Pending(
        "AssocGrp* QOSGrp* AssocMax* QOSMax* AssociationJobLimit AssociationResourceLimit QOSJobLimit "
        "QOSResourceLimit AccountingPolicy",
        _PASSES,
        "the jobs of the account or of the qos have all that they may have",
        "If none of them runs, a block alone asks for more: then change nodes, cores_per_node, mem_per_node, "
        "account or qos",
    ),
    Pending("JobArrayTaskLimit", _PASSES, "so many of the array run as may", ""),
    Pending("PartitionConfig", _PASSES, "the partition is being changed", ""),
    Pending(
        "BurstBuffer* Cleaning FedJobLock Power* Prolog* SchedDefer CF",
        _PASSES,
        "Slurm or the nodes make ready for it",
        "",
    ),
    Pending("None PD", _PASSES, "Slurm has not looked at it yet", ""),
)
"""The table. The first row counts that has a reason."""

UNKNOWN = Pending("*", _PASSES, "see squeue(1) for what that means", "")
"""For what a later Slurm, or a site's plugin, says."""


@lru_cache(1024)  # Asked for each block, each second.
def pending(reason: str) -> Pending:
    """Look a reason up.

    Parameters
    ----------
    reason : `str`
        What squeue says, or the code of the job's state.

    Returns
    -------
    row : `Pending`
        The row of the table; `UNKNOWN` where it has none.
    """
    # What follows a comma names nodes; some reasons are sentences, with _ for blanks in some releases.
    word = re.sub(r"[\s_()]", "", reason.partition(",")[0]).lower()
    return next((row for row in PENDING if _has(row, word)), UNKNOWN)


def says_never(text: str) -> Pending | None:
    """Look for a reason that does not pass in what Slurm says of a job that it refuses.

    Parameters
    ----------
    text : `str`
        Its words.

    Returns
    -------
    row : `Pending` or `None`
        The row of such a reason.
    """
    rows = (pending(word) for word in re.findall(r"\b(?:QOS|Assoc)[A-Z]\w+", text))
    return next((row for row in rows if row.wait is Wait.NEVER), None)


def _has(row: Pending, word: str) -> bool:
    return any(fnmatchcase(word, pattern.lower()) for pattern in row.reasons.split())
