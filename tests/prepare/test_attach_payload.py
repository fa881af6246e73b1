# SPDX-License-Identifier: BSD-3-Clause
"""The second part of a run: written beside it, and put into place whole, once, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import lsst.ctrl.bps as bps
from lsst.ctrl.bps import GenericWorkflow
from lsst.ctrl.bps.parsl.configuration import write_config
from lsst.ctrl.bps.parsl.environment import read_job_environments
from lsst.ctrl.bps.parsl.errors import ConfigurationError, DamagedFileError, StorageError, WorkflowError
from lsst.ctrl.bps.parsl.paths import SubmitPaths
from lsst.ctrl.bps.parsl.plan.plan import Plan
from lsst.ctrl.bps.parsl.prepare.attach_payload import attach_payload, write_payload
from lsst.ctrl.bps.parsl.prepare.lazy import is_for_live_run
from support.plans import make_plan, plan_line
from support.releases import needs_batch_submission

from .test_translate import EXECUTABLE, Setting, make_job


def live(directory: Path) -> Setting:
    """Make a run that waits for more jobs."""
    setting = Setting(directory)
    make_plan(setting.paths.submit_path, [plan_line("prepare", lazy=True)])
    write_config(setting.paths.config, setting.config)
    return setting


def payload(*names: str, **fields: Any) -> GenericWorkflow:
    """Return a workflow of jobs."""
    workflow = GenericWorkflow("payload")
    for name in names:
        workflow.add_job(make_job(name, **fields))
    return workflow


def leftovers(paths: SubmitPaths) -> list[str]:
    """Return what there is of attempts."""
    return sorted(path.name for path in paths.directory.glob("payload*"))


def test_live_run_is_known(tmp_path: Path) -> None:
    """A workflow is the second part of a run of its name that waits for one; any other run is not touched."""
    setting = live(tmp_path / "1")
    assert is_for_live_run(payload("a"), setting.config, setting.paths)
    assert not is_for_live_run(payload("a"), setting.config, SubmitPaths(tmp_path / "none"))
    setting.config["uniqProcName"] = "another"
    with pytest.raises(ConfigurationError, match="exists, and has a run"):
        is_for_live_run(payload("a"), setting.config, setting.paths)
    other = Setting(tmp_path / "2")
    make_plan(other.paths.submit_path, [plan_line("a")])
    with pytest.raises(ConfigurationError, match="exists, and has a run"):
        is_for_live_run(payload("a"), other.config, other.paths)


def test_it_counts_when_it_is_in_place(tmp_path: Path) -> None:
    """What is written changes nothing; then it is there, with the jobs' environments, and nothing else."""
    setting = live(tmp_path)
    paths = setting.paths
    plan = paths.plan.read_bytes()
    part = write_payload(setting.config, payload("a", "b", environment={"A": "1"}), paths)
    assert part is not None
    assert not paths.payload.exists()
    attach_payload(paths, part)
    assert paths.plan.read_bytes() == plan
    whole = Plan(paths.plan)
    header = whole.add_payload().header
    assert [job.name for job in whole.jobs()] == ["prepare", "a", "b"]
    environments = paths.payload_environments(header)
    assert read_job_environments(environments) == [{"A": "1"}]
    assert environments.stat().st_mode & 0o777 == 0o600
    assert leftovers(paths) == sorted([environments.name, "payload.jsonl"])
    assert setting.maker(whole).make(1, 1, None).spec["env"]["A"] == "1"


def test_first_attempt_that_gets_there_wins(tmp_path: Path) -> None:
    """Of two that wrote, the later leaves what the earlier has put in place; a third has nothing to write."""
    setting = live(tmp_path)
    paths = setting.paths
    parts = [write_payload(setting.config, payload(name, environment={"N": name}), paths) for name in "ab"]
    (paths.directory / "payload-killed.jsonl.0123.tmp").write_bytes(b"half")
    attach_payload(paths, parts[1])
    attach_payload(paths, parts[0])
    third = write_payload(setting.config, payload("c"), paths)
    assert third is None
    attach_payload(paths, third)
    whole = Plan(paths.plan)
    header = whole.add_payload().header
    assert [job.name for job in whole.jobs()] == ["prepare", "b"]
    assert read_job_environments(paths.payload_environments(header)) == [{"N": "b"}]
    assert len(leftovers(paths)) == 2


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_is_not_added(tmp_path: Path, share: float) -> None:
    """What is not whole any more never becomes a part of the run: that is said, and another attempt adds its
    own, beside which nothing of the damaged one is left.
    """
    setting = live(tmp_path)
    paths = setting.paths
    part = write_payload(setting.config, payload("a", "b"), paths)
    assert part is not None
    os.truncate(part, int(part.stat().st_size * share))
    with pytest.raises(DamagedFileError, match=f"{part} is damaged, and was not added to the run"):
        attach_payload(paths, part)
    assert not paths.payload.exists()
    attach_payload(paths, write_payload(setting.config, payload("c"), paths))
    whole = Plan(paths.plan)
    whole.add_payload()
    assert [job.name for job in whole.jobs()] == ["prepare", "c"]
    assert leftovers(paths) == ["payload.jsonl"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Where there are no hard links the file is renamed; what else goes wrong is said."""

    def link(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    setting = live(tmp_path)
    part = write_payload(setting.config, payload("a"), setting.paths)
    monkeypatch.setattr(os, "link", link)
    attach_payload(setting.paths, part)
    assert Plan(setting.paths.plan).add_payload().jobs == 1


def test_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be put into place is an error that names the file, and leaves nothing there."""

    def link(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    setting = live(tmp_path)
    part = write_payload(setting.config, payload("a"), setting.paths)
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StorageError, match="Cannot add the jobs to the run"):
        attach_payload(setting.paths, part)
    assert not setting.paths.payload.exists()


def test_checks_hold_for_it(tmp_path: Path) -> None:
    """What no site could run is refused, by the settings that the run has; nothing is left."""
    setting = live(tmp_path)
    setting.config[".site.here.memory"] = 1000
    write_config(setting.paths.config, setting.config)
    with pytest.raises(WorkflowError, match="it asks for 5000 MB; the most that site here has"):
        write_payload(setting.config, payload("a", request_memory=5000), setting.paths)
    assert leftovers(setting.paths) == []


@needs_batch_submission
def test_what_cannot_be_beside_a_lazy_job(tmp_path: Path) -> None:
    """Two of them, jobs after one, and a final job beside one are refused with their names."""
    setting = Setting(tmp_path)
    workflow = payload("before")
    workflow.add_job(bps.GenericWorkflowLazyGroup("lazy", "lazy", executable=EXECUTABLE), ["before"])
    plan = setting.translate(workflow)
    assert plan.lazy_job == 1
    assert not plan.template(0).lazy
    workflow.add_job(make_job("after"), ["lazy"])
    workflow.add_job(bps.GenericWorkflowLazyGroup("other", "lazy", executable=EXECUTABLE))
    workflow.add_final(make_job("final"))
    with pytest.raises(WorkflowError) as caught:
        setting.translate(workflow)
    for part in ("this has ", "after would run after", "The final job has to be among"):
        assert part in caught.value.message
