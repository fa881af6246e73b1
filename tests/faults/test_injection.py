# SPDX-License-Identifier: BSD-3-Clause
"""What is not documented to be shell code runs nothing, whatever is in it.

The batch scripts are made by the site classes and the commands by Parsl's
executors, as in a run; a real bash runs them, where the batch system's commands
and the workers do nothing.
"""

from __future__ import annotations

import gc
import itertools
import os
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import parsl.providers.cluster_provider as cluster_provider
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from cluster.engines import Bench, Engine
from end_to_end.support import Step
from lsst.ctrl.bps.parsl import SiteConfig
from lsst.ctrl.bps.parsl.batch.slurm_provider import SlurmBlocks
from lsst.ctrl.bps.parsl.environment import export_environment
from lsst.ctrl.bps.parsl.errors import ConfigurationError
from lsst.ctrl.bps.parsl.prepare.submission import config_complaints, submit_path_complaints
from lsst.ctrl.bps.parsl.sites import princeton
from sites.test_sites import OTHERS, QUEUES, SLURM, make_config

from .engines import BY_NAME, on_engines
from .matrix import Matrix

SITES = "lsst.ctrl.bps.parsl.sites"
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

CANARY = "canary"
CODE = (
    "a\n#SBATCH --uid=0",
    "a\n#PBS -l x\ntouch canary",
    "a\ntouch canary\n",
    "a\r\ntouch canary\r",
    "$(touch canary)",
    "`touch canary`",
    "a;touch canary;",
    "a' ;touch canary; '",
    'a";touch canary;"',
    "'$(touch canary)'",
    "a&touch canary&",
    "a|touch canary",
    "a\\\ntouch canary",
    "x$(touch${IFS}canary)",
    "a --wrap='touch canary'",
    "a #b",
    "\x1b[2J",
    "a\x00b",
    "{canary}",
    "%x ${x}",
)
"""Values that would run something, or begin a line of their own, if they were not quoted."""

values = st.one_of(
    st.sampled_from(CODE),
    st.lists(st.sampled_from([*CODE, "'", '"', " ", "\n", "\\", "$", "x", "/"]), max_size=4).map("".join),
    st.text(max_size=12),
)

DOCUMENTED = {"commandPrefix", "worker_init", "scheduler_options"}
"""Settings that are code, or lines of the batch script, as their documentation says."""

CASES = {**SLURM, **QUEUES, **{name: case for name, case in OTHERS.items() if name != "thread_pool"}}
ANYWHERE = ("submitPath", "uniqProcName", "project", "campaign", "operator", "run_dir")


class Machine:
    """A directory with commands that do nothing."""

    def __init__(self, path: Path) -> None:
        self.path, self.bin = path, path / "bin"
        self.bin.mkdir()
        for name in "work_queue_worker vine_worker exec_worker_command.sh".split():
            self.command(name, "exit 0")
        for name in "srun mpiexec jsrun".split():
            # The last word is code for a shell in its turn, or a script.
            self.command(name, 'for word; do :; done; exec bash -c "$word"')
        for name in "sbatch qsub bsub".split():
            self.command(name, "echo 100.server; echo 'Job <100> is submitted to queue <x>.'")
        self.work = path / "work"
        self.work.mkdir()
        self._count = itertools.count()
        self._harmless: set[str] = set()

    def fresh(self) -> str:
        """Return a path that does not exist."""
        return f"{self.path}/runs{next(self._count)}/x"

    def command(self, name: str, code: str) -> None:
        """Have a command that runs some code."""
        (self.bin / name).write_text(f"#!/bin/bash\n{code}\n")
        (self.bin / name).chmod(0o755)

    def runs(self, code: str) -> bool:
        """Have bash run code; return whether it made a file that it should not."""
        script = self.path / "script"
        text = code.replace(shlex.quote(sys.executable), "/bin/true")
        same = re.sub(r"/runs\d+/x", "/runs/x", text)
        if same in self._harmless:
            return False
        script.write_bytes(text.encode("utf-8", "surrogateescape"))
        env = {"PATH": f"{self.bin}:/usr/bin:/bin"}
        subprocess.run(["bash", script], cwd=self.work, env=env, capture_output=True, timeout=120)
        found = [path for path in self.path.rglob(f"{CANARY}*") if path.is_file()]
        for path in found:
            path.unlink()
        if not found:
            self._harmless.add(same)
        return bool(found)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine on which nobody is asked, and all that a site needs is there."""
    package: Any = ModuleType("ndcctools")
    module: Any = ModuleType("ndcctools.taskvine")
    module.cvine = SimpleNamespace(VINE_DEFAULT_PORT=9123)
    package.taskvine = module
    with ExitStack() as stack:
        path = Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(
            mock.patch.dict(sys.modules, {"ndcctools": package, "ndcctools.taskvine": module})
        )
        stack.enter_context(mock.patch("parsl.executors.workqueue.executor._work_queue_enabled", True))
        stack.enter_context(mock.patch("parsl.addresses.requests.get", side_effect=ConnectionError))
        stack.enter_context(mock.patch.object(princeton, "address_by_interface", return_value="127.0.0.1"))
        yield Machine(path)
    gc.collect()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def command_of(executor: Any) -> str:
    """Return what starts an executor's workers, as the executor itself would have it."""
    if isinstance(executor, HighThroughputExecutor):
        vars(executor).update(
            cert_dir=f"{executor.logdir}/certificates", worker_port=54321, logconf_path=None
        )
        executor.initialize_scaling()
        return str(executor.launch_cmd)
    if hasattr(executor, "_construct_worker_command"):
        executor.address, executor._chosen_port = "127.0.0.1", 9000
        command = executor._construct_worker_command()
        return (
            str(executor.launch_cmd.format(package_prefix="", worker_command=command))
            if hasattr(executor, "launch_cmd") and "{worker_command}" in executor.launch_cmd
            else str(command)
        )
    return "vine_worker " + str(executor.factory_config.worker_options)


def scripts_of(site: SiteConfig, machine: Machine) -> list[str]:
    """Return the batch scripts of a site, and the commands that submit them."""
    found = []
    asked: list[str] = []

    def answer(command: str, *args: object, **options: object) -> tuple[int, str, str]:
        asked.append(command)
        return 0, "Job <100> is submitted to queue <x>." if "bsub" in command else "100.server", ""

    config: Any = site.get_parsl_config()
    for executor in config.executors:
        executor.run_dir = os.path.join(config.run_dir, "000")
        provider: Any = getattr(executor, "provider", None)
        if provider is None:
            continue
        provider.script_dir = os.path.join(executor.run_dir, "submit_scripts")
        command = command_of(executor)
        if isinstance(provider, SlurmBlocks):
            found += [provider.script(), command]
        elif isinstance(provider, LocalProvider):
            head = f"{provider.worker_init}\nexport JOBNAME=block-0\n"
            launched = provider.launcher(command, 1, provider.nodes_per_block, provider.script_dir)
            found.append(head + launched)
        else:
            os.makedirs(provider.script_dir, exist_ok=True)
            os.makedirs(os.path.dirname(provider.record), exist_ok=True)
            before = set(os.listdir(provider.script_dir))
            with mock.patch.object(cluster_provider, "execute_wait", answer):
                provider.submit(command, 1, f"parsl.{executor.label}.block-0")
            (name,) = set(os.listdir(provider.script_dir)) - before
            with open(os.path.join(provider.script_dir, name)) as stream:
                found.append(stream.read())
            found.append("\n".join(asked))
    return found


def make(case: str, key: str, value: object, machine: Machine) -> tuple[SiteConfig, list[str]]:
    """Make a site with a value, and return it with what is said of the configuration."""
    where, section = CASES[case]
    section = {"class": f"{SITES}.{where}", **section}
    more: dict[str, Any] = {}
    submit_path = machine.fresh()
    name, _, inner = key.partition(".")
    if key == "submitPath":
        submit_path += f"/{value}"
    elif inner:
        section[name] = {**section.get(name, {}), inner: value}
    elif key in ANYWHERE and key != "run_dir":
        more[key] = value
    else:
        section[key] = value
    config = make_config(section, submit_path, **{"project": "p", "campaign": "c", **more})
    said = [*config_complaints(config), *submit_path_complaints(config)]
    return (SiteConfig.from_config(config) if not said else typing.cast(SiteConfig, None)), said


@cache
def shape(case: str, key: str, machine: Machine) -> list[tuple[int, list[str]]]:
    """Return the number of lines and the directives of the scripts with a harmless value."""
    harmless = "lo" if key == "interface" else "x"
    site, said = make(case, key, harmless, machine)
    assert not said
    return [structure(script) for script in scripts_of(site, machine)]


def structure(script: str) -> tuple[int, list[str]]:
    """Return the number of lines of a script, and the names of its directives."""
    found = re.findall(r"^[ \t]*#(SBATCH|PBS|BSUB)[ \t]+(-+[\w-]*)", script, re.MULTILINE)
    return len(re.split(r"\r\n|[\n\r]", script)), [f"{kind} {option}" for kind, option in found]


def fault_of(case: str, key: str, value: str, machine: Machine) -> str:
    """Return what is wrong with what becomes of a value of a setting; empty where nothing is."""
    try:
        site, said = make(case, key, value, machine)
        scripts = [] if said else scripts_of(site, machine)
    except ConfigurationError as exc:
        said, scripts = exc.complaints, []
    except (OSError, ValueError) as exc:
        return f"{value!r}: {exc!r}"
    if said:
        named = any(key.partition(".")[0] in sentence for sentence in said)
        return "" if named else f"{value!r}: not named in {said}"
    if [structure(script) for script in scripts] != shape(case, key, machine):
        return f"{value!r} makes lines or directives of its own"
    return f"{value!r} runs something" if any(map(machine.runs, scripts)) else ""


def _name(kind: Any) -> str:
    return str(getattr(typing.get_args(kind)[0] if typing.get_args(kind) else kind, "__name__", ""))


def text_settings(case: str) -> list[str]:
    """Return the settings of a class that are text, but for code."""
    where, _ = CASES[case]
    module, _, name = f"{SITES}.{where}".rpartition(".")
    model = getattr(__import__(module, fromlist=[name]), name).settings_model
    kinds = {key: field.annotation for key, field in model.model_fields.items()}
    plain = {key: kind for key, kind in kinds.items() if typing.get_origin(kind) is not dict}
    texts = [key for key, kind in plain.items() if kind is str or "str" in map(_name, typing.get_args(kind))]
    return [key for key in texts if key not in DOCUMENTED | {"class_name", "finalJob"}]


SETTINGS = [(case, key) for case in CASES for key in dict.fromkeys((*text_settings(case), *ANYWHERE))]
# A shell never sees anything of these.
SETTINGS = [*((case, key) for case, key in SETTINGS if case != "local"), ("slurm", "concurrencyLimits")]
FEW = ("slurm_two_nodes", "slurm_work_queue", "pbspro", "lsf", "torque", "local_srun_work_queue")


@pytest.mark.some(4)
@pytest.mark.parametrize(
    ("case", "key"),
    [pytest.param(*pair, marks=[pytest.mark.quick] if pair[0] in FEW[:1] else []) for pair in SETTINGS],
)
def test_setting_runs_nothing(machine: Machine, matrix: Matrix, case: str, key: str) -> None:
    """Any text for a setting is refused in a sentence that names it, or stays a value: the
    batch script has no more lines and directives than with another, and runs nothing more.
    """
    tried: dict[str, str] = {}

    def once(value: str) -> None:
        tried[value] = fault_of(case, key, value, machine)

    @settings(max_examples=10, deadline=None, database=None, derandomize=True)
    @given(values)
    def whatever(value: str) -> None:
        once(value)

    for value in CODE if case in FEW else (CODE[1], CODE[4], CODE[7]):
        once(value)
    if case in FEW:
        whatever()
    wrong = [why for why in tried.values() if why]
    assert not wrong, wrong
    matrix.add("code in a setting that is no code", case, tries=len(tried))


OPTIONS = [
    ("slurm", "provider_options.partition"),
    ("slurm", "provider_options.account"),
    ("slurm", "provider_options.qos"),
    ("slurm", "provider_options.constraint"),
    ("slurm", "provider_options.clusters"),
    ("slurm", "provider_options.walltime"),
    ("slurm", "executor_options.cpu_affinity"),
    ("slurm", "executor_options.address"),
    ("slurm", "executor_options.worker_logdir_root"),
    ("torque", "provider_options.queue"),
    ("torque", "provider_options.account"),
    ("pbspro", "provider_options.queue"),
    ("pbspro", "provider_options.select_options"),
    ("lsf", "provider_options.queue"),
    ("lsf", "provider_options.project"),
    ("slurm_work_queue", "executor_options.project_name"),
    ("slurm_work_queue", "executor_options.worker_options"),
    ("slurm_work_queue", "executor_options.address"),
]


@pytest.mark.parametrize(("case", "key"), OPTIONS)
def test_option_of_parsls_runs_nothing(machine: Machine, matrix: Matrix, case: str, key: str) -> None:
    """Nor does a value that is handed on to one of Parsl's classes."""
    wrong = [why for value in CODE if (why := fault_of(case, key, value, machine))]
    assert not wrong, wrong
    matrix.add("code in an argument for Parsl", case, tries=len(CODE))


@pytest.mark.quick
@pytest.mark.parametrize("case", FEW)
def test_code_that_is_documented_runs(machine: Machine, case: str) -> None:
    """The same is seen where code is meant: in ``worker_init``."""
    assert "runs something" in fault_of(case, "worker_init", "touch canary", machine)


SHELLSHOCK = ("() { :; }; touch canary", "() { :;}\ntouch canary", "() { x; } ; touch canary #")


@pytest.mark.quick
@pytest.mark.parametrize("name", ["X", "BASH_FUNC_x%%", "X$(touch canary)", "BASH_FUNC_x;touch canary;y%%"])
def test_exported_environment_runs_nothing(machine: Machine, name: str) -> None:
    """The script with the environment that travels defines variables and functions, whatever
    is in a value, and runs nothing: bash itself takes nothing but a function's body.
    """
    wrong = [value for value in (*CODE, *SHELLSHOCK) if machine.runs(export_environment({name: value}))]
    assert not wrong, wrong


NASTY = "it's a $(touch canary) `touch canary`; touch canary"


@on_engines("threads", "htex", "slurm", "slurm-work-queue")
def test_names_run_nothing(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """Blanks, quotes and code in the submit path, the name of the run, names, labels, tags, values
    of commands, environments and paths of executables of jobs run nothing, and the run succeeds or
    is refused.
    """
    bench = make_bench(BY_NAME[name])
    program = bench.path / f"{NASTY}.sh"
    program.symlink_to(bench.step)
    fields = {
        "tags": {"t": NASTY},
        "cmdvals": {"v": "'a b;$(touch canary)'"},
        "environment": {"X": NASTY},
    }
    quoted = shlex.quote(str(program))
    steps = [
        Step(f"a {NASTY}", label=NASTY, arguments="{v}", executable=quoted, fields=fields),
        Step("b"),
    ]
    run = f"{bench.id} {NASTY}"
    bench.prepare(steps, run, subDirTemplate="{label}/{t}", project=NASTY, operator=NASTY)
    bench.submit_path = bench.submit_path.with_name(run)
    finished = bench.drive("restart", "--id", bench.submit_path).finish()
    bench.bps("report", "--id", bench.submit_path).succeeded()
    if name in ("htex", "slurm-work-queue"):  # Parsl or Work Queue would give the path to a shell.
        finished.complained("submitPath: ", "cannot be used with", "letters, digits")
    else:
        finished.succeeded()
        assert len(bench.steps("end")) == 2
    found = [path for top in (bench.path, bench.tmp, Path.cwd()) for path in top.rglob(CANARY)]
    assert not found
    matrix.check("code in names and values", bench)
