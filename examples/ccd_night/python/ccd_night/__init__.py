# SPDX-License-Identifier: BSD-3-Clause
"""A small simulated CCD camera and the pipeline that reduces one night of it."""
