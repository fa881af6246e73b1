# SPDX-License-Identifier: BSD-3-Clause
"""Doing it: the loop that takes a run from its first job to its last."""

from .loop import Driver

__all__ = ["Driver"]
