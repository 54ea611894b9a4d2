"""The kinds of values that a setting may have: how each is read from TOML, checked, written and described.

Which one it is, `schema.py` reads off the dataclass that declares the setting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from appvss.adapters.settings import Secret
from appvss.agent.secret_reference import FORMS, secret_of
from appvss.model.duration import parse_duration
from appvss.model.errors import DurationInvalid
from appvss.model.names import printable

LENGTH_MOST: Final = timedelta(hours=24)
LIST_MOST: Final = 1000
"""Entries of a list of texts."""
_TEXT_MOST: Final = 4096
_NUMBERS: Final = range(-(2**31), 2**31)
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
SECRET_HINT: Final = f"a secret is never written here: give it by reference, as {FORMS}"
_ADDRESS_HINT: Final = (
    "a secret is never written here: take it out, and give it with the adapter's own setting for it, by reference, as "
    f"{FORMS}"
)
_TEXTS_HINT: Final = "a secret is never written here: take it out, and have the program read it from a file of its own"


class Refused(Exception):
    """A value that a setting does not take. The text is the problem without the setting's key, and without a secret."""


class Kind(Protocol):
    """What values a setting takes."""

    @property
    def name(self) -> str:
        """The kind in a few words: `length of time`, `path`."""

    @property
    def allowed(self) -> str:
        """The values that are allowed, as a phrase."""

    def read(self, value: object) -> Any:
        """The setting's value that a TOML value stands for.

        Raises:
            Refused: it is not allowed.
        """

    def write(self, value: Any) -> str:
        """The TOML text of a value."""


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
    return f"{length / timedelta(milliseconds=1):g}ms" if length else "0s"


def text_of(value: object) -> str:
    """A TOML text that is printable.

    Raises:
        Refused: it is none.
    """
    if not isinstance(value, str):
        raise Refused(f"{shown(value)} is {toml_type(value)}, not a text in quotation marks")
    if not value.isprintable():
        raise Refused(f"{shown(value)} has a character that is not printable")
    if len(value) > _TEXT_MOST:
        raise Refused(f"the text has {len(value)} characters, over {_TEXT_MOST}")
    return value


class Text:
    """Any printable text that carries no password."""

    name = "text"
    allowed = "a text; no address with a password in it"

    def read(self, value: object) -> str:
        """The text itself."""
        text = text_of(value)
        if carries_password(text):
            raise Refused(f"it has a password in it; {_ADDRESS_HINT}")
        return text

    def write(self, value: str) -> str:
        """The text in quotation marks."""
        return quoted(value)


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


class Number:
    """A whole number. What else must be true of it, the adapter says."""

    name = "number"
    allowed = "a whole number"

    def read(self, value: object) -> int:
        """The number itself."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise Refused(f"{shown(value)} is {toml_type(value)}, not a whole number")
        if value not in _NUMBERS:
            raise Refused(f"{shown(value)} has more than 32 bits")
        return value

    def write(self, value: int) -> str:
        """The number in digits."""
        return str(value)


class Length:
    """A length of time, written with its unit."""

    name = "length of time"
    allowed = f"above zero, at most `{quoted(length_text(LENGTH_MOST))}`"

    def read(self, value: object) -> timedelta:
        """The length."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            written = shown(value)
            raise Refused(f'{written} is a length without a unit; write "{written}s" or another unit: ms, s, m, h')
        text = text_of(value)
        try:
            length = parse_duration(text)
        except DurationInvalid as error:
            if text.strip().isdigit():
                raise Refused(f"{shown(text)} is a length without a unit; add one: ms, s, m, h") from error
            raise Refused(f"{shown(text)} is not a length of time; write 500ms, 15s, 2m or 1h") from error
        if not timedelta(0) < length <= LENGTH_MOST:
            raise Refused(f"{shown(text)} is not above zero and at most {length_text(LENGTH_MOST)}")
        return length

    def write(self, value: timedelta) -> str:
        """The length in quotation marks."""
        return quoted(length_text(value))


class AbsolutePath:
    """A path that means the same whatever the working directory is."""

    name = "path"
    allowed = "an absolute path"

    def read(self, value: object) -> Path:
        """The path; it need not exist."""
        text = text_of(value)
        if not text.startswith("/"):
            raise Refused(f"{shown(text)} is not an absolute path; begin it with /")
        return Path(text)

    def write(self, value: Path) -> str:
        """The path in quotation marks."""
        return quoted(str(value))


class Texts:
    """Texts in a row."""

    name = "list of texts"
    allowed = f"at most {LIST_MOST} texts"

    def read(self, value: object) -> tuple[str, ...]:
        """The texts in the order of the file."""
        if not isinstance(value, list):
            raise Refused(f'{shown(value)} is {toml_type(value)}, not a list of texts; write ["one", "two"]')
        if len(value) > LIST_MOST:
            raise Refused(f"the list has {len(value)} entries, over {LIST_MOST}")
        texts = tuple(text_of(entry) for entry in value)
        if any(carries_password(text) for text in texts):
            raise Refused(f"one of the texts has a password in it; {_TEXTS_HINT}")
        return texts

    def write(self, value: tuple[str, ...]) -> str:
        """The texts in brackets."""
        return "[" + ", ".join(quoted(entry) for entry in value) + "]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: type[StrEnum]
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


class SecretReference:
    """Where a secret is, and never the secret."""

    name = "secret"
    allowed = "a reference: " + FORMS.replace("{", "`{").replace("}", "}`")

    def read(self, value: object) -> Secret:
        """The secret, which is read when it is needed. What is wrong is never repeated: it may be the secret."""
        if not isinstance(value, Mapping):
            raise Refused(f"this is {toml_type(value)}; {SECRET_HINT}")
        try:
            return secret_of(value)
        except ValueError as error:
            raise Refused(str(error)) from error

    def write(self, value: Secret) -> str:
        """An example: a secret does not say how it was written."""
        return '{ file = "/etc/appvss/NAME.password" }'
