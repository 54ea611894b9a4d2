"""Lengths of time as people write them."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.model.duration import format_duration, parse_duration
from appvss.model.errors import DurationInvalid

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("15s", 15 * SECOND),
        ("250ms", SECOND / 4),
        ("1m30s", 90 * SECOND),
        ("2h", timedelta(hours=2)),
        ("1.5d", timedelta(hours=36)),
        ("0s", timedelta(0)),
        (" 3s ", 3 * SECOND),
        ("1s1s", 2 * SECOND),
    ],
)
def test_what_is_read(text: str, length: timedelta) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "15", "15 s", "s", "-1s", "+1s", "1w", "1S", "1s ago", "1,5s", "1.s", "1e3s", "nan", "1m 30s"),
        *("1111111111s", "999999999d999d", "\x00", "\u0663s", "\uff13s"),
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(DurationInvalid) as caught:
        parse_duration(text)
    assert str(caught.value) == f"{text!r} is not a length of time"
    assert "500ms" in caught.value.hint


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(0), "0.0ms"),
        (timedelta(microseconds=12_345), "12.3ms"),
        (timedelta(microseconds=999_949), "999.9ms"),
        (timedelta(microseconds=999_950), "1.0s"),
        (4 * SECOND, "4.0s"),
        (timedelta(seconds=59, milliseconds=949), "59.9s"),
        (timedelta(seconds=59, milliseconds=950), "1m00s"),
        (90 * SECOND, "1m30s"),
        (timedelta(seconds=3599, milliseconds=600), "1h00m"),
        (timedelta(hours=2, minutes=5), "2h05m"),
        (-90 * SECOND, "-1m30s"),
    ],
)
def test_what_is_shown(length: timedelta, text: str) -> None:
    assert format_duration(length) == text


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=300)))
def test_what_is_shown_can_be_read_and_is_nearly_the_same(length: timedelta) -> None:
    allowed = timedelta(minutes=1) if length >= timedelta(minutes=59) else max(length / 20, timedelta(milliseconds=1))
    assert abs(parse_duration(format_duration(length)) - length) <= allowed


@given(st.text())
def test_text_of_any_kind_is_read_or_refused(text: str) -> None:
    with suppress(DurationInvalid):
        assert parse_duration(text) >= timedelta(0)
