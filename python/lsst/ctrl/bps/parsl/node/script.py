# SPDX-License-Identifier: BSD-3-Clause
"""The bash code that runs a job; standard library only."""

from __future__ import annotations

import re
import shlex
from typing import Any

__all__ = ["around", "bash_code"]

# The job's own status counts; with what comes afterwards it only gets worse.
# After SIGTERM to the group, both shells wait for the command: it may have
# something to say before it ends, and what comes afterwards is for later.
# Each is read by itself: what is wrong in one is not an error of another.
_AROUND = """\
bps_finish() {
    export BPS_PARSL_EXIT=$?
    trap - EXIT
    set +e
    ( eval <post> )
    bps_status=$?
    (( BPS_PARSL_EXIT )) && bps_status=$BPS_PARSL_EXIT
    exit $bps_status
}
trap bps_finish EXIT
trap : TERM
eval <pre>
bps_status=$?
(( bps_status )) && exit $bps_status
( trap 'exit 143' TERM
eval <code> )
"""


def around(code: str, pre: str, post: str) -> str:
    """Put commands around another one.

    Parameters
    ----------
    code : `str`
        Bash code of the job's command.
    pre : `str`
        What runs before it, in the same shell; where it fails, the command is
        not run.
    post : `str`
        What runs after it, whatever became of it; ``BPS_PARSL_EXIT`` has its
        exit code.

    Returns
    -------
    code : `str`
        Bash code. Its exit code is that of the first of the three that fails.
    """
    parts = {"<post>": post or ":", "<pre>": pre or ":", "<code>": code}
    return re.sub("<post>|<pre>|<code>", lambda match: shlex.quote(parts[match.group()]), _AROUND)


def bash_code(spec: dict[str, Any], prefix: str) -> str | None:
    """Return what bash runs for a job.

    Parameters
    ----------
    spec : `dict`
        The job; see `~lsst.ctrl.bps.parsl.driver.tasks.job_spec`. Words to
        execute are to be the arguments of bash.
    prefix : `str`
        Bash code before each command.

    Returns
    -------
    code : `str` or `None`
        Bash code; `None` where the words can be executed without bash.
    """
    code, pre, post = spec.get("script"), spec.get("pre", ""), spec.get("post", "")
    head = ""
    if code is None:
        if not (prefix or pre or post):
            return None
        head = 'bps_command=("$@")\nset --\n'
        code = '"${bps_command[@]}"'
    if pre or post:
        code = around(code, pre, post)
    return f"{head}{prefix}\n{code}\n"
