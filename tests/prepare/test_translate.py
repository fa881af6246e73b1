# SPDX-License-Identifier: BSD-3-Clause
"""From BPS's generic workflow to the plan, and from the plan to what is run."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsst.ctrl.bps import (
    BpsConfig,
    GenericWorkflow,
    GenericWorkflowExec,
    GenericWorkflowFile,
    GenericWorkflowGroup,
    GenericWorkflowJob,
    GenericWorkflowNoopJob,
)
from lsst.ctrl.bps.parsl.driver.sites import Sites
from lsst.ctrl.bps.parsl.driver.tasks import Task, TaskMaker
from lsst.ctrl.bps.parsl.errors import WorkflowError
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import JobKind, Plan
from lsst.ctrl.bps.parsl.prepare.translate import translate
from lsst.ctrl.bps.parsl.site import SiteConfig
from lsst.ctrl.bps.parsl.sites import Local
from package.test_paths import HOSTILE_NAMES

EXECUTABLE = GenericWorkflowExec("tool", "/bin/tool")


def make_job(name: str, label: str = "l", **fields: Any) -> GenericWorkflowJob:
    fields.setdefault("executable", EXECUTABLE)
    return GenericWorkflowJob(name, label, **fields)


class Setting:
    """A submit directory and a site."""

    def __init__(self, directory: Path, **site: Any) -> None:
        self.config = BpsConfig(
            {
                "uniqProcName": "u_me_x",
                "submitPath": str(directory / "run"),
                "subDirTemplate": "{label}/{visit}",
                "computeSite": "here",
                "site": {"here": {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 4, **site}},
            }
        )
        self.site = Local(self.config)
        self.paths = SubmitPaths(directory / "run")
        self.paths.create()

    def translate(self, workflow: GenericWorkflow) -> Plan:
        translate(self.config, workflow, self.site, self.paths).write(self.paths)
        return Plan(self.paths.plan)

    def maker(self, plan: Plan) -> TaskMaker:
        return maker_for(plan, self.site, self.paths)


def maker_for(plan: Plan, site: SiteConfig, paths: SubmitPaths) -> TaskMaker:
    """Make tasks for one site."""
    sites = Sites(site)
    sites.parsl_config()
    return TaskMaker(plan, site.config, sites, paths)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def graph(plan: Plan) -> dict[str, set[str]]:
    """Return the parents of each job by name."""
    names = [job.name for job in plan.jobs()]
    return {names[index]: {names[parent] for parent in plan.parents(index)} for index in range(len(plan))}


def complaint(setting: Setting, workflow: GenericWorkflow) -> str:
    """Translate what cannot be run; return what is said of it. Nothing must be left to run."""
    with pytest.raises(WorkflowError) as caught:
        setting.translate(workflow)
    assert not setting.paths.plan.exists()
    return caught.value.message


def add(workflow: GenericWorkflow, *jobs: Any, edges: str = "") -> GenericWorkflow:
    for job in jobs:
        workflow.add_job(job)
    for edge in edges.split():
        workflow.add_job_relationships(*edge.split(">"))
    return workflow


# The graph.


def test_jobs_come_after_their_parents(setting: Setting) -> None:
    """The plan has the jobs with their labels and parents, and what holds for the run."""
    jobs = [make_job("c", "two"), make_job("a", "one"), make_job("b", "one")]
    workflow = add(GenericWorkflow("w"), *jobs, edges="a>c b>c")
    workflow.run_attrs["bps_operator"] = "me"
    plan = setting.translate(workflow)
    assert graph(plan) == {"a": set(), "b": set(), "c": {"a", "b"}}
    assert plan.job(2).name == "c"
    assert plan.labels == ["one", "two"]
    assert plan.run == "u_me_x"
    assert plan.header["attributes"] == {"bps_operator": "me"}
    assert plan.header["cwd"] == os.getcwd()


@given(
    edges=st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda edge: edge[0] != edge[1]), max_size=30
    )
)
def test_any_graph_without_a_cycle(
    tmp_path_factory: pytest.TempPathFactory, edges: list[tuple[int, int]]
) -> None:
    """Each graph is either translated with just its edges, or has a cycle that is named."""
    setting = Setting(tmp_path_factory.getbasetemp() / "translate")
    setting.paths.plan.unlink(missing_ok=True)
    workflow = add(GenericWorkflow("w"), *(make_job(f"j{number}", f"l{number}") for number in range(12)))
    # BPS itself looks for jobs in their order, and fails where there is none.
    networkx.DiGraph.add_edges_from(workflow, [(f"j{parent}", f"j{child}") for parent, child in edges])
    if networkx.is_directed_acyclic_graph(workflow):
        found = graph(setting.translate(workflow))
        assert found == {name: set(workflow.predecessors(name)) for name in workflow.nodes}
    else:
        text = complaint(setting, workflow)
        names = text.rpartition(": ")[2].rstrip(".").split(" -> ")
        assert names[0] == names[-1]
        assert all(workflow.has_edge(*edge) for edge in itertools.pairwise(names))


def test_job_that_waits_for_itself(setting: Setting) -> None:
    """The smallest cycle is named too."""
    workflow = add(GenericWorkflow("w"), make_job("a"), edges="a>a")
    assert "a -> a" in complaint(setting, workflow)


def test_empty_workflow(setting: Setting) -> None:
    """A workflow without jobs has a plan: there is nothing to do, which is no error."""
    assert len(setting.translate(GenericWorkflow("w"))) == 0


def test_noop_job(setting: Setting) -> None:
    """A job that only orders others is one in the plan."""
    jobs = [make_job("a"), GenericWorkflowNoopJob("n", "order"), make_job("b")]
    plan = setting.translate(add(GenericWorkflow("w"), *jobs, edges="a>n n>b"))
    assert graph(plan) == {"a": set(), "n": {"a"}, "b": {"n"}}
    assert plan.template(1).kind == JobKind.NOOP


def make_group(name: str, *jobs: Any, edges: str = "", blocking: bool = False) -> GenericWorkflowGroup:
    group = GenericWorkflowGroup(name, "group", blocking=blocking)
    add(group, *jobs, edges=edges)
    return group


ANYHOW = "{} (whatever became of it)"
"""The end of a group for those whom its failures do not concern."""


def test_groups_are_put_side_by_side(setting: Setting) -> None:
    """What a group waits for its first jobs wait for, and its end waits for its last jobs.

    A group that does not block has a second end, for the next group alone.
    """
    first = make_group("g1", make_job("x"), make_job("y"), make_job("z"), edges="x>z y>z")
    second = make_group("g2", make_job("p"), make_job("q"), blocking=True)
    workflow = add(GenericWorkflow("w"), make_job("a"), first, second, make_job("b"), edges="a>g1 g1>g2 g2>b")
    plan = setting.translate(workflow)
    assert graph(plan) == {
        "a": set(),
        "x": {"a"},
        "y": {"a"},
        "z": {"x", "y"},
        "g1": {"z"},
        ANYHOW.format("g1"): {"z"},
        "p": {ANYHOW.format("g1")},
        "q": {ANYHOW.format("g1")},
        "g2": {"p", "q"},
        "b": {"g2"},
    }
    groups = {job.name: job.template for job in plan.jobs() if job.template.kind == JobKind.GROUP}
    blocking = {name: template.blocking for name, template in groups.items()}
    assert blocking == {"g1": True, ANYHOW.format("g1"): False, "g2": True}


def test_only_groups_of_its_ordering_pass_a_group_that_failed(setting: Setting) -> None:
    """A job, a noop job and a group of another label wait for the success of
    a group, also where it does not block the next group of its own label.
    """
    others = [make_job("job"), GenericWorkflowNoopJob("noop", "order"), make_group("other", make_job("o"))]
    others[2].label = "another"
    workflow = add(
        GenericWorkflow("w"),
        make_group("g", make_job("x")),
        make_group("next", make_job("y")),
        *others,
        edges="g>next g>job g>noop g>other",
    )
    parents = graph(setting.translate(workflow))
    assert parents["y"] == {ANYHOW.format("g")}
    assert parents["job"] == parents["noop"] == parents["o"] == {"g"}


def test_groups_in_groups(setting: Setting) -> None:
    """A group in a group, first, last, or alone, keeps the order."""
    inner = make_group("in", make_job("x"), make_job("y"), edges="x>y")
    outer = make_group("out", make_job("f"), inner, edges="f>in")
    alone = make_group("o2", make_group("i2", make_job("z")))
    plan = setting.translate(add(GenericWorkflow("w"), outer, alone, edges="out>o2"))
    assert graph(plan) == {
        "f": set(),
        "x": {"f"},
        "y": {"x"},
        "in": {"y"},
        "out": {"in"},
        ANYHOW.format("out"): {"in"},
        "z": {ANYHOW.format("out")},
        "i2": {"z"},
        "o2": {"i2"},
    }


def test_empty_group(setting: Setting) -> None:
    """A group without jobs passes on what it waits for."""
    plan = setting.translate(
        add(GenericWorkflow("w"), make_job("a"), make_group("g"), make_job("b"), edges="a>g g>b")
    )
    assert graph(plan) == {"a": set(), "g": {"a"}, "b": {"g"}}


def test_cycle_through_a_group(setting: Setting) -> None:
    """A cycle that goes through a group is named."""
    group = make_group("g", make_job("x"))
    workflow = add(GenericWorkflow("w"), make_job("a"), group, edges="a>g g>a")
    text = complaint(setting, workflow)
    assert all(name in text for name in ("a", "g", "x"))


def test_final_job(setting: Setting) -> None:
    """The final job is marked as such, runs beside the driver, and its label comes last."""
    workflow = add(GenericWorkflow("w"), make_job("a"))
    workflow.add_final(make_job("finalJob", "finalJob"))
    plan = setting.translate(workflow)
    (final,) = [job for job in plan.jobs() if job.template.final]
    assert final.name == "finalJob"
    assert final.parents == ()
    assert final.template.on_submit_host
    assert plan.labels == ["l", "finalJob"]


def test_final_workflow(setting: Setting) -> None:
    """A final workflow of several jobs keeps its order, and all of it is final."""
    final = add(GenericWorkflow("f"), make_job("f1", "f"), make_job("f2", "f"), edges="f1>f2")
    workflow = add(GenericWorkflow("w"), make_job("a"))
    workflow.add_final(final)
    plan = setting.translate(workflow)
    assert graph(plan) == {"a": set(), "f1": set(), "f2": {"f1"}}
    assert [job.name for job in plan.jobs() if job.template.final] == ["f1", "f2"]


def test_only_bps_own_jobs_run_on_the_submit_host(setting: Setting) -> None:
    """``pipetaskInit`` and the final job do, others do not."""
    plan = setting.translate(
        add(GenericWorkflow("w"), make_job("pipetaskInit", "pipetaskInit"), make_job("a"))
    )
    assert [plan.template(index).on_submit_host for index in range(2)] == [True, False]


# Fields, files and commands.


def test_fields_come_back(setting: Setting) -> None:
    """All that BPS says of a job is there when it is run."""
    fields: dict[str, Any] = {
        "arguments": "run {x} --visit {visit}",
        "cmdvals": {"x": "1 2", "visit": 5},
        "tags": {"visit": 5, "band": "r"},
        "quanta_counts": Counter({"isr": 3}),
        "request_memory": 4096,
        "request_memory_max": 8192,
        "memory_multiplier": 2.0,
        "request_cpus": 2,
        "request_walltime": "90",
        "number_of_retries": 3,
        "retry_unless_exit": [1, 2],
        "priority": "5",
        "environment": {"A": "b c"},
        "profile": {"condor": {"+X": 1}},
        "attrs": {"bps_job_name": "a"},
        "queue": "fast",
        "compute_site": "here",
    }
    plan = setting.translate(add(GenericWorkflow("w"), make_job("a", **fields), make_job("b")))
    seen: list[Any] = []

    class Site(Local):
        def select_executor(self, job: Any) -> str:
            seen.append(job.generic)
            return "local"

    task = maker_for(plan, Site(setting.config), setting.paths).make(0, 1, None)
    (generic,) = seen
    # BPS's variables make text of numbers; they come back as numbers.
    assert generic == make_job("a", **{**fields, "request_walltime": 90, "priority": 5})
    assert isinstance(generic.quanta_counts, Counter)
    assert task.spec["argv"] == ["/bin/tool", "run", "1", "2", "--visit", "5"]
    assert task.spec["env"] == {"BPS_PARSL_JOB": "a", "BPS_PARSL_LABEL": "l", "A": "b c"}
    assert (task.spec["cpus"], task.spec["memory"]) == (2, 4096)


def task_of(setting: Setting, job: GenericWorkflowJob, *files: GenericWorkflowFile) -> Task:
    workflow = add(GenericWorkflow("w"), job)
    workflow.add_job_inputs(job.name, list(files))
    return setting.maker(setting.translate(workflow)).make(0, 1, None)


def test_lazily_and_other_commands_are_the_same(setting: Setting) -> None:
    """It makes no difference whether BPS filled in a command itself (``useLazyCommands: false``)."""
    file = GenericWorkflowFile("qg", "/runs/q g.qg")
    values = {"query": "visit = 5", "options": "-c isr:doBias=False"}
    lazy = make_job("j", arguments="run <FILE:qg> -d '{query}' {options}", cmdvals=values)
    filled = make_job("j", arguments="run '/runs/q g.qg' -d 'visit = 5' -c isr:doBias=False", cmdvals=values)
    expected = ["/bin/tool", "run", "/runs/q g.qg", "-d", "visit = 5", "-c", "isr:doBias=False"]
    assert task_of(setting, lazy, file).spec["argv"] == expected
    assert task_of(setting, filled, file).spec["argv"] == expected


def test_command_that_needs_a_shell_is_a_script(setting: Setting) -> None:
    """A command with a shell's grammar is given to bash; its values are still data."""
    spec = task_of(setting, make_job("j", arguments="'{v}' | cat", cmdvals={"v": "$(x)"})).spec
    assert "argv" not in spec
    assert spec["script"] == "/bin/tool '''$(x)''' | cat"


def test_jobs_of_a_label_share_what_they_have_in_common(setting: Setting) -> None:
    """Commands that differ only in their values are in the plan once, also with files."""
    workflow = GenericWorkflow("w")
    shared = GenericWorkflowFile("runQgraphFile", "/runs/run.qg")
    for number in range(50):
        workflow.add_job(
            make_job(f"j{number}", arguments="run <FILE:runQgraphFile> {n}", cmdvals={"n": number})
        )
        workflow.add_job_inputs(f"j{number}", [shared])
    plan = setting.translate(workflow)
    assert len(plan.templates) == 1
    assert setting.paths.plan.read_text().count("/runs/run.qg") == 1
    assert setting.maker(plan).make(7, 1, None).spec["argv"] == ["/bin/tool", "run", "/runs/run.qg", "7"]


def test_commands_that_bps_filled_in_do_not_make_templates(setting: Setting) -> None:
    """Where each job has a text of its own, it is in the job's line, and the label has one template."""
    workflow = add(GenericWorkflow("w"), *(make_job(f"j{n}", arguments=f"run {n}") for n in range(50)))
    plan = setting.translate(workflow)
    assert len(plan.templates) == 1
    assert setting.maker(plan).make(7, 1, None).spec["argv"] == ["/bin/tool", "run", "7"]


def test_files_of_one_name_are_told_apart(setting: Setting) -> None:
    """Two jobs may have different files by one name, as groups do."""
    workflow = GenericWorkflow("w")
    for name in "abcd":
        workflow.add_job(make_job(name, arguments="<FILE:f>"))
        workflow.add_job_inputs(name, [GenericWorkflowFile("f", "/1" if name in "ab" else f"/{name}")])
    maker = setting.maker(setting.translate(workflow))
    assert [maker.make(index, 1, None).spec["argv"][1] for index in range(4)] == ["/1", "/1", "/c", "/d"]


def test_output_files_count_too(setting: Setting) -> None:
    """``bps submitcmd`` has jobs with output files."""
    workflow = add(GenericWorkflow("w"), make_job("a", arguments="-o <FILE:out>"))
    workflow.add_job_outputs("a", [GenericWorkflowFile("out", "/out")])
    assert setting.maker(setting.translate(workflow)).make(0, 1, None).spec["argv"] == [
        "/bin/tool",
        "-o",
        "/out",
    ]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_any_name_and_label(setting: Setting, name: str) -> None:
    """Names, labels and tags may hold anything; the job's logs are in the submit directory."""
    job = make_job(name, label=name, tags={"visit": name}, arguments="x")
    task = task_of(setting, job)
    plan = Plan(setting.paths.plan)
    assert plan.job(0).name == name
    assert plan.labels == [name]
    logs = str(setting.paths.logs)
    for path in (task.spec["stdout"], task.spec["stderr"]):
        assert os.path.normpath(path).startswith(f"{logs}/")


def test_names_that_differ_in_case_only(setting: Setting) -> None:
    """They are two jobs with two logs."""
    plan = setting.translate(add(GenericWorkflow("w"), make_job("Job"), make_job("job")))
    maker = setting.maker(plan)
    assert len({maker.make(index, 1, None).spec["stderr"] for index in range(2)}) == 2


def test_label_with_braces(setting: Setting) -> None:
    """Braces in a label are no variables; ``{label}`` is one."""
    task = task_of(setting, make_job("j", label="{visit}{x", tags={"visit": 5}, arguments="{label}"))
    assert "/{" not in task.spec["stderr"]
    assert task.label == "{visit}{x"
    assert task.spec["argv"] == ["/bin/tool", "{visit}{x"]


@pytest.mark.parametrize(
    ("written", "runs"),
    [
        ("<ENV:HOME>/x", "${HOME}/x"),
        ("<ENV:HOME/x>", "${HOME}/x"),
        ("<ENV:PATH:/opt>", "${PATH}:/opt"),
        ("<ENV:OUT:-/tmp>", "${OUT:-/tmp}"),
        ("<ENV:OUT##*/>", "${OUT##*/}"),
        ("<ENV:A%.txt>", "${A%.txt}"),
        ("<ENV:#A>", "${#A}"),
        ('"<ENV:arr[@]>"', '"${arr[@]}"'),
        ("cat <<X\n<ENV:HOME> <WMS:attemptNum>\nX", "cat <<X\n${HOME} ${BPS_PARSL_ATTEMPT}\nX"),
        ("# don't\necho {a,b} {unknown}", "# don't\necho {a,b} {unknown}"),
        ("echo {visit} {label} '{text}'", "echo 5 l ''\"it's\"''"),
    ],
)
def test_commands_around_are_the_users_bash(setting: Setting, written: str, runs: str) -> None:
    """What BPS makes of the variables of bash is undone; the data id, the label and BPS's
    variables are filled in, as data.
    """
    setting.config["text"] = "it's"
    job = make_job("j", pre_cmdline=written, post_cmdline=written, tags={"visit": 5}, arguments="x")
    spec = task_of(setting, job).spec
    runs = runs.replace('"it\'s"', "'it'\"'\"'s'")
    assert spec["pre"] == spec["post"] == runs


@pytest.mark.parametrize(
    "written", ["echo 'x", "if true; then echo x", "echo )", "x=<ENV:A:-<ENV:B>>", "<WMS:x>", ["echo a"]]
)
def test_commands_around_that_are_no_bash(setting: Setting, written: object) -> None:
    """What bash or BPS cannot read is refused at prepare; the key is named."""
    for key, name in (("pre_cmdline", "preCmdline"), ("post_cmdline", "postCmdline")):
        job = make_job("j")
        setattr(job, key, written)
        assert name in complaint(setting, add(GenericWorkflow("w"), job))


# Complaints.


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [("name", 5, "a text"), ("label", 5, "a text"), ("tags", ["a"], "names and values")],
)
def test_field_of_another_type(setting: Setting, field: str, value: object, wanted: str) -> None:
    """What would end the driver later is refused."""
    job = make_job("j")
    setattr(job, field, value)
    assert f"its {field} is {value!r}; {wanted}" in complaint(setting, add(GenericWorkflow("w"), job))


def test_file_that_does_not_exist_is_named(setting: Setting) -> None:
    """A command that names a file that the job does not have is refused with both names."""
    text = complaint(setting, add(GenericWorkflow("w"), make_job("a", arguments="<FILE:missing>")))
    assert "Job a" in text
    assert "<FILE:missing>" in text


def test_file_without_a_place_is_refused(setting: Setting) -> None:
    """A file of which nobody says where it is cannot be put into a command."""
    workflow = add(GenericWorkflow("w"), make_job("a", arguments="<FILE:f>"))
    workflow.add_job_inputs("a", [GenericWorkflowFile("f")])
    assert "<FILE:f>" in complaint(setting, workflow)


def test_quotation_without_end_is_refused(setting: Setting) -> None:
    """The complaint shows the command."""
    text = complaint(setting, add(GenericWorkflow("w"), make_job("a", arguments="-d 'visit")))
    assert "-d 'visit" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("priority", "high"),
        ("priority", "1.5"),
        ("priority", [1]),
        ("priority", float("inf")),
        ("priority", float("nan")),
        ("request_memory", "2 GB"),
        ("request_cpus", "two"),
        ("request_disk", "x"),
        ("request_walltime", "1:00:00"),
        ("number_of_retries", "five"),
        ("memory_multiplier", "two"),
        ("request_memory_max", "lots"),
        ("retry_unless_exit", "one"),
        ("retry_unless_exit", ["one", 2]),
    ],
)
def test_what_is_no_number_is_refused(setting: Setting, key: str, value: object) -> None:
    """A request that is no number is refused before anything runs, with the job and the value."""
    job = make_job("a")
    setattr(job, key, value)
    text = complaint(setting, add(GenericWorkflow("w"), job))
    assert "Job a" in text
    assert re.sub(r"_(\w)", lambda match: match.group(1).upper(), key) in text
    assert repr(value) in text


@pytest.mark.parametrize("value", ["5", 5, " -5 ", "", None])
def test_priority_may_be_a_number_in_quotes(setting: Setting, value: object) -> None:
    """A number is a number, in quotes or not; unset is unset."""
    assert task_of(setting, make_job("a", priority=value)).job == 0


def test_memory_above_the_sites(tmp_path: Path) -> None:
    """A job that asks for more memory than the site has is refused with both numbers."""
    setting = Setting(tmp_path, memory="4 GB")
    workflow = add(
        GenericWorkflow("w"), make_job("a", request_memory=4097), make_job("b", request_memory=4096)
    )
    text = complaint(setting, workflow)
    assert "Job a" in text
    assert "4097 MB" in text
    assert "4096 MB" in text
    assert "Job b" not in text
    fits = add(GenericWorkflow("w"), make_job("b", request_memory=4096))
    fits.add_final(make_job("finalJob", "finalJob", request_memory=32768))
    assert len(setting.translate(fits)) == 2


def test_more_cpus_than_the_site_has_is_one_warning(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that asks for more CPUs than a node has gets the whole node, with one warning a label."""
    jobs = [make_job(f"{label}{number}", label, request_cpus=16) for label in "xy" for number in range(3)]
    workflow = add(GenericWorkflow("w"), *jobs)
    workflow.add_final(make_job("finalJob", "finalJob", request_cpus=16))
    plan = setting.translate(workflow)
    maker = setting.maker(plan)
    with caplog.at_level(logging.WARNING):
        tasks = [maker.make(index, 1, None) for index in range(len(plan))]
    payload = [task for task in tasks if task.executor is not None]
    assert {task.spec["cpus"] for task in payload} == {4}
    assert len(caplog.records) == 2
    assert all("16" in record.getMessage() and "4" in record.getMessage() for record in caplog.records)


def test_jobs_that_ask_for_another_queue(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A queue or account that is not the site's is one warning for a label, with the way out."""
    setting = Setting(tmp_path)
    config = BpsConfig(setting.config)
    config[".site.here.class"] = "lsst.ctrl.bps.parsl.sites.Slurm"
    config[".site.here.nodes"], config[".site.here.walltime"] = 1, 7200
    config[".site.here.partition"] = "main"
    del config[".site.here.cores"]
    site = SiteConfig.from_config(config)
    jobs = [make_job(f"a{number}", "a", queue="long") for number in range(3)]
    jobs += [make_job("b", "b", queue="main"), make_job("c", "c", accounting_group="x")]
    translate(config, add(GenericWorkflow("w"), *jobs), site, setting.paths)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2, texts
    assert "Jobs of a ask for queue 'long'" in texts[0]
    assert "site.here.partition: main" in texts[0]
    assert "computeSite" in texts[0]
    assert "Jobs of c ask for accountingGroup 'x'" in texts[1]


def test_two_jobs_of_one_name(setting: Setting) -> None:
    """A name that is there twice, in two groups, would be one job too few."""
    groups = [make_group(f"g{number}", make_job("same")) for number in range(2)]
    assert "'same'" in complaint(setting, add(GenericWorkflow("w"), *groups))


def test_final_job_of_the_name_of_another(setting: Setting) -> None:
    """The same holds for the final job."""
    workflow = add(GenericWorkflow("w"), make_job("same"))
    workflow.add_final(make_job("same", "finalJob"))
    assert "'same'" in complaint(setting, workflow)


def test_argument_that_linux_does_not_take(setting: Setting) -> None:
    """An argument of 128 KiB is refused, with its length; a longer command of shorter words is not."""
    text = complaint(
        setting, add(GenericWorkflow("w"), make_job("a", arguments="{v}", cmdvals={"v": "x" * 131072}))
    )
    assert "131072 bytes" in text
    words = " ".join(["x" * 10_000] * 20)
    assert len(task_of(setting, make_job("a", arguments="{v}", cmdvals={"v": words})).spec["argv"]) == 21
    assert task_of(setting, make_job("a", arguments="{v}", cmdvals={"v": "x" * 131071})).job == 0


def test_text_that_is_not_unicode(setting: Setting) -> None:
    """A path with bytes that are no UTF-8 is a path."""
    task = task_of(setting, make_job("a", arguments="<FILE:f>"), GenericWorkflowFile("f", "/x\udc80y"))
    assert task.spec["argv"] == ["/bin/tool", "/x\udc80y"]


def test_all_complaints_come_at_once(setting: Setting) -> None:
    """Everything that is wrong is said together; of very many, how many there are."""
    jobs = [make_job("a", priority="x"), make_job("b", arguments="<FILE:f>"), make_job("c")]
    text = complaint(setting, add(GenericWorkflow("w"), *jobs))
    assert "Job a" in text
    assert "Job b" in text
    assert "Job c" not in text
    many = [make_job(f"j{number}", f"l{number}", priority="x") for number in range(100)]
    text = complaint(setting, add(GenericWorkflow("w"), *many))
    assert "100 problems" in text
    assert len(text.splitlines()) < 20


def test_one_complaint_for_the_jobs_of_a_label(setting: Setting) -> None:
    """What is wrong with all jobs of a label is said once, with their number."""
    jobs = [make_job(f"j{number}", priority="x") for number in range(100)]
    text = complaint(setting, add(GenericWorkflow("w"), *jobs))
    assert len(text.splitlines()) == 1
    assert "99 more of l" in text


# Tasks.


def test_resources_are_those_that_the_site_wants(tmp_path: Path) -> None:
    """Executors are told only of what the site's ``resource_list`` has; memory is what it has grown to."""
    setting = Setting(tmp_path)
    plan = setting.translate(add(GenericWorkflow("w"), make_job("a", request_memory=2048)))
    site = Local(setting.config, resource_list=[])
    assert maker_for(plan, site, setting.paths).make(0, 1, None).resources == {}
    site = Local(setting.config, resource_list=["memory", "cores", "priority"])
    task = maker_for(plan, site, setting.paths).make(0, 2, 4096)
    assert task.resources == {"memory": 4096, "cores": 1}
    assert (task.job, task.attempt, task.label, task.executor) == (0, 2, "l", "local")
    assert task.spec["memory"] == 4096
    assert task.spec["a"] == 2
