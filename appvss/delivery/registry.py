"""The registry of apps: one stream each, who they are, what they declared, and how they are sent something.

What is kept of an app beyond its stream is bounded: how often it has registered, and its last error.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from appvss.delivery.allowance import Allowance
from appvss.delivery.identity import Identity
from appvss.model.app import AppId, Peer, Registration
from appvss.model.instant import Instant

_log = logging.getLogger("appvss.delivery")

OUTBOX_LIMIT: Final = 64
"""Messages that may wait for one app. More means that it does not read: its stream is cut, and it may come back."""
MESSAGES_AT_ONCE: Final = 200
"""Messages that an app may send unasked without a pause."""
MESSAGE_EVERY: Final = timedelta(milliseconds=20)
"""The time after which it may send one more. What the broker asks for comes on top (`AppStream.may_answer`)."""
ANSWERS: Final = 2
"""Messages that a question allows: its answer, and the news that the hold has ended by itself."""
REGISTRATIONS_AT_ONCE: Final = 60
"""Registrations of one app of one user without a pause, and then one in each second. An app that uses the SDK pauses up
to 3 s after a refusal, and registers once after a restart of the broker or of its own."""
REGISTRATION_EVERY: Final = timedelta(seconds=1)
REGISTRATIONS_PER_SLOT: Final = 4
"""Registrations of all apps of one user within a minute, for each app that the user may register: after a restart of
the broker all come back at once, and a restart of all of them may follow."""
KNOWN_LIMIT: Final = 10_000
"""Apps of which more is kept than their stream, those that registered last."""

Write = Callable[[bytes], Awaitable[None]]


class AppStream:
    """One app's open stream.

    Sending never waits: messages go into a small queue, and a task that lives only while there is something to send
    writes them. A finished write is no delivery (facts/libraries.md section 3): only an ack is.
    """

    __slots__ = (
        "_outbox",
        "_reader",
        "_write",
        "_writer",
        "_writer_name",
        "allowance",
        "cut",
        "declared",
        "identity",
        "incarnation",
        "last_error",
        "last_error_at",
        "library",
        "paths",
        "refusals",
        "registration",
        "since",
    )

    def __init__(
        self,
        registration: Registration,
        incarnation: str,
        write: Write,
        reader: asyncio.Task[object],
        since: Instant,
        identity: Identity | None,
        *,
        declared: Registration | None = None,
        library: str = "",
        paths: tuple[str, ...] = (),
    ) -> None:
        self.registration = registration
        """As in force."""
        self.declared = declared if declared is not None else registration
        """As the app said."""
        self.incarnation = incarnation
        self.identity = identity
        self.library = library
        self.paths = paths
        self.since = since
        self.cut: Cut | None = None
        """Why this side has ended the stream; None: it has not."""
        self.last_error = ""
        """The last thing that went wrong with it, also on an earlier stream; empty: nothing."""
        self.last_error_at: Instant | None = None
        self.allowance = Allowance(MESSAGES_AT_ONCE, MESSAGE_EVERY, since)
        """How many messages it may still send."""
        self.refusals = 0
        """How many of its messages were refused."""
        self._reader: asyncio.Task[object] | None = reader
        self._write = write
        self._outbox: deque[bytes] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._writer_name = f"write {registration.app}"

    @property
    def peer(self) -> Peer | None:
        """Who it is, by the kernel's word; None: unidentified."""
        return self.identity.peer if self.identity is not None else None

    def note_error(self, sentence: str, at: Instant) -> None:
        """Something is wrong with this app."""
        self.last_error, self.last_error_at = sentence, at

    def may_answer(self) -> None:
        """It is asked something, and may say more than unasked: no cycle comes so fast that its answers are refused."""
        self.allowance.grant(ANSWERS)

    def send(self, message: bytes) -> None:
        """Queue an encoded `AttachResponse`. Nothing more is sent on a stream that was cut."""
        if self.cut is not None:
            return
        if len(self._outbox) >= OUTBOX_LIMIT:
            self.end("it does not read what it is sent")
            return
        self._outbox.append(message)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._drain(), name=self._writer_name)

    async def _drain(self) -> None:
        try:
            while self._outbox:
                await self._write(self._outbox.popleft())
        except Exception as error:  # noqa: BLE001 - grpc raises many kinds for a broken stream; the reader ends it
            _log.debug("nothing more can be written to %s: %s", self.registration.app, error)
            self._outbox.clear()
        finally:
            self._writer = None

    async def flushed(self) -> None:
        """Wait until everything queued has been written or the stream is broken. The caller sets the bound."""
        if self._writer is not None:
            await asyncio.wait({self._writer})

    def end(self, reason: str, code: str = "ABORTED") -> None:
        """Cut the stream from this side. The app may attach again.

        Args:
            reason: why, for the app and the log.
            code: the name of the gRPC status code that the app gets.
        """
        if self.cut is None:
            self.cut = Cut(code, reason)
            if self._reader is not None:
                self._reader.cancel()

    def stop_reading(self) -> None:
        """The reader has ended: from now on a cut cancels nobody."""
        self._reader = None

    async def closed(self) -> None:
        """Let go of the identity and of the writer, once the reader has ended."""
        if self.identity is not None:
            self.identity.close()
        writer = self._writer
        if writer is not None:
            writer.cancel()
            await asyncio.wait({writer})


@dataclass(frozen=True, slots=True)
class Cut:
    """Why this side has ended a stream."""

    code: str
    """The name of the gRPC status code."""
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an app may not register, as a refusal of `AppService.Attach`."""

    code: str
    """The name of the gRPC status code."""
    sentence: str
    hint: str


@dataclass(slots=True)
class _Known:
    """What is kept of an app beyond its stream."""

    registrations: int = 0
    last_error: str = ""
    last_error_at: Instant | None = None


class Registry:
    """The apps that are registered now.

    Args:
        limit: how many there may be.
        limit_per_uid: how many of one user; unidentified apps count as one user.
    """

    def __init__(self, limit: int, limit_per_uid: int) -> None:
        self.limit = limit
        self.limit_per_uid = limit_per_uid
        self._streams: dict[AppId, AppStream] = {}
        self._identities: dict[Identity, AppStream] = {}
        self._uids: Counter[int | None] = Counter()
        self._known: OrderedDict[AppId, _Known] = OrderedDict()
        self._allowances: OrderedDict[tuple[AppId | None, int | None], Allowance] = OrderedDict()
        """How often an app of a user may register, and, without an app, how often all apps of that user may."""

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[AppStream]:
        return iter(list(self._streams.values()))

    def get(self, app: AppId) -> AppStream | None:
        """An app's stream, if it is registered."""
        return self._streams.get(app)

    def of_identity(self, identity: Identity) -> AppStream | None:
        """The stream that came with this identity."""
        return self._identities.get(identity)

    def registrations(self, app: AppId) -> int:
        """How often an app has registered; 0 also when it is not known any more."""
        known = self._known.get(app)
        return known.registrations if known is not None else 0

    def refusal(self, app: AppId, incarnation: str, peer: Peer | None, now: Instant) -> Refused | None:
        """Why this app may not register now; None when it may, in the place of its own older stream if there is one."""
        older = self._streams.get(app)
        refusal = self._full(peer) if older is None else self._conflict(older, incarnation, peer)
        return refusal or self._too_often(app, peer, now)

    def _full(self, peer: Peer | None) -> Refused | None:
        if len(self._streams) >= self.limit:
            return Refused(
                "RESOURCE_EXHAUSTED",
                f"{self.limit} apps are registered, which is the limit",
                "Raise `apps.limit` in the broker's configuration.",
            )
        uid = peer.uid if peer is not None else None
        if self._uids[uid] >= self.limit_per_uid:
            who = "unidentified apps" if uid is None else f"apps of user {uid}"
            return Refused(
                "RESOURCE_EXHAUSTED",
                f"{self.limit_per_uid} {who} are registered, which is the limit",
                "Raise `apps.limit_per_uid` in the broker's configuration.",
            )
        return None

    def _too_often(self, app: AppId, peer: Peer | None, now: Instant) -> Refused | None:
        uid = peer.uid if peer is not None else None
        if not self._allowance(app, uid, now).has_any(now):
            what = f"{app} registers again and again, {self.registrations(app)} times so far"
        elif not self._allowance(None, uid, now).has_any(now):
            what = ("unidentified apps" if uid is None else f"apps of user {uid}") + " register again and again"
        else:
            return None
        hint = "Wait before each further try, twice as long each time, up to some seconds; see why the streams end."
        return Refused("RESOURCE_EXHAUSTED", what, hint)

    def _allowance(self, app: AppId | None, uid: int | None, now: Instant) -> Allowance:
        most, every = REGISTRATIONS_AT_ONCE, REGISTRATION_EVERY
        if app is None:
            most = REGISTRATIONS_PER_SLOT * self.limit_per_uid
            every = timedelta(minutes=1) / most
        allowance = self._allowances.get((app, uid))
        if allowance is None or allowance.most != most:
            allowance = self._allowances[app, uid] = Allowance(most, every, now)
        self._allowances.move_to_end((app, uid))
        if len(self._allowances) > KNOWN_LIMIT:
            self._allowances.popitem(last=False)
        return allowance

    @staticmethod
    def _conflict(older: AppStream, incarnation: str, peer: Peer | None) -> Refused | None:
        same_user = (older.peer.uid if older.peer else None) == (peer.uid if peer else None)
        has_died = older.identity is not None and older.identity.has_died()
        if same_user and (older.incarnation == incarnation or has_died):
            return None
        who = f"process {older.peer.pid} of user {older.peer.uid}" if older.peer else "an unidentified process"
        return Refused(
            "ALREADY_EXISTS",
            f"{older.registration.app} is registered already, by {who}",
            "Give each process of one name its own instance, or end the other process.",
        )

    def add(self, stream: AppStream) -> AppStream | None:
        """Register; returns the older stream whose place it takes, if there is one."""
        app = stream.registration.app
        older = self._streams.get(app)
        if older is not None:
            self.remove(older)
        self._streams[app] = stream
        if stream.identity is not None:
            self._identities[stream.identity] = stream
        uid = stream.peer.uid if stream.peer else None
        self._uids[uid] += 1
        self._note(stream, uid)
        return older

    def _note(self, stream: AppStream, uid: int | None) -> None:
        """It has registered once more, and may so less often for a while."""
        app = stream.registration.app
        for whose in (app, None):
            self._allowance(whose, uid, stream.since).take(stream.since)
        known = self._known.setdefault(app, _Known())
        self._known.move_to_end(app)
        if len(self._known) > KNOWN_LIMIT:
            self._known.popitem(last=False)
        known.registrations += 1
        if known.last_error_at is not None:
            stream.note_error(known.last_error, known.last_error_at)

    def remove(self, stream: AppStream) -> bool:
        """Unregister; False when this stream was not, or is no longer, the app's stream."""
        app = stream.registration.app
        if self._streams.get(app) is not stream:
            return False
        del self._streams[app]
        if stream.identity is not None:
            del self._identities[stream.identity]
        known = self._known.get(app)
        if known is not None:
            known.last_error, known.last_error_at = stream.last_error, stream.last_error_at
        uid = stream.peer.uid if stream.peer else None
        self._uids[uid] -= 1
        if not self._uids[uid]:
            del self._uids[uid]
        return True
