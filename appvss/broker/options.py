"""How one option of the configuration is read, checked, written and described.

Each kind of value knows four things: what TOML value it takes, which values it allows, how it is written back, and how
it is named for people. The options themselves stand in `broker/configuration.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from appvss.model.duration import parse_duration
from appvss.model.errors import DurationInvalid, NameInvalid
from appvss.model.names import check_name, printable

_SHOWN: Final = 80
"""Characters of a wrong value that a problem repeats."""
_PATH_LIMIT: Final = 1024
_TOML_TYPES: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}


class Refused(Exception):
    """A value that an option does not take. The text is the problem without the option's key."""


_Value = TypeVar("_Value")


class Kind(Protocol[_Value]):
    """What values an option takes."""

    @property
    def name(self) -> str:
        """The kind in a word or two: `length of time`, `path`."""

    @property
    def allowed(self) -> str:
        """The values that are allowed, as a phrase that follows "allowed: "."""

    def read(self, value: object) -> _Value:
        """The value of the configuration that the TOML value stands for.

        Raises:
            Refused: it is not allowed.
        """

    def write(self, value: _Value) -> str:
        """The TOML text of a value that `read` has given."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: a row of the reference, of the sample and of the loader."""

    key: str
    """The whole key, such as `sources.freebsd.budget`."""
    kind: Kind[Any]
    default: object
    default_text: str
    """The default for people, as Markdown."""
    meaning: str
    """One or two sentences."""
    example: object
    """What the sample shows: the default, or where there is none a value that is allowed."""
    is_needed: bool
    """Whether a table without it is refused."""


def option(
    kind: Kind[Any], meaning: str, default_text: str | None = None, *, example: object = None, needed: bool = False
) -> Mapping[str, object]:
    """What a dataclass field carries to be an option. A field whose default is None may be left open: nobody has
    decided it then.

    Args:
        kind: the values that it takes.
        meaning: one or two sentences for the sample and the reference.
        default_text: the default in words, where it depends on the platform.
        example: what the sample shows; None: the default.
        needed: whether every table must have it. Its default then stands only where the table has a problem.
    """
    return {"kind": kind, "meaning": meaning, "default_text": default_text, "example": example, "needed": needed}


@dataclass(frozen=True, slots=True)
class Tables:
    """An array of tables, `[[name]]`: any number of tables of one schema, in the order of the file."""

    schema: type[Any]
    """The dataclass of one table; all of its fields are options."""
    noun: str
    """What one of them is, for problems: `rule`."""
    most: int


def tables(schema: type[Any], noun: str, most: int) -> Mapping[str, object]:
    """What a dataclass field carries to be an array of tables. Its values are tuples of `schema`.

    Args:
        schema: the dataclass of one table; every field has a default.
        noun: what one of them is, for problems.
        most: how many there may be.
    """
    return {"tables": Tables(schema, noun, most)}


def toml_type(value: object) -> str:
    """The TOML type of `value` for people, such as `an integer`."""
    return next((name for kind, name in _TOML_TYPES.items() if type(value) is kind), "a date or a time")


def shown(value: object) -> str:
    """A wrong value as a problem repeats it: printable and short."""
    try:
        return printable(repr(value), _SHOWN)
    except ValueError:  # Python refuses to write an integer of more than 4300 digits
        return "a huge number"


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
class Word:
    """A group's name, or nothing."""

    name = "text"
    allowed = 'a group\'s name of at most 64 characters, or `""`'

    def read(self, value: object) -> str:
        """The text itself."""
        text = text_of(value)
        if not text:
            return text
        try:
            return check_name(text, "group name")
        except NameInvalid as error:
            raise Refused(error.sentence) from error

    def write(self, value: str) -> str:
        """The text in quotation marks."""
        return quoted(value)


@dataclass(frozen=True, slots=True)
class AbsolutePath:
    """A path that means the same whatever the working directory is."""

    name = "path"
    allowed = "an absolute path"

    def read(self, value: object) -> Path:
        """The path; it need not exist."""
        text = text_of(value)
        if not text.startswith("/"):
            raise Refused(f"{shown(text)} is not an absolute path; begin it with /")
        if len(text) > _PATH_LIMIT:
            raise Refused(f"{shown(text)} has {len(text)} characters, over {_PATH_LIMIT}")
        return Path(text)

    def write(self, value: Path) -> str:
        """The path in quotation marks."""
        return quoted(str(value))


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


@dataclass(frozen=True, slots=True)
class Length:
    """A length of time, written with its unit."""

    least: timedelta
    most: timedelta
    why: str = ""
    """Whose limit `most` is, where it is not ours: a phrase for the problem and the reference."""
    name = "length of time"

    @property
    def allowed(self) -> str:
        """The range."""
        reason = f" ({self.why})" if self.why else ""
        return f"`{quoted(length_text(self.least))}` to `{quoted(length_text(self.most))}`{reason}"

    def read(self, value: object) -> timedelta:
        """The length."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise Refused(
                f'{shown(value)} is a limit without a unit; write "{shown(value)}s" or another unit: ms, s, m, h'
            )
        text = text_of(value)
        try:
            length = parse_duration(text)
        except DurationInvalid as error:
            if text.strip().isdigit():
                raise Refused(f"{shown(text)} is a limit without a unit; add one: ms, s, m, h") from error
            raise Refused(f"{shown(text)} is not a length of time; write 500ms, 15s, 2m or 1h") from error
        if length > self.most:
            reason = f": {self.why}" if self.why else ""
            raise Refused(f"{shown(text)} is over {length_text(self.most)}{reason}")
        if length < self.least:
            raise Refused(f"{shown(text)} is below {length_text(self.least)}")
        return length

    def write(self, value: timedelta) -> str:
        """The length in quotation marks."""
        return quoted(length_text(value))


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number of things."""

    least: int
    most: int
    name = "number"

    @property
    def allowed(self) -> str:
        """The range."""
        return f"{self.least} to {self.most}"

    def read(self, value: object) -> int:
        """The number itself."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise Refused(f"{shown(value)} is {toml_type(value)}, not a whole number")
        if not self.least <= value <= self.most:
            raise Refused(f"{shown(value)} is not in {self.least} to {self.most}")
        return value

    def write(self, value: int) -> str:
        """The number in digits."""
        return str(value)


@dataclass(frozen=True, slots=True)
class AppNames:
    """Names of apps, each once."""

    most: int
    name = "list of names"

    @property
    def allowed(self) -> str:
        """How many, and of what."""
        return f"at most {self.most} names of apps, each once"

    def read(self, value: object) -> tuple[str, ...]:
        """The names in the order of the file."""
        if not isinstance(value, list):
            raise Refused(f'{shown(value)} is {toml_type(value)}, not a list of names; write ["orders-db", "web"]')
        if len(value) > self.most:
            raise Refused(f"the list has {len(value)} names, over {self.most}")
        names: list[str] = []
        for entry in value:
            name = text_of(entry)
            try:
                check_name(name)
            except NameInvalid as error:
                raise Refused(error.sentence) from error
            if name in names:
                raise Refused(f"{shown(name)} is there twice")
            names.append(name)
        return tuple(names)

    def write(self, value: tuple[str, ...]) -> str:
        """The names in brackets."""
        return "[" + ", ".join(quoted(name) for name in value) + "]"


@dataclass(frozen=True, slots=True)
class PathPatterns:
    """Patterns of absolute paths, each once."""

    most: int
    name = "list of patterns"

    @property
    def allowed(self) -> str:
        """How many, and of what."""
        return f"at most {self.most} patterns of absolute paths, each once"

    def read(self, value: object) -> tuple[str, ...]:
        """The patterns in the order of the file."""
        if not isinstance(value, list):
            raise Refused(
                f'{shown(value)} is {toml_type(value)}, not a list of patterns; write ["/boot/efi", "/mnt/*"]'
            )
        if len(value) > self.most:
            raise Refused(f"the list has {len(value)} patterns, over {self.most}")
        patterns = [str(AbsolutePath().read(entry)) for entry in value]
        for number, pattern in enumerate(patterns):
            if pattern in patterns[:number]:
                raise Refused(f"{shown(pattern)} is there twice")
        return tuple(patterns)

    def write(self, value: tuple[str, ...]) -> str:
        """The patterns in brackets."""
        return "[" + ", ".join(quoted(pattern) for pattern in value) + "]"
