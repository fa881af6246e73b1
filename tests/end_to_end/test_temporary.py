# SPDX-License-Identifier: BSD-3-Clause
"""Temporary directories as batch systems give them to a job: with long paths, or not there yet."""

from __future__ import annotations

import pytest

from .support import Sandbox, Step

LONG = "x" * 119


@pytest.mark.parametrize("there", [True, False])
def test_temporary_directory_of_the_driver(box: Sandbox, there: bool) -> None:
    """A driver works whatever ``TMPDIR`` is, and its jobs have the same; they fork from a server, too."""
    directory = box.path / "home" / LONG
    if there:
        directory.mkdir()
    box.env["TMPDIR"] = str(directory)
    code = "-c 'printenv TMPDIR >>steps.txt'"
    box.prepare([Step("first", executable="/bin/sh", arguments=code), Step("second", ["first"])])
    box.bps("restart", "--id", "run").succeeded()
    assert str(directory) in (box.path / "steps.txt").read_text().splitlines()
    if there:
        directory.rmdir()  # Nothing is left in it.
