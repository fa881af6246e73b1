# SPDX-License-Identifier: BSD-3-Clause
"""What cannot be shown as it is."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import pytest

from lsst.ctrl.bps.parsl.node.processes import os_bytes
from lsst.ctrl.bps.parsl.report.escape import ascii_text, escape_output


def test_text_for_bpss_tables() -> None:
    """ASCII stays as it is, and every other letter is escaped, also half of one."""
    assert ascii_text("isr_1") == "isr_1"
    assert ascii_text("\xe9\u4e2d\udcff") == r"\xe9\u4e2d\udcff"


@pytest.mark.parametrize(
    ("encoding", "errors", "shown"),
    [
        ("ascii", "strict", rb"\xe9\u4e2d\udcff"),
        ("ascii", "surrogateescape", rb"\xe9\u4e2d\udcff"),
        ("iso8859-1", "strict", b"\xe9" + rb"\u4e2d\udcff"),
        ("utf-8", "strict", "\xe9\u4e2d".encode() + rb"\udcff"),
        ("utf-8", "surrogateescape", "\xe9\u4e2d".encode() + b"\xff"),
        ("ascii", "replace", b"???"),
    ],
)
def test_streams_escape(
    encoding: str, errors: str, shown: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The standard streams and the logs' files write what they can, and escape the rest; what somebody has
    chosen for them stays.
    """
    text = "\xe9\u4e2d\udcff"
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for _ in range(2)]
    now, later = tmp_path / "now", tmp_path / "later"
    handlers = [
        logging.FileHandler(now, encoding=encoding, errors=errors),
        logging.FileHandler(later, encoding=encoding, delay=True),
        logging.NullHandler(),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", None)
        patch.setattr(logging.root, "handlers", [*handlers, logging.StreamHandler(streams[1])])
        escape_output()
        logging.root.error(text)
    streams[0].write(text)
    for stream in streams:
        stream.flush()
    for handler in handlers:
        handler.close()
    raw = [stream.buffer.getvalue().strip() for stream in streams]
    assert raw == [shown, shown]
    assert now.read_bytes().strip() == shown
    assert later.read_bytes().strip() == text.encode(encoding, "backslashreplace")


def test_paths_and_arguments_of_any_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came from the system goes back as it was, and what the locale has no bytes for is in UTF-8."""
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("latin-1", "surrogateescape"))
    assert os_bytes("/a/\xe9/\udcff") == b"/a/\xe9/\xff"
    assert os_bytes("/a/\xe9/\u4e2d") == b"/a/\xe9/" + "\u4e2d".encode()
    assert os_bytes("/a/\udcff\u4e2d") == b"/a/\xff" + "\u4e2d".encode()
