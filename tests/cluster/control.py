# SPDX-License-Identifier: BSD-3-Clause
"""What tests do to the cluster: stop its daemons, take nodes away, look at jobs.

The cluster is the one that ``SLURM_CONF`` names; without that, the one in
``CLUSTER_DIR``, or in ``.cluster`` in the checkout. In its directory is that of
the second one, which tests disturb.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

NODES = ("n1", "n2", "n3", "n4", "n5", "n6")

# Seconds that a daemon gets to start or to end.
PATIENCE = 120.0

# Seconds between two questions for the jobs: each is a process, and tests wait in loops.
PAUSE = 0.25

_asked = 0.0


class Job(NamedTuple):
    """A job as ``squeue`` shows it."""

    id: str
    state: str
    name: str
    directory: str
    comment: str


def cluster_directory() -> Path:
    """Find the directory of the cluster, which need not be there.

    Returns
    -------
    directory : `pathlib.Path`
        Its absolute path.
    """
    if named := os.environ.get("SLURM_CONF"):
        return Path(named).resolve().parent
    default = Path(__file__).resolve().parents[2] / ".cluster"
    return Path(os.environ.get("CLUSTER_DIR") or default).resolve()


def configuration() -> str:
    """Find what ``SLURM_CONF`` has to be.

    Returns
    -------
    path : `str`
        Path of ``slurm.conf``, spelled as the daemons got it.
    """
    if named := os.environ.get("SLURM_CONF"):
        return named
    return _from_env(cluster_directory())


def second_configuration() -> str:
    """Find what ``SLURM_CONF`` has to be for the cluster that tests disturb.

    Returns
    -------
    path : `str`
        Path of its ``slurm.conf``, spelled as its daemons got it.
    """
    return _from_env(cluster_directory() / "second")


def is_up() -> bool:
    """Tell whether all daemons of the cluster run.

    Returns
    -------
    up : `bool`
        `False` too if there is no cluster.
    """
    return all(_pid(name) is not None for name in ("munged", "slurmctld", *NODES))


def stop_controller() -> None:
    """End ``slurmctld``; jobs go on."""
    _stop("slurmctld")


def start_controller() -> None:
    """Start ``slurmctld`` with the state it had, and wait until it answers."""
    _start("slurmctld", ["slurmctld"])
    _wait("the controller does not answer", lambda: "is UP" in _slurm("scontrol", "ping", check=False))


def stop_node(name: str) -> None:
    """End the ``slurmd`` of a node; what runs there goes on.

    Slurm finds out after ``SlurmdTimeout`` (15 s) and more.

    Parameters
    ----------
    name : `str`
        Name of the node.
    """
    _stop(name)


def start_node(name: str) -> None:
    """Start the ``slurmd`` of a node, and wait until Slurm sees it.

    Parameters
    ----------
    name : `str`
        Name of the node.
    """
    _start(name, ["slurmd", "-N", name])
    # Slurm puts a * after the state of a node that does not answer.
    _wait(f"node {name} does not come back", lambda: not node_state(name).endswith("*"))


def kill_node(name: str) -> None:
    """Kill the ``slurmd`` of a node, which has no time for anything; what runs there goes on.

    Parameters
    ----------
    name : `str`
        Name of the node.
    """
    _stop(name, signal.SIGKILL)


def kill_step(identifier: str) -> None:
    """Kill the ``slurmstepd`` of a step, and nothing that it has started.

    Parameters
    ----------
    identifier : `str`
        Id of the step, such as ``4.batch`` or ``4.0``.
    """
    title = f"slurmstepd: [{identifier}]".encode()
    mark = f"SLURM_CONF={configuration()}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # Jobs of the same number may be on both clusters.
            if (process / "cmdline").read_bytes().startswith(title) and mark in (
                process / "environ"
            ).read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
                return
    raise RuntimeError(f"no slurmstepd of {identifier} runs")


def node_state(name: str) -> str:
    """Ask for the state of a node.

    Parameters
    ----------
    name : `str`
        Name of the node.

    Returns
    -------
    state : `str`
        The state as ``sinfo`` shows it: ``idle``, ``mixed``, ``down*``.
    """
    return _slurm("sinfo", "-h", "-N", "-p", "main", "-n", name, "-o", "%T").strip()


def set_node(name: str, state: Literal["DOWN", "RESUME"]) -> None:
    """Take a node away, which ends the jobs there, or give it back.

    Parameters
    ----------
    name : `str`
        Name of the node.
    state : `str`
        ``DOWN``, or ``RESUME`` (nothing happens if the node is not away).
    """
    if state == "RESUME" and not node_state(name).startswith(("down", "drain")):
        return
    reason = ["Reason=test"] if state == "DOWN" else []
    _slurm("scontrol", "update", f"NodeName={name}", f"State={state}", *reason)


def jobs(ended: bool = False) -> list[Job]:
    """List the jobs.

    Parameters
    ----------
    ended : `bool`, optional
        Whether to list ended ones too that Slurm has not forgotten yet.

    Returns
    -------
    jobs : `list` [`Job`]
        In the order of their submission.
    """
    global _asked
    time.sleep(max(0.0, _asked + PAUSE - time.monotonic()))
    every = ["--states=all"] if ended else []
    found = []
    # The comment comes last, as it may have any character.
    for line in _slurm("squeue", "-h", "-a", "--sort=i", *every, "-o", "%i|%T|%j|%Z|%k").splitlines():
        identifier, state, name, directory, comment = line.split("|", 4)
        found.append(Job(identifier, state, name, directory, "" if comment == "(null)" else comment))
    _asked = time.monotonic()
    return found


def cancel(identifier: str) -> None:
    """Cancel a job.

    Parameters
    ----------
    identifier : `str`
        Its id.
    """
    _slurm("scancel", identifier)


def submit(*options: str) -> str:
    """Submit a job of nobody's run.

    Parameters
    ----------
    *options : `str`
        Of ``sbatch``.

    Returns
    -------
    identifier : `str`
        Its id.
    """
    return _slurm("sbatch", "--parsable", "--chdir=/", "--output=/dev/null", *options).strip()


def requeue(identifier: str) -> None:
    """Have a job that runs begin again, whatever its owner said about that.

    Parameters
    ----------
    identifier : `str`
        Its id.
    """
    _slurm("scontrol", "update", f"JobId={identifier}", "Requeue=1")
    _slurm("scontrol", "requeue", identifier)


def update(what: str, *values: str) -> None:
    """Change something.

    Parameters
    ----------
    what : `str`
        Such as ``PartitionName=main``.
    *values : `str`
        Such as ``State=UP``.
    """
    _slurm("scontrol", "update", what, *values)


@contextmanager
def partition(name: str, *values: str) -> Iterator[str]:
    """Make a partition of all nodes, which is there for a while.

    Parameters
    ----------
    name : `str`
        Its name.
    *values : `str`
        As for `update`.

    Yields
    ------
    name : `str`
        Its name.
    """
    _slurm("scontrol", "create", f"PartitionName={name}", "Nodes=ALL", *values)
    try:
        yield name
    finally:
        # Slurm keeps a partition that has jobs.
        _slurm("scancel", f"--partition={name}")
        _wait(
            f"partition {name} has jobs",
            lambda: not _slurm("squeue", "-h", "-a", "-p", name, "-o", "%i"),
        )
        _slurm("scontrol", "delete", f"PartitionName={name}")


def wait_until_empty(timeout: float = 120.0) -> None:
    """Wait until no job is pending, running or completing.

    Parameters
    ----------
    timeout : `float`, optional
        Seconds to wait at most.

    Raises
    ------
    TimeoutError
        If there still are jobs.
    """
    _wait("there still are jobs", lambda: not jobs(), timeout)


def _from_env(directory: Path) -> str:
    """Read what ``up.sh`` wrote for people to source."""
    return (directory / "env.sh").read_text().strip().partition("SLURM_CONF=")[2]


def _slurm(*command: str, check: bool = True) -> str:
    """Run a command of Slurm's and return what it prints."""
    environment = os.environ | {"SLURM_CONF": configuration()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _pid(name: str) -> int | None:
    """Return the process of a daemon if it runs."""
    directory = cluster_directory()
    try:
        pid = int((directory / "run" / f"{name}.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        mark = os.path.dirname(configuration())
    except (OSError, ValueError):
        return None
    # It may be another's by now, or have ended without anybody waiting for it.
    return pid if os.fsencode(mark) in command else None


def _stop(name: str, number: signal.Signals = signal.SIGTERM) -> None:
    """End a daemon, if it runs."""
    if (pid := _pid(name)) is not None:
        os.kill(pid, number)
        _wait(f"{name} does not end", lambda: _pid(name) is None)


def _start(name: str, command: list[str]) -> None:
    """Start a daemon, if it does not run."""
    if _pid(name) is not None:
        return
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    # As in up.sh: nothing of the caller's, and SLURM_CONF last. The daemon goes
    # into the background by itself; its log is a file.
    conf = configuration()
    with (cluster_directory() / "log" / "start").open("ab") as log:
        subprocess.run(
            ["/usr/bin/env", "-i", f"PATH={path}", f"SLURM_CONF={conf}", *command, "-f", conf],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
            timeout=PATIENCE,
        )
    _wait(f"{name} does not start", lambda: _pid(name) is not None)


def _wait(complaint: str, condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{complaint} after {timeout:g} s")
        time.sleep(0.1)
