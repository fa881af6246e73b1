# SPDX-License-Identifier: BSD-3-Clause
"""Keys that BPS's plugin for HTCondor obeys, and that have no effect here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lsst.daf.butler import Config

from lsst.ctrl.bps import BpsConfig

from ..plan.command import placeholders
from ..settings.model import HTCONDOR_KEYS

__all__ = ["htcondor_keys"]

_SETUP = "use worker_init of the site, or commandPrefix"
_COMMANDS = "use preCmdline and postCmdline"

_ADVICE = {
    "bpsMakeCommand": _COMMANDS,
    "payloadCommand": _COMMANDS,
    "jobCleanup": _COMMANDS,
    "setupEnv": _SETUP,
    "customEnvSetup": _SETUP,
    "bpsUseHTCEnvironment": "environment works without it",
    "provisioning": "use walltime, partition, account and max_blocks of the site",
    "provisionResources": "this site has no blocks",
    "nodeset": "blocks run the jobs of one run",
    "profile.condor": "use constraint or scheduler_options of the site",
    "releaseExpr": "use numberOfRetries",
    "executeMachinesPattern": "use memoryLimit",
    "wmsConfig": "it configures DAGMan",
    "saveHTCdot": "use saveDot",
}
"""What to use in place of each key, or why nothing is needed."""

_FALSE = frozenset(("false", "no", "off", "0"))


def htcondor_keys(config: BpsConfig, *, has_blocks: bool = True) -> str | None:
    """Say which keys of HTCondor's plugin have no effect, and what to use.

    Parameters
    ----------
    config : `lsst.ctrl.bps.BpsConfig`
        Configuration of the run.
    has_blocks : `bool`, optional
        Whether its site asks a batch system for blocks, which is what
        ``provisionResources`` is for.

    Returns
    -------
    sentence : `str` or `None`
        One sentence for all of them; `None` where there is none. A key that
        another setting names, as in ``commandPrefix: "{setupEnv}"``, is a
        variable of the user's own.
    """
    tree = Config(config).toDict()
    found = _found(tree)
    for key in _used(tree, found):
        found.pop(key)
    if has_blocks:
        found.pop("provisionResources", None)
    if not found:
        return None
    by_advice: dict[str, list[str]] = {}
    for key, advice in _ADVICE.items():
        if key in found:
            by_advice.setdefault(advice, []).append(key)
    parts = [f"{', '.join(keys)} ({advice})" for advice, keys in by_advice.items()]
    return f"Keys of the HTCondor plugin that have no effect here: {'; '.join(parts)}."


def _found(tree: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values of the keys that are set, where HTCondor's plugin would find them."""
    found: dict[str, list[Any]] = {}
    for section in _sections(tree):
        for key in _ADVICE:
            value: Any = section
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if _is_set(key, value):
                found.setdefault(key, []).append(value)
    return found


def _is_set(key: str, value: Any) -> bool:
    if key == "bpsMakeCommand":  # Here BPS makes all commands, which is its default.
        return str(value).lower() in _FALSE
    return value not in (None, "", False) and value != {}


def _sections(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Iterate over the run's own section, and those of labels and of the sites that are used."""
    labels = [tree.get("finalJob")]
    for kind in ("pipetask", "cluster"):
        labels.extend(_mapping(tree.get(kind)).values())
    used = [tree, *(section for section in labels if isinstance(section, Mapping))]
    yield from used
    sites = _mapping(tree.get("site"))
    for name in {str(section.get("computeSite")) for section in used}:
        if isinstance(sites.get(name), Mapping):
            yield sites[name]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _used(tree: Mapping[str, Any], found: Mapping[str, list[Any]]) -> set[str]:
    """Return the keys that are named by other settings than HTCondor's, or by such keys."""
    used: set[str] = set()
    texts = list(_texts(tree))
    while texts:
        for name in set(placeholders(texts.pop())) & (found.keys() - used):
            used.add(name)
            texts.extend(value for value in found[name] if isinstance(value, str))
    return used


def _texts(tree: Mapping[str, Any]) -> Iterator[str]:
    """Iterate over the texts that are no values of HTCondor's keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            if key not in HTCONDOR_KEYS:
                yield from _texts(value)
        elif isinstance(value, str) and "{" in value and key not in HTCONDOR_KEYS:
            yield value
