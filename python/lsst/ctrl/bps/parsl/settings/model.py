# SPDX-License-Identifier: BSD-3-Clause
"""Settings of a site: read once, checked all together, said in words.

Each site class has a model, a `SiteSettings`; its fields are the keys of the
YAML, and what is written under a field is its documentation.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from lsst.ctrl.bps import BPS_DEFAULTS

from ..errors import ConfigurationError
from ..job import DEFAULTS as JOB_FIELDS
from .types import SUBMIT_HOST, FinalJobPlace, Limits, Line, Seconds, Whole

__all__ = ["HTCONDOR_KEYS", "SiteSettings", "near_miss", "read_settings"]

HTCONDOR_KEYS = frozenset(
    """bpsMakeCommand payloadCommand jobCleanup setupEnv customEnvSetup bpsUseHTCEnvironment
    provisionResources provisioning nodeset profile releaseExpr executeMachinesPattern wmsConfig saveHTCdot
    overwriteJobFiles""".split()
)
"""Names that BPS's plugin for HTCondor looks for, also in a site section."""


class SiteSettings(BaseModel):
    """Settings that every site has."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    class_name: str = Field(validation_alias=AliasChoices("class", "class_name"))
    """Name of the site class, with its module (YAML: ``class``)."""

    commandPrefix: str = ""
    """Bash code to run before each command; environment variables in it are
    replaced by bash, where the job runs."""

    environment: bool = False
    """Whether jobs get the environment of the submit host also on other
    hosts. On the submit host itself they always do."""

    retries: Whole | None = None
    """How often a failed job is run again, in place of each job's
    ``numberOfRetries``."""

    concurrencyLimits: Limits = {}
    """How many jobs of this run may run at once that have a certain
    ``concurrencyLimit`` or ``category``, by its name, as in ``{db_limit: 10}``."""

    warmStart: bool = True
    """Whether jobs that are Python scripts are forked from a process that has
    their modules loaded, in place of importing them anew."""

    enforceMemory: bool = False
    """Whether a job that has more memory than it has asked for is ended, and
    run again with a larger request where BPS allows that."""

    finalJob: FinalJobPlace = SUBMIT_HOST
    """Where the final job runs: ``submit host`` or ``workers``."""

    run_dir: Line = "runinfo"
    """Directory for Parsl's own files; relative to the submit directory."""

    monitorEnable: bool = False
    """Whether Parsl's monitoring database is written."""

    monitorInterval: Seconds = 30.0
    """Seconds between two looks of Parsl's monitoring at what a task uses."""

    monitorFilename: Line = "monitor.sqlite"
    """File of the monitoring database; relative to the submit directory."""


_REASONS = {
    "bool_parsing": "true or false is wanted",
    "bool_type": "true or false is wanted",
    "float_parsing": "a number is wanted",
    "float_type": "a number is wanted",
    "int_from_float": "a whole number is wanted",
    "int_parsing": "a whole number is wanted",
    "int_type": "a whole number is wanted",
    "string_type": "a text is wanted",
    "greater_than": "it must be more than {gt}",
    "greater_than_equal": "it must be at least {ge}",
}
"""What is wrong, by pydantic's type of error; pydantic's words for others."""

S = TypeVar("S", bound=SiteSettings)


def keys_of(model: type[SiteSettings]) -> list[str]:
    """Return the keys that a model reads.

    Parameters
    ----------
    model : `type`
        A settings model.

    Returns
    -------
    keys : `list` [`str`]
        Their names in the YAML.
    """
    return ["class" if name == "class_name" else name for name in model.model_fields]


@cache
def bps_keys() -> frozenset[str]:
    """Return the names that BPS itself looks for in a site section."""
    camel = {re.sub(r"_(\w)", lambda match: match.group(1).upper(), name) for name in JOB_FIELDS}
    return HTCONDOR_KEYS | camel | set(BPS_DEFAULTS) | {"memoryLimit", "numCores", "computeSite"}


def read_settings(
    model: type[S], section: Mapping[str, Any], where: str, elsewhere: Collection[str] = ()
) -> S:
    """Read the settings of a site.

    Parameters
    ----------
    model : `type`
        The site's model.
    section : `~collections.abc.Mapping`
        The site's section of the configuration. A key that is ``null`` is as
        good as missing.
    where : `str`
        Name of the section, for complaints.
    elsewhere : `~collections.abc.Collection` [`str`], optional
        Keys of other models, which are no misspelt ones of this.

    Returns
    -------
    settings : `SiteSettings`
        The settings.

    Raises
    ------
    ConfigurationError
        Raised with everything that is wrong. A key that nobody knows is wrong
        only where it looks like one of the model's: the section may hold
        BPS's settings, and variables of the user's own.
    """
    values = {key: value for key, value in section.items() if value is not None}
    complaints = [
        f"{where}.{key}: unknown setting; did you mean {meant}?"
        for key in values
        if key not in elsewhere and (meant := near_miss(key, keys_of(model)))
    ]
    try:
        settings = model.model_validate(values)
    except ValidationError as exc:
        for error in exc.errors():
            complaints.append(_complaint(where, dict(error)))
    if complaints:
        raise ConfigurationError(complaints)
    return settings


def near_miss(key: str, known: list[str]) -> str | None:
    """Return the setting that is meant by a key that looks like it.

    Parameters
    ----------
    key : `str`
        The key.
    known : `list` [`str`]
        The settings that there are.

    Returns
    -------
    meant : `str` or `None`
        `None` where the key is one of them, or one of BPS's, or like none.
    """
    if key in known or key in bps_keys():
        return None
    by_plain_name = {re.sub(r"[_-]", "", name).lower(): name for name in known}
    plain = re.sub(r"[_-]", "", key).lower()
    for candidate in difflib.get_close_matches(plain, by_plain_name, n=3, cutoff=0.65):
        ratio = difflib.SequenceMatcher(None, plain, candidate).ratio()
        # "retry" is meant for "retries", and "storage" for nothing of ours.
        if ratio >= 0.75 or candidate.startswith(plain[:4]):
            return by_plain_name[candidate]
    return None


def _complaint(where: str, error: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith("function-"))
    key = "class" if key == "class_name" else key
    if error["type"] == "missing":
        return f"{where}.{key}: missing, and it is required."
    if error["type"] in _REASONS:
        reason = _REASONS[error["type"]].format(**error.get("ctx", {}))
    else:
        reason = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}.{key}: {error['input']!r}: {reason[0].lower()}{reason[1:]}."
