"""Values of a TOML file as people wrote them: how a wrong one is shown, and how one is written back.

The configurations of the broker and of the agent say the same in the same words. What a message repeats never carries a
password, as far as one can see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from appvss.model.names import printable

_SHOWN: Final = 80
"""Characters of a wrong value that a problem repeats."""
_TOML_TYPES: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}
_WITH_PASSWORD: Final = re.compile(
    r"""://[^/?#\s]*:[^/?#\s]+@      # the password of a URL
      | \b(?:\w*password|passwd|pwd)\s*=\s*[^\s&;]  # of libpq, of ODBC, of a URL's query
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Refused(Exception):
    """A value that an option or a setting does not take. The text is the problem without its key."""


def carries_password(text: str) -> bool:
    """Whether a text is an address with a password in it, as far as one can see."""
    return _WITH_PASSWORD.search(text) is not None


def toml_type(value: object) -> str:
    """The TOML type of `value` for people, such as `an integer`."""
    return next((name for kind, name in _TOML_TYPES.items() if type(value) is kind), "a date or a time")


def shown(value: object) -> str:
    """A wrong value as a problem repeats it: printable, short, and without a password."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write an integer of more than 4300 digits
        return "a huge number"
    return "a value with a password" if carries_password(text) else printable(text, _SHOWN)


def quoted(text: str) -> str:
    """`text` as a TOML basic string. Control characters are escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


def length_text(length: timedelta) -> str:
    """`length` in the largest unit that writes it without a remainder: `15s`, `2m`, `250ms`."""
    for unit, size in (("h", timedelta(hours=1)), ("m", timedelta(minutes=1)), ("s", timedelta(seconds=1))):
        if length >= size and not length % size:
            return f"{length // size}{unit}"
    whole, rest = divmod(length, timedelta(milliseconds=1))
    fraction = f".{rest // timedelta(microseconds=1):03}".rstrip("0") if rest else ""
    return f"{whole}{fraction}ms" if length else "0s"


def text_of(value: object) -> str:
    """A TOML text that is printable.

    Raises:
        Refused: it is none.
    """
    if not isinstance(value, str):
        raise Refused(f"{shown(value)} is {toml_type(value)}, not a text in quotation marks")
    if not value.isprintable():
        raise Refused(f"{shown(value)} has a character that is not printable")
    return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: Iterable[StrEnum]
    """An enumeration, or those of its members that are allowed here."""
    name = "word"

    @property
    def allowed(self) -> str:
        """The words, in quotation marks."""
        return ", ".join(f'`"{word}"`' for word in self.words)

    def read(self, value: object) -> StrEnum:
        """The member that the word names."""
        text = text_of(value)
        found = next((word for word in self.words if word == text), None)
        if found is None:
            words = ", ".join(f'"{word}"' for word in self.words)
            raise Refused(f"{shown(text)} is none of {words}")
        return found

    def write(self, value: StrEnum) -> str:
        """The word in quotation marks."""
        return quoted(str(value))


@dataclass(frozen=True, slots=True)
class Flag:
    """Yes or no."""

    name = "yes or no"
    allowed = "`true`, `false`"

    def read(self, value: object) -> bool:
        """The value itself."""
        if not isinstance(value, bool):
            raise Refused(f"{shown(value)} is {toml_type(value)}; write true or false, without quotation marks")
        return value

    def write(self, value: bool) -> str:
        """The word of TOML."""
        return "true" if value else "false"
