# SPDX-License-Identifier: BSD-3-Clause
"""The driver, with a fake backend: random graphs, random failures, killed at any event."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lsst.ctrl.bps.parsl.driver import loop
from lsst.ctrl.bps.parsl.driver.loop import GRACE_SECONDS, Driver
from lsst.ctrl.bps.parsl.driver.retry import MOST_LOSSES
from lsst.ctrl.bps.parsl.driver.tasks import Task
from lsst.ctrl.bps.parsl.errors import NoWorkersError, RunAbortedError, StorageError
from lsst.ctrl.bps.parsl.node.journal import encode_line
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import JobKind, Plan
from lsst.ctrl.bps.parsl.report.outcome import error_of
from lsst.ctrl.bps.parsl.run.cancel_request import ask_to_cancel, is_asked
from lsst.ctrl.bps.parsl.run.holder import Holder
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.journal import read_journal
from lsst.ctrl.bps.parsl.run.replay import replay
from run.test_state import random_lines, snapshot
from support.fake import LOST, SUCCEEDS, FakeBackend, Outcome, Run, Script, after, drive, fails
from support.plans import PlanLine, make_plan, plan_line

S = JobState
RETRIES = 2

PHASES = (Phase.explicit, Phase.generate)
"""No search for a smaller example: a driver that hangs takes half a second to say so."""


@pytest.fixture
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the driver look for requests each time, and not twice a second."""
    monkeypatch.setattr(loop, "TICK_SECONDS", 0.0)


def events(paths: SubmitPaths, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_journal(paths.driver_journal) if event["e"] == kind]


def cancel(paths: SubmitPaths) -> None:
    """Ask this process, which is the driver, to cancel the run."""
    ask_to_cancel(paths.cancel_request, Holder.this_process())


def at_step(
    number: int, action: Callable[[FakeBackend, Driver], None]
) -> Callable[[FakeBackend, Driver], None]:
    """Do something between two results, once."""
    steps = iter(range(1_000_000))

    def act(backend: FakeBackend, driver: Driver) -> None:
        if next(steps) == number:
            action(backend, driver)

    return act


# One thing at a time.


def test_higher_priority_goes_first(tmp_path: Path) -> None:
    """Ready jobs are handed out by their priority, and those of one priority by their number."""
    priorities = ["0", "5", None, "-3", "5", "10"]
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}", priority=p) for n, p in enumerate(priorities)])
    run = drive(plan, paths, window=1)
    assert [job for job, _ in run.backend.submitted] == [5, 1, 4, 0, 2, 3]


def test_job_of_high_priority_does_not_wait_for_those_before_it(tmp_path: Path) -> None:
    """A job that becomes ready late is handed out before those of less priority that were ready long ago."""
    lines = [plan_line("first", priority=9), *(plan_line(f"j{n}") for n in range(5))]
    lines.append(plan_line("urgent", [0], priority=1))
    plan, paths = make_plan(tmp_path, lines)
    run = drive(plan, paths, window=1)
    assert [job for job, _ in run.backend.submitted][:2] == [0, 6]


def test_window_is_filled_and_never_passed(tmp_path: Path) -> None:
    """The backend has as many tasks as its window, where there are as many, and never more."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}") for n in range(40)])
    seen: list[int] = []
    drive(plan, paths, window=7, on_step=lambda backend, driver: seen.append(backend.in_flight))
    assert max(seen) == 6  # The fake ends one at once.
    assert all(len(event["j"]) <= 7 for event in events(paths, "pending"))


def test_limited_jobs_run_so_many_at_once(tmp_path: Path) -> None:
    """Jobs with a concurrency limit run as many at once as it says, others beside them as they come."""
    lines = [plan_line(f"db{n}", concurrency_limit="db_limit") for n in range(12)]
    lines += [plan_line(f"both{n}", concurrency_limit="db_limit, tape") for n in range(2)]
    lines += [plan_line(f"list{n}", concurrency_limit=["db_limit", "tape"]) for n in range(2)]
    lines += [plan_line(f"free{n}", concurrency_limit="unknown") for n in range(12)]
    plan, paths = make_plan(tmp_path, lines)
    seen: list[tuple[int, int, int]] = []

    def look(backend: FakeBackend, driver: Driver) -> None:
        jobs = backend.flying()
        limited, both = sum(job < 16 for job in jobs), sum(12 <= job < 16 for job in jobs)
        seen.append((limited, both, len(jobs)))

    run = drive(plan, paths, window=8, limits={"db_limit": 3, "tape": 1}, on_step=look)
    assert set(run.states) == {JobState.SUCCEEDED}
    assert max(limited for limited, _, _ in seen) in (2, 3)
    assert max(both for _, both, _ in seen) <= 1
    assert max(total for _, _, total in seen) > 3


def test_limited_job_that_fails_makes_room(tmp_path: Path) -> None:
    """An attempt that fails frees its place, and its next attempt asks for one again."""
    lines = [plan_line(f"db{n}", concurrency_limit="db_limit", number_of_retries=2) for n in range(5)]
    plan, paths = make_plan(tmp_path, lines)
    run = drive(plan, paths, {1: fails(), 3: after(1, LOST, SUCCEEDS)}, limits={"db_limit": 1})
    assert [run.times(job) for job in range(5)] == [1, 3, 1, 2, 1]


@pytest.mark.parametrize(("value", "status"), [(None, 7), (3, 3), (0, 0)])
def test_exit_code_that_aborts_the_run(tmp_path: Path, value: int | None, status: int) -> None:
    """A job's ``abortOnValue`` ends the run without a retry: the rest is deleted, and the exit
    status is ``abortReturnValue``, or the job's.
    """
    more: dict[str, Any] = {"abort_on_value": 7, "abort_return_value": value, "number_of_retries": 5}
    lines = [plan_line("bad", **more), *(plan_line(f"j{n}", priority=-1) for n in range(20))]
    plan, paths = make_plan(tmp_path, [*lines, plan_line("child", [0]), plan_line("grandchild", [21])])
    run = drive(plan, paths, {0: fails(7)}, window=2)
    assert run.times(0) == 1
    assert run.states[0] == JobState.FAILED
    assert run.states[21:] == [JobState.DELETED, JobState.DELETED]
    assert snapshot(replay(plan, paths)) == snapshot(run.state)
    assert JobState.DELETED in run.states
    assert set(run.states) <= {JobState.FAILED, JobState.DELETED, JobState.SUCCEEDED}
    assert isinstance(run.driver.error, RunAbortedError)
    assert run.driver.error.exit_code == status


def test_success_that_aborts_the_run(tmp_path: Path) -> None:
    """With an ``abortOnValue`` of 0 the success of a job ends the run."""
    lines = [plan_line("good", abort_on_value=0, abort_return_value=4), plan_line("next", [0])]
    plan, paths = make_plan(tmp_path, lines)
    run = drive(plan, paths)
    assert run.states == [JobState.SUCCEEDED, JobState.DELETED]
    assert isinstance(run.driver.error, RunAbortedError)
    assert run.driver.error.exit_code == 4


def test_other_exit_code_does_not_abort(tmp_path: Path) -> None:
    """A job that fails in another way is tried again as usual."""
    plan, paths = make_plan(tmp_path, [plan_line("a", abort_on_value=7, number_of_retries=1), plan_line("b")])
    run = drive(plan, paths, {0: fails(6)})
    assert (run.times(0), run.states[1]) == (2, JobState.SUCCEEDED)
    assert run.driver.error is None


def test_failed_job_runs_again_as_often_as_it_may(tmp_path: Path) -> None:
    """One attempt and the retries, and not one more."""
    plan, paths = make_plan(tmp_path, [plan_line("a", number_of_retries=3), plan_line("b", [0])])
    run = drive(plan, paths, {0: fails(5)})
    assert run.backend.submitted == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert run.states == [S.FAILED, S.PRUNED]
    assert run.state.exit_codes == {0: 5}
    assert run.state.finished == "FAILED"


def test_site_decides_about_retries_where_it_does(tmp_path: Path) -> None:
    """The site's number of retries is in place of the jobs'."""
    plan, paths = make_plan(tmp_path, [plan_line("a", number_of_retries=3)])
    assert drive(plan, paths, {0: fails()}, retries=1).times(0) == 2


def test_exit_code_that_forbids_a_retry(tmp_path: Path) -> None:
    """``retryUnlessExit`` ends the job at once."""
    plan, paths = make_plan(tmp_path, [plan_line("a", number_of_retries=3, retry_unless_exit=[1, 2])])
    assert drive(plan, paths, {0: fails(2)}).times(0) == 1


def test_memory_grows_with_the_attempts(tmp_path: Path) -> None:
    """A job that is killed for memory is made with more each time, up to its cap, once."""
    line = plan_line(
        "a", number_of_retries=9, memory_multiplier=2, request_memory=1000, request_memory_max=3000
    )
    plan, paths = make_plan(tmp_path, [line])
    run = drive(plan, paths, {0: fails(137)})
    assert run.backend.memory == [None, 2000, 3000]
    assert run.states == [S.FAILED]


def test_grown_memory_is_kept_by_the_next_driver(tmp_path: Path) -> None:
    """A restart does not begin with the memory that was too little."""
    line = plan_line("a", number_of_retries=1, memory_multiplier=2, request_memory=1000)
    plan, paths = make_plan(tmp_path, [line])
    assert drive(plan, paths, {0: fails(137)}).backend.memory == [None, 2000]
    run = drive(plan, paths, {0: fails(137)})
    assert run.backend.memory == [2000, 4000]


def test_lost_attempts_cost_no_retry(tmp_path: Path) -> None:
    """A job whose worker goes away runs again, also without retries, but not for ever."""
    plan, paths = make_plan(tmp_path, [plan_line("a"), plan_line("b")])
    run = drive(plan, paths, {0: after(MOST_LOSSES - 1, LOST, SUCCEEDS), 1: LOST})
    assert run.states == [S.SUCCEEDED, S.FAILED]
    assert run.times(0) == run.times(1) == MOST_LOSSES


def test_attempts_are_numbered_through_all_sessions(tmp_path: Path) -> None:
    """No two attempts of a job have one number: a late result cannot be taken for another's."""
    plan, paths = make_plan(tmp_path, [plan_line("a", number_of_retries=1)])
    first = drive(plan, paths, {0: fails()})
    second = drive(plan, paths, {0: fails()})
    assert first.backend.submitted + second.backend.submitted == [(0, n) for n in (1, 2, 3, 4)]


def test_what_the_node_recorded_counts_where_parsl_lost_it(tmp_path: Path) -> None:
    """A result that Parsl lost on its way and that the node wrote down is taken from there."""
    plan, paths = make_plan(tmp_path, [plan_line("a"), plan_line("b"), plan_line("c")])

    def recorded(job: int, exit: int) -> Callable[[int], dict[str, Any]]:
        def outcome(attempt: int) -> dict[str, Any]:
            end = {"exit": exit, "start": 1.0, "end": 2.0, "memory": 1, "cpu": 0.1}
            with (paths.journals / "node-h-1.jsonl").open("ab") as stream:
                stream.write(encode_line({"e": "end", "j": job, "a": attempt, "t": 2.0, **end}))
            return LOST(attempt)

        return outcome

    run = drive(plan, paths, {0: recorded(0, 0), 1: recorded(1, 7)})
    assert run.states == [S.SUCCEEDED, S.FAILED, S.SUCCEEDED]
    assert run.state.exit_codes == {1: 7}
    assert (run.times(0), run.times(1)) == (1, 1)


@pytest.mark.parametrize(
    "line",
    [
        bytes(50) + b"\n",
        b"garbage\n",
        b'{"e":"end","j":3,"a":1,"t":1\n',
        encode_line({"e": "start", "j": 10**6, "a": 1, "t": 1.0, "pid": 1}),
        encode_line({"e": "unheard", "j": 3, "a": 1, "t": 1.0}),
        encode_line({"format": 99}),
    ],
    ids=["zeros", "garbage", "cut", "another plan", "unknown event", "another format"],
)
def test_no_line_of_a_node_ends_a_run(tmp_path: Path, no_ticks: None, line: bytes) -> None:
    """Whatever stands in a node's journal, as zeros that NFS shows, a run goes on, also when jobs are lost:
    what other nodes recorded of these is found.
    """
    plan, paths = make_plan(tmp_path, [plan_line(str(number)) for number in range(20)])
    (paths.journals / "node-bad-0.jsonl").touch()

    def add_line(fake: FakeBackend, driver: Driver) -> None:
        with (paths.journals / "node-bad-0.jsonl").open("ab") as stream:
            stream.write(line)

    def recorded(attempt: int) -> dict[str, Any]:
        end = {"exit": 0, "start": 1.0, "end": 2.0, "memory": 1, "cpu": 0.1}
        with (paths.journals / "node-h-1.jsonl").open("ab") as stream:
            stream.write(encode_line({"e": "end", "j": 5, "a": attempt, "t": 2.0, **end}))
        return LOST(attempt)

    run = drive(plan, paths, {3: after(1, LOST, SUCCEEDS), 5: recorded}, on_step=add_line)
    assert run.state.finished == "SUCCEEDED"
    assert (run.times(3), run.times(5)) == (2, 1)


def test_who_runs_is_read_from_the_nodes(tmp_path: Path, no_ticks: None) -> None:
    """A job that a node has started is RUNNING in the driver's own state."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}") for n in range(9)])
    running: list[int] = []

    def look(backend: FakeBackend, driver: Driver) -> None:
        running.append(driver.state.totals()[S.RUNNING])
        pending = [job for job, value in enumerate(driver.state.states) if value == S.PENDING]
        with (paths.journals / "node-h-1.jsonl").open("ab") as stream:
            for job in pending:
                stream.write(encode_line({"e": "start", "j": job, "a": 1, "t": 1.0, "pid": 1}))

    run = drive(plan, paths, on_step=look)
    assert max(running) > 0
    assert run.states == [S.SUCCEEDED] * 9


def test_empty_run_succeeds(tmp_path: Path) -> None:
    """Nothing to do is done at once, and written down."""
    run = drive(*make_plan(tmp_path, []))
    assert run.state.finished == "SUCCEEDED"
    assert run.backend.closed


def test_journal_says_what_happened(tmp_path: Path) -> None:
    """Each event is written with the time of the clock, in the order in which it happened."""
    plan, paths = make_plan(tmp_path, [plan_line("a", number_of_retries=1), plan_line("b", [0])])
    drive(plan, paths, {0: after(1, fails(9), SUCCEEDS)})
    found = list(read_journal(paths.driver_journal))
    assert [event["e"] for event in found] == [
        "session",
        "pending",
        "fail",
        "pending",
        "ok",
        "pending",
        "ok",
        "finish",
    ]
    assert [event["t"] for event in found] == [float(n) for n in range(8)]
    assert (found[0]["n"], found[0]["pid"]) == (1, os.getpid())
    assert (found[2]["j"], found[2]["exit"], found[2]["retry"]) == (0, 9, True)


def test_failures_are_said_as_they_happen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A retry is a warning and a failure for good an error, with the job, the reason and its log."""
    plan, paths = make_plan(tmp_path, [plan_line("job-a", number_of_retries=1)])
    drive(plan, paths, {0: fails(9)})
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == [logging.WARNING, logging.ERROR]
    assert all("job-a" in text and "exit code 9" in text for _, text in said)
    assert "/logs/0.stderr" in said[1][1]


# Any graph, any failures.


def behaviours(draw: st.DrawFn, count: int) -> dict[int, Outcome]:
    choices = [
        SUCCEEDS,
        SUCCEEDS,
        fails(1),
        fails(127),
        fails(137),
        after(1, fails(3), SUCCEEDS),
        after(RETRIES, fails(3), SUCCEEDS),
        after(3, LOST, SUCCEEDS),
        after(1, LOST, after(2, fails(3), SUCCEEDS)),
    ]
    return {job: draw(st.sampled_from(choices)) for job in range(count)}


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[PlanLine], Script, set[int]]:
    """Draw a graph and what becomes of its jobs; the last item is those that always fail."""
    lines = []
    for name, template, parents, own, files in draw(random_lines()):
        fields = {"number_of_retries": RETRIES, "priority": draw(st.integers(-2, 2))}
        if template["kind"] == "payload":
            template = {**template, "fields": fields}
        lines.append((name, template, parents, own, files))
    script = behaviours(draw, len(lines))
    return lines, script, {job for job, what in script.items() if what(1_000)["exit"] != 0}


def expected_states(plan: Plan, broken: set[int]) -> list[JobState]:
    """Compute how each job ends, from the graph alone."""
    states: list[JobState] = []
    for job in range(len(plan)):
        template = plan.template(job)
        good = all(states[parent] == S.SUCCEEDED for parent in plan.parents(job))
        if template.kind == JobKind.GROUP and not template.blocking:
            states.append(S.SUCCEEDED)
        elif not good:
            states.append(S.PRUNED)
        elif template.kind == JobKind.PAYLOAD and job in broken:
            states.append(S.FAILED)
        else:
            states.append(S.SUCCEEDED)
    return states


def check_end(run: Run, plan: Plan, paths: SubmitPaths, broken: set[int], *, cancelled: bool = False) -> None:
    """Check the end of a run that was not stopped, and of which nothing was left when it was cancelled."""
    assert run.states == expected_states(plan, broken)
    assert run.backend.closed
    succeeded = S.FAILED not in run.states
    assert run.state.finished == ("SUCCEEDED" if succeeded else "DELETED" if cancelled else "FAILED")
    assert snapshot(replay(plan, paths)) == snapshot(run.state)


def fresh(factory: pytest.TempPathFactory, lines: Sequence[PlanLine]) -> tuple[Plan, SubmitPaths]:
    plan, paths = make_plan(factory.getbasetemp() / "run", lines)
    for path in paths.journals.iterdir():
        path.unlink()
    return plan, paths


@settings(phases=PHASES)
@given(run=runs(), seed=st.integers(0, 2**32), window=st.integers(1, 6), record=st.booleans())
def test_any_run_ends_as_its_graph_says(
    tmp_path_factory: pytest.TempPathFactory,
    run: tuple[list[PlanLine], Script, set[int]],
    seed: int,
    window: int,
    record: bool,
) -> None:
    """Jobs run after their parents (the fake checks), as often as they may, and end as they must."""
    lines, script, broken = run
    plan, paths = fresh(tmp_path_factory, lines)
    done = drive(plan, paths, script, seed=seed, window=window, record_nodes=record)
    assert done.backend.kills == []
    check_end(done, plan, paths, broken)
    for job, state in enumerate(done.states):
        charged = sum(
            "lost" not in script[job](attempt) for number, attempt in done.backend.submitted if number == job
        )
        assert charged <= RETRIES + 1
        if state == S.PRUNED:
            assert done.times(job) == 0
        if script[job](1).get("exit") in (0, 127):
            assert done.times(job) <= 1


class Tape:
    """What driver and nodes had written when the driver was killed."""

    def __init__(self, paths: SubmitPaths) -> None:
        self._paths = paths
        self._node = paths.journals / "node-fake-1.jsonl"
        self.driver = paths.driver_journal.read_bytes().splitlines(keepends=True)
        self.node = self._node.read_bytes().splitlines(keepends=True) if self._node.exists() else []

    def cut(self, count: int, *, all_ended: bool) -> None:
        """Go back to the first lines of the driver.

        The nodes go on where the driver does not: their ends are those that
        the driver had heard of, or all of those that had begun.
        """
        self._paths.driver_journal.write_bytes(b"".join(self.driver[:count]))
        begun: dict[int, int] = {}
        heard: set[tuple[int, int]] = set()
        for event in read_journal(self._paths.driver_journal):
            if event["e"] == "pending":
                begun.update({job: begun.get(job, 0) + 1 for job in event["j"]})
            elif event["e"] == "ok":
                heard.update((record[0], begun[record[0]]) for record in event["j"])
            elif event["e"] == "fail":
                heard.add((event["j"], begun[event["j"]]))
        self._node.write_bytes(b"".join(self.node))
        kept = []
        for line, event in zip(self.node, read_journal(self._node), strict=True):
            attempt = (event["j"], event["a"])
            if attempt in heard or (all_ended and event["a"] <= begun.get(event["j"], 0)):
                kept.append(line)
        self._node.write_bytes(b"".join(kept))


def succeeded_on_disk(plan: Plan, paths: SubmitPaths) -> set[int]:
    """Return the jobs that a journal says succeeded, without the state's help."""
    attempts: dict[int, int] = {}
    jobs: set[int] = set()
    for event in read_journal(paths.driver_journal):
        if event["e"] == "pending":
            attempts.update({job: attempts.get(job, 0) + 1 for job in event["j"]})
        elif event["e"] == "ok":
            jobs.update(record[0] for record in event["j"])
    for path in paths.node_journals():
        for event in read_journal(path):
            if event["exit"] == 0 and event["a"] == attempts.get(event["j"]):
                jobs.add(event["j"])
    return jobs


def check_not_again(run: Run, plan: Plan, done_before: set[int]) -> None:
    """Check that what had succeeded did not run; final jobs may where others had to."""
    again = {job for job, _ in run.backend.submitted}
    others_ran = any(not plan.template(job).final for job in again)
    finals = {job for job in range(len(plan)) if plan.template(job).final}
    assert not again & (done_before - finals)
    if not others_ran and not _others_failed(run, plan):
        assert not again & done_before


def _others_failed(run: Run, plan: Plan) -> bool:
    return any(state != S.SUCCEEDED for job, state in enumerate(run.states) if not plan.template(job).final)


@settings(max_examples=40, phases=PHASES)
@given(run=runs(), seed=st.integers(0, 2**32), all_ended=st.booleans())
def test_killed_at_any_event_a_restart_ends_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    run: tuple[list[PlanLine], Script, set[int]],
    seed: int,
    all_ended: bool,
) -> None:
    """After any number of lines of the journal a new driver ends each job as the first would have.

    What a journal says succeeded is not run again.
    """
    lines, script, broken = run
    plan, paths = fresh(tmp_path_factory, lines)
    drive(plan, paths, script, seed=seed, record_nodes=True)
    tape = Tape(paths)
    for count in range(len(tape.driver) + 1):
        tape.cut(count, all_ended=all_ended)
        before = succeeded_on_disk(plan, paths)
        again = drive(plan, paths, script, seed=seed + count, record_nodes=True)
        check_end(again, plan, paths, broken)
        check_not_again(again, plan, before)


@settings(max_examples=40, phases=PHASES)
@given(run=runs(), seed=st.integers(0, 2**32))
def test_killed_again_and_again(
    tmp_path_factory: pytest.TempPathFactory, run: tuple[list[PlanLine], Script, set[int]], seed: int
) -> None:
    """A run that is killed many times, each time somewhere else, ends as one that is not."""
    lines, script, broken = run
    plan, paths = fresh(tmp_path_factory, lines)
    rng = random.Random(seed)
    drive(plan, paths, script, seed=seed, record_nodes=True)
    for step in range(6):
        tape = Tape(paths)
        tape.cut(rng.randint(1, len(tape.driver)), all_ended=rng.random() < 0.5)
        before = succeeded_on_disk(plan, paths)
        again = drive(plan, paths, script, seed=step, record_nodes=True)
        check_end(again, plan, paths, broken)
        check_not_again(again, plan, before)


# Stopped, cancelled, and a full disk.


@settings(phases=PHASES)
@given(run=runs(), seed=st.integers(0, 2**32), step=st.integers(0, 12))
def test_stopped_run_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
    run: tuple[list[PlanLine], Script, set[int]],
    seed: int,
    step: int,
) -> None:
    """A driver that is asked to stop ends its jobs and says so; the next one does what is left."""
    lines, script, broken = run
    plan, paths = fresh(tmp_path_factory, lines)
    first = drive(
        plan, paths, script, seed=seed, on_step=at_step(step, lambda backend, driver: driver.stop("SIGTERM"))
    )
    assert first.backend.closed
    assert first.backend.in_flight == 0
    if first.state.stopped is None:
        # It came too late, or all jobs succeeded in the time that they got.
        assert first.backend.kills in ([], [GRACE_SECONDS])
        check_end(first, plan, paths, broken)
        return
    assert first.state.stopped == "SIGTERM"
    assert first.backend.kills == [GRACE_SECONDS]
    assert not any(value in (S.PENDING, S.RUNNING) for value in first.states)
    before = succeeded_on_disk(plan, paths)
    second = drive(plan, paths, script, seed=seed + 1)
    check_end(second, plan, paths, broken)
    check_not_again(second, plan, before)


def test_job_that_was_stopped_has_not_failed(tmp_path: Path) -> None:
    """What ends because the driver stops is no failure of the job, and costs it no retry."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}") for n in range(20)])
    drive(plan, paths, on_step=at_step(2, lambda backend, driver: driver.stop("SIGINT")))
    assert events(paths, "fail") == []
    (stop,) = events(paths, "stop")
    assert stop["why"] == "SIGINT"


def test_asked_twice_to_stop_the_driver_waits_no_longer(tmp_path: Path) -> None:
    """A second Ctrl-C leaves the jobs no more time."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}") for n in range(20)])

    def twice(backend: FakeBackend, driver: Driver) -> None:
        driver.stop("SIGINT")
        driver.stop("SIGINT")

    run = drive(plan, paths, on_step=at_step(2, twice))
    assert run.backend.kills == [GRACE_SECONDS, 0.0]
    assert run.state.stopped == "SIGINT"


def test_stop_while_jobs_are_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many jobs to hand out, a signal is heeded between two of them; none of them has failed."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}") for n in range(20)])
    drivers: list[Driver] = []
    submit = FakeBackend.submit

    def then_stop(self: FakeBackend, task: Task) -> None:
        submit(self, task)
        if drivers:
            drivers.pop().stop("SIGINT")

    monkeypatch.setattr(FakeBackend, "submit", then_stop)
    run = drive(plan, paths, on_step=at_step(1, lambda _, driver: drivers.append(driver)), seed=1)
    assert run.state.stopped == "SIGINT"
    assert drivers == []
    pending = [job for event in events(paths, "pending") for job in event["j"]]
    assert len(run.backend.submitted) < len(pending)
    assert events(paths, "fail") == []
    assert drive(plan, paths).states == [S.SUCCEEDED] * 20


def test_stop_before_the_first_job(tmp_path: Path) -> None:
    """A signal that comes early is heeded: nothing runs."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}") for n in range(3)])
    run = drive(plan, paths, window=0, on_step=at_step(0, lambda backend, driver: driver.stop("SIGINT")))
    assert run.backend.submitted == []
    assert run.state.stopped == "SIGINT"


def stop_at_the_end(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Have a driver be stopped as soon as it has written the last result down."""
    take_down = Driver._take_down

    def then_stop(self: Driver, results: list[Any]) -> None:
        take_down(self, results)
        if self.state.is_done:
            self.stop(why)

    monkeypatch.setattr(Driver, "_take_down", then_stop)


@pytest.mark.parametrize(("outcome", "status"), [(SUCCEEDS, None), (fails(), 1)])
def test_signal_after_the_last_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, status: int | None
) -> None:
    """A run that is done when the signal comes is done: nothing is left to resume."""
    plan, paths = make_plan(tmp_path, [plan_line("a"), plan_line("f", final=True)])
    stop_at_the_end(monkeypatch, "SIGTERM")
    run = drive(plan, paths, {0: outcome})
    assert (run.state.finished, run.state.stopped) == ("FAILED" if status else "SUCCEEDED", None)
    error = error_of("r", run.state, run.driver.error, paths.config, "bps restart --id r")
    assert (error and error.exit_code) == status
    assert run.backend.kills == []


class _Lenient(FakeBackend):
    """Gives its tasks the time that they need."""

    def kill(self, grace: float) -> None:
        """Let all tasks end by themselves."""
        self.kills.append(grace)
        while self.in_flight:
            self._end_one()


def test_last_job_that_succeeds_while_the_run_is_stopped(tmp_path: Path) -> None:
    """Where all jobs still succeed in the time that they are given to end, the run is done."""
    plan, paths = make_plan(tmp_path, [plan_line("a"), plan_line("b")])
    stop = at_step(0, lambda _, driver: driver.stop("SIGINT"))
    run = drive(plan, paths, on_step=stop, backend_class=_Lenient)
    assert run.states == [S.SUCCEEDED] * 2
    assert (run.state.finished, events(paths, "stop")) == ("SUCCEEDED", [])


def test_workers_that_are_refused_after_the_last_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_ticks: None
) -> None:
    """That no worker can be had is no matter for a run without jobs that need one."""
    plan, paths = make_plan(tmp_path, [plan_line("a")])

    def check(backend: FakeBackend) -> None:
        raise NoWorkersError("the batch system refuses blocks")

    monkeypatch.setattr(FakeBackend, "check", check)
    run = drive(plan, paths)
    assert (run.state.finished, run.driver.error) == ("SUCCEEDED", None)


class _Patient(FakeBackend):
    """Lets the final job, which is number 1, run until it is told otherwise."""

    ends = False

    def _end_one(self) -> None:
        if self.ends or 1 not in self.flying():
            super()._end_one()


@pytest.mark.parametrize("last", [SUCCEEDS, fails()])
def test_cancel_while_the_final_job_runs(tmp_path: Path, no_ticks: None, last: Outcome) -> None:
    """The final job runs also after a cancel, and so it is not ended by one that comes while it runs;
    where nothing was cancelled, the run is what its jobs are.
    """
    plan, paths = make_plan(tmp_path, [plan_line("a"), plan_line("f", final=True)])
    steps = iter(range(100))

    def step(backend: FakeBackend, driver: Driver) -> None:
        assert isinstance(backend, _Patient)
        if backend.flying() == [1]:
            number = next(steps)
            if number == 0:
                cancel(paths)
            backend.ends = number == 3

    run = drive(plan, paths, {1: last}, on_step=step, backend_class=_Patient)
    assert run.state.cancelled
    assert run.backend.kills == []
    assert run.times(1) == 1
    state, outcome = (S.SUCCEEDED, "SUCCEEDED") if last is SUCCEEDS else (S.FAILED, "DELETED")
    assert (run.states, run.state.finished) == ([S.SUCCEEDED, state], outcome)
    assert snapshot(replay(plan, paths)) == snapshot(run.state)


def test_last_job_that_aborts_the_run(tmp_path: Path) -> None:
    """The exit status is ``abortReturnValue`` also where nothing was left to be ended."""
    plan, paths = make_plan(tmp_path, [plan_line("a", abort_on_value=0, abort_return_value=4)])
    run = drive(plan, paths)
    assert run.state.finished == "SUCCEEDED"
    error = error_of("r", run.state, run.driver.error, paths.config, "bps restart --id r")
    assert error is not None
    assert error.exit_code == 4
    assert "Resume" not in error.message


@settings(max_examples=60, phases=PHASES)
@given(run=runs(), seed=st.integers(0, 2**32), step=st.integers(0, 12))
def test_cancelled_run(
    tmp_path_factory: pytest.TempPathFactory,
    run: tuple[list[PlanLine], Script, set[int]],
    seed: int,
    step: int,
) -> None:
    """A request to cancel ends the jobs, lets the final ones run, and leaves a run that can be resumed."""
    lines, script, broken = run
    plan, paths = fresh(tmp_path_factory, lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TICK_SECONDS", 0.0)
        first = drive(plan, paths, script, seed=seed, on_step=at_step(step, lambda *_: cancel(paths)))
    assert first.backend.closed
    if not first.state.cancelled:
        check_end(first, plan, paths, broken)
        return
    succeeded = set(first.states) <= {S.SUCCEEDED}
    assert first.state.finished == ("SUCCEEDED" if succeeded else "DELETED")
    assert first.backend.kills in ([GRACE_SECONDS], [])
    if not first.backend.kills:
        check_end(first, plan, paths, broken, cancelled=True)
    if succeeded:
        return
    assert snapshot(replay(plan, paths)) == snapshot(first.state)
    expected = expected_states(plan, broken)
    for job, state in enumerate(first.states):
        if plan.template(job).final:
            assert state == expected[job]
        else:
            assert state in (expected[job], S.DELETED, S.SUCCEEDED)
    before = succeeded_on_disk(plan, paths)
    second = drive(plan, paths, script, seed=seed + 1)
    check_end(second, plan, paths, broken)
    check_not_again(second, plan, before)


def test_final_job_after_a_cancel_waits_for_what_runs(tmp_path: Path, no_ticks: None) -> None:
    """The final job gathers what the others leave, so they have ended before it begins."""
    lines = [*(plan_line(f"j{n}") for n in range(12)), plan_line("f", final=True)]
    plan, paths = make_plan(tmp_path, lines)
    run = drive(plan, paths, on_step=at_step(1, lambda *_: cancel(paths)))
    assert run.states[12] == S.SUCCEEDED
    assert S.DELETED in run.states
    assert run.backend.submitted[-1] == (12, 1)
    assert run.state.finished == "DELETED"
    found = [event["e"] for event in read_journal(paths.driver_journal)]
    rest = found[found.index("cancel") :]
    assert rest in (["cancel", "ok", "pending", "ok", "finish"], ["cancel", "pending", "ok", "finish"])


def test_run_is_cancelled_twice(tmp_path: Path, no_ticks: None) -> None:
    """Each request is taken away, also one that has nothing left to change: who asks waits for that."""
    plan, paths = make_plan(tmp_path, [plan_line("a"), plan_line("f", final=True, number_of_retries=5)])
    asked: list[bool] = []

    def ask(fake: FakeBackend, driver: Driver) -> None:
        if len(asked) < 2 and not is_asked(paths.cancel_request):
            asked.append(driver.state.cancelled)
            ask_to_cancel(paths.cancel_request, Holder.this_process())

    drive(plan, paths, {1: after(5, fails(), SUCCEEDS)}, on_step=ask)
    assert asked == [False, True]
    assert not is_asked(paths.cancel_request)
    assert len(events(paths, "cancel")) == 1


def test_request_to_an_earlier_driver_is_not_for_this_one(tmp_path: Path, no_ticks: None) -> None:
    """A restart after a cancel is not cancelled by the old request."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}") for n in range(9)])
    me = Holder.this_process()
    ask_to_cancel(paths.cancel_request, replace(me, started=me.started - 1))
    assert drive(plan, paths).state.finished == "SUCCEEDED"


def fill_the_disk(paths: SubmitPaths) -> None:
    """Have each further write to the driver's journal fail for want of space."""
    full = os.open("/dev/full", os.O_WRONLY)
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == str(paths.driver_journal):
                os.dup2(full, int(name), inheritable=False)
        except FileNotFoundError:
            pass  # The descriptor of the listing itself.
    os.close(full)


@pytest.mark.parametrize("step", [0, 2, 5])
def test_journal_that_cannot_be_written_ends_the_jobs(tmp_path: Path, step: int) -> None:
    """Without space the run ends with the reason, no job goes on unwatched, and it can be resumed."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}") for n in range(30)])
    backends: list[FakeBackend] = []

    def act(backend: FakeBackend, driver: Driver) -> None:
        backends.append(backend)
        fill_the_disk(paths)

    with pytest.raises(StorageError, match="No space left on device"):
        drive(plan, paths, {3: fails()}, on_step=at_step(step, act))
    (backend,) = backends
    assert len(backend.kills) == 1
    assert backend.in_flight == 0
    assert backend.closed
    before = succeeded_on_disk(plan, paths)
    second = drive(plan, paths)
    assert second.states == [S.SUCCEEDED] * 30
    check_not_again(second, plan, before)


def test_error_of_the_backend_ends_the_jobs(tmp_path: Path) -> None:
    """Whatever goes wrong in the driver, its jobs end with it."""
    plan, paths = make_plan(tmp_path, [plan_line(f"j{n}") for n in range(30)])
    backends: list[FakeBackend] = []

    def act(backend: FakeBackend, driver: Driver) -> None:
        backends.append(backend)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        drive(plan, paths, on_step=at_step(2, act))
    assert backends[0].kills
    assert backends[0].closed
    assert drive(plan, paths).states == [S.SUCCEEDED] * 30


def test_long_chain_through_the_driver(tmp_path: Path) -> None:
    """Each job of a chain is handed out when the one before it has ended, and the driver never waits."""
    plan, paths = make_plan(tmp_path, [plan_line(str(n), [n - 1] if n else []) for n in range(2000)])
    run = drive(plan, paths)
    assert run.backend.submitted == [(n, 1) for n in range(2000)]
