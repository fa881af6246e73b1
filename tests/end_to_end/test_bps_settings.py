# SPDX-License-Identifier: BSD-3-Clause
"""Settings of BPS, as users write them in YAML and on the command line."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from lsst.pipe.base.pipeline_graph import TaskImportMode
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

from lsst.ctrl.bps import WmsStates
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan

from .support import BIN, SERVICE, TINYCAM, Sandbox, events_of_kind, wait_until
from .test_pipeline import OUTPUT, run_id_of, submit_path_of
from .tinycam.repo import FILTERS, contents
from .tinycam.tasks import describe, executed

_PROBE = f"""\
#!{sys.executable} -IS
# probe.py NAME ARGUMENTS: writes down what it was given; fails once where a file beside it says so.
import json, os, sys
here, name = os.path.dirname(sys.argv[0]), sys.argv[1]
line = {{"name": name, "args": sys.argv[2:], "env": dict(os.environ)}}
with open(here + "/probes.jsonl", "a") as stream:
    stream.write(json.dumps(line) + "\\n")
if os.path.exists(here + "/once." + name):
    os.unlink(here + "/once." + name)
    sys.exit(3)
"""


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with changes; None takes a key away."""
    result = dict(copy.deepcopy(base))
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def report_table(box: Sandbox, run_id: str | Path) -> dict[str, dict[str, int]]:
    """Return the table of ``bps report --id``: counts by state by label, in order."""
    text = box.bps("report", "--id", run_id).succeeded().stdout
    states = [*(state.name for state in WmsStates), "EXPECTED"]
    assert states == next(line.split() for line in text.splitlines() if "EXPECTED" in line)
    return {
        match[1]: dict(zip(states, map(int, match[2].split()), strict=True))
        for match in re.finditer(rf"^(\w+)((?: +-?\d+){{{len(states)}}})$", text, re.MULTILINE)
    }


def fields_by_label(submit_path: Path) -> dict[str, dict[str, Any]]:
    """Return what the plan says of the jobs of each label."""
    return {
        job.template.label: {**(job.template.fields or {}), **job.fields}
        for job in Plan(SubmitPaths(submit_path).plan).jobs()
    }


@dataclass(frozen=True)
class Scripted:
    """The tiny pipeline with a script in the place of each quantum.

    Its graph was made once by ``bps acquire``, and runs have copies of it.
    """

    box: Sandbox
    graph: Path
    nodes: Mapping[str, str]
    """Quanta by their names in `executed`."""

    def moved(self, box: Sandbox) -> Scripted:
        """Return the same for another sandbox."""
        return dataclasses.replace(self, box=box)

    def name_of(self, text: str) -> str:
        """Return the name of the quantum that a text begins with, or the text."""
        names = {node: name for name, node in self.nodes.items()}
        return names.get(text[:36], text)

    def steps(self, kind: str) -> list[str]:
        """Return the names of the quanta, ``init`` and ``final`` that began or ended."""
        return [self.name_of(name) for name in self.box.steps(kind)]

    def write(self, name: str = "run", **changes: Any) -> Path:
        """Write the configuration, and return the file."""
        tiny = yaml.safe_load((TINYCAM / "bps.yaml").read_text())
        step = self.box.step
        scripted = {
            "submitPath": f"{self.box.path}/submit/{name}",
            "createQuantumGraph": f"cp {self.graph} {{qgraphFile}}",
            "pipelineYaml": str(TINYCAM / "pipeline.yaml"),
            "payload": {"butlerConfig": "none", "dataQuery": "none"},
            "runQuantumCommand": f"{step} {{qgraphNodeId}}",
            "pipetask": {"pipetaskInit": {"runQuantumCommand": f"{step} init"}},
            "finalJob": {"command1": f"{step} final"},
        }
        path = self.box.path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merged(merged(tiny, scripted), changes), sort_keys=False))
        return path


def make_scripted(tiny: Sandbox) -> Scripted:
    """Make the graph of the tiny pipeline."""
    acquired = tiny.bps("acquire", TINYCAM / "bps.yaml").succeeded()
    (graph,) = submit_path_of(acquired.stdout).glob("*.qg")
    # As BPS reads it: without importing the tasks.
    with PredictedQuantumGraph.open(graph, import_mode=TaskImportMode.DO_NOT_IMPORT) as reader:
        reader.read_thin_graph()
        quanta = reader.finish().quanta_by_task
    nodes = {
        describe(label, data_id.mapping): str(node)
        for label, of_task in quanta.items()
        for data_id, node in of_task.items()
    }
    return Scripted(tiny, graph, nodes)


@pytest.fixture(scope="module")
def scripted(shared_tiny: Sandbox) -> Scripted:
    """The tiny pipeline; its quanta are small scripts."""
    return make_scripted(shared_tiny)


@pytest.fixture
def pipeline(box: Sandbox, scripted: Scripted) -> Scripted:
    """The same in a sandbox of one test."""
    return scripted.moved(box)


# Attempt numbers, commands around a job, environment, retries.


@dataclass(frozen=True)
class Probed:
    """A run of scripts that wrote down what they were given."""

    pipeline: Scripted
    submit_path: Path
    output: str
    """Of ``bps submit``."""

    @property
    def probes(self) -> list[dict[str, Any]]:
        """What each script was given, in the order of their beginning."""
        lines = (self.pipeline.box.path / "probes.jsonl").read_text().splitlines()
        return [{**probe, "name": self.pipeline.name_of(probe["name"])} for probe in map(json.loads, lines)]

    def of(self, name: str) -> list[dict[str, Any]]:
        """What the attempts of one were given."""
        return [probe for probe in self.probes if probe["name"] == name]


FAILS_ONCE = "isr r 1"
QUANTA = [*(f"isr {name} {number}" for name in FILTERS for number in range(2)), "combine g", "combine r"]


@pytest.fixture(
    scope="module",
    params=[True, False],
    ids=["lazy", "not lazy"],
)
def probed(
    request: pytest.FixtureRequest, scripted: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Probed]:
    """A run with many settings. A quantum and the final job fail once."""
    box = Sandbox(tmp_path_factory.mktemp("probed") / "box")
    pipeline = scripted.moved(box)
    probe = box.path / "probe.py"
    probe.write_text(_PROBE)
    probe.chmod(0o755)
    for name in (pipeline.nodes[FAILS_ONCE], "final"):
        (box.path / f"once.{name}").touch()
    path = pipeline.write(
        site={"local": {"cores": 1}},
        useLazyCommands=request.param,
        mood="a fine day",
        of="filter {physical_filter}",
        logs="{submitPath}/logs of {payloadName}",
        runPreCmdOpts="--long-log --log-level=VERBOSE --log-file {submitPath}/log.{wmsAttemptNum}.json",
        runQuantumCommand=f"{probe} {{qgraphNodeId}} {{runPreCmdOpts}} '{{mood}}' $PROBE_OUTER",
        preCmdline=f"{probe} before {{submitPath}} '{{mood}}' '{{logs}}'",
        postCmdline=f'{probe} after {{submitPath}} "{{mood}}" {{wmsAttemptNum}}',
        environment={
            "PROBE_SPACES": "two  words ",
            "PROBE_QUOTES": 'it\'s "so" \\ `true`',
            "PROBE_PLAIN": "$PROBE_OUTER",
            "PROBE_BRACED": "<${PROBE_OUTER}>/sub",
            "PROBE_UNKNOWN": "[${PROBE_NOWHERE}]",
            "PROBE_VARIABLE": "{mood} in {submitPath}",
            "PROBE_ATTEMPT": "number {wmsAttemptNum}",
            "PROBE_NUMBER": 3,
            "PROBE_DOLLAR": "a;b|c>d*",
        },
        numberOfRetries=1,
        retryUnlessExit=[2],
        memoryMultiplier=2,
        queue="no_such_queue",
        accountingGroup="no_such_group",
        accountingUser="nobody_known",
        pipetask={
            "pipetaskInit": {"runQuantumCommand": f"{probe} init {{runPreCmdOpts}}"},
            "isr": {"numberOfRetries": 3, "retryUnlessExit": [7, 8], "memoryMultiplier": 1.5},
            "combine": {
                "numberOfRetries": 2,
                "retryUnlessExit": 9,
                "memoryMultiplier": 1,
                "queue": "no_such_queue_either",
                "preCmdline": f"{probe} before-combine {{submitPath}}",
                "postCmdline": f"{probe} after-combine '{{mood}}' {{jobLabel}} {{jobName}} '{{of}}'",
            },
        },
        finalJob={"command1": f"{probe} final {{wmsAttemptNum}} {{submitPath}} '{{mood}}'"},
    )
    box.env["PROBE_OUTER"] = "from the shell"
    try:
        done = box.bps("submit", path).succeeded()
        yield Probed(pipeline, submit_path_of(done.stdout), done.text)
        box.assert_nothing_runs()
        assert not [*(box.path / "home").iterdir(), *(box.path / "tmp").iterdir()], "left behind"
    finally:
        box.close()


@pytest.mark.some(1)
def test_attempt_number_in_commands(probed: Probed) -> None:
    """``{wmsAttemptNum}``, also within another variable, is 1 in the first
    attempt of a quantum's command and 2 after one failure; other variables and
    those of the shell are there, too.
    """
    for name in QUANTA:
        attempts = probed.of(name)
        assert len(attempts) == (2 if name == FAILS_ONCE else 1), name
        for number, probe in enumerate(attempts, start=1):
            assert probe["args"][:4] == [
                "--long-log",
                "--log-level=VERBOSE",
                "--log-file",
                f"{probed.submit_path}/log.{number}.json",
            ], name
            assert probe["args"][4] == "a fine day"
    (init,) = probed.of("init")
    assert init["args"][-1] == f"{probed.submit_path}/log.1.json"


def test_shell_variable_in_command(probed: Probed) -> None:
    """An environment variable in a command has the value of the shell."""
    for name in QUANTA:
        for probe in probed.of(name):
            assert " ".join(probe["args"][5:]) == "from the shell"


def test_attempt_number_in_final_job(probed: Probed) -> None:
    """``command1`` of the final job gets it, which here fails once."""
    rest = [str(probed.submit_path), "a fine day"]
    assert [probe["args"] for probe in probed.of("final")] == [["1", *rest], ["2", *rest]]


def test_attempt_number_in_environment(probed: Probed) -> None:
    """The section ``environment`` gets it, for quanta and ``pipetaskInit``."""
    for name in (*QUANTA, "init"):
        attempts = [probe["env"]["PROBE_ATTEMPT"] for probe in probed.of(name)]
        assert attempts == (["number 1", "number 2"] if name == FAILS_ONCE else ["number 1"]), name


def test_attempt_number_in_environment_of_final_job(probed: Probed) -> None:
    """So it does for the final job, for which BPS puts the values of
    environment variables in when the run is prepared.
    """
    attempts = [probe["env"]["PROBE_ATTEMPT"] for probe in probed.of("final")]
    assert attempts == ["number 1", "number 2"]


def test_environment(probed: Probed) -> None:
    """Values of the section ``environment`` reach the jobs as they are
    written: spaces, quotes and what a shell would take apart. ``$NAME`` and
    ``${NAME}`` are those of the shell of ``bps submit``; ``{name}`` is a
    variable of the YAML.
    """
    expected = {
        "PROBE_SPACES": "two  words ",
        "PROBE_QUOTES": 'it\'s "so" \\ `true`',
        "PROBE_PLAIN": "from the shell",
        "PROBE_BRACED": "<from the shell>/sub",
        "PROBE_VARIABLE": f"a fine day in {probed.submit_path}",
        "PROBE_NUMBER": "3",
        "PROBE_DOLLAR": "a;b|c>d*",
        "PROBE_OUTER": "from the shell",
    }
    for name in (*QUANTA, "init", "final"):
        for probe in probed.of(name):
            assert {key: probe["env"].get(key) for key in expected} == expected, name


def test_commands_around_jobs(probed: Probed) -> None:
    """``preCmdline`` runs before each attempt of a job and ``postCmdline``
    after it, whether it succeeded or not; those of a label take the place of
    those of all. Variables in them have their values.
    """
    order = [probe["name"] for probe in probed.probes]
    expected_around = {
        **dict.fromkeys([*QUANTA[:4], "init", "final"], ("before", "after")),
        **dict.fromkeys(QUANTA[4:], ("before-combine", "after-combine")),
    }
    for index, name in enumerate(order):
        if name in expected_around:
            assert (order[index - 1], order[index + 1]) == expected_around[name], f"around {name}: {order}"
    assert len(order) == 3 * sum(name in expected_around for name in order)
    submit_path = str(probed.submit_path)
    assert {tuple(probe["args"]) for probe in probed.of("before")} == {
        (submit_path, "a fine day", f"{submit_path}/logs of tiny")
    }
    assert {tuple(probe["args"]) for probe in probed.of("before-combine")} == {(submit_path,)}
    combined = {probe["env"]["BPS_PARSL_JOB"]: probe["args"] for probe in probed.of("after-combine")}
    assert len(combined) == 2
    for job, args in combined.items():
        assert args[:3] == ["a fine day", "combine", job]
    assert sorted(args[3] for args in combined.values()) == sorted(f"filter {name}" for name in FILTERS)
    # One of a quantum that failed once, and that of the final job, are of a second attempt.
    assert sorted(tuple(probe["args"]) for probe in probed.of("after")) == sorted(
        [(submit_path, "a fine day", "1")] * 6 + [(submit_path, "a fine day", "2")] * 2
    )
    assert {probe["env"]["PROBE_VARIABLE"] for probe in probed.probes} == {
        f"a fine day in {probed.submit_path}"
    }


def test_retries_of_a_label(probed: Probed) -> None:
    """``numberOfRetries``, ``retryUnlessExit`` and ``memoryMultiplier`` of a
    label reach its jobs; others have those of the whole run.
    """
    keys = ("number_of_retries", "retry_unless_exit", "memory_multiplier")
    found = {
        label: tuple(fields.get(key) for key in keys)
        for label, fields in fields_by_label(probed.submit_path).items()
    }
    assert found["isr"] == (3, [7, 8], 1.5)
    # To BPS, a multiplier of 1 is none.
    assert found["combine"] == (2, 9, None)
    assert found["pipetaskInit"] == (1, [2], 2)


def test_queue_and_accounting_group(probed: Probed) -> None:
    """``queue`` and ``accountingGroup`` say nothing to a site Local, and are no
    reason to complain.
    """
    ours = [line for line in probed.output.splitlines() if "lsst.ctrl.bps.parsl" in line]
    again = [line for line in ours if line.endswith("it will be run again")]
    assert len(again) == 2, "those that were made to fail"
    ours = [line for line in ours if line not in again]
    assert ours, "lines of our log"
    for word in ("queue", "accounting", "no_such", "WARNING", "ERROR"):
        assert not [line for line in ours if word in line], word
    assert report_table(probed.pipeline.box, probed.submit_path)["TOTAL"]["SUCCEEDED"] == 8


# Clusters and lazy commands.


@pytest.mark.slow
def test_clusters_and_commands_that_are_not_lazy(tiny: Sandbox) -> None:
    """The pipeline makes the same datasets with ``useLazyCommands: false`` and
    a job for each quantum as with ``true`` and all quanta of a filter in one
    job. Reports count jobs, by the labels of the clusters. The log file with
    the attempt number in its name is written.
    """
    shutil.copytree(tiny.path / "repo", tiny.path / "untouched")
    base = yaml.safe_load((TINYCAM / "bps.yaml").read_text())
    options = "--long-log --log-level=VERBOSE --log-file {submitPath}/log.{wmsAttemptNum}.json"
    single = merged(
        base,
        {"useLazyCommands": False, "runPreCmdOpts": options, "submitPath": str(tiny.path / "submit/single")},
    )
    clustered = merged(
        base,
        {
            "useLazyCommands": True,
            "submitPath": str(tiny.path / "submit/clustered"),
            "payload": {"butlerConfig": str(tiny.path / "untouched")},
            "clusterAlgorithm": "lsst.ctrl.bps.quantum_clustering_funcs.dimension_clustering",
            "cluster": {"perFilter": {"pipetasks": "isr, combine", "dimensions": "physical_filter"}},
        },
    )
    found, tables = [], []
    for name, content, repo in (("single", single, "repo"), ("clustered", clustered, "untouched")):
        path = tiny.path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        done = tiny.bps("submit", path, timeout=300).succeeded()
        found.append(contents(tiny.path / repo, OUTPUT))
        tables.append(report_table(tiny, run_id_of(done.stdout)))
    assert found[0] == found[1]
    assert sorted(str(value) for value in found[0]["flat"].values()) == sorted(
        str({"value": value}) for value in (0, 2, 200, 202)
    )
    assert len(found[0]["total"]) == 2
    assert sorted(executed(tiny.path)) == sorted(2 * QUANTA)
    expected: list[dict[str, int]] = [
        {"TOTAL": 8, "pipetaskInit": 1, "isr": 4, "combine": 2, "finalJob": 1},
        {"TOTAL": 4, "pipetaskInit": 1, "perFilter": 2, "finalJob": 1},
    ]
    for table, sizes in zip(tables, expected, strict=True):
        assert {label: row["EXPECTED"] for label, row in table.items()} == sizes
        assert {label: row["SUCCEEDED"] for label, row in table.items()} == sizes
    logs = list((tiny.path / "submit/single").glob("log.*.json"))
    assert [log.name for log in logs] == ["log.1.json"]
    assert all(json.loads(line) for line in logs[0].read_text().splitlines())


def test_settings_of_a_cluster(pipeline: Scripted) -> None:
    """Settings of ``cluster.<label>`` are those of its jobs, which have several
    quanta; where the section says nothing, those of the label of the quanta
    hold. Tasks in no cluster have a job for each quantum.
    """
    box = pipeline.box
    path = pipeline.write(
        clusterAlgorithm="lsst.ctrl.bps.quantum_clustering_funcs.dimension_clustering",
        requestWalltime=10,
        cluster={
            "perFilter": {
                "pipetasks": "isr",
                "dimensions": "physical_filter",
                "requestMemory": 777,
                "requestCpus": 2,
                "numberOfRetries": 4,
                "memoryMultiplier": 3,
                "priority": 5,
            }
        },
        pipetask={"isr": {"requestMemory": 111, "retryUnlessExit": [4]}, "combine": {"requestMemory": 222}},
    )
    broken = ",".join(sorted(pipeline.nodes[f"isr g {number}"] for number in range(2)))
    box.break_step(broken, 4)
    failed = box.bps("submit", path).complained("was told to fail")
    run_id, submit_path = run_id_of(failed.stdout), submit_path_of(failed.stdout)
    fields = fields_by_label(submit_path)
    assert list(fields) != []
    isr = fields["perFilter"]
    assert isr["quanta_counts"] == {"isr": 2}
    assert (isr["request_memory"], isr["request_cpus"], isr["number_of_retries"]) == (777, 2, 4)
    assert (isr["memory_multiplier"], isr["priority"], isr["retry_unless_exit"]) == (3, 5, [4])
    assert isr["request_walltime"] == 20, "BPS adds up the walltimes of the quanta"
    assert fields["combine"]["request_memory"] == 222
    assert fields["combine"]["request_walltime"] == 10

    begun = box.steps("begin")
    assert begun.count(broken) == 1, "exit code 4 is no reason to try again"
    table = report_table(box, run_id)
    expected = {"pipetaskInit": 1, "perFilter": 2, "combine": 2, "finalJob": 1}
    assert {label: row["EXPECTED"] for label, row in table.items()} == {"TOTAL": 6, **expected}
    assert (table["perFilter"]["SUCCEEDED"], table["perFilter"]["FAILED"]) == (1, 1)
    assert (table["combine"]["SUCCEEDED"], table["combine"]["PRUNED"]) == (1, 1)
    box.mend_step(broken)
    box.bps("restart", "--id", run_id).succeeded()
    table = report_table(box, run_id)
    assert {label: row["SUCCEEDED"] for label, row in table.items()} == {"TOTAL": 6, **expected}


# The final job.


@pytest.mark.parametrize("when", ["NEVER", "SUCCESS", "ALWAYS"])
def test_final_job_after_a_failed_quantum(pipeline: Scripted, when: str) -> None:
    """After a failed quantum, the final job runs with ``finalJob.whenRun:
    ALWAYS`` alone; with SUCCESS it is pruned, and with NEVER there is none.
    """
    box = pipeline.box
    box.break_step(pipeline.nodes["isr g 1"], 2)
    failed = box.bps("submit", pipeline.write(finalJob={"whenRun": when}))
    failed.complained("was told to fail")
    run_id = run_id_of(failed.stdout)
    begun = pipeline.steps("begin")
    assert sorted(begun) == sorted(
        {"init", *QUANTA} - {"combine g"} | ({"final"} if when == "ALWAYS" else set())
    )
    assert when != "ALWAYS" or begun[-1] == "final"
    table = report_table(box, run_id)
    if when == "NEVER":
        assert "finalJob" not in table
    else:
        state = {"ALWAYS": "SUCCEEDED", "SUCCESS": "PRUNED"}[when]
        assert (table["finalJob"][state], table["finalJob"]["EXPECTED"]) == (1, 1)
    assert table["TOTAL"]["EXPECTED"] == (7 if when == "NEVER" else 8)
    assert (table["TOTAL"]["FAILED"], table["combine"]["PRUNED"]) == (1, 1)
    assert box.bps("status", "--id", run_id).code == WmsStates.FAILED.value
    box.mend_step(pipeline.nodes["isr g 1"])
    box.bps("restart", "--id", run_id).succeeded()
    assert pipeline.steps("end").count("final") == {"NEVER": 0, "SUCCESS": 1, "ALWAYS": 2}[when]


def test_final_job_on_workers(pipeline: Scripted) -> None:
    """``site.<name>.finalJob: workers`` is accepted, and the final job still
    runs after all others.
    """
    box = pipeline.box
    box.hold(pipeline.nodes["combine r"])
    driver = box.fork("submit", pipeline.write(site={"local": {"finalJob": "workers"}}))
    wait_until(lambda: len(pipeline.steps("end")) == 6, "all but one have ended")
    wait_until(lambda: "combine r" in pipeline.steps("begin"), "the last quantum runs")
    assert "final" not in pipeline.steps("begin")
    box.let_go(pipeline.nodes["combine r"])
    done = driver.finish().succeeded()
    assert "finalJob" not in done.stderr, "a complaint"
    assert pipeline.steps("end")[-2:] == ["combine r", "final"]


def test_final_job_nowhere(pipeline: Scripted) -> None:
    """Another value is an error that names the setting and what may stand there."""
    wrong = pipeline.box.bps("submit", pipeline.write(site={"local": {"finalJob": "nonsense"}}))
    wrong.complained("site.local.finalJob", "workers", "submit host", "nonsense")
    assert not pipeline.steps("begin")


# The command line.


NO_SERVICE = ("--wms-service-class", SERVICE)


def without_service(box: Sandbox) -> dict[str, str]:
    """Return the environment without the variable that names our service."""
    return {name: value for name, value in box.env.items() if name != "BPS_WMS_SERVICE_CLASS"}


def test_service_of_the_command_line(pipeline: Scripted) -> None:
    """``--wms-service-class`` is enough: no environment variable and nothing
    in the YAML.
    """
    box, env = pipeline.box, without_service(pipeline.box)
    path = pipeline.write(wmsServiceClass=None)
    prepared = box.bps("prepare", *NO_SERVICE, path, env=env).succeeded()
    submit_path = submit_path_of(prepared.stdout)
    assert box.bps("status", *NO_SERVICE, "--id", submit_path, env=env).code == WmsStates.READY.value
    restarted = box.bps("restart", *NO_SERVICE, "--id", submit_path, env=env).succeeded()
    assert len(pipeline.steps("end")) == 8
    run_id = run_id_of(restarted.stdout)
    report = box.bps("report", *NO_SERVICE, "--id", run_id, env=env).succeeded()
    assert "SUCCEEDED" in report.stdout
    assert box.bps("status", *NO_SERVICE, "--id", run_id, env=env).code == 0


def test_submit_with_service_of_the_command_line(pipeline: Scripted) -> None:
    """The same with ``bps submit``."""
    box, env = pipeline.box, without_service(pipeline.box)
    path = pipeline.write(wmsServiceClass=None)
    done = box.bps("submit", *NO_SERVICE, path, env=env)
    if "AttributeError: 'str' object has no attribute 'submit'" in done.stderr:
        pytest.xfail("BPS gives the option's text to its function submit as if it were the service")
    done.succeeded()


def test_site_of_the_command_line(pipeline: Scripted) -> None:
    """``--compute-site`` takes the place of the site in the YAML, in all that
    BPS and the plugin read of it.
    """
    box = pipeline.box
    path = pipeline.write(
        computeSite="local",
        site={
            "local": {"cores": 2, "commandPrefix": f"touch {box.path}/on.local"},
            "other": {
                "class": "lsst.ctrl.bps.parsl.sites.Local",
                "cores": 1,
                "commandPrefix": f"touch {box.path}/on.other",
                "requestMemory": 333,
            },
        },
        requestMemory=None,
    )
    done = box.bps("submit", "--compute-site", "other", path).succeeded()
    assert [name.name for name in box.path.glob("on.*")] == ["on.other"]
    assert len(pipeline.steps("end")) == 8
    fields = fields_by_label(submit_path_of(done.stdout))
    assert fields["isr"]["compute_site"] == "other"
    assert fields["isr"]["request_memory"] == 333, "a setting of the site"


@pytest.mark.parametrize("how", ["yaml", "command line"])
def test_id_link(pipeline: Scripted, how: str) -> None:
    """The link with the name of the run id is there while the run goes on,
    leads to the submit directory, is a name of the run, and stays when the
    run fails.
    """
    box = pipeline.box
    if how == "yaml":
        links = box.path / "links" / "deep"
        words: list[str | Path] = ["submit", pipeline.write(makeIdLink=True, idLinkPath=str(links))]
    else:
        links = box.path / "bps_links"  # BPS's default, in the directory of the command
        words = ["submit", "--make-id-link", pipeline.write()]
    box.env["PWD"] = str(box.path)
    held = pipeline.nodes["isr g 0"]
    box.hold(held)
    box.break_step(held, 2)
    driver = box.fork(*words)
    wait_until(lambda: "isr g 0" in pipeline.steps("begin"), "a quantum runs")
    run_id, submit_path = run_id_of(driver.stdout), submit_path_of(driver.stdout)
    link = links / run_id
    assert link.is_symlink()
    assert link.resolve() == submit_path.resolve()
    assert box.bps("status", "--id", link).code == WmsStates.RUNNING.value
    wait_until(lambda: len(pipeline.steps("end")) == 5, "all that can has ended")
    wait_until(lambda: report_table(box, link)["TOTAL"]["SUCCEEDED"] == 5, "reports say so")
    assert report_table(box, link)["isr"]["RUNNING"] == 1
    box.let_go(held)
    failed = driver.finish().complained("was told to fail")
    assert "softlink" not in failed.stderr.replace("Made id softlink", ""), "a complaint"
    assert link.resolve() == submit_path.resolve()
    assert [entry.name for entry in links.iterdir()] == [run_id]
    table = report_table(box, link)
    assert (table["isr"]["FAILED"], table["TOTAL"]["EXPECTED"]) == (1, 8)
    box.mend_step(held)
    restarted = box.bps("restart", "--id", link).succeeded()
    assert "Could not make" not in restarted.stderr
    assert [entry.name for entry in links.iterdir()] == [run_id]
    assert box.bps("status", "--id", link).code == 0


# One command.


def command(box: Sandbox, name: str = "command", **changes: Any) -> Path:
    """Write a configuration for ``bps submitcmd`` with a script that copies
    its input to its outputs, and may not be executed.
    """
    script = box.path / "copy.sh"
    script.write_text('#!/bin/sh\nset -e\ncat "$1" >"$2"\ncat "$1" >"$3"\necho "$4" >>"$3"\n')
    script.chmod(0o644)
    (box.path / "words in.txt").write_text("b\na\n")
    content = {
        "wmsServiceClass": SERVICE,
        "computeSite": "local",
        "site": {"local": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 1}},
        "operator": "tester",
        "project": "tests",
        "campaign": "command",
        "payloadName": "copy",
        "submitPath": str(box.path / "submit" / name),
        "uniqProcName": name,
        "customJob": {
            "executable": str(script),
            "arguments": "{in1} {out1} {out2} 'good morning'",
            "inputs": {"in1": str(box.path / "words in.txt")},
            "outputs": {"out1": "deep/below/one.txt", "out2": str(box.path / "else where" / "two.txt")},
        },
    }
    path = box.path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(merged(content, changes)))
    return path


def test_submitcmd_files(box: Sandbox) -> None:
    """A script without the executable bit runs. ``{in1}`` and ``{out1}`` are
    paths; an output with a relative path is made below the submit directory,
    one with an absolute path there, and their directories exist.
    ``--dry-run`` prepares all of it and runs nothing; ``bps restart`` does.
    """
    path = command(box)
    box.bps("submitcmd", "--dry-run", path).succeeded()
    submit_path = box.path / "submit" / "command"
    assert SubmitPaths(submit_path).plan.exists()
    assert not events_of_kind(submit_path, "session")
    assert (submit_path / "deep/below").is_dir()
    assert not list((submit_path / "deep/below").iterdir())
    assert (box.path / "else where").is_dir()
    assert box.bps("status", "--id", submit_path).code == WmsStates.READY.value
    # The job has a copy of its input, and of the script.
    (box.path / "words in.txt").unlink()
    (box.path / "copy.sh").unlink()
    box.bps("restart", "--id", submit_path).succeeded()
    assert (submit_path / "deep/below/one.txt").read_text() == "b\na\n"
    assert (box.path / "else where/two.txt").read_text() == "b\na\ngood morning\n"
    assert report_table(box, submit_path)["customJob"]["SUCCEEDED"] == 1

    again = box.bps("submitcmd", command(box, "again")).succeeded()
    assert (box.path / "submit/again/deep/below/one.txt").read_text() == "b\na\n"
    assert report_table(box, run_id_of(again.stdout))["customJob"] == {
        **dict.fromkeys([state.name for state in WmsStates], 0),
        "SUCCEEDED": 1,
        "EXPECTED": 1,
    }


def test_submitcmd_commands_and_environment(box: Sandbox) -> None:
    """``environment``, ``preCmdline`` and ``postCmdline`` hold for the command
    as for other jobs, with the attempt number in them.
    """
    path = command(
        box,
        mood="a fine day",
        environment={"MOOD": "{mood}", "ATTEMPT": "number {wmsAttemptNum}"},
        preCmdline="echo before '{mood}' {wmsAttemptNum}",
        postCmdline="echo after '{mood}' {wmsAttemptNum}",
    )
    with open(box.path / "copy.sh", "a") as stream:
        stream.write('echo "$MOOD, $ATTEMPT"\n')
    box.bps("submitcmd", path).succeeded()
    (log,) = (box.path / "submit/command/logs").rglob("*.stdout")
    assert log.read_text().splitlines() == [
        "before a fine day 1",
        "a fine day, number 1",
        "after a fine day 1",
    ]


@pytest.mark.parametrize("value", [True, False, "true"])
def test_environment_of_a_site(pipeline: Scripted, value: object) -> None:
    """``environment`` of a site is a setting of ours and no traceback of BPS's, which looks into the
    section for variables of that name.
    """
    path = pipeline.write(site={"local": {"environment": value}})
    prepared = pipeline.box.bps("prepare", path).succeeded()
    assert pipeline.box.bps("restart", "--id", submit_path_of(prepared.stdout)).succeeded()


def test_environment_of_a_site_for_other_verbs(pipeline: Scripted) -> None:
    """So it is for ``bps transform``, which calls none of the checks."""
    path = pipeline.write(site={"local": {"environment": True}})
    assert "GenericWorkflow contains" in pipeline.box.bps("transform", path).succeeded().stderr


@pytest.mark.parametrize("verb", ["transform", "prepare", "submit"])
def test_sites_that_are_no_sections(pipeline: Scripted, verb: str) -> None:
    """``site: text`` is a sentence for each verb."""
    path = pipeline.write(site="text")
    pipeline.box.bps(verb, path).complained("Error: site: 'text': sections are wanted here")


def test_remote_build(pipeline: Scripted) -> None:
    """``remoteBuild`` of another service is a sentence, before anything is made."""
    path = pipeline.write(remoteBuild={"enabled": True})
    pipeline.box.bps("submit", path).complained("bpsBatchSubmission: true")
    assert not (pipeline.box.path / "submit").exists()


@pytest.mark.parametrize("name", ["environment", "exportEnvironment"])
def test_environment_of_a_site_for_a_command(box: Sandbox, name: str) -> None:
    """So it is for ``bps submitcmd``; there the setting may have the name that it has elsewhere, too."""
    box.bps("submitcmd", command(box, site={"local": {name: True}})).succeeded()


def test_dollars_in_commands(pipeline: Scripted) -> None:
    """What is written with a ``$`` reaches bash as it is written, as in the example of ``doc/jobs.rst``."""
    box = pipeline.box
    path = pipeline.write(
        preCmdline="echo $HOME '$HOME' $((1+1)) > {submitPath}/pre-$BPS_PARSL_JOB",
        pipetask={
            "isr": {
                "postCmdline": 'echo "{label} of detector {detector} ended with $BPS_PARSL_EXIT"'
                " >> {submitPath}/ends.txt\n",
                "runQuantumCommand": f"{box.step} $(echo {{qgraphNodeId}})"
                " > {submitPath}/$BPS_PARSL_LABEL.$$",
            }
        },
    )
    there = submit_path_of(box.bps("submit", path).succeeded().stdout)
    written = sorted(file.read_text() for file in there.glob("pre-*"))
    assert written == [f"{box.path / 'home'} $HOME 2\n"] * 8
    ends = (there / "ends.txt").read_text().splitlines()
    assert sorted(ends) == sorted(
        f"isr of detector {number} ended with 0" for number in (0, 1) for _ in FILTERS
    )
    assert len(list(there.glob("isr.*"))) == 4


@pytest.mark.slow
def test_commands_beside_the_interpreter(tiny: Sandbox) -> None:
    """``/env/bin/bps submit`` needs no activated environment: the graph is built and the jobs run with what
    stands beside the Python that runs, and warm start knows it.
    """
    env = {**tiny.env, "PATH": "/usr/bin:/bin"}
    path = tiny.path / "beside.yaml"
    shutil.copy(TINYCAM / "bps.yaml", path)
    done = tiny.run(BIN / "bps", "submit", path, env=env).succeeded()
    assert f"added: {BIN}" in done.stderr


def test_submitcmd_without_its_input(box: Sandbox) -> None:
    """An input that is not there is an error of BPS's own; one that went away
    after the preparation makes the job fail. Neither shows code of ours.
    """
    path = command(box, "none", customJob={"inputs": {"in1": str(box.path / "nothing.txt")}})
    missing = box.bps("submitcmd", path)
    assert missing.code != 0
    assert "nothing.txt' does not exist" in missing.text
    assert "bps/parsl/" not in missing.text
    assert not SubmitPaths(box.path / "submit" / "none").plan.exists()

    box.bps("submitcmd", "--dry-run", command(box)).succeeded()
    submit_path = box.path / "submit" / "command"
    (submit_path / "words in.txt").unlink()
    gone = box.bps("restart", "--id", submit_path).complained()
    assert "words in.txt" in gone.stderr
    assert report_table(box, submit_path)["customJob"]["FAILED"] == 1
