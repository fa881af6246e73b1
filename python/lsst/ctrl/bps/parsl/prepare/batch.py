# SPDX-License-Identifier: BSD-3-Clause
"""What ``bps prepare`` does, and what ``bps submit`` does before it runs a workflow."""

from __future__ import annotations

from typing import Any

from lsst.ctrl.bps import BPS_DEFAULTS, BPS_SEARCH_ORDER, BaseWmsWorkflow, BpsConfig

__all__ = ["prepare_pipeline"]

_SERVICE = "lsst.ctrl.bps.parsl.ParslService"


def prepare_pipeline(config_file: str, **kwargs: Any) -> BaseWmsWorkflow:
    """Prepare a run as ``bps submit`` does: its quantum graph is built in a job where that is asked for.

    Parameters
    ----------
    config_file : `str`
        BPS's YAML.
    **kwargs : `~typing.Any`
        Options of ``bps submit``.

    Returns
    -------
    workflow : `lsst.ctrl.bps.BaseWmsWorkflow`
        The run; nothing runs yet.
    """
    from lsst.ctrl.bps import drivers

    kwargs.setdefault("wms_service", _SERVICE)
    try:
        from lsst.ctrl.bps.batch_submit import create_batch_stages
    except ModuleNotFoundError:  # A BPS from before its version 30.2026.4300.
        create_batch_stages = None
    if create_batch_stages is None or not _in_jobs(config_file, **kwargs):
        _, workflow = drivers.prepare_driver(config_file, **kwargs)
        return workflow
    kwargs.setdefault("runWmsSubmissionChecks", True)
    config = drivers._init_submission_driver(config_file, **kwargs)
    submit_path = config[".bps_defined.submitPath"]
    generic_workflow, config = create_batch_stages(config, submit_path)
    return drivers.prepare(config, generic_workflow, submit_path)


def _in_jobs(config_file: str, **kwargs: Any) -> bool:
    from lsst.ctrl.bps.initialize import translate_command_line_values

    config = BpsConfig(
        config_file,
        search_order=BPS_SEARCH_ORDER,
        defaults=BPS_DEFAULTS,
        wms_service_class_fqn=kwargs["wms_service"],
    )
    translate_command_line_values(config, **kwargs)
    _, wanted = config.search("bpsBatchSubmission", opt={"default": False})
    return bool(wanted)
