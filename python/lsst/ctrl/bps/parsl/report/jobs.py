# SPDX-License-Identifier: BSD-3-Clause
"""The jobs of a run one by one, as BPS wants them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import overload

from lsst.ctrl.bps import WmsJobReport, WmsStates

from ..plan.plan import JobKind, Plan
from ..run.state import RunState

__all__ = ["JobReports"]


class JobReports(Sequence[WmsJobReport]):
    """Reports of a run's jobs, each made when it is asked for.

    Reports of runs with many jobs are about all of them; scripts look at some.

    Parameters
    ----------
    plan : `Plan`
        The plan.
    state : `RunState`
        State of the run.
    """

    def __init__(self, plan: Plan, state: RunState) -> None:
        self._plan = plan
        self._state = state

    @cached_property
    def _numbers(self) -> array[int]:
        """Numbers of the jobs that run a command, in the order of the plan."""
        runs = [template.kind == JobKind.PAYLOAD for template in self._plan.templates]
        return array("I", (job for job, template in enumerate(self._plan.template_of) if runs[template]))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> WmsJobReport: ...

    @overload
    def __getitem__(self, index: slice) -> list[WmsJobReport]: ...

    def __getitem__(self, index: int | slice) -> WmsJobReport | list[WmsJobReport]:
        if isinstance(index, slice):
            return [self._report(job) for job in self._numbers[index]]
        return self._report(self._numbers[index])

    def _report(self, number: int) -> WmsJobReport:
        job = self._plan.job(number)
        return WmsJobReport(
            wms_id=f"{self._plan.run}.{number}",
            name=job.name,
            label=job.template.label,
            state=WmsStates[self._state.state(number).name],
        )
