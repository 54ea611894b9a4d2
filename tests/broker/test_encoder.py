"""What apps are sent, as bytes, encoded once for all that are asked the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.broker.encoder import CACHE_LIMIT, Ask, Encoder
from appvss.contract import length_of
from appvss.cycle.effects import AskAbort, AskFreeze, AskPrepare, AskThaw, TellFilesystemFreeze
from appvss.model.app import AppId
from appvss.v1 import app_pb2

A, B = AppId("a"), AppId("b")
SECOND = timedelta(seconds=1)
ASKS: list[Ask] = [
    AskPrepare(A, "c", "host", SECOND),
    AskFreeze(A, "c", "host", SECOND, 2 * SECOND),
    TellFilesystemFreeze(A, "c"),
    AskThaw(A, "c"),
    AskAbort(A, "c", "why"),
]


def decoded(ask: Ask) -> app_pb2.AttachResponse:
    return app_pb2.AttachResponse.FromString(Encoder().encode(ask))


def test_messages_say_what_was_asked() -> None:
    prepare, freeze, filesystems, thaw, abort = map(decoded, ASKS)
    assert (prepare.prepare.cycle, prepare.prepare.requester, length_of(prepare.prepare.budget)) == (
        "c",
        "host",
        SECOND,
    )
    assert (freeze.freeze.cycle, freeze.freeze.requester) == ("c", "host")
    assert (length_of(freeze.freeze.budget), length_of(freeze.freeze.hold_limit)) == (SECOND, 2 * SECOND)
    assert filesystems.filesystem_freeze.cycle == "c"
    assert thaw.thaw.cycle == "c"
    assert (abort.abort.cycle, abort.abort.reason) == ("c", "why")


@pytest.mark.parametrize("ask", ASKS)
def test_same_for_every_app_and_encoded_once(ask: Ask) -> None:
    encoder = Encoder()
    first = encoder.encode(ask)
    assert encoder.encode(replace(ask, app=B)) is first


lengths = st.timedeltas(timedelta(0), timedelta(hours=1))
words = st.text(max_size=5)
apps = st.sampled_from([A, B])
asks = st.one_of(
    st.builds(AskPrepare, apps, words, words, lengths),
    st.builds(AskFreeze, apps, words, words, lengths, lengths),
    st.builds(TellFilesystemFreeze, apps, words),
    st.builds(AskThaw, apps, words),
    st.builds(AskAbort, apps, words, words),
)


@given(st.lists(asks, max_size=3 * CACHE_LIMIT))
def test_memory_never_shows(wanted: list[Ask]) -> None:
    encoder = Encoder()
    for ask in wanted:
        assert encoder.encode(ask) == Encoder().encode(ask)


def test_memory_is_bounded() -> None:
    encoder = Encoder()
    first = encoder.encode(AskThaw(A, "first"))
    for number in range(CACHE_LIMIT):
        encoder.encode(AskThaw(A, str(number)))
    again = encoder.encode(AskThaw(A, "first"))
    assert again == first
    assert again is not first
