# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's commands, the provider that uses them, and what a dead driver left in a queue.

The commands are scripts of the test's own, with a file for a queue.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from parsl.jobs.states import JobState, JobStatus

from lsst.ctrl.bps import BpsConfig
from lsst.ctrl.bps.parsl.batch import pilot_records
from lsst.ctrl.bps.parsl.batch.pilot_records import end_pilots, record_pilots
from lsst.ctrl.bps.parsl.batch.slurm_queue import SlurmJob, cancel_jobs, is_final, list_jobs, submit_script
from lsst.ctrl.bps.parsl.errors import SchedulerError
from lsst.ctrl.bps.parsl.sites import Slurm
from support.plans import umask

pytestmark = pytest.mark.filterwarnings(
    # Parsl leaves the sockets to the garbage collector by which it looks for its addresses.
    "ignore:unclosed <socket:ResourceWarning",
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning",
)

SBATCH = """\
for word in "$@"; do case "$word" in -*) shift ;; *) break ;; esac; done
number=$(cat next)
echo $((number + 1)) > next
printf '%s|PD|Priority|%s\\n' "$number" "$*" >> queue
echo "$number"
"""
"""Takes a job into the queue."""

SQUEUE = """\
for word in "$@"; do
    case "$word" in
    --jobs=*)
        grep -q "^${word#--jobs=}|" queue && exit
        echo "slurm_load_jobs error: Invalid job id specified" >&2
        exit 1
    esac
done
cat queue
"""
"""Lists jobs; of a single one it says where there is none."""

SCANCEL = """\
for word in "$@"; do sed -i "s/^$word|[A-Z]*|/$word|CA|/" queue; done
"""
"""Ends jobs at once."""


class Commands:
    """Commands on the PATH that do what a test says.

    Parameters
    ----------
    directory : `pathlib.Path`
        Where they are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True)
        self.queue = directory / "queue"
        self.queue.touch()
        (directory / "next").write_text("100\n")
        self.does("squeue", SQUEUE)
        self.does("sbatch", SBATCH)
        self.does("scancel", SCANCEL)

    def does(self, name: str, code: str) -> None:
        """Have a command run shell code, in the directory of the queue."""
        path = self.bin / name
        path.write_text(
            "#!/bin/sh\n"
            f"cd {self.directory}\n"
            f'for word in {name} "$@"; do printf \'%s\\037\' "$word"; done >> calls; echo >> calls\n'
            f"{code}\n"
        )
        path.chmod(0o755)

    def fails(self, name: str, message: str, code: int = 1) -> None:
        """Have a command complain."""
        self.does(name, f"printf '%s\\n' {shlex.quote(message)} >&2\nexit {code}")

    def calls(self, name: str) -> list[list[str]]:
        """Return the words of all calls of a command so far."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        called = [line.removesuffix("\037").split("\037") for line in lines]
        return [words for command, *words in called if command == name]

    def jobs(self, *lines: str) -> None:
        """Set what is in the queue."""
        self.queue.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Put Slurm's commands on the PATH."""
    commands = Commands(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands.bin}:/usr/bin:/bin")
    return commands


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask nobody on the network for an address."""

    def query(*args: Any, **options: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr("parsl.addresses.requests.get", query)


OPTIONS = (
    "SLURM_JOB_ID SLURM_MEM_PER_CPU SLURM_EXPORT_ENV SLURM_HINT SLURM_CPU_BIND SLURM_NTASKS "
    "SLURM_TASKS_PER_NODE SLURM_DISTRIBUTION SLURM_WORKING_CLUSTER SLURM_TIME_FORMAT "
    "SBATCH_EXPORT SBATCH_ACCOUNT SBATCH_WAIT "
    "SALLOC_PARTITION SRUN_CPUS_PER_TASK SQUEUE_USERS SQUEUE_PARTITION SQUEUE_FORMAT SCANCEL_STATE "
    "SCONTROL_FEDERATION SACCT_FEDERATION _SLURM_SPANK_OPTION_x_y PMI_RANK CUDA_VISIBLE_DEVICES PBS_DPREFIX"
).split()
FINDING = "PATH HOME SLURM_CONF SLURM_JWT SLURMRESTD_URL".split()


def make_provider(tmp_path: Path, directory: str = "run", **section: Any) -> Any:
    """Make the provider of a Slurm site, as Parsl finds it."""
    submit_path = tmp_path / directory
    (submit_path / "parsl").mkdir(parents=True, exist_ok=True)
    config = BpsConfig(
        {
            "computeSite": "here",
            "submitPath": str(submit_path),
            "uniqProcName": "u_me_x",
            "site": {"here": {"class": "Slurm", "nodes": 1, "walltime": "1:00:00", **section}},
        }
    )
    provider: Any = Slurm(config).make_executor("slurm").provider
    return provider


@pytest.fixture
def provider(tmp_path: Path, slurm: Commands) -> Any:
    """Make a provider."""
    return make_provider(tmp_path)


def refused(call: Callable[[], object]) -> SchedulerError:
    with pytest.raises(SchedulerError) as caught:
        call()
    return caught.value


def state_of(provider: Any, number: str) -> JobState:
    (status,) = provider.status([number])
    assert isinstance(status, JobStatus)
    return status.state


# The queue.


def test_jobs_in_the_queue(slurm: Commands) -> None:
    """Each line is a job; a reason or a command may hold anything, and lines of other kinds are none."""
    slurm.jobs(
        "",
        "7|R|None|/runs/a b|c/x.sh bps-parsl:x:a",
        "8|PD|(Resources, etc)|",
        "9|CD|None|(null)",
        "x",
    )
    assert list_jobs(60) == [
        SlurmJob("7", "R", "None", "bps-parsl:x:a"),
        SlurmJob("8", "PD", "(Resources, etc)", ""),
        SlurmJob("9", "CD", "None", "(null)"),
    ]
    (words,) = slurm.calls("squeue")
    assert "--states=all" in words
    assert not any(word.startswith("--clusters") for word in words)


def test_what_sites_print_beside_jobs(slurm: Commands) -> None:
    """A banner, a warning, a table's head and a line that is cut off are no jobs, whatever is in them."""
    slurm.does(
        "squeue", "echo '*** | Maintenance | on Tuesday | ***'; echo 'slurm: warning' >&2; cat queue; echo"
    )
    slurm.jobs(
        "JOBID|ST|REASON|COMMENT",
        "squeue: warning: old answer (57 s)",
        "7|PD|Priority|bps-parsl:x:a",
        "| see | https://status | or | ask",
        "8|R|None|bps-parsl:x:b",
        "12 | down | nodes | today",
        "9|R",
    )
    assert [job.id for job in list_jobs(60)] == ["7", "8"]


def test_jobs_of_several_clusters(slurm: Commands) -> None:
    """Each job is of the cluster whose name stands above it: numbers come twice."""
    slurm.jobs("CLUSTER: a", "7|R|None|x", "", "CLUSTER: b", "7|PD|None|y")
    assert [job.key for job in list_jobs(10, "a,b")] == ["7;a", "7;b"]


def test_cancel_in_several_clusters(slurm: Commands) -> None:
    """Each cluster is told of its own jobs; what was not named is of those that were chosen."""
    cancel_jobs(["7;a", "7;b", "8;b", "9"], 10, "a,b")
    found = [[word for word in words if word != "--quiet"] for words in slurm.calls("scancel")]
    assert found == [["--clusters=a", "7"], ["--clusters=b", "7", "8"], ["--clusters=a,b", "9"]]


def test_clusters(slurm: Commands) -> None:
    """Commands are told of the clusters where there are several."""
    list_jobs(10, "a,b")
    cancel_jobs(["1"], 10, "a,b")
    assert "--clusters=a,b" in slurm.calls("squeue")[0]
    assert "--clusters=a,b" in slurm.calls("scancel")[0]


@pytest.mark.parametrize("state", "BF CA CD DL F NF OOM PR RV TO".split())
def test_last_states(state: str) -> None:
    """These are a job's last (squeue(1), JOB STATE CODES)."""
    assert is_final(state)


@pytest.mark.parametrize("state", ["PD", "R", "CG", "CF", "S", "RQ", "SO", "ST", "SI", "RD", "SE", "ZZ", ""])
def test_other_states(state: str) -> None:
    """Any other may be of a job that still runs, also one that is not known."""
    assert not is_final(state)


def test_many_jobs_are_cancelled_in_parts(slurm: Commands) -> None:
    """A command line has a limit; each number is given once, and none means no call."""
    ids = [str(number) for number in range(450)]
    cancel_jobs([], 60)
    assert slurm.calls("scancel") == []
    cancel_jobs(ids, 60)
    calls = slurm.calls("scancel")
    assert len(calls) > 1
    assert [word for words in calls for word in words if word.isdigit()] == ids


@pytest.mark.parametrize("name", ["squeue", "sbatch", "scancel"])
def test_command_that_is_not_there(slurm: Commands, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no Slurm, asking again is of no use, and the complaint says what is."""
    monkeypatch.setenv("PATH", str(slurm.directory))
    calls: dict[str, Callable[[], object]] = {
        "squeue": lambda: list_jobs(60),
        "sbatch": lambda: submit_script("x.sh", "m", 60),
        "scancel": lambda: cancel_jobs(["1"], 60),
    }
    error = refused(calls[name])
    assert error.final
    assert f"no {name} here" in error.message
    assert "PATH" in error.message


def test_command_that_does_not_answer(slurm: Commands) -> None:
    """A command is given up after its time, and asked again later."""
    slurm.does("squeue", "exec sleep 300")
    start = time.monotonic()
    error = refused(lambda: list_jobs(0.3))
    assert time.monotonic() - start < 60
    assert "squeue did not answer" in error.message
    assert not error.final


def test_what_a_command_says(slurm: Commands) -> None:
    """The user reads Slurm's words on one line, without its name twice; or the exit status."""
    slurm.fails("squeue", "squeue: error: Slurm is\n  away")
    assert refused(lambda: list_jobs(60)).message == "squeue: Slurm is away"
    slurm.fails("squeue", "squeue: fatal: no configuration")
    assert refused(lambda: list_jobs(60)).message == "squeue: fatal: no configuration"
    slurm.does("squeue", "exit 3")
    assert "exit status 3" in refused(lambda: list_jobs(60)).message


def test_what_is_no_utf8(slurm: Commands) -> None:
    """A job name of another user's in Latin-1 is no reason to fail."""
    slurm.does("squeue", "printf '7|R|\\351|x\\n'")
    (job,) = list_jobs(60)
    assert job.id == "7"


@pytest.mark.parametrize(
    "said", ["123", "sbatch: lua: welcome\n123", "123\n", "123 \r\n", "2 projects\n123\nBye", "123;"]
)
def test_number_of_a_job(slurm: Commands, said: str) -> None:
    """The number is found whatever a site's plugins print beside it."""
    slurm.does("sbatch", f"printf '%s\\n' {shlex.quote(said)}")
    assert submit_script("x.sh", "m", 60) == "123"


def test_number_with_a_cluster(slurm: Commands) -> None:
    """Where sbatch names the cluster, it stays with the number, which others have too."""
    slurm.does("sbatch", "echo '123;east-2.x'")
    assert submit_script("x.sh", "m", 60) == "123;east-2.x"


@pytest.mark.parametrize("said", ["", "welcome", "Submitted"])
def test_no_number(slurm: Commands, said: str) -> None:
    """An sbatch that says no number has not submitted anything that we could follow."""
    slurm.does("sbatch", f"echo {said}")
    assert "did not say the number" in refused(lambda: submit_script("x.sh", "m", 60)).message


@pytest.mark.parametrize(
    "message",
    [
        "sbatch: fatal: --mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive.",
        "Batch job submission failed: Invalid account or account/partition combination specified",
        "Batch job submission failed: Invalid partition name specified",
        "Batch job submission failed: Invalid qos specification",
        "Batch job submission failed: Invalid feature specification",
        "Batch job submission failed: Invalid generic resource (gres) specification",
        "Batch job submission failed: Invalid license specification",
        "Batch job submission failed: Invalid node name specified",
        "Batch job submission failed: Invalid wckey specification",
        "Batch job submission failed: Invalid Trackable RESource (TRES) specification",
        "Batch job submission failed: Requested node configuration is not available",
        "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
        "Batch job submission failed: Requested reservation is invalid",
        "Batch job submission failed: Memory specification can not be satisfied",
        "Batch job submission failed: More processors requested than permitted",
        "Batch job submission failed: Node count specification invalid",
        "Batch job submission failed: User's group not permitted to use this partition",
        "Batch job submission failed: Access/permission denied",
        "sbatch: unrecognized option '--foo'\nTry \"sbatch --help\" for more information",
        "sbatch: error: Invalid directive found in batch script: foo",
        "sbatch: error: Invalid --time specification",
        "sbatch: error: Invalid --mem specification",
        'sbatch: error: "abc" is not a valid node count',
        'sbatch: error: Invalid numeric value "x" for --cpus-per-task.',
    ],
)
def test_refusal_that_stays(slurm: Commands, message: str) -> None:
    """What is wrong with a request is wrong the next time too: the run must not wait for it."""
    slurm.fails("sbatch", message if message.startswith("sbatch: ") else f"sbatch: error: {message}")
    assert refused(lambda: submit_script("x.sh", "m", 60)).final


@pytest.mark.parametrize(
    "message",
    [
        "Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "Batch job submission failed: Socket timed out on send/recv operation",
        "Batch job submission failed: Zero Bytes were transmitted or received",
        "Batch job submission failed: Resource temporarily unavailable",
        "Batch job submission failed: Transport endpoint is not connected",
        "Batch job submission failed: Requested partition configuration not available now",
        "Batch job submission failed: Required partition not available (inactive or drain)",
        "Batch job submission failed: Slurm backup controller in standby mode",
        "Batch job submission failed: Requested operation is presently disabled",
        "Batch job submission failed: Job violates accounting/QOS policy "
        "(job submit limit, user's size and/or time limits)",
        "Batch job submission failed: a sentence that a later Slurm has",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "",
    ],
)
def test_refusal_that_passes(slurm: Commands, message: str) -> None:
    """A controller that is away, and limits that other jobs fill, are waited for; so is the unknown."""
    slurm.fails("sbatch", f"sbatch: error: {message}")
    error = refused(lambda: submit_script("x.sh", "m", 60))
    assert not error.final
    assert error.message.startswith("sbatch: ")


# The provider.


def test_block_is_submitted(slurm: Commands, provider: Any, tmp_path: Path) -> None:
    """All blocks have the script of their kind, and each what starts its workers; whom to look for is
    written down before Slurm is asked.
    """
    slurm.does("sbatch", f"cp {tmp_path}/run/parsl/pilots.jsonl seen; {SBATCH}")
    with umask(0):
        assert provider.submit("command 0", 1, "parsl.slurm.block-0") == "100"
        assert provider.submit("command 1", 1, "parsl.slurm.block-1") == "101"
    blocks = tmp_path / "run" / "blocks"
    marks = [job.mark for job in list_jobs(60)]
    assert slurm.calls("sbatch") == [["--parsable", str(blocks / "here.slurm.sh"), mark] for mark in marks]
    assert (blocks / "here.slurm.sh").read_text() == provider.script()
    assert len(set(marks)) == 2
    for number, mark in enumerate(marks):
        assert mark.startswith("bps-parsl:u_me_x:")
        workers = blocks / f"{mark.rpartition(':')[2]}.workers"
        assert workers.read_text().endswith(f"\ncommand {number}\n")
    for path in blocks.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record = tmp_path / "run" / "parsl" / "pilots.jsonl"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert "bps-parsl:u_me_x" in (slurm.directory / "seen").read_text()
    assert provider.resources["100"]["status"].state is JobState.PENDING
    assert provider.resources["100"]["job_stderr_path"] == f"{blocks}/here.slurm-100.stderr"


@pytest.mark.parametrize(
    "name",
    ["a b", "50%", "%j", "it's", 'a "b"', "$(touch x)", "a;touch x", "`touch x`", "$HOME", "a\\b", "é"],
)
def test_paths_with_anything_in_them(slurm: Commands, tmp_path: Path, name: str) -> None:
    """A submit path's characters reach Slurm as they are, and no shell reads them."""
    provider = make_provider(tmp_path)
    provider.script_path = tmp_path / name / "blocks" / "here.slurm.sh"
    (tmp_path / name).mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    provider.submit("echo workers", 1, "block-0")
    ((*_, script, mark),) = slurm.calls("sbatch")
    assert script == f"{tmp_path}/{name}/blocks/here.slurm.sh"
    job = provider.resources["100"]
    lines = Path(script).read_text().splitlines()
    for option, key in (("output", "job_stdout_path"), ("error", "job_stderr_path")):
        (line,) = [line for line in lines if line.startswith(f"#SBATCH --{option}=")]
        (word,) = shlex.split(line.removeprefix("#SBATCH "))
        assert word == f"--{option}={job[key]}".replace("%", "%%").replace("-100.", "-%j.")
    done = subprocess.run(["bash", script, mark], capture_output=True, text=True, check=False)
    assert "workers" in done.stdout.splitlines()
    assert {path.name for path in tmp_path.iterdir()} == before
    assert not list(tmp_path.rglob("x"))


def test_block_names_with_anything_in_them(slurm: Commands, provider: Any) -> None:
    """Parsl's name of a block holds the executor's label, which is the user's."""
    provider.submit("c", 1, "parsl.big jobs/$(id).block-0")
    ((*_, mark),) = slurm.calls("sbatch")
    (job,) = list_jobs(60)
    assert job.mark == mark
    assert not set(" $()/") & set(mark)
    assert len(list(provider.script_path.parent.glob("*.workers"))) == 1


def test_label_with_a_blank(tmp_path: Path, slurm: Commands) -> None:
    """An executor may be called as its author likes; Slurm gets one word for its jobs."""
    config = BpsConfig(
        {
            "computeSite": "here",
            "submitPath": str(tmp_path),
            "uniqProcName": "u_me_x",
            "site": {"here": {"class": "Slurm", "nodes": 1, "walltime": "1:00:00"}},
        }
    )
    provider: Any = Slurm(config).make_executor("big jobs").provider
    (line,) = [line for line in provider.script().splitlines() if "--job-name" in line]
    assert len(shlex.split(line.removeprefix("#SBATCH "))) == 1


def test_refusal_is_kept_and_forgotten(slurm: Commands, provider: Any) -> None:
    """What Slurm said is known as long as it refuses; a final refusal is not looked for in the queue."""
    slurm.fails("sbatch", "sbatch: error: Batch job submission failed: Invalid qos specification")
    error = refused(lambda: provider.submit("c", 1))
    assert provider.refusal is error
    assert error.final
    assert slurm.calls("squeue") == []
    assert provider.resources == {}
    slurm.does("sbatch", SBATCH)
    provider.submit("c", 1)
    assert provider.refusal is None


def test_answer_that_comes_too_late(slurm: Commands, provider: Any) -> None:
    """A job that sbatch got into the queue before its time was over is ours, and submitted once."""
    slurm.jobs("99|PD|None|bps-parsl:u_me_x:parsl.slurm.block-0-000000")
    slurm.does("sbatch", f"{SBATCH}exec sleep 20")
    provider.cmd_timeout = 1
    assert provider.submit("c", 1, "parsl.slurm.block-0") == "100"
    assert list(provider.resources) == ["100"]
    assert provider.refusal is None
    assert len(list_jobs(60)) == 2


@pytest.mark.parametrize("queue_fails", [False, True])
def test_answer_that_never_comes(slurm: Commands, provider: Any, queue_fails: bool) -> None:
    """A job that is not in the queue was not submitted, and is asked for again."""
    slurm.fails("sbatch", "sbatch: error: Unable to contact slurm controller (connect failure)")
    if queue_fails:
        slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    assert not refused(lambda: provider.submit("c", 1)).final
    assert provider.resources == {}


STATES = {
    "PD": JobState.PENDING,
    "CF": JobState.PENDING,
    "R": JobState.RUNNING,
    "CG": JobState.RUNNING,
    "S": JobState.HELD,
    "CD": JobState.COMPLETED,
    "CA": JobState.CANCELLED,
    "TO": JobState.TIMEOUT,
    "F": JobState.FAILED,
    "NF": JobState.FAILED,
    "PR": JobState.FAILED,
    "OOM": JobState.FAILED,
}


def test_states(slurm: Commands, provider: Any) -> None:
    """Slurm's states are Parsl's, those among them that Parsl's own provider does not know."""
    numbers = [provider.submit("c", 1) for _ in STATES]
    slurm.jobs(*(f"{number}|{state}|None|x" for number, state in zip(numbers, STATES, strict=True)))
    found = [status.state for status in provider.status(numbers)]
    assert found == list(STATES.values())


def test_no_state_is_an_end_for_the_one_and_not_for_the_other(slurm: Commands, provider: Any) -> None:
    """What a sweep leaves alone has ended for Parsl too, and the other way round."""
    codes = "BF CA CD CF CG DL F NF OOM PD PR R RD RF RH RQ RS RV SE SI SO ST S TO ZZ".split()
    numbers = [provider.submit("c", 1) for _ in codes]
    slurm.jobs(*(f"{number}|{state}|None|x" for number, state in zip(numbers, codes, strict=True)))
    statuses = provider.status(numbers)
    assert [status.terminal for status in statuses] == [is_final(code) for code in codes]


def test_state_that_is_not_known(slurm: Commands, provider: Any) -> None:
    """A state that a later Slurm adds is not an end."""
    number = provider.submit("c", 1)
    slurm.jobs(f"{number}|ZZ|None|x")
    assert state_of(provider, number) is JobState.UNKNOWN
    slurm.jobs(f"{number}|R|None|x")
    assert state_of(provider, number) is JobState.RUNNING


def test_job_that_slurm_forgot(slurm: Commands, provider: Any) -> None:
    """A job that is purged has ended; whoever waited for it would wait for ever."""
    first, second = provider.submit("c", 1), provider.submit("c", 1)
    slurm.jobs(f"{second}|R|None|x")
    assert [status.state for status in provider.status([first, second])] == [
        JobState.COMPLETED,
        JobState.RUNNING,
    ]


def test_queue_that_does_not_answer(slurm: Commands, provider: Any) -> None:
    """What was known stays: a controller that restarts has ended no job."""
    number = provider.submit("c", 1)
    slurm.jobs(f"{number}|R|None|x")
    assert state_of(provider, number) is JobState.RUNNING
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert state_of(provider, number) is JobState.RUNNING
    slurm.does("squeue", "cat queue")
    slurm.jobs(f"{number}|CD|None|x")
    assert state_of(provider, number) is JobState.COMPLETED


def test_ended_jobs_are_not_asked_for(slurm: Commands, provider: Any) -> None:
    """An end is an end; with none left, Slurm is left alone."""
    number = provider.submit("c", 1)
    slurm.jobs(f"{number}|F|NonZeroExitCode|x")
    (status,) = provider.status([number])
    assert status.state is JobState.FAILED
    assert status.message == "NonZeroExitCode"
    assert status.stderr_path.endswith(".stderr")
    asked = len(slurm.calls("squeue"))
    slurm.jobs(f"{number}|R|None|x")
    assert state_of(provider, number) is JobState.FAILED
    assert len(slurm.calls("squeue")) == asked


def test_block_that_is_submitted_while_the_queue_is_read(slurm: Commands, provider: Any) -> None:
    """Parsl reads the queue in one thread while blocks are submitted in another: a block that is younger
    than the answer has not ended.
    """
    first = provider.submit("c", 1)
    slurm.does("squeue", "cat queue; touch read; while [ ! -e answer ]; do sleep 0.02; done")
    reader = threading.Thread(target=provider.status, args=([first],))
    reader.start()
    while not (slurm.directory / "read").exists():
        time.sleep(0.01)
    second = provider.submit("c", 1)
    (slurm.directory / "answer").touch()
    reader.join()
    assert provider.resources[second]["status"].state is JobState.PENDING


EAST = SBATCH.replace('echo "$number"', 'echo "$number;east"')
"""Takes a job into the queue of a cluster that something has chosen."""

TWO = """\
case "$*" in *--clusters=east*) echo "CLUSTER: east"; cat queue;; *) echo "7|R|None|x";; esac
"""
"""Lists jobs of a cluster by its name, and otherwise those of another one."""


@pytest.mark.parametrize("option", ["", "#SBATCH -M east", "#SBATCH --clusters=east"])
def test_block_in_another_cluster(tmp_path: Path, slurm: Commands, option: str) -> None:
    """Where sbatch says that it gave a job to another cluster, that one is asked for it from then on, also by
    who comes after a driver that died: nothing stays there.
    """
    provider = make_provider(tmp_path, scheduler_options=option)
    slurm.does("sbatch", EAST)
    slurm.does("squeue", TWO)
    number = provider.submit("c", 1)
    assert number == "100;east"
    assert state_of(provider, number) is JobState.PENDING
    slurm.queue.write_text(slurm.queue.read_text().replace("|PD|", "|R|"))
    assert state_of(provider, number) is JobState.RUNNING
    assert provider.still_there([number])
    assert end_pilots(tmp_path / "run/parsl/pilots.jsonl") == 1
    assert slurm.calls("scancel") == [["--quiet", "--clusters=east", "100"]]
    assert state_of(provider, number) is JobState.CANCELLED
    assert not provider.still_there([number])


def test_numbers_that_two_clusters_have(tmp_path: Path, slurm: Commands) -> None:
    """Of jobs of one number in two clusters, each has its own state, and its own cancellation."""
    provider = make_provider(tmp_path, provider_options={"clusters": "east,west"})
    slurm.does("sbatch", "[ -e once ] && echo '100;west' || echo '100;east'; touch once")
    east, west = provider.submit("c", 1), provider.submit("c", 1)
    slurm.jobs("CLUSTER: east", "100|R|None|x", "CLUSTER: west", "100|PD|Priority|x")
    assert [status.state for status in provider.status([east, west])] == [JobState.RUNNING, JobState.PENDING]
    provider.cancel([west])
    assert slurm.calls("scancel") == [["--quiet", "--clusters=west", "100"]]


@pytest.mark.parametrize("shown", ["100|R|None|x", "CLUSTER: east\n100|R|None|x"])
@pytest.mark.parametrize("said", ["100", "100;east"])
def test_commands_that_do_not_name_the_cluster(
    tmp_path: Path, slurm: Commands, said: str, shown: str
) -> None:
    """Where a site's wrapper leaves the cluster out, the number tells."""
    provider = make_provider(tmp_path, provider_options={"clusters": "east"})
    slurm.does("sbatch", f"echo '{said}'")
    number = provider.submit("c", 1)
    slurm.jobs(*shown.splitlines())
    assert state_of(provider, number) is JobState.RUNNING


def test_squeue_that_is_a_minute_old(slurm: Commands, provider: Any) -> None:
    """A block that was submitted since is not in the answer, nor is it lost: the next answer has it."""
    slurm.does("squeue", "cat cached")
    (slurm.directory / "cached").write_text("7|R|None|x\n")
    number = provider.submit("c", 1)
    for _ in range(3):
        assert state_of(provider, number) is JobState.PENDING
    (slurm.directory / "cached").write_text(f"7|R|None|x\n{number}|R|None|x\n")
    assert state_of(provider, number) is JobState.RUNNING
    slurm.does("squeue", SQUEUE)
    slurm.jobs("7|R|None|x")
    assert state_of(provider, number) is JobState.COMPLETED


def test_reason_in_a_status(slurm: Commands, provider: Any) -> None:
    """A status has Slurm's reason, or where there is none the state's code."""
    numbers = [provider.submit("c", 1) for _ in range(3)]
    slurm.jobs(
        *(
            f"{number}|{state}|x"
            for number, state in zip(numbers, ("PD|Priority", "PD|None", "CF|N/A"), strict=True)
        )
    )
    assert [status.message for status in provider.status(numbers)] == ["Priority", "PD", "CF"]
    assert provider.says_reasons


def test_blocks_are_cancelled(slurm: Commands, provider: Any) -> None:
    """Those that are there are cancelled in one go; one that has ended is no failure, and not named."""
    ended, first, second = (provider.submit("c", 1) for _ in range(3))
    slurm.jobs(f"{ended}|CD|None|x", f"{first}|R|None|x", f"{second}|PD|None|x")
    provider.status([ended, first, second])
    assert provider.cancel([ended, first, second]) == [True, True, True]
    (words,) = slurm.calls("scancel")
    assert [word for word in words if word.isdigit()] == [first, second]
    assert state_of(provider, first) is JobState.CANCELLED
    assert provider.cancel([first]) == [True]
    assert len(slurm.calls("scancel")) == 1


def test_cancel_that_fails(slurm: Commands, provider: Any) -> None:
    """A block of which Slurm took no cancellation is still there, and can be cancelled again."""
    ended, number = provider.submit("c", 1), provider.submit("c", 1)
    slurm.jobs(f"{ended}|CD|None|x", f"{number}|R|None|x")
    provider.status([ended, number])
    slurm.fails("scancel", "scancel: error: Unable to contact slurm controller")
    assert provider.cancel([ended, number]) == [True, False]
    assert state_of(provider, number) is JobState.RUNNING
    slurm.does("scancel", SCANCEL)
    assert provider.cancel([number]) == [True]


def test_sweep(slurm: Commands, provider: Any) -> None:
    """All that the run has in the queue is cancelled, whoever submitted it, and nothing else."""
    slurm.jobs(
        f"1|R|None|{provider.tag}:parsl.slurm.block-0",
        f"2|PD|None|{provider.tag}:other",
        f"3|CD|None|{provider.tag}:ended",
        f"4|R|None|{provider.tag}2:another run",
        "5|R|None|",
        f"6|ZZ|None|{provider.tag}:unknown-state",
    )
    assert provider.sweep() == 3
    (words,) = slurm.calls("scancel")
    assert [word for word in words if word.isdigit()] == ["1", "2", "6"]
    slurm.jobs()
    assert provider.sweep() == 0


@pytest.mark.parametrize("name", ["squeue", "scancel"])
def test_sweep_that_fails(slurm: Commands, provider: Any, name: str) -> None:
    """Whoever sweeps is told that it did not work."""
    slurm.jobs(f"1|R|None|{provider.tag}:a")
    slurm.fails(name, f"{name}: error: away")
    assert "away" in refused(provider.sweep).message


def test_nothing_goes_through_a_shell(provider: Any) -> None:
    """No part of Parsl's own provider that runs commands by a shell is left in use."""
    with pytest.raises(NotImplementedError):
        provider.execute_wait("squeue")


def test_constructor_asks_nothing(tmp_path: Path, slurm: Commands) -> None:
    """To make a site, as every verb of ``bps`` may do, runs no command."""
    for name in ("sacct", "sinfo", "scontrol"):
        slurm.does(name, "")
    make_provider(tmp_path)
    assert not (slurm.directory / "calls").exists()


# The environment.


def test_shells_options_reach_no_command(
    slurm: Commands, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that Slurm's commands read as options stay here; those by which they find Slurm do not."""
    for name in OPTIONS:
        monkeypatch.setenv(name, "7")
    for name in FINDING[2:]:
        monkeypatch.setenv(name, "here")
    for name, code in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        slurm.does(name, f"env >> seen\n{code}")
    number = provider.submit("c", 1)
    provider.status([number])
    provider.cancel([number])
    seen = Counter(line.partition("=")[0] for line in (slurm.directory / "seen").read_text().splitlines())
    assert {name: seen[name] for name in OPTIONS} == dict.fromkeys(OPTIONS, 0)
    assert {name: seen[name] for name in FINDING} == dict.fromkeys(FINDING, 3)


def test_clusters_that_the_shell_has_chosen(
    slurm: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    """A cluster that a module has chosen is asked, and written down: the blocks are found from other
    shells; the settings' own choice comes first.
    """
    monkeypatch.setenv("SLURM_CLUSTERS", "b")
    provider = make_provider(tmp_path)
    provider.submit("c", 1)
    assert "--clusters=b" in slurm.calls("sbatch")[0]
    monkeypatch.setenv("SLURM_CLUSTERS", "c")
    assert make_provider(tmp_path, "other", provider_options={"clusters": "a"}).clusters == "a"
    for number, line in enumerate(("#SBATCH --clusters=d", "-M d", "--mem=1\n#SBATCH -Md")):
        assert make_provider(tmp_path, f"o{number}", scheduler_options=line).clusters == "d"
    monkeypatch.delenv("SLURM_CLUSTERS")
    assert end_pilots(tmp_path / "run" / "parsl" / "pilots.jsonl") == 1
    assert "--clusters=b" in slurm.calls("scancel")[0]


@pytest.mark.parametrize("memory", [None, 4])
@pytest.mark.parametrize("options", ["", "#SBATCH --hint=nomultithread"])
def test_block_drops_what_contradicts_it(
    slurm: Commands, tmp_path: Path, memory: int | None, options: str
) -> None:
    """What a profile that worker_init reads says about steps is dropped before the workers start; what
    the settings ask for, and what Slurm itself has said, stays.
    """
    foreign = "SLURM_EXPORT_ENV SLURM_HINT SLURM_MEM_PER_CPU SLURM_CPU_BIND SLURM_JOB_ID SLURM_MPI_TYPE"
    init = "".join(f"export {name}=7\n" for name in foreign.split())
    provider = make_provider(tmp_path, worker_init=init, mem_per_node=memory, scheduler_options=options)
    provider.submit("env", 1)
    ((*_, script, mark),) = slurm.calls("sbatch")
    done = subprocess.run(["bash", script, mark], capture_output=True, text=True, check=True)
    left = {line.partition("=")[0] for line in done.stdout.splitlines()}.intersection(foreign.split())
    kept = {"SLURM_JOB_ID", "SLURM_MPI_TYPE"}
    assert left == kept | ({"SLURM_HINT"} if options else set()) | (
        set() if memory else {"SLURM_MEM_PER_CPU"}
    )


@pytest.mark.parametrize("directory", ["missing", "there"])
def test_temporary_directory_of_another_host(
    slurm: Commands, provider: Any, tmp_path: Path, directory: str
) -> None:
    """Where the node has no such directory, jobs get one that it has, and the block's log says so once."""
    (tmp_path / "there").mkdir()
    provider.submit('echo "it is $TMPDIR"', 1)
    ((*_, script, mark),) = slurm.calls("sbatch")
    environ = {**os.environ, "TMPDIR": str(tmp_path / directory)}
    done = subprocess.run(["bash", script, mark], capture_output=True, text=True, check=True, env=environ)
    lines = [line for line in done.stderr.splitlines() if "TMPDIR" in line]
    if directory == "there":
        assert f"it is {tmp_path}/there" in done.stdout
        assert not lines
    else:
        assert "it is /tmp\n" in done.stdout
        assert len(lines) == 1
        assert f"{tmp_path}/missing" in lines[0]


# What a dead driver left.

TAG = "bps-parsl:u_me_x"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have no time pass between two looks at the queue; return the times that would."""
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=time.monotonic)
    monkeypatch.setattr(pilot_records, "time", clock)
    return slept


def test_no_record(tmp_path: Path, slurm: Commands) -> None:
    """A run that never asked for a block needs no batch system."""
    assert end_pilots(tmp_path / "none") == 0
    (tmp_path / "empty").touch()
    assert end_pilots(tmp_path / "empty") == 0
    assert not (slurm.directory / "calls").exists()


def test_jobs_of_a_dead_driver(tmp_path: Path, slurm: Commands, no_waiting: list[float]) -> None:
    """The run's jobs are cancelled, once each, and those that are not its own are left alone."""
    path = tmp_path / "pilots.jsonl"
    for _ in range(3):
        record_pilots(path, "slurm", tag=TAG, clusters=None)
    slurm.jobs(
        f"1|R|None|{TAG}:a", f"2|PD|None|{TAG}:b", f"3|CD|None|{TAG}:c", f"4|R|None|{TAG}2:d", "5|R|None|x"
    )
    assert end_pilots(path) == 2
    (words,) = slurm.calls("scancel")
    assert [word for word in words if word.isdigit()] == ["1", "2"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert end_pilots(path) == 0


def test_jobs_that_take_their_time(tmp_path: Path, slurm: Commands, no_waiting: list[float]) -> None:
    """It waits until they are gone, cancels each once, and also what comes up meanwhile."""
    path = tmp_path / "pilots.jsonl"
    record_pilots(path, "slurm", tag=TAG, clusters=None)
    slurm.jobs(f"1|R|None|{TAG}:a")
    slurm.does("scancel", "sed -i 's/|R|/|CG|/' queue")
    slurm.does(
        "squeue",
        "echo x >> asked; n=$(wc -l < asked)\n"
        f"[ $n = 3 ] && echo '2|R|None|{TAG}:late' >> queue\n[ $n = 6 ] && : > queue\ncat queue",
    )
    assert end_pilots(path) == 2
    assert [words[-1] for words in slurm.calls("scancel")] == ["1", "2"]
    assert len(slurm.calls("squeue")) == 6
    assert len(no_waiting) == 5


def test_jobs_that_do_not_go(
    tmp_path: Path, slurm: Commands, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the user is told which jobs there are, and what to do."""
    monkeypatch.setattr(pilot_records, "END_SECONDS", 0.0)
    path = tmp_path / "pilots.jsonl"
    record_pilots(path, "slurm", tag=TAG, clusters=None)
    slurm.jobs(f"17|R|None|{TAG}:a")
    slurm.does("scancel", "")
    error = refused(lambda: end_pilots(path))
    assert "17" in error.message
    assert "squeue --me" in error.message


@pytest.mark.parametrize("name", ["squeue", "scancel"])
def test_batch_system_that_does_not_answer(tmp_path: Path, slurm: Commands, name: str) -> None:
    """Nobody may go on while the old blocks may still be there."""
    path = tmp_path / "pilots.jsonl"
    record_pilots(path, "slurm", tag=TAG, clusters=None)
    slurm.jobs(f"1|R|None|{TAG}:a")
    slurm.fails(name, f"{name}: error: Unable to contact slurm controller")
    refused(lambda: end_pilots(path))


def test_several_clusters(tmp_path: Path, slurm: Commands, no_waiting: list[float]) -> None:
    """Each cluster is asked, with the name that the jobs were submitted with."""
    path = tmp_path / "pilots.jsonl"
    record_pilots(path, "slurm", tag=TAG, clusters="a")
    record_pilots(path, "slurm", tag=TAG, clusters=None)
    end_pilots(path)
    assert ["--clusters=a" in words for words in slurm.calls("squeue")] == [True, False]


@pytest.mark.parametrize(
    "torn",
    [
        b'{"scheduler": "sl\n',
        b"\x00\x00\n",
        b"\xff\xfe\n",
        b"7\n",
        b"[]\n",
        b"null\n",
        b'"x"\n',
        b"{}\n",
        b"\n",
        b'{"scheduler": "sl',  # And what the next driver writes is not a part of it.
    ],
)
def test_torn_line(tmp_path: Path, slurm: Commands, no_waiting: list[float], torn: bytes) -> None:
    """A line whose writer was killed takes none of the others with it, before it or after it."""
    path = tmp_path / "pilots.jsonl"
    record_pilots(path, "slurm", tag=f"{TAG}1", clusters=None)
    with path.open("ab") as stream:
        stream.write(torn)
    record_pilots(path, "slurm", tag=f"{TAG}2", clusters=None)
    slurm.jobs(f"1|R|None|{TAG}1:a", f"2|R|None|{TAG}2:a")
    assert end_pilots(path) == 2


@pytest.mark.parametrize(
    "line", ['{"scheduler": "slurm"}', '{"scheduler": "torque"}', '{"scheduler": "other"}']
)
def test_line_that_lacks_something(tmp_path: Path, slurm: Commands, line: str) -> None:
    """A line that another version wrote is no traceback."""
    path = tmp_path / "pilots.jsonl"
    path.write_text(f"{line}\n")
    assert end_pilots(path) == 0


QSTAT = "[ -e gone ] && exit 153\nprintf 'Job Id: 17.server\\n    Job_Name = %s\\n    job_state = R\\n' "


@pytest.fixture
def torque(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Put Torque's commands on the PATH, and a job into its records."""
    commands = Commands(tmp_path / "torque")
    commands.does("qdel", "touch gone")
    monkeypatch.setenv("PATH", f"{commands.bin}:/usr/bin:/bin")
    record_pilots(tmp_path / "pilots.jsonl", "torque", id="17.server", name="parsl.torque.block-1")
    return commands


def test_torque_job_of_a_dead_driver(tmp_path: Path, torque: Commands) -> None:
    """A job that is still the one that was submitted is ended."""
    torque.does("qstat", QSTAT + "parsl.parsl.torque.block-1.1767225600.5")
    assert end_pilots(tmp_path / "pilots.jsonl") == 1
    assert torque.calls("qdel") == [["17.server"]]


def test_long_lines_of_qstat(tmp_path: Path, torque: Commands) -> None:
    """Long lines of qstat are folded; a name across two of them is still the name."""
    torque.does("qstat", QSTAT + "'parsl.parsl.tor\n\tque.block-1.1767225600.5'")
    assert end_pilots(tmp_path / "pilots.jsonl") == 1


def test_torque_job_whose_number_was_not_heard(tmp_path: Path, torque: Commands) -> None:
    """A driver that was killed while qsub answered has written down the name: by that the job is found."""
    record_pilots(tmp_path / "more.jsonl", "torque", name="parsl.torque.block-1")
    torque.does("qstat", QSTAT + "parsl.parsl.torque.block-1.1767225600.5")
    assert end_pilots(tmp_path / "more.jsonl") == 1
    assert torque.calls("qdel") == [["17.server"]]


def test_torque_job_that_has_ended_and_is_shown(tmp_path: Path, torque: Commands) -> None:
    """A job in state C has ended, also where Slurm's qstat writes a tab before each line."""
    text = (
        "Job Id:\\t17\\n\\tJob_Name = parsl.parsl.torque.block-1.1.5\\n\\tjob_state = C\\n\\tqueue = main\\n"
    )
    torque.does("qstat", f"printf '{text}'")
    assert end_pilots(tmp_path / "pilots.jsonl") == 0
    assert torque.calls("qdel") == []


@pytest.mark.parametrize("name", ["another-job", "parsl.parsl.torque.block-12.1767225600.5"])
def test_torque_number_that_is_another_jobs(tmp_path: Path, torque: Commands, name: str) -> None:
    """Numbers come again: a job that has only the number is not touched."""
    torque.does("qstat", QSTAT + name)
    assert end_pilots(tmp_path / "pilots.jsonl") == 0
    assert torque.calls("qdel") == []


def test_torque_job_that_has_ended(tmp_path: Path, torque: Commands) -> None:
    """A job that Torque no longer knows is gone."""
    torque.fails("qstat", "qstat: Unknown Job Id Error 17.server", 153)
    assert end_pilots(tmp_path / "pilots.jsonl") == 0
    assert torque.calls("qdel") == []


def test_torque_that_does_not_answer(tmp_path: Path, torque: Commands) -> None:
    """A server that is away has not ended the job: nobody may go on as if it had."""
    torque.fails("qstat", "qstat: cannot connect to server pbs (errno=111) Connection refused", 111)
    refused(lambda: end_pilots(tmp_path / "pilots.jsonl"))


def test_torque_that_does_not_end_it(tmp_path: Path, torque: Commands) -> None:
    """A job that is there and that the server does not end is not passed over."""
    torque.does("qstat", QSTAT + "parsl.parsl.torque.block-1.1767225600.5")
    torque.fails("qdel", "qdel: Server could not connect to MOM 17.server", 1)
    refused(lambda: end_pilots(tmp_path / "pilots.jsonl"))


def test_torque_that_is_not_there(tmp_path: Path, torque: Commands) -> None:
    """Without the commands the user is told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert "qstat" in refused(lambda: end_pilots(tmp_path / "pilots.jsonl")).message
