# SPDX-License-Identifier: BSD-3-Clause
"""Bash code that starts workers, with paths and commands that stay as they are.

Parsl puts paths into its commands without quotation, and its launchers have
bash read a command once more than it was quoted for. The launcher for Slurm is
`lsst.ctrl.bps.parsl.batch.slurm_provider.Srun`.
"""

from __future__ import annotations

import shlex

from parsl.launchers import JsrunLauncher, MpiExecLauncher

__all__ = ["Jsrun", "LaunchCommand", "Mpiexec", "with_temporary_directory"]

_PATHS = ("cert_dir", "logdir", "logconf")

_TEMPORARY = """\
if [ -n "$TMPDIR" ] && ! { [ -d "$TMPDIR" ] && [ -w "$TMPDIR" ]; }; then
    echo "TMPDIR is $TMPDIR, which cannot be written to on $(uname -n); /tmp is used" >&2
    export TMPDIR=/tmp
fi
"""


def with_temporary_directory(command: str) -> str:
    """Have a command find a directory for temporary files.

    Parameters
    ----------
    command : `str`
        What starts the workers of a node, in bash.

    Returns
    -------
    command : `str`
        The same, after a look at ``TMPDIR``: batch systems bring it along
        from a submit host whose directory the node may lack.
    """
    return f"{_TEMPORARY}{command}"


class LaunchCommand(str):
    """Command that starts HighThroughputExecutor's workers on a node.

    Parsl fills it in: first all values, and then the name of each block.
    """

    __slots__ = ()

    def format(self, *args: object, **values: object) -> str:
        """Fill in values, paths as words of bash.

        Parameters
        ----------
        *args, **values : `object`
            As for `str.format`.

        Returns
        -------
        command : `str`
            The command, to be filled in with the name of a block.
        """
        for name in set(_PATHS).intersection(values):
            values[name] = shlex.quote(str(values[name])).replace("{", "{{").replace("}", "}}")
        return super().format(*args, **values)


class Mpiexec(MpiExecLauncher):
    """Starts the workers of a block with mpiexec, one on each node."""

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int, script_dir: str = "") -> str:
        """Return the bash code that runs a command on each node.

        Parameters
        ----------
        command : `str`
            The command, in bash.
        tasks_per_node : `int`
            How often to run it on a node.
        nodes_per_block : `int`
            Number of nodes.
        script_dir : `str`, optional
            Not used.

        Returns
        -------
        code : `str`
            The code.
        """
        count = tasks_per_node * nodes_per_block
        return f"""\
HOSTFILE="$JOBNAME.nodes"
if [ -z "$PBS_NODEFILE" ]; then
    echo localhost > "$HOSTFILE"
else
    sort -u "$PBS_NODEFILE" > "$HOSTFILE"
fi
mpiexec {self.bind_cmd} none {self.overrides} -n {count} --hostfile "$HOSTFILE" bash -c {shlex.quote(command)}
"""


class Jsrun(JsrunLauncher):
    """Starts the workers of a block with jsrun, one on each node."""

    def __call__(self, command: str, tasks_per_node: int, nodes_per_block: int, script_dir: str = "") -> str:
        """Return the bash code that runs a command on each node.

        Parameters
        ----------
        command, tasks_per_node, nodes_per_block, script_dir
            As for `Mpiexec`.

        Returns
        -------
        code : `str`
            The code.
        """
        count = tasks_per_node * nodes_per_block
        return f"jsrun -n {count} -r {tasks_per_node} {self.overrides} bash -c {shlex.quote(command)}\n"
