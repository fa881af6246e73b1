# SPDX-License-Identifier: BSD-3-Clause
"""Jobs that fail."""

from __future__ import annotations

from collections import Counter

import pytest

from lsst.ctrl.bps import WmsStates

from .support import Sandbox, Step, events_of_kind


def test_failing_job(box: Sandbox) -> None:
    """A job that fails for good: its children do not run, the others and the
    final job do; all is said on stderr without a traceback; the retries are
    counted; and when it is mended, a restart does the rest and no more.
    """
    workflow = box.prepare(
        [
            Step("root"),
            Step("bad", ["root"], fields={"number_of_retries": 2}),
            Step("child", ["bad"], label="late"),
            Step("grandchild", ["child"], label="late"),
            Step("other", ["root"]),
        ],
        final=Step("final", label="finalJob"),
    )
    assert workflow.submit_path
    box.break_step("bad", 7)
    failed = box.bps("restart", "--id", "run").complained(
        "and 2 could not run because of that; 3 of 6 jobs succeeded",
        "bps restart --id run",
        "bad: exit code 7",
        "logs/step/bad.stderr",
        "| step bad was told to fail",
        "late",
    )
    assert failed.code == 1
    assert Counter(box.steps("begin")) == Counter(root=1, bad=3, other=1, final=1)
    verdicts = [(event["retry"], event["charged"]) for event in events_of_kind(box.submit_path, "fail")]
    assert verdicts == [(True, True), (True, True), (False, True)]
    assert events_of_kind(box.submit_path, "finish")[0]["state"] == "FAILED"
    assert box.bps("status", "--id", "run").code == WmsStates.FAILED.value

    box.mend_step("bad")
    box.bps("restart", "--id", box.submit_path).succeeded()
    begun = Counter(box.steps("begin"))
    assert begun == Counter(root=1, bad=4, other=1, child=1, grandchild=1, final=2)
    box.bps("status", "--id", "run").succeeded()


@pytest.mark.parametrize(
    ("unless", "expected"), [(None, 3), (4, 3), (5, 1), ([4, 5], 1)], ids=["none", "other", "one", "list"]
)
def test_retry_unless_exit(box: Sandbox, unless: object, expected: int) -> None:
    """A job is not run again where its exit code is among ``retryUnlessExit``."""
    fields = {"number_of_retries": 2, "retry_unless_exit": unless}
    workflow = box.prepare([Step("bad", fields=fields)])
    box.break_step("bad", 5)
    with box.as_process(), pytest.raises(Exception, match="of run failed"):
        workflow.run()
    assert len(box.steps("begin")) == expected
