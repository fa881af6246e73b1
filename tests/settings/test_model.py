# SPDX-License-Identifier: BSD-3-Clause
"""Settings of a site: what people write loads, what is wrong is said, all at once."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lsst.ctrl.bps import BPS_DEFAULTS
from lsst.ctrl.bps.parsl.errors import ConfigurationError
from lsst.ctrl.bps.parsl.settings.model import SiteSettings, bps_keys, keys_of, read_settings
from lsst.ctrl.bps.parsl.sites.local import LocalSettings


def read(text: str) -> LocalSettings:
    """Read the YAML of a site section."""
    return read_settings(LocalSettings, {"class": "x.Y", **yaml.safe_load(text)}, "site.here")


def complaints(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    return caught.value.complaints


def test_defaults() -> None:
    """All but the class and the cores may be left out; the defaults are the earlier plugin's."""
    settings = read("cores: 4")
    assert settings.cores == 4
    assert settings.memory is None
    assert settings.commandPrefix == ""
    assert settings.environment is False
    assert settings.retries is None
    assert settings.run_dir == "runinfo"
    assert (settings.monitorEnable, settings.monitorInterval) == (False, 30.0)
    assert settings.monitorFilename == "monitor.sqlite"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("cores: '8'", "cores", 8),
        ('{cores: "8"}', "cores", 8),
        ("{cores: 1, memory: 4096}", "memory", 4096.0),
        ("{cores: 1, memory: '4096'}", "memory", 4096.0),
        ("{cores: 1, memory: 4 GB}", "memory", 4096.0),
        ("{cores: 1, memory: 4G}", "memory", 4096.0),
        ("{cores: 1, memory: 0.5 tb}", "memory", 524288.0),
        ("{cores: 1, memory: 2048 MiB}", "memory", 2048.0),
        ("{cores: 1, memory: 1024 k}", "memory", 1.0),
        ("{cores: 1, memory: null}", "memory", None),
        ("{cores: 1, environment: 'true'}", "environment", True),
        ("{cores: 1, environment: yes}", "environment", True),
        ("{cores: 1, environment: null}", "environment", False),
        ("{cores: 1, retries: '3'}", "retries", 3),
        ("{cores: 1, retries: 0}", "retries", 0),
        ("{cores: 1, monitorInterval: 5}", "monitorInterval", 5.0),
        ("{cores: 1, commandPrefix: 'source x; f() { echo; }'}", "commandPrefix", "source x; f() { echo; }"),
    ],
)
def test_what_people_write_loads(text: str, key: str, value: object) -> None:
    """Numbers and booleans in quotes, integers for floats, units of memory, null for unset."""
    found = getattr(read(text), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", ["site.here.cores", "missing"]),
        ("cores: null", ["site.here.cores", "missing"]),
        ("cores: 0", ["site.here.cores", "0", "at least 1"]),
        ("cores: -1", ["site.here.cores", "-1", "at least 1"]),
        ("cores: '0'", ["site.here.cores", "'0'", "at least 1"]),
        ("cores: eight", ["site.here.cores", "'eight'", "whole number"]),
        ("cores: true", ["site.here.cores", "True", "number"]),
        ("cores: 1.5", ["site.here.cores", "1.5", "whole number"]),
        ("cores: [1]", ["site.here.cores", "[1]", "whole number"]),
        ("cores: ''", ["site.here.cores", "''", "whole number"]),
        ("{cores: 1, memory: lots}", ["site.here.memory", "'lots'", "64 GB"]),
        ("{cores: 1, memory: 1.2.3}", ["site.here.memory", "'1.2.3'"]),
        ("{cores: 1, memory: 0}", ["site.here.memory", "0", "more than 0"]),
        ("{cores: 1, memory: false}", ["site.here.memory", "False", "number"]),
        ("{cores: 1, retries: -1}", ["site.here.retries", "-1", "at least 0"]),
        ("{cores: 1, environment: maybe}", ["site.here.environment", "'maybe'", "true or false"]),
        ("{cores: 1, environment: 7}", ["site.here.environment", "7", "true or false"]),
        ("{cores: 1, monitorInterval: 0}", ["site.here.monitorInterval", "more than 0"]),
        ("{cores: 1, monitorInterval: true}", ["site.here.monitorInterval", "number"]),
        ("{cores: 1, commandPrefix: [a, b]}", ["site.here.commandPrefix", "text"]),
        ("{cores: 1, run_dir: {a: 1}}", ["site.here.run_dir", "text"]),
    ],
)
def test_what_is_wrong_is_said_in_words(text: str, words: list[str]) -> None:
    """A complaint names the key as it is in the YAML, shows the value, and says what is wanted."""
    (complaint,) = complaints(text)
    for word in words:
        assert word in complaint


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("core", "cores"),
        ("Cores", "cores"),
        ("corse", "cores"),
        ("memroy", "memory"),
        ("command_prefix", "commandPrefix"),
        ("commandprefix", "commandPrefix"),
        ("enviroment", "environment"),
        ("monitor_enable", "monitorEnable"),
        ("runDir", "run_dir"),
        ("retires", "retries"),
    ],
)
def test_misspelt_key_is_an_error_with_a_suggestion(key: str, meant: str) -> None:
    """A key that nobody knows and that looks like one of ours is not passed over."""
    assert complaints(f"{{cores: 1, {key}: 1}}") == [
        f"site.here.{key}: unknown setting; did you mean {meant}?"
    ]


@pytest.mark.parametrize(
    "key",
    [
        "requestMemory",
        "requestCpus",
        "memoryLimit",
        "memoryMultiplier",
        "numberOfRetries",
        "profile",
        "queue",
        "computeSite",
        "preemptible",
        "bpsUseShared",
        "butlerConfig",
        "myVariable",
        "x",
    ],
)
def test_keys_of_bps_and_of_the_user_are_left_alone(key: str) -> None:
    """BPS looks for its own settings in a site section, and people keep variables there."""
    assert read(f"{{cores: 1, {key}: anything}}").cores == 1


def test_all_that_bps_knows_is_known() -> None:
    """Every default of BPS and every field of its jobs is a key of BPS, and none of them one of ours."""
    assert set(BPS_DEFAULTS) <= bps_keys()
    assert {"requestWalltime", "accountingGroup", "environment"} <= bps_keys()


def test_all_complaints_come_at_once() -> None:
    """One run of the command shows everything that is wrong."""
    found = complaints("{core: 1, memory: lots, retries: -1, environment: maybe, memroy: 1}")
    assert len(found) == 6
    with pytest.raises(ConfigurationError) as caught:
        read("{core: 1, memory: lots}")
    assert caught.value.message.startswith("3 problems in the configuration:\n  - ")


def test_every_setting_is_documented() -> None:
    """The table of settings in the documentation is made of the fields' docstrings."""
    for model in (SiteSettings, LocalSettings):
        for name, field in model.model_fields.items():
            assert field.description, name
    assert keys_of(LocalSettings)[0] == "class"
    assert "class_name" not in keys_of(LocalSettings)


def test_settings_do_not_change() -> None:
    """Settings are read once."""
    settings: Any = read("cores: 1")
    with pytest.raises(ValueError, match="frozen"):
        settings.cores = 2
