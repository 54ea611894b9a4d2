"""What the broker says becomes an input, or a remark, or nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from appvss.sdk.inputs import (
    AbortAsked,
    FilesystemFreezeTold,
    FreezeAsked,
    Input,
    PrepareAsked,
    QuestionUnusable,
    ThawAsked,
    Welcomed,
)
from appvss.sdk.wire import input_of, remark_of
from appvss.v1 import app_pb2
from appvss.v1.app_pb2 import AttachResponse

TWO = Duration(seconds=2)
SECONDS = timedelta(seconds=2)
FAR = Duration(seconds=2**62)


@pytest.mark.parametrize(
    ("said", "happened"),
    [
        (AttachResponse(welcome=app_pb2.Welcome(protocol_version=1)), Welcomed(1)),
        (
            AttachResponse(prepare=app_pb2.Prepare(cycle="c", requester="a\nb", budget=TWO)),
            PrepareAsked("c", "a b", SECONDS),
        ),
        (AttachResponse(prepare=app_pb2.Prepare(cycle="c")), QuestionUnusable("c", "the prepare has no budget")),
        (
            AttachResponse(freeze=app_pb2.Freeze(cycle="c", requester="r", budget=TWO, hold_limit=TWO)),
            FreezeAsked("c", "r", SECONDS, SECONDS),
        ),
        (
            AttachResponse(freeze=app_pb2.Freeze(cycle="c", hold_limit=TWO)),
            QuestionUnusable("c", "the freeze has no budget"),
        ),
        (
            AttachResponse(freeze=app_pb2.Freeze(cycle="c", budget=TWO)),
            QuestionUnusable("c", "the freeze has no hold_limit"),
        ),
        (
            AttachResponse(freeze=app_pb2.Freeze(cycle="c", budget=TWO, hold_limit=FAR)),
            QuestionUnusable("c", f"a duration of {2**62} s is out of range"),
        ),
        (AttachResponse(filesystem_freeze=app_pb2.FilesystemFreeze(cycle="c")), FilesystemFreezeTold("c")),
        (AttachResponse(thaw=app_pb2.Thaw(cycle="c")), ThawAsked("c")),
        (AttachResponse(abort=app_pb2.Abort(cycle="c", reason="why\x1b")), AbortAsked("c", "why?")),
        (AttachResponse(), None),
    ],
)
def test_each_message_is_one_input(said: AttachResponse, happened: Input | None) -> None:
    assert input_of(said) == happened
    assert remark_of(said) is None


@pytest.mark.parametrize(
    ("said", "remark"),
    [
        (
            AttachResponse(refusal=app_pb2.Refusal(name="ack_twice", sentence="no\nmore")),
            "the broker refused a message: ack_twice: no more",
        ),
        (AttachResponse(goodbye=app_pb2.Goodbye(reason="an update")), "the broker is about to stop: an update"),
    ],
)
def test_what_asks_nothing_is_a_remark(said: AttachResponse, remark: str) -> None:
    assert input_of(said) is None
    assert remark_of(said) == remark


@given(st.binary(max_size=200))
def test_no_bytes_that_parse_break_the_app(received: bytes) -> None:
    message = AttachResponse()
    try:
        message.ParseFromString(received)
    except DecodeError:
        return
    input_of(message)
    remark_of(message)
