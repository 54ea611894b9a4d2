"""The fake broker itself: registrations, questions, refusals. Its two fronts do the waiting."""

from __future__ import annotations

import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss import contract
from appvss.model.app import AppId, HoldClaim, Peer, Registration
from appvss.model.errors import UsageError
from appvss.sdk.clock import now
from appvss.sdk.quiet import grpc
from appvss.sdk.testing.ledger import Kind, Ledger, Question, Result
from appvss.sdk.testing.streams import AppService, CallRefused, Stream
from appvss.sdk.testing.tokens import Issued, TokenDesk
from appvss.sdk.testing.watch import Watch
from appvss.v1 import app_pb2, app_pb2_grpc

NAME: Final = "appvss-fake-broker"
STREAMS_LIMIT: Final = 64
"""How many apps may be attached at the same time."""
STOP_LIMIT: Final = timedelta(seconds=5)
FAREWELL_LIMIT: Final = timedelta(seconds=1)
"""How long a goodbye may take to reach the apps."""
_INCARNATION_LENGTHS: Final = range(16, 65)


@dataclass(slots=True)
class AppRecord:
    """One app, over all its streams."""

    registration: Registration
    incarnation: str
    ledger: Ledger = field(default_factory=Ledger)
    paths: tuple[str, ...] = ()
    library: str = ""
    stream: Stream | None = None
    side: Issued | None = None
    """The token that the app came with, and its connection."""
    attachments: int = 0
    """How often it has been welcomed."""
    last_cycle: str = ""
    """The cycle of the last question."""
    heard: int = 0
    """How many messages it has sent, its hellos not counted."""

    @property
    def peer(self) -> Peer | None:
        """Who the kernel says the app is; None without a token."""
        return self.side.peer if self.side is not None else None

    @property
    def claim(self) -> HoldClaim | None:
        """What the app's last hello said that it still held."""
        return self.registration.claim


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A call that was ended with a code of the table at `Attach` in app.proto."""

    code: str
    """The code's name, such as `INVALID_ARGUMENT`."""
    sentence: str
    app: str
    """The name that it gave; empty: none that can be read."""


class Core:
    """A broker for one test: everything that app.proto says, and no cycle of its own.

    Args:
        runtime_directory: where the sockets are made; None: in a temporary directory that goes with the broker.
        unidentified: whether an app without a token is admitted.
    """

    def __init__(self, runtime_directory: Path | None, *, unidentified: bool) -> None:
        self.watch = Watch()
        self.records: dict[AppId, AppRecord] = {}
        self.refusing: CallRefused | None = None
        self._unidentified = unidentified
        self._kept = ExitStack()
        self._given = runtime_directory
        self._directory: Path | None = None
        self._running = ExitStack()
        self._desk: TokenDesk | None = None
        self._server: grpc.Server | None = None
        self._cycles = 0
        self._turned_away: list[TurnedAway] = []

    @property
    def directory(self) -> Path:
        """Where the sockets are."""
        if self._directory is None:
            raise UsageError("the fake broker has not been started", "Use it as a context manager.")
        return self._directory

    # Start and stop.

    def start(self) -> None:
        """Make the sockets and serve. The directory is the same each time."""
        if self._directory is None:
            made = self._given or Path(self._kept.enter_context(tempfile.TemporaryDirectory(prefix="appvss-")))
            self._directory = made
        if self._server is not None:
            raise UsageError("the fake broker runs already", "Call `stop` before another `start`.")
        apps_socket = contract.socket_path(self._directory, contract.APPS_SOCKET)
        peer_socket = contract.socket_path(self._directory, contract.PEER_SOCKET)
        with ExitStack() as starting:
            Path(peer_socket).unlink(missing_ok=True)
            desk = TokenDesk(peer_socket, self.watch.lock, self._side_closed)
            starting.callback(Path(peer_socket).unlink, missing_ok=True)
            starting.callback(desk.close)
            pool = starting.enter_context(ThreadPoolExecutor(STREAMS_LIMIT, "fake broker stream"))
            server = grpc.server(pool, options=contract.SERVER_OPTIONS, maximum_concurrent_rpcs=STREAMS_LIMIT)
            app_pb2_grpc.add_AppServiceServicer_to_server(AppService(self), server)
            server.add_insecure_port(f"unix:{apps_socket}")
            server.start()
            self._desk, self._server = desk, server
            self._running = starting.pop_all()

    def stop(self, goodbye: str | None) -> None:
        """End every stream, and serve no more. `goodbye`: the reason to give first; None: cut them as they are."""
        if goodbye is not None:
            with self.watch.lock:
                for record in self.records.values():
                    if record.stream is not None:
                        record.stream.send(app_pb2.AttachResponse(goodbye=app_pb2.Goodbye(reason=goodbye)))
                        record.stream.end(CallRefused(grpc.StatusCode.UNAVAILABLE, goodbye))
        if self._server is not None:
            grace = FAREWELL_LIMIT.total_seconds() if goodbye is not None else None
            self._server.stop(grace).wait(STOP_LIMIT.total_seconds())
            self._server = None
        self._running.close()
        with self.watch.lock:
            for record in self.records.values():
                if record.stream is not None:
                    self.left(record.stream)

    def close(self) -> None:
        """Stop, and remove what was made."""
        self.stop(None)
        self._kept.close()

    # What streams tell (streams.Reception).

    def greet(self, stream: Stream, first: app_pb2.AttachRequest) -> None:
        """Register the app and welcome it, or refuse the call."""
        try:
            self._admit(stream, first)
        except CallRefused as error:
            self._note_turned_away(error, first.hello.name)
            raise

    def _admit(self, stream: Stream, first: app_pb2.AttachRequest) -> None:
        with self.watch.lock:
            side = self._identify(stream)
            if self.refusing is not None:
                raise self.refusing
            registration = self._declared(first)
            record = self._register(registration, first.hello)
            record.paths = contract.paths_of(first.hello)
            record.library = first.hello.library
            record.stream, record.side = stream, side
            record.attachments += 1
            record.ledger.claim(registration.claim)
            welcome = app_pb2.Welcome(
                protocol_version=max(set(first.hello.protocol_versions) & set(contract.PROTOCOL_VERSIONS)),
                broker=NAME,
                requirement=contract.requirement_message(registration.requirement),
                order=registration.order,
            )
            stream.send(app_pb2.AttachResponse(welcome=welcome))
            self.watch.changed()

    def hear(self, stream: Stream, message: app_pb2.AttachRequest) -> None:
        """Note what the app says, or refuse it."""
        with self.watch.lock:
            record = self._of(stream)
            if record is None:
                return
            record.heard += 1
            try:
                refusal = record.ledger.hear(message, now())
            except UsageError as error:
                refused = CallRefused(grpc.StatusCode.INVALID_ARGUMENT, error.sentence)
                self._note_turned_away(refused, record.registration.app.name)
                raise refused from error
            if refusal is not None:
                said = app_pb2.Refusal(name=refusal.name, sentence=refusal.sentence)
                stream.send(app_pb2.AttachResponse(refusal=said))
            self.watch.changed()

    def left(self, stream: Stream) -> None:
        """The stream is gone, and so are the answers that were awaited on it."""
        with self.watch.lock:
            record = self._of(stream)
            if record is not None:
                record.stream = None
                record.ledger.break_off()
                self.watch.changed()

    def _note_turned_away(self, refused: CallRefused, app: str) -> None:
        with self.watch.lock:
            self._turned_away.append(TurnedAway(refused.code.name, refused.details, app))
            self.watch.changed()

    def _of(self, stream: Stream) -> AppRecord | None:
        return next((record for record in self.records.values() if record.stream is stream), None)

    def _side_closed(self, issued: Issued) -> None:
        """The process behind a side connection died: its stream is over, even if a child of it keeps that open."""
        for record in self.records.values():
            if record.side is issued and record.stream is not None:
                record.stream.end(CallRefused(grpc.StatusCode.CANCELLED, "the side connection was closed"))
                self.left(record.stream)
        self.watch.changed()

    def _identify(self, stream: Stream) -> Issued | None:
        token = stream.metadata.get(contract.TOKEN_METADATA)
        if token is None:
            if self._unidentified:
                return None
            raise CallRefused(grpc.StatusCode.PERMISSION_DENIED, "an app without a token is not admitted")
        issued = self._desk.redeem(str(token)) if self._desk is not None else None
        if issued is None:
            raise CallRefused(grpc.StatusCode.UNAUTHENTICATED, "the token is unknown, was used before, or is too old")
        return issued

    def _declared(self, first: app_pb2.AttachRequest) -> Registration:
        if first.WhichOneof("message") != "hello":
            raise CallRefused(grpc.StatusCode.INVALID_ARGUMENT, "the first message is not a hello")
        hello = first.hello
        if not set(hello.protocol_versions) & set(contract.PROTOCOL_VERSIONS):
            details = f"the app speaks versions {sorted(hello.protocol_versions)}, the broker 1"
            raise CallRefused(grpc.StatusCode.FAILED_PRECONDITION, details)
        try:
            contract.paths_of(hello)
            registration = contract.registration_of(hello)
        except UsageError as error:
            raise CallRefused(grpc.StatusCode.INVALID_ARGUMENT, error.sentence) from error
        ascii_text = hello.incarnation.isascii() and hello.incarnation.isprintable()
        if not ascii_text or len(hello.incarnation) not in _INCARNATION_LENGTHS:
            details = "the incarnation is not 16 to 64 printable ASCII characters"
            raise CallRefused(grpc.StatusCode.INVALID_ARGUMENT, details)
        return registration

    def _register(self, registration: Registration, hello: app_pb2.Hello) -> AppRecord:
        record = self.records.get(registration.app)
        if record is None:
            record = AppRecord(registration, hello.incarnation)
            self.records[registration.app] = record
            return record
        if record.stream is not None:
            if record.incarnation != hello.incarnation:
                raise CallRefused(grpc.StatusCode.ALREADY_EXISTS, f"{registration.app} is registered")
            record.stream.end(CallRefused(grpc.StatusCode.CANCELLED, "the same app has attached again"))
            self.left(record.stream)
        record.registration, record.incarnation = registration, hello.incarnation
        return record

    # What the fronts ask for.

    def new_cycle(self) -> str:
        """An id that was not used before."""
        with self.watch.lock:
            self._cycles += 1
            return f"cycle-{self._cycles}"

    def attached(self, app: AppId, since: int = 0) -> Future[AppRecord]:
        """The app's record, as soon as it is attached for the `since + 1`-th time."""

        def find() -> AppRecord | None:
            record = self.records.get(app)
            if record is None or record.stream is None or record.attachments <= since:
                return None
            return record

        return self.watch.when(find)

    def any_attached(self) -> Future[AppRecord]:
        """The record of the first app that is attached."""
        return self.watch.when(lambda: next((one for one in self.records.values() if one.stream is not None), None))

    def attached_apps(self) -> tuple[AppId, ...]:
        """Every app that has a stream now."""
        with self.watch.lock:
            return tuple(app for app, record in self.records.items() if record.stream is not None)

    def turned_away(self) -> tuple[TurnedAway, ...]:
        """Every call that was ended with a code."""
        with self.watch.lock:
            return tuple(self._turned_away)

    def gone(self, record: AppRecord) -> Future[bool]:
        """True, as soon as the app has no stream."""
        return self.watch.when(lambda: True if record.stream is None else None)

    def lost(self, record: AppRecord, cycle: str) -> Future[str]:
        """The reason with which the app said that it lost its hold."""
        return self.watch.when(lambda: record.ledger.losses.get(cycle))

    def ask(
        self,
        record: AppRecord,
        kind: Kind,
        cycle: str,
        message: app_pb2.AttachResponse,
        budget: timedelta | None = None,
    ) -> Future[Result]:
        """Send a question. The future is of its answer; it fails with ConnectionError if the stream ends before."""
        with self.watch.lock:
            if record.stream is None:
                raise ConnectionError(f"{record.registration.app} is not attached")
            question = record.ledger.ask(kind, cycle, now(), budget)
            record.last_cycle = cycle
            record.stream.send(message)
        return self.watch.when(lambda: _answer(record, question))

    def disconnect(self, record: AppRecord) -> None:
        """Cut the app's stream, without a word."""
        with self.watch.lock:
            if record.stream is not None:
                record.stream.end(CallRefused(grpc.StatusCode.UNAVAILABLE, "the stream is cut by the test"))
                self.left(record.stream)


def _answer(record: AppRecord, question: Question) -> Result | None:
    if question.broken:
        app = record.registration.app
        raise ConnectionError(f"the stream of {app} ended before it answered the {question.kind} of {question.cycle}")
    return question.result
