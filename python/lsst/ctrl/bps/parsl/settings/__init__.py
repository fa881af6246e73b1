# SPDX-License-Identifier: BSD-3-Clause
"""What people write in the configuration."""
