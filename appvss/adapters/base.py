"""The contract of an adapter (facts/database-quiesce.md section 11).

    preflight -> warnings or a refusal, nothing held
    prepare   -> slow work, nothing held
    hold      -> evidence; from its return to the thaw the adapter is silent: no call to the database
    confirm   -> after the thaw: raises `HoldLost` unless the hold was in force all the time
    release   -> lets go, also after a failed `hold` half-way, and when the hold ends before its time
    undo      -> what `release` would have done, by somebody else, after the adapter has died; idempotent

`quiesce` puts them together in the order that the SDK wants. All methods but `undo` run on one event loop and must not
block it; what blocks (a driver without asyncio) runs in a thread of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from appvss.adapters.errors import AdapterError
from appvss.adapters.waiting import to_the_end
from appvss.sdk.freeze import Freeze, Prepare


class AutoRelease(StrEnum):
    """What frees the hold when the adapter is killed in it."""

    NOTHING_HELD = "nothing_held"
    """Nothing is held: the file-system freeze alone stops the writes."""
    SESSION = "session"
    """The server does, when the session ends: within some milliseconds."""
    PROCESS = "process"
    """The kernel does, when the process ends (a lock of fcntl)."""
    TIMER = "timer"
    """The server does, when the time is over that was asked for."""
    NOBODY = "nobody"
    """Nobody: an undo record is written first, and whoever finds it undoes the hold."""


class Severity(StrEnum):
    """What a finding of a pre-flight means."""

    PROBLEM = "problem"
    """A freeze would be refused."""
    WARNING = "warning"
    """A freeze would be worth less than one may think, or may fail."""
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a pre-flight has found."""

    severity: Severity
    name: str
    """A stable word with underscores, such as `missing_privilege`."""
    sentence: str
    """One lower-case sentence with the value that it is about. Never a secret."""
    hint: str = ""
    """One whole sentence that says what to do, such as the GRANT; empty with `ok`."""


class VolumeKind(StrEnum):
    """What of an application lies at a path."""

    DATA = "data"
    LOG = "log"
    TABLESPACE = "tablespace"


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder or file that must be in the snapshot."""

    kind: VolumeKind
    path: Path
    """Absolute, with every symbolic link resolved."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a look at the application has found. Nothing is held by it, and nothing was changed."""

    findings: tuple[Finding, ...] = ()
    version: str = ""
    """The engine and its version, as it says itself."""
    volumes: tuple[Volume, ...] = ()
    """Empty: it could not be found out, and a finding says why."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """The settings that were read because they decide what a copy is worth, such as `synchronous_commit`."""
    recipe: str = ""
    """Which recipe a freeze would take now, in a few words."""

    @property
    def is_refused(self) -> bool:
        """Whether a freeze would be refused."""
        return any(finding.severity is Severity.PROBLEM for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Properties:
    """What an adapter declares about its holds, before there is one."""

    auto_release: AutoRelease
    holds_writes: bool
    """Whether the application takes no write in the hold; else the file-system freeze alone stops them."""
    blocks_reads_while_frozen: bool
    """Whether readers wait, too, while the file systems are frozen."""
    max_safe_freeze: timedelta | None = None
    """How long the application stands a freeze without consequences of its own (an election); None: no such limit."""
    privileges: tuple[str, ...] = ()
    """What the adapter's account needs, in the application's own words."""
    settings_read: tuple[str, ...] = ()
    grade: str = "app"
    """What a copy is worth, at most, that is taken in its hold: `app`, or `fs` if it flushes nothing."""


HeldT = TypeVar("HeldT")


class Adapter(ABC, Generic[HeldT]):
    """One application that takes part in snapshots. `HeldT` is what a hold of it consists of.

    A subclass is made of its module's `Settings`; making one opens nothing and calls nobody.
    """

    engine: ClassVar[str]
    """Its word in `ENGINES`."""
    properties: ClassVar[Properties]
    app: str = ""
    """The app's name, as the agent sets it; empty: no agent runs it, and the engine's word stands for it."""
    undo_directory: Path | None = None
    """Where undo records go, as the agent sets it; None: where `undo.undo_directory` says."""
    undo_limit: timedelta = timedelta(seconds=15)
    """How long one `undo` may take. Whoever has it done by another process gives that this time and somewhat more."""

    @abstractmethod
    async def preflight(self) -> Preflight:
        """Look at the application: what would go wrong, which volumes it has. Holds nothing, changes nothing.

        Never raises for what is wrong with the application: an unreachable server or a wrong password is a finding.
        """

    async def prepare(self, prepare: Prepare) -> None:
        """Do the slow work that makes the freeze short. Holds nothing; by default there is none.

        Raises:
            AdapterError, Veto: it cannot be done.
        """

    @abstractmethod
    async def hold(self, freeze: Freeze) -> HeldT:
        """Make the application quiet. If this raises, or is cancelled, nothing is held when it ends.

        Raises:
            AdapterError, Veto: it refuses.
        """

    @abstractmethod
    def evidence(self, held: HeldT) -> Mapping[str, str]:
        """What the hold proves, for the certificate: at most 16 entries of 64 and 256 characters; what is
        longer is cut by `printable`, which shows it. Calls nobody.

        Every engine gives `engine`, `version`, `recipe`, `position`, `marker` (empty: none was left) and
        `data_directory`; what else its verifier needs is its own.
        """

    @abstractmethod
    async def confirm(self, held: HeldT) -> None:
        """After the thaw, before anything is released: show that the hold was in force all the time.

        Raises:
            HoldLost: it was not, or nobody can tell.
        """

    @abstractmethod
    async def release(self, held: HeldT, freeze: Freeze) -> None:
        """Let go. Bounded in time. While `freeze.filesystem_freeze` is set and the hold ends before its time, the file
        systems may still be frozen: then nobody is asked, and the session is closed.
        """

    async def undo(self, record: Mapping[str, str]) -> None:
        """End a hold that an adapter which died has left behind (`undo.py`). May be called again, and when nothing is
        held. Only adapters with `AutoRelease.NOBODY` have any.

        Raises:
            AdapterError: it cannot be undone now, or this adapter never leaves anything behind.
        """
        raise AdapterError(
            f"{self.engine} leaves nothing behind that could be undone",
            "Remove its record: no adapter wrote it.",
        )

    def is_of(self, record: Mapping[str, str]) -> bool:
        """Whether a record is about what this adapter is configured for. It undoes no other."""
        return True

    @asynccontextmanager
    async def quiesce(self, freeze: Freeze) -> AsyncIterator[Mapping[str, str]]:
        """The whole hold as the SDK wants it: entering is the freeze, leaving is the thaw."""
        held = await self.hold(freeze)
        try:
            yield self.evidence(held)
            await self.confirm(held)
        finally:
            await to_the_end(self.release(held, freeze))  # whoever cancels waits for it: a limit may end it twice
