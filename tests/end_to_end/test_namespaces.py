# SPDX-License-Identifier: BSD-3-Clause
"""Containers whose processes have numbers of their own, as unshare(1) makes them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import cache

import psutil
import pytest

from lsst.ctrl.bps import WmsStates

from .support import BIN, HERE, Running, Sandbox, Step, wait_until

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
if os.getuid() != 0:
    UNSHARE.append("--map-root-user")  # Where a plain user may.
OUTSIDE = f"{socket.gethostname()}, in a process namespace of its own (pid 1 there)"
INSIDE = f"{socket.gethostname()}, outside this process namespace"

_VERBS = """
import sys
sys.path.append(sys.argv[1])
from end_to_end.support import run_bps
for verb in ("report", "status", "restart", "cancel"):
    print("--", verb, run_bps([verb, "--id", "run"]), flush=True)
"""


@cache
def may_unshare() -> bool:
    """Tell whether this user can have a process namespace."""
    done = subprocess.run([*UNSHARE, "true"], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not may_unshare(), reason="no process namespace is to be had here"
)


def in_container(box: Sandbox, *words: str) -> Running:
    """Start a process that is number 1."""
    driver = box.start(*UNSHARE, *words)
    box._forked.append(driver)
    return driver


def test_driver_in_a_container(box: Sandbox) -> None:
    """All verbs outside tell that its driver lives, and where. Killed, it is known to be dead at once, and
    the run is resumed outside; which is seen, and cancelled, from a container.
    """
    box.prepare([Step("first"), Step("second", ["first"])])
    box.hold("second")
    driver = in_container(box, str(BIN / "bps"), "restart", "--id", "run")
    wait_until(lambda: "second" in box.steps("begin"), "its job begins")
    report = box.bps("report", "--id", "run").succeeded().stdout
    assert f"is driven on {OUTSIDE}" in " ".join(report.split())
    assert box.bps("status", "--id", "run").code == WmsStates.RUNNING.value
    box.bps("restart", "--id", "run").complained(f"still being driven on {OUTSIDE}")
    (first,) = psutil.Process(driver.pid).children()
    os.kill(first.pid, signal.SIGKILL)
    driver.finish()
    assert "its driver died" in box.bps("report", "--id", "run").succeeded().stdout
    assert box.bps("status", "--id", "run").code == WmsStates.FAILED.value

    again = box.fork("restart", "--id", "run")
    wait_until(lambda: box.steps("begin").count("second") == 2, "its job begins again")
    _verbs_inside(box)
    assert again.finish().code != 0
    assert "DELETED" in box.bps("report", "--id", "run").succeeded().stdout


def _verbs_inside(box: Sandbox) -> None:
    """A driver outside is seen from a container to live, is cancelled from there, and ends."""
    said = in_container(box, sys.executable, "-c", _VERBS, str(HERE.parent)).finish().text
    assert f"is driven on {INSIDE}" in " ".join(said.split()), said
    for verb, code in (("report", 0), ("status", WmsStates.RUNNING.value), ("restart", 1), ("cancel", 0)):
        assert f"-- {verb} {code}\n" in said
    assert f"still being driven on {INSIDE}" in " ".join(said.split()), said


def test_cancel_a_driver_in_a_container(box: Sandbox) -> None:
    """It ends its jobs and itself, and says so; then there is nothing to cancel."""
    box.prepare([Step("only")])
    box.hold()
    driver = in_container(box, str(BIN / "bps"), "restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "its job begins")
    cancelled = box.bps("cancel", "--id", "run").succeeded()
    assert OUTSIDE in " ".join(cancelled.text.split())
    assert driver.finish().code != 0
    assert "DELETED" in box.bps("report", "--id", "run").succeeded().stdout
