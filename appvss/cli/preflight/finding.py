"""One thing that was looked at, and what should be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path


class Grade(StrEnum):
    """How good it is."""

    OK = "ok"
    WARNING = "warning"
    """A freeze works all the same; something is not as it should be."""
    PROBLEM = "problem"
    """A freeze would fail, or nobody could prove it afterwards."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found."""

    check: str
    """A stable word, for programs."""
    grade: Grade
    sentence: str
    """One lower-case sentence with the value that was found, no full stop."""
    hint: str = ""
    """One whole sentence that says what to do; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the configuration says, as far as the checks look at it."""

    runtime_directory: Path
    state_directory: Path
    socket_group: str
    app_limit: int
    device: Path
    device_mode: str
    """`required`, `automatic`, `off`."""
    hold_limit: timedelta
    """The longest hold of any source."""
    origin: str
    """The file; empty: built-in values."""
    linux_device: Path = Path("/dev/vmbus/hv_vss")
    linux_device_mode: str = "off"
    freezes_filesystems: bool = False
    """Whether this broker would freeze file systems: on Linux, unless it is switched off."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """The broker that runs."""

    pid: int
    uid: int | None
    """Its user; None: the kernel does not say."""
    device: str = ""
    """The FreeBSD device that it has open and serves; empty: it has none. It need not be the configured one: the
    command line goes before the configuration."""
    linux_device: str = ""
    """The same for Linux's Hyper-V device."""


def ok(check: str, sentence: str) -> Finding:
    """All is well."""
    return Finding(check, Grade.OK, sentence)


def warning(check: str, sentence: str, hint: str) -> Finding:
    """It works all the same."""
    return Finding(check, Grade.WARNING, sentence, hint)


def problem(check: str, sentence: str, hint: str) -> Finding:
    """A freeze would fail, or nobody could prove it."""
    return Finding(check, Grade.PROBLEM, sentence, hint)
