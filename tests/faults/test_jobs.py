# SPDX-License-Identifier: BSD-3-Clause
"""Whatever jobs do: it ends them alone, is told truthfully, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.engines import LOCAL, Bench, Engine
from end_to_end.support import Step, events_of_kind, job_names, wait_until
from lsst.ctrl.bps.parsl.paths import SubmitPaths

from .engines import BY_NAME, on_engines
from .matrix import Matrix

_PRELUDE = """\
#!/bin/bash
# NAME ...: says that it begins and ends, and how often it has.
here=${0%/*}
name=$1
echo "begin $name" >>"$here/steps.txt"
times=$(grep -c "^begin $name\\$" "$here/steps.txt")
"""
_EPILOGUE = """
echo "end $name" >>"$here/steps.txt"
"""

HARMLESS = (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)
STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
SIGNALS = [number for number in range(1, 32) if number not in STOPPING]
CODES = (0, 1, 2, 126, 127, 128, 137, 139, 255)
FINAL = (126, 127)
"""Exit codes after which a job is not run again."""


def job(bench: Bench, name: str, code: str, parents: tuple[str, ...] = (), **fields: Any) -> Step:
    """Return a job of some bash code."""
    path = bench.path / f"{name}.sh"
    path.write_text(_PRELUDE + code + _EPILOGUE)
    path.chmod(0o755)
    return Step(name, parents, arguments=name, executable=str(path), fields=fields)


def failures(bench: Bench, name: str) -> list[dict[str, Any]]:
    """Return the events of a job's failures."""
    number = job_names(bench.submit_path).index(name)
    return [event for event in events_of_kind(bench.submit_path, "fail") if event["j"] == number]


def run(bench: Bench, timeout: float = 600.0) -> Any:
    """Run all, to the end."""
    return bench.drive("restart", "--id", bench.id).finish(timeout)


@pytest.mark.parametrize("name", ["threads"])
@pytest.mark.quick
def test_ends_quick(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """As below, in `make test`, too."""
    check_ends(make_bench(BY_NAME[name]), matrix, name)


@on_engines("htex", "slurm")
def test_ends(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """A job that a signal ends, or that ends with an exit code, has failed with 128 and the
    signal's number, or with the code. It is run again where it has a retry, unless it could not
    be started; what comes after it does not run, all others do.
    """
    check_ends(make_bench(BY_NAME[name]), matrix, name)


def killed_by(number: int) -> str:
    """Return code that gets a signal, as a program that does nothing about signals."""
    if number in HARMLESS:
        return f"kill -{number} $$"
    wait = 'until [ "$(cat /proc/$$/comm)" = sleep ]; do :; done'
    return f"{{ {wait}; kill -{number} $$; }} & exec sleep 60"


def check_ends(bench: Bench, matrix: Matrix, engine: str) -> None:
    """Run jobs with all ends."""
    expected = {f"signal{n}": 0 if n in HARMLESS else 128 + n for n in SIGNALS}
    expected |= {f"exit{code}": code for code in CODES}
    steps = [job(bench, f"signal{n}", killed_by(n), number_of_retries=1) for n in SIGNALS]
    steps += [job(bench, f"exit{n}", f"[ {n} = 0 ] || exit {n}", number_of_retries=1) for n in CODES]
    after = [Step(f"after_{step.name}", [step.name]) for step in steps]
    bench.prepare([*steps, *after])
    run(bench).complained("jobs of", "failed")
    begun = Counter(bench.steps("begin"))
    for name, code in expected.items():
        ends = [(event["exit"], event["retry"], event["charged"]) for event in failures(bench, name)]
        once, twice = [(code, False, True)], [(code, True, True), (code, False, True)]
        assert ends == ([] if code == 0 else once if code in FINAL else twice), name
        assert begun[name] == (2 if len(ends) == 2 else 1)
        assert begun[f"after_{name}"] == (code == 0), name
    matrix.check("job is ended by each signal", bench, tries=len(SIGNALS))
    matrix.add("job ends with an exit code", engine, tries=len(CODES))


_EAT = f"""
{sys.executable} -IS -c '
import sys, time
try:
    eaten = b"x" * (int(sys.argv[1]) << 20)
except MemoryError:
    sys.exit("no more memory")
time.sleep(float(sys.argv[2]))
' AMOUNT $((times == 1 ? 60 : 0)) || exit
"""
"""In the first attempt it stays until somebody ends it."""


@pytest.mark.parametrize("name", ["threads", "htex"])
def test_memory_beyond_the_request(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """Where memory is enforced, a job over its request is ended with a sentence and runs again with
    more; its neighbour goes on.
    """
    bench = make_bench(BY_NAME[name])
    fields: dict[str, Any] = {"request_memory": 150, "memory_multiplier": 4, "number_of_retries": 2}
    eater = job(bench, "eater", _EAT.replace("AMOUNT", "300"), **fields)
    bench.prepare([eater, Step("beside")], site={"enforceMemory": True})
    run(bench).succeeded()
    (event,) = failures(bench, "eater")
    assert (event["exit"], event["retry"], event["memory"]) == (137, True, 600)
    assert "enforceMemory" in SubmitPaths(bench.submit_path).logs.joinpath("step/eater.stderr").read_text()
    assert Counter(bench.steps("begin")) == {"eater": 2, "beside": 1}
    matrix.check("job uses more memory than it asked for", bench)


@pytest.mark.parametrize("name", ["threads", "htex"])
def test_memory_that_is_refused(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """A job that gets no more memory (``ulimit -v``) fails like any other."""
    bench = make_bench(BY_NAME[name])
    eater = job(bench, "eater", _EAT.replace("AMOUNT", "2000"), number_of_retries=1)
    bench.prepare([eater, Step("beside")], site={"commandPrefix": "ulimit -v 1000000"})
    run(bench).complained("eater: exit code 1", "no more memory")
    assert Counter(bench.steps("begin")) == {"eater": 2, "beside": 1}
    matrix.check("job gets no more memory (ulimit -v)", bench)


CGROUP = Path("/sys/fs/cgroup/memory")


@pytest.mark.as_root
@pytest.mark.skipif(not (CGROUP / "tasks").exists(), reason="no memory cgroup of version 1")
def test_memory_beyond_the_node(
    make_bench: Callable[[Engine], Bench], matrix: Matrix, request: pytest.FixtureRequest
) -> None:
    """The kernel ends a job that uses more than there is: it has run out of memory, is run again
    with a larger request, and then given up; the driver and the other jobs go on.
    """
    bench = make_bench(LOCAL)
    group = CGROUP / f"faults-{bench.id}"
    group.mkdir()
    request.addfinalizer(group.rmdir)
    (group / "memory.limit_in_bytes").write_text(f"{800 << 20}\n")
    fields: dict[str, Any] = {"request_memory": 700, "memory_multiplier": 2, "request_memory_max": 1000}
    eater = job(bench, "eater", _EAT.replace("AMOUNT", "2000"), number_of_retries=5, **fields)
    bench.prepare([eater, Step("beside"), Step("below", ["eater"])])
    command = f"echo $$ >{group}/cgroup.procs; exec bps restart --id {bench.id}"
    bench.run("bash", "-c", command).complained("eater", "out of memory", "1 could not run")
    ends = [(event["exit"], event["retry"]) for event in failures(bench, "eater")]
    assert ends == [(137, True), (137, False)]
    assert bench.steps("end") == ["beside"]
    bench.assert_nothing_runs()
    matrix.check("job uses more memory than there is", bench)


@pytest.mark.long
@pytest.mark.parametrize("name", ["threads", "htex"])
def test_walltime(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """A job over its walltime ends with all that it has started, wherever that has gone; one that
    stopped itself (SIGSTOP) does, too.
    """
    bench = make_bench(BY_NAME[name])
    daemon = "setsid bash -c 'sleep 1000 & echo $! >daemon.pid'; sleep 1000 & wait"
    steps = [
        job(bench, "overdue", daemon, request_walltime=1),
        job(bench, "stopped", "kill -STOP $$", request_walltime=1),
        job(
            bench,
            "stopped_with_retry",
            '[ "$times" = 2 ] || kill -TSTP $$',
            request_walltime=1,
            number_of_retries=1,
        ),
    ]
    bench.prepare(steps)
    run(bench).complained("overdue", "stopped", "walltime")
    for step, count in (("overdue", 1), ("stopped", 1), ("stopped_with_retry", 1)):
        events = failures(bench, step)
        assert len(events) == count, step
        assert all("walltime" in event["why"] for event in events), step
    assert not psutil.pid_exists(int((bench.path / "daemon.pid").read_text()))
    assert bench.steps("end") == ["stopped_with_retry"]
    matrix.check("job is over its walltime", bench, tries=3)


_LOGS = 'logs=$(dirname "$(readlink /proc/self/fd/2)")\n'

_SHUTS = ("shut_log", "shut_directory")
"""What its owner cannot write to any more, unless that is root."""

MISCHIEF = {
    "daemon": "setsid bash -c 'sleep 1000 & echo $! >>left'",
    "double_fork": "(trap '' TERM HUP; (setsid sleep 1000 & echo $! >>left) & wait $!)",
    "bomb": "for n in $(seq 200); do sleep 1000 & echo $! >>left; done",
    "bomb_in_sessions": "for n in $(seq 100); do setsid sleep 1000 & echo $! >>left; done",
    "closes_output": "exec >&- 2>&- <&-",
    "rotates_its_log": f'{_LOGS} mv "$logs/$name.stderr" "$logs/$name.old"; echo more >&2',
    "shut_log": f'{_LOGS} chmod 000 "$logs"/$name.*; [ "$times" = 2 ] || exit 1',
    "shut_directory": f'{_LOGS} chmod 000 "$logs"; [ "$times" = 2 ] || exit 1',
    "ignores_all": "trap '' TERM INT HUP QUIT PIPE",
    "many_files": 'for n in $(seq 10 200); do eval "exec $n>/dev/null"; done',
    "changes_directory": "cd / && umask 777",
    "removes_its_logs": f'{_LOGS} rm -rf "$logs"; [ "$times" = 2 ] || exit 1',
}
"""What a job may do besides its work."""


@pytest.mark.some(1)
@pytest.mark.quick
@on_engines("threads", "htex", "slurm")
def test_mischief(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """Jobs that go into the background, fork many children, or handle their logs and descriptors
    badly succeed where their code does, harm no other job, and nothing of them is left when they
    have ended.
    """
    bench = make_bench(BY_NAME[name])
    previous: tuple[str, ...] = ()
    steps = []
    mischief = {what: code for what, code in MISCHIEF.items() if os.geteuid() == 0 or what not in _SHUTS}
    for what, code in mischief.items():
        gone = "for pid in $(cat left 2>/dev/null); do kill -0 $pid 2>/dev/null && exit 7; done; rm -f left"
        # One at a time: each is looked for what it has left by the next.
        steps.append(job(bench, what, code, previous, number_of_retries=1))
        steps.append(job(bench, f"look_{what}", gone, (what,)))
        previous = (f"look_{what}",)
    bench.prepare(steps)
    run(bench).succeeded()
    assert bench.steps("end") == [step.name for step in steps]
    begun = Counter(bench.steps("begin"))
    again = {*_SHUTS, "removes_its_logs"} & set(mischief)
    assert {what for what, count in begun.items() if count > 1} == again
    matrix.check("job leaves processes, or spoils its logs and files", bench, tries=len(mischief))


GIGA = 1 << 30


def test_large_output(make_bench: Callable[[Engine], Bench], matrix: Matrix) -> None:
    """1 GB of output is in the log to the last byte; the driver does not grow by it, and the
    report has the last lines at once.
    """
    bench = make_bench(LOCAL)
    line = "x" * 1023
    loud = f"yes {line} | head -c {GIGA} >&2; echo the last word >&2; exit 3"
    bench.prepare([job(bench, "loud", loud), Step("beside")])
    bench.hold("beside")
    driver = bench.drive("restart", "--id", bench.id)
    bench.await_step(driver, "beside")
    before = psutil.Process(driver.pid).memory_info().rss
    wait_until(lambda: failures(bench, "loud"), "the loud one ends", 300)
    assert psutil.Process(driver.pid).memory_info().rss < before + (50 << 20)
    bench.let_go("beside")
    driver.finish().complained("| the last word")
    log = SubmitPaths(bench.submit_path).logs / "step/loud.stderr"
    assert log.stat().st_size == GIGA + len("the last word\n")
    begun = time.monotonic()
    bench.bps("report", "--id", bench.id).succeeded()
    assert time.monotonic() - begun < 60
    log.unlink()
    matrix.check("output of 1 GB", bench)


OUTPUTS = {
    "nul": rb"a\0b\0\0",
    "binary": rb"\377\376\200\300\n\xff",
    "colours": rb"\033[31mred\033[0m",
    "title": rb"\033]0;title\007",
    "clears": rb"\033[2J\033[H\033c",
    "eight_bits": rb"\302\23331mred \302\235 \233",
    "overwrites": rb"all is well\rsomething\b\b\b\v\f",
    "markup": rb"[red]red[/red] [/] [bold",
    "long_line": rb"%0100000d",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.mark.some(1)
@pytest.mark.quick
@pytest.mark.parametrize("name", ["threads", "htex"])
def test_output_that_is_not_text(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """Whatever jobs write, what is shown of it has no control character, and there is no traceback."""
    bench = make_bench(BY_NAME[name])
    bench.prepare(
        [
            job(bench, what, f"printf '{output.decode()}\\nlast of {what}\\n' 7 | tee /dev/stderr; exit 4")
            for what, output in OUTPUTS.items()
        ]
    )
    shown = run(bench).complained(*(f"last of {what}" for what in OUTPUTS))
    report = bench.bps("report", "--id", bench.id, "--return-exit-codes").succeeded()
    for finished in (shown, report):
        assert "Traceback" not in finished.text
        found = _CONTROL.search(finished.text)
        assert found is None, finished.text[max(0, found.start() - 80) : found.end() + 20]
    assert len(shown.text) < 50_000, "an excerpt"
    matrix.check("output that is not text", bench, tries=len(OUTPUTS))
