"""How one option of the configuration is read, checked, written and described.

Each kind of value knows four things: what TOML value it takes, which values it allows, how it is written back, and how
it is named for people. The options themselves stand in `broker/configuration.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from appvss.model.duration import parse_duration
from appvss.model.errors import DurationInvalid, NameInvalid
from appvss.model.names import check_name
from appvss.model.toml_value import Refused, length_text, quoted, shown, text_of, toml_type

_PATH_LIMIT: Final = 1024
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
