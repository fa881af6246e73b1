# SPDX-License-Identifier: BSD-3-Clause
"""The second part of a run, prepared by one of its jobs.

With BPS's ``bpsBatchSubmission`` a job of the run prepares the workflow. It
knows of the run by the submit directory. What it writes there stands beside
the run, until it is put into its place in one step: by the first attempt
that comes to that.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from lsst.ctrl.bps import BpsConfig, GenericWorkflow

from ..configuration import read_config
from ..environment import read_job_environments
from ..errors import DamagedFileError
from ..files import storage_errors
from ..paths import SubmitPaths
from ..plan.plan import Plan
from ..site import SiteConfig
from .translate import translate

__all__ = ["attach_payload", "write_payload"]

_LOG = logging.getLogger(__name__)

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
"""What file systems without hard links say."""


def write_payload(config: BpsConfig, workflow: GenericWorkflow, paths: SubmitPaths) -> Path | None:
    """Write the second part of a run beside it.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run, as the job has read it.
    workflow : `lsst.ctrl.bps.GenericWorkflow`
        The workflow.
    paths : `SubmitPaths`
        Where the run is.

    Returns
    -------
    path : `pathlib.Path` or `None`
        For `attach_payload`; `None` where an earlier attempt has put its
        own into place, which is kept.

    Raises
    ------
    WorkflowError
        Raised with what makes the workflow impossible to run.

    Notes
    -----
    The sites are those that the driver has: it knows the settings as they
    were understood when the run was submitted, whatever the environment of
    this job is.
    """
    if paths.payload.exists():
        return None
    site = SiteConfig.from_config(read_config(paths.config))
    before = len(read_job_environments(paths.job_environments))
    translation = translate(config, workflow, site, paths, environments=before)
    path = paths.unattached_payload(secrets.token_hex(8))
    translation.write(paths, path)
    return path


def attach_payload(paths: SubmitPaths, path: Path | None) -> None:
    """Make what was written a part of the run: whole, or not at all.

    Parameters
    ----------
    paths : `SubmitPaths`
        Where the run is.
    path : `pathlib.Path` or `None`
        What `write_payload` returned.

    Raises
    ------
    DamagedFileError
        Raised if what was written is not whole any more. It is not added
        then, and another attempt writes its own.
    StorageError
        Raised if it cannot be done.
    """
    if path is not None and not paths.payload.exists():
        _check_whole(path)
    if path is not None and _put_in_place(path, paths.payload):
        _LOG.info("The jobs were added to the run in %s", paths.submit_path)
    else:
        _LOG.info("An earlier attempt has added the jobs to the run in %s", paths.submit_path)
    _remove_others(paths)


def _check_whole(path: Path) -> None:
    """Read what was written: once it is a part of the run, nothing replaces it."""
    try:
        Plan(path)
    except DamagedFileError as exc:
        raise DamagedFileError(
            f"{path} is damaged, and was not added to the run. Resume the run to have it written again, "
            "with: bps restart --id <run>"
        ) from exc


def _put_in_place(path: Path, target: Path) -> bool:
    """Give a file its name, unless there is one of that name."""
    with storage_errors(target, "add the jobs to the run"):
        try:
            os.link(path, target)
        except OSError as exc:
            # Over NFS a link that was made may be answered by EEXIST.
            if target.exists():
                return path.exists() and path.samefile(target)
            if exc.errno not in _NO_LINKS:
                raise
            os.rename(path, target)
    return True


def _remove_others(paths: SubmitPaths) -> None:
    """Remove what attempts have written and will not be needed."""
    with storage_errors(paths.payload, "read the plan"), open(paths.payload, "rb") as stream:
        kept = paths.payload_environments(json.loads(stream.readline()))
    for path in paths.unattached_payloads():
        if path != kept:
            with suppress(OSError):
                path.unlink()
