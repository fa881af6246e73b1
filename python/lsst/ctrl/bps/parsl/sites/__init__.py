# SPDX-License-Identifier: BSD-3-Clause
"""The sites that come with the package."""

from .local import Local

__all__ = ["Local"]
