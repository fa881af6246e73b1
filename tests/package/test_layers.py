# SPDX-License-Identifier: BSD-3-Clause
"""The design's layers, sizes and public names hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import networkx
import pytest

import lsst.ctrl.bps.parsl as package

ROOT = Path(str(package.__file__)).parent
PACKAGE = "lsst.ctrl.bps.parsl"
FILES = sorted(ROOT.rglob("*.py"))

PICTURE = ROOT.parents[4] / "doc/developing.rst"


def rooms() -> list[str]:
    """Return the rooms in the order of the documentation's picture: each may import from those after it."""
    text = PICTURE.read_text().partition("\nRooms\n=====\n")[2]
    block = text.partition(".. code-block:: text\n\n")[2].partition("\n\n")[0]
    return [line.split()[0].rstrip("/") for line in block.splitlines()]


_DRIVERS = "backend blocks fence kernel local_provider pilots sites waiting"
PARSL_USERS = ("site", *(f"driver.{name}" for name in _DRIVERS.split()))


def name_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__").replace("__init__", "")


def statements(tree: ast.AST, *, in_functions: bool) -> Iterator[ast.AST]:
    """Iterate over what runs: not what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not in_functions:
            continue
        yield node
        yield from statements(node, in_functions=in_functions)


def imports(path: Path, *, in_functions: bool = True) -> set[str]:
    """Return the full names of the modules, or of what is in them, that a file imports."""
    base = [PACKAGE, *(part for part in name_of(path).split(".") if part)]
    if path.name != "__init__.py":
        base.pop()
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text()), in_functions=in_functions):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(base[: len(base) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [above, node.module]))
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def own_imports(path: Path, *, in_functions: bool = True) -> set[str]:
    """Return the modules of this package that a file imports."""
    modules = {name_of(file) for file in FILES} - {""}
    found: set[str] = set()
    for name in imports(path, in_functions=in_functions):
        if name.startswith(f"{PACKAGE}."):
            own = name.removeprefix(f"{PACKAGE}.")
            while own and own not in modules:
                own = own.rpartition(".")[0]
            found.add(own)
    return found - {""}


def test_picture_is_the_package() -> None:
    """The documentation's picture has each room, and none that there is not."""
    assert sorted(rooms()) == sorted({name_of(path).split(".")[0] for path in FILES} - {""})


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    """A module imports from its own room and from those below it."""
    name = name_of(path)
    if not name:
        assert own_imports(path) == set()
        return
    order = rooms()
    room = order.index(name.split(".")[0])
    for other in own_imports(path):
        assert order.index(other.split(".")[0]) >= room, f"{name} imports {other}"


def test_modules_do_not_import_each_other() -> None:
    """There is no circle of imports, also not inside of a layer, nor one that a function hides."""
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_edges_from((name_of(path), other) for path in FILES for other in own_imports(path))
    assert networkx.is_directed_acyclic_graph(graph), networkx.find_cycle(graph)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_parsl_is_imported_where_it_belongs(path: Path) -> None:
    """Only sites and the driver's backend know Parsl; functions are no hiding place."""
    name = name_of(path)
    uses = {found for found in imports(path) if found.split(".")[0] == "parsl"}
    if name.split(".")[0] not in ("sites", "batch") and name not in PARSL_USERS:
        assert uses == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_plots_are_imported_when_they_are_drawn(path: Path) -> None:
    """Matplotlib is slow to load, and nobody needs it to run jobs."""
    assert not {found for found in imports(path, in_functions=False) if found.startswith("matplotlib")}


def test_runner_needs_the_standard_library_only() -> None:
    """A pilot starts it without the packages above, and without anything that is installed."""
    # The two that look at other processes of the host need psutil.
    names = [path.stem for path in (ROOT / "node").glob("*.py") if path.stem not in ("client", "leftovers")]
    assert {"runner", "fork_server", "supervisor"} <= set(names)
    ours = tuple(f"{PACKAGE}.node.{name}" for name in names)
    for name in names:
        for found in imports(ROOT / "node" / f"{name}.py"):
            assert found.split(".")[0] in sys.stdlib_module_names | {"__future__"} or found.startswith(ours)
    code = f"import sys; sys.path.append({str(ROOT)!r}); import node.runner"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


LIGHT = [
    "",
    "service",
    "report.view",
    "run.state",
    "run.journal",
    "plan.plan",
    "workflow",
    "report.progress",
    "run.registry",
    "node.client",
]


def test_looking_at_a_run_does_not_load_parsl() -> None:
    """``bps report`` and ``bps status`` come as fast as BPS: no module they need loads Parsl or a plot."""
    modules = [f"{PACKAGE}.{name}".rstrip(".") for name in LIGHT]
    code = (
        f"import sys\nfor name in {modules}:\n    __import__(name)\n"
        f"import {PACKAGE} as package\n"
        "package.ParslService, package.ParslWorkflow, package.get_bps_config_value, package.start_pipeline\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'parsl', 'matplotlib', 'pandas'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    """A file has fewer than 400 lines, a function fewer than 60 without its docstring."""
    text = path.read_text()
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines < 60, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_invented_buckets(path: Path) -> None:
    """There is no module or class that is named for being anything at all."""
    assert path.stem not in ("utils", "helpers", "common", "misc")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Factory", "Handler"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_pickled(path: Path) -> None:
    """Nothing in a submit directory is ever unpickled."""
    found = {name.split(".")[0] for name in imports(path)}
    assert not found & {"pickle", "cloudpickle", "dill", "shelve", "marshal"}


PUBLIC = {
    "": "ParslService ParslWorkflow ParslJob SiteConfig get_bps_config_value get_workflow_name "
    "get_workflow_filename set_parsl_logging get_parsl_config get_file_paths start_pipeline",
    "configuration": "get_bps_config_value get_workflow_name get_workflow_filename set_parsl_logging",
    "job": "ParslJob get_file_paths",
    "service": "ParslService",
    "site": "SiteConfig",
    "workflow": "ParslWorkflow get_parsl_config",
    "environment": "export_environment",
    "sites": "Local",
    "sites.local": "Local",
}
"""The contract: names that other packages import."""


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in names.split()]
)
def test_public_names(module: str, name: str) -> None:
    """Each name of the contract can be imported from where it is promised."""
    found = getattr(import_module(f"{PACKAGE}.{module}".rstrip(".")), name)
    assert found.__doc__


def test_package_lists_its_names() -> None:
    """Names are imported when they are used, and ``dir`` and ``*`` know them before."""
    assert set(PUBLIC[""].split()) == set(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    assert not hasattr(package, "no_such_name")
    namespace: dict[str, object] = {}
    exec(f"from {PACKAGE} import *", namespace)
    assert set(package.__all__) <= set(namespace)


def test_namespaces_are_shared() -> None:
    """``lsst`` and ``lsst.ctrl`` are other packages' too: none of their ``__init__.py`` is ours."""
    for directory in (ROOT.parent, ROOT.parent.parent, ROOT.parent.parent.parent):
        assert not (directory / "__init__.py").exists()
