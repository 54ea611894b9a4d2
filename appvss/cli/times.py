"""Times of the wall clock as people write and read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from appvss.model.duration import format_duration, parse_duration
from appvss.model.errors import DurationInvalid, UsageError
from appvss.model.names import printable

_SHOWN: Final = 40
_DAY: Final = timedelta(days=1)
_HINT: Final = "Write a length of time back from now, such as 2h or 3d, or a time such as 2026-03-04T05:06:07Z."


def local_time(time: datetime) -> str:
    """A time in this machine's zone, with the zone: `2026-03-04 05:06:07+00:00`."""
    return time.astimezone().isoformat(sep=" ", timespec="seconds")


def length_text(length: timedelta) -> str:
    """A length for people, with days: `3d 4h`, else as `format_duration` writes it."""
    if length < 2 * _DAY:
        return format_duration(length)
    return f"{length // _DAY}d {length % _DAY // timedelta(hours=1)}h"


def since_time(text: str, now: datetime) -> datetime:
    """The time that `--since` names: RFC 3339 text, or a length of time back from now.

    Args:
        text: what was written. A time without a zone is in this machine's own.
        now: aware of its zone.

    Raises:
        UsageError: it is neither, or lies in the future.
    """
    try:
        back = parse_duration(text)
    except DurationInvalid:
        time = _time(text)
    else:
        try:
            time = now - back
        except OverflowError as error:
            raise UsageError(f"{printable(text, _SHOWN)!r} ago is before all calendars", _HINT) from error
    if time > now:
        clock = now.astimezone(time.tzinfo).isoformat(sep=" ", timespec="seconds")
        raise UsageError(
            f"--since {printable(text, _SHOWN)} is in the future: it is {clock} now",
            "Name an earlier time, or a length of time back from now, such as 2h. If it is right, the clock of this "
            "machine is wrong: `appvss doctor`.",
        )
    return time


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text.strip())
        aware = time if time.tzinfo is not None else time.astimezone()
        return aware.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{printable(text, _SHOWN)!r} is neither a time nor a length of time", _HINT) from error
