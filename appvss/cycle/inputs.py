"""Everything that can happen to a cycle, in the past tense. Each carries what the cycle needs to know and nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from appvss.model.app import AppId, Registration
from appvss.model.filesystem import DeclaredPath, FilesystemPart
from appvss.model.journal import JournalEntry, Stage
from appvss.model.request import Request


@dataclass(frozen=True, slots=True)
class CheckRequested:
    """A source asks whether a freeze would work."""

    request: Request
    cycle: str
    """The id that the cycle gets if this request begins one."""


@dataclass(frozen=True, slots=True)
class FreezeRequested:
    """A source asks for the freeze."""

    request: Request
    cycle: str
    """The id that the cycle gets if this request begins one."""


@dataclass(frozen=True, slots=True)
class ThawRequested:
    """A source says that the snapshot is taken or given up."""

    request: Request


@dataclass(frozen=True, slots=True)
class SourceLost:
    """A source's requester is gone; it will never ask for the thaw."""

    source: str
    reason: str
    request: str = ""
    """The id of the freeze whose requester it is; empty: it is about everything that the source has asked."""


@dataclass(frozen=True, slots=True)
class ThawForced:
    """An administrator, or the broker's own end, wants everything let go now."""

    reason: str


@dataclass(frozen=True, slots=True)
class AppRegistered:
    """An app has registered, or has come back."""

    registration: Registration
    """As in force: after the administrator's word."""


@dataclass(frozen=True, slots=True)
class RegistrationChanged:
    """The administrator's word over a registered app is another one now."""

    registration: Registration
    """As in force from now on; without a claim."""


@dataclass(frozen=True, slots=True)
class AppLeft:
    """An app's stream has ended."""

    app: AppId
    reason: str
    died: bool = False
    """Whether the kernel says that its process is gone, so that it cannot come back with its hold."""


@dataclass(frozen=True, slots=True)
class AppReady:
    """An app has prepared."""

    app: AppId
    cycle: str


@dataclass(frozen=True, slots=True)
class AppFroze:
    """An app's ack."""

    app: AppId
    cycle: str
    evidence: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppVetoed:
    """An app refuses to prepare or to freeze. It holds nothing."""

    app: AppId
    cycle: str
    reason: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class AppLostHold:
    """An app says, before its thaw, that its hold has ended."""

    app: AppId
    cycle: str
    reason: str


@dataclass(frozen=True, slots=True)
class AppThawed:
    """An app's answer to a thaw or an abort: it holds nothing any more."""

    app: AppId
    cycle: str
    unbroken: bool
    """Its own word on whether it held from its ack until the thaw came."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FilesystemsPrepared:
    """The freezer has open what it will freeze, and has synced it."""

    cycle: str
    parts: tuple[FilesystemPart, ...] = ()
    """What is left out of the freeze."""
    doubts: tuple[str, ...] = ()
    """One sentence for each that is left out and lowers the verdict by the administrator's word."""
    paths: Mapping[AppId, tuple[DeclaredPath, ...]] | None = None
    """Where the paths of each app lie that was registered when it began; None: this freezer does not tell."""


@dataclass(frozen=True, slots=True)
class FilesystemsFrozen:
    """The freezer has done its part."""

    cycle: str
    frozen: bool
    """Whether this broker froze any. False where the kernel does it after the answer, or nobody does."""
    parts: tuple[FilesystemPart, ...] = ()
    """What became of those that were prepared."""
    doubts: tuple[str, ...] = ()
    """One sentence for each that turned out to have no freeze and lowers the verdict by the administrator's word."""


@dataclass(frozen=True, slots=True)
class FilesystemsFailed:
    """The freezer could not prepare or freeze; what it had frozen is thawed again."""

    cycle: str
    reason: str
    parts: tuple[FilesystemPart, ...] = ()
    """What became of each that is known."""


@dataclass(frozen=True, slots=True)
class FilesystemsLost:
    """File systems that this broker froze may have gone on, although nobody asked for the thaw."""

    cycle: str
    reason: str


@dataclass(frozen=True, slots=True)
class FilesystemsThawed:
    """The freezer has thawed all that it had frozen."""

    cycle: str
    unbroken: bool
    """Whether all were frozen until it was asked to thaw."""
    reason: str = ""
    lost: tuple[str, ...] = ()
    """The paths of those that were not."""


@dataclass(frozen=True, slots=True)
class JournalWritten:
    """The journal is on disk, and at `Stage.HELD` so is the certificate."""

    cycle: str
    stage: Stage


@dataclass(frozen=True, slots=True)
class JournalFailed:
    """Journal or certificate cannot be written."""

    cycle: str
    stage: Stage
    reason: str


@dataclass(frozen=True, slots=True)
class CycleAdopted:
    """This broker has just started and found the open cycle of a former one, of the same boot of the machine."""

    entry: JournalEntry


@dataclass(frozen=True, slots=True)
class PathsInspected:
    """The watched paths were compared with how they looked at the acks."""

    cycle: str
    changed: Mapping[AppId, str]
    """For each app whose paths have changed, or of which nobody can tell, one sentence."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The instant that `Machine.next_deadline` named is here."""


AppInput = AppReady | AppFroze | AppVetoed | AppLostHold | AppThawed
"""What an app can say about a cycle."""

Input = (
    CheckRequested
    | FreezeRequested
    | ThawRequested
    | SourceLost
    | ThawForced
    | AppRegistered
    | RegistrationChanged
    | AppLeft
    | AppReady
    | AppFroze
    | AppVetoed
    | AppLostHold
    | AppThawed
    | FilesystemsPrepared
    | FilesystemsFrozen
    | FilesystemsFailed
    | FilesystemsLost
    | FilesystemsThawed
    | JournalWritten
    | JournalFailed
    | CycleAdopted
    | PathsInspected
    | DeadlinePassed
)
