# SPDX-License-Identifier: BSD-3-Clause
"""What a person sees: the progress on a terminal and in a file, the summary,
and the reports.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from lsst.ctrl.bps import WmsRunReport
from lsst.ctrl.bps.parsl.batch.pilot_records import record_pilots
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.run.job_state import JobState
from lsst.ctrl.bps.parsl.run.replay import replay

from .support import BIN, HERE, Finished, Running, Sandbox, Step, wait_until
from .terminal import Screen, run_on_terminal

GOLDEN = HERE / "golden"
HAS_SITE = "site" in {field.name for field in dataclasses.fields(WmsRunReport)}
ACCEPT = "BPS_PARSL_ACCEPT_GOLDEN"


def without_sites(text: str) -> str:
    """Take the column out of BPS's lists of runs that only its newer releases have."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines[:-2]):
        if line.startswith((" X ", "  X ")) and "SITE" in line.split():
            # The rule below the head has the columns' widths; below it is the only run.
            rules = [match.span() for match in re.finditer("-+ ", lines[number + 1])]
            start, end = next(span for span in rules if line[slice(*span)].strip() == "SITE")
            for row in range(number, number + 3):
                lines[row] = lines[row][:start] + lines[row][end:]
    return "".join(lines)


def assert_golden(name: str, text: str, box: Sandbox) -> None:
    """Compare a text with the one that was accepted."""
    text = without_sites(text.replace(str(box.path), "<box>"))
    text = re.sub(r"\(pid \d+\)", "(pid <pid>)", text)
    text = re.sub(r"it had \d+ MB", "it had <peak> MB", text)
    text = re.sub(r"^(\w+ +\d+ +512) .*%.*$", r"\1 <measured>", text, flags=re.MULTILINE)
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
        f"  {ACCEPT}=1 pytest {Path(__file__).relative_to(HERE.parent.parent)} -k {name.replace('-', '_')}"
    )


def prepare_exposures(box: Sandbox, count: int = 4) -> None:
    """Prepare a run of some exposures, on two cores; the alphabet has its
    labels in another order.
    """
    steps = [Step(f"isr_{n}", label="isr") for n in range(count)]
    steps += [Step(f"calibrate_{n}", [f"isr_{n}"], label="calibrate") for n in range(count)]
    steps += [Step("coadd", [f"calibrate_{n}" for n in range(count)], label="assembleCoadd")]
    box.prepare(steps, final=Step("final", label="finalJob"))


def drive_until(box: Sandbox, *held: str, **counts: int) -> Running:
    """Start or resume the run with some steps held, and wait until so many
    jobs are in these states: nothing moves then.
    """
    for step in held:
        box.hold(step)
    driver = box.fork("restart", "--id", "run")
    paths = SubmitPaths(box.submit_path)
    plan = Plan(paths.plan)

    def is_there() -> bool:
        assert driver.poll() is None, f"it has ended: {driver.finish()}"
        totals = replay(plan, paths).totals()
        return all(totals[JobState[name]] == count for name, count in counts.items())

    wait_until(is_there, f"the run has {counts}")
    return driver


def reports(box: Sandbox, *which: str) -> str:
    """Return what report and status print of the run; without an id, report
    lists the runs that go on, and with ``which`` others too.
    """
    by_id = ("report", "--id", "run")
    said = [
        box.bps(*args).succeeded() for args in (("report", *which), by_id, (*by_id, "--return-exit-codes"))
    ]
    text = "".join(f"$ {' '.join(report.args)}\n{report.stdout}\n" for report in said)
    status = box.bps("status", "--id", "run")
    lines = [line for line in status.text.splitlines() if "bps.drivers" in line]
    return "\n".join([f"{text}$ {' '.join(status.args)}", *lines, f"exit status {status.code}", ""])


def reports_of_held(box: Sandbox, driver: Running, *held: str) -> tuple[str, Finished]:
    """Return what is printed of a run that goes on, and what its driver came
    to after the steps were let go.
    """
    text = reports(box)
    for step in held:
        box.let_go(step)
    return text, driver.finish()


def summary(driver: Finished) -> str:
    """Return what the driver of a run without success said at its end."""
    said = driver.complained().stderr
    return f"\n--- the driver's summary\n{said[said.index('label ') :]}"


def test_report_finished(box: Sandbox) -> None:
    """The reports of a run that has succeeded count every job as such, and
    advise nothing.
    """
    prepare_exposures(box)
    box.bps("restart", "--id", "run").succeeded()
    assert_golden("finished", reports(box, "--hist", "1"), box)


def test_report_site(box: Sandbox) -> None:
    """Where BPS's reports have a column for the site, the run's site is in it."""
    box.prepare([Step("a")])
    for arguments in (("--hist", "1"), ("--id", "run")):
        head, _, row = box.bps("report", *arguments).succeeded().stdout.splitlines()[:3]
        shown = dict(zip(head.split()[-7:], row.split()[-7:], strict=True))
        assert shown.get("SITE", "local") == "local"
        assert shown["PAYLOAD"] == "steps"
        assert ("SITE" in head.split()) == HAS_SITE


def test_report_blocks(box: Sandbox) -> None:
    """``bps report --id`` says what the blocks do, from a shell that knows nothing of the run, and asks Slurm
    once; a list of runs, and ``bps status``, do not ask.
    """
    box.prepare([Step("a")])
    record_pilots(SubmitPaths(box.submit_path).pilots, "slurm", tag="bps-parsl:run:0", clusters=None)
    squeue = box.path / "slurm" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        "#!/bin/sh\n"
        f"echo x >>{box.path}/asked\n"
        "echo '1|R|None|bps-parsl:run:0:a'\n"
        "echo '2|PD|Priority|bps-parsl:run:0:b'\n"
    )
    squeue.chmod(0o755)
    env = {**box.env, "PATH": f"{squeue.parent}:{box.env['PATH']}", "SQUEUE_STATES": "R"}
    box.bps("report", "--hist", "1", env=env).succeeded()
    box.bps("status", "--id", "run", env=env)
    assert not (box.path / "asked").exists()
    report = box.bps("report", "--id", "run", "--return-exit-codes", env=env).succeeded()
    assert "\nBlocks in Slurm's queue: 1 runs, 1 waits (Priority).\n" in report.stdout
    assert (box.path / "asked").read_text() == "x\n"
    # A machine without Slurm's commands has the rest of the report.
    report = box.bps("report", "--id", "run", env={**box.env, "PATH": str(BIN)}).succeeded()
    assert "What the blocks in Slurm's queue do is not known: there is no squeue here.\n" in report.stdout
    assert "TOTAL" in report.stdout


def test_report_failed(box: Sandbox) -> None:
    """The reports of a run in which jobs failed, and what its driver said:
    which failed, with their logs, what could not run because of that, and
    what to type.
    """
    prepare_exposures(box)
    box.break_step("calibrate_1", 1)
    box.break_step("calibrate_2", 9)
    failed = box.bps("restart", "--id", "run")
    assert_golden("failed", reports(box, "--hist", "1") + summary(failed), box)


def test_report_cancelled(box: Sandbox) -> None:
    """The reports of a run that was cancelled, and what its driver said: what
    had succeeded stays so, the final job ran, all else is deleted.
    """
    prepare_exposures(box)
    driver = drive_until(box, "isr_0", SUCCEEDED=6, RUNNING=1)
    box.bps("cancel", "--id", "run").succeeded()
    cancelled = driver.finish()
    assert_golden("cancelled", reports(box, "--hist", "1") + summary(cancelled), box)


def test_report_dead(box: Sandbox) -> None:
    """The reports of a run whose driver was killed: none of its jobs runs."""
    prepare_exposures(box)
    driver = drive_until(box, "isr_0", SUCCEEDED=6, RUNNING=1)
    driver.kill()
    box.assert_nothing_runs()  # Its node has written down what became of the job.
    assert_golden("dead", reports(box, "--hist", "1"), box)


def test_report_half_done(box: Sandbox) -> None:
    """The reports of a run in its middle: some jobs have succeeded, as many
    run as there are cores, the next ones are given to Parsl, and the others
    wait for their parents.
    """
    prepare_exposures(box)
    held = [f"calibrate_{n}" for n in range(4)]
    driver = drive_until(box, *held, RUNNING=2, PENDING=2)
    text, done = reports_of_held(box, driver, *held)
    done.succeeded()
    assert_golden("half-done", text, box)


def test_report_half_done_failing(box: Sandbox) -> None:
    """The reports of a run that goes on after a job failed for good: they
    flag it, and have the exit code already.
    """
    prepare_exposures(box)
    box.break_step("calibrate_1", 1)
    driver = drive_until(box, "isr_0", SUCCEEDED=5, RUNNING=1, FAILED=1)
    text, done = reports_of_held(box, driver, "isr_0")
    done.complained()
    assert_golden("half-done-failing", text, box)


def test_report_restarted(box: Sandbox) -> None:
    """The reports of a run that failed, was mended and resumed to its end
    are those of a run that succeeded at once.
    """
    prepare_exposures(box)
    box.break_step("calibrate_1", 1)
    box.bps("restart", "--id", "run").complained()
    box.mend_step("calibrate_1")
    box.bps("restart", "--id", "run").succeeded()
    assert_golden("restarted", reports(box, "--hist", "1"), box)
    assert (GOLDEN / "restarted.txt").read_text() == (GOLDEN / "finished.txt").read_text()


def test_report_restarted_half(box: Sandbox) -> None:
    """The reports of a run that failed and was resumed, in its middle: what
    failed runs, and what could not run, and the final job, wait again.
    """
    prepare_exposures(box)
    box.break_step("calibrate_1", 1)
    box.bps("restart", "--id", "run").complained()
    box.mend_step("calibrate_1")
    driver = drive_until(box, "calibrate_1", RUNNING=1)
    text, done = reports_of_held(box, driver, "calibrate_1")
    done.succeeded()
    assert_golden("restarted-half", text, box)


def test_report_exit_codes(box: Sandbox) -> None:
    """Exit codes of the payload (1 and 2) and of the infrastructure (all
    others) of one label stand side by side, and each failed job is counted.
    """
    prepare_exposures(box, 8)
    for n, code in enumerate((1, 2, 1, 9, 137, 143)):
        box.break_step(f"calibrate_{n}", code)
    failed = box.bps("restart", "--id", "run")
    assert_golden("exit-codes", reports(box, "--hist", "1") + summary(failed), box)


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
        rows = (r"^calibrate +- +- +- +5 +1 ", r"^measure +- +- +\S+ +4 +.*6$")
        shown = all(re.search(row, screen.text, re.MULTILINE) for row in rows)
        if shown and (box.path / "hold.b5").exists():
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
        "import sys, lsst.ctrl.bps.parsl.report.progress as progress\n"
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
    began = time.monotonic()
    done = box.python(code).succeeded()
    elapsed = time.monotonic() - began
    lines = re.findall(rf"(\d+) of {count} jobs succeeded.*", done.stderr)
    assert len(lines) >= 2, str(done)
    paces = re.findall(
        rf"(\d+) of {count} jobs succeeded.*, ([0-9.]+) jobs/s, about 0:\d\d:\d\d left", done.stderr
    )
    rates = [float(rate) for _, rate in paces]
    assert rates, str(done)
    slowest = int(paces[-1][0]) / elapsed
    assert all(0 < rate < 10.5 for rate in rates), f"jobs of 0.1 s, one after the other: {rates}"
    assert slowest < rates[-1], f"{slowest} with bps's own time: {rates}"
