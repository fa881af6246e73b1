# SPDX-License-Identifier: BSD-3-Clause
"""Labels with letters that the locale has none of: shown escaped, by every verb."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .support import HERE, MARKER, Sandbox

LABEL = "d\xe9tecte\u4e2d"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SHOWN = {"ascii": rb"d\xe9tecte\u4e2d", "iso8859-1": b"d\xe9tecte" + rb"\u4e2d"}
"""The label as an encoding can show it."""

_VERBS = r"""
import builtins, os, sys
from pathlib import Path
sys.path.append(sys.argv[1])
import end_to_end.support as support
assert sys.stdout.encoding.lower() in (sys.argv[2], "ansi_x3.4-1968"), sys.stdout.encoding
assert sys.getfilesystemencoding() != "utf-8"
box = support.Sandbox.__new__(support.Sandbox)
box.path, box.env, box.step = Path.cwd(), dict(os.environ), Path.cwd() / "step.sh"
box.submit_path = box.path / "submit" / "run"
# What BPS writes into a file, it writes in the locale's encoding.
support.open = lambda path, mode: builtins.open(path, mode, encoding="utf-8")
label = "d\xe9tecte\u4e2d"
box.prepare([support.Step(name, label=label, arguments=f"{name} {label}") for name in ("good", "bad")])
one = ("--id", "run")
for words in (
    ("--log-file", "log.txt", "report"), ("report", *one), ("status", *one), ("restart", *one),
    ("report", *one, "--return-exit-codes"), ("restart", *one),
    ("status", *one), ("cancel", *one),
):
    code = support.run_bps(words)
    sys.stderr.flush()
    print("--", *words, code, flush=True)
os._exit(0)
"""


def locale_of(encoding: str, directory: Path) -> dict[str, str]:
    """Return what sets a locale with an encoding, making one where the system can."""
    if encoding == "ascii":
        return ASCII
    name = f"en_US.{encoding}"
    if shutil.which("localedef") is None:
        pytest.skip("there is no localedef here")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(directory / name)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("localedef makes no such locale here: its sources are in the package locales")
    return {"LC_ALL": name, "LOCPATH": str(directory)}


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_label_that_the_locale_cannot_show(encoding: str, box: Sandbox, tmp_path: Path) -> None:
    """No verb ends in a traceback, and what the locale cannot show is escaped: in BPS's tables, which have
    room for ASCII alone, in the display, and in logs. A job gets the label in its command and environment,
    and its log is found.
    """
    (tmp_path / "locale").mkdir()
    env = {**box.env, **locale_of(encoding, tmp_path / "locale"), MARKER: str(box.path)}
    box.break_step("bad", 3)
    done = subprocess.run(
        [sys.executable, "-c", _VERBS, str(HERE.parent), encoding],
        env={name: value for name, value in env.items() if name != "LANG"},
        cwd=box.path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    said = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == 0, said
    assert "Traceback" not in said
    assert "--- Logging error" not in said
    codes = [int(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith(b"-- ")]
    assert codes == [0, 0, 13, 1, 0, 1, 19, 1], said
    assert done.stdout.count(rb"d\xe9tecte\u4e2d      ") >= 2, "BPS's tables"
    assert SHOWN[encoding] + b"        -" in done.stderr, "the table at the end"
    assert b"| step bad was told to fail" in done.stderr, "the end of a log"
    assert SHOWN[encoding] in (box.path / "log.txt").read_bytes()
    assert box.steps("end") == ["good"]
    (directory,) = os.listdir(os.fsencode(box.submit_path / "logs"))
    assert directory in (LABEL.encode(), b"d\xe9tecte" + "\u4e2d".encode())
