# SPDX-License-Identifier: BSD-3-Clause
"""Configurations that are wrong, each with what has to be said of it.

Each is a change to `BASE`, as YAML; what is said names the setting, the value
and what is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx

from end_to_end.support import Sandbox, Step
from lsst.ctrl.bps import GenericWorkflow

SITES = "lsst.ctrl.bps.parsl.sites"

BASE = """
wmsServiceClass: lsst.ctrl.bps.parsl.ParslService
computeSite: here
operator: tester
project: tests
campaign: wrong
payloadName: wrong
payload: {payloadName: wrong, butlerConfig: nowhere, inCollection: none, dataQuery: ""}
pipelineYaml: nowhere.yaml
"""

SECTIONS = {
    "Local": "cores: 2",
    "Slurm": "{nodes: 1, walltime: '1:00:00'}",
    "TripleSlurm": "nodes: 1",
    "LocalSrunWorkQueue": "{}",
    "Torque": "{nodes: 1, walltime: '1:00:00'}",
    "PBSPro": "{nodes: 1, walltime: '1:00:00'}",
    "ThreadPool": "{}",
    "S3df": "{}",
}
"""Site sections that are right, by the names of their classes."""

Said = tuple[str, ...]

SITE: list[tuple[str, str, Said]] = [
    # Settings of every site.
    ("Local", "cores: .inf", ("cores: inf", "finite number")),
    ("Local", "cores: 1e3", ("cores: '1e3'", "whole number")),
    ("Local", "cores: {a: 1}", ("cores: {'a': 1}", "whole number")),
    ("Local", 'cores: "2\\n3"', ("cores: '2\\n3'", "whole number")),
    ("Local", "memory: 0", ("memory: 0", "more than 0")),
    ("Local", "memory: -1 GB", ("memory: '-1 GB'", "64 GB")),
    ("Local", "memory: 64 XB", ("memory: '64 XB'", "64 GB")),
    ("Local", "memory: .nan", ("memory: nan", "more than 0")),
    ("Local", "retries: -1", ("retries: -1", "at least 0")),
    ("Local", "retries: often", ("retries: 'often'", "whole number")),
    ("Local", "warmStart: perhaps", ("warmStart: 'perhaps'", "true or false")),
    ("Local", "enforceMemory: [yes]", ("enforceMemory: [True]", "true or false")),
    ("Local", "finalJob: nowhere", ("finalJob: 'nowhere'", '"workers" or "submit host"')),
    ("Local", "run_dir: [a]", ("run_dir: ['a']", "a text is wanted")),
    ("Local", "monitorEnable: 2", ("monitorEnable: 2", "true or false")),
    ("Local", "monitorInterval: 0", ("monitorInterval: 0", "more than 0")),
    ("Local", "monitorFilename: {a: b}", ("monitorFilename: {'a': 'b'}", "a text is wanted")),
    ("Local", "commandPrefix: [a, b]", ("commandPrefix: ['a', 'b']", "a text is wanted")),
    ("Local", "concurrencyLimits: [db]", ("concurrencyLimits: ['db']", "{db_limit: 10}")),
    ("Local", "concurrencyLimits: {db: 0}", ("concurrencyLimits.db: 0", "at least 1")),
    ("Local", "concurrencyLimits: {db: many}", ("concurrencyLimits.db: 'many'", "whole number")),
    ("Local", "enviroment: true", ("enviroment: unknown setting; did you mean environment?",)),
    ("ThreadPool", "max_threads: 0", ("max_threads: 0", "at least 1")),
    # Blocks, and Slurm.
    ("Slurm", "nodes: null", ("nodes: missing", "required")),
    ("Slurm", "nodes: 0", ("nodes: 0", "at least 1")),
    ("Slurm", "nodes: 1-4", ("nodes: '1-4'", "whole number")),
    ("Slurm", "cores_per_node: all", ("cores_per_node: 'all'", "whole number")),
    ("Slurm", "walltime: null", ("walltime: missing", "required")),
    ("Slurm", "walltime: two hours", ("walltime: 'two hours'", '"2:00:00"')),
    ("Slurm", "walltime: 30", ("walltime: 30", "minutes or hours", '"0:30:00"')),
    ("Slurm", "walltime: -7200", ("walltime: -7200", "more than 0")),
    ("Slurm", "walltime: true", ("walltime: True", '"2:00:00"')),
    ("Slurm", "walltime: .inf", ("walltime: inf", '"2:00:00"')),
    ("Slurm", "walltime: [2, 0, 0]", ("walltime: [2, 0, 0]", '"2:00:00"')),
    ("Slurm", "walltime: 2026-01-01", ("walltime: datetime.date(2026, 1, 1)", '"2:00:00"')),
    ("Slurm", 'walltime: "1:2:3:4"', ("walltime: '1:2:3:4'", '"2:00:00"')),
    ("Slurm", 'walltime: "0:00:00"', ("walltime: '0:00:00'", "more than 0")),
    ("Slurm", "mem_per_node: 0", ("mem_per_node: 0", "more than 0")),
    ("Slurm", "mem_per_node: lots", ("mem_per_node: 'lots'", "64 GB")),
    ("Slurm", "mem_per_worker: 1.2.3", ("mem_per_worker: '1.2.3'", "64 GB")),
    ("Slurm", "partition: a b", ("partition: 'a b'", "a name is wanted")),
    ("Slurm", 'partition: "a\\n#SBATCH --uid=0"', ("partition: 'a\\n#SBATCH --uid=0'", "a name is wanted")),
    ("Slurm", "partition: [roma, milano]", ("partition: ['roma', 'milano']", "text is wanted")),
    ("Slurm", "account: $(id)", ("account: '$(id)'", "a name is wanted")),
    ("Slurm", "account: true", ("account: True", "text is wanted")),
    ("Slurm", 'qos: ""', ("qos: ''", "a name is wanted")),
    ("Slurm", 'qos: "a\\x00b"', ("qos: 'a\\x00b'", "a name is wanted")),
    ("Slurm", 'constraint: "cpu\\x1b[2J"', ("constraint: 'cpu\\x1b[2J'", "a name is wanted")),
    ("Slurm", "gpus_per_node: -1", ("gpus_per_node: -1", "at least 1")),
    ("Slurm", "singleton: maybe", ("singleton: 'maybe'", "true or false")),
    ("Slurm", "exclusive: user", ("exclusive: 'user'", "true or false")),
    ("Slurm", """srun_options: '--comment="a'""", ("srun_options: '--comment=\"a'", "options are wanted")),
    ("Slurm", 'srun_options: ["-K0"]', ("srun_options: ['-K0']", "a text is wanted")),
    ("Slurm", "init_blocks: -1", ("init_blocks: -1", "at least 0")),
    ("Slurm", "{min_blocks: 3, max_blocks: 2}", ("at most 2 blocks", "max_blocks", "min_blocks is 3")),
    ("Slurm", "max_blocks: 0", ("max_blocks: 0", "at least 1")),
    ("Slurm", "max_blocks: true", ("max_blocks: True", "not true or false")),
    ("Slurm", "max_cores: 0.5", ("max_cores: 0.5", "whole number")),
    ("Slurm", "parallelism: 1.5", ("parallelism: 1.5", "less than or equal to 1")),
    ("Slurm", "parallelism: all", ("parallelism: 'all'", "a number is wanted")),
    ("Slurm", "idle_time: 0", ("idle_time: 0", "more than 0")),
    ("Slurm", "worker_init: {module: gcc}", ("worker_init: {'module': 'gcc'}", "a text is wanted")),
    ("Slurm", "scheduler_options: [1, 2]", ("scheduler_options: [1, 2]", "text is wanted")),
    ("Slurm", "cmd_timeout: 0", ("cmd_timeout: 0", "at least 1")),
    ("Slurm", "interface: nosuch0", ("interface: nosuch0", "ip -brief address")),
    ("Slurm", "provider_options: [a]", ("provider_options: ['a']", "names and values are wanted")),
    (
        "Slurm",
        "provider_options: {max_bloks: 1}",
        ("provider_options.max_bloks", "SlurmProvider takes no such argument; did you mean max_blocks?"),
    ),
    (
        "Slurm",
        "executor_options: {prefetch_capasity: 1}",
        ("executor_options.prefetch_capasity", "did you mean prefetch_capacity?"),
    ),
    (
        "Slurm",
        "executor_options: {max_workers_per_node: all}",
        ("executor_options", "max_workers_per_node", "int"),
    ),
    ("S3df", "cores_pernode: 1", ("cores_pernode: unknown setting; did you mean cores_per_node?",)),
    # Others.
    ("TripleSlurm", "small_memory: 0", ("small_memory: 0", "more than 0")),
    ("TripleSlurm", "medium_memory: lots", ("medium_memory: 'lots'", "64 GB")),
    ("TripleSlurm", "small_walltime: 10", ("small_walltime: 10", '"0:10:00"')),
    ("TripleSlurm", "large_walltime: forever", ("large_walltime: 'forever'", '"2:00:00"')),
    ("TripleSlurm", "smal_memory: 2", ("smal_memory: unknown setting; did you mean small_memory?",)),
    ("LocalSrunWorkQueue", "port: ninety", ("port: 'ninety'", "whole number")),
    ("LocalSrunWorkQueue", "port: -1", ("port: -1", "at least 0")),
    ("LocalSrunWorkQueue", "port: 70000", ("port: 70000", "65535")),
    ("LocalSrunWorkQueue", "port: true", ("port: True", "number")),
    ("LocalSrunWorkQueue", "worker_options: {cores: 4}", ("worker_options: {'cores': 4}", "text is wanted")),
    ("LocalSrunWorkQueue", 'worker_options: "\'a"', ('worker_options: "\'a"', "options are wanted")),
    ("LocalSrunWorkQueue", "wq_max_retries: 0", ("wq_max_retries: 0", "at least 1")),
    ("LocalSrunWorkQueue", "nodes_per_block: none", ("nodes_per_block: 'none'", "whole number")),
    ("Torque", "nodes: null", ("nodes: missing", "required")),
    ("Torque", "tasks_per_node: 0", ("tasks_per_node: 0", "at least 1")),
    ("Torque", 'queue: "a\\nb"', ("queue: 'a\\nb'", "a name is wanted")),
    ("Torque", 'account: "a;b"', ("account: 'a;b'", "a name is wanted")),
    ("Torque", "walltime: soon", ("walltime: 'soon'", '"2:00:00"')),
    ("Torque", "tasks_pernode: 2", ("tasks_pernode: unknown setting; did you mean tasks_per_node?",)),
    ("PBSPro", 'select_options: "ngpus=4 -q x"', ("select_options: 'ngpus=4 -q x'", "a name is wanted")),
]
"""Class, its settings, and what is said after ``site.here.``."""

TOP: list[tuple[str, Said]] = [
    ("parsl: {log_level: 7}", ("parsl.log_level: 7", "WARNING")),
    ("parsl: {log_level: [INFO]}", ("parsl.log_level:", "INFO", "WARNING")),
    ("parsl: LOUD", ("parsl: 'LOUD'", "log_level")),
    ("parsl: {loglevel: INFO}", ("parsl.loglevel", "did you mean log_level?")),
    ("memoryLimit: lots", ("memoryLimit: 'lots'", "a number of MB")),
    ("memoryLimit: '-5'", ("memoryLimit: '-5'", "a number of MB")),
    ("memoryLimit: true", ("memoryLimit: True", "a number of MB")),
    ("memoryLimit: -5", ("memoryLimit: -5", "a number of MB")),
    ("computeSite: 5", ("computeSite: 5", "a text is wanted")),
    ("computeSite: [here]", ("computeSite: ['here']", "a text is wanted")),
    ('computeSite: "here\\n"', ("There is no site.here", "Known sites:", "here")),
    ("computeSite: nowhere", ("There is no site.nowhere", "Known sites:", "here", "Add a section")),
    ("site: {here: [Local]}", ("site.here: settings are wanted here", "'Local'")),
    ("site: {here: {class: 5}}", ("site.here.class: 5", "a text is wanted")),
    ("site: {here: {class: Local}}", ("site.here.class", "cannot import Local")),
    (f"site: {{here: {{class: {SITES}.local}}}}", ("site.here.class", "is not a site class", "SiteConfig")),
    ("site: {here: {class: lsst.ctrl.bps.parsl.SiteConfig}}", ("site.here", "abstract", "get_executors")),
    (f"site: {{here: {{class: {SITES}.WorkQueue}}}}", ("site.here", "abstract", "get_executors")),
    ("parsl_config: 5\ncomputeSite: ''", ("parsl_config: settings are wanted here", "5")),
    (
        "{parsl_config: {executor: Dask}, computeSite: ''}",
        ("parsl_config", "'Dask'", "known are", "ThreadPool"),
    ),
    (
        "{parsl_config: {executor: ThreadPool, max_threads: 0}, computeSite: ''}",
        ("parsl_config.max_threads: 0", "at least 1"),
    ),
    ("submitPath: file/below", ("submitPath:", "file/below cannot be made", "file cannot be written to")),
    ("submitPath: file", ("submitPath:", "file exists", "Choose another one")),
    ("submitPath: dangling", ("submitPath:", "dangling exists", "Choose another one")),
    (f"submitPath: {'x' * 300}", ("submitPath:", "cannot be made", "too long")),
    ('submitPath: "two\\nlines"', ("submitPath: 'two\\nlines'", "one line")),
    ('submitPath: "nul\\x00"', ("submitPath:", "nul\\x00")),
    ('uniqProcName: "two\\nlines"', ("uniqProcName: 'two\\nlines'", "one line")),
    ("uniqProcName: a/b", ("uniqProcName: 'a/b'",)),
    ("uniqProcName: 5", ("uniqProcName: 5", "a text is wanted")),
    (
        f"{{project: {{a: b}}, site: {{here: {{class: {SITES}.Slurm, nodes: 1, walltime: 2:00:00}}}}}}",
        ("site.here", "project", "expected str"),
    ),
]
"""Changes of the whole, and what is said."""


@dataclass(frozen=True)
class Flow:
    """A workflow that is wrong."""

    make: Callable[[Sandbox], GenericWorkflow]
    said: Said
    site: Mapping[str, Any] = field(default_factory=lambda: {"memory": 1000})


def one(**fields: Any) -> Callable[[Sandbox], GenericWorkflow]:
    """Return what makes a workflow of one job with some fields of BPS's."""
    return lambda box: box.generic([Step("a", fields=fields)])


def executable(**fields: Any) -> Callable[[Sandbox], GenericWorkflow]:
    """Return what makes a workflow of one job with an executable of its own."""

    def make(box: Sandbox) -> GenericWorkflow:
        workflow = box.generic([Step("a")])
        for name, value in fields.items():
            setattr(workflow.get_job("a").executable, name, value)
        return workflow

    return make


def orphan(box: Sandbox) -> GenericWorkflow:
    """Make a workflow with a job that comes after none that there is."""
    workflow = box.generic([Step("a")])
    networkx.DiGraph.add_edge(workflow, "nosuch", "a")
    return workflow


def twins(box: Sandbox) -> GenericWorkflow:
    """Make a workflow whose final job has the name of another."""
    return box.generic([Step("a")], Step("a"))


def same_executable(box: Sandbox) -> GenericWorkflow:
    """Make a workflow with two executables of one name to be brought to the jobs."""
    workflow = box.generic([Step("a"), Step("b", executable="/bin/true")])
    for name in "ab":
        workflow.get_job(name).executable.transfer_executable = True
    return workflow


SLURM = {"class": f"{SITES}.Slurm", "nodes": 1, "walltime": "1:00:00", "mem_per_node": 2}

FLOWS: dict[str, Flow] = {
    "cycle": Flow(
        lambda box: box.generic([Step("a", ["c"]), Step("b", ["a"]), Step("c", ["b"])]),
        ("wait for each other in a circle", "a -> b -> c"),
    ),
    "self": Flow(lambda box: box.generic([Step("a", ["a"])]), ("in a circle: a -> a",)),
    "orphan": Flow(orphan, ("nosuch", "no such job")),
    "twins": Flow(twins, ("Two jobs", "'a'")),
    "no file": Flow(
        executable(src_uri="/no/such/step.sh", transfer_executable=True),
        ("/no/such/step.sh does not exist", "executable"),
    ),
    "no file but a directory": Flow(
        executable(src_uri="/usr", transfer_executable=True), ("/usr does not exist", "executable")
    ),
    "NUL in a path": Flow(executable(src_uri="/bin/ec\0ho"), ("Job a", "NUL")),
    "two executables": Flow(same_executable, ("Two executables have the name step", "/bin/true")),
    "memory": Flow(one(request_memory="lots"), ("Job a", "requestMemory is 'lots'", "(MB) is wanted")),
    "less memory": Flow(one(request_memory=-1), ("Job a", "requestMemory is -1", "at least 0")),
    "too much memory": Flow(one(request_memory=1001), ("Job a", "1001 MB", "site local", "1000 MB")),
    "too much for a node": Flow(one(request_memory=2049), ("Job a", "2049 MB", "2048 MB"), SLURM),
    "too long": Flow(one(request_walltime=90), ("Job a", "90 minutes", "60 minutes"), SLURM),
    "memory max": Flow(one(request_memory_max="1 GB"), ("requestMemoryMax is '1 GB'", "(MB) is wanted")),
    "half a core": Flow(one(request_cpus=1.5), ("requestCpus is 1.5", "whole number")),
    "walltime": Flow(one(request_walltime="1:00"), ("requestWalltime is '1:00'", "(minutes) is wanted")),
    "disk": Flow(one(request_disk="all"), ("requestDisk is 'all'", "(MB) is wanted")),
    "retries": Flow(one(number_of_retries=-1), ("numberOfRetries is -1", "at least 0")),
    "exit code": Flow(one(retry_unless_exit=300), ("retryUnlessExit is 300", "0 to 255")),
    "exit codes": Flow(one(retry_unless_exit=[1, "a"]), ("retryUnlessExit is [1, 'a']", "whole number")),
    "abort": Flow(one(abort_on_value=256), ("abortOnValue is 256", "0 to 255")),
    "abort return": Flow(
        one(abort_on_value=1, abort_return_value=-1), ("abortReturnValue is -1", "0 to 255")
    ),
    "priority": Flow(one(priority="high"), ("priority is 'high'", "whole number")),
    "multiplier": Flow(one(memory_multiplier=-2), ("memoryMultiplier is -2", "a number is wanted")),
    "no bash": Flow(one(pre_cmdline="if"), ("Job a", "preCmdline cannot be read", "syntax error", "if")),
    "no end": Flow(one(post_cmdline="echo 'a"), ("Job a", "postCmdline cannot be read", "echo 'a")),
    "no text": Flow(one(pre_cmdline=5), ("preCmdline is 5", "a text is wanted")),
    "no such input": Flow(one(pre_cmdline="cat <FILE:x>"), ("preCmdline names <FILE:x>", "no such file")),
    "no such file": Flow(one(arguments="<FILE:x>"), ("command names <FILE:x>", "no such file")),
    "quotation": Flow(one(arguments="'a"), ("command cannot be read", "no end", "'a")),
    "long": Flow(one(arguments="x" * 200000), ("200000 bytes", "131071", "fewer quanta")),
    "number": Flow(one(arguments=5), ("Job a", "arguments", "5", "a text is wanted")),
    "variables": Flow(one(environment=["A"]), ("Job a", "environment", "['A']")),
    "site": Flow(one(compute_site="nowhere"), ("There is no site.nowhere", "Known sites: local")),
}
"""Workflows, and what is said of them at prepare."""

RUNS: dict[str, Flow] = {
    "nothing to run": Flow(executable(src_uri=""), ("a: cannot start", "command not found", "127")),
    "no such command": Flow(executable(src_uri="/no/step"), ("'/no/step'", "No such file", "127")),
    "a directory": Flow(executable(src_uri="/usr"), ("/usr", "126")),
    "NUL in a word": Flow(one(arguments="a\0b"), ("a", "null byte", "126")),
    "NUL in a variable": Flow(one(environment={"A": "x\0y"}), ("null byte", "126")),
    "no name": Flow(one(environment={"A=B": "1"}), ("illegal environment variable name", "126")),
}
"""Those whose jobs cannot start, and what is said when they are run."""

IDS: dict[str, tuple[str, Said]] = {
    "unknown": ("nothing", ("No run matches 'nothing'", "bps report --hist 30")),
    "ambiguous": ("run_", ("2 runs match 'run_'", "run_one", "run_two", "give more of the id")),
    "blank": (" ", ("No run matches ' '",)),
    "two lines": ("run_one\nrun_two", ("No run matches 'run_one\\nrun_two'",)),
    "a line's end": ("run_one\n", ("No run matches 'run_one\\n'",)),
    "control": ("\x1b[2Jrun_one", ("No run matches '\\x1b[2Jrun_one'",)),
    "not Unicode": ("\udcff", ("No run matches '\\udcff'",)),
    "pattern": ("run*", ("No run matches 'run*'",)),
    "option": ("--", ("No run matches '--'",)),
    "long": ("x" * 5000, ("No run matches", "xxx")),
    "a file": ("{box}/step.sh", ("No run matches", "step.sh")),
    "the plan": ("{box}/submit/run_one/parsl/plan.jsonl", ("No run matches", "plan.jsonl")),
    "below the run": ("{box}/submit/run_one/parsl", ("is not the submit directory of a prepared run",)),
    "above the run": ("{box}/submit", ("{box}/submit is not the submit directory of a prepared run",)),
    "the root": ("/", ("/ is not the submit directory",)),
    "a removed run": ("gone", ("No run matches 'gone'",)),
    "a removed directory": ("{box}/submit/gone", ("No run matches", "submit/gone")),
}
"""Ids that are none, and what is said; ``{box}`` is the directory of the test."""
