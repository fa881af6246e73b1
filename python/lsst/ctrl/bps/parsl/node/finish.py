# SPDX-License-Identifier: BSD-3-Clause
"""The end of a forked process as a fresh interpreter would have it.

Taken apart is what was made since the fork: the garbage collector knows it
from what was frozen before. Standard library only.
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import signal
import sys
import threading
import weakref
from typing import Any, NoReturn

__all__ = ["finish", "say_ignored"]

_FLUSH_FAILED = 120
"""Exit code of Python where its output cannot be written."""


def finish(status: int) -> NoReturn:
    """Do what the interpreter does after its script.

    Parameters
    ----------
    status : `int`
        Exit code; the negative number of a signal that is to end the process.
    """
    import atexit

    for stream in (sys.stderr, sys.stdout):
        _quietly(stream, "flush")
    for name in ("__file__", "__cached__"):
        sys.modules["__main__"].__dict__.pop(name, None)
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # Waits for threads.
    except BaseException as exc:
        say_ignored(exc, threading)
    atexit._run_exitfuncs()
    flushed = _flush_output()
    _take_apart()
    flushed = _flush_output(again=True) and flushed
    if status == -signal.SIGINT:
        # So its parent sees what ended it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    # The C library's own: buffers of C code, and its handlers. No other
    # thread runs Python code meanwhile.
    ctypes.PyDLL(None).exit(status if flushed else _FLUSH_FAILED)
    raise AssertionError("the process has ended")


def say_ignored(exc: BaseException, where: object) -> None:
    """Say that an exception is ignored, as the interpreter does.

    Parameters
    ----------
    exc : `BaseException`
        The exception.
    where : `object`
        Where it happened.
    """
    found: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, found.append
    try:
        _Raising()  # There is no other way to have the class of such arguments.
    finally:
        sys.unraisablehook = hook
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    try:
        hook(type(found[0])((type(exc), exc.with_traceback(trace), trace, None, where)))
    except BaseException:
        pass  # Nobody is left to hear of it.


class _Raising:
    def __del__(self) -> None:
        raise RuntimeError


def _take_apart() -> None:
    """Let go of what was made, so that its files are written and it can say goodbye."""
    files = [item for item in gc.get_objects() if type(item) in _BUFFERED]
    for item in sorted(files, key=_depth):
        _quietly(item, "flush")
    files.clear()
    if threading.active_count() > 1:
        return  # What runs on may need what is there.
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)
    # As long as they are needed, its names are there: finalizers use them.
    main = weakref.ref(sys.modules["__main__"])
    for name in [name for name, module in sys.modules.items() if module is main()]:
        del sys.modules[name]
    gc.collect()
    if (kept := main()) is not None:
        for name in list(kept.__dict__):
            if name != "__builtins__":
                kept.__dict__[name] = None
        del kept
        gc.collect()
    # What is left is kept by modules that a fresh interpreter takes apart, too.
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if _ends_somehow(kind)}
    left = [item for item in objects if type(item) in kinds]
    del objects
    for item in sorted(left, key=_depth):
        if not issubclass(type(item), _FILE):
            if not gc.is_finalized(item):
                _quietly(item, "__del__")
        elif not any(item is stream for stream in (sys.stdin, sys.stdout, sys.stderr)):
            _quietly(item, "close")


_FILE: Any = io.IOBase.__base__
"""The class of files in C: the one in Python would ask each object's class."""


_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
"""What may hold text back. A file of another class does more than to write it."""


def _depth(item: object) -> int:
    """Return a number for the order: what has buffers comes before what it writes to."""
    for number, kind in enumerate((io.TextIOBase, io.BufferedIOBase, io.RawIOBase)):
        if issubclass(type(item), kind):
            return number + 1
    return 0


def _ends_somehow(kind: type) -> bool:
    return issubclass(kind, _FILE) or any("__del__" in base.__dict__ for base in kind.__mro__)


def _quietly(item: Any, method: str) -> None:
    try:
        getattr(item, method)()
    except BaseException:
        pass  # Nor does an interpreter say much of what fails in its last moments.


def _flush_output(*, again: bool = False) -> bool:
    good = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException as exc:
            good = False
            if stream is sys.stdout and not again:
                say_ignored(exc, stream)
    return good
