# SPDX-License-Identifier: BSD-3-Clause
"""Site classes as users might have them, and sandboxes whose runs use them."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.executors.base import ParslExecutor
from parsl.providers import LocalProvider

from lsst.ctrl.bps import BpsConfig
from lsst.ctrl.bps.parsl import ParslJob, SiteConfig, get_bps_config_value
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.run.journal import read_journal

from .support import Running, Sandbox, Step, events_of_kind, job_names, wait_until

LOCAL = "lsst.ctrl.bps.parsl.sites.Local"


def workers(label: str, count: int) -> HighThroughputExecutor:
    """Return an executor of some workers here; they have a variable with its label."""
    provider = LocalProvider(init_blocks=1, max_blocks=1, worker_init=f"export TEST_LABEL={label}")
    return HighThroughputExecutor(
        label=label,
        provider=provider,
        address="127.0.0.1",
        cores_per_worker=0.01,
        max_workers_per_node=count,
        heartbeat_period=5,
        encrypted=False,
    )


class Workers(SiteConfig):
    """Runs jobs on some workers of this machine."""

    def get_executors(self) -> list[ParslExecutor]:
        """Return one executor."""
        return [workers("main", self._number("workers"))]

    def select_executor(self, job: ParslJob) -> str:
        """Return its label."""
        return "main"

    def get_capacity(self) -> dict[str, float | None]:
        """Return what jobs may have."""
        return {"cpus": None, "memory": self._number("giga") * 1024.0 or None}

    def _number(self, name: str) -> int:
        return get_bps_config_value(self.site, name, int, 0) or 0


class Noted(ThreadPoolExecutor):
    """Threads that note each job that they get."""

    notes: Path

    def submit(self, func: Any, resource_specification: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Do what threads do."""
        with self.notes.open("a") as stream:
            stream.write(f"{self.label}\n")
        return super().submit(func, resource_specification, *args, **kwargs)  # type: ignore[no-untyped-call]


class Lanes(SiteConfig):
    """Two executors: jobs whose profile says ``quick`` have one of their own.

    All that BPS says of a job is written into a file.
    """

    fields = (
        "request_disk queue accounting_group accounting_user mail_to when_to_mail preemptible profile attrs"
        " compute_cloud tags quanta_counts compute_site"
    ).split()

    def get_executors(self) -> list[ParslExecutor]:
        """Return both."""
        quick = Noted(label="quick", max_threads=1)
        quick.notes = self._path("quick.txt")
        if get_bps_config_value(self.site, "workers", int, 0):
            return [quick, workers("slow", 1)]
        slow = Noted(label="slow", max_threads=1)
        slow.notes = self._path("slow.txt")
        return [quick, slow]

    def select_executor(self, job: ParslJob) -> str:
        """Choose by the profile."""
        seen = {name: getattr(job.generic, name) for name in self.fields}
        self._path(f"seen.{job.generic.name}").write_text(json.dumps(seen))
        profile: dict[str, Any] = job.generic.profile
        return "quick" if profile.get("lanes", {}).get("lane") == "quick" else "slow"

    def _path(self, name: str) -> Path:
        return Path(get_bps_config_value(self.site, "notes", str, required=True) or "") / name


@dataclass(frozen=True)
class Engine:
    """What runs the jobs."""

    name: str

    def __str__(self) -> str:
        return self.name

    def site(self, slots: int, giga: int = 0) -> dict[str, Any]:
        """Return the section of a site for so many jobs of one CPU at a time."""
        if self.name == "threads":
            return {"class": LOCAL, "cores": slots, "memory": f"{giga} GB" if giga else None}
        return {"class": f"{__name__}.Workers", "workers": slots, "giga": giga}

    def lanes(self, notes: Path) -> dict[str, Any]:
        """Return the section of a site with two executors."""
        return {"class": f"{__name__}.Lanes", "workers": int(self.name != "threads"), "notes": str(notes)}


THREADS, HTEX = Engine("threads"), Engine("htex")

_TELL = """\
import json, os, signal, sys
name, codes, *argv = sys.argv[1:]
path = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "told", name)
with open(path, "a+") as stream:
    json.dump({"argv": argv, "environ": dict(os.environ), "cwd": os.getcwd(), "pid": os.getpid()}, stream)
    stream.write("\\n")
    stream.flush()
    stream.seek(0)
    count = len(stream.readlines())
eaten = b"x" * (64 << 20) if "eat" in argv else b""
codes = codes.split(",")
code = int(codes[min(count, len(codes)) - 1])
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class Bench(Sandbox):
    """A sandbox whose runs use an engine; there are blanks in its submit directories."""

    def __init__(self, path: Path, engine: Engine) -> None:
        super().__init__(path)
        self.engine = engine
        self.submit_path = path / "submit here" / "run"
        # Workers make sockets there, whose paths have to be short.
        (path / "tmp").rmdir()
        self.tmp = Path(tempfile.mkdtemp(prefix="fields"))
        (path / "tmp").symlink_to(self.tmp)
        self.env["TMPDIR"] = str(self.tmp)
        self.env["PYTHONPATH"] += f":{Path(__file__).parents[1]}"
        (path / "told").mkdir()
        self.tell = self.script("tell.py", _TELL, f"{sys.executable} -IS")

    def script(self, name: str, code: str, interpreter: str = "/bin/bash", mode: int = 0o755) -> Path:
        """Write a program into the sandbox."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{interpreter}\n{code}")
        path.chmod(mode)
        return path

    def config(self, name: str = "run", **settings: Any) -> BpsConfig:
        """Return a configuration for a workflow of steps."""
        sites = settings.pop("sites", {})
        site = {**self.engine.site(2), **settings.pop("site", {})}
        if self.engine == HTEX:
            # Parsl does not quote what it starts workers with.
            site["run_dir"] = str(self.path / f"parsl.{name}")
        config = super().config(name)
        del config["site"]
        config.update({"site": {"local": site, **sites}, **settings})
        return config

    def telling(
        self,
        name: str,
        codes: object = 0,
        arguments: str = "",
        parents: Iterable[str] = (),
        label: str = "step",
        **fields: Any,
    ) -> Step:
        """Return a job that writes down what it finds and ends with the n-th of some codes.

        A code below 0 is a signal, and the last one is that of all further attempts.
        """
        words = f"{name} {codes} {arguments}"
        return Step(name, tuple(parents), label, words, executable=str(self.tell), fields=fields)

    def told(self, name: str) -> list[dict[str, Any]]:
        """Return what the attempts of such a job found."""
        path = self.path / "told" / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def drive(self, name: str = "run") -> Running:
        """Start or resume a run in another process."""
        return self.fork("restart", "--id", self.submit_path.with_name(name))

    def check_clean(self) -> None:
        """Check that nothing is left but files of runs."""
        self.assert_nothing_runs()
        assert not list((self.path / "home").iterdir()), "left in the home directory"
        # Those are what Parsl's workers leave that are killed.
        left = [path for path in self.tmp.iterdir() if not path.name.startswith("pymp-")]
        assert not left, "left among the temporary files"

    def close(self) -> None:
        """End what is left, without mercy."""
        super().close()
        shutil.rmtree(self.tmp, ignore_errors=True)


class Run:
    """A run that goes on beside the tests that look at it."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.path = bench, bench.submit_path
        self.names = job_names(self.path)
        self.driver = bench.drive()
        self.stuck = False

    def fails(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a job's failures."""
        number = self.names.index(name)
        return [event for event in events_of_kind(self.path, "fail") if event["j"] == number]

    def succeeded(self) -> set[str]:
        """Return the names of the jobs that have succeeded."""
        return {self.names[job[0]] for event in events_of_kind(self.path, "ok") for job in event["j"]}

    def ended(self, *names: str) -> bool:
        """Tell whether jobs have ended for good."""
        left = set(names) - self.succeeded()
        return all(any(not event["retry"] for event in self.fails(name)) for name in left)

    def wait(self, *names: str, deadline: float = 400.0) -> None:
        """Wait until jobs have ended for good."""

        def done() -> bool:
            if self.ended(*names):
                return True
            assert self.driver.poll() is None, f"ended before {names}: {self.driver.finish()}"
            return False

        assert not self.stuck or self.ended(*names), f"the run is stuck, without an end of {names}"
        self.stuck = True
        wait_until(done, f"the end of {names}", deadline)
        self.stuck = False

    def verdicts(self, name: str) -> list[tuple[int, bool]]:
        """Return exit code, and whether it is run again, of each failure of a job that has ended."""
        self.wait(name)
        return [(event["exit"], event["retry"]) for event in self.fails(name)]

    def memory(self, name: str) -> list[int | None]:
        """Return the memory of the next attempt after each failure of a job that has ended."""
        self.wait(name)
        return [event.get("memory") for event in self.fails(name)]

    def intervals(self) -> dict[str, list[tuple[float, float]]]:
        """Return begin and end of the attempts of each job, as nodes saw them."""
        begun: dict[tuple[int, int], float] = {}
        found: dict[str, list[tuple[float, float]]] = {}
        for path in SubmitPaths(self.path).node_journals():
            for event in read_journal(path):
                key = (event.get("j", -1), event.get("a", -1))
                if event["e"] == "start":
                    begun[key] = event["t"]
                elif event["e"] == "end" and key in begun:
                    found.setdefault(self.names[key[0]], []).append((begun[key], event["t"]))
        return found

    def most_at_once(self, weights: Mapping[str, int]) -> int:
        """Return the most that some jobs weighed that ran at one time."""
        changes = []
        for name, spans in self.intervals().items():
            for begin, end in spans:
                changes += [(begin, weights.get(name, 0)), (end, -weights.get(name, 0))]
        total = most = 0
        for _, change in sorted(changes):
            total += change
            most = max(most, total)
        return most
