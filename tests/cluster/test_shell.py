# SPDX-License-Identifier: BSD-3-Clause
"""What is asked of Slurm depends on the settings alone, whatever the shell that bps is typed in has."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from end_to_end.support import Running, Step, wait_until

from . import control
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


def show_environment(bench: Bench) -> Step:
    """Return a step that writes its environment to a file."""
    return Step("shown", executable="/bin/sh", arguments="-c 'env -0 >shown.new && mv shown.new shown'")


def environment(path: Path) -> dict[str, str]:
    """Read what ``env -0`` wrote."""
    variables = path.read_bytes().decode().rstrip("\0").split("\0")
    return dict(variable.split("=", 1) for variable in variables)


def script(bench: Bench) -> str:
    """Return the batch script of the run's blocks, without what names the run."""
    text = (bench.submit_path / "blocks" / "here.slurm.sh").read_text()
    digits = re.compile(r"(?<=:)[0-9a-f]{10}\b")
    return digits.sub("DIGEST", text.replace(str(bench.path), "PATH").replace(bench.id, "RUN"))


def test_same_blocks_and_jobs_in_each_shell(make_bench: Callable[[Engine], Bench], tmp_path: Path) -> None:
    """In a plain shell, within salloc, and within a batch job, be there variables of an old session or of a
    site that exports nothing, the batch script is the same one, it is what prepare has shown, and jobs
    see the variables of their own block.
    """
    size = ["-n1", "--mem-per-cpu=200"]
    inner, conf = tmp_path / "inner", {"SLURM_CONF": control.configuration()}
    benches = {name: make_bench(TWO_NODES) for name in ("plain", "salloc", "sbatch")}
    plain = benches["plain"].env
    show = f"env -0 >{inner}$0.new; mv {inner}$0.new {inner}$0"
    for words in (
        ["sbatch", *size, "--output=/dev/null", "--chdir=/", "--wrap", f"sh -c '{show}' 2"],
        ["salloc", *size, "sh", "-c", show, "1"],
    ):
        subprocess.run(words, env=plain, check=True, capture_output=True)
    wait_until(Path(f"{inner}2").exists, "the batch job has written its environment")
    more = {
        "plain": {},
        "salloc": OLD | environment(Path(f"{inner}1")),
        "sbatch": environment(Path(f"{inner}2")) | SITES_OWN | FILTERS,
    }
    assert more["salloc"]["SLURM_MEM_PER_CPU"] == more["sbatch"]["SLURM_MEM_PER_CPU"] == "200"
    drivers: list[Running] = []
    shown = {}
    for name, bench in benches.items():
        bench.env = {**more[name], **bench.env, **conf}
        bench.prepare([show_environment(bench)])
        shown[name] = script(bench)
        drivers.append(bench.drive("restart", "--id", bench.id))
    for driver in drivers:
        driver.finish(120).succeeded()
    assert len(set(shown.values())) == 1
    assert {name: script(bench) for name, bench in benches.items()} == shown
    seen = {name: environment(bench.path / "shown") for name, bench in benches.items()}
    assert len({variables["SLURM_JOB_ID"] for variables in seen.values()}) == len(benches)
    names = [{name for name in variables if "SLURM" in name} for variables in seen.values()]
    assert all(found == names[0] for found in names)
    for variables in seen.values():
        same = "SLURM_NNODES SLURM_NTASKS SLURM_TASKS_PER_NODE SLURM_MEM_PER_CPU SLURM_JOB_PARTITION"
        assert [variables.get(name) for name in same.split()] == ["2", "2", "1(x2)", "1500", "main"]


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
