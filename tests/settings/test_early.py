# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong in the YAML is said before BPS falls over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lsst.ctrl.bps import BPS_DEFAULTS, BPS_SEARCH_ORDER, BpsConfig
from lsst.ctrl.bps.parsl.errors import ConfigurationError
from lsst.ctrl.bps.parsl.settings.early import being_read

LOCAL = {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2}


def read(path: Path, **settings: Any) -> BpsConfig:
    """Read a YAML as each verb of ``bps`` does."""
    path.write_text(yaml.safe_dump(settings))
    service = "lsst.ctrl.bps.parsl.ParslService"
    return BpsConfig(
        str(path), search_order=BPS_SEARCH_ORDER, defaults=BPS_DEFAULTS, wms_service_class_fqn=service
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


@pytest.mark.parametrize("sites", ["text", ["here"], 5])
def test_sites_that_are_no_sections(path: Path, sites: object) -> None:
    """``site: text`` is a sentence, with what to write."""
    with pytest.raises(ConfigurationError, match=r"^site: .*: sections are wanted here, .*class: ") as caught:
        read(path, site=sites, computeSite="here")
    assert repr(sites) in caught.value.message


@pytest.mark.parametrize("name", [["here"], 5])
def test_site_that_is_no_name(path: Path, name: object) -> None:
    """So is a ``computeSite`` that is no text."""
    with pytest.raises(ConfigurationError, match=r"^computeSite: .* a text is wanted"):
        read(path, site={"here": LOCAL}, computeSite=name)


def test_site_without_settings(path: Path) -> None:
    """So is a section of the run's site that has no settings; an empty ``computeSite`` is none."""
    with pytest.raises(ConfigurationError, match=r"^site.here: settings are wanted here, not \['Local'\]"):
        read(path, site={"here": ["Local"]}, computeSite="here")
    assert read(path, site={"here": ["Local"]}, computeSite="")["computeSite"] == ""


def test_remote_build(path: Path) -> None:
    """``remoteBuild`` is for another service; what does the same here is named."""
    with pytest.raises(ConfigurationError, match=r"remoteBuild.enabled: true .* bpsBatchSubmission: true"):
        read(path, site={"here": LOCAL}, remoteBuild={"enabled": True})
    assert read(path, site={"here": LOCAL}, remoteBuild={"enabled": False})["computeSite"] == ""


@pytest.mark.parametrize("value", [True, False, "true"])
def test_environment_of_a_site(path: Path, value: object) -> None:
    """``environment`` of a site is kept from BPS; the variables that jobs get are not."""
    variables = {"environment": {"A": "1"}}
    config = read(path, site={"here": {**LOCAL, "environment": value}, "there": variables, "none": None})
    assert "environment" not in config[".site.here"]
    assert config[".site.here.exportEnvironment"] == value
    assert config[".site.there.environment.A"] == "1"


def test_there_is_nothing_to_read_elsewhere() -> None:
    """Where BPS is not reading, nothing is found."""
    assert being_read() is None
