# SPDX-License-Identifier: BSD-3-Clause
"""Types of settings: each form that people have in their YAML, from the file to the value."""

from __future__ import annotations

import datetime
import math
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lsst.ctrl.bps import BpsConfig
from lsst.ctrl.bps.parsl import SiteConfig
from lsst.ctrl.bps.parsl.errors import ConfigurationError
from lsst.ctrl.bps.parsl.settings.types import (
    Count,
    Fraction,
    Gigabytes,
    Lines,
    Memory,
    Number,
    Options,
    Port,
    Seconds,
    Walltime,
    Whole,
    Word,
    Words,
    clock_time,
)

SITES = "lsst.ctrl.bps.parsl.sites"


def read(kind: Any, value: object) -> Any:
    """Read a value as a setting of this type is read."""
    return TypeAdapter(kind).validate_python(value)


def complaint(kind: Any, value: object) -> str:
    """Return what is said of a value that is not accepted."""
    with pytest.raises(ValidationError) as caught:
        read(kind, value)
    (error, *_) = caught.value.errors()
    return str(error["msg"])


def settings_of(tmp_path: Path, text: str, site: str = "Slurm", head: str = "") -> Any:
    """Read a site's settings from a YAML file, the way ``bps`` reads it."""
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    path = tmp_path / "bps.yaml"
    path.write_text(
        f"computeSite: here\nsubmitPath: {tmp_path}\nuniqProcName: u_me_x\n{head}\n"
        f"site:\n  here:\n    class: {SITES}.{site}\n{lines}"
    )
    return SiteConfig.from_config(BpsConfig(str(path))).settings


NUMBERS = (Number, Whole, Count, Port, Fraction, Seconds, Memory, Gigabytes, Walltime)


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("value", [4, 4.0, 1, 0.5, 120.0, 7200.0])
def test_quoted_numbers(kind: Any, value: float) -> None:
    """A number in quotes is what it is without them, and refused where that is; but a walltime in quotes
    that is a whole number is Slurm's, which are minutes.
    """
    if kind is Walltime and isinstance(value, int):
        return
    found = []
    for written in (value, f"{value}", f" {value} "):
        try:
            found.append(TypeAdapter(kind).validate_python(written))
        except ValidationError:
            found.append("refused")
    assert found == [found[0]] * 3


# Walltime.


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2:00:00", 7200),  # An integer, in YAML 1.1.
        ("02:00:00", 7200),
        ("72:00:00", 259200),
        ("10:30", 630),
        ("0:30:00", 1800),
        ('"2:00:00"', 7200),
        ("'2:00:00'", 7200),
        ("7200", 7200),
        ("60", 60),
        ('"90"', 5400),
        ("10.0", 36000),
        ("0.5", 1800),
        ("'10.0'", 36000),
        ('".5"', 1800),
        ('"1."', 3600),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-12:30:15", 131415),
        ("4-00:00:00", 345600),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_walltime_in_a_file(tmp_path: Path, written: str, seconds: int | None) -> None:
    """Whatever YAML 1.1 makes of the text, the time is the one that was meant."""
    assert settings_of(tmp_path, f"walltime: {written}").walltime == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("1:30:15", 5415),
        ("100:00:00", 360000),
        ("2-0", 172800),
        ("2-06", 194400),
        ("2-06:30", 196200),
        ("2-06:30:15", 196215),
        (" 2:00:00\n", 7200),
        (10.0, 36000),
        (1 / 3600, 1),
        (60, 60),
        (86400, 86400),
    ],
)
def test_walltime(value: object, seconds: int) -> None:
    """Texts are Slurm's forms, numbers without a point seconds, those with one hours."""
    assert read(Walltime, value) == seconds


@pytest.mark.parametrize("value", [1, 2, 30, 59])
def test_walltime_of_less_than_a_minute(value: int) -> None:
    """Nobody means so few seconds; the complaint shows how to write what was meant."""
    said = complaint(Walltime, value)
    assert '"2:00:00"' in said
    assert f'"0:{value:02d}:00" is {value} minutes' in said
    assert read(Walltime, f"0:{value:02d}:00") == 60 * value


@pytest.mark.parametrize("value", [0, -1, -7200])
def test_walltime_that_is_negative(value: int) -> None:
    """No time, or less, is refused without the advice to write a nonsense."""
    said = complaint(Walltime, value)
    assert "-" not in said.replace(str(value), "")
    assert f"0:{value:02d}:00" not in said


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        None,
        "",
        "two hours",
        "2h",
        "2,5",
        "1:2:3:4",
        "1-2:3:4:5",
        "1-",
        "-1",
        ":30",
        "2:00:00 # two hours",
        "unlimited",
        [],
        [7200],
        {"hours": 2},
        datetime.date(2026, 1, 1),
        "0",
        "0:00:00",
        0.0,
        -1.0,
        math.nan,
    ],
)
def test_walltime_that_is_none(value: object) -> None:
    """Anything else is complained about, never guessed."""
    assert complaint(Walltime, value)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_walltime_that_is_infinite(value: float) -> None:
    """YAML's ``.inf`` is a complaint like others, and no traceback."""
    assert complaint(Walltime, value)


def test_walltime_from_a_variable(tmp_path: Path) -> None:
    """A variable of BPS's stands for its value: two hours stay two hours."""
    head = "myWalltime: 2:00:00"
    assert settings_of(tmp_path, 'walltime: "{myWalltime}"', head=head).walltime == 7200


@given(st.integers(1, 10**7))
@example(59)
@example(86399)
@example(360000)
def test_clock_time_is_read_again(seconds: int) -> None:
    """What is handed to a scheduler is the time itself, in a form that is read here too."""
    assert read(Walltime, clock_time(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00"), (7200, "02:00:00"), (144000, "40:00:00"), (360061, "100:01:01")]
)
def test_clock_time(seconds: int, text: str) -> None:
    """Hours are never turned into days, which Torque does not read."""
    assert clock_time(seconds) == text


# Memory.


@pytest.mark.parametrize(
    ("value", "megabytes"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("4 GB", 4096),
        ("4GiB", 4096),
        ("4g", 4096),
        ("0.5TB", 524288),
        ("1024 kB", 1),
        (" 64 M ", 64),
        (2.5, 2.5),
    ],
)
def test_memory(value: object, megabytes: float) -> None:
    """Megabytes, or what the unit says; a unit is a power of 1024 as in Slurm."""
    assert read(Memory, value) == megabytes
    assert read(Gigabytes, f"{megabytes} MB") == megabytes / 1024


@pytest.mark.parametrize(
    ("value", "gigabytes"), [(480, 480), ("480", 480), ("480 GB", 480), ("480000 MB", 468.75), (8.75, 8.75)]
)
def test_gigabytes(value: object, gigabytes: float) -> None:
    """Gigabytes, or what the unit says."""
    assert read(Gigabytes, value) == gigabytes


@pytest.mark.parametrize(
    "value",
    [True, None, "", "GB", "4 XB", "-4", "-4 GB", "1e3", "1.2.3", ".", "4 GB 2", [4], 0, -1, "0", math.nan],
)
def test_memory_that_is_none(value: object) -> None:
    """Anything else is complained about."""
    assert complaint(Memory, value)
    assert complaint(Gigabytes, value)


@pytest.mark.parametrize("key", ["mem_per_node", "mem_per_worker", "idle_time"])
def test_no_size_is_infinite(tmp_path: Path, key: str) -> None:
    """YAML's ``.inf`` is refused when it is read, not when the first block is asked for."""
    with pytest.raises(ConfigurationError, match=key):
        settings_of(tmp_path, f"{key}: .inf")


# Numbers and booleans.


@pytest.mark.parametrize("value", ["3", 3, 3.0, " 3 "])
def test_numbers_in_quotes(value: object) -> None:
    """A number is a number, in quotes too, and with ``.0``."""
    assert read(Count, value) == 3
    assert read(Whole, value) == 3
    assert read(Seconds, value) == 3.0


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Count, 0),
        (Count, True),
        (Count, 1.5),
        (Count, "x"),
        (Whole, -1),
        (Whole, False),
        (Fraction, 1.01),
        (Fraction, -0.1),
        (Fraction, True),
        (Seconds, 0),
        (Seconds, "soon"),
    ],
)
def test_numbers_that_are_none(kind: Any, value: object) -> None:
    """A boolean is no number, and each number has its bounds."""
    assert complaint(kind, value)


def test_what_people_write(tmp_path: Path) -> None:
    """Quotes around numbers and booleans, integers for floats, and null for nothing."""
    settings = settings_of(
        tmp_path,
        "nodes: '2'\ncores_per_node: \"100\"\nmem_per_node: '480'\nmem_per_worker: 4\nmax_blocks: null\n"
        "parallelism: 1\nidle_time: 60\nsingleton: 'true'\nexclusive: 'no'\naccount: 1234\nqos: null\n"
        "retries: '0'\nprovider_options: null\nscheduler_options: null\nworker_init: null",
    )
    assert (settings.nodes, settings.cores_per_node) == (2, 100)
    assert (settings.mem_per_node, settings.mem_per_worker) == (480.0, 4.0)
    assert settings.max_blocks is None
    assert (settings.parallelism, settings.idle_time) == (1.0, 60.0)
    assert (settings.singleton, settings.exclusive) == (True, False)
    assert settings.account == "1234"
    assert settings.qos is None
    assert settings.retries == 0
    assert settings.provider_options == {}
    assert (settings.scheduler_options, settings.worker_init) == ("", "")


def test_null_leaves_a_facility_its_value(tmp_path: Path) -> None:
    """``null`` is as good as a missing key: the facility's value stands."""
    assert settings_of(tmp_path, "nodes: null\nqos: null", "S3df").nodes == 1
    assert settings_of(tmp_path, "nodes: 2", "S3df").nodes == 2


# Names.

NAMES = [
    "rubin:developers",
    "roma,milano",
    "m1727",
    "regular_0",
    "knl|haswell",
    "[rack1*2&rack2*4]",
    "a-b.c@d",
    "gpu:2",
]


@pytest.mark.parametrize("value", [*NAMES, 1234])
def test_word(value: object) -> None:
    """Names of accounts, partitions and features, with what Slurm gives a meaning in them."""
    assert read(Word, value) == str(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "a b",
        " a",
        "a\n",
        "a\n#SBATCH --uid=0",
        "a\r",
        "a\tb",
        "a\x00b",
        "a\x7f",
        "a\u2028b",
        'a"b',
        "a'b",
        "a`id`",
        "$(id)",
        "$HOME",
        "a;b",
        "a\\b",
        "a#b",
        True,
        None,
        ["a"],
    ],
)
def test_word_that_is_none(value: object) -> None:
    """Nothing that could end the line, or that a shell would act on."""
    assert complaint(Word, value)


@pytest.mark.parametrize("site", ["Torque", "PBSPro"])
@pytest.mark.parametrize("name", ["a&touch${IFS}x", "a|b", "a>b", "a&b", "(a)"])
def test_queue_that_a_shell_would_act_on(tmp_path: Path, site: str, name: str) -> None:
    """``qsub -q <queue>`` goes through a shell: a queue's name is no code."""
    with pytest.raises(ConfigurationError, match="queue"):
        settings_of(tmp_path, f"queue: '{name}'", site)


# Options of commands.

NASTY = [
    "--a=b c",
    "$(touch x)",
    "`touch x`",
    "$HOME",
    "a;b",
    "a&b",
    "a|b",
    "a>b",
    "'",
    '"',
    "\\",
    "*",
    "~",
    "{a,b}",
    "#x",
    "!x",
    "",
    "é",
    "=x",
]

option_words = st.lists(st.text(st.characters(codec="utf-8", categories=["L", "M", "N", "P", "S", "Z"])))


@given(option_words)
@example(NASTY)
def test_words_are_these_words(words: list[str]) -> None:
    """However options are quoted, a shell finds the same words, and reading them again changes nothing."""
    written = read(Words, shlex.join(words))
    assert shlex.split(written) == words
    assert read(Words, written) == written


@given(st.text(st.characters(codec="utf-8")))
def test_words_are_one_line_or_refused(text: str) -> None:
    """Any text is either refused or one line without control characters that a shell reads as words."""
    try:
        written = read(Words, text)
    except ValidationError:
        return
    assert not any(ord(letter) < 32 and letter != "\t" for letter in written)
    assert "\n" not in written
    assert shlex.split(written) == shlex.split(text)


def test_words_in_a_shell(tmp_path: Path) -> None:
    """A real bash finds the words, and runs nothing of them."""
    written = read(Words, shlex.join(NASTY))
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {written}"], capture_output=True, check=True, cwd=tmp_path
    )
    assert done.stdout.decode().split("\0")[:-1] == NASTY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--memory=480000", "--memory=480000"),
        ("-K0 -k --cpu-bind=none", "-K0 -k --cpu-bind=none"),
        ("  --a   --b\n--c\n", "--a --b --c"),
        ("", ""),
        ("--a='b c'", "'--a=b c'"),
        ("--a;rm", "'--a;rm'"),
    ],
)
def test_words(text: str, words: str) -> None:
    """Plain options stay as they are written; the others are quoted."""
    assert read(Words, text) == words


@pytest.mark.parametrize("value", ["'a\nb'", "'a", 'a"', "a\\", "'\x00'", "'\x1b'", 5, ["a"], True, None])
def test_words_that_are_none(value: object) -> None:
    """A quote that is not closed, a line break within a word, or no text at all."""
    assert complaint(Words, value)


# Lines, and mappings.


@pytest.mark.parametrize(
    "written",
    [
        "|\n  #SBATCH --a\n  #SBATCH --b",
        '["#SBATCH --a", "#SBATCH --b"]',
        "\n  - '#SBATCH --a'\n  - '#SBATCH --b'",
        '"#SBATCH --a\\n#SBATCH --b"',
    ],
)
def test_lines(tmp_path: Path, written: str) -> None:
    """Lines are one text or a list of texts."""
    settings = settings_of(tmp_path, f"scheduler_options: {written}")
    assert settings.scheduler_options.splitlines() == ["#SBATCH --a", "#SBATCH --b"]


@pytest.mark.parametrize("value", [5, True, [1], ["a", None], {"a": 1}])
def test_lines_that_are_none(value: object) -> None:
    """Anything else is complained about."""
    assert complaint(Lines, value)


def test_mapping(tmp_path: Path) -> None:
    """A section with arguments for Parsl's classes keeps the types that YAML has."""
    settings = settings_of(tmp_path, "provider_options:\n  gres: 'gpu:1'\n  status_batch_size: 10")
    assert settings.provider_options == {"gres": "gpu:1", "status_batch_size": 10}
    assert type(settings.provider_options) is dict


@pytest.mark.parametrize("value", [5, "a=1", ["a"], True])
def test_mapping_that_is_none(value: object) -> None:
    """Anything else is complained about."""
    assert complaint(Options, value)
