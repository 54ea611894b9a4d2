"""What an administrator can set for the agent itself, and for every app whatever its adapter.

The two dataclasses, and the `Settings` of each adapter, are the one schema: loader, messages, sample and
docs/reference/agent.md come from them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from appvss.adapters.settings import setting
from appvss.model.app import DEFAULT_HOLD_LIMIT, DEFAULT_ORDER, Requirement

_IS_FREEBSD: Final = sys.platform.startswith("freebsd")
DEFAULT_FILE: Final = Path("/usr/local/etc/appvss/agent.toml" if _IS_FREEBSD else "/etc/appvss/agent.toml")
"""The file that is read when none is named."""


class LogLevel(StrEnum):
    """From which weight on a record is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a record is written."""

    TEXT = "text"
    JSON = "json"


class AdapterWord(StrEnum):
    """The adapters, in the words of `appvss.adapters.ENGINES`; a test keeps the two equal."""

    POSTGRESQL = "postgresql"
    MARIADB = "mariadb"
    MYSQL = "mysql"
    REDIS = "redis"
    SQLITE = "sqlite"
    MONGODB = "mongodb"
    OPENLDAP = "openldap"
    EXEC = "exec"
    CGROUP = "cgroup"


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The agent itself."""

    runtime_directory: Path | None = setting(
        None,
        "Where the broker's sockets are. Not given: what `--runtime-directory` or `APPVSS_RUNTIME_DIRECTORY` says, "
        "else the platform's place.",
        example=Path("/run/appvss"),
    )
    undo_directory: Path = setting(
        Path("/var/run/appvss-agent/undo" if _IS_FREEBSD else "/run/appvss-agent/undo"),
        "Where is written what undoes a hold that does not end by itself. It must lie on a tmpfs: a disk may be frozen "
        "when it is needed.",
    )
    log_format: LogFormat = setting(
        LogFormat.TEXT, "How the log is written to standard error: lines for people, or one JSON object a line."
    )
    log_level: LogLevel = setting(LogLevel.INFO, "From which weight on a record is logged.")
    stop_timeout: timedelta = setting(
        timedelta(seconds=10),
        "How long the apps may take to let go and leave when the agent stops; then they are killed.",
    )
    hang_timeout: timedelta = setting(
        timedelta(seconds=30),
        "How long an app that holds nothing, or lets go, may give no sign of life before it is killed and started "
        "again. In a hold the hold limit counts.",
    )
    check_timeout: timedelta = setting(timedelta(seconds=30), "How long a look at one application may take.")


@dataclass(frozen=True, slots=True)
class AppOptions:
    """What every app has, whatever its adapter."""

    adapter: AdapterWord = setting(
        AdapterWord.EXEC, "The adapter: which program it is.", example=AdapterWord.POSTGRESQL, is_needed=True
    )
    name: str = setting("", "The app's name, as the broker knows it. Not given: the NAME of its section.")
    instance: str = setting("", "Tells two apps of one name apart.")
    order: int = setting(DEFAULT_ORDER, "Lower freezes first; all of one order freeze together, thaw is the reverse.")
    after: tuple[str, ...] = setting((), "Names of apps that must be frozen before this one.")
    requirement: Requirement = setting(
        Requirement.REQUIRED,
        "What a failure of this app does to the verdict. The broker's configuration has the last word.",
    )
    freeze_timeout: timedelta | None = setting(
        None,
        "The time that the app needs to get quiet. A cycle that cannot give it fails early. Not given: it takes what "
        "there is.",
        example=timedelta(seconds=5),
    )
    hold_limit: timedelta = setting(DEFAULT_HOLD_LIMIT, "How long the app may stay quiet.")
    runs_as: str = setting(
        "",
        "The user whose rights the app has, with that user's groups. Not given: the agent's own. It must be able to "
        "read the app's secrets, and to enter the broker's runtime directory.",
    )
