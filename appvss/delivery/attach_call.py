"""One call of `AppService.Attach`: its bytes, its end, and how it is refused.

Messages are read and written as bytes and parsed here, so that one that cannot be parsed ends as a named refusal, and
one that goes to a thousand apps is encoded once.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from appvss.delivery.registry import Refused
from appvss.v1 import app_pb2

_log = logging.getLogger("appvss.delivery")

ERROR_METADATA: Final = "appvss-error"
HINT_METADATA: Final = "appvss-hint"

Context = grpc.aio.ServicerContext[Any, bytes]


async def read(context: Context) -> bytes | None:
    """The next message; None when the stream has ended or is broken: gRPC tells the second in several ways."""
    try:
        data: Any = await context.read()
    except grpc.aio.InternalError as error:
        _log.debug("a stream broke: %s", error)
        return None
    return data if isinstance(data, bytes) else None


def parse(data: bytes) -> app_pb2.AttachRequest | None:
    """A message of an app; None when these bytes are none."""
    try:
        return app_pb2.AttachRequest.FromString(data)
    except DecodeError:
        return None


async def refuse(context: Context, refusal: Refused, name: str = "AttachRefused") -> None:
    """End a call with a code, a sentence, and name and hint in the trailing metadata. Does not return."""
    metadata = ((ERROR_METADATA, name), (HINT_METADATA, refusal.hint))
    await context.abort(grpc.StatusCode[refusal.code], refusal.sentence, metadata)
