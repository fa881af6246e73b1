# SPDX-License-Identifier: BSD-3-Clause
"""Sites: from the configuration to executors, and what can be wrong on the way."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from parsl.config import Config
from parsl.executors import ThreadPoolExecutor
from parsl.executors.base import ParslExecutor

from lsst.ctrl.bps import BpsConfig, GenericWorkflow, GenericWorkflowExec, GenericWorkflowJob
from lsst.ctrl.bps.parsl import ParslJob, ParslService, SiteConfig, get_bps_config_value, get_parsl_config
from lsst.ctrl.bps.parsl.errors import ConfigurationError
from lsst.ctrl.bps.parsl.site import site_complaints
from lsst.ctrl.bps.parsl.sites import Local

LOCAL = "lsst.ctrl.bps.parsl.sites.Local"


def make_config(site: object = None, **more: Any) -> BpsConfig:
    """Make a configuration that uses the site ``here``."""
    return BpsConfig(
        {
            "computeSite": "here",
            "submitPath": "/runs/x",
            "uniqProcName": "u_me_x",
            "site": {"here": site, "other": {"class": LOCAL}},
            **more,
        }
    )


class Mine(SiteConfig):
    """A user's own site, as one was written for the earlier plugin."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.queue = get_bps_config_value(self.site, "queue", str, required=True)

    def get_executors(self) -> list[ParslExecutor]:
        return [
            ThreadPoolExecutor(label=f"{self.queue}-{size}", max_threads=2) for size in ("small", "large")
        ]

    def select_executor(self, job: ParslJob) -> str:
        memory = job.generic.request_memory or 0
        return f"{self.queue}-{'large' if memory > 4096 else 'small'}"


class Abstract(SiteConfig):
    """A site that forgets half of what it must define."""

    def get_executors(self) -> list[ParslExecutor]:
        return []


class Other:
    """No site."""


HERE = __name__


def the_complaint(config: BpsConfig) -> str:
    (complaint,) = site_complaints(config)
    with pytest.raises(ConfigurationError) as caught:
        SiteConfig.from_config(config)
    assert caught.value.complaints == [complaint]
    return complaint


def test_site_is_made_of_its_section() -> None:
    """``site.<computeSite>.class`` is imported and gets the configuration."""
    site = SiteConfig.from_config(make_config({"class": LOCAL, "cores": 3}))
    assert isinstance(site, Local)
    assert site.settings.cores == 3
    assert site.site["cores"] == 3
    assert site.config["uniqProcName"] == "u_me_x"
    assert site.resource_list == ["priority"]


@pytest.mark.parametrize("name", [None, ""])
def test_no_compute_site(name: object) -> None:
    """Without ``computeSite`` the complaint says how to set it, and which sites there are."""
    complaint = the_complaint(make_config({"class": LOCAL}, computeSite=name))
    assert "computeSite: <name>" in complaint
    assert "here, other" in complaint


def test_no_compute_site_at_all() -> None:
    """An empty configuration is complained about, and no more."""
    assert "computeSite" in the_complaint(BpsConfig({}))


@pytest.mark.parametrize("sites", [{}, {"other": {"class": LOCAL}}])
def test_no_section_for_the_site(sites: dict[str, object]) -> None:
    """Without ``site.<x>`` the complaint names it, shows one, and lists those that there are."""
    complaint = the_complaint(BpsConfig({"computeSite": "here", "site": sites}))
    assert "There is no site.here" in complaint
    assert "site: {here: {class:" in complaint
    assert ("Known sites: other" in complaint) == bool(sites)


@pytest.mark.parametrize("section", [None, "text", 5, [1]])
def test_section_that_is_none(section: object) -> None:
    """A section that holds no settings is named."""
    assert "site.here" in the_complaint(make_config(section))


@pytest.mark.parametrize(
    ("key", "value"), [("computeSite", 5), ("computeSite", ["here"]), ("class", 5), ("class", [LOCAL])]
)
def test_name_that_is_no_text(key: str, value: object) -> None:
    """A number in place of a name is a complaint, and no traceback."""
    config = (
        make_config({"class": value}) if key == "class" else make_config({"class": LOCAL}, computeSite=value)
    )
    assert key in the_complaint(config)


@pytest.mark.parametrize("section", [{}, {"class": None}, {"class": ""}, {"cores": 1}])
def test_no_class(section: dict[str, object]) -> None:
    """Without a class the complaint shows how one is written."""
    complaint = the_complaint(make_config(section))
    assert "site.here.class" in complaint
    assert "class: lsst.ctrl.bps.parsl.sites.Local" in complaint


@pytest.mark.parametrize("name", ["no.such.module.Class", "NoSuchClass", f"{LOCAL}x", "os.", ".", "a b"])
def test_class_that_cannot_be_imported(name: str) -> None:
    """The complaint has the name and what Python said, whatever the user's module raises."""
    complaint = the_complaint(make_config({"class": name}))
    assert "site.here.class" in complaint
    assert name in complaint


def test_module_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module with a mistake in it is a complaint with the mistake."""
    (tmp_path / "mistaken_site.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    complaint = the_complaint(make_config({"class": "mistaken_site.Site"}))
    assert "ZeroDivisionError" in complaint


@pytest.mark.parametrize("name", [f"{HERE}.Other", "os.path.join", "lsst.ctrl.bps.parsl.sites", "os"])
def test_class_that_is_no_site(name: str) -> None:
    """What is imported must be a subclass of SiteConfig."""
    complaint = the_complaint(make_config({"class": name}))
    assert f"{name} is not a site class" in complaint
    assert "lsst.ctrl.bps.parsl.SiteConfig" in complaint


@pytest.mark.parametrize("name", [f"{HERE}.Abstract", "lsst.ctrl.bps.parsl.SiteConfig"])
def test_class_that_is_not_complete(name: str) -> None:
    """A site class that lacks a method is a complaint with the method's name."""
    assert "select_executor" in the_complaint(make_config({"class": name}))


def test_all_that_is_wrong_with_a_site_comes_at_once() -> None:
    """Each mistake of the section is a complaint of its own."""
    found = site_complaints(make_config({"class": LOCAL, "core": 1, "memory": "lots", "retries": -1}))
    assert len(found) == 4
    assert all(complaint.startswith("site.here.") for complaint in found)


def test_all_that_is_wrong_comes_before_anything_is_made(tmp_path: Path) -> None:
    """``bps submit`` hears of the site, of the log level and of the submit path in one go."""
    (tmp_path / "file").touch()
    config = make_config(
        {"class": LOCAL, "cores": 0}, parsl={"log_level": "LOUD"}, submitPath=str(tmp_path / "file" / "x")
    )
    with pytest.raises(ConfigurationError) as caught:
        ParslService(config).run_submission_checks()
    assert len(caught.value.complaints) == 3
    for word in ("site.here.cores", "parsl.log_level", str(tmp_path / "file")):
        assert word in caught.value.message


def test_memory_limit_that_is_no_number(tmp_path: Path) -> None:
    """BPS's ``memoryLimit`` is the plugin's to apply, and so to check before a job needs it."""
    site = {"class": LOCAL, "cores": 1}
    config = make_config(site, memoryLimit="lots", submitPath=str(tmp_path / "run"))
    with pytest.raises(ConfigurationError, match=r"memoryLimit.*lots"):
        ParslService(config).run_submission_checks()


@pytest.mark.parametrize(
    ("key", "value"), [("uniqProcName", "a/b"), ("uniqProcName", "a\nb"), ("submitPath", "a\nb")]
)
def test_names_of_files(key: str, value: str) -> None:
    """What would be no name of a file, or more than one line of a batch script, is refused by prepare."""
    config = make_config({"class": LOCAL, "cores": 1}, **{key: value})
    with pytest.raises(ConfigurationError, match=rf"{key}: {re.escape(repr(value))}"):
        ParslService(config).prepare(config, GenericWorkflow("w"))


# A user's own class.


def test_own_class_works_unchanged() -> None:
    """A class with ``get_executors`` and ``select_executor`` alone is a site, whatever is in its section."""
    section = {
        "class": f"{HERE}.Mine",
        "queue": "fast",
        "core": 1,
        "anything": {"a": 1},
        "commandPrefix": "x",
    }
    site = SiteConfig.from_config(make_config(section))
    assert isinstance(site, Mine)
    assert [executor.label for executor in site.get_executors()] == ["fast-small", "fast-large"]
    generic = GenericWorkflowJob("j", "l", executable=GenericWorkflowExec("x", "/x"), request_memory=8192)
    assert site.select_executor(ParslJob(generic, site.config, {})) == "fast-large"
    assert site.get_command_prefix() == "x"
    assert site.get_capacity() == {"cpus": None, "memory": None}
    assert site.settings.retries is None
    assert site.get_monitor() is None


@pytest.mark.parametrize("queue", [None, 5])
def test_own_class_may_complain(queue: object) -> None:
    """What a user's class raises about a key is a complaint about the site."""
    complaint = the_complaint(make_config({"class": f"{HERE}.Mine", "queue": queue}))
    assert complaint.startswith("site.here")
    assert "queue" in complaint


def test_own_class_has_the_common_settings_checked() -> None:
    """The keys that every site has are checked for a user's class too; others are not."""
    section = {"class": f"{HERE}.Mine", "queue": "x", "retries": -1, "retrise": 1}
    assert "site.here.retries" in the_complaint(make_config(section))


@pytest.mark.parametrize("resources", [["memory", "cores"], ("memory", "cores"), iter(["memory", "cores"])])
def test_resource_list(resources: Sequence[str]) -> None:
    """A subclass may say which resources its executors are told of."""
    config = make_config({"class": f"{HERE}.Mine", "queue": "x"})
    assert Mine(config, resource_list=resources).resource_list == ["memory", "cores"]
    assert Mine(config).resource_list == []


def test_site_subconfig_is_the_section() -> None:
    """``get_site_subconfig`` is for callers outside of the package too."""
    section = SiteConfig.get_site_subconfig(make_config({"class": LOCAL, "cores": 5}))
    assert isinstance(section, BpsConfig)
    assert section["cores"] == 5


# What Parsl gets.


def test_parsl_is_left_nothing_of_what_the_driver_does() -> None:
    """Retries, and the log that is most of Parsl's cost, are off; its files are in the submit directory."""
    config = get_parsl_config(make_config({"class": LOCAL, "cores": 3}))
    assert isinstance(config, Config)
    assert config.retries == 0
    assert config.initialize_logging is False
    assert config.run_dir == "/runs/x/runinfo"
    (executor,) = config.executors
    assert isinstance(executor, ThreadPoolExecutor)
    assert executor.max_threads == 3


def test_run_dir_may_be_anywhere() -> None:
    """An absolute ``run_dir`` is taken as it is."""
    section = {"class": LOCAL, "cores": 1, "run_dir": "/scratch/x"}
    assert get_parsl_config(make_config(section)).run_dir == "/scratch/x"


def test_local_site() -> None:
    """A thread for each core, all jobs on the one executor, and the capacity of the settings."""
    site = Local(make_config({"class": LOCAL, "cores": "8", "memory": "16 GB"}))
    (executor,) = site.get_executors()
    assert executor.label == site.select_executor(ParslJob(GenericWorkflowJob("j", "l"), site.config, {}))
    assert site.get_capacity() == {"cpus": 8, "memory": 16384.0}


def test_command_prefix_is_bash_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """BPS's variables are put in; bash's own braces and dollars stay, and nothing is read twice."""
    monkeypatch.setenv("V_HERE", "$(touch x)")
    prefix = 'source {stack}/setup.sh; f() { echo "${V_HERE} $V_HERE {a,b} ${#} {unknown}"; }'
    section = {"class": LOCAL, "cores": 1, "stack": "/opt/{version}", "commandPrefix": prefix}
    site = SiteConfig.from_config(make_config(section, version="w_1"))
    expected = 'source /opt/w_1/setup.sh; f() { echo "${V_HERE} $V_HERE {a,b} ${#} {unknown}"; }'
    assert site.get_command_prefix() == expected


def test_settings_may_name_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value may come from the configuration or the environment, as everywhere in BPS."""
    monkeypatch.setenv("V_CORES", "6")
    assert Local(make_config({"class": LOCAL, "cores": "${V_CORES}"})).settings.cores == 6
    assert Local(make_config({"class": LOCAL, "cores": "{myCores}"}, myCores=7)).settings.cores == 7


def test_reading_a_site_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Checks are made several times: they say nothing where all is well."""
    with caplog.at_level(logging.WARNING):
        assert site_complaints(make_config({"class": LOCAL, "cores": 1})) == []
    assert caplog.records == []
