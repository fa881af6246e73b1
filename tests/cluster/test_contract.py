# SPDX-License-Identifier: BSD-3-Clause
"""What holds on every engine: the same tests on each that runs here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from end_to_end.support import (
    Step,
    assert_done_once,
    events_of_kind,
    job_names,
    node_ends,
    node_events,
    report_counts,
    wait_until,
)
from end_to_end.test_pipeline import run_id_of, submit_path_of
from end_to_end.tinycam.repo import contents
from end_to_end.tinycam.tasks import executed
from lsst.ctrl.bps import WmsStates

from .engines import ENGINES, Bench, Engine

OUTPUT = "u/tester/tiny"
FOUR = [f"s{number}" for number in range(4)]
STEPS = [
    Step("first"),
    *(Step(name, ["first"]) for name in FOUR),
    Step("bad", ["first"]),
    Step("larger", ["bad", "s3"], fields={"request_memory": 1536}),
    Step("last", [*FOUR, "larger"]),
]
FINAL = Step("final", label="finalJob")


@pytest.fixture(params=ENGINES, ids=str)
def bench(request: pytest.FixtureRequest, make_bench: Callable[[Engine], Bench]) -> Bench:
    """A sandbox for each engine."""
    return make_bench(request.param)


def test_pipeline(bench: Bench, with_repo: Callable[[Bench], Bench]) -> None:
    """A pipeline through ``bps submit`` succeeds: its datasets are in the
    Butler, its jobs' output is in their logs, the report counts them, and
    neither a process nor a batch job of it is left.
    """
    with_repo(bench)
    finished = bench.drive("submit", bench.tinycam()).finish().succeeded()
    assert not bench.engine.prefix or finished.stdout.count("Submit dir:") <= 1, "one driver"
    bench.assert_queue_empty()
    bench.assert_nothing_runs()
    submit_path, run_id = submit_path_of(finished.stdout), run_id_of(finished.stdout)
    found = contents(bench.path / "repo", OUTPUT)
    assert {str(value) for value in found["flat"].values()} == {str({"value": value}) for value in (0, 200)}
    assert len(found["total"]) == 2
    assert Counter(executed(bench.path)) == Counter(["isr g 0", "isr r 0", "combine g", "combine r"])
    assert_done_once(submit_path)
    names = job_names(submit_path)
    assert len(names) == 6
    for name in names:
        (log,) = (submit_path / "logs").rglob(f"{name}.stderr")
        assert log.with_suffix(".stdout").exists()
        assert (
            name.endswith(("pipetaskInit", "finalJob")) or "Executed 1 quanta successfully" in log.read_text()
        ), log
    warm = Counter(event.get("warm") for event in node_ends(submit_path))
    assert warm == {True: 5, None: 1}, "the final job is bash"
    report = bench.bps("report", "--id", run_id).succeeded().stdout
    assert "SUCCEEDED" in report
    assert report_counts(report, "TOTAL") == {"SUCCEEDED": 6, "EXPECTED": 6}
    assert report_counts(report, "isr") == {"SUCCEEDED": 2, "EXPECTED": 2}
    assert bench.bps("status", "--id", run_id).code == WmsStates.SUCCEEDED.value


def test_killed_failed_cancelled(bench: Bench) -> None:
    """The driver is killed with SIGKILL in the middle; the run is resumed and
    a job fails; it is resumed and cancelled; it is resumed and finishes. No
    step that had succeeded runs again, none runs twice at once, and nothing
    stays in the queue. Four jobs run at once. The final job runs on a worker
    where the site says so, also after the cancel.
    """
    bench.prepare(STEPS, final=FINAL, numberOfRetries=0)
    bench.break_step("bad", 3)
    for name in FOUR:
        bench.hold(name)
    driver = bench.drive("restart", "--id", bench.id)
    bench.await_step(driver, *FOUR)
    nodes = {node for name, _, node in bench.where() if name in FOUR}
    assert len(nodes) == bench.engine.nodes, "nodes that they run on"
    for name in FOUR[:2]:
        bench.let_go(name)
    wait_until(lambda: node_events(bench.submit_path, "end").keys() >= {*FOUR[:2]}, "two succeed")
    driver.kill()
    assert "its driver died" in bench.bps("report", "--id", bench.id).succeeded().stdout
    done = set(node_events(bench.submit_path, "end"))

    driver = bench.drive("restart", "--id", bench.id)
    # Before, they might come to their end and not be recorded.
    again = [*FOUR, *FOUR[2:]]
    wait_until(lambda: Counter(bench.steps("begin")) >= Counter(again), "the other two begin again", 300.0)
    for name in FOUR[2:]:
        bench.let_go(name)
    failed = driver.finish().complained("step bad was told to fail")
    assert re.search(r"\bbad\b", failed.text)
    bench.assert_queue_empty()
    begun = Counter(bench.steps("begin"))
    assert {name for name in done if begun[name] > 1} <= {"bad"}
    assert report_counts(bench.bps("report", "--id", bench.id).stdout, "TOTAL")["FAILED"] == 1
    assert bench.bps("status", "--id", bench.id).code == WmsStates.FAILED.value

    bench.mend_step("bad")
    bench.hold("last")
    driver = bench.drive("restart", "--id", bench.id)
    bench.await_step(driver, "last")
    bench.bps("cancel", "--id", bench.id).succeeded()
    driver.finish().complained("was cancelled")
    bench.assert_queue_empty()
    bench.assert_nothing_runs()
    assert "DELETED" in bench.bps("report", "--id", bench.id).succeeded().stdout
    assert bench.bps("status", "--id", bench.id).code == WmsStates.DELETED.value

    bench.let_go("last")
    bench.drive("restart", "--id", bench.id).finish().succeeded()
    bench.assert_queue_empty()
    on_worker = bench.engine.site.get("finalJob") == "workers"
    finals = {job != "none" for name, job, _ in bench.where() if name == "final"}
    assert bench.engine.allocation or finals == {on_worker}, "where the final job ran"
    ended = Counter(bench.steps("end"))
    assert {name: count for name, count in ended.items() if name != "final"} == {
        step.name: 1 for step in STEPS
    }
    assert not bench.steps("overlap"), "steps that ran twice at the same time"
    assert len(events_of_kind(bench.submit_path, "session")) == 4
