# SPDX-License-Identifier: BSD-3-Clause
"""A Slurm cluster of six nodes on one machine."""
