# SPDX-License-Identifier: BSD-3-Clause
"""The interface of a site: where and how jobs run."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from lsst.utils import doImport

import parsl.config
from lsst.ctrl.bps import BpsConfig
from parsl.addresses import address_by_hostname
from parsl.executors.base import ParslExecutor

from .batch.parsl_api import require
from .configuration import get_workflow_name
from .errors import ConfigurationError
from .files import make_directory
from .paths import SubmitPaths
from .settings.gen3 import PARSL_CONFIG
from .settings.model import SiteSettings, keys_of, read_settings
from .settings.section import EXPORT_ENVIRONMENT, get_text, site_name, site_section

if TYPE_CHECKING:
    from parsl.monitoring import MonitoringHub

    from .job import ParslJob

__all__ = ["SiteConfig"]

require()


class SiteConfig(ABC):
    """Base class of all sites.

    A subclass defines `get_executors` and `select_executor`; all else has a
    default. A subclass that sets ``settings_model`` has its section of the
    YAML checked; the values are then in ``settings``.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    resource_list : `~collections.abc.Iterable` [`str`], optional
        Which of ``memory``, ``cores``, ``disk``, ``running_time_min`` and
        ``priority`` the executors are told of each job; none by default,
        since most executors refuse them.

    Raises
    ------
    ConfigurationError
        Raised if the site's settings are wrong.
    """

    settings_model: ClassVar[type[SiteSettings] | None] = None
    """Model of the site's section; `None` leaves the section unchecked."""

    defaults: ClassVar[Mapping[str, object]] = {}
    """Settings that the class knows, as they would stand in the YAML: the
    values of a facility. Those of the user's section come first."""

    bps_settings: ClassVar[Mapping[str, str]] = {}
    """Settings that stand for one of BPS's, such as the queue of a batch
    system: where the section does not set them, BPS's is taken."""

    def __init__(self, config: BpsConfig, resource_list: Iterable[str] | None = None) -> None:
        self.config = config
        self.name = site_name(config)
        self.where = f"site.{self.name}" if self.name else PARSL_CONFIG
        self.site = self.get_site_subconfig(config)
        self.resource_list: list[str] = list(resource_list or ())
        self.settings = self._read_settings()

    def _read_settings(self) -> SiteSettings:
        model = self.settings_model or SiteSettings
        known = keys_of(model)
        # Of what is not ours only the name is of interest.
        section = {key: self._value(key) if key in known else "" for key in self.site}
        if EXPORT_ENVIRONMENT in self.site:
            section["environment"] = self.site[EXPORT_ENVIRONMENT]
            del section[EXPORT_ENVIRONMENT]
        elif isinstance(section.get("environment"), Mapping):
            del section["environment"]  # The variables of jobs, which BPS reads.
        if self.settings_model is None:
            section = {key: value for key, value in section.items() if key in known}
        given = {key: value for key, value in section.items() if value is not None}
        for setting, key in self.bps_settings.items():
            where = {"curr_site": self.name} if self.name else {}
            found, value = self.config.search(key, opt={"curvals": where})
            if found and value not in (None, "") and setting not in given:
                given[setting] = value
        self.given_keys = frozenset(given)
        return read_settings(model, {**self.defaults, **given}, self.where, _keys_of_our_sites())

    def _value(self, key: str) -> object:
        """Return a setting, with what it names put in.

        BPS's own replacement takes any braces for a variable, and a command
        prefix is bash code, which has braces of its own. Its environment
        variables are left to bash: there their values are no code.
        """
        options = {"replaceVars": False, "expandEnvVars": key != "commandPrefix"}
        _, value = self.site.search(key, opt=options)
        if isinstance(value, BpsConfig):
            return value.toDict()
        if isinstance(value, str):
            if (match := re.fullmatch(r"{([A-Za-z_]\w*)}", value)) and key != "commandPrefix":
                # Nothing else: the value keeps its type.
                found, variable = self.config.search(match.group(1), opt={"searchobj": self.site})
                return variable if found else value
            return re.sub(r"(?<!\$){([A-Za-z_]\w*)}", self._variable, value)
        return value

    def _variable(self, match: re.Match[str]) -> str:
        found, value = self.config.search(match.group(1), opt={"searchobj": self.site})
        return str(value) if found else match.group()

    @classmethod
    def get_site_subconfig(cls, config: BpsConfig) -> BpsConfig:
        """Return the section of the site that the run uses.

        Parameters
        ----------
        config : `lsst.ctrl.bps.BpsConfig`
            Configuration of the run.

        Returns
        -------
        site : `lsst.ctrl.bps.BpsConfig`
            The section ``site.<computeSite>``.

        Raises
        ------
        ConfigurationError
            Raised if there is none.
        """
        return site_section(config)

    @classmethod
    def from_config(cls, config: BpsConfig) -> SiteConfig:
        """Make the site that the configuration names.

        Parameters
        ----------
        config : `lsst.ctrl.bps.BpsConfig`
            Configuration of the run.

        Returns
        -------
        site : `SiteConfig`
            An instance of ``site.<computeSite>.class``.

        Raises
        ------
        ConfigurationError
            Raised if the class is not named, cannot be imported or is no
            `SiteConfig`, or if its settings are wrong.
        """
        section = cls.get_site_subconfig(config)
        name_of_site = site_name(config)
        where = f"site.{name_of_site}.class" if name_of_site is not None else PARSL_CONFIG
        name = get_text(section, "class", where)
        if not name:
            raise ConfigurationError(
                f"{where}: missing, and it is required, as in 'class: lsst.ctrl.bps.parsl.sites.Local'."
            )
        try:
            site_class = doImport(name)
        except Exception as exc:  # Whatever the user's module raises.
            raise ConfigurationError(f"{where}: cannot import {name}: {type(exc).__name__}: {exc}.") from exc
        if not (isinstance(site_class, type) and issubclass(site_class, SiteConfig)):
            raise ConfigurationError(
                f"{where}: {name} is not a site class; it must be a subclass of "
                "lsst.ctrl.bps.parsl.SiteConfig."
            )
        try:
            return site_class(config)
        except (KeyError, RuntimeError, TypeError, ValueError) as exc:
            reason = exc.args[0] if exc.args else exc
            raise ConfigurationError(f"{where.removesuffix('.class')}: {reason}") from exc

    @abstractmethod
    def get_executors(self) -> list[ParslExecutor]:
        """Return the executors that jobs can run on.

        Returns
        -------
        executors : `list` [`parsl.executors.base.ParslExecutor`]
            Executors, each with a label of its own.
        """
        raise NotImplementedError

    @abstractmethod
    def select_executor(self, job: ParslJob) -> str:
        """Choose the executor of a job.

        Parameters
        ----------
        job : `ParslJob`
            The job; ``job.generic`` is BPS's description of it.

        Returns
        -------
        label : `str`
            Label of one of the executors.
        """
        raise NotImplementedError

    def get_address(self) -> str | None:
        """Return the address that workers use to reach this host.

        Returns
        -------
        address : `str` or `None`
            By default, what the host's name resolves to; with `None`,
            executors that can have the workers try all addresses.
        """
        address: str = address_by_hostname()
        return address

    def get_command_prefix(self) -> str:
        """Return bash code to run before each command.

        Returns
        -------
        prefix : `str`
            The setting ``commandPrefix``. The environment (setting
            ``environment``) is no part of it: it travels in a file that only
            its owner can read.
        """
        return self.settings.commandPrefix

    def get_monitor(self) -> MonitoringHub | None:
        """Return Parsl's monitoring, where it is wanted.

        Returns
        -------
        monitor : `parsl.monitoring.MonitoringHub` or `None`
            `None` unless ``monitorEnable`` is set.
        """
        if not self.settings.monitorEnable:
            return None
        from parsl.monitoring import MonitoringHub

        path = self._in_submit_path(self.settings.monitorFilename)
        make_directory(os.path.dirname(path))
        return MonitoringHub(
            workflow_name=get_workflow_name(self.config),
            resource_monitoring_interval=self.settings.monitorInterval,
            logging_endpoint=f"sqlite:///{path}",
        )

    def get_parsl_config(self) -> parsl.config.Config:
        """Return the configuration of Parsl.

        Returns
        -------
        config : `parsl.config.Config`
            The executors, and none of what Parsl would do about retries,
            repeated tasks and logs: the driver does that, for each job.
        """
        return parsl.config.Config(
            executors=self.get_executors(),
            monitoring=self.get_monitor(),
            retries=0,
            run_dir=self._in_submit_path(self.settings.run_dir),
            initialize_logging=False,
        )

    def remarks(self) -> list[str]:
        """Say how settings were understood that people often get wrong.

        Returns
        -------
        remarks : `list` [`str`]
            Sentences; none by default.
        """
        return []

    def is_surplus(self) -> bool:
        """Tell whether this process is one too many.

        Returns
        -------
        surplus : `bool`
            Whether another one does the same.
        """
        return False

    def check(self) -> None:
        """Make the executors, to see whether they can be made.

        Raises
        ------
        ConfigurationError
            Raised if they cannot.
        """
        try:
            executors = self.get_executors()
        except (KeyError, RuntimeError, TypeError, ValueError) as exc:
            reason = exc.args[0] if exc.args else exc
            raise ConfigurationError(f"{self.where}: {reason}") from exc
        if self.settings.monitorEnable and find_spec("sqlalchemy") is None:
            raise ConfigurationError(
                f"{self.where}.monitorEnable: Parsl's monitoring is not installed. Install it with: "
                "pip install 'parsl[monitoring]'."
            )
        if not executors:
            raise ConfigurationError(f"{self.where}: {type(self).__name__} has no executor.")

    def write_secrets(self, paths: SubmitPaths) -> None:  # noqa: B027  # Most have none.
        """Write what only this run's processes may know; called by prepare.

        Parameters
        ----------
        paths : `SubmitPaths`
            Where to.
        """

    def get_capacity(self) -> dict[str, float | None]:
        """Return what the jobs of a node may have in total.

        Returns
        -------
        capacity : `dict` [`str`, `float`]
            ``cpus`` and ``memory`` (MB), and perhaps ``walltime`` (seconds
            that a worker lasts), each `None` where there is no limit.
        """
        return {"cpus": None, "memory": None}

    def _in_submit_path(self, path: str) -> str:
        return os.path.join(SubmitPaths(self.config["submitPath"]).submit_path, path)


def _keys_of_our_sites() -> Collection[str]:
    """Return the settings of all our site classes, which build on this module."""
    module = import_module(f"{__package__}.sites.foreign_keys")
    keys: Collection[str] = module.owners()
    return keys


def site_complaints(config: BpsConfig) -> list[str]:
    """Check the site that the configuration names.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.

    Returns
    -------
    complaints : `list` [`str`]
        What is wrong; empty where nothing is.
    """
    try:
        site = SiteConfig.from_config(config)
        site.check()
    except ConfigurationError as exc:
        return exc.complaints
    return []
