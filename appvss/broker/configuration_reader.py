"""Reading a TOML file against a schema of dataclasses. Every problem is found before any is reported.

The schema is a tree of frozen dataclasses whose fields are options (`broker/options.py`) or sections of their own.
Nothing here knows any single option.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from appvss.broker.options import Option, Refused, toml_type
from appvss.model.errors import ConfigurationInvalid, ConfigurationUnreadable
from appvss.model.names import printable

FILE_LIMIT: Final = 64 * 1024
"""Bytes: a larger file is not a configuration."""
_KEY_SHOWN: Final = 64
_POSITION: Final = re.compile(
    r"^(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$", re.DOTALL
)

_Schema = TypeVar("_Schema")


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the file."""

    name: str
    """Such as `sources.freebsd`."""
    meaning: str
    options: tuple[Option, ...]


@dataclass(slots=True)
class Reading(Generic[_Schema]):
    """What came of a file. While there are problems, the options that have them are at their defaults."""

    value: _Schema
    given: set[str] = field(default_factory=set)
    """The keys that the file sets to something that is allowed."""
    problems: list[str] = field(default_factory=list)
    """One line each, `key: what is wrong`, in the order of the file."""
    wrong: set[str] = field(default_factory=set)
    """The keys that have a problem."""


def sections(schema: type[Any], prefix: str = "") -> Iterator[Section]:
    """Every section of `schema` that has options, in the order of the schema."""
    options = tuple(_option(entry, prefix) for entry in fields(schema) if "kind" in entry.metadata)
    if options:
        yield Section(prefix.rstrip("."), (schema.__doc__ or "").strip(), options)
    for name, part in _parts(schema).items():
        yield from sections(part, f"{prefix}{name}.")


def _parts(schema: type[Any]) -> dict[str, type[Any]]:
    factories: dict[str, object] = {entry.name: entry.default_factory for entry in fields(schema)}
    return {name: factory for name, factory in factories.items() if is_dataclass(factory) and isinstance(factory, type)}


def _option(entry: Field[Any], prefix: str) -> Option:
    kind = entry.metadata["kind"]
    return Option(
        key=prefix + entry.name,
        kind=kind,
        default=entry.default,
        default_text=entry.metadata["default_text"] or f"`{kind.write(entry.default)}`",
        meaning=entry.metadata["meaning"],
    )


def read_document(schema: type[_Schema], document: Mapping[str, object]) -> Reading[_Schema]:
    """The values of a parsed file, with every problem that a value alone can have."""
    reading = Reading(schema())
    reading.value = _read_table(schema, document, "", reading)
    return reading


def _read_table(schema: type[Any], table: Mapping[str, object], prefix: str, reading: Reading[Any]) -> Any:
    kinds = {entry.name: entry.metadata["kind"] for entry in fields(schema) if "kind" in entry.metadata}
    parts = _parts(schema)
    values: dict[str, Any] = {}
    for name, value in table.items():
        key = prefix + printable(name, _KEY_SHOWN)
        if name in parts and isinstance(value, Mapping):
            values[name] = _read_table(parts[name], value, f"{key}.", reading)
        elif name in parts:
            reading.problems.append(f"{key}: this is a section, [{key}], and not {toml_type(value)}")
        elif name not in kinds:
            reading.problems.append(
                f"{key}: there is no such {_what(value)}{_suggestion(type(reading.value), name, prefix)}"
            )
        else:
            try:
                values[name] = kinds[name].read(value)
                reading.given.add(key)
            except Refused as error:
                reading.problems.append(f"{key}: {error}")
                reading.wrong.add(key)
    return schema(**values)


def _what(value: object) -> str:
    return "section" if isinstance(value, Mapping) else "key"


def _suggestion(schema: type[Any], name: str, prefix: str) -> str:
    """The key or section that was probably meant: one that is spelt alike here, or has the same name elsewhere."""
    known = list(sections(schema))
    keys = [option.key for section in known for option in section.options]
    every = sorted({parent for key in keys for parent in _parents(key)}) + keys
    here = difflib.get_close_matches(prefix + name, every, n=1, cutoff=0.75)
    last = {key.rpartition(".")[2]: key for key in reversed(every)}
    elsewhere = difflib.get_close_matches(name, last, n=1, cutoff=0.8)
    meant = here[0] if here else last[elsewhere[0]] if elsewhere else ""
    return f"; did you mean {meant}?" if meant else ""


def _parents(key: str) -> Iterator[str]:
    while parent := key.rpartition(".")[0]:
        yield (key := parent)


def parse_file(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigurationUnreadable: the file is not there, may not be read, or is no regular file of a sensible size.
        ConfigurationInvalid: it is not TOML; the problem names line and column.
    """
    try:
        text = _content(path).decode()
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationInvalid(str(path), [f"line {line}: the file is not UTF-8 text"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationInvalid(str(path), [_toml_problem(str(error), text)]) from error
    except RecursionError as error:
        raise ConfigurationInvalid(str(path), ["the values are nested too deeply"]) from error
    except ValueError as error:  # what Python says to an integer of more than 4300 digits
        raise ConfigurationInvalid(str(path), ["a number has too many digits"]) from error


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ConfigurationUnreadable(str(path), "it is not a regular file")
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigurationUnreadable(str(path), (error.strerror or str(error)).lower()) from error
    except ValueError as error:  # a zero byte in the name
        raise ConfigurationUnreadable(printable(str(path)), str(error)) from error
    if len(content) > FILE_LIMIT:
        raise ConfigurationUnreadable(str(path), f"it has more than {FILE_LIMIT} bytes")
    return content


def _toml_problem(message: str, text: str) -> str:
    found = _POSITION.match(message)
    if found is None:
        return f"not TOML: {printable(message)}"
    lines = text.split("\n")
    line, column = found["line"] or len(lines), found["column"] or len(lines[-1]) + 1
    return f"line {line}, column {column}: {printable(found['what'][:1].lower() + found['what'][1:])}"
