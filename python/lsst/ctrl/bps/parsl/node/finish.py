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
import types
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
        say_ignored(exc, threading, "Exception ignored on threading shutdown")
    atexit._run_exitfuncs()
    flushed = _flush_output()
    if callable(sys.unraisablehook):
        sys.unraisablehook = _say_ignored_alone(sys.unraisablehook)
    _take_apart()
    flushed = _flush_output(again=True) and flushed
    if status == -signal.SIGINT:
        # So its parent sees what ended it. From 3.13 on, Python flushes C's buffers before.
        if sys.version_info >= (3, 13):
            ctypes.PyDLL(None).fflush(None)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    # The C library's own: buffers of C code, and its handlers. No other
    # thread runs Python code meanwhile.
    ctypes.PyDLL(None).exit(status if flushed else _FLUSH_FAILED)
    raise AssertionError("the process has ended")


def say_ignored(exc: BaseException, where: object, message: str | None = None) -> None:
    """Say that an exception is ignored, as the interpreter does.

    Parameters
    ----------
    exc : `BaseException`
        The exception.
    where : `object`
        Where it happened.
    message : `str`, optional
        What Python 3.13 and later say in place of it.
    """
    found: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, found.append
    try:
        _Raising()  # There is no other way to have the class of such arguments.
    finally:
        sys.unraisablehook = hook
    if message is not None and sys.version_info >= (3, 13):
        where = None
    else:
        message = None
    try:
        hook(type(found[0])((type(exc), exc, _without_ours(exc), message, where)))
    except BaseException:
        pass  # Nobody is left to hear of it.


def _without_ours(exc: BaseException) -> types.TracebackType | None:
    """Take this module's frames from the traceback of an exception."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    exc.__traceback__ = trace
    return trace


def _say_ignored_alone(hook: Any) -> Any:
    """Have what is said of exceptions in finalizers not name this module, which began them."""

    def say(args: Any) -> None:
        trace = args.exc_traceback if args.exc_value is None else _without_ours(args.exc_value)
        hook(type(args)((args.exc_type, args.exc_value, trace, args.err_msg, args.object)))

    return say


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


def _depth(item: object) -> tuple[int, bool]:
    """Return a key for the order: what has buffers comes before what it writes to.

    Of two with buffers, one that is written in Python may well have the other, as `gzip.GzipFile` has.
    """
    in_c = type(item).__module__ == "_io"
    for number, kind in enumerate((io.TextIOBase, io.BufferedIOBase, io.RawIOBase)):
        if issubclass(type(item), kind):
            return number + 1, in_c
    return 0, in_c


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
                say_ignored(exc, stream, "Exception ignored on flushing sys.stdout")
    return good
