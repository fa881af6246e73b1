# SPDX-License-Identifier: BSD-3-Clause
"""A secret is in files that only their owner can read, and nowhere else."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from cluster import control
from cluster.engines import Bench, Engine
from end_to_end.support import TINYCAM, Finished, Sandbox, Step

from .engines import BY_NAME, on_engines
from .matrix import Matrix

ENVIRONMENT, PREFIX, JOB = "canary-of-the-environment", "canary-of-the-prefix", "canary-of-the-job"
SECRETS = (ENVIRONMENT, PREFIX, JOB)
CHECK = f"""\
#!/bin/bash
# Has all three secrets, and fails where one is missing.
. {{step}} "$1"
[ "$OF_ENVIRONMENT" = {ENVIRONMENT} ] && [ "$OF_PREFIX" = {PREFIX} ] && [ "$OF_JOB" = {JOB} ]
"""
"""A step that tells whether the secrets arrived; it is kept apart from what is searched."""


FRESH = 0.3
"""Seconds for which a process is looked at again: it may become another program."""


@contextmanager
def watching() -> Iterator[set[str]]:
    """Look at the command line of each process that begins; give those with a secret in them."""
    seen: set[str] = set()
    enough = threading.Event()
    words = [word.encode() for word in SECRETS]
    known: dict[str, float] = {}

    def watch() -> None:
        while not enough.wait(0.02):
            now = time.monotonic()
            names = set(filter(str.isdigit, os.listdir("/proc")))
            for gone in known.keys() - names:
                del known[gone]
            for name in names:
                if now - known.setdefault(name, now) > FRESH:
                    continue
                with suppress(OSError):
                    command = Path(f"/proc/{name}/cmdline").read_bytes()
                    if any(word in command for word in words):
                        seen.add(command.replace(b"\0", b" ").decode(errors="replace")[:300])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        enough.set()
        thread.join()


def told(*tops: Path) -> dict[str, list[str]]:
    """Return the secrets in files that others can read, and those in private ones."""
    found: dict[str, list[str]] = {"open": [], "private": []}
    for top in tops:
        _look(top, False, found)
    return {kind: sorted(lines) for kind, lines in found.items()}


def _look(path: Path, private: bool, found: dict[str, list[str]]) -> None:
    with suppress(FileNotFoundError):  # It ended meanwhile.
        mode = path.lstat().st_mode
        private = private or not mode & 0o077
        if stat.S_ISDIR(mode):
            for below in list(path.iterdir()):
                _look(below, private, found)
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
            found["private" if private else "open"] += [
                f"{secret} in {stat.S_IMODE(mode):o} {path}"
                for secret in SECRETS
                if secret.encode() in content
            ]


def in_queue(bench: Bench) -> str:
    """Return all that Slurm says of the batch jobs: the jobs, their steps and their scripts."""
    env = {**os.environ, "SLURM_CONF": control.configuration()}
    said = ""
    for job in bench.jobs():
        for command in (
            ["scontrol", "show", "job", "--details", job.id],
            ["scontrol", "show", "step", job.id],
            ["scontrol", "write", "batch_script", job.id, "-"],
        ):
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
            said += done.stdout + done.stderr
        assert "#SBATCH" in said, said
    return said


def prepare(bench: Bench, name: str) -> None:
    """Prepare a run whose jobs have all three secrets."""
    aside = bench.path / "aside"
    aside.mkdir(mode=0o700)
    script = aside / "check.sh"
    script.write_text(CHECK.format(step=bench.step))
    script.chmod(0o755)
    # The step looks for its files beside itself.
    bench.step.write_text(bench.step.read_text().replace("here=${0%/*}", f"here={bench.path}"))
    own = {"environment": {"OF_JOB": JOB}, "number_of_retries": 0}
    steps = [Step("a", executable=str(script), fields=own), Step("b", ["a"], fields=own)]
    bench.env["OF_ENVIRONMENT"] = ENVIRONMENT
    site: dict[str, object] = {"commandPrefix": f"export OF_PREFIX={PREFIX}"}
    if name != "htex":  # The user's own class there has none of ours.
        site["environment"] = True
    bench.prepare(steps, site=site)
    # The test's own copy of the configuration, which is not that of the whole command.
    (bench.submit_path / f"{bench.id}_config.yaml").unlink()


@on_engines("threads", "htex", "slurm", "slurm-work-queue")
def test_secrets(make_bench: Callable[[Engine], Bench], matrix: Matrix, name: str) -> None:
    """A secret in the environment, in the command prefix and in a job's environment reaches the
    jobs, and is in no command line, output, report, batch job, nor in a file that others can read.
    """
    bench = make_bench(BY_NAME[name])
    outputs: list[Finished] = []
    with watching() as seen:
        prepare(bench, name)
        bench.break_step("b")
        bench.hold("a")
        driver = bench.drive("restart", "--id", bench.id)
        bench.await_step(driver, "a")
        queue = in_queue(bench)
        found = told(bench.submit_path, bench.state, bench.path / "out", bench.tmp)
        bench.let_go("a")
        outputs.append(driver.finish().complained())
        outputs.append(bench.bps("report", "--id", bench.id).succeeded())
        outputs.append(bench.bps("status", "--id", bench.id).complained("FAILED"))
    assert bench.steps("begin")[:2] == ["a", "b"], "the first one fails where a secret did not arrive"
    after = told(bench.submit_path, bench.state, bench.path / "out", bench.tmp)
    texts = {"process list": "\n".join(seen), "Slurm": queue, "output": "".join(d.text for d in outputs)}
    open_places = sorted({*found["open"], *after["open"]})
    open_places += [
        f"{secret} in {where}" for where, text in texts.items() for secret in SECRETS if secret in text
    ]
    assert open_places == []
    assert {line.split()[0] for line in after["private"]} == set(SECRETS), "it would have been seen"
    matrix.check("secrets in environment, prefix and job", bench)


@pytest.mark.parametrize("verb", [pytest.param("prepare", marks=pytest.mark.quick), "submit"])
def test_secrets_and_the_whole_command(tiny: Sandbox, verb: str) -> None:
    """Also with what BPS itself leaves in the submit directory of a real pipeline, the
    secrets of a configuration are in private files alone.
    """
    content = yaml.safe_load((TINYCAM / "bps.yaml").read_text())
    content["site"]["local"]["commandPrefix"] = f"export OF_PREFIX={PREFIX}"
    content["environment"] = {"OF_JOB": JOB}
    (tiny.path / "mine").mkdir(mode=0o700)
    config = tiny.path / "mine/bps.yaml"
    config.write_text(yaml.safe_dump(content))
    tiny.env["OF_ENVIRONMENT"] = ENVIRONMENT
    with watching() as seen:
        done = tiny.bps(verb, config).succeeded()
    found = told(tiny.path / "submit", tiny.state)
    assert (found["open"], sorted(seen)) == ([], [])
    assert not any(secret in done.text for secret in SECRETS)
    assert {line.split()[0] for line in found["private"]} == set(SECRETS)
