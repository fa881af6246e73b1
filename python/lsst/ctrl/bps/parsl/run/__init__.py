# SPDX-License-Identifier: BSD-3-Clause
"""What happened in a run, and who has it."""
