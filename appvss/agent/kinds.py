"""The kinds of values that a setting may have: how each is read from TOML, checked, written and described.

Which one it is, `schema.py` reads off the dataclass that declares the setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from appvss.adapters.settings import Secret
from appvss.agent.secret_reference import FORMS, secret_of
from appvss.model import toml_value
from appvss.model.duration import parse_duration
from appvss.model.errors import DurationInvalid
from appvss.model.toml_value import Refused, carries_password, length_text, quoted, shown, toml_type

LENGTH_MOST: Final = timedelta(hours=24)
LIST_MOST: Final = 1000
"""Entries of a list of texts."""
_TEXT_MOST: Final = 4096
_NUMBERS: Final = range(-(2**31), 2**31)
SECRET_HINT: Final = f"a secret is never written here: give it by reference, as {FORMS}"
_ADDRESS_HINT: Final = (
    "a secret is never written here: take it out, and give it with the adapter's own setting for it, by reference, as "
    f"{FORMS}"
)
_TEXTS_HINT: Final = "a secret is never written here: take it out, and have the program read it from a file of its own"


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


def text_of(value: object) -> str:
    """A TOML text that is printable and not too long.

    Raises:
        Refused: it is none.
    """
    text = toml_value.text_of(value)
    if len(text) > _TEXT_MOST:
        raise Refused(f"the text has {len(text)} characters, over {_TEXT_MOST}")
    return text


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
