"""What the broker says, as inputs of the machine. Nothing here does I/O."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from appvss.contract import length_of
from appvss.model.errors import MessageInvalid
from appvss.model.names import printable
from appvss.sdk.inputs import (
    AbortAsked,
    FilesystemFreezeTold,
    FreezeAsked,
    PrepareAsked,
    QuestionUnusable,
    ThawAsked,
    Welcomed,
)
from appvss.v1 import app_pb2


def input_of(
    response: app_pb2.AttachResponse,
) -> Welcomed | PrepareAsked | FreezeAsked | QuestionUnusable | FilesystemFreezeTold | ThawAsked | AbortAsked | None:
    """The input that a message is, or None for one that asks nothing: a refusal, a goodbye, one from the future.

    A cycle is taken as it is, since the answer must name the same; the requester and a reason are made printable.
    """
    match response.WhichOneof("message"):
        case "welcome":
            return Welcomed(response.welcome.protocol_version)
        case "prepare":
            return _prepare_of(response.prepare)
        case "freeze":
            return _freeze_of(response.freeze)
        case "filesystem_freeze":
            return FilesystemFreezeTold(response.filesystem_freeze.cycle)
        case "thaw":
            return ThawAsked(response.thaw.cycle)
        case "abort":
            return AbortAsked(response.abort.cycle, printable(response.abort.reason))
        case _:
            return None


def remark_of(response: app_pb2.AttachResponse) -> str | None:
    """What a refusal or a goodbye says, for the log; None for every other message."""
    match response.WhichOneof("message"):
        case "refusal":
            refusal = response.refusal
            return f"the broker refused a message: {printable(refusal.name)}: {printable(refusal.sentence)}"
        case "goodbye":
            return f"the broker is about to stop: {printable(response.goodbye.reason)}"
        case _:
            return None


def _prepare_of(message: app_pb2.Prepare) -> PrepareAsked | QuestionUnusable:
    try:
        budget = _required(message.HasField("budget"), "prepare", "budget", message.budget)
    except MessageInvalid as error:
        return QuestionUnusable(message.cycle, error.sentence)
    return PrepareAsked(message.cycle, printable(message.requester), budget)


def _freeze_of(message: app_pb2.Freeze) -> FreezeAsked | QuestionUnusable:
    try:
        budget = _required(message.HasField("budget"), "freeze", "budget", message.budget)
        hold_limit = _required(message.HasField("hold_limit"), "freeze", "hold_limit", message.hold_limit)
    except MessageInvalid as error:
        return QuestionUnusable(message.cycle, error.sentence)
    return FreezeAsked(message.cycle, printable(message.requester), budget, hold_limit)


def _required(present: bool, question: str, field: str, value: Duration) -> timedelta:
    if not present:
        raise MessageInvalid(
            f"the {question} has no {field}", "The broker's library is not one that keeps the contract."
        )
    return length_of(value)
