# SPDX-License-Identifier: BSD-3-Clause
"""Tests with real ``bps`` processes, real Butler repositories and real jobs."""
