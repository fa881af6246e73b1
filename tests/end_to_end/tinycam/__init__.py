# SPDX-License-Identifier: BSD-3-Clause
"""A camera without pixels, and a pipeline that costs nothing but its start."""
