# SPDX-License-Identifier: BSD-3-Clause
"""Options of sbatch, as people write them."""

from __future__ import annotations

import pytest

from lsst.ctrl.bps.parsl.batch.directives import read_directives, script_lines


@pytest.mark.parametrize(
    ("written", "option", "value", "text"),
    [
        ("#SBATCH --mem=4G", "mem", "4G", "--mem=4G"),
        ("#SBATCH --mem 4G", "mem", "4G", "--mem 4G"),
        ("  #SBATCH\t-N 2", "nodes", "2", "-N 2"),
        ("-N2", "nodes", "2", "-N2"),
        ("#SBATCH -t 1:00:00 # an hour", "time", "1:00:00", "-t 1:00:00"),
        ("#SBATCH --exclusive", "exclusive", "", "--exclusive"),
        ("#SBATCH --exclusive=user", "exclusive", "user", "--exclusive=user"),
        ("#SBATCH --exclusive --qos=a", "qos", "a", "--qos=a"),
        ("#SBATCH -s -p x", "partition", "x", "-p x"),
        ("#SBATCH -s", "oversubscribe", "", "-s"),
        ('#SBATCH --comment="a --mem=1G" --mem=2G', "mem", "2G", "--mem=2G"),
        ("#SBATCH --mem=1G\n#SBATCH --mem=2G", "mem", "2G", "--mem=2G"),
        ("#SBATCH --mem-per-cpu='2G", "mem-per-cpu", "'2G", "--mem-per-cpu='2G"),
        ("#SBATCH --mail-user --mem=2G", "mem", "2G", "--mem=2G"),
    ],
)
def test_forms(written: str, option: str, value: str, text: str) -> None:
    """All forms of an option are the option; of two, the last counts, as in sbatch."""
    found = read_directives(written)[option]
    assert (found.option, found.value, found.text) == (option, value, text)


@pytest.mark.parametrize("written", ["", "\n", "# SBATCH --mem=1", "##SBATCH --mem=1", "x\n#SBATCH --mem=1"])
def test_what_is_no_directive(written: str) -> None:
    """A comment is none, nor what stands after the first command."""
    assert read_directives(written) == {}


def test_lines_of_the_script() -> None:
    """Each line begins where sbatch looks for its mark, which an option gets that has none."""
    assert script_lines("  #SBATCH -a\n\n --b\nmodule load x\n") == [
        "#SBATCH -a",
        "#SBATCH --b",
        "module load x",
    ]
