# SPDX-License-Identifier: BSD-3-Clause
"""What a fork server imports ahead of its jobs; standard library only.

An import is allowed to define things, and no more: a module that writes, logs,
or leaves a thread or an open file behind when it is imported would do so in a
fresh process of each job, and so is left to the jobs.
"""

from __future__ import annotations

import ast
import io
import json
import mmap
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import CodeType
from typing import Any

from .middleware import warm_middleware
from .watch import Watch

__all__ = ["Lesson", "Preloader", "Scripts", "shadowed"]

LONGEST_LESSON = 1 << 23
"""Bytes of what a job can tell of its imports: some 40,000 modules. What is not
used of them is never there."""

_OWN_WAYS = re.compile(
    rb"\bsys\.path\b|\bsite\.addsitedir|meta_path|path_hooks|path_importer_cache|sys\.modules|__path__|runpy"
)
"""What a script has that looks for modules in a way of its own."""

_CHANGES_PATH = re.compile(rb"\bsys\.path(\.insert|\.append|\.extend|\s*=[^=]|\[)|addsitedir|meta_path\.")
"""What a module has that does so for those who import it."""


class Lesson:
    """What a job has imported, in memory that it shares with its supervisor."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, LONGEST_LESSON)
        self._known = set(sys.modules)

    def write(self) -> None:
        """Note which modules are new; called in the job, at its end."""
        new = []
        for name, module in list(sys.modules.items()):
            spec = getattr(module, "__spec__", None)
            if name not in self._known and spec is not None and spec.name == name and spec.origin:
                new.append([name, spec.origin])
        text = json.dumps(new).encode("utf-8", "surrogateescape") if new else b""
        if len(text) < LONGEST_LESSON - 4:
            self._memory[4 : 4 + len(text)] = text
            self._memory[:4] = len(text).to_bytes(4, "little")

    def read(self) -> bytes:
        """Return what was noted, as JSON; nothing where nothing is new."""
        return self._memory[4 : 4 + int.from_bytes(self._memory[:4], "little")]

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


class Preloader:
    """Imports modules, and watches what they do.

    Parameters
    ----------
    modules : `~collections.abc.Sequence` [`tuple` [`str`, `str`]]
        What to begin with; as for `add`.
    excluded : `~collections.abc.Sequence` [`str`]
        Modules that must not be imported.
    careful : `bool`
        Whether to look before each import that another one makes, to find the
        module that does more than it should.
    """

    def __init__(
        self, modules: Sequence[tuple[str, str | None]], excluded: Sequence[str], *, careful: bool
    ) -> None:
        self._excluded = frozenset(excluded)
        self._careful = careful
        self._todo: dict[str, str | None] = {}
        self._done: dict[str, str | None] = {}
        self._latest = ""
        self._blame: tuple[str, str] | None = None
        self._missed: set[str] = set()
        self._watch = Watch()
        self.add(modules)

    def __bool__(self) -> bool:
        return bool(self._todo)

    def add(self, modules: Sequence[tuple[str, str | None]]) -> None:
        """Take modules that a job has imported.

        Parameters
        ----------
        modules : `~collections.abc.Sequence` [`tuple` [`str`, `str`]]
            The name of each and its file, in the order of their imports.
        """
        for name, origin in modules:
            if name not in sys.modules and name not in self._done:
                self._todo[name] = origin

    def load(self) -> dict[str, Any] | None:
        """Import all that there is to import.

        Returns
        -------
        trouble : `dict` or `None`
            What was wrong, where this process must not fork any more:
            ``why``; ``excluded``, the modules to leave out the next time, or
            none where the next process must look more carefully; ``modules``,
            what it is to begin with.
        """
        todo, self._todo = self._todo, {}
        self._done |= todo
        with self._watching():
            for name, origin in todo.items():
                self._import(name, origin)
            warm_middleware()
            self._look("")
            why = self._watch.complaint()
        degraded = sorted(self._missed.intersection(sys.modules))
        if self._blame is not None:
            name, why = self._blame
            trouble = {"excluded": [name, *degraded], "why": f"{name} {why}"}
        elif degraded:
            trouble = {"excluded": degraded, "why": f"{degraded[0]} does without what it imports"}
        elif why:
            trouble = {"excluded": [], "why": f"a module {why}"}
        else:
            return None
        return {**trouble, "modules": list(self._done.items())}

    def _import(self, name: str, origin: str | None) -> None:
        if name in sys.modules or name in self._excluded:
            return
        try:
            spec = find_spec(name)
            if spec is not None and spec.origin is not None and origin in (None, spec.origin):
                import_module(name)
        except Exception:
            # It cannot be imported without what its job did before; then the
            # job imports it, and says what is wrong with it, if anything is.
            pass

    @contextmanager
    def _watching(self) -> Iterator[None]:
        sys.meta_path.insert(0, self)
        self._watch.begin()
        try:
            with self._watch.watching():
                yield
        finally:
            sys.meta_path.remove(self)

    def _look(self, name: str) -> None:
        """Find out whether the latest import has done more than it should."""
        if self._careful and self._blame is None:
            if self._latest and (why := self._watch.complaint()):
                self._blame = (self._latest, why)
            self._latest = name

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Look, and refuse modules that must not be imported (for `sys.meta_path`)."""
        self._watch.look()
        self._look(name)
        if name in self._excluded:
            # Whoever can do without it would be another one than in a job.
            self._missed.add(_importer())
            raise ModuleNotFoundError(f"{name} is not loaded ahead", name=name)
        return None


class Scripts:
    """Scripts that were read and compiled."""

    def __init__(self) -> None:
        self._scripts: dict[str, tuple[tuple[int, ...], CodeType, list[str]]] = {}
        self._own_ways: dict[str, str | None] = {}

    def code(self, path: str, preloader: Preloader) -> CodeType:
        """Return what a script is compiled to.

        Parameters
        ----------
        path : `str`
            The script.
        preloader : `Preloader`
            Is told what the script imports first of all.

        Returns
        -------
        code : `types.CodeType`
            Its code, as the file is now.

        Raises
        ------
        OSError
            Raised if it cannot be read.
        SyntaxError, ValueError
            Raised if it cannot be compiled, or not without a word.
        """
        file = os.stat(path)
        state = (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns)
        if path not in self._scripts or self._scripts[path][0] != state:
            with io.open_code(path) as stream:
                source = stream.read()
            with warnings.catch_warnings(record=True) as said:
                imported = _imports(ast.parse(source, path))
                # Of this file's own __future__ imports, the script gets none.
                code = compile(source, path, "exec", dont_inherit=True)
            if said:
                raise ValueError("the compiler warns of something")
            self._scripts[path] = state, code, imported
            self._own_ways.pop(path, None)
        _, code, imported = self._scripts[path]
        preloader.add([(name, None) for name in imported])
        return code

    def own_ways(self, path: str) -> str | None:
        """Tell whether a script may mean other modules than those loaded here.

        Parameters
        ----------
        path : `str`
            A script of which `code` was asked.

        Returns
        -------
        why : `str` or `None`
            What it, or a module that it imports, has to do with where modules
            are looked for.
        """
        if path not in self._own_ways:
            patterns = {
                path: _OWN_WAYS,
                **dict.fromkeys(map(_file_of, self._scripts[path][2]), _CHANGES_PATH),
            }
            found = (_found(file, pattern) for file, pattern in patterns.items() if file)
            self._own_ways[path] = next(filter(None, found), None)
        return self._own_ways[path]


def _found(path: str, pattern: re.Pattern[bytes]) -> str | None:
    with open(path, "rb") as stream:
        found = pattern.search(stream.read())
    return f"{path} uses {found.group().decode()}" if found else None


def _imports(tree: ast.Module) -> list[str]:
    names = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names


def _file_of(name: str) -> str:
    """Return the file of a module that is no part of Python itself."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None and "." not in name:
        spec = PathFinder.find_spec(name)
    origin = str(getattr(spec, "origin", None) or "")
    ours = name.partition(".")[0] not in sys.stdlib_module_names and origin.endswith(".py")
    return origin if ours else ""


def shadowed(directory: str) -> str | None:
    """Return a module that a script would find in its own directory first.

    Parameters
    ----------
    directory : `str`
        Directory of the script.

    Returns
    -------
    name : `str` or `None`
        Name of a module that is loaded here from elsewhere.
    """
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return None
    for entry in entries:
        name, _, suffix = entry.name.partition(".")
        module = sys.modules.get(name)
        if module is None or getattr(getattr(module, "__spec__", None), "origin", None) in (
            "built-in",
            "frozen",
        ):
            continue
        if suffix.endswith(("py", "pyc", "so")) or os.path.exists(os.path.join(entry.path, "__init__.py")):
            return name
    return None


def _importer() -> str:
    """Return the name of the module whose code imports something now."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("importlib", __name__.rpartition(".")[0])):
            return str(name)
        frame = frame.f_back
    return ""
