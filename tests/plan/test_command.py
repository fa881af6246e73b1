# SPDX-License-Identifier: BSD-3-Clause
"""Commands: what the user wrote is code, what is put into it is data."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lsst.ctrl.bps import BpsConfig
from lsst.ctrl.bps.parsl.node.records import expand
from lsst.ctrl.bps.parsl.plan.command import build_command, shell_line, split_words

HOSTILE = (
    "",
    "plain",
    "two words",
    "it's",
    'say "x"',
    "$(touch canary)",
    "`touch canary`",
    "; touch canary;",
    "\ntouch canary\n",
    "&& touch canary",
    "| tee canary",
    "> canary",
    "' ; touch canary ; '",
    '" ; touch canary ; "',
    "` ; touch canary ; `",
    ") ; touch canary ; (",
    "\ntouch canary #",
    "$(>canary)",
    "`>canary`",
    ";>canary;",
    "\n>canary\n",
    "${HOME}",
    "$HOME",
    "$",
    "\\",
    "a\\",
    "\\'",
    "*",
    "~",
    "{a,b}",
    "#",
    "!!",
    "-n",
    "é→\U0001f52d",
    "--long=a;b",
)
"""Values that a shell would take for something else."""

data = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(alphabet="ab =\n\t'\"$`;&|<>(){}[]*?!#~\\%^-/.,é→", max_size=12),
    st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=3).map("".join),
)
"""What may be put into a command: all but NUL, which no process can be given,
and BPS's own ``<ENV:name>``."""

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/home/somebody", "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="module")
def empty() -> Iterator[Path]:
    """Give a directory in which no command of a test leaves anything."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def by_bash(line: str, cwd: Path, environ: dict[str, str] | None = None) -> list[str]:
    """Run a line that prints its words with NULs between them."""
    done = subprocess.run(
        ["/bin/bash", "-c", line],
        cwd=cwd,
        env={**ENVIRON, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]


QUOTED = """ "{v}" '{v}' a"b{v}c"d e'f{v}g'h <FILE:f> "<FILE:f>" '<FILE:f>' x<FILE:f>y"""


def quoted_words(value: str) -> list[str]:
    return [value, value, f"ab{value}cd", f"ef{value}gh", value, value, value, f"x{value}y"]


@given(value=data)
def test_quoted_data_is_one_word_where_no_shell_runs(value: str) -> None:
    """A value in quotes, and a file name wherever it is, reaches the job as it is."""
    assume(value)  # A file always has a name.
    command = build_command("tool" + QUOTED, {"v": value}, {"f": value})
    assert command.words == ["tool", *quoted_words(value)]


@given(value=data)
def test_quoted_data_is_one_word_for_bash(empty: Path, value: str) -> None:
    """The same holds where bash runs the command, and nothing in the value is executed."""
    assume(value)
    command = build_command(r"printf '%s\0'" + QUOTED + " | cat", {"v": value}, {"f": value})
    assert command.words is None
    assert by_bash(shell_line(command.line), empty) == quoted_words(value)
    assert os.listdir(empty) == []


@pytest.mark.parametrize("quotes", ['"{v}"', "'{v}'", 'a"{v}"', '"{v}""{v}"'])
def test_empty_value_in_quotes_is_an_empty_word(empty: Path, quotes: str) -> None:
    """An empty value in quotes is a word of its own: options keep their places."""
    expected = "a" if quotes.startswith("a") else ""
    assert build_command(f"tool {quotes} end", {"v": ""}, {}).words == ["tool", expected, "end"]
    line = build_command(rf"printf '%s\0' {quotes} end | cat", {"v": ""}, {}).line
    assert by_bash(shell_line(line), empty) == [expected, "end"]


def words_of_options(value: str) -> list[str]:
    """Split a value by the quotes that are in it; one that has an open quote is one word."""
    try:
        return shlex.split(value)
    except ValueError:
        return [value]


@given(value=data)
@example(value="-c isr:doBias=False -c 'isr:name=a b'")
@example(value="it's")
def test_options_are_split_by_their_own_quotes(empty: Path, value: str) -> None:
    """A value outside quotes may be several options; only its quotes are looked at."""
    assume(value.strip() or not value)
    expected = words_of_options(value)
    assert build_command("tool {v} end", {"v": value}, {}).words == ["tool", *expected, "end"]
    command = build_command(r"printf '%s\0' {v} end | cat", {"v": value}, {})
    assert by_bash(shell_line(command.line), empty) == [*expected, "end"]
    assert os.listdir(empty) == []


@given(value=data)
def test_options_may_be_a_part_of_a_word(empty: Path, value: str) -> None:
    """What stands beside an unquoted value belongs to its first and last word."""
    assume(value.strip() or not value)
    expected = words_of_options(value) or [""]
    expected[0] = f"--x={expected[0]}"
    expected[-1] += ",y"
    assert build_command("tool --x={v},y", {"v": value}, {}).words == ["tool", *expected]
    command = build_command(r"printf '%s\0' --x={v},y | cat", {"v": value}, {})
    assert by_bash(shell_line(command.line), empty) == expected


@pytest.mark.parametrize("value", [" ", "\n", " \t\n"])
def test_blank_options_are_no_word(empty: Path, value: str) -> None:
    """Options that are nothing but blanks (a folded YAML text) are no argument."""
    assert build_command("tool {v} end", {"v": value}, {}).words == ["tool", "end"]
    command = build_command(r"printf '%s\0' {v} end | cat", {"v": value}, {})
    assert by_bash(shell_line(command.line), empty) == ["end"]


@pytest.mark.parametrize("blank", ["\r", "\v", "\f", "\x1c", "\x85", "\xa0", "\u2003", "\u3000"])
def test_only_what_a_shell_splits_at_splits(blank: str) -> None:
    """Words end at a space, a tab or a newline; other blanks are data, as they are for bash."""
    assert build_command("tool {v}", {"v": f"a{blank}b"}, {}).words == ["tool", f"a{blank}b"]
    assert split_words(f"tool a{blank}b") == ["tool", f"a{blank}b"]


CONTEXTS = {
    "beside quotes in braces": r"printf '%s\0' {it's} '{v}' {it's} | cat",
    "beside an operator in braces": r"printf '%s\0' {a;b} '{v}' | cat",
    "escaped": r"printf '%s\0' \{v} | cat",
    "escaped before an escaped quote": r"printf '%s\0' \{v} it\'s | cat",
    "escaped in double quotes": r"""printf '%s\0' "\{v}" | cat""",
    "substitution": r"printf '%s\0' $(printf %s '{v}'; printf .)",
    "quoted substitution": r"""printf '%s\0' "$(printf %s {v})" """,
    "twice quoted substitution": r"""printf '%s\0' "$(printf %s "{v}")" """,
    "back quotes": r"""printf '%s\0' "`printf %s '{v}'`" """,
    "unquoted back quotes": r"printf '%s\0' `printf %s {v}`",
    "here document": "cat <<END\n{v}\nEND\n",
    "quoted here document": "cat <<'END'\n{v}\nEND\n",
    "comment": "printf '%s\\0' a # {v}\ntrue",
    "comment after an operator": "printf '%s\\0' a;# '{v}'\ntrue",
    "quoted in a comment": "printf '%s\\0' a # '{v}'\ntrue",
    "ANSI quotes": r"printf '%s\0' $'it\'s {v}' | cat",
    "expansion": r"""printf '%s\0' "${UNSET_NAME:-{v}}" """,
    "arithmetic": r"printf '%s\0' $(( {v} ))",
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_data_is_never_executed(tmp_path: Path, context: str) -> None:
    """Wherever in a command a value stands, it is not executed; the command may be refused."""
    (tmp_path / "cwd").mkdir()
    run = []
    for value in HOSTILE:
        try:
            command = build_command(CONTEXTS[context], {"v": value}, {})
        except ValueError:
            continue
        by_bash(shell_line(command.line), tmp_path / "cwd")
        for path in (tmp_path / "cwd").iterdir():
            run.append((value, path.name))
            path.unlink()
    assert run == []


def test_data_in_a_substitution_is_plain_or_refused(empty: Path) -> None:
    """``"$(basename {file})"`` is how people write it: a plain value arrives as it is, and one with a
    shell's characters is refused with the way out, since quotes mean other things in there.
    """
    template = r"""printf '%s\0' "$(basename {v})" """
    command = build_command(template, {"v": "/a/its"}, {})
    assert by_bash(shell_line(command.line), empty) == ["its"]
    with pytest.raises(ValueError, match="write that command into a script"):
        build_command(template, {"v": "/a/it's"}, {})


ONE_WORD = {
    "before a substitution": r"printf '%s\0' <FILE:a> $(printf end)",
    "after a substitution": r"printf '%s\0' $(printf '%s' \)\') <FILE:a>",
    "before a comment": r"printf '%s\0' <FILE:a> # it's a comment",
    "after a comment": "printf '%s\\0' # it's a \"comment\n printf '%s\\0' <FILE:a>",
    "in a comment": r"printf '%s\0' # <FILE:a>",
    "in a substitution": r"""printf '%s\0' "$(printf '<%s>' <FILE:a>)" """,
    "quoted": r"""printf '%s\0' "<FILE:a>" '<FILE:a>' $(printf end)""",
    "quoted in a substitution": r"""printf '%s\0' "$(printf '<%s>' "<FILE:a>" '<FILE:a>')" """,
    "after arithmetic": r"printf '%s\0' $(( (1 + 2) * 3 )) x<FILE:a>y",
    "after an expansion": r"""printf '%s\0' "${NONE:-"a b"}" <FILE:a>""",
    "after an escaped substitution": r"printf '%s\0' \$\( <FILE:a> $(printf end)",
}


@pytest.mark.parametrize("template", ONE_WORD.values(), ids=ONE_WORD)
def test_file_name_stays_one_word(empty: Path, template: str) -> None:
    """A file name with a blank is one word, as one without is, also beside substitutions and comments."""
    words = []
    for name in ("/x-y/f", "/x y/f"):
        command = build_command(template, {}, {"a": name})
        words.append([word.replace(name, "FILE") for word in by_bash(shell_line(command.line), empty)])
    assert words[0] == words[1]
    assert any("FILE" in word for word in words[1]) == ("# <" not in template)


@pytest.mark.parametrize(
    "template", ["cat `echo <FILE:a>`", "cat <<END\n<FILE:a>\nEND\n", "echo ${X:-a <FILE:a>}"]
)
def test_file_name_that_would_not_be_one_word_is_refused(template: str) -> None:
    """Where it is not clear what a quote means, a file name with a blank is refused."""
    assert build_command(template, {}, {"a": "/xy"}).words is None
    with pytest.raises(ValueError, match="write that command into a script"):
        build_command(template, {}, {"a": "/x y"})


def test_bashs_own_words_need_bash() -> None:
    """What bash has for a builtin or a keyword, and what is no program, is left to bash."""
    said = subprocess.run(["/bin/bash", "-c", "compgen -b -k"], capture_output=True, text=True, check=True)
    programs = {word for word in said.stdout.split() if shutil.which(word, path="/usr/bin:/bin")}
    assert programs <= {"[", "echo", "false", "kill", "printf", "pwd", "test", "time", "true"}
    for word in {*said.stdout.split()} - programs:
        assert build_command(f"{word} x", {}, {}).words is None, word


@pytest.mark.parametrize(
    "template",
    [
        "a | b",
        "a > out",
        "a < in",
        "a 2>&1",
        "a && b",
        "a || b",
        "a; b",
        "a &",
        "(a)",
        "a $(b)",
        "a `b`",
        'a "$(b)"',
        'a "`b`"',
        "a $HOME",
        "a\nb",
        "A=1 a",
        "A+=1 a",
        "cd x",
        "source x",
        ". x",
        "export A=1",
        "ulimit -n 10",
        "exec a",
        "time a",
        "! a",
        "eval a",
        "if a",
        "",
    ],
)
def test_command_that_only_bash_understands_has_no_words(template: str) -> None:
    """Where a shell's grammar is used, bash gets the line as it was written."""
    command = build_command(template, {}, {})
    assert command.words is None
    assert shell_line(command.line) == template


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("tool -a  b\t--c=d", ["tool", "-a", "b", "--c=d"]),
        ("/x/tool a.yaml#isr,flat", ["/x/tool", "a.yaml#isr,flat"]),
        ("tool 'a;b' \"c|d\" e\\;f", ["tool", "a;b", "c|d", "e;f"]),
        ("tool '$HOME' '`x`'", ["tool", "$HOME", "`x`"]),
        (
            "tool -d \"instrument='HSC' AND visit IN (1..3)\"",
            ["tool", "-d", "instrument='HSC' AND visit IN (1..3)"],
        ),
        ("tool ''", ["tool", ""]),
        ("tool a=b", ["tool", "a=b"]),
        ("tool <ENV:HOME>/x", ["tool", "<ENV:HOME>/x"]),
    ],
)
def test_plain_command_needs_no_shell(template: str, words: list[str]) -> None:
    """A command without a shell's grammar is run without a shell."""
    assert build_command(template, {}, {}).words == words


@pytest.mark.parametrize(
    "arguments",
    [
        "a b",
        "'a b' \"c d\" e\\ f",
        '"a\\"b" "a\\\\b" "a\\b"',
        '"a\\`b"',
        '"a\\$b"',
        "*.txt",
        "?.txt",
        "[a-c].txt",
        "~/x",
        "--x=~/x",
        "{a,b}.c",
        "{1..3}",
        "x # a comment",
        "x#y",
        "a\\\nb",
        "[1,2]",
        "a!b ^c %d @e",
        "{it's} x {it's}",
        "{a;true}",
        "{a|cat}",
    ],
)
def test_words_are_what_bash_would_make_of_them(tmp_path: Path, arguments: str) -> None:
    """Whether a shell is used makes no difference to the words of a command."""
    (tmp_path / "a.txt").touch()
    command = build_command(f"printf '%s\\0' {arguments}", {}, {})
    expected = by_bash(f"printf '%s\\0' {arguments}", tmp_path)
    found = command.words[2:] if command.words is not None else by_bash(shell_line(command.line), tmp_path)
    assert found == expected


@given(value=data)
def test_environment_variables_are_data(empty: Path, value: str) -> None:
    """The value of ``<ENV:name>`` is put in as it is, in quotes or out of them, by both ways to run."""
    environ = {"A": value}
    arguments = """ <ENV:A> "<ENV:A>" '<ENV:A>' x<ENV:A>y "x <ENV:A/z> y" <ENV:UNSET_NAME>"""
    expected = [value, value, value, f"x{value}y", f"x {value}/z y", ""]
    words = build_command("tool" + arguments, {}, {}).words
    assert words is not None
    assert [expand(word, environ) for word in words[1:]] == expected
    line = build_command(r"printf '%s\0'" + arguments + " | cat", {}, {}).line
    assert by_bash(shell_line(line), empty, environ) == expected
    assert os.listdir(empty) == []


@given(value=st.sampled_from(["<ENV:A>", "x<ENV:A>'y'", "<ENV:A b>", "<ENV:(touch canary)>", "<ENV:it's>"]))
def test_environment_variables_in_data(empty: Path, value: str) -> None:
    """BPS writes variables into values too; both ways to run agree on what becomes of them."""
    environ = {"A": "1 2", "it": "3"}
    words = build_command('tool "{v}"', {"v": value}, {}).words
    assert words is not None
    line = build_command(r"""printf '%s\0' "{v}" | cat""", {"v": value}, {}).line
    assert by_bash(shell_line(line), empty, environ) == [expand(words[1], environ)]
    assert os.listdir(empty) == []


@pytest.mark.parametrize(
    "arguments",
    [
        "$A",
        "${A}",
        "${A}x",
        "$A/x",
        '"$A"',
        '"$A/x y"',
        '"${A} ${B}"',
        "${A}${B}",
        "$A:$B",
        "$A;true",
        "$A|cat",
        "\\$A",
        '"\\$A"',
        '"${A}" $(printf z)',
    ],
)
def test_what_bps_makes_of_a_dollar_is_understood(tmp_path: Path, arguments: str) -> None:
    """BPS rewrites the variables of a command into ``<ENV:...>``. Where that is all there is of a command,
    it still does what was written; what users write is restored before (``tests/prepare/test_written.py``).
    """
    environ = {"A": "1", "B": "2"}
    written = rf"printf '%s\0' {arguments}"
    options = {"replaceEnvVars": True, "expandEnvVars": False, "replaceVars": False}
    _, template = BpsConfig({"command": written}).search("command", options)
    assert "<ENV:" in template
    command = build_command(template, {}, {})
    if command.words is None:
        found = by_bash(shell_line(command.line), tmp_path, environ)
    else:
        found = [expand(word, environ) for word in command.words[2:]]
    assert found == by_bash(written, tmp_path, environ)


def test_name_without_a_value_is_left_alone() -> None:
    """Braces that are none of BPS's variables belong to the command."""
    assert build_command("tool {other} {} {a b}", {"v": "x"}, {}).words == [
        "tool",
        "{other}",
        "{}",
        "{a",
        "b}",
    ]


def test_doubled_braces_are_braces() -> None:
    """``{{x}}`` is ``{x}``, as where BPS fills in a command itself (``str.format``)."""
    assert build_command("tool {{v}} {v}", {"v": "1"}, {}).words == ["tool", "{v}", "1"]


def test_values_need_not_be_text() -> None:
    """Numbers are put in as they are printed."""
    assert build_command("tool {n} {x}", {"n": 12, "x": 1.5}, {}).words == ["tool", "12", "1.5"]


def test_unknown_file_is_named() -> None:
    """A file that the job does not have is an error with the file's name."""
    with pytest.raises(KeyError, match="missing"):
        build_command("tool <FILE:missing>", {}, {"f": "/x"})


@pytest.mark.parametrize("template", ["tool 'a", 'tool "a', "tool \"a' b", 'tool "{v}'])
def test_quotation_without_end_is_refused(template: str) -> None:
    """A command whose quotation has no end is an error, not a guess."""
    with pytest.raises(ValueError, match="quotation"):
        build_command(template, {"v": "x"}, {})


def test_value_beside_a_variable_in_quotes(empty: Path) -> None:
    """A plain variable in a command is no reason to refuse a value: BPS users write ``"$VAR"``."""
    options = {"replaceEnvVars": True, "expandEnvVars": False, "replaceVars": False}
    written = r"""printf '%s\0' "$A" -d '{v}'"""
    _, template = BpsConfig({"command": written}).search("command", options)
    for value in HOSTILE:
        command = build_command(template, {"v": value}, {})
        expected = ["1 2", "-d", value]
        if command.words is None:
            assert by_bash(shell_line(command.line), empty, {"A": "1 2"}) == expected
        else:
            assert [expand(word, {"A": "1 2"}) for word in command.words[2:]] == expected
    assert os.listdir(empty) == []


PIECES = (
    *("{v}", '"{v}"', "'{v}'", "<FILE:f>", '"<FILE:f>"', "<ENV:A>", "{{v}}", "--x={v}", "{a,b}", "a", "b c"),
    *(" ", "\t", "\n", "'", '"', "\\", "$", "`", "#", "<", "<<", "|", "&", ";", "(", ")", "{", "}", "[", "]"),
    *("$(", "${", "$((", "))", "$'", "${A}", "<<END\n", "END\n", "\\\n", "~", "*", "!", "=", "é", "%s"),
)


@settings(max_examples=400)
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=7),
    value=st.sampled_from(HOSTILE),
    file=st.sampled_from(HOSTILE),
)
def test_any_command(empty: Path, pieces: list[str], value: str, file: str) -> None:
    """Whatever the command: a value is never executed, and words are those that bash would find."""
    environ = {"A": "1 '2\"$(>canary);x"}
    template = r"printf '%s\0' " + "".join(pieces)
    try:
        command = build_command(template, {"v": value}, {"f": file or "f"})
    except (ValueError, KeyError):
        return
    found = by_bash(shell_line(command.line), empty, environ)
    left = os.listdir(empty)
    for name in left:  # A redirection of the command's own.
        (empty / name).unlink()
    assert "canary" not in left
    if command.words is not None:
        assert found == ([expand(word, environ) for word in command.words[2:]] or [""])
