# SPDX-License-Identifier: BSD-3-Clause
"""A run to which one of its jobs adds the others: its state, and how it is computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps.parsl.errors import DamagedFileError
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.replay import recovered_events, replay
from lsst.ctrl.bps.parsl.run.state import RunState
from support.plans import make_payload, plan_line

from .test_state import Story, node_end

S = JobState
BUILD, PREPARE, A, B, FINAL = range(5)
CONTROL = [plan_line("build", label="build"), plan_line("prepare", [BUILD], label="prepare", lazy=True)]
PAYLOAD = [plan_line("a", label="x"), plan_line("b", [0], label="y"), plan_line("f", label="z", final=True)]


def story_of(tmp_path: Path, *, attached: bool = True) -> Story:
    """Begin a run; its second part is in its place or not."""
    story = Story(tmp_path, CONTROL)
    if attached:
        make_payload(story.paths, PAYLOAD)
    story.session()
    return story


def prepared(tmp_path: Path) -> Story:
    """Tell of a run up to where its second part counts."""
    story = story_of(tmp_path)
    story.ok(BUILD)
    story.ok(PREPARE)
    story.tell("payload", plan="payload")
    return story


def replayed(story: Story, nodes: list[dict[str, Any]] | None = None) -> RunState:
    """Compute the state as another process does."""
    story.write(nodes or [])
    return replay(Plan(story.paths.plan), story.paths)


def test_number_of_jobs_is_not_known_before(tmp_path: Path) -> None:
    """Until the lazy job has ended more jobs may follow; when it has, they are to be taken up, and the run is
    not done without them.
    """
    story = story_of(tmp_path)
    assert story.state.awaits_payload
    assert story.ok(BUILD) == [PREPARE]
    assert not story.state.lacks_payload
    assert story.ok(PREPARE) == []
    assert (story.state.awaits_payload, story.state.lacks_payload) == (True, True)
    assert not story.state.is_done
    assert sum(story.state.totals().values()) == 2


def test_second_part_counts_from_its_event_on(tmp_path: Path) -> None:
    """Its jobs are numbered on and ready in their own order, the final one last; labels are in order."""
    story = prepared(tmp_path)
    state = story.state
    assert state.take_ready() == [A]
    assert (state.awaits_payload, state.lacks_payload, state.is_done) == (False, False, False)
    assert list(state.label_counts()) == ["build", "prepare", "x", "y", "z"]
    assert story.ok(A) == [B]
    assert story.ok(B) == [FINAL]
    story.ok(FINAL)
    assert state.is_done
    assert state.outcome() == S.SUCCEEDED
    found = replayed(story)
    assert bytes(found.states) == bytes(state.states)
    assert found.counts == state.counts
    assert found.is_done


def test_run_without_payload_jobs_is_done(tmp_path: Path) -> None:
    """Nothing to do is a success, also when that is known late."""
    story = Story(tmp_path, CONTROL)
    make_payload(story.paths, [])
    story.session()
    story.ok(BUILD)
    story.ok(PREPARE)
    story.tell("payload", plan="payload")
    assert story.state.is_done


def test_attached_part_does_not_count_by_itself(tmp_path: Path) -> None:
    """What a job has put into place is no part of the state before a driver wrote that down."""
    story = story_of(tmp_path)
    story.ok(BUILD)
    found = replayed(story)
    assert len(found.states) == 2
    assert recovered_events(found) == []


def test_failure_of_the_lazy_job_ends_the_run(tmp_path: Path) -> None:
    """Without it there are no more jobs."""
    story = story_of(tmp_path, attached=False)
    story.ok(BUILD)
    story.fail(PREPARE)
    assert story.state.is_done
    assert not story.state.awaits_payload
    assert story.state.outcome() == S.FAILED


def test_cancel_in_each_part(tmp_path: Path) -> None:
    """Cancelled before the second part counts, the run ends without it; afterwards its final job runs."""
    story = story_of(tmp_path / "1")
    story.ok(BUILD)
    story.tell("cancel")
    assert story.states == [S.SUCCEEDED, S.DELETED]
    assert story.state.is_done
    story = story_of(tmp_path / "2")
    story.ok(BUILD)
    story.ok(PREPARE)
    story.tell("cancel")
    assert story.state.is_done, "it had ended, and nobody had taken the jobs up"
    assert story.state.outcome() == S.DELETED
    story = prepared(tmp_path / "3")
    story.tell("cancel")
    assert story.states[A:] == [S.DELETED, S.DELETED, S.READY]
    story.ok(FINAL)
    assert story.state.is_done


@pytest.mark.parametrize("done", range(5))
def test_next_driver_does_what_is_not_done(tmp_path: Path, done: int) -> None:
    """Killed after any job, the next driver goes on with the one that follows, and none runs twice."""
    story = story_of(tmp_path)
    for job in range(done + 1):
        if job == A:
            story.tell("payload", plan="payload")
        story.ok(job)
    if done == PREPARE:
        found = replayed(story)
        found.plan.add_payload()  # As a driver does where it is in its place.
        assert recovered_events(found) == [{"e": "payload", "plan": "payload"}]
        story.tell("payload", plan="payload")
    ready = story.session()
    assert ready == ([done + 1] if done < FINAL else [])
    assert story.states[: done + 1] == [S.SUCCEEDED] * (done + 1)
    found = replayed(story)
    assert bytes(found.states) == bytes(story.state.states)


def test_lazy_job_that_added_nothing_runs_again(tmp_path: Path) -> None:
    """Its success, of which only a node knows, is no use to a driver that finds no second part."""
    story = story_of(tmp_path, attached=False)
    story.ok(BUILD)
    story.tell("pending", j=[PREPARE])
    found = replayed(story, [node_end(PREPARE, 1)])
    assert not found.lacks_payload
    assert recovered_events(found) == []
    assert story.session() == [PREPARE]


def test_final_job_does_not_begin_beside_the_second_part(tmp_path: Path) -> None:
    """After a restart, too, it waits for what is still to be done."""
    story = prepared(tmp_path)
    story.ok(A)
    story.fail(B)
    story.ok(FINAL)
    assert story.session() == [B]
    assert story.states[FINAL] == S.UNREADY
    assert story.ok(B) == [FINAL]


@pytest.mark.parametrize("lost", ["line", "journal"])
def test_nodes_know_of_jobs_that_the_journal_does_not(tmp_path: Path, lost: str) -> None:
    """Where the driver's last lines were lost with its host, or come later than a node's, the second part
    counts because a node has run one of its jobs; the next driver writes that down first.
    """
    story = story_of(tmp_path)
    if lost == "line":
        story.ok(BUILD)
        story.ok(PREPARE)
    else:
        story.journal.clear()
    nodes = [node_end(A, 1), node_end(BUILD, 1), node_end(PREPARE, 1)]
    found = replayed(story, nodes)
    assert [found.state(job) for job in range(5)] == [S.SUCCEEDED] * 3 + [S.READY, S.UNREADY]
    events = recovered_events(found)
    assert events[0] == {"e": "payload", "plan": "payload"}
    for event in events:
        story.tell(**{"kind": event["e"], **{key: value for key, value in event.items() if key != "e"}})
    assert story.session() == [B]


def test_another_second_part_is_damage(tmp_path: Path) -> None:
    """One that was exchanged, or is gone, is an error that names a file."""
    story = prepared(tmp_path)
    make_payload(story.paths, PAYLOAD[:1], id="another")
    with pytest.raises(DamagedFileError):
        replayed(story)
    story.paths.payload.unlink()
    with pytest.raises(DamagedFileError, match=r"payload\.jsonl is missing"):
        replayed(story)
    # Of a run that none is to be added to, there is none.
    other = Story(tmp_path / "other", [plan_line("a")])
    make_payload(other.paths, PAYLOAD)
    with pytest.raises(DamagedFileError):
        replayed(other, [node_end(1, 1)])
