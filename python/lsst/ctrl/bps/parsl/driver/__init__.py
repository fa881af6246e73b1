# SPDX-License-Identifier: BSD-3-Clause
"""From a run's first job to its last."""
