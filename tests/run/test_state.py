# SPDX-License-Identifier: BSD-3-Clause
"""The state of a run is what its plan and journals come to, however often it is computed."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsst.ctrl.bps.parsl.errors import DamagedFileError
from lsst.ctrl.bps.parsl.node.journal import encode_line
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import JobKind, Plan
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.journal import Journal
from lsst.ctrl.bps.parsl.run.replay import recovered_events, replay
from lsst.ctrl.bps.parsl.run.state import RunState
from support.plans import PlanLine, make_plan, plan_line

S = JobState


class Story:
    """A run that is told event by event."""

    def __init__(self, submit_path: Path, lines: Sequence[PlanLine]) -> None:
        self.plan, self.paths = make_plan(submit_path, lines)
        self.state = RunState(self.plan)
        self.journal: list[dict[str, Any]] = []

    def tell(self, kind: str, **event: Any) -> None:
        self.journal.append({"e": kind, "t": 100.0 + len(self.journal), **event})
        self.state.apply(self.journal[-1])

    def session(self) -> list[int]:
        self.tell("session", n=self.state.sessions + 1, host="h", pid=1)
        return self.state.take_ready()

    def ok(self, *jobs: int) -> list[int]:
        """Have jobs run and succeed; return what became ready."""
        self.tell("pending", j=list(jobs))
        self.tell("ok", j=[[job, 1.0, 2.0, 10, 0.5] for job in jobs])
        return self.state.take_ready()

    def fail(self, job: int, *, retry: bool = False, exit: int = 1, **event: Any) -> list[int]:
        """Have a job run and fail; return what became ready."""
        self.tell("pending", j=[job])
        event = {"charged": True, "lost": False, "why": f"exit code {exit}", **event}
        self.tell("fail", j=job, exit=exit, retry=retry, **event)
        return self.state.take_ready()

    def write(self, nodes: Sequence[dict[str, Any]] = ()) -> None:
        self.paths.driver_journal.unlink(missing_ok=True)
        journal = Journal(self.paths.driver_journal, "r")
        for event in self.journal:
            journal.append(event)
        journal.close()
        node = b"".join(encode_line(event) for event in nodes)
        (self.paths.journals / "node-h-1.jsonl").write_bytes(node)

    @property
    def states(self) -> list[JobState]:
        return [JobState(state) for state in self.state.states]


LOST = {"j": 0, "exit": 1, "why": "lost", "retry": False, "charged": False, "lost": True}


def node_end(job: int, attempt: int, exit: int = 0) -> dict[str, Any]:
    return {"e": "end", "j": job, "a": attempt, "t": 50.0, "exit": exit}


# What follows from what.


def test_jobs_without_parents_are_ready(tmp_path: Path) -> None:
    """At the beginning the jobs that wait for nothing are ready, and no others."""
    story = Story(tmp_path, [plan_line("a"), plan_line("b"), plan_line("c", [0, 1])])
    assert story.session() == [0, 1]
    assert story.states == [S.READY, S.READY, S.UNREADY]


def test_job_is_ready_when_its_last_parent_has_succeeded(tmp_path: Path) -> None:
    """A job waits for all its parents, and is ready once."""
    story = Story(tmp_path, [plan_line("a"), plan_line("b"), plan_line("c", [0, 1])])
    story.session()
    assert story.ok(1) == []
    assert story.ok(0) == [2]
    assert story.ok(2) == []
    assert story.state.is_done
    assert story.state.outcome() == S.SUCCEEDED


def test_noop_jobs_pass_on_at_once(tmp_path: Path) -> None:
    """A job that only orders others has succeeded as soon as its parents have, also at the beginning."""
    lines = [
        plan_line("n0", kind="noop"),
        plan_line("n1", [0], kind="noop"),
        plan_line("a", [1]),
        plan_line("n2", [2], kind="noop"),
        plan_line("b", [3]),
    ]
    story = Story(tmp_path, lines)
    assert story.session() == [2]
    assert story.ok(2) == [4]
    assert story.states == [S.SUCCEEDED] * 4 + [S.READY]


def test_failure_for_good_prunes_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    """What can never run is PRUNED at once; the rest of the run goes on, and ends as FAILED."""
    lines = [
        plan_line("a"),
        plan_line("b", [0]),
        plan_line("n", [1], kind="noop"),
        plan_line("c", [2]),
        plan_line("x"),
        plan_line("y", [4]),
        plan_line("z", [0, 4]),
    ]
    story = Story(tmp_path, lines)
    story.session()
    story.fail(0, exit=3, why="broken")
    assert story.states == [S.FAILED, S.PRUNED, S.PRUNED, S.PRUNED, S.READY, S.UNREADY, S.PRUNED]
    assert story.ok(4) == [5]
    story.ok(5)
    assert story.state.is_done
    assert story.state.outcome() == S.FAILED
    assert story.state.exit_codes == {0: 3}
    assert story.state.reasons == {0: "broken"}


def test_failure_that_is_retried_makes_the_job_ready_again(tmp_path: Path) -> None:
    """A retry is one attempt more; only charged failures count, and memory grows."""
    story = Story(tmp_path, [plan_line("a"), plan_line("b", [0])])
    story.session()
    assert story.fail(0, retry=True, memory=4096) == [0]
    assert story.fail(0, retry=True, charged=False, lost=True) == [0]
    assert story.fail(0, retry=True) == [0]
    assert story.state.failures == {0: 2}
    assert story.state.losses == {0: 1}
    assert story.state.memory == {0: 4096}
    assert story.state.attempts[0] == 3
    assert story.state.exit_codes == {}
    assert story.ok(0) == [1]


GROUPS = [
    plan_line("a"),
    plan_line("g1.x", [0]),
    plan_line("g1.y", [0]),
    plan_line("g1.z", [1]),
    plan_line("g1", [2, 3], kind="group", blocking=False),
    plan_line("g2.x", [4]),
    plan_line("g2", [5], kind="group", blocking=True),
    plan_line("g3.x", [6]),
    plan_line("g3", [7], kind="group", blocking=True),
]
"""Three groups after each other; a failure in the first does not stop the second."""


def test_group_that_does_not_block_lets_the_next_begin(tmp_path: Path) -> None:
    """After a failure in it such a group still ends, when all of it has ended and not before."""
    story = Story(tmp_path, GROUPS)
    story.session()
    assert story.ok(0) == [1, 2]
    assert story.fail(1) == []
    assert story.states[3] == S.PRUNED
    assert story.states[4] == S.UNREADY
    assert story.ok(2) == [5]
    assert story.ok(5) == [7]
    story.ok(7)
    assert story.state.is_done
    assert story.state.outcome() == S.FAILED


def test_group_that_blocks_stops_what_comes_after_it(tmp_path: Path) -> None:
    """A failure in a blocking group prunes the group and all groups after it."""
    story = Story(tmp_path, GROUPS)
    story.session()
    story.ok(0)
    story.ok(1, 2)
    story.ok(3)
    story.fail(5)
    assert story.states[5:] == [S.FAILED, S.PRUNED, S.PRUNED, S.PRUNED]
    assert story.state.is_done


def test_nested_groups(tmp_path: Path) -> None:
    """A group in a group: the outer one ends when the inner one has ended, each by its own rule."""
    lines = [
        plan_line("inner.a"),
        plan_line("inner", [0], kind="group", blocking=False),
        plan_line("outer.b", [1]),
        plan_line("outer", [2], kind="group", blocking=True),
        plan_line("c", [3]),
    ]
    story = Story(tmp_path / "1", lines)
    story.session()
    assert story.fail(0) == [2]
    assert story.ok(2) == [4]
    story = Story(tmp_path / "2", lines)
    story.session()
    story.ok(0)
    story.fail(2)
    assert story.states[3:] == [S.PRUNED, S.PRUNED]


FINAL = [
    plan_line("a"),
    plan_line("b", [0]),
    plan_line("f1", final=True, label="final"),
    plan_line("f2", [2], final=True, label="final"),
]
"""Two jobs and a final workflow of two."""


def test_final_jobs_run_after_all_others(tmp_path: Path) -> None:
    """A final job is not ready before every other job has ended, and then in its own order."""
    story = Story(tmp_path, FINAL)
    assert story.session() == [0]
    assert story.ok(0) == [1]
    assert story.ok(1) == [2]
    assert story.ok(2) == [3]
    assert not story.state.is_done
    story.ok(3)
    assert story.state.is_done


def test_final_jobs_run_after_failures_too(tmp_path: Path) -> None:
    """The final job gathers what there is, whatever failed; the run is FAILED all the same."""
    story = Story(tmp_path, FINAL)
    story.session()
    assert story.fail(0) == [2]
    story.ok(2)
    story.ok(3)
    assert story.state.is_done
    assert story.state.outcome() == S.FAILED


def test_final_job_that_fails(tmp_path: Path) -> None:
    """A final job that fails prunes the final ones after it, and fails the run."""
    story = Story(tmp_path, FINAL)
    story.session()
    story.ok(0)
    story.ok(1)
    story.fail(2)
    assert story.states[2:] == [S.FAILED, S.PRUNED]
    assert story.state.is_done
    assert story.state.outcome() == S.FAILED


def test_final_job_alone(tmp_path: Path) -> None:
    """Where there is nothing else the final job is ready at once."""
    assert Story(tmp_path, [plan_line("f", final=True)]).session() == [0]


def test_run_without_jobs_is_done(tmp_path: Path) -> None:
    """Nothing to do is a success."""
    story = Story(tmp_path, [])
    assert story.session() == []
    assert story.state.is_done
    assert story.state.outcome() == S.SUCCEEDED


def test_cancel_deletes_what_has_not_ended(tmp_path: Path) -> None:
    """After a cancel only the final jobs run; what had succeeded stays; the run is DELETED."""
    story = Story(tmp_path, [*FINAL, plan_line("c", [1])])
    story.session()
    story.ok(0)
    story.tell("pending", j=[1])
    story.tell("cancel")
    assert story.states == [S.SUCCEEDED, S.DELETED, S.READY, S.UNREADY, S.DELETED]
    assert story.state.take_ready() == [2]
    story.ok(2)
    story.ok(3)
    assert story.state.is_done
    assert story.state.outcome() == S.DELETED


def test_job_that_succeeds_while_it_is_cancelled_has_succeeded(tmp_path: Path) -> None:
    """Success that is heard after the cancel counts; a failure changes nothing any more."""
    story = Story(tmp_path, [plan_line("a"), plan_line("b"), plan_line("c", [0])])
    story.session()
    story.tell("pending", j=[0, 1])
    story.tell("cancel")
    story.tell("ok", j=[[0, 1.0, 2.0, 10, 0.5]])
    story.tell("fail", j=1, exit=143, why="x", retry=True, charged=True, lost=False)
    assert story.states == [S.SUCCEEDED, S.DELETED, S.DELETED]
    assert story.state.take_ready() == []
    assert story.session() == [1, 2]


def test_counts_are_by_label_in_the_order_of_the_pipeline(tmp_path: Path) -> None:
    """Tables count only jobs that run a command, and have every state."""
    lines = [
        plan_line("a", label="isr"),
        plan_line("g", [0], kind="group", label="visit"),
        plan_line("b", [1], label="coadd"),
        plan_line("n", [2], kind="noop", label="order"),
    ]
    plan, _ = make_plan(tmp_path, lines, labels=["first", "isr", "coadd"])
    state = RunState(plan)
    counts = state.label_counts()
    assert list(counts) == ["isr", "coadd"]
    assert counts["isr"] == {**dict.fromkeys(JobState, 0), S.READY: 1}
    assert state.totals() == {**dict.fromkeys(JobState, 0), S.READY: 1, S.UNREADY: 1}
    assert [member for member in JobState if member.is_final] == [S.SUCCEEDED, S.FAILED, S.PRUNED, S.DELETED]


# Sessions.


def test_next_driver_does_what_is_not_done(tmp_path: Path) -> None:
    """A restart keeps what succeeded, gives the others their retries back, and keeps grown memory."""
    lines = [plan_line("a"), plan_line("b", [0]), plan_line("c", [1]), plan_line("d"), plan_line("e")]
    story = Story(tmp_path, lines)
    story.session()
    story.ok(0)
    story.fail(1, retry=True, memory=4096)
    story.fail(1)
    story.tell("pending", j=[3])
    assert story.session() == [1, 3, 4]
    assert story.states == [S.SUCCEEDED, S.READY, S.UNREADY, S.READY, S.READY]
    state = story.state
    assert (state.failures, state.losses, state.exit_codes, state.reasons) == ({}, {}, {}, {})
    assert state.memory == {1: 4096}
    assert list(state.attempts) == [1, 2, 0, 1, 0]
    assert (state.sessions, state.finished, state.stopped, state.cancelled) == (2, None, None, False)


def test_restart_after_a_stop(tmp_path: Path) -> None:
    """A driver that was stopped leaves its jobs ready; the state says why it stopped."""
    story = Story(tmp_path, [plan_line("a"), plan_line("b")])
    story.session()
    story.tell("pending", j=[0])
    story.tell("stop", why="SIGINT")
    assert story.state.stopped == "SIGINT"
    assert story.states == [S.READY, S.READY]
    assert story.session() == [0, 1]


def test_restart_after_a_cancel(tmp_path: Path) -> None:
    """A run that was cancelled can be resumed: nothing of the cancel is left."""
    story = Story(tmp_path, FINAL)
    story.session()
    story.tell("cancel")
    story.ok(2)
    story.ok(3)
    story.tell("finish", state="DELETED")
    assert story.state.finished == "DELETED"
    assert story.session() == [0]
    assert story.states == [S.READY, S.UNREADY, S.UNREADY, S.UNREADY]
    story.ok(0)
    assert story.ok(1) == [2]


def test_final_jobs_run_again_where_others_do(tmp_path: Path) -> None:
    """The final job gathers what the others made; where some are still to run, it runs once more."""
    story = Story(tmp_path, FINAL)
    story.session()
    story.ok(0)
    story.fail(1)
    story.ok(2)
    story.ok(3)
    assert story.session() == [1]
    assert story.states == [S.SUCCEEDED, S.READY, S.UNREADY, S.UNREADY]


@pytest.mark.parametrize("extra", ["none", "noop", "group", "final noop"])
def test_final_job_that_succeeded_is_not_run_again(tmp_path: Path, extra: str) -> None:
    """Where all others have succeeded, a final job that has too stays done, with or without groups."""
    more = {
        "none": plan_line("x", [1]),
        "noop": plan_line("x", [1], kind="noop"),
        "group": plan_line("x", [1], kind="group", blocking=False),
        "final noop": plan_line("x", [2], kind="noop", final=True),
    }
    story = Story(tmp_path, [*FINAL, more[extra]])
    story.session()
    story.ok(0)
    story.ok(1)
    if extra == "none":
        story.ok(4)
    story.ok(2)
    story.fail(3)
    assert story.session() == [3]
    assert story.states[2:4] == [S.SUCCEEDED, S.READY]


def test_final_job_that_is_to_run_again_has_not_succeeded(tmp_path: Path) -> None:
    """What a node recorded of a final job before others ran again does not
    count for it: it gathered less than there is now.
    """
    story = Story(tmp_path, [plan_line("a"), plan_line("f", final=True)])
    story.session()
    story.fail(0)
    story.ok(1)
    story.session()
    story.ok(0)
    story.write([node_end(1, 1)])
    state = replay(story.plan, story.paths)
    assert [state.state(job) for job in range(2)] == [S.SUCCEEDED, S.READY]
    story.tell("pending", j=[1])
    story.write([node_end(1, 2)])
    assert replay(story.plan, story.paths).recovered == [1]


def test_group_on_a_restart(tmp_path: Path) -> None:
    """A failed job of a group that did not block runs again; what ran after the group does not."""
    story = Story(tmp_path, GROUPS)
    story.session()
    story.ok(0)
    story.fail(1)
    story.ok(2)
    story.ok(5)
    assert story.session() == [1, 7]
    assert story.states[5] == S.SUCCEEDED
    assert story.ok(1) == [3]
    story.ok(3, 7)
    assert story.state.is_done


# Nodes and files.


def test_node_tells_who_runs(tmp_path: Path) -> None:
    """What a node started is RUNNING, where it is the attempt that is going on."""
    story = Story(tmp_path, [plan_line("a"), plan_line("b")])
    story.session()
    story.fail(0, retry=True)
    story.tell("pending", j=[0, 1])
    story.write([{"e": "start", "j": 0, "a": 1, "t": 1.0}, {"e": "start", "j": 1, "a": 1, "t": 1.0}])
    state = replay(story.plan, story.paths)
    assert [state.state(job) for job in range(2)] == [S.PENDING, S.RUNNING]
    state.release()
    assert [state.state(job) for job in range(2)] == [S.READY, S.READY]


def test_success_that_no_driver_heard_of_counts(tmp_path: Path) -> None:
    """What a node saw succeed before the driver was killed has succeeded, and frees what waits for it."""
    story = Story(tmp_path, [plan_line("a"), plan_line("b", [0]), plan_line("c")])
    story.session()
    story.tell("pending", j=[0, 2])
    story.write([node_end(0, 1), node_end(2, 1, exit=1)])
    state = replay(story.plan, story.paths)
    assert [state.state(job) for job in range(3)] == [S.SUCCEEDED, S.READY, S.PENDING]
    assert state.recovered == [0]


@pytest.mark.parametrize(
    ("given_up", "before"),
    [
        pytest.param([("cancel", {})], [S.DELETED, S.DELETED, S.READY], id="cancelled"),
        pytest.param(
            [("cancel", {}), ("finish", {"state": "DELETED"})], [S.DELETED, S.DELETED, S.DELETED], id="ended"
        ),
        pytest.param([("fail", LOST)], [S.FAILED, S.PRUNED, S.READY], id="lost"),
        pytest.param([("fail", LOST | {"abort": True}), ("cancel", {})], [S.FAILED, S.DELETED, S.READY]),
        pytest.param(
            [("fail", LOST), ("ok", {"j": [[2, 1.0, 2.0, 1, 0.5]]}), ("finish", {"state": "FAILED"})],
            [S.FAILED, S.PRUNED, S.SUCCEEDED],
            id="failed",
        ),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["", "its attempt is not known"])
def test_success_that_came_after_the_job_was_given_up(
    tmp_path: Path, given_up: list[tuple[str, dict[str, Any]]], before: list[JobState], known: bool
) -> None:
    """What a node saw succeed has succeeded, also where the driver had cancelled it, aborted the run, or
    taken it for lost, and whether or not the run has ended since: it does not run again.
    """
    story = Story(tmp_path, [plan_line("a"), plan_line("b", [0]), plan_line("f", final=True)])
    story.session()
    if known:
        story.tell("pending", j=[0])
    for kind, event in given_up:
        story.tell(kind, **event)
    assert story.states == before
    story.write([node_end(0, 1)])
    state = replay(story.plan, story.paths)
    assert [JobState(value) for value in state.states] == [S.SUCCEEDED, *before[1:]]
    assert (state.exit_codes, state.reasons) == ({}, {})
    assert state.label_counts()["l"] == {one: [S.SUCCEEDED, *before[1:]].count(one) for one in S}
    # The next driver writes it down, and goes on from there.
    for event in recovered_events(state):
        story.tell(**{"kind": event.pop("e"), **event})
    assert story.session() == [1]
    assert story.states == [S.SUCCEEDED, S.READY, S.UNREADY]
    story.write()
    assert snapshot(replay(story.plan, story.paths)) == snapshot(story.state)


def test_late_result_of_an_earlier_attempt_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """A node's word about an earlier attempt than the last one changes nothing."""
    story = Story(tmp_path, [plan_line("a")])
    story.session()
    story.tell("pending", j=[0])
    story.session()
    story.tell("pending", j=[0])
    story.write([node_end(0, 1)])
    state = replay(story.plan, story.paths)
    assert state.state(0) == S.PENDING
    assert recovered_events(state) == []


def test_last_lines_of_the_driver_lost_with_its_host(tmp_path: Path) -> None:
    """What nodes saw succeed counts, also where the driver's journal knows of no such attempt, in
    whatever order their files are read; and a number that was given is not given again.
    """
    story = Story(tmp_path, [plan_line("a"), plan_line("b", [0]), plan_line("c", [1])])
    story.session()
    story.tell("pending", j=[0])
    story.write([node_end(2, 1, exit=1), node_end(1, 2), node_end(0, 1)])
    for _ in range(2):
        state = replay(story.plan, story.paths)
        assert [state.state(job) for job in range(3)] == [S.SUCCEEDED, S.SUCCEEDED, S.READY]
        assert list(state.attempts) == [1, 2, 1]
        attempts, ok = recovered_events(state)
        assert attempts == {"e": "attempts", "j": [[2, 1], [1, 2]]}
        assert [record[0] for record in ok["j"]] == [1, 0]
    # What the next driver writes down is all that the one after it needs.
    for event in (attempts, ok):
        story.tell(**{"kind": event.pop("e"), **event})
    assert story.session() == [2]
    assert list(story.state.attempts) == [1, 2, 1]
    story.tell("pending", j=[2])
    story.write([node_end(2, 1)])
    state = replay(story.plan, story.paths)
    assert state.state(2) == S.PENDING, "an earlier attempt's"


def test_what_cannot_be_read_yet_has_not_happened_yet(tmp_path: Path) -> None:
    """While a run goes on, a line that cannot be read, such as zeros that NFS shows, is no damage for who
    looks at it: what stands before it is what has happened.
    """
    story = Story(tmp_path, [plan_line("a"), plan_line("b"), plan_line("c")])
    story.session()
    story.ok(0)
    story.write()
    story.ok(1)
    line = bytes(50) + b"\n" + encode_line(story.journal[-1])
    with story.paths.driver_journal.open("ab") as stream:
        stream.write(line)
    (story.paths.journals / "node-h-1.jsonl").write_bytes(line)
    state = replay(story.plan, story.paths, live=True)
    assert [JobState(value) for value in state.states] == [S.SUCCEEDED, S.READY, S.READY]
    with pytest.raises(DamagedFileError):
        replay(story.plan, story.paths)


@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
def test_journal_of_the_driver_is_lost(tmp_path: Path, empty: bool) -> None:
    """What the nodes recorded is enough to go on from."""
    story = Story(tmp_path, [plan_line("a"), plan_line("b", [0])])
    story.session()
    story.write([node_end(0, 1)])
    story.paths.driver_journal.unlink()
    if empty:
        story.paths.driver_journal.touch()
    state = replay(story.plan, story.paths)
    assert [state.state(job) for job in range(2)] == [S.SUCCEEDED, S.READY]


@pytest.mark.parametrize(
    "event",
    [
        {"e": "ok", "t": 1.0, "j": [[99, 1.0, 2.0, 10, 0.5]]},
        {"e": "pending", "t": 1.0, "j": [99]},
        {"e": "fail", "t": 1.0, "j": 99, "retry": True, "charged": True},
        {"e": "unheard", "t": 1.0},
        {"t": 1.0},
        {"e": "session"},
        {"e": "ok", "t": 1.0, "j": 5},
    ],
)
def test_event_that_the_plan_does_not_allow_is_damage(tmp_path: Path, event: dict[str, Any]) -> None:
    """A journal of another plan, or of nobody's, is an error that names both files."""
    story = Story(tmp_path, [plan_line("a")])
    story.session()
    story.journal.append(event)
    story.write()
    with pytest.raises(DamagedFileError) as caught:
        replay(story.plan, story.paths)
    assert str(story.paths.driver_journal) in caught.value.message
    assert str(story.paths.plan) in caught.value.message


# What holds for any run.


@st.composite
def random_lines(draw: st.DrawFn) -> list[PlanLine]:
    """Draw a graph of payload jobs, noops, groups of both kinds and final jobs."""
    lines: list[PlanLine] = []
    finals: list[int] = []
    others: list[int] = []
    kinds = st.sampled_from(["payload", "payload", "payload", "noop", "group", "tolerant"])
    for index in range(draw(st.integers(0, 14))):
        kind, final = draw(kinds), draw(st.integers(0, 6)) == 0
        mine = finals if final else others
        parents = draw(st.lists(st.sampled_from(mine), unique=True, max_size=3)) if mine else []
        mine.append(index)
        real_kind = "group" if kind == "tolerant" else kind
        blocking = kind != "tolerant"
        label = draw(st.sampled_from("ab"))
        lines.append(
            plan_line(f"j{index}", parents, label=label, kind=real_kind, final=final, blocking=blocking)
        )
    return lines


def snapshot(state: RunState) -> dict[str, Any]:
    """Return all that a state says."""
    names = "failures losses memory exit_codes reasons sessions finished stopped cancelled".split()
    names += ["is_done", "counts"]
    return {
        **{name: getattr(state, name) for name in names},
        "states": [JobState(value).name for value in state.states],
        "attempts": list(state.attempts),
    }


def check_states(plan: Plan, state: RunState) -> None:
    """Check what holds after each event."""
    states = [JobState(value) for value in state.states]
    tolerant = [t.kind == JobKind.GROUP and not t.blocking for t in map(plan.template, range(len(plan)))]
    for job in range(len(plan)):
        template, parents = plan.template(job), [states[parent] for parent in plan.parents(job)]
        if states[job] in (S.READY, S.PENDING, S.RUNNING):
            assert template.kind == JobKind.PAYLOAD
            assert all(parent == S.SUCCEEDED for parent in parents)
            if template.final:
                assert all(
                    other.is_final for number, other in enumerate(states) if not plan.template(number).final
                )
        if states[job] == S.PRUNED:
            assert any(parent in (S.FAILED, S.PRUNED) for parent in parents)
        if template.kind != JobKind.PAYLOAD and states[job] == S.SUCCEEDED:
            assert all(parent.is_final if tolerant[job] else parent == S.SUCCEEDED for parent in parents)
        if states[job] == S.UNREADY and not template.final:
            assert any(not parent.is_final for parent in parents)
    assert state.is_done == all(value.is_final for value in states)
    for number, label in enumerate(plan.labels):
        mine = [value for job, value in enumerate(states) if plan.template(job).label == label]
        assert state.counts[number] == [mine.count(value) for value in JobState]


def live(story: Story, rng: random.Random, steps: int) -> None:
    """Let anything happen that a driver may write down."""
    state = story.state
    story.session()
    for _ in range(steps):
        ready = [job for job, value in enumerate(state.states) if value == S.READY]
        pending = [job for job, value in enumerate(state.states) if value == S.PENDING]
        what = rng.choices(["pending", "ok", "fail", "cancel", "stop", "session"], [5, 5, 4, 0.2, 0.1, 0.3])[
            0
        ]
        if what == "pending" and ready:
            story.tell("pending", j=rng.sample(ready, rng.randint(1, len(ready))))
        elif what == "ok" and pending:
            done = rng.sample(pending, rng.randint(1, len(pending)))
            story.tell("ok", j=[[job, 1.0, 2.0, 10, 0.5] for job in done])
        elif what == "fail" and pending:
            charged, retry = rng.random() < 0.7, rng.random() < 0.5
            more = {"memory": rng.randint(1, 9)} if rng.random() < 0.3 else {}
            story.tell(
                "fail",
                j=rng.choice(pending),
                exit=1,
                why="w",
                retry=retry,
                charged=charged,
                lost=not charged,
                **more,
            )
        elif what == "cancel" and not state.cancelled:
            story.tell("cancel")
        elif what in ("stop", "session"):
            if what == "stop":
                story.tell("stop", why="SIGINT")
            elif state.is_done:
                story.tell("finish", state=state.outcome().name)
            story.session()
        check_states(story.plan, state)


@given(lines=random_lines(), seed=st.integers(0, 2**32))
def test_replay_is_the_live_state(
    tmp_path_factory: pytest.TempPathFactory, lines: list[PlanLine], seed: int
) -> None:
    """Whatever happens, the journal read anew gives the state that the driver had, and the rules hold."""
    story = Story(tmp_path_factory.getbasetemp() / "run", lines)
    live(story, random.Random(seed), steps=25)
    story.write()
    assert snapshot(replay(story.plan, story.paths)) == snapshot(story.state)


@given(lines=random_lines(), seed=st.integers(0, 2**32))
def test_lines_of_nodes_that_are_passed_over_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[PlanLine], seed: int
) -> None:
    """A report decodes few lines of the nodes' journals, and comes to what all of them come to."""
    story = Story(tmp_path_factory.getbasetemp() / "run", lines)
    rng = random.Random(seed)
    live(story, rng, steps=10)
    attempts = [(job, count + rng.randint(-1, 1)) for job, count in enumerate(story.state.attempts)]
    events = [{"e": "start", "j": job, "a": attempt, "t": 150.0} for job, attempt in attempts]
    events += [node_end(job, attempt, exit=rng.choice([0, 0, 1])) for job, attempt in attempts]
    story.write(events)
    for event in events:
        story.state.apply(event)
    found = replay(story.plan, story.paths)
    expected = snapshot(story.state)
    # When the last of them was is a matter of the lines that were read.
    assert snapshot(found) == expected
    assert found.recovered == story.state.recovered


# Large runs: no recursion, and no step that looks at all jobs for each job.

MANY = 100_000


def in_seconds(limit: float, begun: float) -> None:
    """Check the processor time, with room for a slow machine: a quadratic step takes hours."""
    assert time.process_time() - begun < limit


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, SubmitPaths]:
    lines = [plan_line(str(n), [n - 1] if n else []) for n in range(MANY)]
    return make_plan(tmp_path_factory.mktemp("chain"), lines)


def test_long_chain_succeeds(chain: tuple[Plan, SubmitPaths]) -> None:
    """A chain of 100,000 jobs is walked job by job, in seconds."""
    begun = time.process_time()
    state = RunState(chain[0])
    state.apply({"e": "session", "t": 1.0, "n": 1})
    for job in range(MANY):
        assert state.take_ready() == [job]
        state.apply({"e": "pending", "t": 1.0, "j": [job]})
        state.apply({"e": "ok", "t": 1.0, "j": [[job, 1.0, 2.0, 10, 0.5]]})
    assert state.is_done
    in_seconds(30, begun)


def test_long_chain_fails(chain: tuple[Plan, SubmitPaths]) -> None:
    """A failure at the head of a chain of 100,000 prunes the rest at once."""
    begun = time.process_time()
    state = RunState(chain[0])
    state.apply({"e": "session", "t": 1.0, "n": 1})
    state.apply({"e": "pending", "t": 1.0, "j": [0]})
    state.apply({"e": "fail", "t": 1.0, "j": 0, "exit": 1, "why": "", "retry": False, "charged": True})
    assert state.totals()[S.PRUNED] == MANY - 1
    assert state.is_done
    state.apply({"e": "session", "t": 2.0, "n": 2})
    assert state.take_ready() == [0]
    in_seconds(30, begun)


def test_jobs_that_have_little_in_common(tmp_path: Path) -> None:
    """60,000 jobs, each with requests of its own, are begun and begun again in seconds."""
    lines = [plan_line(str(n), [n - 1] if n else [], request_walltime=n) for n in range(60_000)]
    plan, _ = make_plan(tmp_path, lines)
    begun = time.process_time()
    state = RunState(plan)
    for number in (1, 2):
        state.apply({"e": "session", "t": 1.0, "n": number})
        assert state.take_ready() == [0]
    in_seconds(30, begun)


def test_wide_fan_in(tmp_path: Path) -> None:
    """50,000 jobs before one, each ending by itself, take seconds."""
    lines = [plan_line(str(n)) for n in range(50_000)]
    plan, _ = make_plan(tmp_path, [*lines, plan_line("last", range(50_000))])
    begun = time.process_time()
    state = RunState(plan)
    state.apply({"e": "session", "t": 1.0, "n": 1})
    assert len(state.take_ready()) == 50_000
    for job in range(50_000):
        state.apply({"e": "pending", "t": 1.0, "j": [job]})
        state.apply({"e": "ok", "t": 1.0, "j": [[job, 1.0, 2.0, 10, 0.5]]})
    assert state.take_ready() == [50_000]
    in_seconds(30, begun)


def test_many_failing_roots(tmp_path: Path) -> None:
    """100,000 jobs that all fail, with one that waits for all of them, take seconds."""
    lines = [plan_line(str(n)) for n in range(MANY)]
    plan, _ = make_plan(tmp_path, [*lines, plan_line("last", range(0, MANY, 2)), plan_line("f", final=True)])
    begun = time.process_time()
    state = RunState(plan)
    state.apply({"e": "session", "t": 1.0, "n": 1})
    state.apply({"e": "pending", "t": 1.0, "j": list(range(MANY))})
    for job in range(MANY):
        state.apply({"e": "fail", "t": 1.0, "j": job, "exit": 1, "why": "", "retry": False, "charged": True})
    assert state.state(MANY) == S.PRUNED
    assert state.state(MANY + 1) == S.READY
    in_seconds(30, begun)
