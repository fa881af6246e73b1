# SPDX-License-Identifier: BSD-3-Clause
"""Stands in for the package of conda-forge where it is not installed."""
