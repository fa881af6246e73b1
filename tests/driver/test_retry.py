# SPDX-License-Identifier: BSD-3-Clause
"""What follows from a failure: the table of DESIGN, row by row."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsst.ctrl.bps.parsl.driver.retry import MOST_LOSSES, Decision, decide

GROWING = {"number_of_retries": 5, "memory_multiplier": 2, "request_memory_max": 6000}
"""BPS's defaults, with a low cap."""


class Row(NamedTuple):
    """A failure, and what is expected to follow."""

    fields: dict[str, Any]
    result: dict[str, Any]
    retry: bool
    charged: bool
    memory: int | None = None
    failures: int = 0
    losses: int = 0
    request: int | None = 2048
    retries: int | None = None


def failed(exit: int, memory: int = 100) -> dict[str, Any]:
    return {"exit": exit, "memory": memory}


TABLE = {
    # payload error
    "payload error": Row({"number_of_retries": 2}, failed(1), True, True),
    "payload error, last retry": Row({"number_of_retries": 2}, failed(1), True, True, failures=1),
    "payload error, retries used up": Row({"number_of_retries": 2}, failed(1), False, True, failures=2),
    "payload error, no retries": Row({"number_of_retries": 0}, failed(1), False, True),
    "payload error, retries not set": Row({}, failed(1), False, True),
    "site's retries, more": Row({"number_of_retries": 0}, failed(1), True, True, retries=1),
    "site's retries, none": Row({"number_of_retries": 5}, failed(1), False, True, retries=0),
    "unless exit": Row({"number_of_retries": 5, "retry_unless_exit": 1}, failed(1), False, True),
    "unless exit, another": Row({"number_of_retries": 5, "retry_unless_exit": 2}, failed(1), True, True),
    "unless exits": Row({"number_of_retries": 5, "retry_unless_exit": [1, 2]}, failed(2), False, True),
    "unless exits, another": Row(
        {"number_of_retries": 5, "retry_unless_exit": [1, 2]}, failed(3), True, True
    ),
    "other signal": Row(GROWING, failed(139), True, True),
    "other signal, terminated": Row(GROWING, failed(143), True, True),
    # killed for memory
    "killed": Row(GROWING, failed(137), True, True, memory=4096),
    "peak at the request": Row(GROWING, failed(1, 2048), True, True, memory=4096),
    "peak over the request": Row(GROWING, failed(1, 9999), True, True, memory=4096),
    "peak below the request": Row(GROWING, failed(1, 2047), True, True),
    "killed, exit code not to be retried": Row(
        {**GROWING, "retry_unless_exit": [1, 2]}, failed(1, 2048), True, True, memory=4096
    ),
    "grown before": Row(GROWING, failed(137), True, True, memory=6000, request=4096),
    "cap was tried": Row(GROWING, failed(137), False, True, request=6000),
    "above the cap": Row(GROWING, failed(137), False, True, request=7000),
    "no cap": Row(
        {"number_of_retries": 5, "memory_multiplier": 3}, failed(137), True, True, memory=24000, request=8000
    ),
    "fraction is rounded up": Row(
        {"number_of_retries": 5, "memory_multiplier": 1.5}, failed(137), True, True, memory=152, request=101
    ),
    "killed, retries used up": Row(GROWING, failed(137), False, True, failures=5),
    "killed, multiplier not set": Row({"number_of_retries": 5}, failed(137), True, True),
    "killed, multiplier 1": Row({**GROWING, "memory_multiplier": 1}, failed(137), True, True),
    "killed, no request": Row(GROWING, failed(137), True, True, request=None),
    "peak, no request": Row(GROWING, failed(1, 9999), True, True, request=None),
    # the node or the worker went away
    "lost": Row({}, {"lost": "WorkerLost: gone"}, True, False),
    "lost, retries used up": Row({"number_of_retries": 1}, {"lost": "x"}, True, False, failures=9),
    "lost, no retries of the site": Row({}, {"lost": "x"}, True, False, retries=0),
    "lost too often": Row({}, {"lost": "x"}, False, False, losses=MOST_LOSSES - 1),
    "lost, last time": Row({}, {"lost": "x"}, True, False, losses=MOST_LOSSES - 2),
    # a command that cannot start
    "not executable": Row({"number_of_retries": 5}, failed(126), False, True),
    "not found": Row({"number_of_retries": 5}, failed(127), False, True),
}


@pytest.mark.parametrize("name", TABLE)
def test_table(name: str) -> None:
    """Each row: whether the job runs again, whether that costs a retry, and with how much memory."""
    row = TABLE[name]
    decision = decide(
        row.fields,
        row.result,
        failures=row.failures,
        losses=row.losses,
        memory=row.request,
        retries=row.retries,
    )
    assert (decision.retry, decision.charged) == (row.retry, row.charged)
    assert decision.memory == row.memory
    assert decision.why


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"exit": 3, "memory": 0}, ["exit code 3"]),
        ({"exit": 127, "memory": 0, "why": "cannot start 'x': no such file"}, ["cannot start 'x'"]),
        ({"exit": 137, "memory": 1500}, ["memory", "1500 MB", "2048 MB"]),
        ({"lost": "ManagerLost: the node went away"}, ["ManagerLost: the node went away"]),
    ],
)
def test_reason_is_in_words(result: dict[str, Any], words: list[str]) -> None:
    """People read what happened, with the numbers that they need."""
    decision = decide(GROWING, result, failures=0, losses=0, memory=2048)
    for word in words:
        assert word in decision.why


def test_loss_that_ends_the_job_says_how_often() -> None:
    """A job that takes its workers down is given up, with the number of times and the last reason."""
    decision = decide({}, {"lost": "gone"}, failures=0, losses=MOST_LOSSES - 1, memory=None)
    assert decision == Decision(False, False, decision.why)
    assert str(MOST_LOSSES) in decision.why
    assert "gone" in decision.why


@given(
    request=st.integers(1, 10_000),
    multiplier=st.floats(0, 4) | st.none(),
    cap=st.integers(0, 20_000) | st.none(),
    retries=st.integers(0, 20),
)
def test_memory_grows_to_its_cap_and_attempts_end(
    request: int, multiplier: float | None, cap: int | None, retries: int
) -> None:
    """A job that is always killed gets more each time, once as much as its cap, and then is given up."""
    fields = {"number_of_retries": retries, "memory_multiplier": multiplier, "request_memory_max": cap}
    memory, tried = request, [request]
    for failures in range(retries + 2):
        decision = decide(fields, failed(137), failures=failures, losses=0, memory=memory)
        if not decision.retry:
            break
        if decision.memory is not None:
            assert decision.memory > memory
            memory = decision.memory
        tried.append(memory)
    assert len(tried) <= retries + 1
    if cap and multiplier and multiplier > 1:
        assert max(tried) <= max(cap, request)
        assert sum(amount >= cap for amount in tried) <= 1


def test_job_over_its_walltime_is_not_out_of_memory() -> None:
    """A job that was killed after its walltime is tried again with the memory that it had."""
    result = {"exit": 137, "memory": 5000, "overdue": True, "why": "ended after its walltime of 5 minutes"}
    fields = {"number_of_retries": 2, "request_memory": 2000, "memory_multiplier": 2.0}
    decision = decide(fields, result, failures=0, losses=0, memory=2000)
    assert (decision.retry, decision.charged, decision.memory) == (True, True, None)
    assert "walltime" in decision.why
