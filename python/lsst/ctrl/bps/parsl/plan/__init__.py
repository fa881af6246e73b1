# SPDX-License-Identifier: BSD-3-Clause
"""What there is to run."""
