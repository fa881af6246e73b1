# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C and its kin, and ``bps cancel``."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest

from lsst.ctrl.bps import WmsStates
from lsst.ctrl.bps.parsl.driver import loop

from .support import Running, Sandbox, Step, events_of_kind, journal_events, wait_until

STEPS = [
    Step("root"),
    *(Step(f"s{n}", ["root"]) for n in range(4)),
    Step("last", [f"s{n}" for n in range(4)]),
]
FINAL = Step("final", label="finalJob")
STUBBORN = "-c 'trap \"\" TERM; echo begin stubborn >>steps.txt; while [ ! -e done ]; do sleep 0.1; done'"


def start_held(box: Sandbox) -> Running:
    """Start a run and return when two of its jobs wait."""
    box.prepare(STEPS, final=FINAL)
    for n in range(4):
        box.hold(f"s{n}")
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: len(box.steps("begin")) == 3, "root and two more begin")
    return driver


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal(box: Sandbox, number: signal.Signals) -> None:
    """A signal ends the jobs and the driver; the journal is whole; the last
    line says how to resume; nothing is charged to the jobs; and resuming
    finishes the run.
    """
    driver = start_held(box)
    driver.signal(number)
    finished = driver.finish().complained(f"Stopped ({number.name}); 1 of 7 jobs succeeded")
    assert finished.code == 128 + number
    assert finished.stderr.rstrip().splitlines()[-1].endswith("Resume with: bps restart --id run"), finished
    box.assert_nothing_runs()
    assert journal_events(box.submit_path)[-1]["e"] == "stop"
    assert "final" not in box.steps("begin"), "the run is to go on: its final job waits"
    for name in (f"s{n}" for n in range(4)):
        box.let_go(name)
    box.bps("restart", "--id", "run").succeeded()
    assert Counter(box.steps("end")) == Counter([step.name for step in [*STEPS, FINAL]])
    assert not events_of_kind(box.submit_path, "fail")


def test_nohup(box: Sandbox) -> None:
    """Under ``nohup`` a run goes on when the terminal goes away."""
    box.prepare([Step("a")])
    box.hold()
    driver = box.start("nohup", "bps", "restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "the job begins")
    driver.signal(signal.SIGHUP)
    box.let_go()
    driver.finish().succeeded()
    assert box.steps("end") == ["a"]


def test_second_ctrl_c(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that do not end at a SIGTERM have their time; a second Ctrl-C
    ends them at once.
    """
    assert loop.GRACE_SECONDS == 10.0
    # Also in the copy of this process that drives the run: it cannot be taken for a slow end.
    monkeypatch.setattr(loop, "GRACE_SECONDS", 300.0)
    box.prepare([Step("stubborn", executable="/bin/sh", arguments=STUBBORN)])
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "the job begins")
    begun = time.monotonic()
    driver.signal(signal.SIGINT)
    driver.wait_for("Stopping (SIGINT)")
    assert driver.poll() is None
    driver.signal(signal.SIGINT)
    finished = driver.finish().complained("Resume with: bps restart --id run")
    assert time.monotonic() - begun < 120.0
    assert finished.code == 130
    box.assert_nothing_runs()


def test_cancel(box: Sandbox) -> None:
    """Cancelled from another process: what runs ends, nothing more begins but
    the final job, the state is DELETED, the submitting process says so and
    how to resume; a second cancel is refused; a restart does the rest.
    """
    driver = start_held(box)
    cancelled = box.bps("cancel", "--id", "run").succeeded()
    assert "Successfully canceled job" in cancelled.stdout
    finished = driver.finish().complained(
        "Run run was cancelled; 2 of 7 jobs succeeded. Resume with: bps restart --id run"
    )
    assert finished.code == 1
    box.assert_nothing_runs()
    assert Counter(box.steps("end")) == Counter(root=1, final=1)
    assert events_of_kind(box.submit_path, "finish")[0]["state"] == "DELETED"
    assert box.bps("status", "--id", "run").code == WmsStates.DELETED.value
    box.bps("cancel", "--id", "run").complained("has ended before (DELETED)", "nothing to cancel")
    for name in (f"s{n}" for n in range(4)):
        box.let_go(name)
    box.bps("restart", "--id", "run").succeeded()
    expected = Counter([step.name for step in [*STEPS, FINAL]])
    assert Counter(box.steps("end")) == expected + Counter(final=1)


@pytest.mark.slow
def test_cancel_stubborn_job(box: Sandbox) -> None:
    """A job that ignores SIGTERM does not keep a run from being cancelled."""
    box.prepare([Step("stubborn", executable="/bin/sh", arguments=STUBBORN)], final=FINAL)
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "the job begins")
    box.bps("cancel", "--id", "run").succeeded()
    driver.finish().complained("was cancelled")
    assert box.steps("end") == ["final"]


def test_cancel_dead_run(box: Sandbox) -> None:
    """A run whose driver was killed is cancelled as well."""
    driver = start_held(box)
    driver.kill()
    box.bps("cancel", "--id", "run").succeeded()
    assert box.bps("status", "--id", "run").code == WmsStates.DELETED.value
    box.assert_nothing_runs()


def test_cancel_user(box: Sandbox) -> None:
    """``bps cancel --user`` cancels what the user has going, and no run of
    another user.
    """
    driver = start_held(box)
    assert "No job matches" in box.bps("cancel", "--user", "somebody").stdout
    assert driver.poll() is None
    box.bps("cancel", "--user", "tester").succeeded()
    driver.finish().complained("was cancelled")
