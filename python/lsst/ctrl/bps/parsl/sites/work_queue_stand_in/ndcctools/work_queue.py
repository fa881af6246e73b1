# SPDX-License-Identifier: BSD-3-Clause
"""The module ``work_queue`` under the name that Parsl imports."""

from work_queue import *  # noqa: F403
