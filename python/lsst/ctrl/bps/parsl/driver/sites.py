# SPDX-License-Identifier: BSD-3-Clause
"""The sites of a run: the one that it was submitted to, and those that jobs name."""

from __future__ import annotations

from collections.abc import Iterable

from lsst.ctrl.bps import BpsConfig
from parsl.config import Config
from parsl.executors.base import ParslExecutor

from ..errors import ConfigurationError
from ..job import ParslJob
from ..settings.section import config_for_site
from ..site import SiteConfig

__all__ = ["Sites"]


class Sites:
    """All sites that the jobs of a run use.

    Parameters
    ----------
    main : `SiteConfig`
        The run's own site.
    *others : `SiteConfig`
        The others.
    """

    def __init__(self, main: SiteConfig, *others: SiteConfig) -> None:
        self.main = main
        self.config = main.config
        self._sites = {site.name or "": site for site in (*others, main)}
        self._labels: dict[tuple[str, str], str] = {}
        self._site_of: dict[str, SiteConfig] = {}

    @classmethod
    def from_config(cls, config: BpsConfig, names: Iterable[str] = ()) -> Sites:
        """Make the sites that the configuration describes.

        Parameters
        ----------
        config : `lsst.ctrl.bps.BpsConfig`
            Configuration of the run.
        names : `~collections.abc.Iterable` [`str`], optional
            Names of the sites that jobs name.

        Returns
        -------
        sites : `Sites`
            The sites.
        """
        main = SiteConfig.from_config(config)
        others = [name for name in names if name and name != main.name]
        return cls(main, *(SiteConfig.from_config(config_for_site(config, name)) for name in others))

    def of_job(self, job: ParslJob) -> SiteConfig:
        """Return the site of a job.

        Parameters
        ----------
        job : `ParslJob`
            The job.

        Returns
        -------
        site : `SiteConfig`
            The one that it names, or that of the run.
        """
        return self.by_name(job.generic.compute_site)

    def by_name(self, name: str | None) -> SiteConfig:
        """Return a site.

        Parameters
        ----------
        name : `str` or `None`
            Its name.

        Returns
        -------
        site : `SiteConfig`
            The site; that of the run where there is none of that name.
        """
        return self._sites.get(name or "", self.main)

    def executor_of(self, job: ParslJob) -> str:
        """Return the label of a job's executor.

        Parameters
        ----------
        job : `ParslJob`
            The job.

        Returns
        -------
        label : `str`
            Its label, as `parsl_config` gave it.

        Raises
        ------
        ConfigurationError
            Raised if the site class names an executor that it did not make.
        """
        site = self.of_job(job)
        label = site.select_executor(job)
        try:
            return self._labels[site.name or "", label]
        except KeyError:
            known = ", ".join(known for name, known in self._labels if name == (site.name or ""))
            raise ConfigurationError(
                f"{type(site).__name__}.select_executor returned {label!r} for a job of "
                f"{job.generic.label}; the site's executors are: {known}."
            ) from None

    def site_of_executor(self, label: str) -> SiteConfig:
        """Return the site that made an executor.

        Parameters
        ----------
        label : `str`
            The executor's label.

        Returns
        -------
        site : `SiteConfig`
            The site.
        """
        return self._site_of[label]

    def parsl_config(self) -> tuple[Config, list[ParslExecutor]]:
        """Make the configuration of Parsl.

        Returns
        -------
        config : `parsl.config.Config`
            That of the run's own site.
        others : `list` [`parsl.executors.base.ParslExecutor`]
            The other sites' executors. Where two sites have executors of one
            label, the name of the site is put before the second one's.
        """
        self._labels.clear()
        self._site_of.clear()
        config = self.main.get_parsl_config()
        for executor in config.executors:
            self._add(self.main, executor)
        others = []
        for site in self._sites.values():
            if site is not self.main:
                for executor in site.get_executors():
                    self._add(site, executor)
                    others.append(executor)
        return config, others

    def _add(self, site: SiteConfig, executor: ParslExecutor) -> None:
        label = executor.label
        while executor.label in self._site_of:
            executor.label = f"{site.name}-{executor.label}"
        self._labels[site.name or "", label] = executor.label
        self._site_of[executor.label] = site
