# SPDX-License-Identifier: BSD-3-Clause
"""Processes, workflows of small scripts, and waiting for what they do."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import lsst.ctrl.bps.report as bps_report
import psutil
from lsst.ctrl.bps.cli.bps import main as bps_main

from lsst.ctrl.bps import BpsConfig, GenericWorkflow, GenericWorkflowExec, GenericWorkflowJob, WmsStates
from lsst.ctrl.bps.parsl import ParslService, ParslWorkflow
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.run.journal import read_journal

SERVICE = "lsst.ctrl.bps.parsl.ParslService"
HERE = Path(__file__).parent
TINYCAM = HERE / "tinycam"
BIN = Path(sys.executable).parent
MARKER = "END_TO_END_SANDBOX"
"""Environment variable of every process that a test starts, however far down."""

_STEP = """\
#!/bin/sh
# step.sh NAME: says that it begins and ends; waits and fails where a file beside it says so.
here=${0%/*}
echo "begin $1" >>"$here/steps.txt"
while [ -e "$here/hold" ] || [ -e "$here/hold.$1" ]; do sleep 0.02; done
if [ -e "$here/fail.$1" ]; then
    echo "step $1 was told to fail" >&2
    exit "$(cat "$here/fail.$1")"
fi
echo "end $1" >>"$here/steps.txt"
"""


def wait_until(condition: Callable[[], object], what: str, deadline: float = 120.0) -> None:
    """Wait for something that other processes do; fail after a deadline (s)."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:.0f} s: {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Finished:
    """What a process came to."""

    args: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """All that it wrote."""
        return self.stdout + self.stderr

    def __str__(self) -> str:
        return "\n".join(
            [
                " ".join(self.args),
                f"exit status {self.code}",
                self.stdout[-3000:],
                "--- stderr",
                self.stderr[-3000:],
            ]
        )

    def succeeded(self) -> Finished:
        """Return itself where all went well."""
        assert self.code == 0, str(self)
        assert "Traceback" not in self.text, str(self)
        return self

    def complained(self, *parts: str) -> Finished:
        """Return itself where it failed with a sentence that has the parts."""
        assert self.code != 0, f"exit status 0:\n{self}"
        assert "Traceback" not in self.text, f"a traceback:\n{self}"
        flat = re.sub(r"\s+", " ", self.stderr)
        for part in parts:
            assert part in flat, f"not said: {part!r}\n{self}"
        return self


class Running:
    """A process that a test started, with its output in files."""

    def __init__(self, args: Sequence[str], stem: Path) -> None:
        self.args = tuple(args)
        self._out, self._err = Path(f"{stem}.out"), Path(f"{stem}.err")

    def execute(self, env: Mapping[str, str], cwd: Path) -> None:
        """Begin as a new program."""
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            # A session of its own: signals of a test reach nobody else.
            process = subprocess.Popen(
                self.args,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.pid, self._wait, self._poll = process.pid, process.wait, process.poll

    def fork(self, action: Callable[[], int], env: Mapping[str, str], cwd: Path) -> None:
        """Begin as a copy of this process, which has imported all of BPS: that
        takes an interpreter two seconds, and there are many processes here.
        """
        for path in (self._out, self._err):
            path.touch()  # Whoever waits for a text may be faster than the copy.
        pid = os.fork()
        if pid == 0:
            code, is_ours = 70, True
            try:
                os.setsid()
                for number, path in ((1, self._out), (2, self._err)):
                    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                    os.dup2(fd, number)
                    os.close(fd)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
                sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
                for handler in list(logging.root.handlers):
                    logging.root.removeHandler(handler)  # pytest's own
                os.environ.clear()
                os.environ.update(env)
                os.chdir(cwd)
                is_ours = False
                code = action()
            except BaseException as exc:
                if is_ours and isinstance(exc, KeyboardInterrupt):
                    code = 128 + signal.SIGINT  # It came before there was anything that could heed it.
                else:
                    traceback.print_exc()
            finally:
                with contextlib.suppress(BaseException):
                    logging.shutdown()
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        child = psutil.Process(pid)
        self.pid = pid
        while os.getpgid(pid) != pid:
            time.sleep(0.001)  # Signals for its group come when it has one.
        self._wait = lambda timeout=None: _waited(child, timeout)
        self._poll = lambda: _polled(child)

    @property
    def stdout(self) -> str:
        """What it wrote so far."""
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        """What it wrote so far to its standard error."""
        return self._err.read_text()

    def finish(self, timeout: float = 300.0) -> Finished:
        """Wait for its end."""
        try:
            code = self._wait(timeout)
        except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
            self.kill()
            raise AssertionError(
                f"not done within {timeout:.0f} s: {self.args}\n{self.stdout}\n{self.stderr}"
            ) from None
        return Finished(self.args, code, self.stdout, self.stderr)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: Ctrl-C to its group, as a terminal does, others to it alone."""
        assert self.poll() is None, f"it has ended: {self.finish()}"
        (os.killpg if number == signal.SIGINT else os.kill)(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL, and nothing else with it."""
        os.kill(self.pid, signal.SIGKILL)
        self._wait(60)

    def poll(self) -> int | None:
        """Return its exit status, where it has ended."""
        return self._poll()

    def wait_for(self, text: str, deadline: float = 120.0) -> str:
        """Wait until it has written a text, and return its output."""

        def seen() -> bool:
            if text in self.stdout + self.stderr:
                return True
            assert self.poll() is None, f"ended before {text!r}: {self.finish()}"
            return False

        wait_until(seen, f"{text!r} from {self.args}", deadline)
        return self.stdout + self.stderr


def _waited(child: psutil.Process, timeout: float | None) -> int:
    code = child.wait(timeout)
    return code if isinstance(code, int) else 70


def _polled(child: psutil.Process) -> int | None:
    try:
        return _waited(child, 0)
    except psutil.TimeoutExpired:
        return None


def run_bps(args: Sequence[str]) -> int:
    """Do what the command ``bps`` does, in this process."""
    sys.argv = ["bps", *args]
    # Its default is the stream of whoever imported it: that of pytest here.
    display = bps_report.display_report
    display.__defaults__ = (*(display.__defaults__ or ())[:-1], sys.stdout)
    try:
        bps_main()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    return 0


@dataclass
class Step:
    """A job of a workflow of small scripts."""

    name: str
    parents: Sequence[str] = ()
    label: str = "step"
    arguments: str | None = None
    """By default the name, for ``step.sh``."""
    executable: str | None = None
    """By default ``step.sh``."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of ``GenericWorkflowJob``."""


class Sandbox:
    """A directory of a test, and the processes that know it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"
        self.submit_path = path / "submit" / "run"
        """Submit directory of the run that `prepare` makes by default."""
        self._count = 0
        self._forked: list[Running] = []
        for name in ("home", "tmp", "out"):
            (path / name).mkdir(parents=True)
        self.env = {
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(path / "home"),
            "TMPDIR": str(path / "tmp"),
            "LANG": "C.UTF-8",
            "USER": "tester",
            "LOGNAME": "tester",
            "PYTHONPATH": str(HERE),
            "BPS_PARSL_STATE_DIR": str(self.state),
            "BPS_WMS_SERVICE_CLASS": SERVICE,
            MARKER: str(path),
        }
        self.step = path / "step.sh"
        self.step.write_text(_STEP)
        self.step.chmod(0o755)

    # Processes.

    def start(
        self, *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Running:
        """Start a process; ``env`` replaces the sandbox's environment."""
        words = [str(word) for word in args]
        if "/" not in words[0]:
            found = shutil.which(words[0], path=self.env["PATH"])
            assert found, words[0]
            words[0] = found
        running = Running(words, self._stem())
        running.execute(self._environment(env), cwd or self.path)
        return running

    def fork(
        self, *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Running:
        """Start ``bps`` as `Running.fork` does."""
        words = [str(word) for word in args]
        running = Running(["bps", *words], self._stem())
        running.fork(lambda: run_bps(words), self._environment(env), cwd or self.path)
        self._forked.append(running)
        return running

    def _stem(self) -> Path:
        self._count += 1
        return self.path / "out" / f"{self._count:03d}"

    def _environment(self, env: Mapping[str, str] | None) -> Mapping[str, str]:
        return self.env if env is None else {**env, MARKER: str(self.path)}

    def run(
        self,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300.0,
    ) -> Finished:
        """Run a process to its end."""
        return self.start(*args, env=env, cwd=cwd).finish(timeout)

    def bps(
        self,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300.0,
    ) -> Finished:
        """Run ``bps`` in a copy of this process to its end."""
        return self.fork(*args, env=env, cwd=cwd).finish(timeout)

    def python(self, code: str, *args: str | Path, **keywords: Any) -> Finished:
        """Run some code in a new interpreter."""
        return self.run(sys.executable, "-c", code, *args, **keywords)

    def processes(self, text: str = "") -> list[psutil.Process]:
        """Return the living processes of the sandbox that have a text in their command."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (
                    self._is_ours(process)
                    and process.status() != psutil.STATUS_ZOMBIE
                    and process.pid != os.getpid()
                    and text in " ".join(process.cmdline())
                ):
                    found.append(process)
        return found

    def _is_ours(self, process: psutil.Process) -> bool:
        environment = process.environ()
        # Parsl's processes that give themselves a title write it over their environment.
        return environment.get(MARKER) == str(self.path) or (
            not environment and "parsl:" in " ".join(process.cmdline()) and process.cwd() == str(self.path)
        )

    def assert_nothing_runs(self, deadline: float = 60.0) -> None:
        """Wait until no process of the sandbox is left."""

        def described() -> str:
            lines = []
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    lines.append(f"{process.pid} {process.cmdline()}")
            return "\n".join(lines)

        end = time.monotonic() + deadline
        while self.processes():
            assert time.monotonic() < end, f"still there after {deadline:.0f} s:\n{described()}"
            time.sleep(0.05)

    def close(self) -> None:
        """End what is left, without mercy."""
        for running in self._forked:
            if running.poll() is None:
                running.kill()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    # What steps do.

    def hold(self, name: str = "") -> None:
        """Have all steps, or one, wait."""
        (self.path / (f"hold.{name}" if name else "hold")).touch()

    def let_go(self, name: str = "") -> None:
        """Have them wait no more."""
        (self.path / (f"hold.{name}" if name else "hold")).unlink()

    def break_step(self, name: str, code: int = 1) -> None:
        """Have a step fail with an exit code."""
        (self.path / f"fail.{name}").write_text(f"{code}\n")

    def mend_step(self, name: str) -> None:
        """Have it succeed from now on."""
        (self.path / f"fail.{name}").unlink()

    def steps(self, kind: str) -> list[str]:
        """Return the names of the steps that began or ended (``kind``), in order."""
        try:
            lines = (self.path / "steps.txt").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]

    # Workflows of steps.

    def config(self, name: str = "run", **settings: Any) -> BpsConfig:
        """Return a configuration for a workflow of steps."""
        site = {
            "class": "lsst.ctrl.bps.parsl.sites.Local",
            "cores": 2,
            **settings.pop("site", {}),
        }
        content = {
            "wmsServiceClass": SERVICE,
            "computeSite": "local",
            "site": {"local": site},
            "submitPath": str(self.submit_path.with_name(name)),
            "subDirTemplate": "{label}",
            "uniqProcName": name,
            "operator": "tester",
            "project": "tests",
            "campaign": "steps",
            **settings,
        }
        return BpsConfig(content)

    @contextlib.contextmanager
    def as_process(self) -> Iterator[None]:
        """Have this process's environment and directory be the sandbox's."""
        with mock.patch.dict(os.environ, self.env), contextlib.chdir(self.path):
            yield

    def generic(self, steps: Iterable[Step], final: Step | GenericWorkflow | None = None) -> GenericWorkflow:
        """Return a workflow of steps as BPS describes it."""
        workflow = GenericWorkflow("steps")
        steps = list(steps)
        for step in steps:
            workflow.add_job(self.job(step))
        for step in steps:
            for parent in step.parents:
                workflow.add_edge(parent, step.name)
        if final is not None:
            workflow.add_final(self.job(final) if isinstance(final, Step) else final)
        workflow.run_attrs.update(
            bps_isjob="True",
            bps_project="tests",
            bps_campaign="steps",
            bps_run="steps",
            bps_operator="tester",
            bps_payload="steps",
            bps_runsite="local",
        )
        return workflow

    def job(self, step: Step) -> GenericWorkflowJob:
        """Return BPS's description of a step."""
        executable = GenericWorkflowExec("step", step.executable or str(self.step), False)
        job = GenericWorkflowJob(step.name, step.label, executable=executable)
        job.arguments = step.name if step.arguments is None else step.arguments
        job.request_cpus, job.request_memory = 1, 512
        for name, value in step.fields.items():
            setattr(job, name, value)
        return job

    def prepare(
        self,
        steps: Iterable[Step] | GenericWorkflow,
        name: str = "run",
        final: Step | GenericWorkflow | None = None,
        **settings: Any,
    ) -> ParslWorkflow:
        """Prepare a workflow of steps; nothing runs."""
        workflow = steps if isinstance(steps, GenericWorkflow) else self.generic(steps, final)
        config = self.config(name, **settings)
        with self.as_process():
            run = ParslService(config).prepare(config, workflow)
        # What BPS itself leaves there, and reads at a restart.
        with open(self.submit_path.with_name(name) / f"{name}_config.yaml", "w") as stream:
            config.dump(stream)
        return run


# What a run left in its submit directory.


def journal_events(submit_path: Path) -> list[dict[str, Any]]:
    """Return the driver's events, in order."""
    return list(read_journal(SubmitPaths(submit_path).driver_journal))


def events_of_kind(submit_path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the driver's events of a kind."""
    return [event for event in journal_events(submit_path) if event["e"] == kind]


def job_names(submit_path: Path) -> list[str]:
    """Return the names of the jobs by their numbers."""
    plan = Plan(SubmitPaths(submit_path).plan)
    if plan.payload_path.exists():
        plan.add_payload()
    return [job.name for job in plan.jobs()]


def node_ends(submit_path: Path) -> list[dict[str, Any]]:
    """Return what runners wrote down about the ends of jobs."""
    paths = SubmitPaths(submit_path).node_journals()
    return [event for path in paths for event in read_journal(path) if event["e"] == "end"]


def node_events(submit_path: Path, kind: str) -> Counter[str]:
    """Count the attempts of each job that nodes saw ``start`` or ``end``.

    Of the ends, those with exit code 0 count.
    """
    names = job_names(submit_path)
    found: Counter[str] = Counter()
    for path in SubmitPaths(submit_path).node_journals():
        for event in read_journal(path):
            if event["e"] == kind and event.get("exit", 0) == 0:
                found[names[event["j"]]] += 1
    return found


def assert_done_once(submit_path: Path, in_flight: Iterable[str] = ()) -> None:
    """Check that every job succeeded once; only those in flight began twice."""
    names = job_names(submit_path)
    succeeded = node_events(submit_path, "end")
    assert dict(succeeded) == dict.fromkeys(names, 1), "jobs by number of successes"
    again = {name for name, count in node_events(submit_path, "start").items() if count > 1}
    assert again <= set(in_flight), "jobs that began twice"


def report_counts(report: str, label: str) -> dict[str, int]:
    """Return the numbers that ``bps report --id`` shows for a label, but for zeros."""
    names = [*(state.name for state in WmsStates), "EXPECTED"]
    # Below this table is that of what the jobs used.
    rows = (line.split() for line in report.splitlines() if line.startswith(f"{label} "))
    row = next(row for row in rows if len(row) == len(names) + 1)
    numbers = dict(zip(names, map(int, row[1:]), strict=True))
    return {name: number for name, number in numbers.items() if number}
