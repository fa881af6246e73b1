# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: E501  # Each script is a line of its table.
"""A Python script that a fork server starts runs as in a process of its own: each of these scripts
is run both ways.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.warm import SHEBANG, Sides, check_same

LEARNED = (
    "argparse asyncio atexit collections concurrent.futures ctypes faulthandler gzip inspect io json locale logging "
    "multiprocessing multiprocessing.pool pickle random resource secrets shelve signal socket subprocess "
    "tempfile threading uuid warnings weakref numpy numpy.random"
).split()


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """Give runners whose fork server has learned what most of these scripts import."""
    sides = Sides(tmp_path_factory.mktemp("sides"))
    try:
        sides.teach(*LEARNED)
        yield sides
    finally:
        sides.close()
    assert sides.left() == []


# How a script ends.

EXITS = {
    "nothing": ("", 0),
    "none": ("import sys; sys.exit()", 0),
    "false": ("import sys; sys.exit(False)", 0),
    "true": ("import sys; sys.exit(True)", 1),
    "3": ("import sys; sys.exit(3)", 3),
    "negative": ("import sys; sys.exit(-1)", 255),
    "300": ("import sys; sys.exit(300)", 44),
    "256": ("import sys; sys.exit(256)", 0),
    "large": ("import sys; sys.exit(1 << 70)", 255),
    "most": ("import sys; sys.exit((1 << 63) - 2)", 254),
    "minus large": ("import sys; sys.exit(-(1 << 70))", 255),
    "text": ("import sys; print('x', end=''); sys.exit('why')", 1),
    "empty text": ("import sys; sys.exit('')", 1),
    "object": ("import sys; sys.exit([1, {2: 'ä'}])", 1),
    "float": ("import sys; sys.exit(0.0)", 1),
    "tuple": ("raise SystemExit(1, 2)", 1),
    "unprintable": (
        """
        class Bad:
            def __str__(self): raise ValueError('no text')
        raise SystemExit(Bad())
        """,
        1,
    ),
    "exit": ("exit(4)", 4),
    "quit": ("quit('why')", 1),
    "raise SystemExit": ("raise SystemExit", 0),
    "code is None": ("e = SystemExit(3); e.code = None; raise e", 0),
    "subclass": ("class Gone(SystemExit): pass\nraise Gone(6)", 6),
    "int subclass": ("import enum, sys\nclass E(enum.IntEnum):\n    A = 7\nsys.exit(E.A)", 7),
    "exception": ("def f(x):\n    return 1 / x\nf(0)", 1),
    "chained": ("try:\n    {}['a']\nexcept KeyError as exc:\n    raise ValueError('v') from exc", 1),
    "group": ("raise ExceptionGroup('g', [ValueError(1), TypeError(2)])", 1),
    "note": ("e = ValueError('x'); e.add_note('note'); raise e", 1),
    "recursion": ("import sys\nsys.tracebacklimit = 2\ndef f(): f()\nf()", 1),
    "in a library": ("import json\njson.loads('{')", 1),
    "in an import": ("import no_such_module", 1),
    "exit in a function": ("import sys\ndef f(): sys.exit(8)\nf()", 8),
    "traceback limit": ("import sys\nsys.tracebacklimit = 0\n1 / 0", 1),
    "generator exit": ("raise GeneratorExit", 1),
    "excepthook": ("import sys\nsys.excepthook = lambda *a: print('hook', a[0], a[2].tb_lineno, a[2].tb_next)\n1 / 0", 1),
    "excepthook fails": ("import sys\ndef hook(*a): {}['a']\nsys.excepthook = hook\n1 / 0", 1),
    "excepthook exits": ("import sys\nsys.excepthook = lambda *a: sys.exit(9)\n1 / 0", 9),
    "no excepthook": ("import sys\ndel sys.excepthook\n1 / 0", 1),
    "no stderr": ("import sys\nsys.stderr = None\n1 / 0", 1),
    "text, no stderr": ("import sys\nsys.stderr = None\nsys.exit('why')", 1),
    "KeyboardInterrupt": ("print('x')\nraise KeyboardInterrupt", 130),
    "KeyboardInterrupt subclass": ("class K(KeyboardInterrupt): pass\nraise K", 1),
    "SIGINT": ("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)", 130),
    "SIGINT in C": ("import signal, sys\nsys.stdout.write('x')\nsignal.raise_signal(signal.SIGINT)", 130),
    "SIGINT caught": ("try:\n    raise KeyboardInterrupt\nexcept KeyboardInterrupt:\n    raise SystemExit(130)", 130),
    "_exit": ("import os\nprint('lost')\nos._exit(5)", 5),
    "abort": ("import os\nprint('lost')\nos.abort()", 134),
    **{
        name: (f"import os, signal\nprint('lost')\nos.kill(os.getpid(), signal.{name})", 128 + number)
        for name, number in [("SIGTERM", 15), ("SIGKILL", 9), ("SIGSEGV", 11), ("SIGHUP", 1), ("SIGUSR1", 10)]
    },
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", 139),
    "SIGTERM handled": (
        "import os, signal, sys\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit(7))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nsignal.pause()",
        7,
    ),
    "SIGALRM": ("import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\nsignal.pause()", 142),
    "group is killed": ("import os, signal\nos.killpg(0, signal.SIGTERM)\nsignal.pause()", 143),
    "closed stdout": ("import sys\nprint('x')\nsys.stdout.close()", 0),
    "stdout is None": ("import sys\nsys.stdout = None\nprint('x')", 0),
    "no descriptor 1": ("import os\nprint('x')\nos.close(1)", 120),
    "no descriptor 1, exits": ("import os, sys\nprint('x')\nos.close(1)\nsys.exit(3)", 120),
    "no descriptor 2": ("import os\nos.close(2)\n1 / 0", 120),
    "full": ("import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nprint('x')", 120),
    "execs": ("import os, sys\nsys.stdout.flush()\nos.execl('/bin/sh', 'sh', '-c', 'echo x; exit 6')", 6),
}  # fmt: skip


@pytest.mark.some(15)
@pytest.mark.parametrize(("code", "exit"), EXITS.values(), ids=EXITS)
def test_end(sides: Sides, code: str, exit: int) -> None:
    """Exit code, signal, and what is said about an exception are those of a fresh interpreter."""
    assert sides.same(sides.script(code)).exit == exit


SOURCES = {
    "syntax": "x = 1\ndef f(:\n    pass",
    "indentation": "if 1:\nx = 2",
    "tab": "if 1:\n        x = 1\n\ty = 2",
    "invalid utf-8": "x = '\udcff'",
    "null": "x = '\0'",
    "bad cookie": "# -*- coding: no-such -*-",
    "return": "return 1",
    "await": "await x",
    "future": "x = 1\nfrom __future__ import annotations",
    "deep": "x = " + "(" * 300 + ")" * 300,
    "warning": "x = 1 is 1\nassert (x, 'y')\nprint('\\d')",
    "warning and error": "x = 1 is 1\nreturn",
    "long": "x = 1\n" * 20_000 + "print(x)",
    "comment": "# only",
}  # fmt: skip


@pytest.mark.some(4)
@pytest.mark.parametrize("code", SOURCES.values(), ids=SOURCES)
def test_source(sides: Sides, code: str) -> None:
    """What is wrong in a script is said as ever, each time."""
    script = sides.script(code)
    cold = sides.run_cold(script)
    for _ in range(3):
        check_same(sides.run_any(script), cold)


def test_script_that_is_changed(sides: Sides) -> None:
    """A script that is replaced between two jobs, with the same size and within one moment, runs as it is now."""
    for number in range(5):
        assert sides.run_any(sides.script(f"print({number})")).out == f"{number}\n"


FLUSHED = {
    "unflushed": ("print('x', end='')", "x"),
    "not to be flushed": ("import os; print('x'); os._exit(0)", ""),
    "C buffer": ("import ctypes\nctypes.CDLL(None).printf(b'from C')\nprint('from Python')", "from Python\nfrom C"),
    "C buffer, exits": ("import ctypes, sys\nctypes.CDLL(None).printf(b'from C')\nsys.exit(3)", "from C"),
    "C buffer, interrupted": ("import ctypes\nctypes.CDLL(None).printf(b'from C')\nraise KeyboardInterrupt", "from C"),
    "atexit": ("import atexit\natexit.register(print, 'end')\natexit.register(print, 'first')", "first\nend\n"),
    "atexit fails": ("import atexit\natexit.register(lambda: 1 / 0)\natexit.register(print, 'x')", "x\n"),
    "atexit and os._exit": ("import atexit, os\natexit.register(os._exit, 9)\nprint('x')", "x\n"),
    "atexit sees main": (
        "import atexit, sys\nname = 1\natexit.register(lambda: print(sys.modules['__main__'].name, name))", "1 1\n"
    ),
    "atexit has no file": ("import atexit\natexit.register(lambda: print('__file__' in globals()))", "False\n"),
    "atexit after exception": ("import atexit\natexit.register(print, 'x')\n1 / 0", "x\n"),
    "C atexit": ("import ctypes\nf = ctypes.CDLL(None).puts\nctypes.CDLL(None).on_exit(f, b'end of C')", None),
    "thread": (
        "import threading, time\ne = threading.Event()\n"
        "def f():\n    e.wait()\n    while threading.main_thread().is_alive(): time.sleep(0.01)\n"
        "    print('thread', threading.main_thread().is_alive())\n"
        "threading.Thread(target=f).start()\nthreading.Timer(0.05, e.set).start()\nprint('main')",
        "main\nthread False\n",
    ),
    "thread after exception": (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()\n1 / 0",
        "thread\n",
    ),
    "thread fails": (
        "import threading\ndef f(): 1 / 0\nt = threading.Thread(target=f, name='t'); t.start(); t.join(); print('x')", "x\n"
    ),
    "thread exits": ("import sys, threading\nt = threading.Thread(target=sys.exit); t.start(); t.join()", ""),
    "interrupted wait for thread": (
        "import os, signal, threading, time\n"
        "def f():\n    while threading.main_thread().is_alive(): time.sleep(0.01)\n"
        "    time.sleep(0.2); os.kill(os.getpid(), signal.SIGINT); time.sleep(0.05)\n"
        "threading.Thread(target=f).start()\nprint('x')",
        "x\n",
    ),
    "daemon": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nprint('x')", "x\n"
    ),
    "busy daemon": (
        "import threading\ndef f():\n    while True: pass\n"
        "threading.Thread(target=f, daemon=True).start()\nprint('x')", "x\n"
    ),
    "daemon that writes": (
        "import threading\ns = threading.Event()\ndef f():\n    s.set()\n    while True: open('/dev/null', 'w').write('x')\n"
        "threading.Thread(target=f, daemon=True).start()\ns.wait()\nprint('x')", "x\n"
    ),
    "executor": (
        "from concurrent.futures import ThreadPoolExecutor\np = ThreadPoolExecutor(2)\n"
        "p.submit(print, 'x').result()\np.submit(lambda: print('y'))", "x\ny\n"
    ),
    "__del__": ("class A:\n    def __del__(self): print('gone')\na = A()\nprint('x')", "x\ngone\n"),
    "__del__ sees what was before": (
        "import os\nNAME = 'n'\nclass A:\n    def __del__(self): print(NAME, os.path.basename('/a/b'))\na = A()", "n b\n"
    ),
    "__del__ sees what is after": ("class A:\n    def __del__(self): print(NAME)\na = A()\nNAME = 'n'", "n\n"),
    "__del__ without function": (
        "import functools\nclass A:\n    __del__ = functools.partialmethod(print, 'gone')\na = A()\n_b = A()", None
    ),
    "__del__ order": (
        "class A:\n    def __init__(self, n): self.n = n\n    def __del__(self): print(self.n)\n"
        "c = A('c')\n_b = A('b')\na = A('a')\n__d = A('d')", None
    ),
    "__del__ in cycle": (
        "class A:\n    def __del__(self): print('gone', self.name)\na = A()\na.name = 'a'\na.me = a\nb = [a]\nb.append(b)", "gone a\n"
    ),
    "__del__ in library": (
        "import json\nclass A:\n    def __del__(self): print('gone')\njson.mine = A()", "gone\n"
    ),
    "__del__ in function": ("class A:\n    def __del__(self): print('gone')\ndef f(a=A()): pass\nf.b = A()", "gone\ngone\n"),
    "finalize": ("import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'gone')\nprint('x')", "x\ngone\n"),
    "weakref callback": ("import weakref\nclass A: pass\na = A()\nr = weakref.ref(a, lambda _: print('gone'))", None),
    "generator": ("def f():\n    try: yield\n    finally: print('gone')\ng = f()\nnext(g)", "gone\n"),
    "logging": (
        "import logging, logging.handlers, sys\nh = logging.StreamHandler(sys.stdout)\n"
        "m = logging.handlers.MemoryHandler(99, target=h)\nlogging.getLogger().addHandler(m)\n"
        "logging.getLogger('a').warning('w')\nprint('x')", "x\nw\n"
    ),
    "logging without a handler": ("import logging\nlogging.warning('w')\nlogging.getLogger('b').error('e')", ""),
}  # fmt: skip


@pytest.mark.some(8)
@pytest.mark.parametrize(("code", "out"), FLUSHED.values(), ids=FLUSHED)
def test_what_happens_at_the_end(sides: Sides, code: str, out: str | None) -> None:
    """What a script leaves to the interpreter's end happens, in the same order."""
    outcome = sides.same(sides.script(code))
    assert out in (None, outcome.out)


LEFT = {
    "module level": "f = open(N, 'w'); f.write('text')",
    "binary": "f = open(N, 'wb'); f.write(b'text')",
    "read and write": "f = open(N, 'w+b'); f.write(b'text')",
    "library's list": "import json; json.kept = [open(N, 'w')]; json.kept[0].write('text')",
    "default": "def f(x=open(N, 'w')): x.write('text')\nf()",
    "cycle": "a = [open(N, 'w')]; a.append(a); a[0].write('text')",
    "class": "class A: f = open(N, 'w')\nA.f.write('text')",
    "exception": "def g():\n    f = open(N, 'w'); f.write('text'); 1 / 0\ng()",
    "thread": "import threading\ndef g():\n    global f\n    f = open(N, 'w'); f.write('text')\nthreading.Thread(target=g).start()",
    "os.fdopen": "import os; f = os.fdopen(os.open(N, os.O_CREAT | os.O_WRONLY), 'w'); f.write('text')",
    "print": "f = open(N, 'w'); print('text', file=f)",
    "redirected": "import sys; sys.stdout = open(N, 'w'); print('text')",
    "gzip": "import gzip; f = gzip.open(N, 'wb', mtime=0) if 0 else gzip.GzipFile(N, 'wb', mtime=0); f.write(b'text')",
    "gzip in library": "import gzip, json; json.kept = [gzip.GzipFile(N, 'wb', mtime=0)]; json.kept[0].write(b'text')",
    "zip": "import zipfile; f = zipfile.ZipFile(N, 'w'); f.writestr(zipfile.ZipInfo('a'), 'text')",
    "logging": "import logging; logging.basicConfig(filename=N, format='%(message)s'); logging.warning('text')",
    "temporary directory": "import tempfile; d = tempfile.TemporaryDirectory(dir=D); open(d.name + '/a', 'w').write('text')",
    "temporary file": "import tempfile; f = tempfile.NamedTemporaryFile(dir=D); f.write(b'text')",
    "temporary file in library": "import json, tempfile; json.kept = tempfile.NamedTemporaryFile(dir=D)",
    "stdio": "import ctypes as c; l = c.CDLL(None); l.fopen.restype = c.c_void_p; l.fputs(b'text', c.c_void_p(l.fopen(N.encode(), b'w')))",
    "killed": "import os; f = open(N, 'w'); f.write('text'); os.kill(os.getpid(), 9)",
    "_exit": "import os; f = open(N, 'w'); f.write('text'); os._exit(0)",
    "bad one": "class F:\n    pass\nimport io\nclass R(io.RawIOBase):\n    def flush(self): raise ValueError\nr = R(); f = open(N, 'w'); f.write('text')",
    "dead proxy": "import json, weakref\nclass A: pass\njson.kept = weakref.proxy(A()); f = open(N, 'w'); f.write('text')",
    "bad class": (
        "class A:\n    __slots__ = ()\n    @property\n    def __class__(self): raise RuntimeError('no class')\n"
        "import json; json.kept = [A()]; f = open(N, 'w'); f.write('text')"
    ),
    "no permission": "f = open('/dev/full', 'w'); f.write('text')",
    "buffer detached": "import sys; b = sys.stdout.detach(); b.write(b'text')",
}  # fmt: skip


@pytest.mark.some(6)
@pytest.mark.parametrize("code", LEFT.values(), ids=LEFT)
def test_files_left_open(sides: Sides, tmp_path: Path, code: str) -> None:
    """A file that a script does not close has the same content, and a temporary one is gone."""
    script = sides.script(f"import sys; D = sys.argv[1]; N = f'{{D}}/a.out'\n{code}\n")
    found: list[dict[str, bytes]] = []
    for run in (sides.run_warm, sides.run_cold, sides.run_warm):
        directory = tmp_path / f"{len(found)}"
        directory.mkdir()
        outcome = run(script, str(directory))
        said = (outcome.out + outcome.err).replace(str(directory), "")
        found.append(
            {path.name: path.read_bytes() if path.is_file() else b"" for path in directory.iterdir()}
        )
        # A fresh interpreter that ends may be too far gone to read its script's text.
        found[-1]["said"] = re.sub(r"^    .*\n", "", said, flags=re.MULTILINE).encode()
    assert found[1]["said"] == found[0]["said"] == found[2]["said"]
    assert found[1] == found[0] == found[2]


# What a script is given and what it sees.

SEEN = {
    "argv": "import sys; print(sys.argv)",
    "orig_argv": "import sys; print(sys.orig_argv)",
    "path": "import sys; print(sys.path)",
    "executable": "import sys; print(sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix, sys._base_executable)",
    "flags": "import sys; print(sys.flags, sys.warnoptions, sys._xoptions, sys.dont_write_bytecode, sys.pycache_prefix)",
    "hooks": "import sys; print(sys.excepthook, sys.displayhook, sys.unraisablehook)",
    "settings": (
        "import sys, gc; print(sys.getrecursionlimit(), sys.getswitchinterval(), sys.getdlopenflags(), gc.isenabled(), "
        "gc.get_threshold(), gc.get_debug(), sys.gettrace(), sys.getprofile(), sys.get_asyncgen_hooks(), sys.float_repr_style)"
    ),
    "main": "print({k: v for k, v in globals().items()})",
    "main sorted": "print(sorted((k, repr(v)) for k, v in globals().copy().items()))",
    "main doc": "'''The doc.'''\nprint(__doc__, __name__, __spec__, __package__, __loader__.name, __loader__.path)",
    "name": "if __name__ == '__main__': print(__name__, __file__)",
    "modules main": "import sys; m = sys.modules['__main__']; print(m, m.__dict__ is globals(), vars(m).get('a')); a = 1",
    "import main": "import __main__; a = 5; print(__main__.a)",
    "annotations": "x: int = 1; print(__annotations__)",
    "future": "from __future__ import annotations\nx: no = 1; print(__annotations__)",
    "no future": "def f(x: 1 + 1): pass\nprint(f.__annotations__)",
    "builtins": "print(__builtins__, type(__builtins__), '_' in dir(__builtins__), len(dir(__builtins__)))",
    "environment": "import os; print(sorted(os.environ.items()))",
    "environment of C": "import os; print(sorted(os.environb.items())); os.system('env -0 | sort -z | tr \\\\\\\\0 \\\\\\\\n')",
    "cwd": "import os; print(os.getcwd(), os.listdir('.') is not None)",
    "umask": "import os; print(os.umask(0))",
    "stdin": "import sys; print(repr(sys.stdin.read()), sys.stdin.fileno(), sys.stdin.name); print(input())",
    "descriptors": "import os; print([(n, os.readlink(f'/proc/self/fd/{n}').rpartition('/')[2].partition('.')[2], os.get_inheritable(int(n))) for n in os.listdir('/proc/self/fd') if int(n) < 3], len(os.listdir('/proc/self/fd')))",
    "descriptor flags": "import fcntl; print([fcntl.fcntl(n, fcntl.F_GETFL) for n in range(3)])",
    "next descriptor": "import os; print(os.open('/', 0), os.pipe())",
    "inherited descriptors": "import os; os.system('ls /proc/self/fd | wc -l')",
    "streams": (
        "import sys\nfor s in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__):\n"
        "    print(s, s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty(), s.newlines, type(s.buffer), s.buffer.raw.closefd)"
    ),
    "tell": "import sys; print(sys.stdout.seekable()); print(sys.stdout.tell()); print(sys.stdout.tell())",
    "encodings": "import sys, locale; print(sys.getfilesystemencoding(), locale.getpreferredencoding(), locale.setlocale(locale.LC_ALL))",
    "signals": "import signal; print([(s, repr(signal.getsignal(s))) for s in sorted(signal.valid_signals()) if s < 32], signal.pthread_sigmask(0, []), signal.sigpending(), signal.set_wakeup_fd(-1))",
    "signals of the kernel": "print([line for line in open('/proc/self/status') if line.startswith('Sig') and 'SigQ' not in line])",
    "signals of children": "import os; os.system('grep -E Sig[BI] /proc/self/status')",
    "limits": "import resource as r; print([(n, r.getrlimit(getattr(r, n))) for n in dir(r) if n.startswith('RLIMIT')])",
    "group": "import os; print(os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid(), os.nice(0), sorted(os.sched_getaffinity(0)))",
    "name of the process": "print(open('/proc/self/comm').read())",
    "prctl": "import ctypes; c = ctypes.CDLL(None); x = ctypes.c_int(-1); [(c.prctl(n, ctypes.byref(x)), print(n, x.value)) for n in (2, 37)]; print(c.prctl(3), c.prctl(39))",
    "threads": "import threading, _thread, os; m = threading.main_thread(); print(m.name, threading.current_thread() is m, threading.active_count(), m.ident == _thread.get_ident(), m.native_id == os.getpid(), os.listdir('/proc/self/task') == [str(os.getpid())])",
    "children": "import os\ntry: os.wait()\nexcept ChildProcessError as e: print(e)",
    "usage": "import resource; r = resource.getrusage(resource.RUSAGE_CHILDREN); print(r.ru_utime, r.ru_maxrss)",
    "file": "import os; print(open(os.path.join(os.path.dirname(__file__), 'data.txt')).read())",
    "beside": "import sides_helper; print(sides_helper.NAME, sides_helper.__file__)",
    "reimported": "import script as again; print(again.__name__, __name__)",
    "source": "import inspect\ndef f():\n    return 1  # one\nclass A: pass\nprint(inspect.getsource(f), inspect.getsource(A), inspect.getfile(f), inspect.getsourcefile(A), inspect.getmodule(f))",
    "format_exc": "import traceback\ntry: 1 / 0\nexcept Exception: traceback.print_exc(); print(traceback.format_exc())",
    "exception state": "import sys\nprint(sys.exc_info(), hasattr(sys, 'last_type'))\ntry: raise ValueError\nexcept ValueError as e: print(e.__context__)",
    "warning": "import warnings\nwarnings.warn('w')\ndef f(): warnings.warn('d', DeprecationWarning, stacklevel=2)\nf()",
    "warning of library": "import logging\nlogging.warn('w')",
    "warning once": "import warnings\nfor i in range(3): warnings.warn('w')\nprint([f for f in warnings.filters if f[1] is None and 'numpy' not in str(f)])",
    "warning registry": "import warnings\nwarnings.warn('w')\nprint(sorted(map(str, globals()['__warningregistry__'])))",
    "cookie": "# -*- coding: latin-1 -*-\nprint(ascii('\udce4'))",
    "line ends": "print('a')\r\nprint('b')\r\n",
    "form feed": "\fprint('x')\n\f",
    "no line end": "print('x')",
    "interleaved": "import os, sys\nprint('1')\nos.write(1, b'2\\n')\nprint('3', flush=True)\nos.write(1, b'4\\n')\nprint('5', file=sys.stderr)\nos.write(2, b'6\\n')\nprint('7' * 10000)\nos.write(1, b'8\\n')",
    "error line": "import os, sys\nsys.stderr.write('half')\nos.write(2, b'x\\n')\nsys.stderr.write(' other\\n')",
    "pickle": "import pickle\nclass A:\n    def __eq__(self, o): return type(o) is A\nd = pickle.dumps(A()); print(d, pickle.loads(d) == A())",
    "dataclass": "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: dataclasses.InitVar[int] = 1\nprint(A(), [f.name for f in dataclasses.fields(A)])",
    "argparse": "import argparse; p = argparse.ArgumentParser(); p.add_argument('x', type=int); p.parse_args()",
    "logging": "import logging\nlogging.basicConfig(format='%(name)s %(filename)s %(lineno)d %(funcName)s %(process)d'.replace('%(process)d', '%(processName)s %(threadName)s'))\ndef f(): logging.getLogger('a').warning('w')\nf()",
    "exec": "import os, sys; sys.stdout.flush(); os.execv(sys.executable, [sys.executable, '-c', 'import sys; print(sys.path[0])'])",
    "collected": "import gc; gc.collect(); print(gc.garbage, gc.get_freeze_count() >= 0, gc.callbacks)",
    "last": "import sys; print(hasattr(sys, 'ps1'), sys.__dict__.get('last_value'), sys.argv is sys.__dict__['argv'])",
    "site": "import sys, site; print(site.ENABLE_USER_SITE, site.getsitepackages())",
}  # fmt: skip


@pytest.mark.some(15)
@pytest.mark.parametrize("code", SEEN.values(), ids=SEEN)
def test_what_a_script_sees(sides: Sides, code: str) -> None:
    """A script finds itself, its arguments, and its process as a fresh interpreter has them."""
    (sides.bin / "data.txt").write_text("data")
    (sides.bin / "data.py").write_text("X = 5")
    (sides.bin / "sides_helper.py").write_text("NAME = 'beside'")
    script = sides.script(code.replace("\\\\\\\\", "\\"))
    sides.same(script, "a b", "-c", "ä\udcff", "")


MAIN = "\nif __name__ == '__main__':\n    "
STARTS = "fork spawn forkserver".split()
PROCESSES = {
    **{
        f"Pool {start}": (
            "import multiprocessing as m\nclass A:\n    def __init__(self, x): self.x = x\ndef f(a): return A(a.x * 2)"
            f"{MAIN}with m.get_context('{start}').Pool(2) as p: print([a.x for a in p.map(f, map(A, range(9)))])"
        )
        for start in STARTS
    },
    **{
        f"Process {start}": (
            "import multiprocessing as m, os, sys\ndef f(q, *a): q.put((a, __name__, sys.argv, m.current_process().name)); sys.exit(3)"
            f"{MAIN}c = m.get_context('{start}'); q = c.Queue(); p = c.Process(target=f, args=(q, 1)); p.start()\n"
            "    print(q.get()); p.join(); print(p.exitcode, p.name, m.active_children())"
        )
        for start in STARTS
    },
    **{
        f"executor {start}": (
            "import concurrent.futures as f, multiprocessing as m\nclass E(Exception): pass\ndef g(x):\n    if x: raise E(x)"
            f"{MAIN}p = f.ProcessPoolExecutor(2, mp_context=m.get_context('{start}'))\n"
            "    print([repr(p.submit(g, x).exception()) for x in (0, 1)])"
        )
        for start in STARTS
    },
    "spawn without guard": "import multiprocessing as m\nm.set_start_method('spawn')\np = m.Process(target=print); p.start(); p.join()",
    "Manager": f"import multiprocessing as m{MAIN}d = m.Manager().dict(a=1); print(d)",
    "shared memory": "from multiprocessing import shared_memory as s\nm = s.SharedMemory(create=True, size=9); m.close(); m.unlink()",
    "semaphore": "import multiprocessing as m\nL = m.Lock()\nwith L: print(L)",
    "process that crashes": f"import multiprocessing as m, os{MAIN}p = m.Process(target=os.abort); p.start(); p.join(); print(p.exitcode)",
    "not joined": f"import multiprocessing as m, time{MAIN}m.Process(target=print, args=('x',)).start()",
    "PIPE": (
        "import subprocess as s\nprint(s.run(['cat'], input=b'x', stdout=s.PIPE)); print(s.getoutput('echo y; exit 2'))\n"
        "p = s.Popen(['sh', '-c', 'read a; echo $a >&2; exit 4'], stdin=s.PIPE, stderr=s.PIPE, text=True); print(p.communicate('z\\n'), p.wait())"
    ),
    "itself": "import subprocess as s, sys\nif len(sys.argv) < 4: s.run([sys.executable, __file__, 'a', 'b', 'c']); s.run([__file__, '1', '2', '3'])\nprint(sys.argv[1:])",
    "no child waited for": "import subprocess as s, warnings\nwarnings.simplefilter('always')\nwarnings.formatwarning = lambda *a: f'{a[1]}\\n'\ns.Popen(['sleep', '60'])",
    "fork": "import os, sys\np = os.fork()\nif p: print(os.waitpid(p, 0)[1])\nelse: print('child'); sys.exit(5)",
    "fork, both end": "import atexit, os\natexit.register(print, 'end', flush=True)\nif os.fork(): os.wait()",
    "fork, buffered": "import os\nprint('x')\nif os.fork(): os.wait()",
    "fork, child fails": "import os\nif os.fork(): print(os.wait()[1])\nelse: 1 / 0",
    "asyncio": (
        "import asyncio\nasync def f():\n    p = await asyncio.create_subprocess_exec('sh', '-c', 'echo x; exit 2', stdout=-1)\n"
        "    print(await p.communicate(), await asyncio.to_thread(str, 5), p.returncode)\nasyncio.run(f(), debug=False)"
    ),
    "asyncio interrupted": (
        "import asyncio, os, signal\nasync def f():\n    os.kill(os.getpid(), signal.SIGINT)\n    try: await asyncio.sleep(9)\n"
        "    finally: print('cleaned')\nasyncio.run(f())"
    ),
    "asyncio signal": (
        "import asyncio, os, signal\nasync def f():\n    e = asyncio.Event()\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, e.set)\n    os.kill(os.getpid(), 15)\n    await e.wait(); print('x')\nasyncio.run(f())"
    ),
    "alarm": "import signal\nclass T(Exception): pass\ndef f(*_): raise T\nsignal.signal(14, f)\ntry:\n    signal.setitimer(0, 0.02)\n    while True: pass\nexcept T: print('x')",
    "threads": "import threading, queue\nq = queue.Queue()\n[threading.Thread(target=q.put, args=(n,)).start() for n in range(9)]\nprint(sorted(q.get() for _ in range(9)))",
    "thread names": "import threading\nt = threading.Thread(target=lambda: print(threading.current_thread().name)); t.start(); t.join(); print(threading.enumerate()[0].name)",
    "contextvars": "import contextvars\nprint(len(contextvars.copy_context()))",
    "at fork": "import os\nos.register_at_fork(before=lambda: print('b', flush=True), after_in_child=lambda: print('c', flush=True))\nif os.fork(): os.wait()",
}  # fmt: skip


@pytest.mark.some(8)
@pytest.mark.parametrize("code", PROCESSES.values(), ids=PROCESSES)
def test_processes_and_threads(sides: Sides, code: str) -> None:
    """A script may have processes and threads of its own, of all kinds."""
    outcome = sides.run_cold(script := sides.script(code))
    for _ in range(2):
        check_same(sides.run_warm(script), outcome)


SHEBANGS = {
    "own": SHEBANG,
    "env": "#!/usr/bin/env python3\n",
    "blanks": f"#! {sys.executable}  \n",
    "pip": f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\n",
    "pip without quotes": f"#!/bin/sh\n'''exec' {sys.executable} \"$0\" \"$@\"\n' '''\n",
}


@pytest.mark.some(6)
@pytest.mark.parametrize("shebang", SHEBANGS.values(), ids=SHEBANGS)
@pytest.mark.parametrize(
    "code",
    [
        "import os, sys; print(sys.executable, sys.argv, sys.path, sorted(os.environ.items()), __file__)",
        "import sys; print(sys.orig_argv)",
        "1 / 0",
        "print(__doc__)",
        "from __future__ import annotations\nprint(__doc__)",
    ],
)
def test_shebang(sides: Sides, shebang: str, code: str) -> None:
    """A script of this interpreter is one, however it says so."""
    sides.same(sides.script(f"# -*- coding: utf-8 -*-\n{code}\n", shebang=shebang), "a b", "'$x'")


COLD = {
    "another": "#!/usr/bin/python3\n",
    "unbuffered": f"#!{sys.executable} -u\n",
    "isolated": f"#!{sys.executable} -I\n",
    "env -S": f"#!/usr/bin/env -S {sys.executable} -u\n",
    "shell": "#!/bin/sh\nexit 0\n",
    "none": "",
    "pip with more": f"#!/bin/sh\n'''exec' {sys.executable} -I \"$0\" \"$@\"\n' '''\n",
}


@pytest.mark.parametrize("shebang", COLD.values(), ids=COLD)
def test_other_interpreters(sides: Sides, shebang: str) -> None:
    """A script of another interpreter, or with options to it, is started by itself."""
    sides.same_cold(sides.script("import os, sys; print(sys.flags, sys.executable)", shebang=shebang))


def test_shell_and_hooks(sides: Sides) -> None:
    """What bash has to run is not forked, nor is a command that cannot be executed."""
    script = sides.script("import sys; print(sys.argv[1:])")
    assert sides.same_cold(script=f"{script} a; echo b").out == "['a']\nb\n"
    assert sides.same_cold(script, "a", pre="echo pre").out == "pre\n['a']\n"
    assert sides.same_cold(script, "a", post="echo $BPS_PARSL_EXIT").out == "['a']\n0\n"
    os.chmod(script, 0o644)
    assert sides.same_cold(script).exit == 126
    os.unlink(script)
    assert sides.same_cold(script).exit == 127


# What remains different.


def test_one_frame_below(sides: Sides) -> None:
    """Where Python shows its whole stack, one line of ours is below the script's."""
    path = sides.script("import traceback\nprint(len(traceback.extract_stack()))")
    assert (sides.run_warm(path).out, sides.run_cold(path).out) == ("2\n", "1\n")
