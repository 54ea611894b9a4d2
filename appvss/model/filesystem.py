"""File systems as a cycle knows them: which are wanted, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from appvss.model.instant import Instant


class Scope(StrEnum):
    """Which file systems a requester wants frozen with the apps."""

    NONE = "none"
    """None: somebody else freezes them (FreeBSD's kernel, QEMU's guest agent), or nobody does."""
    DECLARED = "declared"
    """Those on which the registered apps have the paths that they declare."""
    NAMED = "named"
    """Those that the requester names by a path."""
    ALL = "all"
    """All that the machine's own disks carry."""


@dataclass(frozen=True, slots=True)
class FilesystemChoice:
    """What a requester wants frozen."""

    scope: Scope = Scope.NONE
    paths: tuple[str, ...] = ()
    """Absolute mount points, with `Scope.NAMED` alone. Each must be one."""
    spares_root: bool = False
    """Whether the file system that carries `/` is left out, unless it is named: a person waits at a terminal that would
    hang with it. It is then `excluded`, and named in the verdict's file systems."""


NO_FILESYSTEMS: Final = FilesystemChoice()
"""What a requester wants who wants none."""


class Unfreezable(StrEnum):
    """What it means, by the administrator's word, that a file system which should be frozen cannot be."""

    VETO = "veto"
    """The freeze fails before anything is frozen."""
    LOWER = "lower"
    """The others are frozen, and the verdict falls."""
    REPORT = "report"
    """The others are frozen; it is named, and the verdict stands."""


class FilesystemOutcome(StrEnum):
    """What became of one file system in a cycle."""

    HELD = "held"
    """Frozen by this broker until the thaw was asked for."""
    HOLD_LOST = "hold_lost"
    """It was frozen and went on before the thaw, or nobody can prove that it did not."""
    UNFREEZABLE = "unfreezable"
    """Its kind has no freeze (EOPNOTSUPP), or it cannot be reached. The administrator says what that means."""
    EXCLUDED = "excluded"
    """The configuration leaves it out."""
    BUSY = "busy"
    """Somebody else has frozen it already (EBUSY), and may thaw it at any moment."""
    FAILED = "failed"
    """The kernel refused, or did not answer in time."""
    SKIPPED = "skipped"
    """It was not frozen, because another one had failed before, or because there is nothing to freeze: it is
    read-only, or lies on no disk of this machine."""


@dataclass(frozen=True, slots=True)
class FilesystemPart:
    """One file system's part in a cycle."""

    path: str
    """The mount point through which it is known: printable, as text."""
    device: str
    """`major:minor` of its super block, as in proc_pid_mountinfo(5)."""
    type: str
    """Such as `ext4`."""
    outcome: FilesystemOutcome
    reason: str = ""
    """Why, when the outcome is not `held`: one lower-case sentence."""
    time_to_freeze: timedelta | None = None
    """How long FIFREEZE took, by the freezer's clock; None: it was not frozen."""


@dataclass(frozen=True, slots=True)
class DeclaredPath:
    """Where a path lies that an app declares, as the freezer has found it before the freeze."""

    path: str
    """As the app wrote it, printable; or a mount point below that."""
    device: str = ""
    """`major:minor` of the super block that what is written there goes to; empty: nobody can tell."""
    is_planned: bool = False
    """Whether that file system is to be frozen."""
    is_meant: bool = False
    """Whether the requester means that file system, or one that carries its image."""
    reason: str = ""
    """Why it is not to be frozen, or what else is to be known of the path: one lower-case sentence; empty: nothing."""
    lowers: bool = False
    """Whether the app's copy is worth less by it: it is on a disk, and is not to be frozen."""
    is_spared: bool = False
    """Whether it is not to be frozen only because the requester spares `/` (`FilesystemChoice.spares_root`)."""
    is_there: bool = True
    """Whether something lies there, as the broker sees it; yes, where nobody could look."""


class FreezerMode(StrEnum):
    """Who freezes the file systems of this machine."""

    NONE = "none"
    """Nobody here: somebody else does (FreeBSD's kernel), or nobody."""
    LINUX = "linux"
    """This broker, with a guardian that thaws when the broker cannot."""


class FreezerCondition(StrEnum):
    """How a freezer does."""

    OFF = "off"
    """It freezes nothing."""
    READY = "ready"
    """Nothing is frozen."""
    HOLDING = "holding"
    """File systems are frozen, or about to be."""
    HANGING = "hanging"
    """A call of the kernel does not come back; no cycle with file systems can begin before it does."""
    LOST = "lost"
    """The guardian is not there. The next cycle starts another one."""


@dataclass(frozen=True, slots=True)
class FreezerState:
    """A freezer, as `appvss status` shows it."""

    mode: FreezerMode = FreezerMode.NONE
    condition: FreezerCondition = FreezerCondition.OFF
    guardian_pid: int | None = None
    frozen: tuple[tuple[str, Instant], ...] = ()
    """What is frozen now, by its mount point, first frozen first, and since when all are."""
    hanging: tuple[str, ...] = ()
    """Mount points whose freeze or thaw hangs in the kernel."""
    detail: str = ""
    """One sentence: what is wrong and what to do; empty: nothing."""


@dataclass(frozen=True, slots=True)
class PlannedFilesystem:
    """One file system that a freeze would freeze. All its texts are printable."""

    path: str
    """The mount point through which it would be opened."""
    device: str
    """`major:minor` of its super block."""
    type: str
    """Such as `ext4`."""
    source: str
    """What is mounted, such as `/dev/sda1`."""
    wave: int
    """Its place in the order, from 1 on; those of one number are frozen at the same time."""
    others: tuple[str, ...] = ()
    """Where it is mounted, too."""
    lies_on: tuple[str, ...] = ()
    """Devices of those that carry its image: it is frozen before them, and thawed after them."""


@dataclass(frozen=True, slots=True)
class LeftFilesystem:
    """One file system that a freeze would leave out. All its texts are printable."""

    path: str
    device: str
    type: str
    outcome: FilesystemOutcome
    """`unfreezable`, `excluded` or `skipped`."""
    reason: str
    """Why: one lower-case sentence."""
    lowers: bool = False
    """Whether the verdict would be lower on its account."""


@dataclass(frozen=True, slots=True)
class FilesystemWarning:
    """What may surprise, or block, while file systems are frozen. All its texts are printable."""

    kind: str
    """A stable word, for programs."""
    path: str
    """The mount point that it is about; empty: about none alone."""
    sentence: str
    """What would happen: one lower-case sentence."""
    dead_locks: bool = False
    """Whether somebody may hang who writes to none of the frozen file systems himself."""


@dataclass(frozen=True, slots=True)
class FilesystemApp:
    """One app whose paths do not all lie in a freeze."""

    app: str
    """Its name, with its instance in brackets if it has one."""
    is_apart: bool = False
    """Whether it would not be asked, since it has nothing on the file systems that are named."""
    paths: tuple[str, ...] = ()
    """One sentence for each path of which there is something to be known."""
    lowers: bool = False
    """Whether its copy would be worth less by them."""


@dataclass(frozen=True, slots=True)
class FilesystemSurvey:
    """What a freeze would do to the file systems of this machine."""

    scope: Scope
    planned: tuple[PlannedFilesystem, ...] = ()
    """In the order of the freeze."""
    left: tuple[LeftFilesystem, ...] = ()
    warnings: tuple[FilesystemWarning, ...] = ()
    veto: str = ""
    """Why such a freeze would be refused, one lower-case sentence; empty: it would not."""
    apps: tuple[FilesystemApp, ...] = ()
    """The apps with paths of which there is something to be known."""
