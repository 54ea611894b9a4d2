"""The broker's configuration: every option, once, and the loader that reports all problems of a file together.

The dataclasses below are the one schema. Each field is an option: its default, its kind (`broker/options.py`) and its
meaning feed the loader, `appvss config check`, `appvss config sample` and docs/reference/configuration.md
(`broker/configuration_text.py`). The rules for apps are in `broker/policy_options.py`, what several values together can
have wrong in `broker/configuration_checks.py`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from appvss import contract
from appvss.broker.configuration_checks import problems
from appvss.broker.configuration_reader import read_document
from appvss.broker.options import AbsolutePath, AppNames, Count, Length, PathPatterns, Word, option, tables
from appvss.broker.policy_options import RULES_MOST, AppPolicyOptions
from appvss.broker.source_options import FreebsdOptions, LinuxHvVssOptions, SourceOptions
from appvss.freezer.plan import FilesystemSettings
from appvss.model.app import Requirement
from appvss.model.errors import ConfigurationInvalid, UsageError
from appvss.model.filesystem import Unfreezable
from appvss.model.source import SourceMode
from appvss.model.toml_value import Choice
from appvss.service.toml_file import parse_file

DEFAULT_FILE: Final = Path(
    "/usr/local/etc/appvss/broker.toml" if sys.platform.startswith("freebsd") else "/etc/appvss/broker.toml"
)
"""The file that is read when none is named. It need not exist."""
DEFAULT_STATE_DIRECTORY: Final = Path("/var/db/appvss" if sys.platform.startswith("freebsd") else "/var/lib/appvss")
"""What must outlive the broker, and a restart of the machine: hier(7) of FreeBSD, file-hierarchy(7) of Linux."""
APP_LIMIT_MOST: Final = 20_000
"""The most apps at once: what the server's queue of new streams is set to (`contract.SERVER_OPTIONS`)."""

_INSTANT: Final = timedelta(0)
_TENTH: Final = timedelta(milliseconds=100)
_SECOND: Final = timedelta(seconds=1)
_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)


class LogLevel(StrEnum):
    """From which weight on a record is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class FilesystemMode(StrEnum):
    """Whether this broker freezes file systems."""

    AUTOMATIC = "automatic"
    OFF = "off"


class UnidentifiedApps(StrEnum):
    """What becomes of an app that the kernel's word does not identify (`proto/appvss/v1/app.proto`)."""

    ADMIT = "admit"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """The daemon itself."""

    runtime_directory: Path = field(
        default=Path(contract.DEFAULT_RUNTIME_DIRECTORY),
        metadata=option(
            AbsolutePath(),
            "Where the sockets and the lock file are. Keep it short: the kernel limits the length of a socket's path.",
            "`/run/appvss` on Linux, `/var/run/appvss` elsewhere",
        ),
    )
    state_directory: Path = field(
        default=DEFAULT_STATE_DIRECTORY,
        metadata=option(
            AbsolutePath(),
            "Where journal, history and certificate are kept. The broker makes it and alone may enter it; no other "
            "broker may use it.",
            "`/var/lib/appvss`; on FreeBSD `/var/db/appvss`",
        ),
    )
    socket_group: str = field(
        default="appvss",
        metadata=option(
            Word(),
            "The group whose members may take part as apps. Empty: only the broker's own user may; so it is, with a "
            "word in the log, where the built-in group is absent. A group that is named here must exist.",
        ),
    )
    log_level: LogLevel = field(
        default=LogLevel.INFO, metadata=option(Choice(LogLevel), "From which weight on a record is logged.")
    )
    stop_timeout: timedelta = field(
        default=timedelta(seconds=10),
        metadata=option(
            Length(_SECOND, 5 * _MINUTE),
            "How long the broker may take to end after SIGTERM: everything is thawed first, then the apps are told.",
        ),
    )


@dataclass(frozen=True, slots=True)
class FilesystemOptions:
    """The freeze of file systems, where this broker carries it out: on Linux. FreeBSD's kernel does it by itself."""

    mode: FilesystemMode = field(
        default=FilesystemMode.AUTOMATIC,
        metadata=option(
            Choice(FilesystemMode),
            "`automatic`: file systems are frozen where a requester wants it. `off`: never; a requester that names "
            "some, or wants all, is refused.",
        ),
    )
    exclude: tuple[str, ...] = field(
        default=FilesystemSettings().exclude,
        metadata=option(
            PathPatterns(100),
            "Mount points that are left out, as patterns of fnmatch(3), in which `*` also matches `/`. What is left "
            "out is not frozen, and lowers nothing.",
        ),
    )
    unfreezable: Unfreezable = field(
        default=Unfreezable.LOWER,
        metadata=option(
            Choice(Unfreezable),
            "What becomes of a freeze when a file system that should be frozen cannot be, such as vfat. `veto`: it is "
            "refused before anything is frozen. `lower`: the others are frozen, and the verdict falls. `report`: the "
            "others are frozen, and it is only named.",
        ),
    )


@dataclass(frozen=True, slots=True)
class CycleOptions:
    """The limits inside a cycle that no requester sets."""

    prepared_limit: timedelta = field(
        default=timedelta(minutes=2),
        metadata=option(
            Length(_SECOND, _HOUR),
            "How long a good check stays good. A freeze that comes later finds apps that must prepare anew.",
        ),
    )
    thaw_limit: timedelta = field(
        default=timedelta(seconds=5),
        metadata=option(
            Length(_TENTH, _MINUTE),
            "How long the apps of one order may take to confirm the thaw before the apps of the next order are told.",
        ),
    )
    return_grace: timedelta = field(
        default=timedelta(seconds=5),
        metadata=option(
            Length(_INSTANT, _MINUTE),
            "How long an app whose stream broke in a hold may stay away and still prove that its hold is unbroken. "
            "`0s`: its hold is lost at once.",
        ),
    )


@dataclass(frozen=True, slots=True)
class AppOptions:
    """Which apps there must be, and which there may be."""

    required: tuple[str, ...] = field(
        default=(),
        metadata=option(
            AppNames(1000), "Apps that must take part. One that is not registered is `absent` and fails the cycle."
        ),
    )
    unidentified: UnidentifiedApps = field(
        default=UnidentifiedApps.ADMIT,
        metadata=option(
            Choice(UnidentifiedApps),
            "What becomes of an app that does not prove with a token who it is (proto/appvss/v1/app.proto, IDENTITY).",
        ),
    )
    limit: int = field(
        default=2000, metadata=option(Count(1, APP_LIMIT_MOST), "How many apps may be registered at once.")
    )
    limit_per_uid: int = field(
        default=1000,
        metadata=option(Count(1, APP_LIMIT_MOST), "How many of them one user may register."),
    )
    policy: tuple[AppPolicyOptions, ...] = field(default=(), metadata=tables(AppPolicyOptions, "rule", RULES_MOST))


@dataclass(frozen=True, slots=True)
class HistoryOptions:
    """What is kept of cycles on disk: journal and certificate of the running one, a record of those that have ended."""

    keep: int = field(
        default=1000,
        metadata=option(Count(10, 100_000), "How many cycles are kept. When there are more, the oldest are dropped."),
    )
    requirement: Requirement = field(
        default=Requirement.TOLERATED,
        metadata=option(
            Choice((Requirement.REQUIRED, Requirement.TOLERATED)),
            "What becomes of a freeze whose journal or certificate cannot be written. `required`: it is refused. "
            "`tolerated`: it goes on, and the verdict names it.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that an administrator can set. The defaults make a working broker."""

    broker: BrokerOptions = field(default_factory=BrokerOptions)
    sources: SourceOptions = field(default_factory=SourceOptions)
    cycle: CycleOptions = field(default_factory=CycleOptions)
    apps: AppOptions = field(default_factory=AppOptions)
    history: HistoryOptions = field(default_factory=HistoryOptions)
    filesystems: FilesystemOptions = field(default_factory=FilesystemOptions)
    origin: str = ""
    """The file that it was read from; empty: built-in values."""
    given: frozenset[str] = frozenset()
    """The keys that the file has, such as `cycle.thaw_limit`; the others are at their built-in values."""
    overridden: frozenset[str] = frozenset()
    """The keys that the command line or the environment decides, whatever the file has."""


def load(path: Path | None = None, *, default_file: Path = DEFAULT_FILE) -> Configuration:
    """The configuration of a broker.

    Args:
        path: the file that the administrator named. None: `default_file` if it exists, else built-in values.
        default_file: where to look when no file is named.

    Raises:
        ConfigurationUnreadable: the file cannot be read, or `path` does not exist.
        ConfigurationInvalid: it has problems; all of them are in the error.
    """
    if path is None:
        if not os.path.lexists(default_file):
            return Configuration()
        path = default_file
    reading = read_document(Configuration, parse_file(path))
    found = [*reading.problems, *problems(reading)]
    if found:
        raise ConfigurationInvalid(str(path), found)
    return replace(reading.value, origin=str(path), given=frozenset(reading.given))


def with_overrides(
    configuration: Configuration,
    *,
    runtime_directory: Path | None = None,
    state_directory: Path | None = None,
    device: Path | None = None,
) -> Configuration:
    """`configuration` with what the command line says. A relative path counts from the working directory.

    Raises:
        SocketPathTooLong: no socket fits into `runtime_directory`.
        UsageError: a device is named, and its source is switched off; or sockets and state would share a directory.
    """
    broker, overridden = configuration.broker, set(configuration.overridden)
    if runtime_directory is not None:
        broker = replace(broker, runtime_directory=runtime_directory.absolute())
        contract.socket_path(broker.runtime_directory, contract.PEER_SOCKET)
        overridden.add("broker.runtime_directory")
    if state_directory is not None:
        broker = replace(broker, state_directory=state_directory.absolute())
        overridden.add("broker.state_directory")
    if broker.state_directory == broker.runtime_directory:
        raise UsageError(
            f"{broker.state_directory} is the runtime directory, and the state directory too",
            "Name two directories: the broker alone may enter the one, and apps must enter the other.",
        )
    sources = configuration.sources
    if device is not None:
        # A driver's device has its name, and so has its simulator's.
        if device.name == sources.linux_hv_vss.device.name:
            sources = replace(sources, linux_hv_vss=_with_device("linux_hv_vss", sources.linux_hv_vss, device))
            overridden.add("sources.linux_hv_vss.device")
        else:
            sources = replace(sources, freebsd=_with_device("freebsd", sources.freebsd, device))
            overridden.add("sources.freebsd.device")
    return replace(configuration, broker=broker, sources=sources, overridden=frozenset(overridden))


_Device = TypeVar("_Device", FreebsdOptions, LinuxHvVssOptions)


def _with_device(name: str, options: _Device, device: Path) -> _Device:
    if options.mode is SourceMode.OFF:
        raise UsageError(
            f"the device {device} would not be used: sources.{name}.mode is off",
            f"Set sources.{name}.mode to automatic or required in the configuration, or name no device.",
        )
    return replace(options, device=device.absolute())
