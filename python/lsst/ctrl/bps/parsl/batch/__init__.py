# SPDX-License-Identifier: BSD-3-Clause
"""What stands between Parsl and a batch system."""
