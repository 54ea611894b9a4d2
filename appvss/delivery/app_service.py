"""`AppService`: apps attach, are checked, asked, and listened to. The contract is `proto/appvss/v1/app.proto`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import grpc

from appvss import contract
from appvss.delivery.allowance import Allowance
from appvss.delivery.app_events import AppEvents
from appvss.delivery.attach_call import Context, parse, read, refuse
from appvss.delivery.identity import Identity
from appvss.delivery.registry import MESSAGES_AT_ONCE, AppStream, Refused, Registry
from appvss.delivery.tokens import TOKEN_LIFETIME, TokenDesk
from appvss.model.app import AppId, Registration
from appvss.model.duration import format_duration
from appvss.model.errors import AppvssError, MessageInvalid
from appvss.model.instant import Instant
from appvss.model.names import printable
from appvss.v1 import app_pb2

_log = logging.getLogger("appvss.delivery")

HELLO_LIMIT: Final = timedelta(seconds=5)
"""How long a stream may be silent before its hello (`proto/appvss/v1/app.proto`, Attach)."""
REFUSALS_LIMIT: Final = 100
"""Refused messages after which a stream is cut: the app does not understand the protocol."""
REFUSALS_TOLD: Final = 100
"""Refused calls that are logged without a pause, and then one in each second: nobody fills a log by calling."""
REFUSAL_TOLD_EVERY: Final = timedelta(seconds=1)


def _admit_all(_app: AppId, _uid: int | None) -> str:
    return ""


class AppService:
    """The servicer of `AppService`, and the way to its apps.

    Args:
        events: where the news go.
        registry: the apps.
        desk: redeems the tokens.
        in_force: the administrator's word over what an app declares.
        admits_unidentified: whether an app without a token may register.
        version: name and version of the broker, for the welcome.
        now: the monotonic clock.
        refusal_by_policy: why the administrator does not let a user (None: unidentified) register an app, in one
            sentence; empty: he does.
        hello_limit: how long a stream may be silent before its hello.
        token_lifetime: how long a token may wait for its call.
    """

    def __init__(
        self,
        events: AppEvents,
        registry: Registry,
        *,
        in_force: Callable[[Registration], Registration],
        admits_unidentified: bool,
        version: str,
        now: Callable[[], Instant],
        refusal_by_policy: Callable[[AppId, int | None], str] = _admit_all,
        hello_limit: timedelta = HELLO_LIMIT,
        token_lifetime: timedelta = TOKEN_LIFETIME,
    ) -> None:
        self.registry = registry
        self.desk = TokenDesk(self._process_died, token_lifetime)
        self.in_force = in_force
        self.admits_unidentified = admits_unidentified
        self._events = events
        self._version = version
        self._now = now
        self._refusal_by_policy = refusal_by_policy
        self._hello_limit = hello_limit
        self._told = Allowance(REFUSALS_TOLD, REFUSAL_TOLD_EVERY, now())
        self._untold = 0
        """Refused calls that were not logged since one was."""
        self._leaving: set[asyncio.Task[None]] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a `grpc.aio` server needs to serve this."""
        attach: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._attach)
        return grpc.method_handlers_generic_handler("appvss.v1.AppService", {"Attach": attach})

    # -- one app's stream

    async def _attach(self, _requests: object, context: Context) -> None:
        hello = await self._hello(context)
        # By itself, while nobody can cancel this call: with the first message it would be sent once more if the stream
        # ended just then, which gRPC refuses without ending the call.
        await context.send_initial_metadata(())
        identity = await self._identity(context)
        try:
            stream = await self._admit(hello, identity, context)
        except BaseException:
            if identity is not None:
                identity.close()
            raise
        reason = "its stream ended"
        try:
            # Through the stream's own queue: the welcome goes out before anything that registering may cause.
            stream.send(self._welcome(stream.registration))
            self._events.registered(stream.registration)
            await self._listen(stream, context)
        except asyncio.CancelledError:
            reason = stream.cut.reason if stream.cut is not None else "its stream broke"
            if stream.cut is None:
                raise
        finally:
            await self._left(stream, reason)
        if stream.cut is not None:
            await context.abort(grpc.StatusCode[stream.cut.code], stream.cut.reason)

    async def _left(self, stream: AppStream, reason: str) -> None:
        """See an app off. In a task of its own: gRPC cancels the call of a broken stream, at any moment."""
        stream.stop_reading()
        leaving = asyncio.create_task(self._leave(stream, reason), name=f"leave {stream.registration.app}")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.shield(leaving)

    async def _leave(self, stream: AppStream, reason: str) -> None:
        """The app's stream has ended: tell, once, and let go of all that belongs to it."""
        died = stream.identity is not None and await stream.identity.has_died_with_its_stream()
        if self.registry.remove(stream):
            self._events.left(stream.registration.app, "its process is gone" if died else reason, died)
        await stream.closed()

    async def all_left(self) -> None:
        """Wait until every app whose stream has ended is seen off. Takes moments."""
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _turn_away(self, context: Context, refusal: Refused, name: str = "AttachRefused") -> None:
        """Refuse a call, which does not return, and log it unless that happens all the time."""
        if self._told.take(self._now()):
            unsaid = f" ({self._untold} like it were not logged)" if self._untold else ""
            self._untold = 0
            _log.info("an app was refused: %s%s", refusal.sentence, unsaid)
        else:
            self._untold += 1
        await refuse(context, refusal, name)

    async def _hello(self, context: Context) -> app_pb2.Hello:
        try:
            async with asyncio.timeout(self._hello_limit.total_seconds()):
                first = await read(context)
        except TimeoutError:
            sentence = f"no hello within {format_duration(self._hello_limit)}"
            await self._turn_away(context, Refused("DEADLINE_EXCEEDED", sentence, "Send the hello first."))
        message = parse(first) if first is not None else None
        if message is None or message.WhichOneof("message") != "hello":
            hint = "The first message of a stream is its hello: see proto/appvss/v1/app.proto."
            await self._turn_away(context, Refused("INVALID_ARGUMENT", "the first message is not a hello", hint))
            raise AssertionError("a refused call has ended")
        return message.hello

    async def _identity(self, context: Context) -> Identity | None:
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        token = metadata.get(contract.TOKEN_METADATA)
        if token is None:
            if not self.admits_unidentified:
                hint = f"Fetch a token from {contract.PEER_SOCKET} and send it as `{contract.TOKEN_METADATA}`."
                await self._turn_away(
                    context, Refused("PERMISSION_DENIED", "this broker admits no app without a token", hint)
                )
            return None
        identity = self.desk.redeem(str(token))
        if identity is None:
            hint = f"Fetch a new token from {contract.PEER_SOCKET}; each is good for one call."
            await self._turn_away(context, Refused("UNAUTHENTICATED", "the token is unknown, used or too old", hint))
        return identity

    async def _admit(self, hello: app_pb2.Hello, identity: Identity | None, context: Context) -> AppStream:
        if not set(hello.protocol_versions) & set(contract.PROTOCOL_VERSIONS):
            theirs = ", ".join(map(str, sorted(hello.protocol_versions)[:8])) or "none"
            ours = ", ".join(map(str, contract.PROTOCOL_VERSIONS))
            sentence = f"the app speaks protocol versions {theirs}, this broker {ours}"
            await self._turn_away(context, Refused("FAILED_PRECONDITION", sentence, "Update the older of the two."))
        try:
            declared = contract.registration_of(hello)
            paths = contract.paths_of(hello)
            incarnation = contract.incarnation_of(hello)
        except AppvssError as error:
            await self._turn_away(context, Refused("INVALID_ARGUMENT", error.sentence, error.hint), error.name)
            raise
        refusal = self._refusal(declared.app, incarnation, identity)
        if refusal is not None:
            await self._turn_away(context, refusal)
        # Only now: it also takes note of which process the app is.
        registration = self.in_force(declared)
        reader = asyncio.current_task()
        if reader is None:
            raise AssertionError("a call runs in a task")
        stream = AppStream(
            registration,
            incarnation,
            context.write,
            reader,
            self._now(),
            identity,
            declared=declared,
            library=printable(hello.library, 64),
            paths=paths,
        )
        if registration.watch_paths and not paths:
            stream.note_error("its paths are to be watched, and it declares none", self._now())
        older = self.registry.add(stream)
        if older is not None:
            self._events.left(registration.app, "it attached again", False)
            older.end("it attached again")
        return stream

    def _refusal(self, app: AppId, incarnation: str, identity: Identity | None) -> Refused | None:
        peer = identity.peer if identity is not None else None
        sentence = self._refusal_by_policy(app, peer.uid if peer is not None else None)
        if sentence:
            hint = "Ask the administrator: the broker's configuration says who may register under which name."
            return Refused("PERMISSION_DENIED", sentence, hint)
        return self.registry.refusal(app, incarnation, peer, self._now())

    async def _listen(self, stream: AppStream, context: Context) -> None:
        app = stream.registration.app
        while (data := await read(context)) is not None:
            if not stream.allowance.take(self._now()):
                self.refuse(
                    app, "too_many_messages", f"more than {MESSAGES_AT_ONCE} messages came that nobody asked for"
                )
                continue
            message = parse(data)
            try:
                known = message is not None and self._tell(app, message)
            except MessageInvalid as error:
                self.refuse(app, error.name, error.sentence)
            else:
                if not known:
                    self.refuse(app, "message_unknown", "the message has no known content")

    def _tell(self, app: AppId, message: app_pb2.AttachRequest) -> bool:
        """Pass on what an app says; False when it says nothing known."""
        match message.WhichOneof("message"):
            case "ready":
                self._events.ready(app, contract.cycle_of(message.ready.cycle))
            case "frozen":
                evidence = contract.evidence_of(message.frozen.evidence) if message.frozen.evidence else {}
                self._events.froze(app, contract.cycle_of(message.frozen.cycle), evidence)
            case "veto":
                veto = message.veto
                self._events.vetoed(app, contract.cycle_of(veto.cycle), printable(veto.reason), veto.retryable)
            case "hold_lost":
                lost = message.hold_lost
                self._events.lost_hold(app, contract.cycle_of(lost.cycle), printable(lost.reason))
            case "thawed":
                thawed = message.thawed
                cycle = contract.cycle_of(thawed.cycle)
                self._events.thawed(app, cycle, thawed.unbroken, printable(thawed.reason))
            case _:
                return False
        return True

    def _process_died(self, identity: Identity) -> None:
        """The kernel says that a process is gone. Its stream may live on in a forked child's descriptors: end it."""
        stream = self.registry.of_identity(identity)
        if stream is not None:
            stream.end("its process is gone")

    # -- what the broker sends

    def send(self, app: AppId, message: bytes) -> bool:
        """Queue an encoded `AttachResponse` for an app; False when it is not registered."""
        stream = self.registry.get(app)
        if stream is None:
            return False
        stream.may_answer()
        self._send(stream, message)
        return True

    def _send(self, stream: AppStream, message: bytes) -> None:
        was_cut = stream.cut is not None
        stream.send(message)
        if stream.cut is not None and not was_cut:
            stream.note_error(stream.cut.reason, self._now())

    def refuse(self, app: AppId, name: str, sentence: str) -> None:
        """Tell an app that a message of it was not accepted. One that does not learn from that is cut."""
        stream = self.registry.get(app)
        if stream is None:
            return
        stream.note_error(f"{name}: {sentence}", self._now())
        stream.refusals += 1
        if stream.refusals > REFUSALS_LIMIT:
            stream.end("it sent too many messages that were refused")
        refusal = app_pb2.Refusal(name=name, sentence=sentence)
        self._send(stream, app_pb2.AttachResponse(refusal=refusal).SerializeToString())

    def apply_policy(self) -> None:
        """Put the administrator's present word in force for the apps that are registered. Only while no cycle runs. The
        stream of one that may not be there any more is ended.
        """
        for stream in self.registry:
            refusal = self._refusal_by_policy(stream.registration.app, stream.peer.uid if stream.peer else None)
            if refusal:
                stream.end(refusal, "PERMISSION_DENIED")
                continue
            registration = replace(self.in_force(stream.declared), claim=None)
            if registration != replace(stream.registration, claim=None):
                stream.registration = registration
                self._events.changed_policy(registration)

    def let_go(self, cycle: str, reason: str) -> None:
        """Tell every app to let go of whatever it holds. For when nobody knows any more who holds what."""
        message = app_pb2.AttachResponse(abort=app_pb2.Abort(cycle=cycle, reason=reason)).SerializeToString()
        for stream in self.registry:
            stream.may_answer()
            self._send(stream, message)

    async def say_goodbye(self, reason: str, within: timedelta) -> None:
        """Tell every app that the broker is about to stop, wait until that is written or the time is over, and end
        the streams.
        """
        message = app_pb2.AttachResponse(goodbye=app_pb2.Goodbye(reason=reason)).SerializeToString()
        streams = list(self.registry)
        for stream in streams:
            stream.send(message)
        try:
            async with asyncio.timeout(within.total_seconds()):
                for stream in streams:
                    await stream.flushed()
        except TimeoutError:
            _log.warning("not every app could be told that the broker stops")
        for stream in self.registry:
            stream.end(reason, "UNAVAILABLE")

    def _welcome(self, registration: Registration) -> bytes:
        welcome = app_pb2.Welcome(
            protocol_version=max(contract.PROTOCOL_VERSIONS),
            broker=self._version,
            requirement=contract.requirement_message(registration.requirement),
            order=registration.order,
        )
        return app_pb2.AttachResponse(welcome=welcome).SerializeToString()
