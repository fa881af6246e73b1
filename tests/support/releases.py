# SPDX-License-Identifier: BSD-3-Clause
"""What releases of BPS have, for tests of what not all of them have."""

from __future__ import annotations

from importlib.metadata import version

import pytest

__all__ = ["BPS", "HAS_BATCH_SUBMISSION", "needs_batch_submission", "needs_no_batch_submission"]

BPS = tuple(map(int, version("lsst-ctrl-bps").split(".")[:3]))
"""Release of BPS."""

HAS_BATCH_SUBMISSION = BPS >= (30, 2026, 4300)
"""Whether it has ``bpsBatchSubmission``."""

needs_batch_submission = pytest.mark.skipif(
    not HAS_BATCH_SUBMISSION, reason="BPS has no bpsBatchSubmission before 30.2026.4300"
)
needs_no_batch_submission = pytest.mark.skipif(
    HAS_BATCH_SUBMISSION, reason="BPS has bpsBatchSubmission from 30.2026.4300 on"
)
