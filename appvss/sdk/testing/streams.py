"""The gRPC side of the fake broker: one `Attach` call each, on the synchronous stack, two threads a stream."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Final, Protocol, TypeAlias

from appvss.sdk.quiet import grpc
from appvss.v1 import app_pb2, app_pb2_grpc

HELLO_LIMIT: Final = timedelta(seconds=5)
"""How long the app may take to send its hello."""

_Context: TypeAlias = grpc.ServicerContext


class CallRefused(Exception):
    """The call ends with a code of the table at `Attach` in app.proto.

    Args:
        code: the code.
        details: one sentence.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class Stream:
    """What a broker can do with one open call.

    Args:
        metadata: what the call was made with.
    """

    def __init__(self, metadata: dict[str, str | bytes]) -> None:
        self.metadata = metadata
        self._outbox: queue.SimpleQueue[app_pb2.AttachResponse | CallRefused | None] = queue.SimpleQueue()

    def send(self, message: app_pb2.AttachResponse) -> None:
        """Queue a message for the app."""
        self._outbox.put(message)

    def end(self, refused: CallRefused | None = None) -> None:
        """End the call after what is queued: in order, or with a code."""
        self._outbox.put(refused)

    def responses(self, context: _Context) -> Iterator[app_pb2.AttachResponse]:
        """What is queued, until the end."""
        try:
            said = self._outbox.get(timeout=HELLO_LIMIT.total_seconds())
        except queue.Empty:
            said = CallRefused(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came in time")
        while isinstance(said, app_pb2.AttachResponse):
            yield said
            said = self._outbox.get()
        if said is not None:
            context.abort(said.code, said.details)


class Reception(Protocol):
    """Who decides about streams. All methods are called in a thread of the stream."""

    def greet(self, stream: Stream, first: app_pb2.AttachRequest) -> None:
        """A stream's first message. Raises `CallRefused`; else the app is registered and welcomed."""

    def hear(self, stream: Stream, message: app_pb2.AttachRequest) -> None:
        """A later message. Raises `CallRefused` to end the call."""

    def left(self, stream: Stream) -> None:
        """The stream has ended, for whatever reason. Called once for each stream."""


class AppService(app_pb2_grpc.AppServiceServicer):
    """Serves `Attach`.

    Args:
        reception: decides.
    """

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def Attach(  # noqa: N802 - the name that the generated code calls
        self, request_iterator: Iterator[app_pb2.AttachRequest], context: _Context
    ) -> Iterator[app_pb2.AttachResponse]:
        """One app's stream, until it ends."""
        stream = Stream(dict(context.invocation_metadata()))
        if not context.add_callback(stream.end):
            return iter(())
        name = "fake broker reader"
        threading.Thread(target=self._read, args=(stream, request_iterator), name=name, daemon=True).start()
        return stream.responses(context)

    def _read(self, stream: Stream, requests: Iterator[app_pb2.AttachRequest]) -> None:
        refused: CallRefused | None = None
        try:
            first = next(requests, None)
            if first is not None:
                self._reception.greet(stream, first)
                for message in requests:
                    self._reception.hear(stream, message)
        except CallRefused as error:
            refused = error
        except grpc.RpcError:
            pass  # The call was cancelled, by the app or by its death.
        finally:
            self._reception.left(stream)
            stream.end(refused)
