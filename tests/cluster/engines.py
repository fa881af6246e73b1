# SPDX-License-Identifier: BSD-3-Clause
"""The engines that run here, and sandboxes whose runs use them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import yaml

from end_to_end.support import TINYCAM, Finished, Running, Sandbox, Step, wait_until
from lsst.ctrl.bps import BpsConfig, GenericWorkflow
from lsst.ctrl.bps.parsl import ParslWorkflow

from . import control

SITES = "lsst.ctrl.bps.parsl.sites"
KILLED = ("pymp-", "worker-", "wq-py-staging-", "butler-cache-dir-")
"""What processes of Parsl's, Work Queue's and the Butler's leave in TMPDIR that are killed."""

_STEP = """\
#!/bin/sh
# step.sh NAME: says that it begins, where, and that it ends; complains of another
# of its name that runs; waits and fails where a file beside it says so.
here=${0%/*}
exec 9>"$here/lock.$1"
flock -n 9 || echo "overlap $1" >>"$here/steps.txt"
echo "where $1 ${SLURM_JOB_ID:-none} ${SLURMD_NODENAME:-none}" >>"$here/steps.txt"
echo "begin $1" >>"$here/steps.txt"
while [ -e "$here/hold" ] || [ -e "$here/hold.$1" ]; do sleep 0.2 9>&-; done
[ -e "$here/pace" ] && sleep "$(cat "$here/pace")" 9>&-
if [ -e "$here/fail.$1" ]; then
    echo "step $1 was told to fail" >&2
    exit "$(cat "$here/fail.$1")"
fi
echo "end $1" >>"$here/steps.txt"
"""


@dataclass(frozen=True)
class Engine:
    """Where the jobs of a run run, and how ``bps`` is started for that."""

    name: str
    site: Mapping[str, Any]
    """Section of the site in the YAML."""

    allocation: int = 0
    """Number of nodes of the batch job that ``bps`` runs in."""

    prefix: str = ""
    """What precedes ``bps`` there."""

    nodes: int = 1
    """Number of nodes that four jobs at once are spread over."""

    def __str__(self) -> str:
        return self.name


_FINAL = {"finalJob": "workers"}
_PILOTS = {"walltime": "0:10:00", "partition": "main", "idle_time": 20}

ENGINES = (
    Engine("threads", {"class": f"{SITES}.Local", "cores": 4}),
    Engine("htex", {"class": "cluster.own_site.LocalWorkers"}),
    Engine("slurm", {"class": f"{SITES}.Slurm", "nodes": 1, "cores_per_node": 4, **_PILOTS}),
    Engine(
        "slurm-two-nodes", {"class": f"{SITES}.Slurm", "nodes": 2, "cores_per_node": 2, **_PILOTS}, nodes=2
    ),
    Engine(
        "triple-slurm",
        {
            "class": f"{SITES}.TripleSlurm",
            "nodes": 1,
            "cores_per_node": 4,
            "mem_per_node": 4,
            "small_memory": 1,
            "medium_memory": 2,
            "large_memory": 4,
            **_PILOTS,
            **_FINAL,
        },
    ),
    Engine(
        "torque",
        {
            "class": f"{SITES}.Torque",
            "nodes": 1,
            "tasks_per_node": 4,
            "queue": "main",
            "walltime": "0:10:00",
            **_FINAL,
        },
    ),
    Engine(
        "local-srun",
        {
            "class": f"{SITES}.work_queue.LocalSrunWorkQueue",
            "worker_options": "--memory=5000 --cores=2",
            "nodes_per_block": 2,
            **_FINAL,
        },
        allocation=2,
        nodes=2,
    ),
    Engine(
        "local-srun-apart",
        {
            "class": f"{SITES}.work_queue.LocalSrunWorkQueue",
            "worker_options": "--memory=5000 --cores=2",
            "nodes_per_block": 2,
        },
        allocation=3,
        prefix="srun ",
        nodes=2,
    ),
    Engine(
        "slurm-work-queue",
        {
            "class": f"{SITES}.SlurmWorkQueue",
            "nodes": 1,
            "cores_per_node": 4,
            "mem_per_node": 4,
            **_PILOTS,
            **_FINAL,
        },
    ),
)

LOCAL, SLURM = ENGINES[0], ENGINES[2]

SOON = {"executor_options": {"heartbeat_period": 5, "heartbeat_threshold": 20}}
"""Has the driver take a silent pilot for lost soon, where the default is not what is tested."""


class Allocated(Running):
    """A ``bps`` that runs in a batch job."""

    def __init__(self, bench: Bench, args: Sequence[str], stem: Path) -> None:
        super().__init__(args, stem)
        engine = bench.engine
        self._bench = bench
        self._code = Path(f"{stem}.code")
        script = Path(f"{stem}.sh")
        # As users write it, and what came of it.
        script.write_text(
            f"#!/bin/bash\n\n#SBATCH --nodes={engine.allocation}\n#SBATCH --exclusive\n"
            f"#SBATCH --time=0:10:00\n\ncd {bench.path}\n"
            f"{engine.prefix}bps {' '.join(args)}\n"
            f"echo $? >{self._code}.new\nmv {self._code}.new {self._code}\n"
        )
        submitted = bench.run(
            "sbatch", "--parsable", f"--output={stem}.out", f"--error={stem}.err", script
        ).succeeded()
        self.job = submitted.stdout.strip()
        self.pid = 0  # Of whom cannot be said: the driver's is in its lock.
        self._poll = self._read_code

    def _read_code(self) -> int | None:
        with suppress(FileNotFoundError):
            return int(self._code.read_text())
        return None

    def _wait_for_code(self, timeout: float | None) -> int:
        wait_until(lambda: self._read_code() is not None, f"the end of {self.args}", timeout or 120.0)
        code = self._read_code()
        assert code is not None
        return code

    @property
    def stdout(self) -> str:
        """What it wrote so far."""
        return self._out.read_text() if self._out.exists() else ""

    @property
    def stderr(self) -> str:
        """What it wrote so far to its standard error."""
        return self._err.read_text() if self._err.exists() else ""

    def finish(self, timeout: float = 300.0) -> Finished:
        """Wait for its end."""
        try:
            return Finished(self.args, self._wait_for_code(timeout), self.stdout, self.stderr)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.stdout}\n{self.stderr}") from None

    def kill(self) -> None:
        """End the ``bps`` with SIGKILL, and nothing else with it."""
        os.kill(self._bench.driver_pid(), signal.SIGKILL)
        self._wait_for_code(120.0)


class Bench(Sandbox):
    """A sandbox whose runs use an engine."""

    def __init__(self, path: Path, engine: Engine) -> None:
        super().__init__(path)
        self.engine = engine
        self.step.write_text(_STEP)
        # Workers make sockets there, whose paths have to be short.
        (path / "tmp").rmdir()
        self.tmp = Path(tempfile.mkdtemp(prefix="bench"))
        (path / "tmp").symlink_to(self.tmp)
        # Nobody else's run is called so: by the name its batch jobs are known.
        self.id = self.tmp.name
        self.submit_path = path / "submit" / self.id
        self.env["TMPDIR"] = str(self.tmp)
        if control.is_up():
            self.env["SLURM_CONF"] = control.configuration()
        self.env["PYTHONPATH"] += f":{Path(__file__).parents[1]}"

    def config(self, name: str = "", **settings: Any) -> BpsConfig:
        """Return a configuration for a workflow of steps."""
        sites = settings.pop("sites", {})
        site = {**self.engine.site, **settings.pop("site", {})}
        # The names of its batch jobs are nobody else's: Slurm tells singletons by them.
        settings = {"campaign": self.id, "computeSite": "here", "site": {"here": site, **sites}, **settings}
        config = super().config(name or self.id)
        config.update(settings)
        return config

    def prepare(
        self,
        steps: Iterable[Step] | GenericWorkflow,
        name: str = "",
        final: Step | GenericWorkflow | None = None,
        **settings: Any,
    ) -> ParslWorkflow:
        """Prepare a workflow of steps; nothing runs."""
        # Work Queue's executor starts it in this process, and it is none of the run's.
        resource_tracker.ensure_running()
        return super().prepare(steps, name or self.id, final, **settings)

    def tinycam(self, detectors: int = 1) -> Path:
        """Write the configuration of the tiny camera's pipeline for the engine."""
        self.env |= {
            "TINYCAM_DIR": str(self.path),
            "TINYCAM_SOURCE": str(TINYCAM),
            "TINYCAM_DETECTORS": str(detectors),
        }
        content = yaml.safe_load((TINYCAM / "bps.yaml").read_text())
        content |= {"computeSite": "here", "site": {"here": dict(self.engine.site)}}
        path = self.path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def drive(self, *args: str | Path) -> Running:
        """Start a ``bps`` that runs jobs."""
        if self.engine.allocation:
            return Allocated(self, [str(word) for word in args], self._stem())
        return self.fork(*args)

    def await_step(self, driver: Running, *names: str, deadline: float = 300.0) -> None:
        """Wait until steps have begun, as long as the driver is there."""

        def begun() -> bool:
            if set(names) <= set(self.steps("begin")):
                return True
            assert driver.poll() is None, f"ended before {names}: {driver.finish()}"
            return False

        try:
            wait_until(begun, f"{names} begin", deadline)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{driver.stdout}\n{driver.stderr}") from None

    def driver_pid(self) -> int:
        """Return the process of the driver of the run."""
        return int(json.loads((self.submit_path / "parsl/driver.lock").read_text())["pid"])

    # What the batch system has of it.

    def have_begun(self, count: int) -> bool:
        """Tell whether so many steps have begun."""
        return len(self.steps("begin")) >= count

    def jobs(self) -> list[control.Job]:
        """Return its jobs in the queue: what they were submitted from tells."""
        if "SLURM_CONF" not in self.env:
            return []
        return [
            job
            for job in control.jobs()
            if job.directory.startswith(f"{self.path}/") or job.directory == str(self.path)
        ]

    def running_jobs(self) -> list[control.Job]:
        """Return those that run."""
        return [job for job in self.jobs() if job.state == "RUNNING"]

    def assert_queue_empty(self, deadline: float = 120.0) -> None:
        """Wait until the queue has none of its jobs."""
        wait_until(lambda: not self.jobs(), "the queue is empty", deadline)

    def close(self) -> None:
        """End what is left, without mercy."""
        for job in self.jobs():
            control.cancel(job.id)
        super().close()
        shutil.rmtree(self.tmp, ignore_errors=True)

    # What steps wrote.

    def where(self) -> Iterator[tuple[str, str, str]]:
        """Return the name, the batch job and the node of each step that began."""
        for line in self.steps("where"):
            name, job, node = line.split()
            yield name, job, node

    def assert_each_once(self, names: Sequence[str]) -> None:
        """Check that each of the steps ended once, and never two of a name ran at once."""
        assert Counter(self.steps("end")) == Counter(names), "steps that came to their end"
        assert not self.steps("overlap"), "steps that ran twice at the same time"
