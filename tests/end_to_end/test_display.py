# SPDX-License-Identifier: BSD-3-Clause
"""What a person sees: the progress on a terminal and in a file, the summary,
and the reports.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from .support import BIN, HERE, Sandbox, Step, wait_until
from .terminal import Screen, run_on_terminal

GOLDEN = HERE / "golden"
ACCEPT = "BPS_PARSL_ACCEPT_GOLDEN"


def assert_golden(name: str, text: str, box: Sandbox) -> None:
    """Compare a text with the one that was accepted."""
    text = text.replace(str(box.path), "<box>")
    text = re.sub(r"\(pid \d+\)", "(pid <pid>)", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get(ACCEPT):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    accepted = path.read_text() if path.exists() else ""
    diff = difflib.unified_diff(
        accepted.splitlines(), text.splitlines(), f"golden/{name}.txt", "what it is now", lineterm=""
    )
    difference = "\n".join(diff)
    assert not difference, (
        f"{difference}\n\nIf that is as it should be, accept it with:\n"
        f"  {ACCEPT}=1 pytest {Path(__file__).relative_to(HERE.parent.parent)} -k {name}"
    )


def diamond(box: Sandbox) -> None:
    """Prepare a run of two labels and a final job."""
    steps = [Step("first", label="calibrate")]
    steps += [Step(f"s{n}", ["first"], label="measure") for n in range(4)]
    box.prepare(steps, final=Step("final", label="finalJob"))


def reports(box: Sandbox) -> str:
    """Return what report and status say of the run."""
    report = box.bps("report", "--id", "run", "--return-exit-codes").succeeded()
    status = box.bps("status", "--id", "run")
    lines = [line for line in status.text.splitlines() if "bps.drivers" in line]
    return "\n".join([report.stdout, f"bps status: exit status {status.code}", *lines, ""])


def test_report_finished(box: Sandbox) -> None:
    """The report of a run that has succeeded."""
    diamond(box)
    box.bps("restart", "--id", "run").succeeded()
    assert_golden("finished", reports(box), box)


def test_report_failed(box: Sandbox) -> None:
    """The report of a run in which jobs failed, and what the driver said."""
    diamond(box)
    box.break_step("s1", 1)
    box.break_step("s2", 9)
    failed = box.bps("restart", "--id", "run").complained()
    table = failed.stderr[failed.stderr.index("label ") :]
    assert_golden("failed", reports(box) + "\n--- the driver's summary\n" + table, box)


def test_report_cancelled(box: Sandbox) -> None:
    """The report of a run that was cancelled, and what the driver said."""
    diamond(box)
    box.hold("first")
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "the first job begins")
    box.bps("cancel", "--id", "run").succeeded()
    cancelled = driver.finish().complained()
    table = cancelled.stderr[cancelled.stderr.index("label ") :]
    assert_golden("cancelled", reports(box) + "\n--- the driver's summary\n" + table, box)


def test_report_dead(box: Sandbox) -> None:
    """The report of a run whose driver was killed."""
    diamond(box)
    box.hold("first")
    driver = box.fork("restart", "--id", "run")
    wait_until(lambda: box.steps("begin"), "the first job begins")
    driver.kill()
    assert_golden("dead", reports(box), box)


def test_terminal(box: Sandbox) -> None:
    """On a terminal there is one live display, with the counts of each label,
    which the log does not tear; when the run has ended it is gone, and the
    cursor is back.
    """
    steps = [Step(f"a{n}", label="calibrate") for n in range(6)]
    steps += [Step(f"b{n}", [f"a{n}"], label="measure") for n in range(6)]
    box.prepare(steps)
    box.break_step("a0", 3)
    box.hold("b5")
    seen: list[str] = []

    def watch(screen: Screen) -> None:
        seen.append(screen.text)
        if re.search(r"^measure .* 4 .*6$", screen.text, re.MULTILINE) and (box.path / "hold.b5").exists():
            box.let_go("b5")

    code, screen, written = run_on_terminal(
        [str(BIN / "bps"), "restart", "--id", "run"], box.env, box.path, watch
    )
    assert code == 1, screen.text
    assert not screen.unknown
    assert screen.cursor_shown
    live = [text for text in seen if re.search(r"^run .*\d+/12", text, re.MULTILINE)]
    assert live, f"no display:\n{written}"
    for text in seen:
        assert text.count("TOTAL") <= 1, f"more than one display:\n{text}"
    assert any(re.search(r"^calibrate +- +- +- +5 +1 ", text, re.MULTILINE) for text in live), live[-1]
    assert any(re.search(r"^measure .* 1 .*6$", text, re.MULTILINE) for text in live), live[-1]
    last = screen.text
    assert not re.search(r"^run .*\d+/12", last, re.MULTILINE), f"the display stayed:\n{last}"
    assert re.search(r"^TOTAL +- +- +- +10 +1 +1 +- +12$", last, re.MULTILINE), last
    assert "parsl.dataflow" not in written
    for line in last.splitlines():
        assert line.count("lsst.ctrl.bps") <= 2, f"torn: {line}"


def test_terminal_ctrl_c(box: Sandbox) -> None:
    """After Ctrl-C on a terminal the display is gone, the cursor is back, and
    the last line says how to resume.
    """
    box.prepare([Step("a")])
    box.hold()
    pressed: list[bool] = []

    def watch(screen: Screen) -> None:
        if not pressed and re.search(r"^run .*0/1", screen.text, re.MULTILINE) and box.steps("begin"):
            pressed.append(True)
            for process in box.processes():
                with suppress(psutil.Error):  # It ended in the meantime.
                    if "restart" in process.cmdline():
                        process.send_signal(signal.SIGINT)

    code, screen, _ = run_on_terminal(
        [str(BIN / "bps"), "restart", "--id", "run"], box.env, box.path, watch, columns=200
    )
    assert pressed
    assert code == 130
    assert screen.cursor_shown
    assert not screen.unknown
    assert screen.text.splitlines()[-1].endswith("Resume with: bps restart --id run"), screen.text
    assert screen.text.count("TOTAL") == 1


def test_narrow_terminal(box: Sandbox) -> None:
    """A narrow terminal shows the same without garbage left over."""
    label = "a_label_that_is_longer_than_this_terminal_is_wide_by_far"
    box.prepare([Step(f"a{n}", label=label) for n in range(3)])
    code, screen, _ = run_on_terminal(
        [str(BIN / "bps"), "restart", "--id", "run"], box.env, box.path, lambda screen: None, columns=50
    )
    assert code == 0, screen.text
    assert screen.cursor_shown
    assert "TOTAL" not in screen.text


def test_log_file(box: Sandbox) -> None:
    """In a file there are lines and no control characters, few of them; and
    Parsl's log is in a file of the run directory.
    """
    box.prepare([Step(f"a{n}") for n in range(200)])
    done = box.run("bps", "restart", "--id", "run").succeeded()
    assert "\x1b" not in done.text
    assert "\r" not in done.text
    assert len(done.stderr.splitlines()) < 12, str(done)
    assert "all 200 jobs succeeded" in done.stderr
    assert "parsl.dataflow" not in done.text
    (log,) = (box.submit_path / "runinfo").rglob("parsl.log")
    assert "DEBUG" not in log.read_text()


def test_parsl_log_on_the_terminal(box: Sandbox) -> None:
    """``parsl.log_level`` brings Parsl's log to the terminal as well."""
    box.prepare([Step("a")], parsl={"log_level": "INFO"})
    done = box.bps("restart", "--id", "run").succeeded()
    assert re.search(r"^parsl\.\S+ INFO", done.stderr, re.MULTILINE), str(done)


def test_progress_lines(box: Sandbox) -> None:
    """A long run says in a log file how far it is, how fast, and for how much
    longer; the rate is that of the jobs that have ended.
    """
    code = (
        "import sys, lsst.ctrl.bps.parsl.progress as progress\n"
        "progress.SHORTEST_INTERVAL = 0.5\n"
        "from lsst.ctrl.bps.cli.bps import main\n"
        "sys.argv = ['bps', 'restart', '--id', 'run']\n"
        "main()\n"
    )
    count = 30
    steps = [
        Step(f"a{n}", [f"a{n - 1}"] if n else [], executable="/bin/sleep", arguments="0.1")
        for n in range(count)
    ]
    box.prepare(steps)
    done = box.python(code).succeeded()
    lines = re.findall(rf"(\d+) of {count} jobs succeeded.*", done.stderr)
    assert 2 <= len(lines) <= 10, str(done)
    rates = [float(rate) for rate in re.findall(r", ([0-9.]+) jobs/s, about 0:00:\d\d left", done.stderr)]
    assert rates, str(done)
    assert 4.0 < rates[-1] < 10.5, f"jobs of 0.1 s, one after the other: {rates}"
    assert 4.0 < rates[0] < 10.5, f"jobs of 0.1 s, one after the other: {rates}"
