# SPDX-License-Identifier: BSD-3-Clause
"""What is said of a run: computed from its plan and journals."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lsst.ctrl.bps import WmsRunReport, WmsSpecificInfo, WmsStates

from ..batch.queue_text import queue_lines
from ..errors import DamagedFileError, StorageError
from ..paths import SubmitPaths
from ..plan.logs import log_stem
from ..plan.plan import Plan
from ..run.holder import Holder
from ..run.job_state import JobState
from ..run.liveness import living_holder
from ..run.registry import Registry
from ..run.replay import replay
from ..run.state import RunState
from .escape import ascii_text
from .excerpt import last_lines, said
from .jobs import JobReports
from .usage import LabelUsage, measure, usage_lines

__all__ = ["RunView", "run_report"]

_HAS_SITE = "site" in {field.name for field in dataclasses.fields(WmsRunReport)}
"""Whether BPS shows a run's site."""


@dataclass
class RunView:
    """A run as it can be seen from outside.

    Parameters
    ----------
    paths : `SubmitPaths`
        Where the run is.
    registry : `Registry`, optional
        The user's runs, for its shortest id.
    """

    paths: SubmitPaths
    registry: Registry = field(default_factory=Registry)

    @cached_property
    def plan(self) -> Plan:
        """The plan."""
        return Plan(self.paths.plan)

    @cached_property
    def holder(self) -> Holder | None:
        """The driver, where it is alive."""
        return living_holder(self.paths.lock)

    @cached_property
    def state(self) -> RunState:
        """The state; a dead driver has no job that runs."""
        # First who drives it: what happens in between is then no surprise.
        alive = self.holder is not None
        state = replay(self.plan, self.paths, live=alive)
        if not alive:
            state.release()
        return state

    @cached_property
    def usage(self) -> list[LabelUsage]:
        """What the jobs of each label used."""
        return measure(self.plan, self.paths, self.state, live=self.holder is not None)

    @cached_property
    def blocks(self) -> list[str]:
        """What the blocks do, in sentences; Slurm is asked. A run that has ended has none."""
        has_ended = self.holder is None and self.state.finished is not None
        return [] if has_ended else queue_lines(self.paths.pilots)

    @cached_property
    def shortest_id(self) -> str:
        """The run's id, or its submit path where the id is not its alone."""
        return self.registry.shortest_id(self.plan.run, self.paths.submit_path)

    @property
    def what_is_not_known(self) -> str:
        """What cannot be said yet of a run that is going; nothing where all is known."""
        lazy = self.plan.lazy_job
        if lazy is None or not self.state.awaits_payload:
            return ""
        name = self.plan.job(lazy).name
        return f"The number of jobs is not known yet: {name} adds them to the run when it ends."

    def _where_it_is_driven(self, holder: Holder) -> str:
        """Say where to look for a driver that is not among the processes here."""
        return "" if holder.is_seen_here() else f"Run {self.plan.run} is driven on {holder}."

    @property
    def resume_command(self) -> str:
        """What to type to resume it."""
        return f"bps restart --id {shlex.quote(self.shortest_id)}"

    @property
    def wms_state(self) -> WmsStates:
        """State of the run."""
        state = self.state
        if self.holder is not None:
            return WmsStates.RUNNING
        if state.finished is not None:
            return WmsStates[state.finished]
        return WmsStates.FAILED if state.sessions else WmsStates.READY

    @property
    def advice(self) -> str:
        """What to do next, in a sentence; nothing where all is well."""
        run, state = self.plan.run, self.state
        if self.holder is not None:
            return " ".join(filter(None, [self._where_it_is_driven(self.holder), self.what_is_not_known]))
        resume = self.resume_command
        if state.finished is None and not state.sessions:
            return f"Run {run} is prepared and was never started. Start it with: {resume}"
        if state.finished is None:
            end = "its driver was stopped" if state.stopped else "its driver died"
            return f"Run {run} is not finished: {end}. Resume it with: {resume}"
        if state.finished != JobState.SUCCEEDED.name:
            return f"Run the jobs of {run} that did not succeed again with: {resume}"
        return ""


def failure_lines(view: RunView, most: int = 10) -> list[str]:
    """Describe the jobs that failed for good.

    Parameters
    ----------
    view : `RunView`
        The run.
    most : `int`, optional
        Number of jobs to describe.

    Returns
    -------
    lines : `list` [`str`]
        Name, exit code, log and its last lines of each.
    """
    state = view.state
    lines = []
    for job in sorted(state.exit_codes)[:most]:
        planned = view.plan.job(job)
        stem = log_stem(view.plan, view.paths, planned, state.attempts[job])
        why, code = state.reasons[job], f"exit code {state.exit_codes[job]}"
        lines.append(f"{planned.name}: {why if code in why else f'{why} ({code})'}")
        lines.append(f"  {stem}.stderr")
        read = said if planned.template.lazy else last_lines
        lines.extend(f"  | {line}" for line in read(Path(f"{stem}.stderr")))
    if len(state.exit_codes) > most:
        lines.append(f"... and {len(state.exit_codes) - most} more jobs")
    return lines


def run_report(view: RunView, *, exit_codes: bool = False, usage: bool = False) -> WmsRunReport:
    """Report on a run as BPS wants it.

    Parameters
    ----------
    view : `RunView`
        The run.
    exit_codes : `bool`, optional
        Whether the exit codes of the jobs that failed are.
    usage : `bool`, optional
        Whether it says all that there is to say of one run: each job, what
        the blocks do, and what the jobs used.

    Returns
    -------
    report : `lsst.ctrl.bps.WmsRunReport`
        The report.
    """
    plan, state = view.plan, view.state
    attributes = plan.header["attributes"]
    counted = state.label_counts().items()
    by_label = {ascii_text(label): _by_wms_state(counts) for label, counts in counted}

    def attribute(name: str, default: str = "") -> Any:
        value = attributes.get(name, default)
        return ascii_text(value) if isinstance(value, str) else value

    report = WmsRunReport(
        wms_id=ascii_text(view.shortest_id),
        global_wms_id=plan.run,
        path=str(view.paths.submit_path),
        label=attribute("bps_run"),
        run=attribute("bps_run", plan.run),
        project=attribute("bps_project"),
        campaign=attribute("bps_campaign"),
        payload=attribute("bps_payload"),
        operator=attribute("bps_operator"),
        run_summary=_run_summary(by_label),
        state=view.wms_state,
        jobs=JobReports(plan, state) if usage else None,
        job_state_counts=_by_wms_state(state.totals()),
        job_summary=by_label,
        specific_info=WmsSpecificInfo(),
    )
    if _HAS_SITE:
        report.site = attributes.get("bps_runsite")
    report.total_number_jobs = sum(sum(counts.values()) for counts in by_label.values())
    if exit_codes:
        report.exit_code_summary = _exit_codes(view)
    if advice := view.advice:
        report.specific_info.add_message("{advice}", advice=advice)
    if usage and (blocks := view.blocks):
        report.specific_info.add_message("{blocks}", blocks="\n".join(blocks))
    if complaint := _complaint(view):
        report.specific_info.add_message("{complaint}", complaint=complaint)
    if usage and (text := _usage_text(view)):
        report.specific_info.add_message("{usage}", usage=text)
    return report


def _complaint(view: RunView) -> str:
    """Return why the job that prepares the others did not; it is all that the run has come to."""
    lazy, state = view.plan.lazy_job, view.state
    if lazy is None or lazy not in state.exit_codes:
        return ""
    job = view.plan.job(lazy)
    lines = said(Path(f"{log_stem(view.plan, view.paths, job, view.state.attempts[job.index])}.stderr"))
    return "\n".join([f"{job.name} failed: {state.reasons[lazy]}", *(f"  | {line}" for line in lines)])


def _usage_text(view: RunView) -> str:
    try:
        return "\n".join(usage_lines(view.usage))
    except (DamagedFileError, StorageError) as exc:
        # What the jobs came to is known all the same.
        return f"What the jobs used is not known: {exc.message}"


def _run_summary(by_label: dict[str, dict[WmsStates, int]]) -> str | None:
    if any(character in label for label in by_label for character in ":;"):
        return None  # BPS takes the text apart at these.
    return ";".join(f"{label}:{sum(counts.values())}" for label, counts in by_label.items())


def _by_wms_state(counts: dict[JobState, int]) -> dict[WmsStates, int]:
    result = dict.fromkeys(WmsStates, 0)
    for state, count in counts.items():
        result[WmsStates[state.name]] = count
    return result


def _exit_codes(view: RunView) -> dict[str, list[int]]:
    codes: dict[str, list[int]] = {ascii_text(label): [] for label in view.state.label_counts()}
    for job, code in sorted(view.state.exit_codes.items()):
        codes[ascii_text(view.plan.template(job).label)].append(code)
    return codes
