"""Everything that a cycle can want done, in the imperative. The broker carries each out and feeds back how it ended.

AskPrepare         ends as AppReady, AppVetoed, AppLeft, or the deadline
AskFreeze          ends as AppFroze, AppVetoed, AppLeft, or the deadline
AskThaw, AskAbort  end as AppThawed, AppLeft, or the deadline
PrepareFilesystems ends as FilesystemsPrepared, FilesystemsFailed, or the deadline
FreezeFilesystems  ends as FilesystemsFrozen, FilesystemsFailed, or the deadline; after it FilesystemsLost may come
ThawFilesystems    ends as FilesystemsThawed, or the deadline
WriteJournal       ends as JournalWritten, JournalFailed, or the deadline; at Stage.ENDING nobody waits for it
InspectPaths       ends as PathsInspected, or the deadline
the others         are only told, TellFilesystemFreeze among them
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from appvss.model.app import AppId
from appvss.model.cycle import CycleRecord
from appvss.model.event import Event
from appvss.model.filesystem import FilesystemChoice
from appvss.model.journal import JournalEntry
from appvss.model.request import Answer


@dataclass(frozen=True, slots=True)
class AskPrepare:
    """Send an app its prepare."""

    app: AppId
    cycle: str
    requester: str
    budget: timedelta


@dataclass(frozen=True, slots=True)
class AskFreeze:
    """Send an app its freeze, with both of its clocks."""

    app: AppId
    cycle: str
    requester: str
    budget: timedelta
    """The time to get quiet."""
    hold_limit: timedelta
    """The time that it may stay quiet, from its ack on."""


@dataclass(frozen=True, slots=True)
class TellFilesystemFreeze:
    """Tell an app that is held that the file systems are about to be frozen, or may be frozen already."""

    app: AppId
    cycle: str


@dataclass(frozen=True, slots=True)
class AskThaw:
    """Send an app its thaw: the hold is over, the snapshot taken."""

    app: AppId
    cycle: str


@dataclass(frozen=True, slots=True)
class AskAbort:
    """Send an app the end of a cycle that has no usable snapshot; it lets go of whatever it holds."""

    app: AppId
    cycle: str
    reason: str


@dataclass(frozen=True, slots=True)
class PrepareFilesystems:
    """Find, open and sync the file systems that are to be frozen. Nothing is frozen by it."""

    cycle: str
    choice: FilesystemChoice
    apps: tuple[AppId, ...]
    """The apps that are to be frozen, for those that hang on what they declare."""
    budget: timedelta


@dataclass(frozen=True, slots=True)
class FreezeFilesystems:
    """Freeze the file systems that were prepared, if any were."""

    cycle: str
    budget: timedelta
    hold_limit: timedelta
    """How long the hold may last after it: then somebody thaws them even if this broker cannot."""


@dataclass(frozen=True, slots=True)
class ThawFilesystems:
    """Thaw the file systems, all that may be frozen, and let go of what was prepared. Harmless if there is nothing."""

    cycle: str


@dataclass(frozen=True, slots=True)
class WriteJournal:
    """Have the running cycle on disk: the journal, and at `Stage.HELD` the certificate, too."""

    entry: JournalEntry
    limit: timedelta
    """How long the cycle waits for it."""


@dataclass(frozen=True, slots=True)
class WatchPaths:
    """An app has acked: remember how its paths look now."""

    app: AppId
    cycle: str


@dataclass(frozen=True, slots=True)
class InspectPaths:
    """The hold is over and no app has been thawed: see whether the watched paths look as they did at the acks."""

    cycle: str
    limit: timedelta
    """How long the thaw waits for it."""


@dataclass(frozen=True, slots=True)
class AnswerSource:
    """Give a request its one answer."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class RefuseInput:
    """Tell whoever caused an input that it was not accepted and changed nothing."""

    name: str
    """A stable word from docs/errors.md, such as `ack_twice`."""
    sentence: str
    app: AppId | None = None
    """The app to tell; None: nobody is on the other side."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell watchers and the record what happened."""

    event: Event


@dataclass(frozen=True, slots=True)
class EndCycle:
    """A cycle has ended; keep its record."""

    record: CycleRecord


Effect = (
    AskPrepare
    | AskFreeze
    | TellFilesystemFreeze
    | AskThaw
    | AskAbort
    | PrepareFilesystems
    | FreezeFilesystems
    | ThawFilesystems
    | WriteJournal
    | WatchPaths
    | InspectPaths
    | AnswerSource
    | RefuseInput
    | Announce
    | EndCycle
)
