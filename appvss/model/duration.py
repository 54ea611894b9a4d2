"""Lengths of time as people write them: `15s`, `250ms`, `1m30s`, `2h`. A number without a unit is refused."""

from __future__ import annotations

import re
from datetime import timedelta

from appvss.model.errors import DurationInvalid

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")


def parse_duration(text: str) -> timedelta:
    """The length that `text` names, such as `1m30s`.

    Raises:
        DurationInvalid: `text` is empty, has no unit, has an unknown unit, is too long, or is anything else.
    """
    rest, total = text.strip(), timedelta(0)
    if not rest:
        raise DurationInvalid(text)
    while rest:
        part = _PART.match(rest)
        if part is None:
            raise DurationInvalid(text)
        try:
            total += float(part[1]) * _UNITS[part[2]]
        except OverflowError as error:
            raise DurationInvalid(text) from error
        rest = rest[part.end() :]
    return total


def format_duration(length: timedelta) -> str:
    """`length` for people: `12.3ms`, `4.0s`, `1m30s`, `2h05m`. Negative lengths keep their sign."""
    if length < timedelta(0):
        return "-" + format_duration(-length)
    seconds = length.total_seconds()
    # The bounds are where rounding would write the next unit: never 1000.0ms or 60.0s.
    if seconds < 0.99995:
        return f"{seconds * 1000:.1f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{left:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"
