# SPDX-License-Identifier: BSD-3-Clause
"""Runs a Python script in a forked process as a fresh interpreter would.

What CPython does before and after a script is in its ``Modules/main.c``,
``Python/pythonrun.c`` and ``Python/pylifecycle.c``. One thing is left out: a
fresh interpreter takes all modules apart in the end, which is most of the time
of a short job. Here only what was made since the fork is taken apart (see
`~lsst.ctrl.bps.parsl.node.finish`). Standard library only.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from typing import Any, NoReturn

from .finish import finish, say_ignored

__all__ = ["Script", "forget_the_past"]

_OWN_MODULES = __name__.rpartition(".")[0]


def forget_the_past() -> None:
    """Set anew what an interpreter sets once at its start or at an import."""
    modules: dict[str, Any] = dict(sys.modules)  # Most of these names are private.
    if (random := modules.get("numpy.random.mtrand")) is not None:
        random.seed()  # Python's own generator sees to itself.
    if (process := modules.get("multiprocessing.process")) is not None:
        process._current_process = type(process._current_process)()
        process._process_counter = type(process._process_counter)(1)
    if (tempfile := modules.get("tempfile")) is not None:
        tempfile.tempdir = None
        tempfile._name_sequence = None
    if (logging := modules.get("logging")) is not None:
        import time

        start = time.time_ns() if isinstance(logging._startTime, int) else time.time()
        logging._startTime = start
    if (threading := modules.get("threading")) is not None:
        threading.main_thread()._set_native_id()
    if (machinery := modules.get("importlib")) is not None:
        machinery.invalidate_caches()
    gc.enable()


class Script:
    """A script that is the program of this process.

    Its code is executed at the bottom of the stack, where the fork server was
    started (`~lsst.ctrl.bps.parsl.node.fork_server_process`): of ours, it has
    one frame below it.

    Parameters
    ----------
    interpreter : `tuple` [`str`, `str`]
        Path of the interpreter that the script asks for, and the name that
        it is called by.
    path : `str`
        The script.
    arguments : `list` [`str`]
        Its arguments.
    code : `types.CodeType`
        What it is compiled to.
    at_end : `~collections.abc.Callable`
        What to do when the script has ended, however it did.
    """

    def __init__(
        self,
        interpreter: tuple[str, str],
        path: str,
        arguments: list[str],
        code: types.CodeType,
        at_end: Callable[[], None],
    ) -> None:
        sys.executable = interpreter[0]
        sys.argv = [path, *arguments]
        sys.orig_argv = [interpreter[1], path, *arguments]
        if not getattr(sys.flags, "safe_path", False):
            sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
        old, new = sys.modules["__main__"], _main_module(path)
        for name in [name for name, module in sys.modules.items() if module is old]:
            sys.modules[name] = new  # ``multiprocessing`` has another name for it.
        # It has code that is running.
        sys.modules[f"{_OWN_MODULES}.start"] = old
        self.code = code
        self._at_end = at_end
        self._status = 0

    @property
    def names(self) -> dict[str, Any]:
        """What the script's code has for its global names."""
        return sys.modules["__main__"].__dict__

    def caught(self, exc: BaseException) -> None:
        """Take an exception that nobody caught.

        Parameters
        ----------
        exc : `BaseException`
            The exception.
        """
        self._status = _status(exc)

    def end(self) -> NoReturn:
        """End this process."""
        self._at_end()
        finish(self._status)


def _main_module(path: str) -> types.ModuleType:
    """Make the module of a script, with its names in a fresh one's order."""
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __loader__=SourceFileLoader("__main__", path),
        __annotations__={},
        __builtins__=sys.modules["builtins"],
        __file__=path,
        __cached__=None,
    )
    return main


def _status(exc: BaseException) -> int:
    """Do what the interpreter does about an exception that nobody caught."""
    if isinstance(exc, SystemExit):
        return _status_of_exit(exc)
    _leave_out_own_frames(exc)
    sys.last_type, sys.last_value, sys.last_traceback = type(exc), exc, exc.__traceback__
    interrupted = type(exc) is KeyboardInterrupt
    hook = getattr(sys, "excepthook", None)
    if hook is None:
        _print("sys.excepthook is missing\n")
        sys.__excepthook__(type(exc), exc, exc.__traceback__)
        return -signal.SIGINT if interrupted else 1
    try:
        hook(type(exc), exc, exc.__traceback__)
    except SystemExit as second:
        return _status_of_exit(second)
    except BaseException as second:
        _leave_out_own_frames(second)
        if second.__context__ is exc:
            second.__context__ = None
        _print("Error in sys.excepthook:\n")
        sys.__excepthook__(type(second), second, second.__traceback__)
        _print("\nOriginal exception was:\n")
        sys.__excepthook__(type(exc), exc, exc.__traceback__)
    return -signal.SIGINT if interrupted else 1


def _leave_out_own_frames(exc: BaseException) -> None:
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_OWN_MODULES):
        trace = trace.tb_next
    exc.__traceback__ = trace


def _status_of_exit(exc: SystemExit) -> int:
    code: Any = exc.code
    if code is None:
        return 0
    if isinstance(code, int):
        # As C takes it, and then as the kernel does.
        return int(code) & 0xFF if -(1 << 63) <= code < 1 << 63 else 0xFF
    try:
        sys.stdout.flush()
    except Exception:
        pass  # Python says so at the end.
    try:
        text = str(code)
    except BaseException:
        text = ""
    _print(f"{text}\n")
    return 1


def _print(text: str) -> None:
    """Write to stderr, as far as there is one."""
    try:
        if sys.stderr is None:
            os.write(2, text.encode("utf-8", "backslashreplace"))
        else:
            sys.stderr.write(text)
    except Exception as exc:
        say_ignored(exc, sys.stderr)
