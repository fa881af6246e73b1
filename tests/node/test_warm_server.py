# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: E501  # Each script is a line of its table.
"""The fork server: what it learns, what it leaves to the jobs, and what one job cannot do to the next."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lsst.ctrl.bps.parsl.node.fork_server_process import ForkServerProcess
from support.warm import Outcome, Sides, check_same, made, wait_until

__all__ = ["made"]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """Give runners for many jobs."""
    sides = Sides(tmp_path_factory.mktemp("sides"))
    yield sides
    sides.close()
    assert sides.left() == []


# One job and the next.

PROBE = """
import asyncio, gc, json, locale, logging, os, random, resource, signal, sys, threading, time, warnings, decimal
print(sorted((k, v) for k, v in os.environ.items() if k != "_"), os.getcwd(), os.umask(0), time.tzname)
print([(s, repr(signal.getsignal(s))) for s in sorted(signal.valid_signals()) if s < 32], signal.pthread_sigmask(0, []))
print([(n, resource.getrlimit(getattr(resource, n))) for n in dir(resource) if n.startswith("RLIMIT")], os.nice(0))
print(locale.setlocale(locale.LC_ALL), sys.path, sys.argv[1:], sys.flags, sys.getrecursionlimit(), getattr(sys, "meta" "_path"))
print(json.dumps({"a": [1]}), hasattr(json, "mine"), os.path.join("a", "b"), len("abc"), print, decimal.getcontext())
print(threading.enumerate().__len__(), os.listdir("/proc/self/task") == [str(os.getpid())], gc.isenabled(), gc.garbage)
print(logging.getLogger().handlers, logging.getLogger().level, logging.Logger.manager.loggerDict.get("bad"))
print([f for f in warnings.filters if f[1]], signal.getitimer(signal.ITIMER_REAL), sys.gettrace(), sys.getprofile())
print(len(os.listdir("/proc/self/fd")), sys.stdout.encoding, sys.stdout.line_buffering, sorted(os.sched_getaffinity(0)))
try: print(os.wait())
except ChildProcessError: print("no child")
"""

DEEDS = {
    "crash": "import ctypes; ctypes.string_at(0)",
    "killed": "os.kill(os.getpid(), 9)",
    "aborted": "os.abort()",
    "stopped and killed": "if not os.fork():\n    os.kill(os.getppid(), 19)\n    os.kill(os.getppid(), 9)\nsignal.pause()",
    "memory": "x = bytearray(200_000_000); sys.kept = x",
    "environment": "os.environ['MINE'] = '1'; del os.environ['PATH']; os.putenv('OTHER', '2'); os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "global": "json.mine = 1; json.dumps = None; json.JSONEncoder.encode = None",
    "monkeypatch": "os.path.join = os.getcwd = print; import builtins; builtins.len = builtins.print = None",
    "threads": "[threading.Thread(target=time.sleep, args=(99,), daemon=True).start() for _ in range(5)]",
    "cwd": "os.chdir('/')",
    "umask": "os.umask(0o777)",
    "signals": "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, print); signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "mask": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10)); resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.nice(5)",
    "no processes": "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",
    "locale": "locale.setlocale(locale.LC_ALL, 'C.UTF-8'); decimal.getcontext().prec = 3",
    "settings": "sys.setrecursionlimit(50000); sys.settrace(print); gc.disable(); sys.path.clear(); getattr(sys, 'meta' '_path').clear(); sys.modules.clear()",
    "logging": "logging.basicConfig(level=1); logging.getLogger('bad').setLevel(1); warnings.simplefilter('error')",
    "streams": "sys.stdout.reconfigure(line_buffering=True, encoding='latin-1'); sys.stderr.close(); os.closerange(0, 100)",
    "descriptors": "[os.open('/', 0) for _ in range(100)]; [os.dup2(0, n) for n in range(200, 250)]",
    "alarm": "signal.alarm(1); signal.setitimer(signal.ITIMER_REAL, 1)",
    "affinity": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "its server's socket": "import socket\nfor n in range(3, 50):\n    try: socket.socket(fileno=n).send(b'{}')\n    except OSError: pass",
    "kills its parent's group": "os.setsid(); os.killpg(0, 15)",
    "SIGTERM to its supervisor": "os.kill(os.getppid(), 15); os.kill(os.getppid(), 2); os.kill(os.getppid(), 1)",
}  # fmt: skip


@pytest.mark.some(6)
@pytest.mark.parametrize("code", DEEDS.values(), ids=DEEDS)
def test_one_job_changes_nothing_for_the_next(sides: Sides, code: str) -> None:
    """Whatever a job does to its process, the next one has a fresh one."""
    modules = "asyncio, ctypes, decimal, gc, json, locale, logging, os, random, resource, signal, sys, threading, time, warnings"
    bad = sides.script(f"import {modules}\n{code}\n", "bad")
    probe = sides.script(PROBE, "probe")
    expected = sides.run_cold(probe)
    sides.run_warm(probe)
    servers = sides.servers()
    sides.run_warm(bad)
    check_same(sides.run_warm(probe), expected)
    assert sides.servers() == servers, "the fork server is the same"


def test_children_differ_by_chance(sides: Sides, tmp_path: Path) -> None:
    """Random numbers, identifiers, keys and temporary names are drawn anew in each child."""
    code = """
    import multiprocessing as m, os, random, secrets, tempfile, uuid
    import numpy.random as n
    print(random.random(), random.SystemRandom().random(), random.Random().random(), secrets.token_hex(), sep="\\n")
    print(n.random(), n.default_rng().random(), n.RandomState().rand(), sep="\\n")
    print(uuid.uuid4(), uuid.uuid1(), tempfile.mktemp(), next(tempfile._get_candidate_names()), sep="\\n")
    print(bytes(m.current_process().authkey), os.urandom(8), sep="\\n")
    print("same", m.current_process().name, m.current_process()._identity, m.Process().name, m.parent_process())
    """
    script = sides.script(code)
    sides.teach("multiprocessing", "numpy.random", "random", "secrets", "tempfile", "uuid")
    outs = [run(script).out.splitlines() for run in [*[sides.run_warm] * 4, sides.run_cold]]
    for values in zip(*outs, strict=True):
        assert len(set(values)) == (1 if values[0].startswith("same") else 5)


def test_generator_of_a_library(made: Callable[..., Sides], tmp_path: Path) -> None:
    """A random generator that a library makes when it is imported gives each job other numbers; one with a
    seed the same.
    """
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "drawn.py").write_text(
        "import random\nRNG = random.Random()\nFIXED = random.Random(1)\n"
    )
    (tmp_path / "lib" / "drawn_np.py").write_text("import numpy\nRNG = numpy.random.default_rng()\n")
    sides = made(PYTHONPATH=str(tmp_path / "lib"))
    script = sides.script(
        "import drawn, drawn_np\nprint(drawn.RNG.random())\nprint(drawn_np.RNG.random())\nprint(drawn.FIXED.random())"
    )
    settle(sides, "marker_of_generator", tmp_path / "lib", "drawn", "drawn_np")
    outs = [sides.run_any(script).out.splitlines() for _ in range(3)]
    assert [len(set(values)) for values in zip(*outs, strict=True)] == [3, 3, 1]


# What the server has.


def settle(sides: Sides, marker: str, library: Path, *modules: str) -> list[Outcome]:
    """Run jobs until the server has learned all that it will of what they import."""
    (library / f"{marker}.py").write_text("")
    script = sides.script(
        f"import sys\nloaded = '{marker}' in sys.modules\nfor name in {modules}: __import__(name)\n"
        f"import {marker}\nprint(loaded, file=open(sys.argv[1], 'w'))\n",
        f"settle_{marker}",
    )
    said = library / "settled"
    outcomes = []

    def settled() -> bool:
        outcomes.append(sides.run_any(script, str(said)))
        return said.read_text() == "True\n"

    wait_until(settled)
    return outcomes


def what_it_has(server: psutil.Process) -> tuple[list[str], int, list[psutil.Process]]:
    """Return of what kind the open files of a process are, and its numbers of threads and children."""
    with suppress(OSError, psutil.Error):
        directory = f"/proc/{server.pid}/fd"
        targets = [os.readlink(f"{directory}/{number}") for number in os.listdir(directory)]
        return sorted(target.partition(":")[0] for target in targets), server.num_threads(), server.children()
    return [], 0, []


OWN_FILES = ["/dev/null", "/memfd", "/memfd", "pipe", "pipe", "socket", "socket", "socket"]


def check_server(sides: Sides) -> None:
    """Check that the server, when it has learned, has one thread, its own files, and nobody below it."""
    wait_until(lambda: [what_it_has(server) for server in sides.servers()] == [(OWN_FILES, 1, [])])


IMPORTS = {
    "harmless": "X = 1",
    "thread": "import threading\nT = threading.Thread(target=threading.Event().wait, daemon=True)\nT.start()",
    "thread that ends": "import threading\nT = threading.Thread(target=int)\nT.start()\nT.join()",
    "timer": "import threading\nT = threading.Timer(999, int)\nT.daemon = True\nT.start()",
    "prints": "print('imported')",
    "prints to stderr": "import sys\nprint('imported', file=sys.stderr)",
    "writes to 2": "import os\nos.write(2, b'imported\\n')",
    "C prints": "import ctypes\nctypes.CDLL(None).puts(b'imported')",
    "warns": "import warnings\nwarnings.warn('imported')",
    "logs": "import logging\nlogging.basicConfig(level='INFO')\nlogging.getLogger('x').info('imported')",
    "logs, without handler": "import logging\nlogging.getLogger('x').info('imported')",
    "logs later": "import logging\nlogging.getLogger('x').warning('imported')",
    "debugs": "import logging\nlogging.getLogger('x').debug('imported')",
    "file": "F = open(__file__)",
    "log file": "import os\nF = open(os.devnull, 'w')",
    "deleted file": "import tempfile\nF = tempfile.TemporaryFile()",
    "socket": "import socket\nS = socket.socket()",
    "socket pair": "import socket\nS = socket.socketpair()",
    "pipe": "import os\nP = os.pipe()",
    "descriptor": "import os\nD = os.dup(0)",
    "epoll": "import select\nE = select.epoll()",
    "loop": "import asyncio\nL = asyncio.new_event_loop()",
    "process": "import subprocess\nP = subprocess.Popen(['sleep', '99'])",
    "environment": "import os\nos.environ['BY_IMPORT'] = 'x'",
    "cwd": "import os\nos.chdir('/')",
    "umask": "import os\nos.umask(0o77)",
    "signal": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nsignal.signal(signal.SIGUSR1, lambda *_: None)",
    "limit": "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "path": "import sys\nsys.path.insert(0, '/x')\nsys.path.append('/y')",
    "argv": "import sys\nA = sys.argv[1:]\nM = sys.modules['__main__'].__file__",
    "time": "import time\nT = time.time()",
    "fails": "1 / 0",
    "replaces streams": "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), line_buffering=True)",
    "stream of its own": "import sys\nsys.stderr = open(2, 'w', closefd=False, buffering=1)",
    "excepthook": "import sys\nsys.excepthook = lambda *a: print('hook')",
    "locale": "import locale\nlocale.setlocale(locale.LC_ALL, '')",
    "recursion": "import sys\nsys.setrecursionlimit(5000)",
    "fork": "import os\nif os.fork() == 0: os._exit(0)\nos.wait()",
    "subreaper": "import multiprocessing\nL = multiprocessing.Lock()",
    "needs main": "import __main__\nN = __main__.NAME",
    "alarm": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 999)",
    "affinity": "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
}  # fmt: skip

AFTER = """
NAME = "main"
import sys
if sys.argv[1] == "a":
    import learned
else:
    learned = type(sys)("learned")
import marker
import gc, locale, os, resource, signal, sys, threading
print(sorted(n for n in vars(learned) if n[:2] != "__"), threading.active_count())
print(os.environ.get("BY_IMPORT"), os.getcwd(), os.umask(0), resource.getrlimit(resource.RLIMIT_CORE), gc.isenabled())
print([(s, str(signal.getsignal(s)).partition(" at ")[0]) for s in signal.valid_signals() if s < 32], signal.getitimer(0)[0] > 0)
print(sys.path, getattr(learned, "A", 0), getattr(learned, "M", 0), getattr(learned, "PID", os.getpid()) == os.getpid())
print(len(os.listdir("/proc/self/fd")), locale.setlocale(locale.LC_ALL), sys.getrecursionlimit(), len(os.sched_getaffinity(0)))
print(sys.stdout.line_buffering, getattr(learned, "E", os.environ) == os.environ, len(sys.argv))
try: print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError: print("no child")
"""


@pytest.mark.some(3)
@pytest.mark.parametrize("code", IMPORTS.values(), ids=IMPORTS)
def test_module_that_does_something_when_it_is_imported(
    made: Callable[..., Sides], tmp_path: Path, code: str
) -> None:
    """What an import does besides defining things, it does in each job, and never in the server."""
    library = tmp_path / "lib"
    library.mkdir()
    (library / "learned.py").write_text(code)
    (library / "marker.py").write_text("")
    sides = made(PYTHONPATH=str(library))
    seen = sides.script("import sys\nprint('marker' in sys.modules)\nimport marker\n", "seen")
    script = sides.script(AFTER)
    with_it, without = (sides.run_cold(script, argument) for argument in "ab")
    check_same(sides.run_warm(script, "a"), with_it)
    wait_until(lambda: "True" in sides.run_any(seen).out)
    for argument, expected in (("a", with_it), ("b", without), ("a", with_it)):
        check_same(sides.run_any(script, argument), expected)
    assert sides.run(script, "a").get("note") is None
    check_server(sides)


FATAL = {
    "exits": "import sys\nsys.exit(5)",
    "os._exit": "import os\nos._exit(5)",
    "killed": "import os\nos.kill(os.getpid(), 9)",
    "interrupted": "raise KeyboardInterrupt",
}


@pytest.mark.some(1)
@pytest.mark.parametrize("code", FATAL.values(), ids=FATAL)
def test_module_that_ends_the_process(made: Callable[..., Sides], tmp_path: Path, code: str) -> None:
    """A module that ends who imports it ends its job as ever, and no other one."""
    (tmp_path / "fatal.py").write_text(code)
    sides = made(PYTHONPATH=str(tmp_path))
    fatal, other = sides.script("import fatal"), sides.script("print('x')", "other")
    expected = sides.run_cold(fatal)
    for _ in range(3):
        check_same(sides.run_any(fatal), expected)
        assert sides.run_any(other) == Outcome(0, 0, "x\n", "")


def test_modules_are_imported_once(made: Callable[..., Sides], tmp_path: Path) -> None:
    """What the first job imported is loaded for all later ones, also what it imported late, and in packages."""
    library = tmp_path / "lib"
    (library / "package" / "sub").mkdir(parents=True)
    for name in ("early", "late", "package/__init__", "package/sub/__init__", "package/sub/deep"):
        (library / f"{name}.py").write_text(
            "import os\nwith open(os.environ['IMPORTS'], 'a') as f: print(__name__, file=f)\n"
        )
    imports = tmp_path / "imports"
    sides = made(PYTHONPATH=str(library), IMPORTS=str(imports))
    script = sides.script("import early\ndef f():\n    import late\n    from package.sub import deep\nf()\n")
    wait = sides.script(
        "import sys\nprint({'early', 'late', 'package.sub.deep'} <= sys.modules.keys())", "wait"
    )
    sides.run_warm(script)
    wait_until(lambda: sides.run_warm(wait).out == "True\n")
    before = imports.read_text()
    for _ in range(5):
        sides.run_warm(script)
    assert imports.read_text() == before
    names = before.split()
    assert max(names.count(name) for name in names) <= 2, "once by a job, once by the server"


@pytest.fixture
def crossed(made: Callable[..., Sides], tmp_path: Path) -> Sides:
    """Give runners with a module ``helper`` on PYTHONPATH, in other directories, and beside scripts."""
    for name in ("lib", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"WHERE = '{name}'\n")
        (tmp_path / name / "user.py").write_text(f"import helper\nWHERE = '{name}', helper.WHERE\n")
    sides = made(PYTHONPATH=str(tmp_path / "lib"))
    for name in ("a", "b"):
        (sides.bin / name).mkdir()
        (sides.bin / name / "helper.py").write_text(f"WHERE = '{name}'\n")
    (sides.bin / "c" / "json").mkdir(parents=True)
    (sides.bin / "c" / "json" / "__init__.py").write_text("WHERE = 'c'\n")
    (sides.bin / "d").mkdir()
    (sides.bin / "d" / "logging.py").write_text("WHERE = 'd'\n")
    (tmp_path / "lib" / "chooser.py").write_text("import sys\ndef choose(path): sys.path.insert(0, path)\n")
    (tmp_path / "lib" / "chosen.py").write_text("import os, sys\nsys.path.insert(0, os.environ['OTHER'])\n")
    (sides.bin / "e" / "helper").mkdir(parents=True)  # Without __init__.py, it is none.
    return sides


@pytest.mark.slow
def test_modules_of_one_name(crossed: Sides, tmp_path: Path) -> None:
    """Each script has the modules of its own directory, whatever was loaded ahead."""
    code = "import helper, user\nprint(helper.WHERE, helper.__file__, user.WHERE)\n"
    scripts = [crossed.script(code, name) for name in ("script", "a/script", "b/script", "e/script")]
    scripts.append(crossed.script("import json\nprint(json.WHERE)\n", "c/script"))
    scripts.append(crossed.script("import logging\nprint(logging.WHERE)\n", "d/script"))
    expected = [crossed.run_cold(script) for script in scripts]
    assert len(set(expected)) == 5
    for _ in range(3):
        for script, outcome in zip(scripts, expected, strict=True):
            check_same(crossed.run_any(script), outcome)
        settle(crossed, "marker_of_names", tmp_path / "lib")


CHANGED_PATHS = {
    "by a library": "import chooser; chooser.choose(OTHER)",
    "by a library's import": "import os; os.environ['OTHER'] = OTHER; import chosen",
    "insert": "import sys; sys.path.insert(0, OTHER)",
    "after script": "import sys; sys.path.insert(1, OTHER)",
    "assigned": "import sys; sys.path = [OTHER, *sys.path]",
    "in place": "import sys; sys.path[:0] = [OTHER]",
    "addsitedir": "import site, sys; site.addsitedir(OTHER); sys.path.sort(key=lambda p: p != OTHER)",
    "removed": "import sys; sys.path = [p for p in sys.path if not p.endswith('/lib')] + [OTHER]",
    "meta_path": (
        "import importlib.util, sys\nclass F:\n    def find_spec(self, name, *_):\n"
        "        if name in ('helper', 'user'): return importlib.util.spec_from_file_location(name, OTHER + '/' + name + '.py')\n"
        "sys.meta_path.insert(0, F())"
    ),
}  # fmt: skip


@pytest.mark.some(2)
@pytest.mark.parametrize("change", CHANGED_PATHS.values(), ids=CHANGED_PATHS)
def test_script_that_changes_where_modules_come_from(crossed: Sides, tmp_path: Path, change: str) -> None:
    """A script that has its modules from a place of its own gets those, whatever was loaded ahead."""
    code = f"OTHER = {str(tmp_path / 'other')!r}\n{change}\nimport helper, user\nprint(helper.WHERE, user.WHERE)\n"
    script = crossed.script(code, own_ways=True)
    assert crossed.run_cold(script).out == "other ('other', 'other')\n"
    for _ in range(2):
        crossed.run(script)
        assert crossed.out() == "other ('other', 'other')\n"
        settle(crossed, "marker_of_paths", tmp_path / "lib", "helper", "user")


def test_trouble_is_heard_of_a_server_that_left_requests_unread() -> None:
    """What a server says last counts, also where the kernel reports first that requests were not read."""
    server = object.__new__(ForkServerProcess)
    server.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.why_not = ""
    server.socket.send(b"a request")
    theirs.send(json.dumps({"unfit": "a reason", "expected": True}).encode())
    theirs.close()
    assert server.read()
    assert server.why_not == "a reason"
    assert not server.read()
