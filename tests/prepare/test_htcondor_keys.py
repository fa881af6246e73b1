# SPDX-License-Identifier: BSD-3-Clause
"""Keys of HTCondor's plugin: one sentence for those without an effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lsst.ctrl.bps import BPS_DEFAULTS, BPS_SEARCH_ORDER, BpsConfig
from lsst.ctrl.bps.parsl.prepare import htcondor_keys as module
from lsst.ctrl.bps.parsl.prepare.htcondor_keys import htcondor_keys
from lsst.ctrl.bps.parsl.settings.model import HTCONDOR_KEYS, near_miss
from lsst.ctrl.bps.parsl.sites.slurm import SlurmSettings

HEAD = "Keys of the HTCondor plugin that have no effect here: "
PAGE = Path(__file__).parents[2] / "doc/htcondor.rst"


def said(content: dict[str, Any]) -> str | None:
    """Return what is said of a user's YAML."""
    config = BpsConfig(
        {"computeSite": "here", **content},
        search_order=BPS_SEARCH_ORDER,
        defaults=BPS_DEFAULTS,
        wms_service_class_fqn="lsst.ctrl.bps.parsl.ParslService",
    )
    return htcondor_keys(config)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"bpsMakeCommand": True},
        {"customEnvSetup": "", "setupEnv": None, "nodeset": ""},
        {"overwriteJobFiles": False, "provisionResources": True},
        {"profile": {}, "attrs": {"x": 1}},
        {"site": {"other": {"nodeset": "x", "profile": {"condor": {"+x": "y"}}}}},
        {"environment": {"nodeset": "x"}},
    ],
)
def test_nothing_to_say(content: dict[str, Any]) -> None:
    """BPS's defaults, empty values, keys that have the same effect here, and sections that nobody reads."""
    assert said(content) is None


def test_one_sentence_for_all() -> None:
    """Each key that is set stands in it, once, beside what to use."""
    content = {
        "bpsMakeCommand": False,
        "payloadCommand": "{setupEnv} {gwjobCommand}; {jobCleanup}",
        "setupEnv": "source x; {customEnvSetup}",
        "customEnvSetup": "setup y",
        "jobCleanup": "rm z",
        "nodeset": "n",
        "provisionResources": True,
        "provisioning": {"provisioningMaxWallTime": 3600},
    }
    assert said(content) == (
        f"{HEAD}bpsMakeCommand, payloadCommand, jobCleanup (use preCmdline and postCmdline); "
        "setupEnv, customEnvSetup (use worker_init of the site, or commandPrefix); "
        "provisioning (use walltime, partition, account and max_blocks of the site); "
        "nodeset (blocks run the jobs of one run)."
    )


@pytest.mark.parametrize(
    "where",
    [
        {"nodeset": "n"},
        {"site": {"here": {"nodeset": "n"}}},
        {"pipetask": {"isr": {"nodeset": "n"}, "coadd": {"nodeset": "m"}}},
        {"cluster": {"c": {"nodeset": "n"}}},
        {"finalJob": {"nodeset": "n"}},
        {"pipetask": {"isr": {"computeSite": "there"}}, "site": {"there": {"nodeset": "n"}}},
    ],
)
def test_where_they_are_found(where: dict[str, Any]) -> None:
    """A key may be the run's, a label's, or a site's that is used."""
    assert said(where) == f"{HEAD}nodeset (blocks run the jobs of one run)."


def test_variables_of_the_users_own() -> None:
    """A key that another setting names has the effect of a variable, and so has what it names itself."""
    content = {
        "payloadCommand": "{setupEnv} {gwjobCommand}; {jobCleanup}",
        "setupEnv": "source x; {customEnvSetup}",
        "customEnvSetup": "setup y",
        "jobCleanup": "rm z",
        "site": {"here": {"commandPrefix": "{setupEnv}"}},
    }
    assert said(content) == f"{HEAD}payloadCommand, jobCleanup (use preCmdline and postCmdline)."


def test_site_without_blocks() -> None:
    """``provisionResources`` is what a site with blocks does anyway; another one has nothing to ask for."""
    config = BpsConfig({"provisionResources": True})
    assert htcondor_keys(config) is None
    assert htcondor_keys(config, has_blocks=False) == f"{HEAD}provisionResources (this site has no blocks)."
    assert htcondor_keys(BpsConfig({"provisionResources": False}), has_blocks=False) is None


def test_condor_profile() -> None:
    """What goes into HTCondor's submit file; a profile of other systems is left alone."""
    profile = {"profile": {"condor": {"requirements": "x"}}}
    assert said({"site": {"here": profile}}) == (
        f"{HEAD}profile.condor (use constraint or scheduler_options of the site)."
    )
    assert said({"site": {"here": {"profile": {"pegasus": {"x": 1}}}}}) is None


def test_they_are_no_misspelt_settings() -> None:
    """``nodeset`` in a site section is not taken for ``nodes``."""
    for key in HTCONDOR_KEYS:
        assert near_miss(key, list(SlurmSettings.model_fields)) is None


def test_each_key_is_in_the_documentation() -> None:
    """The table for those who come from HTCondor has all keys."""
    assert {key.split(".")[0] for key in module._ADVICE} <= HTCONDOR_KEYS
    text = PAGE.read_text()
    for key in HTCONDOR_KEYS | module._ADVICE.keys():
        assert f"``{key}" in text, key
