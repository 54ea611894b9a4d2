"""A systemd unit as a test reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

PACKAGING = Path(__file__).parents[2] / "packaging"
SERVICE = PACKAGING / "systemd" / "appvss-broker.service"
_LENGTHS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
}


class Unit:
    """One unit file.

    Args:
        file: where it lies.
    """

    def __init__(self, file: Path) -> None:
        self.settings = tuple(_settings(file.read_text(encoding="utf-8")))

    def value(self, key: str) -> str:
        """The value of a key that is there exactly once."""
        (value,) = [value for _, name, value in self.settings if name == key]
        return value

    def length(self, key: str) -> timedelta:
        """The same for a length of time."""
        found = re.fullmatch(r"(\d+)(ms|s|min)", self.value(key))
        assert found, (key, self.value(key))
        return int(found[1]) * _LENGTHS[found[2]]

    def words(self, key: str) -> list[str]:
        """The same for a list."""
        return self.value(key).split()


def _settings(text: str) -> Iterator[tuple[str, str, str]]:
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            yield section, key, value
