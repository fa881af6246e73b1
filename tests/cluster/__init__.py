# SPDX-License-Identifier: BSD-3-Clause
"""A Slurm cluster of four nodes on one machine."""
