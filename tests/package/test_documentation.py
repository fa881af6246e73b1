# SPDX-License-Identifier: BSD-3-Clause
"""The documentation: what it prints for people to copy loads, and no site is missing from it."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from pydantic import BaseModel

from lsst.ctrl.bps import (
    BPS_DEFAULTS,
    BpsConfig,
    GenericWorkflowExec,
    GenericWorkflowFile,
    GenericWorkflowJob,
    GenericWorkflowNodeType,
)
from lsst.ctrl.bps.parsl import sites
from lsst.ctrl.bps.parsl.service import FACILITIES
from lsst.ctrl.bps.parsl.site import SiteConfig
from lsst.ctrl.bps.parsl.sites.foreign_keys import foreign_keys

pytestmark = [
    # Parsl looks at each network interface with a socket that it does not close.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).parents[2]
SERVICE = "lsst.ctrl.bps.parsl.ParslService"
PAGES = [ROOT / "README.md", *sorted((ROOT / "doc").glob("*.rst"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


@dataclass(frozen=True)
class Example:
    """A piece of YAML or Python of a page."""

    page: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def examples(language: str) -> list[Example]:
    """Return what the pages print in a language."""
    found = []
    for page in PAGES:
        text = page.read_text()
        if page.suffix == ".md":
            blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        else:
            pattern = rf"^\.\. code-block:: {language}\n((?:[ ]+:\w+:.*\n)*)\n((?:\n|[ ]+.*\n?)+)"
            blocks = [textwrap.dedent(block) for _, block in re.findall(pattern, text, re.MULTILINE)]
        found += [Example(page.stem, number, block) for number, block in enumerate(blocks, 1)]
    return found


def site_names(text: str) -> list[str]:
    """Return the sites that a YAML describes or uses; a ``parsl_config`` has no name."""
    content = yaml.safe_load(text)
    names = list(content.get("site") or ())
    if "computeSite" in content and content["computeSite"] not in names:
        names.append(content["computeSite"])
    return names or ([""] if "parsl_config" in content else [])


CONFIGURATIONS = [example for example in examples("yaml") if site_names(example.text)]
NAMED = [(example, name) for example in CONFIGURATIONS for name in site_names(example.text)]


def load(example: Example, directory: Path, name: str) -> BpsConfig:
    """Read a YAML as ``bps submit`` does."""
    path = directory / "example.yaml"
    path.write_text(example.text)
    config = BpsConfig(str(path), defaults=BPS_DEFAULTS, wms_service_class_fqn=SERVICE)
    config["submitPath"] = str(directory / "run")
    config["uniqProcName"] = "u_me_x"
    if name:
        config["computeSite"] = name
    return config


@pytest.fixture(autouse=True)
def _engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Work Queue and TaskVine be installed, as far as Parsl's constructors look."""
    import parsl.executors.workqueue.executor as work_queue

    monkeypatch.setattr(work_queue, "_work_queue_enabled", True)
    import parsl.executors.taskvine  # noqa: F401  # It must not see the modules below.

    package, taskvine = ModuleType("ndcctools"), ModuleType("ndcctools.taskvine")
    monkeypatch.setattr(package, "taskvine", taskvine, raising=False)
    monkeypatch.setattr(taskvine, "cvine", SimpleNamespace(VINE_DEFAULT_PORT=0), raising=False)
    monkeypatch.setitem(sys.modules, "ndcctools", package)
    monkeypatch.setitem(sys.modules, "ndcctools.taskvine", taskvine)


@pytest.fixture(scope="module", autouse=True)
def _no_tracker_is_left() -> Iterator[None]:
    """End the process that counts the semaphores of Parsl's executors."""
    yield
    gc.collect()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # There is no public way.


@pytest.fixture
def own_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the site classes that the pages print as modules, by the names in their docstrings."""
    names = []
    for example in examples("python"):
        if match := re.match(r'"""(\w+)\.py: ', example.text):
            names.append(match.group(1))
            (tmp_path / f"{names[-1]}.py").write_text(example.text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("own_sites")
@pytest.mark.parametrize(("example", "name"), NAMED, ids=lambda value: str(value))
def test_examples_load(example: Example, name: str, tmp_path: Path) -> None:
    """Each site of each YAML that is printed makes its executors, and has no key that does nothing."""
    site = SiteConfig.from_config(load(example, tmp_path, name))
    executors = site.get_executors()
    assert executors
    assert len({executor.label for executor in executors}) == len(executors)
    assert foreign_keys(site) == []
    assert site.get_parsl_config().retries == 0


def class_names() -> set[str]:
    """Return the last parts of the names of all site classes that the examples use."""
    found = set()
    for example in CONFIGURATIONS:
        for section in (yaml.safe_load(example.text).get("site") or {}).values():
            found.add(str((section or {}).get("class")).rpartition(".")[2])
    return found


@pytest.mark.some(6)
@pytest.mark.parametrize("name", sites.__all__)
def test_each_site_has_an_example(name: str, tmp_path: Path) -> None:
    """Each class that comes with the package is used by a YAML; a base class, by a class of the pages."""
    used = class_names()
    if not inspect.isabstract(getattr(sites, name)):
        assert name in used
        return
    derived = re.findall(rf"^ +class (\w+)\({name}\):", TEXT, re.MULTILINE)
    assert set(derived) & used


@pytest.mark.parametrize("name", sites.__all__)
def test_each_site_has_a_table_of_its_settings(name: str) -> None:
    """Each model of a class's settings that adds keys has a table on the pages."""
    tables = re.findall(r"\.\. settings-table:: (\S+)", TEXT)
    for model in getattr(sites, name).settings_model.__mro__:
        own = vars(model).get("__annotations__", {})
        if issubclass(model, BaseModel) and set(own) & set(model.model_fields):
            assert tables.count(f"{model.__module__}.{model.__qualname__}") == 1, model


@pytest.mark.parametrize("name", sites.__all__)
def test_each_facility_has_a_table_of_its_values(name: str) -> None:
    """The values of a facility are on the pages, and so is the link to the machine's documentation."""
    site = getattr(sites, name)
    if not vars(site).get("defaults"):
        return
    assert f".. values-table:: {site.__module__}.{name}.defaults" in TEXT
    (link,) = re.findall(r"https://[^\s)]+", str(inspect.getmodule(site).__doc__))
    assert link.rstrip("/") in TEXT


@pytest.mark.parametrize("name", FACILITIES)
def test_facilities_need_no_section(name: str, tmp_path: Path) -> None:
    """``computeSite`` alone is enough for them, as the pages say."""
    site = SiteConfig.from_config(load(Example("", 0, f"computeSite: {name}\n"), tmp_path, name))
    assert type(site).__name__.lower() == name
    assert site.get_executors()
    assert f"``{name}``" in TEXT


def test_index_names_each_page() -> None:
    """No page is left out of the index."""
    index = (ROOT / "doc/index.rst").read_text()
    listed = set(re.findall(r"^   ([\w/]+)$", index, re.MULTILINE))
    assert {page.stem for page in PAGES if page.suffix == ".rst"} - {"index"} <= listed


def test_paths_of_the_repository_exist() -> None:
    """Files of the repository that the pages name are there."""
    named = re.findall(r"[`(]((?:doc|tests|examples|benchmarks|ups)/[\w./]+)[`)]", TEXT)
    assert named
    assert [name for name in named if "/_build" not in name and not (ROOT / name).exists()] == []


def test_directives_describe_types() -> None:
    """The tables have words for every type of setting, and none of Python's."""
    spec = importlib.util.spec_from_file_location("settings_table", ROOT / "doc/_ext/settings_table.py")
    assert spec is not None
    assert spec.loader is not None
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    for name in sites.__all__:
        for key, field in getattr(sites, name).settings_model.model_fields.items():
            kind = extension.describe_type(field.annotation, field.metadata)
            assert not re.search(r"\b(dict|float|int|str|bool|None|typing)\b|\[", kind), (name, key, kind)
            default = extension.describe_default(field)
            assert default
            if key.endswith("walltime"):
                assert kind == "walltime"
                assert re.fullmatch(r"not set|``\d\d+:\d\d:\d\d``", default)


def rows(page: str) -> set[str]:
    """Return the words in the first column of a page's tables."""
    text = (ROOT / "doc" / page).read_text()
    cells = re.findall(r"^   \* - (.*)$", text, re.MULTILINE)
    return set(re.findall(r"``([^`]+)``", "\n".join(cells)))


def test_each_thing_that_bps_says_of_a_job_has_a_row() -> None:
    """The page about jobs says of each field and of each kind of node what is done about it."""
    fields = [field.name for field in dataclasses.fields(GenericWorkflowJob)]
    keys = {re.sub(r"_(\w)", lambda match: match.group(1).upper(), name) for name in fields}
    known = rows("jobs.rst")
    assert keys <= known, "fields of GenericWorkflowJob"
    assert {kind.name for kind in GenericWorkflowNodeType} <= known
    text = (ROOT / "doc/jobs.rst").read_text()
    others = [*dataclasses.fields(GenericWorkflowExec), *dataclasses.fields(GenericWorkflowFile)]
    for field in others:
        assert field.name in ("name", "src_uri") or f"``{field.name}``" in text, field.name
