# SPDX-License-Identifier: BSD-3-Clause
"""Site classes and facilities: what Parsl and the batch systems get of them."""

from __future__ import annotations

import difflib
import gc
import importlib
import json
import logging
import os
import platform
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import parsl.executors.workqueue.executor as work_queue_module
import parsl.providers.cluster_provider as cluster_provider
import pytest
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.executors.base import ParslExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SimpleLauncher, SingleNodeLauncher, SrunLauncher
from parsl.providers import LocalProvider

from lsst.ctrl.bps import BPS_DEFAULTS, BpsConfig, GenericWorkflowExec, GenericWorkflowJob
from lsst.ctrl.bps.parsl import ParslJob, SiteConfig, get_parsl_config
from lsst.ctrl.bps.parsl.batch.launchers import Jsrun, Mpiexec
from lsst.ctrl.bps.parsl.driver.sites import Sites
from lsst.ctrl.bps.parsl.errors import ConfigurationError, SchedulerError
from lsst.ctrl.bps.parsl.node import pilot, process_worker_pool
from lsst.ctrl.bps.parsl.site import site_complaints
from lsst.ctrl.bps.parsl.sites import Slurm, WorkQueue, ccin2p3, foreign_keys, princeton
from support.plans import umask

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
SEEDS = HERE / "seeds"
ACCEPT = "BPS_PARSL_ACCEPT_GOLDEN"
SITES = "lsst.ctrl.bps.parsl.sites"
MINE = __name__
SERVICE = "lsst.ctrl.bps.parsl.ParslService"
DEFAULTS = {**BPS_DEFAULTS, "submitPath": "/runs/x", "uniqProcName": "u_me_x"}

pytestmark = pytest.mark.filterwarnings(
    # Parsl leaves the sockets to the garbage collector by which it looks for its addresses.
    "ignore:unclosed <socket:ResourceWarning",
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning",
)


def make_config(site: dict[str, Any], submit_path: object = "/runs/x", **more: Any) -> BpsConfig:
    """Make a configuration that uses the site ``here``."""
    return BpsConfig(
        {
            "computeSite": "here",
            "submitPath": str(submit_path),
            "uniqProcName": "u_me_x",
            "site": {"here": site},
            **more,
        }
    )


def make_site(name: str, submit_path: object = "/runs/x", **section: Any) -> Any:
    """Make a site of a class, of ours where its name has no point."""
    where = name if "." in name and not name[0].islower() else f"{SITES}.{name}"
    where = name if name.startswith(MINE) else where
    return SiteConfig.from_config(make_config({"class": where, **section}, submit_path))


def make_job(memory: float | None = None, site: str | None = None) -> ParslJob:
    """Make a job that asks for memory (MB) and a site."""
    generic = GenericWorkflowJob("j", "l", executable=GenericWorkflowExec("x", "/x"), request_memory=memory)
    generic.compute_site = site
    return ParslJob(generic, make_config({}), {})


def complaints(site: dict[str, Any] | None = None, **section: Any) -> list[str]:
    """Return what is said of a section."""
    section = {**(site or {}), **section}
    if "." not in section["class"]:
        section["class"] = f"{SITES}.{section['class']}"
    return site_complaints(make_config(section))


def script_of(executor: Any) -> str:
    """Return the batch script of an executor on Slurm."""
    script = executor.provider.script()
    assert isinstance(script, str)
    return script


def directives(script: str) -> dict[str, str]:
    """Return what sbatch takes from a script: of two of one name, the last."""
    found = {}
    for line in script.splitlines():
        if line and not line.startswith("#"):
            break
        if line.startswith("#SBATCH "):
            (word,) = shlex.split(line.removeprefix("#SBATCH "))
            name, _, value = word.partition("=")
            found[name] = value
    return found


@pytest.fixture(autouse=True)
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ask nobody on the network; return what would be asked."""
    asked: list[str] = []

    def query(url: str, **options: Any) -> None:
        asked.append(url)
        raise ConnectionError(url)

    monkeypatch.setattr("parsl.addresses.requests.get", query)
    return asked


# Modules that a machine has or has not.


@pytest.fixture
def with_work_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Parsl believe that Work Queue is installed."""
    monkeypatch.setattr(work_queue_module, "_work_queue_enabled", True)


@pytest.fixture
def with_task_vine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have TaskVine's module."""
    package: Any = ModuleType("ndcctools")
    module: Any = ModuleType("ndcctools.taskvine")
    module.cvine = SimpleNamespace(VINE_DEFAULT_PORT=9123)
    package.taskvine = module
    monkeypatch.setitem(sys.modules, "ndcctools", package)
    monkeypatch.setitem(sys.modules, "ndcctools.taskvine", module)


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the golden files of one architecture on all."""
    yield from on_machine("x86_64", monkeypatch)


@pytest.fixture
def on_arm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have an ARM machine."""
    yield from on_machine("aarch64", monkeypatch)


def on_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(vars(ccin2p3))
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: name)
        importlib.reload(ccin2p3)
    yield
    vars(ccin2p3).update(before)


@pytest.fixture
def infiniband(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an InfiniBand interface."""
    monkeypatch.setattr("psutil.net_if_addrs", lambda: dict.fromkeys(("lo", "eth0", "ib1", "ib0"), ()))
    monkeypatch.setattr(princeton, "address_by_interface", {"ib0": "10.1.2.3"}.__getitem__)


@pytest.fixture
def every_module(with_work_queue: None, with_task_vine: None, on_x86: None, infiniband: None) -> None:
    """Have all that some site needs."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run no command of Parsl's cluster providers; return those that would be run."""
    commands: list[str] = []

    def answer(command: str, *args: Any, **options: Any) -> tuple[int, str, str]:
        commands.append(command)
        number = f"{100 + len(commands)}.server"
        return 0, (f"Job <{number}> is submitted to queue <x>." if "bsub" in command else number), ""

    monkeypatch.setattr(cluster_provider, "execute_wait", answer)
    return commands


@pytest.fixture(scope="module", autouse=True)
def resource_tracker_ends() -> Iterator[None]:
    """End the process that `multiprocessing` starts for the queues of Parsl's executors."""
    yield
    gc.collect()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


# Golden files.


def assert_golden(name: str, text: str) -> None:
    """Compare a text with the one that was accepted."""
    text = text.replace(shlex.quote(sys.executable), "<python>")
    text = text.replace(os.path.dirname(pilot.__file__), "<node>")
    # What Parsl has after the name of its module differs from release to release.
    text = text.replace(DEFAULT_LAUNCH_CMD.removeprefix("process_worker_pool.py "), "<options>")
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    path = GOLDEN / name
    if os.environ.get(ACCEPT):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    accepted = path.read_text() if path.exists() else ""
    diff = difflib.unified_diff(
        accepted.splitlines(), text.splitlines(), f"golden/{name}", "what it is now", lineterm=""
    )
    difference = "\n".join(diff)
    assert not difference, (
        f"{difference}\n\nIf that is as it should be, accept it with:\n"
        f"  {ACCEPT}=1 pytest {Path(__file__).relative_to(HERE.parent.parent)} -k golden"
    )


SLURM: dict[str, tuple[str, dict[str, Any]]] = {
    "slurm": ("Slurm", {"nodes": 1, "walltime": "2:00:00"}),
    "slurm_two_nodes": (
        "Slurm",
        {
            "nodes": 2,
            "walltime": "1-12",
            "cores_per_node": 100,
            "mem_per_node": 400,
            "mem_per_worker": 4,
            "partition": "roma,milano",
            "account": "rubin:developers",
            "qos": "normal",
            "constraint": "a|b",
            "gpus_per_node": 2,
            "singleton": True,
            "exclusive": True,
            "environment": True,
            "worker_init": "module load x\nsource y",
            "scheduler_options": ["#SBATCH --mail-type=END", "--licenses=sps"],
            "max_cores": 1000,
            "min_blocks": 1,
            "parallelism": 0.5,
        },
    ),
    "triple_slurm": ("TripleSlurm", {"nodes": 1, "cores_per_node": 100, "mem_per_node": 400}),
    "slurm_work_queue": (
        "SlurmWorkQueue",
        {"nodes": 2, "walltime": "10:00:00", "cores_per_node": 64, "mem_per_node": "256 GB", "max_blocks": 4},
    ),
    "slurm_task_vine": ("SlurmTaskVine", {"nodes": 1, "walltime": "10:00:00", "cores_per_node": 64}),
    "s3df": ("S3df", {}),
    "sdf": ("Sdf", {}),
    "perlmutter": ("Perlmutter", {"account": "m1727"}),
    "cori_knl": ("CoriKnl", {"nodes": 1, "cores_per_node": 68, "qos": "regular"}),
    "tiger": ("Tiger", {}),
    "ccin2p3": ("Ccin2p3", {}),
}

QUEUES: dict[str, tuple[str, dict[str, Any]]] = {
    "torque": ("Torque", {"nodes": 1, "walltime": "1:30:00", "tasks_per_node": 4, "queue": "batch"}),
    "torque_two_nodes": (
        "Torque",
        {
            "nodes": 2,
            "walltime": "30:00:00",
            "tasks_per_node": 8,
            "queue": "batch",
            "account": "lsst",
            "worker_init": "source y",
            "scheduler_options": "#PBS -l mem=4gb",
        },
    ),
    "pbspro": (
        "PBSPro",
        {
            "nodes": 2,
            "walltime": "1:30:00",
            "cores_per_node": 64,
            "mem_per_node": 240,
            "mem_per_worker": 4,
            "queue": "expert",
            "account": "lsst",
            "select_options": "ngpus=4",
            "scheduler_options": ["#PBS -l filesystems=home", "#PBS -k doe"],
        },
    ),
    "lsf": ("LSF", {"nodes": 1, "walltime": "1:30:00", "cores_per_node": 42, "queue": "q", "account": "p"}),
    "pbspro_work_queue": (
        "PBSProWorkQueue",
        {"nodes": 2, "walltime": "1:30:00", "cores_per_node": 64, "queue": "expert"},
    ),
}

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "local": ("Local", {"cores": 8}),
    "thread_pool": ("ThreadPool", {"max_threads": 4}),
    "local_srun_work_queue": (
        "work_queue.LocalSrunWorkQueue",
        {"worker_options": "--memory=480000", "nodes_per_block": 10},
    ),
    "local_srun_work_queue_one_node": ("work_queue.LocalSrunWorkQueue", {"walltime": "2:00:00"}),
    "local_mpi_work_queue": ("LocalMpiWorkQueue", {"nodes_per_block": 3}),
    "local_task_vine": ("LocalTaskVine", {"worker_options": "--cores=4"}),
    "csd3": ("Csd3", {"nodes_per_block": 2}),
}

ALL = {**SLURM, **QUEUES, **OTHERS}


def facts(thing: object, names: str) -> dict[str, Any]:
    """Return some attributes, as JSON has them."""
    found = {name: getattr(thing, name) for name in names.split() if hasattr(thing, name)}
    return {
        name: value if isinstance(value, str | int | float | list | None) else type(value).__name__
        for name, value in found.items()
        if value != float("inf")
    }


def describe(executor: Any) -> dict[str, Any]:
    """Return what an executor and its provider were told."""
    found: dict[str, Any] = {
        "executor": type(executor).__name__,
        **facts(
            executor,
            "label address encrypted mem_per_worker cores_per_worker max_workers_per_node workers_per_node "
            "prefetch_capacity heartbeat_period heartbeat_threshold drain_period cpu_affinity launch_cmd "
            "max_threads port max_retries shared_fs autolabel autocategory project_name full_debug "
            "project_password_file worker_options worker_launch_method",
        ),
    }
    if type(executor).__name__ == "WorkQueueExecutor":
        executor.address = executor._chosen_port = None
        found["address"] = "<host>"
        found["worker_command"] = executor._construct_worker_command().replace("None None", "<host> <port>")
    if type(executor).__name__ == "TaskVineExecutor":
        found["manager"] = facts(
            executor.manager_config, "port address project_name project_password_file autolabel shared_fs"
        )
        found["factory"] = facts(executor.factory_config, "worker_options worker_executable")
    provider = getattr(executor, "provider", None)
    if provider is not None:
        found["provider"] = {
            "class": type(provider).__name__,
            **facts(
                provider,
                "init_blocks min_blocks max_blocks parallelism nodes_per_block cores_per_node mem_per_node "
                "cmd_timeout walltime seconds exclusive singleton tag name queue account project "
                "cpus_per_node select_options status_polling_interval",
            ),
            "launcher": {
                "class": type(provider.launcher).__name__,
                **facts(provider.launcher, "overrides bind_cmd debug"),
            },
            "launched": provider.launcher("COMMAND", 1, provider.nodes_per_block, "/scripts")
            if type(provider.launcher).__name__ != "SingleNodeLauncher"
            else "COMMAND",
            "worker_init": provider.worker_init,
        }
        if isinstance(found["provider"]["launched"], str):
            found["provider"]["launched"] = found["provider"]["launched"].splitlines()
        found["provider"]["worker_init"] = found["provider"]["worker_init"].splitlines()
    return found


@pytest.mark.parametrize("name", SLURM)
def test_golden_batch_scripts(name: str, every_module: None) -> None:
    """The batch scripts are those that were read by somebody, to the letter."""
    for executor in make_site(SLURM[name][0], **SLURM[name][1]).get_executors():
        label = f"{name}-{executor.label}" if name in ("triple_slurm", "cori_knl", "ccin2p3") else name
        assert_golden(f"{label}.sbatch", script_of(executor))


@pytest.mark.parametrize("name", QUEUES)
def test_golden_scripts_of_other_batch_systems(
    name: str, every_module: None, asked: list[str], tmp_path: Path
) -> None:
    """The scripts, and the commands that submit them, are those that were read by somebody."""
    (tmp_path / "parsl").mkdir()
    (executor,) = make_site(QUEUES[name][0], tmp_path, **QUEUES[name][1]).get_executors()
    shown = executor.provider.script()
    executor.provider.script_dir = str(tmp_path)
    # Parsl's executors ask for one task on a node.
    executor.provider.submit("COMMAND", 1, f"parsl.{executor.label}.block-0")
    scripts = [path for path in tmp_path.iterdir() if path.is_file()]
    (script,) = [path for path in scripts if path.read_text().startswith("#!/bin/bash\n")]
    name_of_block = re.findall(r"[\w.]+block-0-[0-9a-f]+\.[0-9.]+[0-9]", script.read_text())[0]
    here_workers = "# Here is what starts the workers, with the ports of the run."
    submitted = script.read_text().replace(name_of_block, "BLOCK").replace("COMMAND", here_workers)
    assert submitted.replace(shlex.quote(here_workers), here_workers) == shown
    text = f"{script.read_text()}\n# Submitted with:\n# {asked[-1]}\n"
    text = re.sub(
        r"(block-0)-[0-9a-f]+\.[0-9.]+[0-9]",
        r"\1-<token>.<time>",
        text.replace(str(tmp_path), "<submit path>"),
    )
    assert_golden(f"{name}.{'bsub' if name == 'lsf' else 'qsub'}", text)


@pytest.mark.parametrize("name", ALL)
def test_golden_configuration_of_parsl(name: str, every_module: None) -> None:
    """What Parsl's classes are told, and what they make of it, is what was read by somebody."""
    executors = make_site(ALL[name][0], **ALL[name][1]).get_executors()
    found = [describe(executor) for executor in executors]
    assert_golden(f"{name}.json", json.dumps(found, indent=2) + "\n")


def test_every_class_has_a_golden_file() -> None:
    """A site class that is added is read by somebody too."""
    sites = importlib.import_module(SITES)
    named = {name.rpartition(".")[2] for name, _ in ALL.values()}
    assert set(sites.__all__) - named == {"WorkQueue"}


# The seeds: what people have.


def load(path: Path, **more: Any) -> BpsConfig:
    """Read a file as ``bps`` does."""
    config = BpsConfig(str(path), defaults=DEFAULTS, wms_service_class_fqn=SERVICE)
    for key, value in more.items():
        config[key] = value
    return config


def executors_of(config: BpsConfig) -> list[Any]:
    """Return the executors of the configuration of Parsl."""
    made: list[Any] = list(get_parsl_config(config).executors)
    assert site_complaints(config) == []
    return made


def test_seed_local() -> None:
    """``computeSite: local``: eight jobs at a time."""
    (executor,) = executors_of(load(SEEDS / "s3df.yaml"))
    assert isinstance(executor, ThreadPoolExecutor)
    assert executor.max_threads == 8


def test_seed_slurm() -> None:
    """Two hours without quotes are two hours; both lines of the options reach sbatch."""
    (executor,) = executors_of(load(SEEDS / "s3df.yaml", computeSite="slurm"))
    provider = executor.provider
    assert isinstance(executor, HighThroughputExecutor)
    assert (provider.nodes_per_block, provider.cores_per_node, provider.walltime) == (2, 100, "02:00:00")
    assert (provider.init_blocks, provider.min_blocks, provider.max_blocks) == (0, 0, 1)
    found = directives(script_of(executor))
    assert found["--nodes"] == "2"
    assert found["--time"] == "02:00:00"
    assert found["--qos"] == "normal"
    assert found["--partition"] == "roma"
    assert "--exclusive" in found
    assert found["--cpus-per-task"] == "100"


def test_seed_triple_slurm() -> None:
    """Hours with a point are hours; each size has its memory and its time."""
    config = load(SEEDS / "s3df.yaml", computeSite="triple_slurm")
    small, medium, large = executors_of(config)
    assert [executor.label for executor in (small, medium, large)] == ["small", "medium", "large"]
    assert [executor.mem_per_worker for executor in (small, medium, large)] == [2.0, 4.0, 8.0]
    assert [executor.provider.walltime for executor in (small, medium, large)] == [
        "10:00:00",
        "10:00:00",
        "40:00:00",
    ]
    assert small.provider.cores_per_node == 100
    assert directives(script_of(large))["--qos"] == "normal"


def test_seed_work_queue(with_work_queue: None) -> None:
    """Ten nodes of the allocation, one worker on each, with the memory that was given."""
    config = load(SEEDS / "s3df.yaml", computeSite="work_queue")
    (executor,) = executors_of(config)
    assert executor.provider.nodes_per_block == 10
    assert isinstance(executor.provider, LocalProvider)
    assert isinstance(executor.provider.launcher, SrunLauncher)
    assert "--memory=480000" in shlex.split(executor.worker_options)
    site = SiteConfig.from_config(config)
    assert set(site.resource_list) == {"memory", "cores", "disk", "running_time_min", "priority"}


@pytest.mark.parametrize("name", ["local", "slurm", "triple_slurm", "work_queue"])
def test_seed_monitoring(name: str, tmp_path: Path, with_work_queue: None) -> None:
    """The lines that enable monitoring can be added to each of the sites."""
    lines = (SEEDS / "s3df.yaml").read_text().splitlines(keepends=True)
    at = lines.index(f"  {name}:\n") + 1
    lines.insert(at, (SEEDS / "s3df_monitoring.yaml").read_text())
    path = tmp_path / "bps.yaml"
    path.write_text("".join(lines))
    config = load(path, computeSite=name, submitPath=str(tmp_path))
    monitor: Any = SiteConfig.from_config(config).get_monitor()
    assert monitor.logging_endpoint == f"sqlite:///{tmp_path}/runinfo/monitoring.db"
    assert monitor.resource_monitoring_interval == 30.0
    assert get_parsl_config(config).monitoring is not None


@pytest.mark.parametrize("name", ["local", "slurm", "triple_slurm"])
def test_seed_says_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Settings that are right are no reason for a warning."""
    with caplog.at_level(logging.WARNING):
        site = SiteConfig.from_config(load(SEEDS / "s3df.yaml", computeSite=name))
        assert foreign_keys.foreign_keys(site) == []
    assert caplog.records == []


def test_seed_parsl_config_work_queue(tmp_path: Path, with_work_queue: None) -> None:
    """The block of gen3_workflow: Work Queue on ten nodes of the allocation, with monitoring."""
    # Its database's directory is made.
    config = load(SEEDS / "nersc_work_queue.yaml", submitPath=str(tmp_path))
    (executor,) = executors_of(config)
    assert executor.provider.nodes_per_block == 10
    assert isinstance(executor.provider.launcher, SrunLauncher)
    assert "--memory=90000" in shlex.split(executor.worker_options)
    site = SiteConfig.from_config(config)
    assert site.settings.retries == 1
    assert site.settings.monitorEnable is True
    assert site.settings.monitorInterval == 60.0


def test_seed_parsl_config_thread_pool() -> None:
    """The other block of gen3_workflow: four jobs at a time on this machine."""
    config = load(SEEDS / "nersc_thread_pool.yaml")
    (executor,) = executors_of(config)
    assert isinstance(executor, ThreadPoolExecutor)
    assert executor.max_threads == 4
    site = SiteConfig.from_config(config)
    assert site.settings.retries == 1
    assert site.get_monitor() is None


def test_seed_csd3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_work_queue: None) -> None:
    """A whole file of gen3_workflow's, with what it includes."""
    for name in (
        "python/desc/gen3_workflow/etc/bps_drp_baseline.yaml",
        "examples/bps_DC2-3828-y1_resources.yaml",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("requestMemory: 2048\n")
    monkeypatch.setenv("GEN3_WORKFLOW_DIR", str(tmp_path))
    (executor,) = executors_of(load(SEEDS / "csd3.yaml", submitPath=str(tmp_path)))
    assert executor.provider.nodes_per_block == 10
    assert "--memory=90000" in shlex.split(executor.worker_options)


def test_seed_parsl_config_of_a_script(tmp_path: Path, with_work_queue: None) -> None:
    """The mapping that scripts give to ``ParslGraph.restore`` is a block like others."""
    block = {
        "retries": 1,
        "monitoring": True,
        "executor": "WorkQueue",
        "provider": "Local",
        "nodes_per_block": 10,
        "worker_options": "--memory=87000",
    }
    config = BpsConfig({"submitPath": str(tmp_path), "uniqProcName": "u_me_x", "parsl_config": block})
    (executor,) = executors_of(config)
    assert "--memory=87000" in shlex.split(executor.worker_options)


def test_seed_operator() -> None:
    """The line that sets the operator is read as it stands."""
    assert BpsConfig(str(SEEDS / "nersc_operator.yaml"))["operator"] == "<user_name>"


# gen3_workflow's block.


def parsl_config(**block: Any) -> BpsConfig:
    """Make a configuration with the block."""
    return BpsConfig({"submitPath": "/runs/x", "uniqProcName": "u_me_x", "parsl_config": block})


def test_parsl_config_slurm(with_work_queue: None) -> None:
    """Its defaults are gen3_workflow's, and ``nodes_per_block`` is its name for ``nodes``."""
    (executor,) = executors_of(parsl_config(executor="WorkQueue", provider="Slurm", nodes_per_block=3))
    found = directives(script_of(executor))
    assert found["--nodes"] == "3"
    assert found["--constraint"] == "knl"
    assert found["--qos"] == "regular"
    assert found["--time"] == "10:00:00"


@pytest.mark.parametrize("value", ["2:00:00", "02:00:00", 7200])
def test_parsl_config_time_min(value: object, with_work_queue: None) -> None:
    """``time_min`` is a time like ``walltime``: YAML 1.1 makes 7200 of two hours without quotes."""
    config = parsl_config(executor="WorkQueue", provider="Slurm", time_min=value)
    (executor,) = executors_of(config)
    assert directives(script_of(executor))["--time-min"] in ("2:00:00", "02:00:00")


def test_parsl_config_time_min_and_other_options(with_work_queue: None) -> None:
    """``time_min`` is added to the options, and takes the place of none."""
    options = "#SBATCH --account=m1727"
    config = parsl_config(
        executor="WorkQueue", provider="Slurm", time_min="02:00:00", scheduler_options=options
    )
    (executor,) = executors_of(config)
    found = directives(script_of(executor))
    assert found["--account"] == "m1727"
    assert found["--time-min"] == "02:00:00"


def test_parsl_config_coprocess_and_other_options(with_work_queue: None) -> None:
    """``coprocess`` is added to the executor's arguments, and takes the place of none."""
    options = {"autocategory": False}
    config = parsl_config(executor="WorkQueue", provider="Local", coprocess=True, executor_options=options)
    (executor,) = executors_of(config)
    assert executor.coprocess is True
    assert executor.autocategory is False


def test_parsl_config_pbspro(with_work_queue: None) -> None:
    """Blocks of PBS Professional, with gen3_workflow's defaults and names."""
    block = {"executor": "WorkQueue", "provider": "PBSPro", "qos": "debug", "cpus_per_node": 4}
    (executor,) = executors_of(parsl_config(**block))
    provider = executor.provider
    assert (provider.queue, provider.cpus_per_node, provider.walltime) == ("debug", 4, "10:00:00")
    assert (provider.init_blocks, provider.min_blocks, provider.max_blocks) == (1, 0, 32)
    assert provider.parallelism == 0


@pytest.mark.parametrize(
    "block",
    [
        {"executor": "HighThroughput"},
        {"executor": "WorkQueue"},
        {"executor": "WorkQueue", "provider": "Cobalt"},
        {},
    ],
)
def test_parsl_config_that_is_none(block: dict[str, str]) -> None:
    """The complaint lists what there is."""
    config = parsl_config(**block) if block else parsl_config(retries=1)
    (complaint,) = site_complaints(config)
    assert "WorkQueue with Slurm" in complaint
    assert "ThreadPool" in complaint


def test_parsl_config_that_is_wrong() -> None:
    """A complaint names the key in the block."""
    (complaint,) = site_complaints(parsl_config(executor="ThreadPool", max_threads="many"))
    assert complaint.startswith("parsl_config.max_threads: 'many'")


# Users' own classes.


class OwnExecutor(SiteConfig):
    """Makes what it likes."""

    def get_executors(self) -> list[ParslExecutor]:
        return [
            HighThroughputExecutor(
                "mine",
                provider=LocalProvider(init_blocks=1, max_blocks=2, launcher=SingleNodeLauncher()),
                max_workers_per_node=3,
                address=self.get_address(),
            )
        ]

    def select_executor(self, job: ParslJob) -> str:
        return "mine"

    def get_address(self) -> str:
        return "127.0.0.1"

    def get_command_prefix(self) -> str:
        return f"source /setup.sh; {super().get_command_prefix()}"


def test_own_executor() -> None:
    """What a user's class makes is what Parsl gets, argument for argument."""
    site = make_site(f"{MINE}.OwnExecutor", commandPrefix="set -e", queue="x", walltime=["not", "ours"])
    config = site.get_parsl_config()
    (executor,) = config.executors
    assert type(executor) is HighThroughputExecutor
    assert isinstance(executor.provider, LocalProvider)
    assert (executor.label, executor.max_workers_per_node, executor.address) == ("mine", 3, "127.0.0.1")
    assert (executor.provider.init_blocks, executor.provider.max_blocks) == (1, 2)
    assert executor.launch_cmd.startswith("process_worker_pool.py ")
    assert site.get_command_prefix() == "source /setup.sh; set -e"
    assert site.resource_list == []


class OwnSlurm(Slurm):
    """A facility of a user's, without a word about settings."""

    def get_executors(self) -> list[ParslExecutor]:
        return [
            self.make_executor(
                "x",
                nodes=1,
                walltime="05:00:00",
                mem_per_worker=4,
                singleton=True,
                scheduler_options="#SBATCH --foo",
                provider_options={"gres": "gpu:1", "max_blocks": 5, "cmd_timeout": 77},
                executor_options={"max_workers_per_node": 7},
            ),
            self.make_executor("y", nodes=2, walltime="1-00", cores_per_node=8, qos="low"),
        ]

    def select_executor(self, job: ParslJob) -> str:
        return "x"


def test_own_slurm() -> None:
    """A subclass's own values need nothing in the YAML."""
    site = make_site(f"{MINE}.OwnSlurm")
    assert site_complaints(site.config) == []
    first, second = site.get_executors()
    found = directives(script_of(first))
    assert found["--nodes"] == "1"
    assert found["--time"] == "05:00:00"
    assert found["--dependency"] == "singleton"
    assert found["--gres"] == "gpu:1"
    assert "--foo" in found
    assert (first.mem_per_worker, first.max_workers_per_node) == (4, 7)
    assert (first.provider.max_blocks, first.provider.cmd_timeout) == (5, 77)
    assert isinstance(first.provider.launcher, SingleNodeLauncher)
    found = directives(script_of(second))
    assert (found["--nodes"], found["--time"]) == ("2", "24:00:00")
    assert (found["--cpus-per-task"], found["--qos"]) == ("8", "low")
    assert "--dependency" not in found
    assert second.provider.max_blocks == 1


def test_own_slurm_and_the_users_yaml() -> None:
    """What is in the YAML comes first, key by key; options are merged."""
    site = make_site(
        f"{MINE}.OwnSlurm",
        nodes=3,
        walltime=7200,
        singleton=False,
        qos="high",
        provider_options={"cmd_timeout": 88},
        executor_options={"prefetch_capacity": 2},
    )
    first, second = site.get_executors()
    for executor in (first, second):
        found = directives(script_of(executor))
        assert (found["--nodes"], found["--time"], found["--qos"]) == ("3", "02:00:00", "high")
        assert "--dependency" not in found
        assert executor.provider.cmd_timeout == 88
        assert executor.prefetch_capacity == 2
    assert first.provider.max_blocks == 5
    assert first.max_workers_per_node == 7
    assert first.mem_per_worker == 4


class OwnLauncher(Slurm):
    """Gives Parsl's classes, and not only numbers."""

    def get_executors(self) -> list[ParslExecutor]:
        return [
            self.make_executor(
                "x",
                nodes=2,
                walltime="05:00:00",
                provider_options={
                    "init_blocks": 1,
                    "min_blocks": 1,
                    "max_blocks": 2,
                    "parallelism": 1.0,
                    "worker_init": "source /setup.sh",
                    "launcher": SimpleLauncher(),
                },
                executor_options={"address": "10.0.0.1", "cores_per_worker": 2},
            )
        ]


def test_own_launcher() -> None:
    """All arguments of Parsl's classes can be given, also those that the settings have."""
    (executor,) = make_site(f"{MINE}.OwnLauncher").get_executors()
    assert isinstance(executor.provider.launcher, SimpleLauncher)
    assert (executor.provider.init_blocks, executor.provider.max_blocks) == (1, 2)
    assert "source /setup.sh" in script_of(executor)
    assert (executor.address, executor.cores_per_worker) == ("10.0.0.1", 2)


class OwnTiger(princeton.Tiger):
    """A facility of ours with other executors."""

    def get_executors(self) -> list[ParslExecutor]:
        return [
            self.make_executor("short", nodes=1, walltime="01:00:00", singleton=False),
            self.make_executor("big", mem_per_worker=64),
        ]


def test_own_executors_of_a_facility(infiniband: None) -> None:
    """What a subclass gives for an executor comes before the facility's values, and after the YAML's."""
    short, big = make_site(f"{MINE}.OwnTiger").get_executors()
    found = directives(script_of(short))
    assert (found["--nodes"], found["--time"]) == ("1", "01:00:00")
    assert "--dependency" not in found
    assert directives(script_of(big))["--nodes"] == "4"
    assert big.mem_per_worker == 64
    short, _ = make_site(f"{MINE}.OwnTiger", nodes=9).get_executors()
    assert directives(script_of(short))["--nodes"] == "9"


class OwnWorkQueue(WorkQueue):
    """Work Queue with a provider of the user's."""

    def get_executors(self) -> list[ParslExecutor]:
        provider = LocalProvider(init_blocks=0, min_blocks=0, max_blocks=1, parallelism=0, cmd_timeout=300)
        return [
            self.make_executor(
                "work_queue", provider, port=9199, worker_options="--memory=4000", wq_max_retries=3
            )
        ]


def test_own_work_queue(with_work_queue: None) -> None:
    """A subclass's own values need nothing in the YAML; what is there comes first."""
    site = make_site(f"{MINE}.OwnWorkQueue")
    (executor,) = site.get_executors()
    assert (executor.port, executor.max_retries) == (9199, 3)
    assert "--memory=4000" in shlex.split(executor.worker_options)
    assert site.select_executor(make_job()) == "work_queue"
    assert "memory" in site.resource_list
    site = make_site(f"{MINE}.OwnWorkQueue", port="9200", worker_options="--memory=1", wq_max_retries=1)
    (executor,) = site.get_executors()
    assert (executor.port, executor.max_retries) == (9200, 1)
    assert "--memory=4000" not in shlex.split(executor.worker_options)


# Complaints.


@pytest.mark.parametrize("name", ["Slurm", "SlurmTaskVine", "Torque", "PBSPro", "LSF"])
def test_what_is_missing_is_said_at_once(name: str, every_module: None) -> None:
    """Nodes and walltime have no default that would be right anywhere."""
    found = complaints({"class": name})
    assert [complaint.split(":")[0] for complaint in found] == ["site.here.nodes", "site.here.walltime"]


def test_triple_slurm_needs_nodes_alone() -> None:
    """Its walltimes have defaults, as the earlier plugin's."""
    (complaint,) = complaints({"class": "TripleSlurm"})
    assert "site.here.nodes" in complaint


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("cores_pernode", "cores_per_node"),
        ("node", "nodes"),
        ("wall_time", "walltime"),
        ("Walltime", "walltime"),
        ("max_block", "max_blocks"),
        ("scheduler_option", "scheduler_options"),
        ("constraints", "constraint"),
        ("memPerNode", "mem_per_node"),
        ("partitions", "partition"),
    ],
)
def test_misspelt_key(key: str, meant: str) -> None:
    """A key that looks like one of ours is one of ours, misspelt."""
    assert complaints({"class": "S3df"}, **{key: 1}) == [
        f"site.here.{key}: unknown setting; did you mean {meant}?"
    ]


@pytest.mark.parametrize(
    "key",
    [
        "port",
        "small_memory",
        "select_options",
        "worker_options",
        "tasks_per_node",
        "nodes_per_block",
        "cores",
    ],
)
def test_key_of_another_class(key: str) -> None:
    """A key that only another class knows has no effect, and that is said: it is no misspelling."""
    site = make_site("Slurm", nodes=1, walltime="1:00:00", myVariable=1, requestMemory=1, **{key: "1"})
    (warning,) = foreign_keys.foreign_keys(site)
    assert f"site.here.{key} has no effect" in warning
    assert foreign_keys.foreign_keys(make_site(f"{MINE}.OwnExecutor", **{key: "1"})) == []


@pytest.mark.parametrize(
    ("setting", "arguments", "said"),
    [
        ("provider_options", {"partition": "a\n#SBATCH -x"}, "partition: 'a\\n#SBATCH -x': a name is wanted"),
        ("provider_options", {"clusters": "$(a)"}, "clusters: '$(a)': letters, digits, blanks"),
        (
            "executor_options",
            {"available_accelerators": ["a", "b;c"]},
            "available_accelerators: ['a', 'b;c']:",
        ),
    ],
)
def test_argument_that_is_code(setting: str, arguments: dict[str, object], said: str) -> None:
    """A text that Parsl would put into a script or a command is no code."""
    (complaint,) = complaints(SLURM["slurm"][1] | {"class": "Slurm", setting: arguments})
    assert complaint.startswith(f"site.here.{setting}.{said}")


def test_argument_that_is_meant_to_be_code() -> None:
    """What Parsl documents to be a command stays one."""
    code = "source x; y 'z'"
    site = make_site(
        "Slurm",
        **SLURM["slurm"][1],
        provider_options={"worker_init": code, "scheduler_options": "#SBATCH -a 'b'", "clusters": "a,b"},
        executor_options={"launch_cmd": code, "interchange_launch_cmd": ["a;b"]},
    )
    (executor,) = site.get_executors()
    assert executor.provider.worker_init.strip() == code
    assert "#SBATCH -a 'b'" in script_of(executor)
    assert executor.launch_cmd == code
    assert executor.interchange_launch_cmd == ["a;b"]


@pytest.mark.parametrize("setting", ["provider_options", "executor_options"])
def test_option_that_parsl_does_not_know(setting: str) -> None:
    """An argument that Parsl's class does not take is named, with the one that is meant."""
    wrong = {"provider_options": "max_bloks", "executor_options": "prefetch_capasity"}[setting]
    meant = {"provider_options": "max_blocks", "executor_options": "prefetch_capacity"}[setting]
    found = complaints({"class": "S3df"}, **{setting: {wrong: 1}})
    assert len(found) == 1
    assert f"site.here.{setting}.{wrong}" in found[0]
    assert f"did you mean {meant}?" in found[0]


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("provider_options", {"cmd_timeout": "soon"}),
        ("provider_options", {"launcher": "srun"}),
        ("executor_options", {"max_workers_per_node": "all"}),
        ("executor_options", {"heartbeat_period": [1]}),
    ],
)
def test_option_of_another_type(setting: str, options: dict[str, object]) -> None:
    """What Parsl says about a value is a complaint about the setting, and no traceback."""
    (found,) = complaints({"class": "S3df"}, **{setting: options})
    assert found.startswith(f"site.here.{setting}")
    assert "\n" not in found


@pytest.mark.parametrize(
    "blocks",
    [
        {"min_blocks": 3, "max_blocks": 2},
        {"init_blocks": 3, "max_blocks": 2},
        {"min_blocks": 2, "max_cores": 100, "cores_per_node": 100},
    ],
)
def test_blocks_that_contradict_each_other(blocks: dict[str, int]) -> None:
    """No number of blocks is both enough and not too many."""
    section = {"class": "Slurm", "nodes": 1, "walltime": "1:00:00", **blocks}
    (found,) = complaints(section)
    assert "max_blocks" in found
    assert "min_blocks" in found


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 1),
        ({"max_blocks": 7}, 7),
        ({"min_blocks": 2}, 2),
        ({"init_blocks": 3}, 3),
        ({"cores_per_node": 100, "max_cores": 1000}, 5),
        ({"cores_per_node": 100, "max_cores": 1199}, 5),
        ({"cores_per_node": 100, "max_cores": 10}, 1),
        ({"cores_per_node": 100, "max_cores": 1000, "max_blocks": 3}, 3),
        ({"cores_per_node": 100, "max_cores": 1000, "max_blocks": 30}, 5),
    ],
)
def test_number_of_blocks(settings: dict[str, int], most: int) -> None:
    """One at most, unless more are asked for; ``max_cores`` counts the cores of all nodes of a block."""
    (executor,) = make_site("Slurm", nodes=2, walltime="1:00:00", **settings).get_executors()
    assert executor.provider.max_blocks == most


@pytest.mark.parametrize("name", ["Slurm", "Tiger", "SlurmWorkQueue"])
def test_interface_that_is_not_there(name: str, every_module: None) -> None:
    """The complaint says how to see which there are."""
    (found,) = complaints({"class": name, "nodes": 1, "walltime": "1:00:00", "interface": "nosuch0"})
    assert found.startswith("site.here.interface: nosuch0")
    assert "ip -brief address" in found


def test_interface() -> None:
    """Workers use the address of the interface that is named, and all addresses otherwise."""
    assert make_site("S3df", interface="lo").get_executors()[0].address == "127.0.0.1"
    assert make_site("S3df").get_executors()[0].address is None


@pytest.mark.parametrize("name", ["WorkQueue", "SlurmWorkQueue", "LocalSrunWorkQueue", "PBSProWorkQueue"])
def test_no_work_queue(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Work Queue's module, under either name, the complaint says how to get it."""
    monkeypatch.setattr(work_queue_module, "_work_queue_enabled", False)
    for module in ("work_queue", "ndcctools", "ndcctools.work_queue"):
        monkeypatch.setitem(sys.modules, module, None)
    where = f"{MINE}.OwnWorkQueue" if name == "WorkQueue" else name
    (found,) = complaints({"class": where, "nodes": 1, "walltime": "1:00:00"})
    assert "conda install -c conda-forge ndcctools" in found
    assert "apt-get install" in found


@pytest.mark.slow
def test_work_queue_under_its_other_name(tmp_path: Path) -> None:
    """The module of Debian's package serves as the one that Parsl imports."""
    source = Path(str(work_queue_module.__file__)).read_text()
    names = re.findall(r"WORK_QUEUE_\w+|WorkQueue\b", source)
    stub = "".join(f"{name} = 0\n" for name in sorted(set(names)))
    (tmp_path / "work_queue.py").write_text(stub)
    code = (
        "from lsst.ctrl.bps.parsl.sites.work_queue_module import work_queue_executor\n"
        "made = work_queue_executor()(label='x')\n"
        "import ndcctools.work_queue, work_queue\n"
        f"assert work_queue.__file__.startswith({str(tmp_path)!r}), work_queue.__file__\n"
        "print(type(made).__name__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "WorkQueueExecutor\n", done.stderr


@pytest.mark.parametrize("name", ["LocalTaskVine", "SlurmTaskVine"])
def test_no_task_vine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TaskVine's module the complaint says how to get it."""
    monkeypatch.setitem(sys.modules, "ndcctools.taskvine", None)
    (found,) = complaints({"class": name, "nodes": 1, "walltime": "1:00:00"})
    assert "conda install -c conda-forge ndcctools" in found


def test_remarks() -> None:
    """The walltime is said as it was understood."""
    (remark,) = make_site("Slurm", nodes=1, walltime=7200).remarks()
    assert "site.here.walltime" in remark
    assert "02:00:00" in remark
    assert len(make_site("TripleSlurm", nodes=1, small_walltime=1.5, large_walltime="2-00").remarks()) == 2


@pytest.mark.parametrize("name", ALL)
def test_nobody_on_the_internet_is_asked(name: str, every_module: None, queries: list[str]) -> None:
    """To make a site, and to check it, needs no network: a login node may have none, and no server of
    somebody else's learns of a run.
    """
    site = make_site(ALL[name][0], **ALL[name][1])
    site.check()
    site.get_parsl_config()
    assert queries == []


# What a block gets.


def test_facility_is_overridden_key_by_key() -> None:
    """A user's values take the place of the facility's, one by one."""
    (executor,) = make_site("S3df", mem_per_node="720 GB", partition="torino", max_blocks=2).get_executors()
    found = directives(script_of(executor))
    assert (found["--partition"], found["--mem"]) == ("torino", f"{720 * 1024}M")
    assert (found["--account"], found["--qos"], found["--time"]) == ("rubin:developers", "normal", "10:00:00")
    assert found["--cpus-per-task"] == "120"
    assert executor.provider.max_blocks == 2


def site_with(bps: dict[str, Any], name: str, **section: Any) -> Any:
    """Make a site of a run with settings of BPS's own."""
    section = {"class": f"{SITES}.{name}", "nodes": 1, "walltime": 7200, **section}
    return SiteConfig.from_config(make_config(section, **bps))


def test_queue_and_account_of_bps() -> None:
    """BPS's ``queue`` and ``accountingGroup`` are those of the blocks where
    the site's section has none; they come before a facility's.
    """
    bps = {"queue": "long", "accountingGroup": "survey"}
    for name in ("Slurm", "S3df"):
        (executor,) = site_with(bps, name).get_executors()
        found = directives(script_of(executor))
        assert (found["--partition"], found["--account"]) == ("long", "survey")
    own = site_with(bps, "Slurm", partition="short", queue="shorter", account="mine")
    (executor,) = own.get_executors()
    found = directives(script_of(executor))
    assert (found["--partition"], found["--account"]) == ("short", "mine")
    (executor,) = site_with({}, "Slurm", queue="of_the_site").get_executors()
    assert directives(script_of(executor))["--partition"] == "of_the_site"
    for name in ("Torque", "PBSPro", "LSF"):
        site = site_with(bps, name)
        assert (site.settings.queue, site.settings.account) == ("long", "survey")
        assert site_with(bps, name, queue="q").settings.queue == "q"


def test_queue_of_bps_that_is_no_name() -> None:
    """A queue that could become more than a name in a batch script is refused, whoever gave it."""
    with pytest.raises(ConfigurationError, match="partition"):
        site_with({"queue": "long\n#SBATCH --uid=0"}, "Slurm")


@pytest.mark.parametrize("option", ["partition", "account", "qos", "constraint", "gpus-per-node"])
def test_scheduler_options_come_last(option: str) -> None:
    """Lines that users write for sbatch stand after ours: of two, sbatch takes the last."""
    (executor,) = make_site("S3df", scheduler_options=f"#SBATCH --{option}=theirs").get_executors()
    assert directives(script_of(executor))[f"--{option}"] == "theirs"


@pytest.mark.parametrize(
    "options", ["  #SBATCH --a=1\n    #SBATCH --b=2", ["#SBATCH --a=1", "  --b=2"], "--a=1\n\n  --b=2\n"]
)
def test_scheduler_options_are_heard(options: object) -> None:
    """Each line reaches sbatch, which passes over a line that does not begin with ``#SBATCH``."""
    (executor,) = make_site("S3df", scheduler_options=options).get_executors()
    found = directives(script_of(executor))
    assert (found["--a"], found["--b"]) == ("1", "2")


def test_all_cores_of_a_node() -> None:
    """Without ``cores_per_node`` the workers use as many cores as there are: they must be the block's."""
    (executor,) = make_site("Slurm", nodes=1, walltime="1:00:00").get_executors()
    found = directives(script_of(executor))
    assert "--exclusive" in found or "--cpus-per-task" in found


def test_requests_reach_the_workers() -> None:
    """The workers count the cores and the memory that were asked for, and not those of the machine."""
    (executor,) = make_site("S3df", cores_per_node=30, mem_per_node=100).get_executors()
    script = script_of(executor)
    assert "export PARSL_CORES=30" in script
    assert "export PARSL_MEMORY_GB=100" in script
    # 120 cores' worth of 4 GB do not fit.
    assert executor.workers_per_node == 25


def test_end_of_a_block() -> None:
    """A block knows when it ends; jobs that would not end in time stay away."""
    script = script_of(make_site("S3df", walltime="1:00:00").get_executors()[0])
    assert "export BPS_PARSL_PILOT_END=$(( $(date +%s) + 3600 ))" in script
    assert "#SBATCH --no-requeue" in script


@pytest.mark.parametrize("name", ["a b", "a'b", "$(a)", "{a}"])
def test_command_of_the_workers(tmp_path: Path, name: str) -> None:
    """The command that a block runs is read by a shell as it was meant, wherever the run is."""
    (executor,) = make_site("S3df", tmp_path / name).get_executors()
    executor.run_dir = str(tmp_path / name / "runinfo" / "000")
    executor.cert_dir = str(tmp_path / name / "certificates")
    executor.worker_port = 5000
    executor.logconf_path = str(tmp_path / name / "log.conf")
    executor.initialize_scaling()
    words = shlex.split(executor._get_launch_command("0"))
    assert words[:2] == [sys.executable, process_worker_pool.__file__]
    assert executor.cert_dir in words
    assert f"--logdir={executor.worker_logdir}" in words
    assert f"--logconf={executor.logconf_path}" in words


@pytest.mark.parametrize("launcher", [Mpiexec(), Jsrun()])
def test_launcher_hands_the_command_on(launcher: Any) -> None:
    """A launcher's bash reads nothing of the command: the workers' does."""
    command = "run 'a b' \"$HOME\" $(date)"
    *_, last = shlex.split(launcher(command, 1, 2, "/scripts"))
    assert last == command


def test_command_of_work_queues_workers(tmp_path: Path, with_work_queue: None) -> None:
    """The same for Work Queue's workers and their password."""
    (executor,) = make_site("LocalSrunWorkQueue", tmp_path / "a b").get_executors()
    executor._chosen_port = 5000
    words = shlex.split(executor._construct_worker_command())
    assert words[words.index("--password") + 1] == f"{tmp_path}/a b/parsl/workers.password"


@pytest.mark.parametrize("name", ["SlurmWorkQueue", "SlurmTaskVine", "PBSProWorkQueue"])
def test_workers_know_the_size_of_their_block(name: str, every_module: None) -> None:
    """Workers that find out about the machine by themselves are told what of it is theirs."""
    sizes = {"cores_per_node": 30, "mem_per_node": 100}
    (executor,) = make_site(name, nodes=1, walltime="1:00:00", **sizes).get_executors()
    factory = getattr(executor, "factory_config", executor)
    words = shlex.split(factory.worker_options)
    assert {"--cores=30", "--memory=102400"} <= set(words)


# Other batch systems.


def test_torque_asks_for_the_cores_that_it_uses(asked: list[str], tmp_path: Path) -> None:
    """With four workers on a node, four cores of it are asked for."""
    (tmp_path / "parsl").mkdir()
    (executor,) = make_site("Torque", tmp_path, nodes=2, walltime="1:00:00", tasks_per_node=4).get_executors()
    executor.provider.script_dir = str(tmp_path)
    executor.provider.submit("COMMAND", 1, "block-0")
    (script,) = tmp_path.glob("*.submit")
    assert "#PBS -l nodes=2:ppn=4\n" in script.read_text()


@pytest.fixture
def queue_site(tmp_path: Path) -> Callable[..., Any]:
    """Make providers of other batch systems."""

    def make(name: str, directory: str = "run") -> Any:
        path = tmp_path / directory
        (path / "parsl").mkdir(parents=True)
        (executor,) = make_site(name, path, nodes=1, walltime="1:00:00").get_executors()
        executor.provider.script_dir = str(path)
        return executor.provider

    return make


def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = (1, "", "Queue is not enabled")
    monkeypatch.setattr(cluster_provider, "execute_wait", lambda *args, **options: answer)


@pytest.mark.parametrize("name", ["Torque", "PBSPro", "LSF"])
def test_refusal(name: str, queue_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the batch system says reaches the user, and the next success makes it forgotten."""
    provider = queue_site(name)
    refusing(monkeypatch)
    with pytest.raises(SchedulerError, match="Queue is not enabled"):
        provider.submit("c", 1, "block-0")
    assert "Queue is not enabled" in provider.refusal.message


@pytest.mark.parametrize("name", ["Torque", "PBSPro", "LSF"])
def test_path_with_a_blank(name: str, queue_site: Callable[..., Any], asked: list[str]) -> None:
    """The batch system is given the script, wherever it is."""
    provider = queue_site(name, "a b")
    provider.submit("c", 1, "block-0")
    (command,) = asked
    words = shlex.split(command)
    at = words.index("bsub" if name == "LSF" else "qsub")
    assert len(words) == at + 2
    assert os.path.exists(os.path.join(provider.script_dir, words[-1]))


@pytest.mark.parametrize("name", ["Torque", "PBSPro", "LSF"])
def test_shells_options_reach_no_other_batch_system(
    name: str, queue_site: Callable[..., Any], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that the commands read as options are taken out, and those that find the server are not."""
    for variable in ("PBS_DPREFIX", "LSB_DEFAULTQUEUE", "BSUB_QUIET", "SBATCH_ACCOUNT", "PBS_DEFAULT"):
        monkeypatch.setenv(variable, "x")
    queue_site(name).submit("c", 1, "block-0")
    unset, _, rest = asked[0].partition("; ")
    assert {"PBS_DPREFIX", "LSB_DEFAULTQUEUE", "BSUB_QUIET", "SBATCH_ACCOUNT"} <= set(unset.split())
    assert unset.split()[0] == "unset"
    assert "PBS_DEFAULT" not in unset.split()
    assert "sub " in rest


def test_options_in_the_shell_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has an account in the shell learns that it is not used, and where it belongs."""
    monkeypatch.setenv("SBATCH_ACCOUNT", "rubin")
    monkeypatch.setenv("SBATCH_CLUSTERS", "b")
    (*_, remark) = make_site("Slurm", nodes=1, walltime="1:00:00").remarks()
    assert "SBATCH_ACCOUNT" in remark
    assert "SBATCH_CLUSTERS" not in remark
    assert "site.here" in remark
    assert "account" in remark
    monkeypatch.delenv("SBATCH_ACCOUNT")
    assert not any("SBATCH" in text for text in make_site("Slurm", nodes=1, walltime="1:00:00").remarks())


@pytest.mark.parametrize("name", ["Torque", "PBSPro", "LSF"])
def test_script_is_the_owners(name: str, queue_site: Callable[..., Any], asked: list[str]) -> None:
    """Nobody else can write to what the batch system runs in the user's name, whatever the umask."""
    with umask(0):
        provider = queue_site(name)
        before = {path.name for path in Path(provider.script_dir).iterdir()}
        provider.submit("c", 1, "block-0")
    made = [path for path in Path(provider.script_dir).iterdir() if path.name not in before]
    assert made
    for path in made:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022, path


@pytest.mark.parametrize("name", ["Torque", "PBSPro", "LSF"])
def test_record_tells_jobs_apart(name: str, queue_site: Callable[..., Any], asked: list[str]) -> None:
    """A number that comes again must not be enough to cancel another run's job: the names differ."""
    names = []
    for run in ("one", "two"):
        provider = queue_site(name, run)
        provider.submit("c", 1, "parsl.queue.block-0")
        path = Path(provider.script_dir) / "parsl" / "pilots.jsonl"
        before, record = [json.loads(line) for line in path.read_text().splitlines()]
        assert before["name"] == record["name"], "it is written down before the number is known"
        names.append(record["name"])
        (script,) = [path for path in Path(provider.script_dir).iterdir() if path.is_file()]
        assert record["name"] in script.read_text()
    assert len(set(names)) == 2


@pytest.mark.parametrize("name", ["Torque", "PBSPro", "LSF"])
def test_blocks_that_have_ended_are_not_cancelled(
    name: str, queue_site: Callable[..., Any], asked: list[str]
) -> None:
    """To cancel what has ended is no failure."""
    provider = queue_site(name)
    number = provider.submit("c", 1, "block-0")
    provider.resources[number]["status"] = JobStatus(JobState.COMPLETED)
    provider._status = lambda: None
    asked.clear()
    assert provider.cancel([number]) == [True]
    assert asked == []


# Which executor a job gets.


@pytest.mark.parametrize(
    ("memory", "label"),
    [
        (None, "small"),
        (0, "small"),
        (2048, "small"),
        (2048.1, "medium"),
        (4096, "medium"),
        (4097, "large"),
        (8192, "large"),
        (10**6, "large"),
    ],
)
def test_triple_slurm_chooses(memory: float | None, label: str) -> None:
    """A job runs where a worker has the memory that it asks for, or else on the largest."""
    assert make_site("TripleSlurm", nodes=1).select_executor(make_job(memory)) == label


def test_triple_slurm_with_other_sizes() -> None:
    """The limits are the settings', with their units."""
    site = make_site("TripleSlurm", nodes=1, small_memory="512 MB", medium_memory=16)
    chosen = [site.select_executor(make_job(memory)) for memory in (512, 513, 16384, 16385)]
    assert chosen == ["small", "medium", "medium", "large"]


def test_triple_slurm_walltime() -> None:
    """``walltime`` takes the place of the three."""
    executors = make_site("TripleSlurm", nodes=1, walltime="3:00:00", small_walltime=1.0).get_executors()
    assert {executor.provider.walltime for executor in executors} == {"03:00:00"}


@pytest.mark.parametrize(
    ("memory", "label"),
    [
        (None, "small"),
        (4096, "small"),
        (4097, "medium"),
        (10240, "medium"),
        (10241, "large"),
        (51200, "large"),
        (51201, "xlarge"),
        (153600, "xlarge"),
        (10**6, "xlarge"),
    ],
)
def test_ccin2p3_chooses(memory: float | None, label: str) -> None:
    """A job runs in the smallest slot that has the memory that it asks for."""
    assert make_site("Ccin2p3").select_executor(make_job(memory)) == label


def test_ccin2p3_slots() -> None:
    """A slot's own values come before the site's, those before the facility's."""
    site = make_site(
        "Ccin2p3",
        walltime="10:00:00",
        max_blocks=50,
        small={"memory": "6 GB", "max_blocks": 7},
        large={"partition": "other", "walltime": 3600, "scheduler_options": ["#SBATCH --foo"]},
    )
    small, medium, large, xlarge = site.get_executors()
    found = {executor.label: directives(script_of(executor)) for executor in (small, medium, large, xlarge)}
    assert [executor.provider.max_blocks for executor in (small, medium, large, xlarge)] == [7, 50, 50, 50]
    assert [found[label]["--mem"] for label in ("small", "medium")] == ["6144M", "10240M"]
    assert [found[label]["--time"] for label in ("small", "large")] == ["10:00:00", "01:00:00"]
    assert [found[label]["--partition"] for label in ("large", "xlarge")] == ["other", "lsst"]
    assert "--foo" in found["large"]
    assert found["xlarge"]["--licenses"] == "sps"
    assert found["xlarge"]["--account"] == "lsst"
    assert [site.select_executor(make_job(memory)) for memory in (6144, 6145)] == ["small", "medium"]
    assert site.get_capacity()["memory"] == 150 * 1024


def test_ccin2p3_slot_that_is_wrong() -> None:
    """A complaint names the key in the slot."""
    (found,) = complaints({"class": "Ccin2p3", "medium": {"max_blocks": "lots"}})
    assert found.startswith("site.here.medium.max_blocks: 'lots'")
    (found,) = complaints({"class": "Ccin2p3", "medium": {"max_block": 3}})
    assert found == "site.here.medium.max_block: unknown setting; did you mean max_blocks?"


@pytest.mark.parametrize("key", ["colour", "class", "requestMemory"])
def test_ccin2p3_slot_with_anything(key: str) -> None:
    """A key that is no setting of a slot is no traceback."""
    site_complaints(make_config({"class": f"{SITES}.Ccin2p3", "medium": {key: "x"}}))


def test_ccin2p3_slot_with_null() -> None:
    """``null`` in a slot is as good as a missing key."""
    _, medium, *_ = make_site("Ccin2p3", medium={"max_blocks": None, "memory": None}).get_executors()
    assert medium.provider.max_blocks == 1000
    assert directives(script_of(medium))["--mem"] == "10240M"


def test_ccin2p3_on_arm(on_arm: None) -> None:
    """ARM machines have a partition of their own."""
    executors = make_site("Ccin2p3").get_executors()
    assert {directives(script_of(executor))["--partition"] for executor in executors} == {"htc_arm"}


def test_tiger_without_infiniband(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without such an interface the workers try all addresses."""
    monkeypatch.setattr("psutil.net_if_addrs", lambda: {"lo": [], "eth0": []})
    assert make_site("Tiger").get_address() is None
    assert make_site("Tiger", interface="lo").get_address() == "127.0.0.1"


def test_cori_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """Who uses a machine that there is no more is told of its successor."""
    make_site("CoriKnl", nodes=1)
    assert "Perlmutter" in caplog.text


@pytest.mark.parametrize("name", ["s3df", "perlmutter", "tiger", "ccin2p3"])
def test_facilities_by_name(name: str, tmp_path: Path, every_module: None) -> None:
    """``computeSite`` alone is enough for a facility; a section of the user's adds to it."""
    path = tmp_path / "bps.yaml"
    path.write_text(f"wmsServiceClass: {SERVICE}\ncomputeSite: {name}\nsubmitPath: {tmp_path}/x\n")
    config = load(path)
    assert site_complaints(config) == []
    path.write_text(path.read_text() + f"site:\n  {name}:\n    walltime: 3:00:00\n")
    config = load(path)
    executors: list[Any] = SiteConfig.from_config(config).get_executors()
    assert {executor.provider.walltime for executor in executors} == {"03:00:00"}


def test_own_section_of_the_name_of_a_facility(tmp_path: Path) -> None:
    """A user's ``site.s3df`` with a class is the user's: nothing of the facility's is in it."""
    path = tmp_path / "bps.yaml"
    path.write_text(
        f"computeSite: s3df\nsubmitPath: {tmp_path}/x\n"
        f"site:\n  s3df:\n    class: {SITES}.Slurm\n    nodes: 1\n    walltime: 3:00:00\n"
    )
    config = load(path)
    site: Any = SiteConfig.from_config(config)
    assert type(site) is Slurm
    assert site.settings.partition is None
    assert set(site.site) == {"class", "nodes", "walltime"}


# Several sites in a run.


def several(main: str, sites: dict[str, dict[str, Any]]) -> BpsConfig:
    """Make a configuration with several sites."""
    return BpsConfig({"computeSite": main, "submitPath": "/runs/x", "uniqProcName": "u_me_x", "site": sites})


LOCAL = {"class": f"{SITES}.Local", "cores": 2}
SLURM_SITE = {"class": f"{SITES}.Slurm", "nodes": 1, "walltime": "1:00:00"}


def test_two_sites_with_executors_of_one_label() -> None:
    """Parsl gets two labels; each job finds the executor of its own site."""
    config = several("a", {"a": LOCAL, "b": {**LOCAL, "cores": 5}})
    sites = Sites.from_config(config, ["b", "a", "", "b"])
    parsl_config, others = sites.parsl_config()
    labels = [executor.label for executor in (*parsl_config.executors, *others)]
    assert len(labels) == len(set(labels)) == 2
    chosen = {name: sites.executor_of(make_job(site=name)) for name in ("a", "b", None)}
    assert chosen["a"] == chosen[None] == "local"
    assert chosen["b"] == labels[1]
    assert sites.site_of_executor(chosen["b"]).settings.cores == 5  # type: ignore[attr-defined]
    assert sites.site_of_executor(chosen["a"]).settings.cores == 2  # type: ignore[attr-defined]


def test_sites_of_jobs() -> None:
    """A job runs at the site that it names, with that site's rules; others at the run's."""
    config = several("a", {"a": LOCAL, "c": {**SLURM_SITE, "class": f"{SITES}.TripleSlurm"}, "unused": {}})
    sites = Sites.from_config(config, ["c"])
    _, others = sites.parsl_config()
    assert [executor.label for executor in others] == ["small", "medium", "large"]
    assert sites.executor_of(make_job(5000, "c")) == "large"
    assert sites.executor_of(make_job(5000)) == "local"
    assert sites.of_job(make_job(site="c")).name == "c"
    assert sites.of_job(make_job(site="elsewhere")).name == "a"
    large: Any = others[-1]
    assert large.provider.tag.startswith("bps-parsl:u_me_x:")


def test_two_sites_on_one_cluster() -> None:
    """Slurm's jobs of two sites have names of their own: ``singleton`` goes by the name."""
    first = {**SLURM_SITE, "singleton": True}
    sites = Sites.from_config(several("a", {"a": first, "b": {**first, "qos": "x"}}), ["b"])
    config, others = sites.parsl_config()
    names = [directives(script_of(executor))["--job-name"] for executor in (*config.executors, *others)]
    assert len(set(names)) == 2


class TwoLabels(SiteConfig):
    """Has a label that another site's executor would get."""

    def get_executors(self) -> list[ParslExecutor]:
        return [ThreadPoolExecutor(label="local"), ThreadPoolExecutor(label="b-local")]

    def select_executor(self, job: ParslJob) -> str:
        return "b-local"


def test_labels_stay_different() -> None:
    """Whatever labels users choose, no two executors have the same one."""
    config = several("a", {"a": {"class": f"{MINE}.TwoLabels"}, "b": LOCAL})
    sites = Sites.from_config(config, ["b"])
    parsl_config, others = sites.parsl_config()
    labels = [executor.label for executor in (*parsl_config.executors, *others)]
    assert len(set(labels)) == 3
    assert sites.executor_of(make_job()) == "b-local"


class Forgetful(SiteConfig):
    """Names an executor that it did not make."""

    def get_executors(self) -> list[ParslExecutor]:
        return [ThreadPoolExecutor(label="one"), ThreadPoolExecutor(label="two")]

    def select_executor(self, job: ParslJob) -> str:
        return "three"


def test_executor_that_is_not_there() -> None:
    """The complaint has what the class said, and what it made."""
    sites = Sites.from_config(several("a", {"a": {"class": f"{MINE}.Forgetful"}}))
    sites.parsl_config()
    with pytest.raises(ConfigurationError) as caught:
        sites.executor_of(make_job())
    assert "Forgetful.select_executor returned 'three'" in caught.value.message
    assert "one, two" in caught.value.message


def test_site_of_a_job_that_is_not_there() -> None:
    """A job that names a site that there is not is a complaint with those that there are."""
    with pytest.raises(ConfigurationError, match=r"no site\.b .*Known sites: a"):
        Sites.from_config(several("a", {"a": LOCAL}), ["b"])
