# SPDX-License-Identifier: BSD-3-Clause
"""What the jobs of a run need to run: its sites, Parsl on them, and their tasks."""

from __future__ import annotations

from lsst.ctrl.bps import BpsConfig

from ..environment import add_prefixes
from ..errors import ConfigurationError
from ..paths import SubmitPaths
from ..plan.plan import Plan
from .backend import ParslBackend
from .sites import Sites
from .tasks import TaskMaker

__all__ = ["RunSupplies"]


class RunSupplies:
    """What the jobs of a run need.

    Parameters
    ----------
    plan : `Plan`
        What to run, as far as it is known.
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    paths : `SubmitPaths`
        Where it is.

    Raises
    ------
    ConfigurationError
        Raised if there is no place to run.
    """

    def __init__(self, plan: Plan, config: BpsConfig, paths: SubmitPaths) -> None:
        self._plan = plan
        self._config = config
        self._paths = paths
        self.renew()

    def renew(self) -> None:
        """Make the sites that the jobs of the plan name, in place of those before."""
        try:
            self.sites = Sites.from_config(self._config, self._plan.sites)
        except ConfigurationError as exc:
            where = self._paths.config
            raise ConfigurationError([f"{said} (in {where})" for said in exc.complaints]) from exc
        self._names = set(self._plan.sites)
        self._in_order = self._has_priorities()
        if self._plan.payload is not None:
            # When the run was submitted, nobody knew of the sites that its jobs name.
            sites = {name: self.sites.by_name(name) for name in self._plan.sites}
            prefixes = {name: site.get_command_prefix() for name, site in sites.items()}
            for name in add_prefixes(self._paths.environment, prefixes):
                sites[name].write_secrets(self._paths)

    def suffice(self) -> bool:
        """Tell whether the backend that was made last can run all jobs of the plan.

        Returns
        -------
        suffices : `bool`
            `False` where there are jobs now that name other sites, or have
            priorities where none had.
        """
        return self._names >= set(self._plan.sites) and (self._in_order or not self._has_priorities())

    def backend(self) -> ParslBackend:
        """Make a backend on the sites.

        Returns
        -------
        backend : `ParslBackend`
            Between the driver and Parsl.
        """
        plan = self._plan
        return ParslBackend(
            self.sites, self._paths, plan.header["cwd"], in_order=self._in_order, plan_id=plan.id
        )

    def maker(self) -> TaskMaker:
        """Make what makes the tasks.

        Returns
        -------
        maker : `TaskMaker`
            Of all jobs that the plan has now.
        """
        return TaskMaker(self._plan, self._config, self.sites, self._paths)

    def most_memory(self, job: int) -> float | None:
        """Return the memory that a job may grow to; BPS's memoryLimit is the plugin's to apply.

        Parameters
        ----------
        job : `int`
            Number of the job.

        Returns
        -------
        most : `float` or `None`
            In MB; `None` where there is no limit.
        """
        template = self._plan.template(job)
        site = self.sites.by_name((template.fields or {}).get("compute_site"))
        section = "finalJob" if template.final else template.label
        where = {"curr_site": site.name or "", "curr_pipetask": section, "curr_cluster": section}
        _, limit = self._config.search("memoryLimit", opt={"curvals": where})
        # Beside the driver a job has what the submit host has.
        most = None if template.on_submit_host else site.get_capacity()["memory"]
        return min((float(value) for value in (limit, most) if value), default=None)

    def _has_priorities(self) -> bool:
        return any((template.fields or {}).get("priority") for template in self._plan.templates)
