# SPDX-License-Identifier: BSD-3-Clause
"""What runs beside the jobs: a process that starts and measures them.

`~lsst.ctrl.bps.parsl.node.runner` is that process; it needs the standard
library only.  `~lsst.ctrl.bps.parsl.node.client` is how a Parsl worker talks
to it.
"""
