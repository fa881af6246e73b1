# SPDX-License-Identifier: BSD-3-Clause
"""What all sites have in common whose workers come in blocks (pilots)."""

from __future__ import annotations

import difflib
import inspect
import shlex
import socket
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import psutil

from parsl.addresses import address_by_interface
from parsl.executors import HighThroughputExecutor
from parsl.providers.base import ExecutionProvider

from ..batch.launchers import LaunchCommand
from ..errors import ConfigurationError
from ..node import process_worker_pool
from ..node.pilot import PILOT_END
from ..paths import SubmitPaths
from ..settings.model import SiteSettings, read_settings
from ..settings.types import Count, Fraction, Line, Lines, Options, Seconds, Walltime, Whole, clock_time
from ..site import SiteConfig

if TYPE_CHECKING:
    from ..job import ParslJob

__all__ = ["BlockSettings", "BlockSite"]

T = TypeVar("T")

_WORKER_POOL = shlex.join([sys.executable, process_worker_pool.__file__])
"""The command in place of Parsl's, which asks for an activated environment and short temporary paths."""


_PLACEHOLDER = "127.0.0.1"
"""Without an address, Parsl would ask a server on the Internet for ours."""


class BlockSettings(SiteSettings):
    """Settings of sites whose workers come in blocks."""

    walltime: Walltime | None = None
    """How long a block runs. ``2:00:00`` (also without quotes) is two hours,
    and so is ``7200`` (seconds) or ``2.0`` (hours, also in quotes); a text
    may be anything that Slurm accepts, such as ``"1-12"``."""

    init_blocks: Whole = 0
    """Number of blocks to ask for at the start, whether there is work for
    them or not."""

    min_blocks: Whole = 0
    """Number of blocks to keep while the run goes on."""

    max_blocks: Count | None = None
    """Number of blocks to have at most; 1 by default."""

    max_cores: Count | None = None
    """Number of cores that the blocks of an executor have at most, all
    together. Without ``max_blocks``, there may be as many blocks as that."""

    parallelism: Fraction = 1.0
    """Part of the ready jobs that are to run at once; with less than 1,
    fewer blocks are asked for, and jobs wait for each other."""

    idle_time: Seconds = 120.0
    """Seconds after which a block that is not needed is ended."""

    worker_init: Lines = ""
    """Bash code to run on each node before its workers start."""

    scheduler_options: Lines = ""
    """More lines for the head of the batch script (a text or a list), such
    as ``#SBATCH --reservation=night``."""

    cmd_timeout: Count = 300
    """Seconds that a command of the batch system may take."""

    interface: Line | None = None
    """Network interface whose address the workers use, such as ``ib0``; by
    default they try all addresses of the submit host."""

    provider_options: Options = {}
    """More arguments for Parsl's provider, by their names there."""

    executor_options: Options = {}
    """More arguments for Parsl's executor, by their names there."""


class BlockSite(SiteConfig):
    """Base class of sites whose workers come in blocks."""

    settings_model = BlockSettings
    settings: BlockSettings

    label: ClassVar[str] = ""
    """Label of the executor, where there is one."""

    def select_executor(self, job: ParslJob) -> str:
        """Return the label of the one executor.

        Parameters
        ----------
        job : `ParslJob`
            The job.

        Returns
        -------
        label : `str`
            The label.
        """
        return self.label

    def with_defaults(self, **defaults: Any) -> Any:
        """Return the settings, with values for those that are not set.

        Parameters
        ----------
        **defaults : `~typing.Any`
            Values by the names of settings, as they might stand in the YAML;
            `None` is none. Mappings are merged with what is set.

        Returns
        -------
        settings : `BlockSettings`
            Settings of the site's own class.

        Raises
        ------
        ConfigurationError
            Raised if a default is wrong.
        """
        wanted = {name: value for name, value in defaults.items() if value is not None}
        section = {"class": type(self).__name__, **wanted}
        checked = read_settings(type(self.settings), section, f"{self.where} ({type(self).__name__})")
        update = {}
        for name in wanted:
            setting, default = getattr(self.settings, name), getattr(checked, name)
            if isinstance(setting, dict):
                update[name] = {**default, **setting}
            elif name not in self.given_keys:
                update[name] = default
        return self.settings.model_copy(update=update)

    def remarks(self) -> list[str]:
        """Say how walltimes were understood.

        Returns
        -------
        remarks : `list` [`str`]
            A sentence for each that is set.
        """
        names = [name for name in self.settings.model_fields_set if name.endswith("walltime")]
        return [
            f"{self.where}.{name} is {clock_time(getattr(self.settings, name))} (hours:minutes:seconds)."
            for name in sorted(names)
        ]

    def require(self, settings: BlockSettings, *names: str) -> None:
        """Complain of settings that are missing.

        Parameters
        ----------
        settings : `BlockSettings`
            The settings.
        *names : `str`
            Names of those that must be there.

        Raises
        ------
        ConfigurationError
            Raised if one is not.
        """
        missing = [name for name in names if getattr(settings, name) is None]
        if missing:
            raise ConfigurationError(
                [f"{self.where}.{name}: missing, and it is required." for name in missing]
            )

    def get_address(self) -> str | None:
        """Return the address that workers use to reach this host.

        Returns
        -------
        address : `str` or `None`
            That of the setting ``interface``; `None` has the workers try all
            addresses of this host.
        """
        name = self.settings.interface
        if name is None:
            return None
        try:
            address: str = address_by_interface(name)
        except OSError as exc:
            raise ConfigurationError(
                f"{self.where}.interface: {name}: {exc.strerror}. See the names with: ip -brief address"
            ) from None
        return address

    def block_limits(self, settings: BlockSettings, cores: int | None) -> dict[str, Any]:
        """Return what providers are told about the number of blocks.

        Parameters
        ----------
        settings : `BlockSettings`
            The settings.
        cores : `int` or `None`
            Number of cores of a block, where it is known.

        Returns
        -------
        options : `dict`
            Keyword arguments of all of Parsl's providers.

        Raises
        ------
        ConfigurationError
            Raised if they contradict each other.
        """
        least, most = settings.min_blocks, settings.max_blocks
        if settings.max_cores is not None and cores:
            fitting = max(1, settings.max_cores // cores)
            most = fitting if most is None else min(most, fitting)
        if most is None:
            most = max(1, least, settings.init_blocks)
        if max(least, settings.init_blocks) > most:
            raise ConfigurationError(
                f"{self.where}: at most {most} blocks are allowed (max_blocks, max_cores), and "
                f"min_blocks is {least}, init_blocks {settings.init_blocks}."
            )
        return {
            "init_blocks": settings.init_blocks,
            "min_blocks": least,
            "max_blocks": most,
            "parallelism": float(settings.parallelism),
        }

    def block_init(self, code: str, walltime: int | None) -> str:
        """Return the bash code that a block begins with.

        Parameters
        ----------
        code : `str`
            The setting ``worker_init``.
        walltime : `int` or `None`
            Seconds that the block has.

        Returns
        -------
        code : `str`
            That, after what makes jobs that would not end in time stay away,
            and after the environment of the submit host where it is wanted.
        """
        lines = []
        if walltime is not None:
            lines.append(f"export {PILOT_END}=$(( $(date +%s) + {walltime} ))")
        if self.settings.environment:
            script = SubmitPaths(self.config["submitPath"]).environment_script
            lines.append(f". {shlex.quote(str(script))}")
        return "\n".join([*lines, code]).strip()

    def make_htex(self, label: str, provider: ExecutionProvider, **options: Any) -> HighThroughputExecutor:
        """Make Parsl's HighThroughputExecutor.

        Parameters
        ----------
        label : `str`
            Its label.
        provider : `parsl.providers.base.ExecutionProvider`
            Where its blocks come from.
        **options : `~typing.Any`
            Its other arguments.

        Returns
        -------
        executor : `parsl.executors.HighThroughputExecutor`
            The executor.
        """
        address = self.get_address()
        executor: HighThroughputExecutor = self.build(
            "executor_options",
            HighThroughputExecutor,
            {
                "label": label,
                "provider": provider,
                "address": address or _PLACEHOLDER,
                # Dead workers and dead drivers are noticed within a minute.
                "heartbeat_period": 10,
                "heartbeat_threshold": 60,
                "block_error_handler": False,
                **options,
            },
        )
        if address is None and "address" not in options:
            executor.address = None
            executor.all_addresses = local_addresses()
        executor.launch_cmd = LaunchCommand(
            executor.launch_cmd.replace("process_worker_pool.py", _WORKER_POOL, 1)
        )
        return executor

    def build(
        self,
        setting: str,
        factory: Callable[..., T],
        arguments: Mapping[str, Any],
        documented: Callable[..., Any] | None = None,
    ) -> T:
        """Call one of Parsl's classes.

        Parameters
        ----------
        setting : `str`
            Name of the setting that some of the arguments come from.
        factory : `~collections.abc.Callable`
            The class.
        arguments : `~collections.abc.Mapping`
            Keyword arguments.
        documented : `~collections.abc.Callable`, optional
            Parsl's class, where ``factory`` passes arguments on to it.

        Returns
        -------
        made : `object`
            What it makes.

        Raises
        ------
        ConfigurationError
            Raised if the class does not take an argument.
        """
        base = documented or factory
        name = base.__name__
        known = {**inspect.signature(base).parameters, **inspect.signature(factory).parameters}
        complaints = []
        for key in arguments:
            if key not in known:
                meant = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {meant[0]}?" if meant else ""
                complaints.append(f"{self.where}.{setting}.{key}: {name} takes no such argument{hint}")
        if complaints:
            raise ConfigurationError(complaints)
        try:
            return factory(**arguments)
        except ConfigurationError:
            raise
        except Exception as exc:  # Whatever Parsl raises about what it was given.
            reason = " ".join(str(exc).split())
            raise ConfigurationError(f"{self.where}.{setting}: {name} refuses it: {reason}") from exc

    @abstractmethod
    def get_executors(self) -> list[Any]:
        """Return the executors that jobs can run on."""
        raise NotImplementedError


def local_addresses() -> set[str]:
    """Return the addresses of this host, for workers to try.

    Returns
    -------
    addresses : `set` [`str`]
        The IPv4 addresses of its network interfaces.
    """
    return {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET
    }
