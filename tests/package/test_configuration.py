# SPDX-License-Identifier: BSD-3-Clause
"""Reading BPS's configuration; public names that other packages use."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsst.ctrl.bps import BpsConfig
from lsst.ctrl.bps.parsl.configuration import (
    get_bps_config_value,
    get_workflow_filename,
    get_workflow_name,
    parsl_log_level,
    read_config,
    set_parsl_logging,
    write_config,
)
from lsst.ctrl.bps.parsl.errors import ConfigurationError, DamagedFileError, StorageError
from support.plans import umask


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> BpsConfig:
    monkeypatch.setenv("V_HERE", "here")
    return BpsConfig(
        {
            "text": "a {number} ${V_HERE} <ENV:V_HERE> ${V_UNSET}",
            "number": 5,
            "real": 2.5,
            "yes": True,
            "nothing": None,
            "zero": 0,
            "list": [1, 2],
            "payload": {"inner": "x"},
        }
    )


def test_values_are_searched_as_bps_does(config: BpsConfig) -> None:
    """Variables of BPS and of the environment are replaced, and BPS's sections are searched."""
    assert get_bps_config_value(config, "text", str) == "a 5 here here ${V_UNSET}"
    assert get_bps_config_value(config, "inner", str) == "x"
    assert get_bps_config_value(config, "number", int) == 5
    assert get_bps_config_value(config, "zero", int, 7) == 0
    assert get_bps_config_value(config, "yes", bool) is True
    assert get_bps_config_value(config, "list", list) == [1, 2]


def test_integer_will_do_for_a_float(config: BpsConfig) -> None:
    """``walltime: 10`` is as good as ``10.0``, and comes as a float."""
    value = get_bps_config_value(config, "number", float)
    assert value == 5.0
    assert isinstance(value, float)


@pytest.mark.parametrize("key", ["missing", "nothing"])
def test_missing_value(config: BpsConfig, key: str) -> None:
    """A value that is missing or null is the default; required and without one it is a KeyError."""
    assert get_bps_config_value(config, key, str) is None
    assert get_bps_config_value(config, key, str, "default") == "default"
    assert get_bps_config_value(config, key, int, 0, required=True) == 0
    with pytest.raises(KeyError, match=key):
        get_bps_config_value(config, key, str, required=True)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("number", str),
        ("text", int),
        ("real", int),
        ("yes", int),
        ("yes", float),
        ("number", bool),
        ("list", dict),
    ],
)
def test_value_of_another_type(config: BpsConfig, key: str, kind: type[object]) -> None:
    """A value of the wrong type is a RuntimeError that says which is wanted."""
    with pytest.raises(RuntimeError, match=f"{key}.*{kind.__name__}"):
        get_bps_config_value(config, key, kind)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"uniqProcName": "u_me_a_20260101T000000Z"}, "u_me_a_20260101T000000Z"),
        ({"uniqProcName": "x", "project": "dev"}, "dev"),
        ({"uniqProcName": "x", "project": "dev", "operator": "me"}, "dev.me"),
        ({"uniqProcName": "x", "project": "dev", "campaign": "quick", "operator": "me"}, "dev.quick"),
        ({"uniqProcName": "x", "campaign": "quick"}, "x"),
    ],
)
def test_workflow_name(values: dict[str, str], name: str) -> None:
    """``<project>.<campaign or operator>`` where there is a project, otherwise ``uniqProcName``."""
    assert get_workflow_name(BpsConfig(values)) == name


@given(name=st.text(alphabet="ab/. é\n'$%,", min_size=1, max_size=8))
def test_workflow_name_is_safe(name: str) -> None:
    """A name can be that of a Slurm job and of a file."""
    found = get_workflow_name(BpsConfig({"uniqProcName": name}))
    assert re.fullmatch(r"[A-Za-z0-9_.+-]+", found)


def test_workflow_filename() -> None:
    """The file of the workflow is in the submit directory."""
    assert get_workflow_filename("/runs/x").startswith("/runs/x/")


@pytest.fixture
def parsl_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("parsl")
    before = logger.level
    yield logger
    logger.setLevel(before)


@pytest.mark.parametrize("name", logging.getLevelNamesMapping())
def test_every_name_of_a_log_level(parsl_logger: logging.Logger, name: str) -> None:
    """Names of Python's levels, in any case, with or without ``logging.``, and their numbers."""
    level = logging.getLevelNamesMapping()[name]
    for value in (name, name.lower(), f"logging.{name}", level):
        config = BpsConfig({"parsl": {"log_level": value}})
        assert set_parsl_logging(config) == level
        assert parsl_logger.level == level


@pytest.mark.parametrize("values", [{}, {"parsl": {}}, {"parsl": {"log_level": None}}, {"parsl": None}])
def test_log_level_by_default(parsl_logger: logging.Logger, values: dict[str, object]) -> None:
    """Warnings and above come to the terminal where nothing is set."""
    assert set_parsl_logging(BpsConfig(values)) == logging.WARNING


@pytest.mark.parametrize("value", ["LOUD", "", True, 13, [], "logging."])
def test_no_log_level(value: object) -> None:
    """What is no level is an error that lists them."""
    with pytest.raises(ConfigurationError, match=r"parsl\.log_level.*WARNING"):
        parsl_log_level(BpsConfig({"parsl": {"log_level": value}}))


def test_configuration_is_kept_as_it_was_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart in another environment reads what prepare read."""
    monkeypatch.setenv("V_HERE", "here and now")
    values = {"a": "${V_HERE}/x $V_HERE", "b": {"c": [1, "${V_HERE}", None]}, "d": "{a} $V_UNSET", "e": 2.5}
    path = tmp_path / "config.yaml"
    with umask(0):
        write_config(path, BpsConfig(values))
    monkeypatch.setenv("V_HERE", "elsewhere")
    config = read_config(path)
    assert config["a"] == "here and now/x here and now"
    assert config[".b.c"] == [1, "here and now", None]
    assert config["d"] == "here and now/x here and now $V_UNSET"
    assert config["e"] == 2.5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", b"a: *x", b"!!python/object:os.system {}"])
def test_damaged_configuration(tmp_path: Path, content: bytes) -> None:
    """A file that is no YAML, or that wants code to run, is an error with its name."""
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(DamagedFileError, match=re.escape(str(tmp_path))):
        read_config(tmp_path / "config.yaml")


def test_missing_configuration(tmp_path: Path) -> None:
    """A file that is gone is named."""
    with pytest.raises(StorageError, match="No such file"):
        read_config(tmp_path / "config.yaml")
