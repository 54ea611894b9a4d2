"""Reading a TOML file against a schema of dataclasses. Every problem is found before any is reported.

The schema is a tree of frozen dataclasses whose fields are options (`broker/options.py`), sections of their own, or
arrays of tables, `[[name]]`.
Nothing here knows any single option.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, Final, Generic, TypeVar

from appvss.broker.options import Option, Tables
from appvss.model.names import printable
from appvss.model.toml_value import Refused, toml_type

_KEY_SHOWN: Final = 64

_Schema = TypeVar("_Schema")


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the file."""

    name: str
    """Such as `sources.freebsd`."""
    meaning: str
    options: tuple[Option, ...]
    most: int = 0
    """How many tables of this name there may be, one after the other; 0: it is a single one."""

    @property
    def heading(self) -> str:
        """As the file has it: `[apps]`, `[[apps.policy]]`."""
        return f"[[{self.name}]]" if self.most else f"[{self.name}]"


@dataclass(slots=True)
class Reading(Generic[_Schema]):
    """What came of a file. While there are problems, the options that have them are at their defaults."""

    value: _Schema
    given: set[str] = field(default_factory=set)
    """The keys that the file sets to something that is allowed. One in an array of tables has the table's number:
    `apps.policy rule 2, order`."""
    problems: list[str] = field(default_factory=list)
    """One line each, `key: what is wrong`, in the order of the file."""
    wrong: set[str] = field(default_factory=set)
    """The keys that have a problem."""


def sections(schema: type[Any], prefix: str = "", most: int = 0) -> Iterator[Section]:
    """Every section of `schema` that has options, in the order of the schema; arrays of tables after single tables.

    Args:
        schema: the dataclass.
        prefix: what stands before its keys.
        most: how many tables of `schema` there may be; 0: it is a single one.
    """
    options = tuple(_option(entry, prefix) for entry in fields(schema) if "kind" in entry.metadata)
    if options:
        yield Section(prefix.rstrip("."), inspect.cleandoc(schema.__doc__ or "").replace("\n", " "), options, most)
    for name, part in _parts(schema).items():
        yield from sections(part, f"{prefix}{name}.")
    for name, array in _arrays(schema).items():
        yield from sections(array.schema, f"{prefix}{name}.", array.most)


def _parts(schema: type[Any]) -> dict[str, type[Any]]:
    factories: dict[str, object] = {entry.name: entry.default_factory for entry in fields(schema)}
    return {name: factory for name, factory in factories.items() if is_dataclass(factory) and isinstance(factory, type)}


def _arrays(schema: type[Any]) -> dict[str, Tables]:
    return {entry.name: entry.metadata["tables"] for entry in fields(schema) if "tables" in entry.metadata}


def _option(entry: Field[Any], prefix: str) -> Option:
    kind, example, is_needed = (entry.metadata[name] for name in ("kind", "example", "needed"))
    default_text = entry.metadata["default_text"]
    if default_text is None:
        default_text = "must be given" if is_needed else "not given"
        if entry.default is not None and not is_needed:
            default_text = f"`{kind.write(entry.default)}`"
    return Option(
        key=prefix + entry.name,
        kind=kind,
        default=entry.default,
        default_text=default_text,
        meaning=entry.metadata["meaning"],
        example=entry.default if example is None else example,
        is_needed=is_needed,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the file a table is."""

    shown: str = ""
    """What stands before its keys for people: `apps.policy rule 2, `."""
    prefix: str = ""
    """What stands before its keys in the schema: `apps.policy.`."""


def read_document(schema: type[_Schema], document: Mapping[str, object]) -> Reading[_Schema]:
    """The values of a parsed file, with every problem that a value alone can have."""
    reading = Reading(schema())
    reading.value = _read_table(schema, document, _Place(), reading)
    return reading


def _read_table(schema: type[Any], table: Mapping[str, object], place: _Place, reading: Reading[Any]) -> Any:
    kinds = {entry.name: entry.metadata["kind"] for entry in fields(schema) if "kind" in entry.metadata}
    parts, arrays = _parts(schema), _arrays(schema)
    values: dict[str, Any] = {}
    for name, value in table.items():
        key = place.shown + printable(name, _KEY_SHOWN)
        if name in parts and isinstance(value, Mapping):
            values[name] = _read_table(parts[name], value, _Place(f"{key}.", f"{place.prefix}{name}."), reading)
        elif name in parts:
            _refuse(reading, key, f"this is a section, [{key}], and not {toml_type(value)}")
        elif name in arrays:
            values[name] = _read_tables(arrays[name], value, key, f"{place.prefix}{name}.", reading)
        elif name not in kinds:
            suggestion = _suggestion(type(reading.value), name, place.prefix)
            reading.problems.append(f"{key}: there is no such {_what(value)}{suggestion}")
        else:
            try:
                values[name] = kinds[name].read(value)
                reading.given.add(key)
            except Refused as error:
                _refuse(reading, key, str(error))
    for entry in fields(schema):
        if entry.metadata.get("needed") and entry.name not in table:
            _refuse(reading, place.shown + entry.name, "it is missing, and must be given")
    return schema(**values)


def _read_tables(array: Tables, value: object, key: str, prefix: str, reading: Reading[Any]) -> tuple[Any, ...]:
    """Every table of an array, also those that have problems, so that a table's number is its place."""
    if not isinstance(value, list):
        kind = toml_type(value)
        _refuse(reading, key, f"this is a list of tables, each under a [[{key}]] of its own, and not {kind}")
        return ()
    if len(value) > array.most:
        _refuse(reading, key, f"there are {len(value)} of them, over {array.most}")
        return ()
    reading.given.add(key)
    read: list[Any] = []
    for number, table in enumerate(value, 1):
        place = f"{key} {array.noun} {number}"
        if isinstance(table, Mapping):
            read.append(_read_table(array.schema, table, _Place(f"{place}, ", prefix), reading))
        else:
            _refuse(reading, place, f"this is a table, [[{key}]], and not {toml_type(table)}")
            read.append(array.schema())
    return tuple(read)


def _refuse(reading: Reading[Any], key: str, problem: str) -> None:
    reading.problems.append(f"{key}: {problem}")
    reading.wrong.add(key)


def _what(value: object) -> str:
    return "section" if isinstance(value, Mapping) else "key"


def _suggestion(schema: type[Any], name: str, prefix: str) -> str:
    """The key or section that was probably meant: one that is spelt alike here, or has the same name elsewhere."""
    known = list(sections(schema))
    options = [option.key for section in known for option in section.options]
    every = sorted({parent for key in options for parent in _parents(key)}) + options
    here = [key for key in every if key.rpartition(".")[0] == prefix.rstrip(".")]
    for keys, cutoff in ((here, 0.7), (every, 0.8)):
        last = {key.rpartition(".")[2]: key for key in reversed(keys)}
        meant = difflib.get_close_matches(name, last, n=1, cutoff=cutoff)
        if meant:
            return f"; did you mean {last[meant[0]]}?"
    return ""


def _parents(key: str) -> Iterator[str]:
    while parent := key.rpartition(".")[0]:
        yield (key := parent)
