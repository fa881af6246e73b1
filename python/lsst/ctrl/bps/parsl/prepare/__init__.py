# SPDX-License-Identifier: BSD-3-Clause
"""From BPS's workflow to a plan, and all that is refused before anything runs."""
