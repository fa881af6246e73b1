# SPDX-License-Identifier: BSD-3-Clause
"""What is asked of Slurm depends on the settings alone, whatever the shell that bps is typed in has."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from end_to_end.support import Step, wait_until
from lsst.ctrl.bps.parsl import SiteConfig

from .engines import ENGINES, Bench, Engine

TWO_NODES = next(engine for engine in ENGINES if engine.name == "slurm-two-nodes")

OLD = {
    "SLURM_MEM_PER_CPU": "200",
    "SLURM_MEM_PER_NODE": "300",
    "SLURM_NTASKS": "7",
    "SLURM_TASKS_PER_NODE": "7",
    "SLURM_HINT": "nomultithread",
    "SLURM_CPU_BIND": "verbose",
    "SLURM_DISTRIBUTION": "arbitrary",
    "SLURM_JOB_ID": "999999",
    "SBATCH_PARTITION": "closed",
    "SBATCH_WAIT": "1",
}
"""Of an old session."""

SITES_OWN = {"SBATCH_EXPORT": "NONE", "SLURM_EXPORT_ENV": "NONE"}
"""As some sites have it."""

FILTERS = {
    "SQUEUE_PARTITION": "short",
    "SQUEUE_USERS": "nobody",
    "SQUEUE_ACCOUNT": "none",
    "SQUEUE_STATES": "R",
    "SCANCEL_STATE": "RUNNING",
}
"""What hides a block that waits."""


VARYING = re.compile(
    "^(HOSTNAME$|SLURM.*(JOB_?ID|NAME|NODE_?LIST|NODENAME|NODEID|TOPOLOGY_ADDR|PORT|PID)|BPS_PARSL_.*|BENCH)"
)
"""Names of variables that differ from block to block."""


def environment(path: Path) -> dict[str, str]:
    """Read what ``env -0`` wrote."""
    variables = path.read_bytes().decode().rstrip("\0").split("\0")
    return dict(variable.split("=", 1) for variable in variables)


def script(bench: Bench) -> str:
    """Return the batch script of the run's blocks, without what names the run."""
    text = (bench.submit_path / "blocks" / "here.slurm.sh").read_text()
    return text.replace(str(bench.path), "PATH").replace(bench.id, "RUN")


def shells(bench: Bench, directory: Path) -> dict[str, dict[str, str]]:
    """Return the environments of shells, those in an allocation and in a batch job from Slurm itself."""
    size = ["-n1", "--mem-per-cpu=200"]
    show = f"env -0 >{directory}/$0.new; mv {directory}/$0.new {directory}/$0"
    for words in (
        ["sbatch", *size, "--output=/dev/null", "--chdir=/", "--wrap", f"sh -c '{show}' sbatch"],
        ["salloc", *size, "sh", "-c", show, "salloc"],
    ):
        subprocess.run(words, env=bench.env, check=True, capture_output=True)
    wait_until((directory / "sbatch").exists, "the batch job has written its environment")
    found = {name: environment(directory / name) for name in ("salloc", "sbatch")}
    assert found["salloc"]["SLURM_MEM_PER_CPU"] == found["sbatch"]["SLURM_MEM_PER_CPU"] == "200"
    return {"plain": bench.env, **found, "old": bench.env | OLD, "site's": bench.env | SITES_OWN | FILTERS}


def test_same_blocks_in_each_shell(make_bench: Callable[[Engine], Bench], tmp_path: Path) -> None:
    """In a plain shell, within salloc, within a batch job, in a shell with variables of an old session,
    and at a site whose profile exports nothing, the batch script is the same one, to the letter what
    prepare has shown, and what is in the block has the same environment, that of the block.
    """
    bench = make_bench(TWO_NODES)
    seen, shown = {}, {}
    for number, (shell, variables) in enumerate(shells(bench, tmp_path).items()):
        bench.env, plain = dict(variables), bench.env
        bench.prepare([Step("s")], name=f"{bench.id}.{number}")
        bench.submit_path = bench.submit_path.with_name(f"{bench.id}.{number}")
        shown[shell] = script(bench).replace(f"RUN.{number}", "RUN")
        config = bench.config(f"{bench.id}.{number}")
        with bench.as_process():
            (executor,) = SiteConfig.from_config(config).get_executors()
            executor.provider.submit(f'env -0 >{tmp_path}/{number}."$SLURM_NODEID"', 1, "block-0")
        assert script(bench).replace(f"RUN.{number}", "RUN") == shown[shell]
        seen[shell] = [tmp_path / f"{number}.{node}" for node in range(2)]
        bench.env = plain
    bench.assert_queue_empty()
    assert len(set(shown.values())) == 1
    blocks = {shell: [environment(path) for path in paths] for shell, paths in seen.items()}
    assert len({of_node["SLURM_JOB_ID"] for of_node, _ in blocks.values()}) == len(blocks)
    for nodes in blocks.values():
        for of_node, of_plain in zip(nodes, blocks["plain"], strict=True):
            assert set(of_node) == set(of_plain)
            same = set(of_plain) - {name for name in of_plain if VARYING.search(name)}
            assert {name: of_node[name] for name in same} == {name: of_plain[name] for name in same}


def test_run_within_an_allocation(make_bench: Callable[[Engine], Bench], tmp_path: Path) -> None:
    """A run goes well that is submitted within salloc, by a shell with variables of another session and of
    a site that exports nothing; its jobs see the variables of their block.
    """
    bench = make_bench(TWO_NODES)
    found = shells(bench, tmp_path)
    bench.env = found["salloc"] | OLD | SITES_OWN | FILTERS
    show = "env -0 >shown.new && mv shown.new shown"
    bench.prepare([Step("shown", executable="/bin/sh", arguments=f"-c '{show}'")])
    bench.drive("restart", "--id", bench.id).finish(120).succeeded()
    variables = environment(bench.path / "shown")
    assert variables["SLURM_JOB_ID"] not in (OLD["SLURM_JOB_ID"], found["salloc"]["SLURM_JOB_ID"])
    same = "SLURM_NNODES SLURM_TASKS_PER_NODE SLURM_MEM_PER_CPU SLURM_JOB_PARTITION"
    assert [variables.get(name) for name in same.split()] == ["2", "1(x2)", "1500", "main"]
    assert not {"SLURM_MEM_PER_NODE", "SLURM_HINT", "SLURM_EXPORT_ENV"}.intersection(variables)


def test_cancel_finds_blocks_with_the_users_own_options(slurm: Bench) -> None:
    """A block that waits has the comment, the name and the directory that its user wants; its driver is
    killed, and a cancel in a shell with filters of squeue's finds it all the same.
    """
    wanted = ["--begin=now+1hour", "--comment=survey42", "--job-name=mine", f"--chdir={slurm.path}/home"]
    slurm.prepare([Step("s")], site={"scheduler_options": wanted})
    driver = slurm.drive("restart", "--id", slurm.id)
    wait_until(lambda: slurm.jobs(), "the block waits")
    (block,) = slurm.jobs()
    assert (block.state, block.comment, block.name) == ("PENDING", "survey42", "mine")
    assert block.directory == f"{slurm.path}/home"
    driver.kill()
    slurm.env |= FILTERS
    slurm.bps("cancel", "--id", slurm.id).succeeded()
    assert not slurm.jobs()
