"""Values go to bytes and come back equal; bytes that were changed are noticed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.history import documents
from appvss.history.documents import DocumentInvalid, pack, pack_text, unpack, unpack_text
from appvss.model.app import AppId
from appvss.model.journal import JournalEntry
from appvss.model.past import PastCycle, PastEvent
from tests.history import values


@dataclass(frozen=True, slots=True)
class Old:
    name: str
    gone: int = 3


@dataclass(frozen=True, slots=True)
class New:
    name: str
    number: int = 7
    length: timedelta = timedelta(seconds=1)


@given(values.entries)
def test_every_journal_entry_comes_back_equal(entry: JournalEntry) -> None:
    assert unpack(JournalEntry, pack(entry)) == entry


@given(values.pasts)
def test_every_past_cycle_comes_back_equal(past: PastCycle) -> None:
    assert unpack(PastCycle, pack(past)) == past
    assert unpack(tuple[PastEvent, ...], pack(past.events)) == past.events


@given(st.text(st.characters(exclude_categories=())))
def test_every_text_comes_back_equal(text: str) -> None:
    assert unpack_text(pack_text(text)) == text


def test_fields_that_came_later_have_their_defaults_and_fields_that_went_are_passed_over() -> None:
    assert unpack(New, pack(Old("a"))) == New("a")


def test_default_that_says_something_is_written_since_a_later_version_may_have_another() -> None:
    assert b'"gone":3' in zlib.decompress(pack(Old("a")))


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    document = bytearray(pack(values.entry()))
    place = data.draw(st.integers(0, len(document) - 1))
    document[place] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack(JournalEntry, bytes(document))
    except DocumentInvalid:
        return
    assert found == values.entry()  # a bit of the header that means nothing


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(garbage: bytes) -> None:
    with pytest.raises(DocumentInvalid):
        unpack(JournalEntry, garbage)
    with pytest.raises(DocumentInvalid):
        unpack(JournalEntry, pack_text(garbage.decode("latin-1")))


@pytest.mark.parametrize("length", [0, 1, 20])
def test_document_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(DocumentInvalid, match="cut off"):
        unpack(JournalEntry, pack(values.entry())[:length])


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"name":1}',
        '{"name":"a","number":true}',
        '{"name":"a","length":1e3}',
        '{"name":"a","length":99999999999999999999999}',
        "{}",
        "[" * 100_000,
    ],
)
def test_document_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(DocumentInvalid):
        unpack(New, pack_text(text))


def test_name_that_no_app_may_have_is_refused() -> None:
    with pytest.raises(DocumentInvalid, match="NameInvalid"):
        unpack(AppId, pack_text('{"name":"no spaces"}'))


def test_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SIZE_LIMIT", 1000)
    with pytest.raises(DocumentInvalid, match="more than 1000"):
        unpack_text(pack_text("a" * 1001))


@pytest.mark.parametrize("data", ["text", None, 7])
def test_column_of_another_type_is_refused(data: object) -> None:
    with pytest.raises(DocumentInvalid):
        unpack_text(data)  # type: ignore[arg-type]
