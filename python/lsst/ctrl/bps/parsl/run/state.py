# SPDX-License-Identifier: BSD-3-Clause
"""The state of a run: what the plan and the journal come to.

There is one way to change it, `RunState.apply` of an event, for the driver
that lives through the run and for whoever reads about it afterwards. No step
is recursive, and each job is visited once for each of its parents.
"""

from __future__ import annotations

from array import array
from typing import Any

from ..plan.plan import JobKind, Plan
from .job_state import JobState

__all__ = ["RunState"]


_FIRST_ENDED = int(JobState.SUCCEEDED)


class RunState:
    """State of each job of a run.

    Parameters
    ----------
    plan : `Plan`
        What to run; its second part counts from when a driver took it up.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.has_payload = self.payload_is_recorded = False
        """Whether the plan's second part counts, and a driver wrote that down."""
        self.states = bytearray(plan.parts[0].jobs)
        self.attempts = array("H", bytes(2 * len(self.states)))
        """Number of times that a job was given to Parsl."""
        self.failures: dict[int, int] = {}
        """Failures that count against a job's retries, in this session."""
        self.losses: dict[int, int] = {}
        """Attempts of which nothing is known, in this session."""
        self.memory: dict[int, int] = {}
        """Grown memory requests, in MB."""
        self.exit_codes: dict[int, int] = {}
        """Exit codes of the jobs that failed for good."""
        self.reasons: dict[int, str] = {}
        """Why they did."""
        self.recovered: list[int] = []
        """Jobs that a node saw succeed and no driver wrote down."""
        self.unknown: dict[int, int] = {}
        """Last attempts that nodes began and no driver wrote down."""
        self.sessions = 0
        self.finished: str | None = None
        self.stopped: str | None = None
        self.cancelled = False
        self._touched = False
        self._newly_ready: list[int] = []
        self._read_templates(plan.parts[0].templates)
        self._waiting = array("I", bytes(4 * len(self.states)))
        self._outdated: dict[int, int] = {}
        """Last attempts of final jobs that gathered less than there is now."""
        self._finals_released = False
        self._open = self._open_final = 0
        self.counts: list[list[int]] = []
        """Number of jobs by label and state."""
        self._reset()

    def _read_templates(self, count: int) -> None:
        """Note what the templates say of jobs, so many of them."""
        templates = self.plan.templates[:count]
        self._label_numbers = {label: number for number, label in enumerate(self.plan.labels)}
        self._labels = [self._label_numbers[template.label] for template in templates]
        self._payload = [template.kind == JobKind.PAYLOAD for template in templates]
        self._has_ordering = not all(self._payload)
        self._final = [template.final for template in templates]
        self._tolerant = [t.kind == JobKind.GROUP and not t.blocking for t in templates]
        template_of = self.plan.template_of[: len(self.states)]
        self._final_jobs = [job for job, template in enumerate(template_of) if self._final[template]]

    # Reading.

    def state(self, job: int) -> JobState:
        """Return the state of a job.

        Parameters
        ----------
        job : `int`
            Number of the job.

        Returns
        -------
        state : `JobState`
            Its state.
        """
        return JobState(self.states[job])

    def label_counts(self) -> dict[str, dict[JobState, int]]:
        """Count jobs by label and state; only those that run a command.

        Returns
        -------
        counts : `dict` [`str`, `dict` [`JobState`, `int`]]
            Labels in the order of the pipeline.
        """
        templates = self.plan.templates[: len(self._labels)]
        used = {template.label for template in templates if template.kind == JobKind.PAYLOAD}
        return {
            label: {state: self.counts[number][state] for state in JobState}
            for label, number in self._label_numbers.items()
            if label in used
        }

    def totals(self) -> dict[JobState, int]:
        """Count jobs by state; only those that run a command.

        Returns
        -------
        counts : `dict` [`JobState`, `int`]
            The counts.
        """
        return {state: sum(counts[state] for counts in self.label_counts().values()) for state in JobState}

    def take_ready(self) -> list[int]:
        """Return the jobs that became ready since the last call.

        Returns
        -------
        jobs : `list` [`int`]
            Their numbers.
        """
        ready, self._newly_ready = self._newly_ready, []
        return ready

    @property
    def awaits_payload(self) -> bool:
        """Whether more jobs may follow than are known."""
        lazy = self.plan.lazy_job
        return lazy is not None and not self.has_payload and self.states[lazy] <= JobState.SUCCEEDED

    @property
    def lacks_payload(self) -> bool:
        """Whether the job that adds the payload has succeeded, and its jobs do not count yet."""
        return self.awaits_payload and self.states[self.plan.lazy_job or 0] == JobState.SUCCEEDED

    @property
    def is_done(self) -> bool:
        """Whether every job has ended, and no more are to come."""
        return self._open == 0 and self._open_final == 0 and (self.cancelled or not self.lacks_payload)

    def outcome(self) -> JobState:
        """Return what the run ends as, where every job has ended.

        Returns
        -------
        state : `JobState`
            SUCCEEDED where all jobs did, cancelled or not; FAILED or DELETED.
        """
        succeeded = sum(counts[JobState.SUCCEEDED] for counts in self.counts)
        if succeeded == len(self.plan) and not self.lacks_payload:
            return JobState.SUCCEEDED
        if self.cancelled:
            return JobState.DELETED
        return JobState.FAILED if self.exit_codes else JobState.SUCCEEDED

    # Changing.

    def apply(self, event: dict[str, Any]) -> None:
        """Change the state by an event.

        Parameters
        ----------
        event : `dict`
            An event of the driver or of a node.
        """
        getattr(self, f"_on_{event['e']}")(event)
        self._touched = True

    def _on_session(self, event: dict[str, Any]) -> None:
        self.recovered.clear()
        self.unknown.clear()
        self.sessions = event["n"]
        self.finished = self.stopped = None
        self.cancelled = False
        if self._touched:  # Otherwise it is as it was made.
            self._reset()

    def _on_payload(self, event: dict[str, Any]) -> None:
        if self.plan.add_payload().id != event["plan"]:
            raise KeyError(event["plan"])
        self.payload_is_recorded = True
        if not self.has_payload:
            self._take_up_payload()

    def _take_up_payload(self) -> None:
        """Have the jobs of the plan's second part count."""
        first, more = len(self.states), self.plan.add_payload().jobs
        self.has_payload = True
        self.states.extend(bytes(more))
        self.attempts.frombytes(bytes(2 * more))
        self._waiting.frombytes(bytes(4 * more))
        self._read_templates(len(self.plan.templates))
        self.counts += [[0] * len(JobState) for _ in range(len(self._label_numbers) - len(self.counts))]
        for job in range(first, first + more):
            self._begin(job, done=False)
        self._open_final_jobs()

    def _on_attempts(self, event: dict[str, Any]) -> None:
        for job, attempts in event["j"]:
            self.attempts[job] = attempts

    def _on_pending(self, event: dict[str, Any]) -> None:
        for job in event["j"]:
            self.attempts[job] += 1
            self._set(job, JobState.PENDING)

    def _on_ok(self, event: dict[str, Any]) -> None:
        for record in event["j"]:
            self._end(record[0], JobState.SUCCEEDED)

    def _on_fail(self, event: dict[str, Any]) -> None:
        job = event["j"]
        if event.get("memory"):
            self.memory[job] = event["memory"]
        if self.states[job] >= _FIRST_ENDED:
            return
        if event["charged"]:
            self.failures[job] = self.failures.get(job, 0) + 1
        elif event.get("lost"):
            self.losses[job] = self.losses.get(job, 0) + 1
        if event["retry"]:
            self._set(job, JobState.READY)
            self._newly_ready.append(job)
        else:
            self.exit_codes[job] = event["exit"]
            self.reasons[job] = event["why"]
            if event.get("abort"):  # A cancel comes next, for its children too.
                self._set(job, JobState.FAILED)
                self._count_ended(job)
            else:
                self._end(job, JobState.FAILED)

    def _on_cancel(self, event: dict[str, Any]) -> None:
        self.cancelled = True
        for job, state in enumerate(self.states):
            if state < _FIRST_ENDED and not self._final[self.plan.template_of[job]]:
                self._set(job, JobState.DELETED)
                self._open -= 1
        self._open_final_jobs()

    def _on_stop(self, event: dict[str, Any]) -> None:
        self.stopped = event["why"]
        self.release()

    def _on_finish(self, event: dict[str, Any]) -> None:
        self.finished = event["state"]
        for job, state in enumerate(self.states):
            if state < _FIRST_ENDED:
                self._set(job, JobState.DELETED)

    def _on_start(self, event: dict[str, Any]) -> None:
        if self._is_current(event) and self.states[event["j"]] == JobState.PENDING:
            self._set(event["j"], JobState.RUNNING)

    def _on_end(self, event: dict[str, Any]) -> None:
        # A failure is for the driver to say. A success counts also where the driver had given the job up.
        job = event["j"]  # The lazy one is there to add others.
        good = event["exit"] == 0 and (job != self.plan.lazy_job or self.plan.payload_path.exists())
        if self._is_current(event) and good and self.states[job] != JobState.SUCCEEDED:
            self.recovered.append(job)
            self._end(job, JobState.SUCCEEDED)

    def _is_current(self, event: dict[str, Any]) -> bool:
        """Tell an attempt that is going on from one of an earlier driver."""
        job, attempt = event["j"], event["a"]
        if job >= len(self.states) and self.plan.lazy_job is not None and not self.has_payload:
            self._take_up_payload()  # A driver has, and its word for it was lost or comes late.
        if attempt > self.attempts[job] and self.states[job] != JobState.SUCCEEDED:
            # The driver wrote it down before; its host lost that in a crash.
            self.attempts[job] = self.unknown[job] = attempt
        return bool(self.attempts[job] == attempt != self._outdated.get(job))

    def release(self) -> None:
        """Take back the jobs that Parsl has; there is no Parsl any more."""
        for job, state in enumerate(self.states):
            if state in (JobState.PENDING, JobState.RUNNING):
                self._set(job, JobState.READY)

    def _set(self, job: int, state: JobState) -> None:
        counts = self.counts[self._labels[self.plan.template_of[job]]]
        counts[self.states[job]] -= 1
        counts[state] += 1
        self.states[job] = state

    def _end(self, job: int, state: JobState) -> None:
        """End a job, and all that follows from it."""
        if self.states[job] == JobState.SUCCEEDED:
            return
        was_open = self.states[job] < _FIRST_ENDED
        self._set(job, state)
        if not was_open:
            # It succeeded while it was being cancelled, or taken for lost.
            self.exit_codes.pop(job, None)
            self.reasons.pop(job, None)
            return
        states, waiting, children = self.states, self._waiting, self.plan.children
        ended = [job]
        while ended:
            parent = ended.pop()
            self._count_ended(parent)
            succeeded = states[parent] == JobState.SUCCEEDED
            for child in children[parent]:
                if states[child] >= _FIRST_ENDED:
                    continue
                left = waiting[child] = waiting[child] - 1
                if not succeeded and not self._tolerant[self.plan.template_of[child]]:
                    self._set(child, JobState.PRUNED)
                    ended.append(child)
                elif not left and self._make_ready(child):
                    ended.append(child)
        self._open_final_jobs()

    def _count_ended(self, job: int) -> None:
        final = self._final[self.plan.template_of[job]]
        self._open_final -= final
        self._open -= not final

    def _make_ready(self, job: int) -> bool:
        """Make a job ready; `True` where that already is its end."""
        if self._payload[self.plan.template_of[job]]:
            self._set(job, JobState.READY)
            self._newly_ready.append(job)
            return False
        self._set(job, JobState.SUCCEEDED)
        return True

    def _open_final_jobs(self) -> None:
        if self._open or self._finals_released or (self.lacks_payload and not self.cancelled):
            return
        self._finals_released = True
        for job in self._final_jobs:
            if self._waiting[job] or self.states[job] != JobState.UNREADY:
                continue
            if self._payload[self.plan.template_of[job]]:
                self._make_ready(job)
            else:
                self._end(job, JobState.SUCCEEDED)

    def _reset(self) -> None:
        """Begin anew with what has succeeded; the rest is to be done."""
        templates = self.plan.template_of[: len(self.states)]
        done = [
            state == JobState.SUCCEEDED and self._payload[template]
            for state, template in zip(self.states, templates, strict=True)
        ]
        if self.lacks_payload:
            done[self.plan.lazy_job or 0] = False
        must_run = [runs and not final for runs, final in zip(self._payload, self._final, strict=True)]
        if any(must_run[template] and not ended for template, ended in zip(templates, done, strict=True)):
            # The final jobs gather what the others made: once more, then.
            for job in self._final_jobs:
                done[job] = False
                self._outdated[job] = self.attempts[job]
        self._open = self._open_final = 0
        self._finals_released = False
        self._newly_ready = []
        for table in (self.failures, self.losses, self.exit_codes, self.reasons):
            table.clear()
        self.counts = [[0] * len(JobState) for _ in self._label_numbers]
        for job, ended in enumerate(done):
            self._begin(job, ended)
        self._open_final_jobs()

    def _begin(self, job: int, done: bool) -> None:
        """Give a job its first state; its parents have theirs."""
        template = self.plan.template_of[job]
        final = self._final[template]
        state = self.states[job] = self._initial_state(job, done, final)
        self.counts[self._labels[template]][state] += 1
        if state < _FIRST_ENDED:
            self._open_final += final
            self._open += not final

    def _initial_state(self, job: int, done: bool, final: bool) -> JobState:
        """Return the state of a job whose parents have theirs."""
        if done:
            return JobState.SUCCEEDED
        states = self.states
        parents = self.plan.parents(job)
        waiting = len(parents)
        if self._touched or self._has_ordering:
            waiting -= sum(states[parent] == JobState.SUCCEEDED for parent in parents)
        self._waiting[job] = waiting
        if waiting or final:
            return JobState.UNREADY
        if not self._payload[self.plan.template_of[job]]:
            return JobState.SUCCEEDED
        self._newly_ready.append(job)
        return JobState.READY
