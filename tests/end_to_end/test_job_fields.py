# SPDX-License-Identifier: BSD-3-Clause
"""What the fields of a job of BPS come to, with threads and with workers.

For each engine one run has a job or two for each field, and goes on beside the
tests that look at it; what needs a run of its own has a small one.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lsst.ctrl.bps.transform import create_init_workflow
from parsl.executors import HighThroughputExecutor

from lsst.ctrl.bps import BpsConfig, GenericWorkflowExec, GenericWorkflowFile
from lsst.ctrl.bps.parsl import ParslJob
from lsst.ctrl.bps.parsl.errors import WorkflowError
from lsst.ctrl.bps.parsl.node.client import RunnerClient

from .support import SERVICE, Step, events_of_kind, wait_until
from .workers import HTEX, THREADS, Bench, Engine, Run

OUTSIDE = "out side $x; *"
VALUE = "$HOME 'x' \"y\"; touch ran"
VARIABLE = "a  b; touch ran `touch ran`"
NASTY = {
    "TEST_SPACES": " a  b ",
    "TEST_QUOTES": 'it\'s "so"',
    "TEST_DOLLAR": "$HOME ${HOME} $(touch ran) `touch ran` $$",
    "TEST_LINES": "one\ntwo\n\n",
    "TEST_EMPTY": "",
}
HARMLESS: dict[str, Any] = {
    "request_disk": 10**9,
    "queue": "no such queue",
    "accounting_group": "nobody",
    "accounting_user": "nobody",
    "mail_to": "nobody@example.org",
    "when_to_mail": "Always",
    "preemptible": True,
    "attrs": {"bps_x": "y"},
    "compute_cloud": "cumulus",
    "tags": {"visit": 5},
    "quanta_counts": Counter(isr=2),
}

_SLOW = """\
cd "${0%/*}"
echo "$1" >>told/slow.path
[ "$BPS_PARSL_ATTEMPT" = 1 ] || exit 0
sleep 1000 &
echo $! >>told/slow.pids
(trap "" TERM; while :; do sleep 0.2; done) &
echo $! >>told/slow.pids
wait
"""
_MEET = """\
cd "${0%/*}/told"
touch "met.$1"
for _ in $(seq 2400); do [ -e "met.$2" ] && exit 0; sleep 0.05; done
exit 1
"""
_BUTLER = """\
import json, os, sys
name, code, path, *argv = sys.argv[1:]
directory = os.path.dirname(path)
with open(path) as stream:
    content = stream.read()
found = {"path": path, "argv": argv, "content": content, "files": sorted(os.listdir(directory))}
here = os.path.dirname(os.path.abspath(sys.argv[0]))
with open(os.path.join(here, "told", name), "a") as stream:
    stream.write(json.dumps(found) + "\\n")
open(os.path.join(directory, "by." + name), "w").close()
if int(code) < 0:
    os.kill(os.getpid(), -int(code))
sys.exit(int(code))
"""


def retry_steps(bench: Bench) -> Iterator[Step]:
    """Yield jobs that fail."""
    yield bench.telling("retried", 3, number_of_retries=2)
    yield bench.telling("once", 3, number_of_retries=0)
    yield bench.telling("mends", "3,3,0", number_of_retries=5)
    yield bench.telling("unless_one", 5, number_of_retries=2, retry_unless_exit=5)
    yield bench.telling("unless_list", "4,6", number_of_retries=5, retry_unless_exit=[5, 6])
    yield bench.telling("unless_other", 3, number_of_retries=1, retry_unless_exit=[5, 6])


def memory_steps(bench: Bench) -> Iterator[Step]:
    """Yield jobs that have too little memory."""
    fields: dict[str, Any] = {"number_of_retries": 5, "memory_multiplier": 2}
    yield bench.telling("job_limit", -9, request_memory=100, request_memory_max=300, **fields)
    yield bench.telling("run_limit", -9, request_memory=300, request_memory_max=900, **fields)
    yield bench.telling("label_limit", -9, label="limited", request_memory=100, **fields)
    yield bench.telling("at_limit", -9, request_memory=300, request_memory_max=300, **fields)
    yield bench.telling("code_137", 137, request_memory=100, request_memory_max=150, **fields)
    yield bench.telling("eats", "1,1,0", "eat", request_memory=20, **fields)
    yield bench.telling("modest", "1,0", request_memory=390, **fields)
    yield bench.telling(
        "few_retries", -9, request_memory=100, **{**fields, "number_of_retries": 1, "memory_multiplier": 1.5}
    )


def limit_steps(bench: Bench) -> Iterator[Step]:
    """Yield jobs of which not all may run at once."""
    nap = str(bench.script("nap.sh", "sleep 0.15\n"))
    for number in range(3):
        fields = {"category": "cat", "request_cpus": 1}
        yield Step(f"cat{number}", executable=nap, fields=fields)
        fields = {"concurrency_limit": "free, db", "request_cpus": 1}
        yield Step(f"db{number}", executable=nap, fields=fields)
        yield Step(f"cpus{number}", executable=nap, fields={"request_cpus": 2})
    yield Step("both", executable=nap, fields={"category": "cat", "concurrency_limit": "db"})
    meet = str(bench.script("meet.sh", _MEET))
    # Two places are those of jobs that are slow.
    fields = {"request_cpus": 4 if bench.engine == HTEX else 1}
    yield Step("meet0", executable=meet, arguments="0 1", fields=fields)
    yield Step("meet1", executable=meet, arguments="1 0", fields=fields)


def value_steps(bench: Bench) -> Iterator[Step]:
    """Yield jobs that find values in their environment and their arguments."""
    filled = {"TEST_ENV": "<ENV:TEST_OUTSIDE>+", "TEST_ATTEMPT": "try <WMS:attemptNum>", "TEST_NUMBER": 5}
    yield bench.telling("environ", "1,0", environment={**NASTY, **filled}, number_of_retries=1)
    cmdvals = {"v": "p q"}
    attempt = "<WMS:attemptNum> x<WMS:attemptNum>y '<WMS:attemptNum>'"
    words = f"<ENV:TEST_OUTSIDE> <FILE:in> {{v}} '{{v}}' {attempt}"
    yield bench.telling("words", "1,0", words, cmdvals=cmdvals, number_of_retries=1)
    yield bench.telling("shelled", "1,0", f"{words} && true", cmdvals=cmdvals, number_of_retries=1)
    yield bench.telling("carefree", **HARMLESS, profile={"condor": {"+x": "y"}})
    for lane in ("quick", "slow"):
        yield bench.telling(
            f"lane_{lane}", **HARMLESS, profile={"lanes": {"lane": lane}}, compute_site="second"
        )


def around_steps(bench: Bench) -> Iterator[Step]:
    """Yield jobs with commands around them."""

    def note(name: str) -> str:
        return f'echo "$BPS_PARSL_EXIT" >>{bench.path}/told/{name}.post'

    yield bench.telling("pre", pre_cmdline="TEST_PRE='a  b'\nexport TEST_PRE", post_cmdline=note("pre"))
    yield bench.telling("pre_fails", pre_cmdline="sh -c 'exit 7'", post_cmdline=note("pre_fails"))
    yield bench.telling("pre_exits", pre_cmdline="exit 8", post_cmdline=note("pre_exits"))
    yield bench.telling("post_after_3", 3, post_cmdline=note("post_after_3"))
    yield bench.telling("post_after_15", -15, post_cmdline=note("post_after_15"))
    yield bench.telling("post_after_9", -9, post_cmdline=note("post_after_9"))
    yield bench.telling("post_fails", post_cmdline="sh -c 'exit 9'")
    yield bench.telling("post_exits", post_cmdline="exit 9")
    yield bench.telling("both_fail", 3, post_cmdline="exit 9")
    names = "0 '{v}' {in} \"{myVar}\" {v} {myVar}"
    yield bench.telling(
        "names",
        pre_cmdline=f"{bench.tell} names_pre {names}",
        post_cmdline=f"{bench.tell} names_post {names}",
        cmdvals={"v": VALUE},
    )


def staged_steps(bench: Bench) -> Iterator[Step]:
    """Yield jobs whose executable or whose butler is copied."""
    for name in ("one", "two"):
        source = bench.script(f"else where/{name}/prog.sh", f"echo {name} $1 >>{bench.path}/told/prog\n")
        source.chmod(0o644)
        executable = GenericWorkflowExec(f"prog_{name}", str(source), True)
        yield Step(
            f"transfer_{name}", arguments="'{v}'", fields={"executable": executable, "cmdvals": {"v": 1}}
        )
    inside = bench.script(str(bench.submit_path / "in side.sh"), f"echo inside >>{bench.path}/told/prog\n")
    inside.chmod(0o644)
    yield Step("transfer_inside", fields={"executable": GenericWorkflowExec("in side.sh", str(inside), True)})
    butler = str(bench.script("butler.py", _BUTLER, "/usr/bin/env -S python3 -IS"))
    path = f"{bench.path}/EXEC"
    for code, name, retries in ((0, "copy_ok", 0), (3, "copy_fails", 1), (-9, "copy_killed", 0)):
        words = f"{name} {code} {path}/butler.yaml --repo={path} {path}-more/butler.yaml {path}2"
        yield Step(name, executable=butler, arguments=words, fields={"number_of_retries": retries})


def start(bench: Bench) -> Run:
    """Prepare the run of an engine and start it."""
    bench.env["TEST_OUTSIDE"] = OUTSIDE
    for name in ("EXEC", "EXEC-more"):
        (bench.path / name).mkdir()
        (bench.path / name / "butler.yaml").write_text(name)
    (bench.path / "in put").touch()
    slow = {
        "executable": str(bench.script("slow.sh", _SLOW)),
        "arguments": f"{bench.path}/EXEC/butler.yaml",
    }
    post = f'echo "$BPS_PARSL_EXIT" >>{bench.path}/told/slow.post'
    fields: dict[str, Any] = {"request_walltime": 1, "number_of_retries": 1, "post_cmdline": post}
    last: dict[str, Any] = {"request_walltime": "1", "number_of_retries": 0}
    steps = [
        Step("slow", fields={**fields, "priority": 9}, **slow),
        Step("slow_last", fields={**last, "priority": 9}, **slow),
        *retry_steps(bench),
        *memory_steps(bench),
        *limit_steps(bench),
        *value_steps(bench),
        *around_steps(bench),
        *staged_steps(bench),
    ]
    final = bench.telling(
        "final", 0, "{v}/butler.yaml", label="finalJob", cmdvals={"v": f"{bench.path}/EXEC"}
    )
    init = (
        f"{bench.tell} pipetaskInit 1,0 {{wmsAttemptNum}} {{executionButlerDir}}/butler.yaml {{qgraphFile}}"
    )
    settings: dict[str, Any] = {
        "site": {
            **bench.engine.site(4),
            "concurrencyLimits": {"cat": 1, "db": 1},
            "commandPrefix": "export TEST_SITE=local",
        },
        "sites": {
            "second": {**bench.engine.lanes(bench.path), "commandPrefix": "export TEST_SITE=second"},
        },
        "memoryLimit": 400,
        "myVar": VARIABLE,
        "executionButlerDir": f"{bench.path}/EXEC",
        "numberOfRetries": 1,
        "pipetask": {
            "limited": {"memoryLimit": 150},
            "pipetaskInit": {"runQuantumCommand": init},
        },
    }
    workflow = bench.generic(steps, final)
    for name in ("words", "shelled", "names"):
        workflow.add_job_inputs(name, [GenericWorkflowFile("in", str(bench.path / "in put"), True)])
    # As BPS makes it of a YAML, with what the service sets there.
    config = BpsConfig(bench.config(**settings), defaults={"whenSaveJobQgraph": "NEVER"})
    graph = GenericWorkflowFile("runQgraphFile", str(bench.path / "in put"), True, True, True)
    workflow.add_workflow_source(create_init_workflow(config, None, graph))
    bench.prepare(workflow, **settings)
    for path in (bench.path / "else where").rglob("*.sh"):
        path.write_text("#!/bin/sh\nexit 99\n")
    return Run(bench)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Engine], Run]]:
    """Start the run of an engine once."""
    started: dict[Engine, Run] = {}
    made: list[Bench] = []

    def get(engine: Engine) -> Run:
        if engine not in started:
            made.append(Bench(tmp_path_factory.mktemp(engine.name) / "box", engine))
            started[engine] = start(made[-1])
        return started[engine]

    try:
        yield get
        for run in started.values():
            # Where not all tests were asked for, it may still go on.
            if run.driver.poll() is not None:
                run.bench.check_clean()
    finally:
        for bench in made:
            bench.close()


@pytest.fixture(params=[THREADS, pytest.param(HTEX, marks=pytest.mark.slow)], ids=str)
def run(request: pytest.FixtureRequest, runs: Callable[[Engine], Run]) -> Run:
    """The run of each engine."""
    return runs(request.param)


def argv(run: Run, name: str) -> list[list[str]]:
    """Return the arguments that each attempt of a job got."""
    run.wait(name)
    return [found["argv"] for found in run.bench.told(name)]


# Retries.


@pytest.mark.slow
def test_number_of_retries(run: Run) -> None:
    """A job that fails is run again as often as ``numberOfRetries`` says, and no more."""
    assert run.verdicts("retried") == [(3, True), (3, True), (3, False)]
    assert len(argv(run, "retried")) == 3
    assert run.verdicts("once") == [(3, False)]
    assert run.verdicts("mends") == [(3, True), (3, True)]
    assert len(argv(run, "mends")) == 3


def test_retry_unless_exit(run: Run) -> None:
    """With the code, or one of the codes, of ``retryUnlessExit`` a job is not run again."""
    assert run.verdicts("unless_one") == [(5, False)]
    assert run.verdicts("unless_list") == [(4, True), (6, False)]
    assert run.verdicts("unless_other") == [(3, True), (3, False)]


# Memory.


def test_memory_limits(run: Run) -> None:
    """A job that ends by signal 9 gets its request times the multiplier, up to the
    least of ``requestMemoryMax`` and the ``memoryLimit`` of its label or the run;
    with that much it is run once.
    """
    assert run.memory("job_limit") == [200, 300, None]
    assert run.memory("run_limit") == [400, None]
    assert run.memory("label_limit") == [150, None]
    assert run.memory("at_limit") == [None]
    assert run.memory("code_137") == [150, None]
    for name in ("job_limit", "run_limit", "label_limit", "at_limit", "code_137"):
        assert [code for code, _ in run.verdicts(name)] == [137] * len(run.memory(name)), name
        assert not run.fails(name)[-1]["retry"]


def test_memory_reason(run: Run) -> None:
    """When no more memory can be had, the reason tells what the job asked for
    and the peak that was measured, in MB.
    """
    run.wait("job_limit", "eats")
    why = run.fails("job_limit")[-1]["why"]
    numbers = [float(number) for number in re.findall(r"([0-9.]+) MB", why)]
    assert 300 in numbers, why
    assert any(1 <= number <= 60 for number in numbers), why


def test_memory_used(run: Run) -> None:
    """A job that fails having used its request or more gets more; one that used
    less is run again with the same.
    """
    assert run.verdicts("eats") == [(1, True), (1, True)]
    assert run.memory("eats") == [40, 80]
    assert run.memory("modest") == [None]


def test_memory_and_retries(run: Run) -> None:
    """Growing does not give a job more retries than it has."""
    assert run.verdicts("few_retries") == [(137, True), (137, False)]
    assert run.memory("few_retries")[0] == 150


@pytest.mark.slow
def test_memory_after_kill(bench: Bench) -> None:
    """Memory to which a job has grown is kept when the driver is killed."""
    code = 'cd "${0%/*}"; echo "begin $BPS_PARSL_ATTEMPT" >>steps.txt\n'
    code += 'while [ "$BPS_PARSL_ATTEMPT" != 1 ] && [ -e hold ]; do sleep 0.05; done; kill -9 $$\n'
    fields = {
        "request_memory": 100,
        "memory_multiplier": 2,
        "request_memory_max": 400,
        "number_of_retries": 5,
    }
    bench.prepare([Step("a", executable=str(bench.script("oom.sh", code)), fields=fields)])
    bench.hold()
    driver = bench.drive()
    wait_until(lambda: len(bench.steps("begin")) == 2, "the second attempt begins")
    driver.kill()
    resumed = bench.drive()
    wait_until(lambda: len(bench.steps("begin")) == 3, "it begins again")
    bench.let_go()
    resumed.finish().complained("400 MB")
    memory = [event.get("memory") for event in events_of_kind(bench.submit_path, "fail")]
    assert memory == [200, 400, None]
    assert len(bench.steps("begin")) == 4
    assert bench.steps("begin")[0] == "1"
    assert "1" not in bench.steps("begin")[1:], "numbers of attempts"


# How many run, and in which order.


def test_concurrency(run: Run) -> None:
    """Of the jobs of a ``category`` or with a ``concurrencyLimit`` that has a
    number in the site's ``concurrencyLimits``, no more run at once.
    """
    for kind in ("cat", "db"):
        names = [f"{kind}{number}" for number in range(3)] + ["both"]
        run.wait(*names)
        assert run.succeeded() >= set(names)
        assert run.most_at_once(Counter(names)) == 1


def note_what_is_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a driver, which is a copy of this process, write down which jobs it has handed over."""
    path = bench.path / "sent"

    def note(spec: dict[str, Any]) -> None:
        with path.open("a") as stream:
            stream.write(f"{spec.get('j')}\n")

    send, submit = RunnerClient._send, HighThroughputExecutor.submit

    def send_and_note(self: RunnerClient, message: dict[str, Any]) -> None:
        send(self, message)
        note(message)

    def submit_and_note(
        self: HighThroughputExecutor, func: Any, resources: Any, *args: Any, **kw: Any
    ) -> Any:
        future = submit(self, func, resources, *args, **kw)
        for specs in (arg for arg in args if isinstance(arg, dict) and "j" in arg):
            note(specs)
        return future

    monkeypatch.setattr(RunnerClient, "_send", send_and_note)
    monkeypatch.setattr(HighThroughputExecutor, "submit", submit_and_note)
    return path


@pytest.mark.slow
def test_narrow_site(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one job runs at a time: one that is ready later and has a higher
    ``priority`` goes before those that have not begun. ``retries`` of the site
    comes before ``numberOfRetries``, and memory grows up to the ``memoryLimit``
    of the site's section, and to what the site has.
    """
    lows = [f"low{number}" for number in range(3)]
    fields: dict[str, Any] = {"memory_multiplier": 2, "request_memory": 700, "number_of_retries": 5}
    bench.prepare(
        [
            *(Step(name, fields={"priority": "9"}) for name in lows),
            Step("first", fields={"priority": "50"}),
            Step("late", ["first"], fields={"priority": 10}),
            bench.telling("many", 3, parents=["late"], number_of_retries=5),
            bench.telling("none", 3, parents=["late"], number_of_retries=0),
            bench.telling("section", -9, parents=["late"], **fields),
            bench.telling("place", -9, parents=["late"], label="large", **fields),
        ],
        site={**bench.engine.site(1, giga=1), "retries": 1, "memoryLimit": 900},
        pipetask={"large": {"memoryLimit": 5000}},
    )
    for name in ("first", *lows):
        bench.hold(name)
    sent = note_what_is_sent(bench, monkeypatch)
    run = Run(bench)
    wait_until(lambda: bench.steps("begin"), "one begins")
    assert bench.steps("begin") == ["first"]
    bench.let_go("first")
    run.wait("first")
    late = str(run.names.index("late"))
    wait_until(lambda: late in sent.read_text().split(), "late is given to the runner, or to Parsl")
    for name in lows:
        bench.let_go(name)
    run.driver.finish().complained("4 jobs of run failed")
    assert bench.steps("begin").index("late") <= 2, bench.steps("begin")
    assert [name for name in bench.steps("begin") if name in lows] == lows
    for name in ("many", "none", "section", "place"):
        assert [retry for _, retry in run.verdicts(name)] == [True, False], name
    assert run.memory("section")[0] == 900
    assert run.memory("place")[0] == 1024


# What a job finds.


def test_environment(run: Run) -> None:
    """A job's ``environment`` reaches it, whatever the values hold, and no other
    job; ``<ENV:name>`` in it is filled in where it runs, and ``<WMS:attemptNum>``.
    """
    run.wait("environ", "once")
    first, second = (found["environ"] for found in run.bench.told("environ"))
    assert {name: first[name] for name in NASTY} == NASTY
    assert first["TEST_ENV"] == OUTSIDE + "+"
    assert first["TEST_NUMBER"] == "5"
    assert [first["TEST_ATTEMPT"], second["TEST_ATTEMPT"]] == ["try 1", "try 2"]
    (other,) = run.bench.told("once")
    assert "TEST_SPACES" not in other["environ"]
    assert not list(run.bench.path.rglob("ran"))


@pytest.mark.parametrize("name", ["words", "shelled"])
def test_arguments(run: Run, name: str) -> None:
    """Names in the arguments are filled in, with a shell and without;
    ``<WMS:attemptNum>`` is 1 and then 2, as is a variable.
    """
    same = [OUTSIDE, str(run.bench.path / "in put"), "p", "q", "p q"]
    assert argv(run, name) == [[*same, n, f"x{n}y", n] for n in ("1", "2")]
    attempts = [found["environ"]["BPS_PARSL_ATTEMPT"] for found in run.bench.told(name)]
    assert attempts == ["1", "2"]


def test_attempt_number_of_yaml(run: Run) -> None:
    """``{wmsAttemptNum}`` in a command of the YAML is the number of the attempt."""
    assert [words[0] for words in argv(run, "pipetaskInit")] == ["1", "2"]


def test_no_effect(run: Run) -> None:
    """Fields that are for other systems change nothing: the job runs."""
    run.wait("carefree")
    assert "carefree" in run.succeeded()


def test_compute_site(run: Run) -> None:
    """A job runs on the site that it names, and its site class sees all that BPS
    says of it: here it chooses between two executors by the profile.
    """
    jobs = {"lane_quick": "second", "lane_slow": "second", "once": "local"}
    run.wait(*jobs)
    environs = {name: run.bench.told(name)[0]["environ"] for name in jobs}
    assert {name: environ["TEST_SITE"] for name, environ in environs.items()} == jobs
    assert (run.bench.path / "quick.txt").read_text() == "quick\n"
    if run.bench.engine == HTEX:
        assert environs["lane_slow"]["TEST_LABEL"] == "slow"
        assert "TEST_LABEL" not in environs["lane_quick"]
    else:
        assert (run.bench.path / "slow.txt").read_text() == "slow\n"
    seen = json.loads((run.bench.path / "seen.lane_quick").read_text())
    expected = {**HARMLESS, "profile": {"lanes": {"lane": "quick"}}, "compute_site": "second"}
    assert seen == expected


# Commands around a command.


def post(run: Run, name: str) -> str:
    """Return the exit code of which a job's last command was told."""
    run.wait(name)
    return (run.bench.path / "told" / f"{name}.post").read_text()


def test_pre_cmdline(run: Run) -> None:
    """``preCmdline`` runs before the command, in its shell; where it fails the
    job is not run and has its exit code.
    """
    run.wait("pre")
    assert run.bench.told("pre")[0]["environ"]["TEST_PRE"] == "a  b"
    assert run.verdicts("pre_fails") == [(7, False)]
    assert run.verdicts("pre_exits") == [(8, False)]
    assert not run.bench.told("pre_fails") + run.bench.told("pre_exits")


def test_post_cmdline(run: Run) -> None:
    """``postCmdline`` runs after the command whatever became of that, and has
    its exit code; its own failure counts where the command succeeded.
    """
    assert post(run, "pre") == "0\n"
    assert post(run, "pre_fails") == "7\n"
    assert post(run, "pre_exits") == "8\n"
    assert post(run, "post_after_3") == "3\n"
    assert post(run, "post_after_15") == "143\n"
    assert post(run, "post_after_9") == "137\n"
    codes = {"post_after_3": 3, "post_after_15": 143, "post_after_9": 137}
    codes |= {"post_fails": 9, "post_exits": 9, "both_fail": 3}
    assert {name: run.verdicts(name) for name in codes} == {
        name: [(code, False)] for name, code in codes.items()
    }


def test_names_around(run: Run) -> None:
    """Names in both are those of the command's values, of the job's files and of
    BPS's configuration. What they hold is data: it stays whole within quotes, is
    taken apart into words without, and is not executed.
    """
    expected = [VALUE, str(run.bench.path / "in put"), VARIABLE]
    expected += shlex.split(VALUE) + shlex.split(VARIABLE)
    run.wait("names")
    for name in ("names_pre", "names_post"):
        assert [found["argv"] for found in run.bench.told(name)] == [expected], name
    assert not list(run.bench.path.rglob("ran"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"arguments": "x <WMS:xyz>"}, "<WMS:xyz>"),
        ({"environment": {"X": "a<WMS:xyz>"}}, "<WMS:xyz>"),
        ({"preCmdline": "echo 'open"}, "preCmdline"),
        ({"postCmdline": 'echo "open'}, "postCmdline"),
    ],
    ids=["argument", "environment", "pre", "post"],
)
def test_error_at_prepare(make_bench: Callable[[Engine], Bench], fields: dict[str, Any], said: str) -> None:
    """What can never be filled in, or has a quotation without end, is an error
    before anything runs, without a traceback.
    """
    bench = make_bench(THREADS)
    submitcmd(bench, fields).complained(said)
    assert not bench.steps("begin")


def submitcmd(bench: Bench, fields: dict[str, Any]) -> Any:
    """Run a step by ``bps submitcmd``."""
    content = {
        "wmsServiceClass": SERVICE,
        "computeSite": "local",
        "site": {"local": bench.engine.site(1)},
        "operator": "tester",
        "project": "tests",
        "campaign": "command",
        "payloadName": "step",
        "submitPath": str(bench.path / "submit here" / "{timestamp}"),
        "uniqProcName": "step_{timestamp}",
        "customJob": {"executable": str(bench.step), "arguments": "custom", **fields},
    }
    (bench.path / "command.yaml").write_text(yaml.safe_dump(content))
    return bench.bps("submitcmd", bench.path / "command.yaml")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request_walltime", 0.5),
        ("request_walltime", -1),
        ("abort_on_value", "two"),
        ("abort_return_value", "two"),
    ],
)
def test_impossible_number(make_bench: Callable[[Engine], Bench], field: str, value: object) -> None:
    """A number that is none, or that cannot be meant, is an error at prepare that names it."""
    bench = make_bench(THREADS)
    with pytest.raises(WorkflowError) as caught:
        bench.prepare([Step("a", fields={field: value})])
    assert "Job a" in caught.value.message
    assert str(value) in caught.value.message


@pytest.mark.slow
def test_numbers_as_text(make_bench: Callable[[Engine], Bench]) -> None:
    """Numbers in quotes, as BPS's variables in YAML give them, are numbers."""
    bench = make_bench(THREADS)
    fields: dict[str, Any] = {
        "request_memory": "100",
        "memory_multiplier": "1.5",
        "request_memory_max": "200",
        "request_cpus": "1",
        "number_of_retries": "5",
    }
    bench.prepare(
        [
            bench.telling("grows", -9, **fields),
            bench.telling("retried", 3, number_of_retries="1"),
            bench.telling("unless", 5, number_of_retries=2, retry_unless_exit=["4", "5"]),
        ]
    )
    run = Run(bench)
    run.driver.finish().complained("3 jobs of run failed")
    assert run.memory("grows") == [150, 200, None]
    assert run.verdicts("retried") == [(3, True), (3, False)]
    assert run.verdicts("unless") == [(5, False)]


def test_abort_value_as_text(make_bench: Callable[[Engine], Bench]) -> None:
    """So are ``abortOnValue`` and ``abortReturnValue``."""
    bench = make_bench(THREADS)
    fields: dict[str, Any] = {"abort_on_value": "42", "abort_return_value": "77"}
    bench.prepare([bench.telling("a", 42, number_of_retries=1, **fields)])
    assert bench.drive().finish().code == 77
    assert len(bench.told("a")) == 1


# Copies.


def test_transfer_executable(run: Run) -> None:
    """An executable that is to be transferred is copied when the run is prepared,
    and can be executed; one that is in the submit directory stays there.
    """
    names = ["transfer_one", "transfer_two", "transfer_inside"]
    run.wait(*names)
    assert run.succeeded() >= set(names)
    told = (run.bench.path / "told" / "prog").read_text().splitlines()
    assert sorted(told) == ["inside", "one 1", "two 1"]
    copies = [path for path in (run.path / "parsl" / "bin").rglob("*") if path.is_file()]
    assert len(copies) == 2
    for path in [*copies, run.path / "in side.sh"]:
        assert path.stat().st_mode & 0o100, path
    assert "exit 99" not in "".join(path.read_text() for path in copies)


def test_missing_executable(make_bench: Callable[[Engine], Bench]) -> None:
    """One that is missing is an error when the run is prepared, which names it."""
    bench = make_bench(THREADS)
    missing = bench.path / "no where" / "prog.sh"
    fields = {"executable": GenericWorkflowExec("prog.sh", str(missing), True)}
    with pytest.raises(WorkflowError) as caught:
        bench.prepare([Step("a", fields=fields)])
    assert str(missing) in caught.value.message
    assert not (bench.submit_path / "parsl/plan.jsonl").exists()


def test_execution_butler(run: Run) -> None:
    """Each attempt of a job that names the execution butler has a copy of its
    own, which is removed whatever became of the job; a directory whose name
    only begins so is none.
    """
    original = f"{run.bench.path}/EXEC"
    names = ["copy_ok", "copy_fails", "copy_killed"]
    run.wait(*names)
    assert run.verdicts("copy_fails") == [(3, True), (3, False)]
    found = [attempt for name in names for attempt in run.bench.told(name)]
    assert len(found) == 4
    for attempt in found:
        copy = str(Path(attempt["path"]).parent)
        assert copy != original
        assert attempt["content"] == "EXEC"
        assert attempt["files"] == ["butler.yaml"]
        assert attempt["argv"] == [f"--repo={copy}", f"{original}-more/butler.yaml", f"{original}2"]
        assert not Path(copy).exists()
    assert (
        len({attempt["path"] for attempt in [*run.bench.told("copy_ok"), *run.bench.told("copy_killed")]})
        == 2
    )
    assert [path.name for path in Path(original).iterdir()] == ["butler.yaml"]
    assert argv(run, "pipetaskInit")[0][1] == f"{original}/butler.yaml"


def test_command_line_with_butler(make_bench: Callable[[Engine], Bench]) -> None:
    """``ParslJob.get_command_line`` has the copy, unless it is told not to."""
    bench = make_bench(THREADS)
    path = bench.path / "EXEC"
    path.mkdir()
    config = bench.config(executionButlerDir=str(path))
    generic = bench.job(Step("a", executable="/bin/cat", arguments=f"{path}/butler.yaml"))
    job = ParslJob(generic, config, {})
    assert shlex.split(job.get_command_line(allow_stage=False)) == ["/bin/cat", f"{path}/butler.yaml"]
    staged = job.get_command_line()
    assert str(path) in staged
    (path / "butler.yaml").write_text("original")
    with bench.as_process():
        done = bench.run("/bin/bash", "-c", staged.replace("/bin/cat", "ls -d")).succeeded()
    (copy,) = done.stdout.splitlines()
    assert copy.endswith("/butler.yaml")
    assert not copy.startswith(f"{path}/")
    assert not Path(copy).exists()


# The end: now the whole run is waited for.


@pytest.mark.slow
def test_request_cpus(run: Run) -> None:
    """On Local the CPU requests of the jobs that run at one time add up to at
    most ``cores``; a worker takes one job whatever it asks for.
    """
    wide = [f"cpus{number}" for number in range(3)]
    run.wait(*wide, "meet0", "meet1", "slow_last", deadline=600)
    assert {"meet0", "meet1"} <= run.succeeded(), "two ran at the same time"
    if run.bench.engine == THREADS:
        weights = dict.fromkeys(run.names, 1) | dict.fromkeys(wide, 2)
        # These are not counted there.
        weights |= dict.fromkeys(("final", "pipetaskInit", "lane_quick", "lane_slow"), 0)
        assert run.most_at_once(weights) <= 4


@pytest.mark.slow
def test_request_walltime(run: Run) -> None:
    """A job that is over its ``requestWalltime`` is ended with all processes of
    its group, and that is its reason; it is run again if it has retries.
    """
    run.wait("slow", "slow_last", deadline=600)
    for name, retry in (("slow", True), ("slow_last", False)):
        (event,) = run.fails(name)
        assert event["retry"] is retry
        assert "walltime" in event["why"].lower(), event["why"]
    assert "slow" in run.succeeded()
    children = {int(pid) for pid in (run.bench.path / "told" / "slow.pids").read_text().split()}
    assert len(children) == 4
    assert not [process.pid for process in run.bench.processes() if process.pid in children]
    first, second = (run.bench.path / "told" / "slow.post").read_text().split()
    assert int(first) == 128 + signal.SIGTERM
    assert second == "0"
    copies = (run.bench.path / "told" / "slow.path").read_text().split()
    assert len(copies) == 3
    assert not [path for path in copies if Path(path).parent.exists()]


@pytest.mark.slow
def test_final_job_of_many(run: Run) -> None:
    """At the end the final job runs, with the butler itself; the exit status is
    not 0, and all is said without a traceback.
    """
    run.driver.finish(600).complained("jobs of run failed")
    (final,) = run.bench.told("final")
    assert final["argv"] == [f"{run.bench.path}/EXEC/butler.yaml"]
    if run.bench.engine == HTEX:
        assert run.bench.told("once")[0]["environ"]["TEST_LABEL"] == "main"
        assert "TEST_LABEL" not in final["environ"], "on the submit host"
    assert not list(run.bench.path.rglob("ran"))
