"""Times as people write and read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from appvss.cli.times import length_text, since_time
from appvss.model.errors import UsageError

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("1h30m", NOW - timedelta(minutes=90)),
        ("0s", NOW),
        ("2026-03-04T05:06:07Z", NOW),
        ("2026-03-04T06:06:07+01:00", NOW),
        ("2026-03-04 05:06:07Z", NOW),
        (" 2026-03-03T00:00:00.5Z ", datetime(2026, 3, 3, 0, 0, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_a_time_or_a_length_back_from_now(text: str, time: datetime) -> None:
    assert since_time(text, NOW) == time


def test_a_time_without_a_zone_is_in_this_machines_own() -> None:
    assert since_time("2026-03-01", NOW) == datetime(2026, 3, 1).astimezone()


@pytest.mark.parametrize("text", ["2026-03-04T05:06:08Z", "9999-12-31T23:59:59Z"])
def test_a_time_in_the_future_is_refused_with_the_time_that_it_is(text: str) -> None:
    with pytest.raises(UsageError, match="is in the future: it is 2026-03-04 05:06:07") as caught:
        since_time(text, NOW)
    assert "appvss doctor" in caught.value.hint


@pytest.mark.parametrize("text", ["", "12", "2026-13-01", "now", "-2h", "999999999d", "2026-03-04T05:06:07+99:00"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        since_time(text, NOW)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(seconds=90), "1m30s"),
        (timedelta(hours=47), "47h00m"),
        (timedelta(days=2), "2d 0h"),
        (timedelta(days=3, hours=4, minutes=59), "3d 4h"),
    ],
)
def test_lengths_have_days(length: timedelta, text: str) -> None:
    assert length_text(length) == text
