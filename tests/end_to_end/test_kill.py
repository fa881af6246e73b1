# SPDX-License-Identifier: BSD-3-Clause
"""``kill -9`` of the driver, and what a restart makes of it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from .support import (
    BIN,
    MARKER,
    SERVICE,
    Finished,
    Sandbox,
    Step,
    assert_done_once,
    events_of_kind,
    node_events,
    wait_until,
)

LAYERS = 4
STEPS = [
    Step("first"),
    *(
        Step(f"s{layer}{number}", [f"s{layer - 1}{n}" for n in range(3)] if layer else ["first"])
        for layer in range(LAYERS)
        for number in range(3)
    ),
]
FINAL = Step("final", label="finalJob")
ALL = [step.name for step in [*STEPS, FINAL]]


def restart_elsewhere(box: Sandbox, submit_path: Path, timeout: float = 300.0) -> Finished:
    """Restart from another directory, with next to no environment."""
    other = box.path / "elsewhere"
    other.mkdir(exist_ok=True)
    env = {"PATH": "/usr/bin:/bin", "HOME": box.env["HOME"], "TMPDIR": box.env["TMPDIR"]}
    return box.run(
        BIN / "bps",
        "restart",
        "--wms-service-class",
        SERVICE,
        "--id",
        submit_path,
        env=env,
        cwd=other,
        timeout=timeout,
    )


@pytest.mark.some(1)
@pytest.mark.parametrize("moment", ["first", "s00", "s12", "s32", "final"])
def test_kill(box: Sandbox, moment: str) -> None:
    """Killed while a certain job runs: its jobs end within seconds; report and
    status say that the driver died and how to resume; after a restart from
    elsewhere every job has succeeded once, and only what was in flight at the
    kill has begun twice.
    """
    box.prepare(STEPS, final=FINAL)
    submit_path = box.submit_path
    box.hold(moment)
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: moment in box.steps("begin"), f"{moment} begins")
    # The others of its layer, of which one can run beside it, are done.
    layer = {step.name for step in STEPS if moment[:1] == "s" and step.name[:2] == moment[:2]}
    wait_until(lambda: layer - {moment} <= set(node_events(submit_path, "end")), "the rest of its layer")
    driver.kill()
    box.assert_nothing_runs()
    assert box.bps("status", "--id", "run").code != 0
    report = box.bps("report", "--id", "run").succeeded()
    assert "FAILED" in report.stdout
    assert "its driver died. Resume it with: bps restart --id run" in report.stdout

    box.let_go(moment)
    restart_elsewhere(box, submit_path).succeeded()
    assert_done_once(submit_path, in_flight=[moment])
    ended = Counter(box.steps("end"))
    assert ended == Counter(ALL), "each script came to its end once"
    assert Counter(box.steps("begin")) == Counter([*ALL, moment])
    sessions = events_of_kind(submit_path, "session")
    assert [event["n"] for event in sessions] == [1, 2]


@pytest.mark.slow
def test_kill_at_any_time(box: Sandbox) -> None:
    """Killed five times in a row, at moments that nothing was prepared for:
    in the end every job has succeeded once, and none that had ended ran again.
    """
    steps = [Step(f"n{number:02d}", [f"n{number - 7:02d}"] if number >= 7 else []) for number in range(60)]
    names = [*(step.name for step in steps), "final"]
    box.prepare(steps, final=FINAL)
    box.hold("final")  # However late a kill comes, there is something left.
    begun_before: Counter[str] = Counter()
    for milestone in (3, 11, 23, 40, 60):
        driver = box.fork("restart", "--id", "run")
        wait_until(partial(_reached, box, milestone), f"{milestone} steps have ended")
        driver.kill()
        box.assert_nothing_runs()
        begun = Counter(box.steps("begin"))
        again = {name for name in begun_before if begun[name] > begun_before[name]}
        assert not again, "what had succeeded before this session and ran in it"
        begun_before = Counter({name: begun[name] for name in node_events(box.submit_path, "end")})
    box.let_go("final")
    restart_elsewhere(box, box.submit_path).succeeded()
    assert dict(node_events(box.submit_path, "end")) == dict.fromkeys(names, 1)
    # Of each session that was killed, no more than two were in flight.
    assert len(box.steps("begin")) <= len(names) + 2 * 5


def _reached(box: Sandbox, milestone: int) -> bool:
    return len(set(box.steps("end"))) >= milestone


@pytest.mark.slow
def test_jobs_end_with_the_driver(box: Sandbox) -> None:
    """Jobs that ignore SIGTERM, and their children, end within seconds of the
    driver; a process that left the job's process group ends with the restart.
    """
    stubborn = "-c 'trap \"\" TERM; echo begin stubborn >>steps.txt; sleep 300 & [ -e done ] || sleep 300'"
    escaped = "-c 'echo begin escaped >>steps.txt; [ -e done ] && exit 0; setsid sleep 301 & sleep 300'"
    box.prepare(
        [
            Step("stubborn", executable="/bin/sh", arguments=stubborn),
            Step("escaped", executable="/bin/sh", arguments=escaped),
        ]
    )
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: len(box.steps("begin")) == 2, "both jobs begin")
    driver.kill()

    def left() -> list[list[str]]:
        lines = []
        for process in box.processes():
            with suppress(psutil.Error):  # It ended in the meantime.
                lines.append(process.cmdline())
        return lines

    wait_until(lambda: all("301" in line for line in left()), "all but the one that escaped end")
    (box.path / "done").touch()
    box.bps("restart", "--id", "run").succeeded()
    box.assert_nothing_runs()


def test_killed_runner(box: Sandbox) -> None:
    """The process that starts the jobs is killed: its jobs end, the driver
    notices within seconds and has them run again, charging nobody. What a job
    has left behind ends, too, whatever session it is in.
    """
    daemon = "-c 'setsid sleep 302 & echo begin daemon >>steps.txt; exec ./step.sh held'"
    box.prepare([Step("held", executable="/bin/sh", arguments=daemon)])
    box.hold("held")
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: "held" in box.steps("begin"), "the job begins")
    (runner,) = [process for process in box.processes("node.runner") if process.ppid() == driver.pid]
    runner.kill()
    wait_until(lambda: box.steps("begin").count("held") == 2, "the job begins again")
    box.let_go("held")
    driver.finish().succeeded()
    assert not [event for event in events_of_kind(box.submit_path, "fail") if event["charged"]]
    assert box.steps("end") == ["held"]
    box.assert_nothing_runs()


def test_two_drivers_at_once(box: Sandbox) -> None:
    """Of several that start at the same time, one drives the run, and the
    others say so.
    """
    box.prepare([Step("a"), Step("b", ["a"])])
    box.hold("b")
    drivers = [box.fork("restart", "--id", "run") for _ in range(4)]
    wait_until(lambda: sum(driver.poll() is None for driver in drivers) == 1, "three give up")
    wait_until(lambda: "b" in box.steps("begin"), "the other goes on")
    box.let_go("b")
    results = [driver.finish() for driver in drivers]
    assert sorted(result.code for result in results) == [0, 1, 1, 1]
    for result in results:
        if result.code:
            result.complained("still being driven")
    assert box.steps("begin") == ["a", "b"]


@pytest.mark.slow
def test_torn_journal(box: Sandbox) -> None:
    """Lines cut short by a crash, of the driver and of a node, are no
    obstacle: the restart skips them.
    """
    box.prepare(STEPS)
    box.hold("s12")
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: "s12" in box.steps("begin"), "s12 begins")
    driver.kill()
    box.assert_nothing_runs()
    for path in (box.submit_path / "parsl/journal").iterdir():
        with open(path, "ab") as stream:
            stream.write(b'{"e":"end","j":3,"a"')
    box.let_go("s12")
    restart_elsewhere(box, box.submit_path).succeeded()
    succeeded = node_events(box.submit_path, "end")
    assert dict(succeeded) == dict.fromkeys([step.name for step in STEPS], 1)


@pytest.mark.slow
def test_rebooted_and_moved_registry(box: Sandbox) -> None:
    """A lock that an earlier boot of this host left, with the process id of a
    living process, holds nobody up; nor does a lost registry.
    """
    box.prepare(STEPS[:2])
    box.hold()
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: "first" in box.steps("begin"), "first begins")
    driver.kill()
    box.assert_nothing_runs()
    lock = box.submit_path / "parsl/driver.lock"
    holder = json.loads(lock.read_text())
    lock.write_text(json.dumps({**holder, "pid": 1, "boot": "another"}))
    shutil.rmtree(box.state)
    box.let_go()
    restart_elsewhere(box, box.submit_path).succeeded()
    assert MARKER  # the sandbox's own variable came along
    assert_done_once(box.submit_path, in_flight=["first"])
