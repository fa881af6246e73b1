# SPDX-License-Identifier: BSD-3-Clause
"""The distribution: what is in it, and how it lives with others in ``lsst``."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

NEIGHBOURS = """
import lsst.ctrl.bps, lsst.ctrl.mpexec, lsst.daf.butler, lsst.pipe.base, lsst.utils
import lsst.ctrl.bps.parsl
print(lsst.ctrl.bps.parsl.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what it is made of."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    tracked = subprocess.run(
        ["git", "ls-files", "python"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    for name in tracked:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(target), str(source)], check=True)
    (built,) = target.glob("*.whl")
    return built


def test_wheel_has_only_our_package(wheel: Path) -> None:
    """The shared namespaces stay with those who own them: removing this
    distribution must not take an ``lsst/__init__.py`` away.
    """
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert names
    assert all(name.startswith("lsst/ctrl/bps/parsl/") for name in names)
    assert "lsst/ctrl/bps/parsl/py.typed" in names
    assert "lsst/ctrl/bps/parsl/node/runner.py" in names


def test_wheel_beside_its_neighbours(wheel: Path, tmp_path: Path) -> None:
    """Unpacked in a directory of its own, the package is found beside the
    other lsst packages, and they are too.
    """
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{NEIGHBOURS}"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.startswith(str(tmp_path))


def test_editable_install_beside_its_neighbours(tmp_path: Path) -> None:
    """The tests run with an editable install; it is the checkout, and the
    other lsst packages are found.
    """
    found = subprocess.run(
        [sys.executable, "-c", NEIGHBOURS], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout
    assert Path(found.strip()) == ROOT / "python/lsst/ctrl/bps/parsl/__init__.py"


def test_versions_agree() -> None:
    """The first heading of the changes is about the version in
    pyproject.toml.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version in (ROOT / "CHANGES.rst").read_text()


def documents() -> list[Path]:
    """Return the pages that people read."""
    return [ROOT / "README.md", *sorted((ROOT / "doc").glob("*.rst")), ROOT / "examples/ccd_night/README.md"]


@pytest.mark.parametrize("page", documents(), ids=lambda page: page.name)
def test_yaml_of_the_documentation_loads(page: Path) -> None:
    """Every YAML that is printed for people to copy can be read."""
    text = page.read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for block in re.findall(r"\.\. code-block:: yaml\n((?:\n|[ ]+.*\n?)+)", text):
        lines = [line for line in block.splitlines() if not line.strip().startswith(":")]
        blocks.append("\n".join(lines))
    for block in blocks:
        assert isinstance(yaml.safe_load(block), dict), block


def test_no_machine_and_no_registry_is_named() -> None:
    """The repository names no path of one machine and no host of a package
    registry.
    """
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    forbidden = re.compile("/wo" + "rk/main|/ro" + r"ot/|pypi\.o" + r"rg|files\.pytho" + "nhosted")
    for name in tracked.split("\n"):
        path = ROOT / name
        if name and path.is_file():
            assert not forbidden.search(path.read_text(errors="replace")), name
