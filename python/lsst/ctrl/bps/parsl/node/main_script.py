# SPDX-License-Identifier: BSD-3-Clause
"""Runs a Python script in a forked process as a fresh interpreter would.

What CPython does before and after a script is in its ``Modules/main.c`` and
``Python/pylifecycle.c``. One thing is left out: a fresh interpreter takes all
modules apart in the end, which is most of the time of a short job. Here only
what the script itself made is taken apart. Standard library only.
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import signal
import sys
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from typing import Any, NoReturn

__all__ = ["forget_the_past", "run_script"]

_FLUSH_FAILED = 120
"""Exit code of Python where its output cannot be written."""

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
    if (machinery := modules.get("importlib")) is not None:
        machinery.invalidate_caches()
    gc.enable()


def run_script(interpreter: str, path: str, arguments: list[str], at_end: Callable[[], None]) -> NoReturn:
    """Run a script as the program of this process, and end the process.

    Parameters
    ----------
    interpreter : `str`
        Path of the interpreter that the script asks for.
    path : `str`
        The script.
    arguments : `list` [`str`]
        Its arguments.
    at_end : `~collections.abc.Callable`
        What to do when the script has ended, however it did.
    """
    sys.executable = interpreter
    sys.argv = [path, *arguments]
    sys.orig_argv = [interpreter, path, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=path,
        __builtins__=sys.modules["builtins"],
        __loader__=SourceFileLoader("__main__", path),
        __annotations__={},
        __cached__=None,
    )
    # The module in its place has functions that are running.
    sys.modules[f"{_OWN_MODULES}.main"] = sys.modules["__main__"]
    sys.modules["__main__"] = main
    code = 0
    try:
        with io.open_code(path) as stream:
            source = stream.read()
        # Of this file's own __future__ imports, the script gets none.
        exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)
    except BaseException as exc:
        code = _exit_code(exc)
    at_end()
    _finish(main, code)


def _exit_code(exc: BaseException) -> int:
    """Do what the interpreter does about an exception that nobody caught."""
    if isinstance(exc, SystemExit):
        return _code_of(exc)
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_OWN_MODULES):
        trace = trace.tb_next
    exc.__traceback__ = trace
    sys.last_type, sys.last_value, sys.last_traceback = type(exc), exc, trace
    try:
        sys.excepthook(type(exc), exc, trace)
    except SystemExit as second:
        return _code_of(second)
    except BaseException as second:
        print("Error in sys.excepthook:", file=sys.stderr)
        sys.__excepthook__(type(second), second, second.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(exc), exc, trace)
    return -signal.SIGINT if isinstance(exc, KeyboardInterrupt) else 1


def _code_of(exc: SystemExit) -> int:
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
    print(code, file=sys.stderr)
    return 1


def _finish(main: types.ModuleType, code: int) -> NoReturn:
    """Do what the interpreter does after its script."""
    import atexit
    import threading

    try:
        threading._shutdown()  # type: ignore[attr-defined]  # Waits for threads.
    except BaseException as exc:
        sys.unraisablehook(_unraisable(exc, "Exception ignored in"))
    atexit._run_exitfuncs()
    flushed = _flush_all()
    sys.modules["__main__"] = types.ModuleType("__main__")
    _take_apart(main)
    flushed = _flush_all() and flushed
    if code == -signal.SIGINT:
        # So its parent sees what ended it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    # The C library's own: buffers of C code, and its handlers. No other
    # thread runs Python code meanwhile.
    ctypes.PyDLL(None).exit(code if flushed or code else _FLUSH_FAILED)
    raise AssertionError("the process has ended")


def _unraisable(exc: BaseException, message: str) -> Any:
    return types.SimpleNamespace(
        exc_type=type(exc), exc_value=exc, exc_traceback=exc.__traceback__, err_msg=message, object=None
    )


def _take_apart(main: types.ModuleType) -> None:
    """Let go of what the script has made, so that its files are written."""
    namespace = main.__dict__
    for private in (True, False):
        for name in list(namespace):
            if name != "__builtins__" and name.startswith("_") is private:
                namespace[name] = None
    gc.collect()
    # The abstract class would ask each object's class in Python.
    kind: Any = io.IOBase.__base__
    for item in gc.get_objects():
        if isinstance(item, kind) and not item.closed:
            try:
                item.flush()
            except (OSError, ValueError):
                pass  # Nobody would hear of it at the end of an interpreter, either.


def _flush_all() -> bool:
    good = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception as exc:
            good = good and stream is sys.stderr
            if stream is sys.stdout:
                sys.unraisablehook(_unraisable(exc, "Exception ignored in"))
    return good
