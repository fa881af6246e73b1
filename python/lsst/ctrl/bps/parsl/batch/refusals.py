# SPDX-License-Identifier: BSD-3-Clause
"""What Slurm's commands answer in place of doing what was asked, and whether to ask again."""

from __future__ import annotations

from typing import NamedTuple

from .pending import says_never

__all__ = ["ANSWERS", "Answer", "answer_to"]


class Answer(NamedTuple):
    """A row of the table."""

    words: tuple[str, ...]
    """What the answer has in it, in small letters."""

    final: bool
    """Whether it would be the same if Slurm were asked again."""

    change: str = ""
    """What helps, as an order."""


_AGAIN = Answer(
    (
        # Of a controller that is away, restarts or has too much to do; also behind a "fatal:".
        "socket timed out",
        "unable to contact slurm controller",
        "resource temporarily unavailable",
        "slurm temporarily unable to accept job",
        "transport endpoint",
        "zero bytes were transmitted",
        "connection refused",
        "standby mode",
        "munge",
        "presently disabled",
        # Of a partition that is down or is being changed.
        "not available now",
        "required partition not available",
    ),
    final=False,
)

ANSWERS = (
    _AGAIN,
    Answer(
        ("job violates accounting/qos policy",),
        final=False,  # It may be the number of jobs. Where it is the size, newer releases say so.
        change="If it stays so, a block asks for more than may be: change walltime, nodes, qos or account",
    ),
    Answer(("invalid account", "invalid wckey"), final=True, change="Change account or partition"),
    Answer(
        (
            "invalid partition",
            "user's group not permitted",
            "not permitted to use",
            "access/permission denied",
        ),
        final=True,
        change="Change partition or account",
    ),
    Answer(("invalid qos",), final=True, change="Change qos or account"),
    Answer(
        ("requested time limit is invalid", "invalid time limit"),
        final=True,
        change="Change walltime or partition",
    ),
    Answer(
        (
            "requested node configuration is not available",
            "memory specification can not be satisfied",
            "more processors requested than permitted",
        ),
        final=True,
        change="Change nodes, cores_per_node, mem_per_node, constraint or partition",
    ),
    Answer(
        ("node count specification invalid", "is not a valid node count"),
        final=True,
        change="Change nodes or partition",
    ),
    Answer(("invalid feature", "invalid job constraint"), final=True, change="Change constraint"),
    Answer(
        ("invalid gres", "invalid generic resource", "invalid trackable resource"),
        final=True,
        change="Change gpus_per_node, scheduler_options or partition",
    ),
    Answer(
        (
            "invalid reservation",
            "reservation is invalid",
            "invalid license",
            "invalid node name",
            "invalid directive",
            "invalid numeric value",
            "invalid --",
            "unrecognized option",
            "invalid cluster",
        ),
        final=True,
        change="Change scheduler_options",
    ),
    Answer(
        # Of sbatch itself, before it asks anybody: options that exclude each other, and their kin.
        ("fatal:", "could not establish a configuration source"),
        final=True,
    ),
)
"""The table. The first row counts that has words of the answer."""

UNKNOWN = Answer((), final=False)
"""For what nobody knows: it is tried again, and said."""


def answer_to(said: str) -> Answer:
    """Look up what a command said.

    Parameters
    ----------
    said : `str`
        Its words.

    Returns
    -------
    answer : `Answer`
        The row of the table; `UNKNOWN` where it has none.
    """
    small = said.lower()
    row = next((row for row in ANSWERS if any(words in small for words in row.words)), UNKNOWN)
    # A limit that is named counts more than the sentence about limits in general.
    if not row.final and row is not _AGAIN and (limit := says_never(said)) is not None:
        return Answer((), final=True, change=limit.change)
    return row
