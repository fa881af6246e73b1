# SPDX-License-Identifier: BSD-3-Clause
"""Lists of numbers, many and short, in little memory."""

from __future__ import annotations

from array import array

import numpy

__all__ = ["Adjacency"]


class Adjacency:
    """Lists of numbers in two flat arrays: the children of each job.

    Parameters
    ----------
    parents : `array.array` [`int`]
        The parents of all jobs, one job after the other.
    ends : `array.array` [`int`]
        Where the parents of each job end, with a zero before.
    """

    def __init__(self, parents: array[int], ends: array[int]) -> None:
        of_parents = numpy.frombuffer(parents, dtype=f"u{parents.itemsize}")
        limits = numpy.frombuffer(ends, dtype=f"u{ends.itemsize}").astype(numpy.int64)
        count = len(limits) - 1
        by_parent = numpy.argsort(of_parents, kind="stable")
        children = numpy.repeat(numpy.arange(count, dtype=numpy.uint32), numpy.diff(limits))[by_parent]
        numbers = numpy.bincount(of_parents, minlength=count)
        # Arrays of the standard library: one element at a time, they are
        # faster than NumPy's.
        self._starts = array("Q", [0])
        self._starts.frombytes(numpy.cumsum(numbers).astype(numpy.uint64).tobytes())
        self._children = array("I", children.tobytes())

    def __getitem__(self, index: int) -> array[int]:
        return self._children[self._starts[index] : self._starts[index + 1]]
