# SPDX-License-Identifier: BSD-3-Clause
"""Blocks that Slurm lets wait or does not take: the run says why, waits where that helps, and else ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from end_to_end.support import Running, Step, wait_until
from lsst.ctrl.bps.parsl.batch import slurm_provider
from lsst.ctrl.bps.parsl.driver import waiting
from lsst.ctrl.bps.parsl.errors import ConfigurationError

from . import control
from .engines import SLURM, Bench, Engine


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the runs, which are copies of this process, look often and decide soon."""
    monkeypatch.setattr(slurm_provider, "STATUS_SECONDS", 1)
    monkeypatch.setattr(waiting, "SURE_SECONDS", 1.0)


@pytest.fixture
def partition(slurm: Bench) -> Iterator[str]:
    """A partition of the test's own, which is down."""
    with control.partition(slurm.id, "State=DOWN", "MaxTime=60") as name:
        yield name


def await_words(driver: Running, *words: str) -> None:
    """Wait until a run has said something, as long as it is there."""

    def said() -> bool:
        flat = " ".join(driver.stderr.split())
        assert all(word in flat for word in words) or driver.poll() is None, f"it ended: {driver.finish()}"
        return all(word in flat for word in words)

    wait_until(said, f"it says {words}", 120.0)


def test_partition_down_then_too_short(slurm: Bench, partition: str) -> None:
    """A partition that is down is waited for, with a warning; when it is up and its longest time is less
    than the walltime, the run ends with Slurm's reason, the setting to change and how to resume.
    """
    slurm.prepare([Step("s0")], site={"partition": partition, "walltime": "0:10:00"})
    driver = slurm.drive("restart", "--id", slurm.id)
    await_words(driver, "Blocks of slurm: 1 waits (PartitionDown): the partition starts no jobs")
    control.update(f"PartitionName={partition}", "MaxTime=1", "State=UP")
    driver.finish().complained(
        "No block of slurm will ever start (PartitionTimeLimit)",
        "Change walltime or partition.",
        "0 of 1 jobs succeeded",
        f"bps restart --id {slurm.id}",
    )
    slurm.assert_queue_empty()


def test_held_block(slurm: Bench) -> None:
    """A block that is held is waited for: the log and the report have what to type. A cancelled run leaves
    none of it.
    """
    slurm.prepare([Step("s0")], site={"scheduler_options": "#SBATCH --hold"})
    driver = slurm.drive("restart", "--id", slurm.id)
    await_words(driver, "1 waits (JobHeldUser): you hold it. Release it with: scontrol release")
    (block,) = slurm.jobs()
    report = slurm.bps("report", "--id", slurm.id).succeeded().stdout
    assert f"scontrol release {block.id}." in report
    slurm.bps("cancel", "--id", slurm.id).succeeded()
    driver.finish().complained("was cancelled")
    slurm.assert_queue_empty()


def test_options_that_exclude_each_other(slurm: Bench) -> None:
    """Beside a key, it is an error at prepare; of sbatch alone, its words end the run at once."""
    with pytest.raises(ConfigurationError) as caught:
        slurm.prepare(
            [Step("s0")], site={"mem_per_node": 1, "scheduler_options": "#SBATCH --mem-per-cpu=200"}
        )
    assert "--mem-per-cpu=200 and mem_per_node" in str(caught.value)
    slurm.prepare(
        [Step("s0")], name="other", site={"scheduler_options": ["--mem=1G", "#SBATCH --mem-per-cpu=200"]}
    )
    driver = slurm.drive("restart", "--id", str(slurm.submit_path.with_name("other")))
    driver.finish(30).complained(
        "The batch system refuses blocks for slurm: sbatch: fatal: --mem, --mem-per-cpu, and --mem-per-gpu "
        "are mutually exclusive.",
        "bps restart --id other",
    )


WRAPPERS = {
    # Says the cluster too, as where something has chosen it.
    "sbatch": 'out=$("$real" "$@") || exit\necho "welcome | to | the | cluster"\necho "$out;east"',
    # Knows the jobs of that cluster alone; its answer is of an earlier question; it prints more than jobs.
    "squeue": """\
shift_cluster
case "$*" in *--jobs=*) exec "$real" "$@";; esac
[ -e "$0.cache" ] && cat "$0.cache"
echo "7 | this | is | old"
echo "CLUSTER: east" >"$0.$$"
"$real" "$@" | sed 'i| a | banner | !' >>"$0.$$"
mv "$0.$$" "$0.cache"
""",
    "scancel": 'shift_cluster\nexec "$real" "$@"',
}
SHIFT = """\
shift_cluster() { :; }
case "$*" in
*--clusters=east*) ;;
*) case "$0" in *sbatch) ;; *) exit 0;; esac
esac
for word; do shift; case "$word" in --clusters=*) ;; *) set -- "$@" "$word";; esac; done
"""


def test_commands_of_a_site(make_bench: Callable[[Engine], Bench]) -> None:
    """Where sbatch names a cluster, and squeue is asked for that one, prints a banner between the jobs and
    gives the answer of the time before, the block is followed all the same, and nothing of it stays.
    """
    bench = make_bench(SLURM)
    directory = bench.path / "bin"
    directory.mkdir()
    for name, code in WRAPPERS.items():
        (directory / name).write_text(f"#!/bin/bash\nreal={shutil.which(name)}\n{SHIFT}{code}\n")
        (directory / name).chmod(0o755)
    bench.env["PATH"] = f"{directory}:{bench.env['PATH']}"
    bench.prepare([Step("s0")], site={"idle_time": 1})
    bench.hold("s0")
    driver = bench.drive("restart", "--id", bench.id)
    bench.await_step(driver, "s0")
    report = bench.bps("report", "--id", bench.id).succeeded().stdout
    assert "Blocks in Slurm's queue (east): 1 runs." in report
    bench.let_go("s0")
    finished = driver.finish().succeeded()
    assert "ended before" not in finished.stderr
    bench.assert_each_once(["s0"])
    assert len({number for _, number, _ in bench.where()}) == 1
