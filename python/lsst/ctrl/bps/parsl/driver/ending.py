# SPDX-License-Identifier: BSD-3-Clause
"""The end of something that has several parts: each is ended, whatever the others raise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

__all__ = ["Step", "end_all_of"]

_LOG = logging.getLogger(__name__)

Step = tuple[str, Callable[[], object]]
"""What is done, as the beginning of a sentence, and what does it."""


def end_all_of(*steps: Step) -> None:
    """Do each step of an end, in this order, whatever those before it raised.

    What Parsl and the providers of users raise is not known, and changes
    nothing about how a run ended: it is said in a sentence.

    Parameters
    ----------
    *steps : `tuple` [`str`, `~collections.abc.Callable`]
        What is done, such as "Ending Parsl", and what does it.
    """
    with ExitStack() as stack:
        for what, step in reversed(steps):
            stack.callback(_try, what, step)


def _try(what: str, step: Callable[[], object]) -> None:
    try:
        step()
    except Exception as exc:
        _LOG.warning("%s failed (%s: %s); the rest is ended all the same.", what, type(exc).__name__, exc)
        _LOG.debug("Where that was:", exc_info=True)
