"""Values of `model/` as bytes, and back: the private format of the database, which only this room reads.

A value is written by the types of its fields, so that a field that is new in `model/` needs no line here. Read from an
older document it has its default; a document of a newer version has fields that are passed over. The bytes are
compressed, which also gives each document a checksum of its own: a flipped bit is noticed, not believed.
"""

from __future__ import annotations

import dataclasses
import json
import types
import zlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from appvss.model.errors import AppvssError

SIZE_LIMIT: Final = 256 * 1024 * 1024
"""Longest document, in bytes as JSON. Twenty thousand apps with all the evidence that is allowed have less."""

_MICROSECOND: Final = timedelta(microseconds=1)
_LEVEL: Final = 1
"""zlib's fastest: a cycle of thousands of apps is packed while they wait."""
_T = TypeVar("_T")


class DocumentInvalid(ValueError):
    """Bytes that are no document, or not of the kind that was wanted."""


def pack(value: object) -> bytes:
    """`value` as bytes: a dataclass of `model/`, or a tuple of them."""
    return pack_text(json.dumps(_plain(value), separators=(",", ":"), check_circular=False))


def unpack(kind: type[_T], data: bytes) -> _T:
    """The value of `kind`, such as `PastCycle` or `tuple[PastEvent, ...]`, in `data`.

    Raises:
        DocumentInvalid: it is none.
    """
    try:
        return cast(_T, _reader(cast(Any, kind))(json.loads(unpack_text(data))))
    except DocumentInvalid:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, AppvssError) as error:
        raise DocumentInvalid(f"a document is not as it should be: {error!r}") from error


def pack_text(text: str) -> bytes:
    """`text` as bytes."""
    return zlib.compress(text.encode("utf-8", "surrogatepass"), _LEVEL)


def unpack_text(data: bytes) -> str:
    """The text in `data`.

    Raises:
        DocumentInvalid: there is none, or it is longer than `SIZE_LIMIT`.
    """
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, SIZE_LIMIT)
        if not unpacker.eof:
            raise DocumentInvalid(f"a document is cut off, or has more than {SIZE_LIMIT} bytes")
        return text.decode("utf-8", "surrogatepass")
    except (zlib.error, UnicodeDecodeError, TypeError) as error:
        raise DocumentInvalid(f"a document is damaged: {error}") from error


def _plain(value: Any) -> Any:
    """`value` in words of JSON. An empty field whose default is as empty is left out, as most of a registration is. A
    default that says something is written: a later version may have another.
    """
    if value is None or isinstance(value, (str, int)):  # StrEnum and bool among them
        return value
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return dict(value)
    return {
        name: _plain(held)
        for name, default in _fields(cast(Any, type(value)))
        if (held := getattr(value, name)) or held != default
    }


@cache
def _fields(kind: type) -> tuple[tuple[str, object], ...]:
    """The names and defaults of what a value of `kind` is made with."""
    return tuple((one.name, _default(one)) for one in dataclasses.fields(kind) if one.init)


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default  # MISSING equals nothing


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """What makes a value of `kind` out of JSON, or raises."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in (str, int, bool):
        return _exactly(kind)
    if kind is timedelta:
        whole = _exactly(int)
        return lambda found: timedelta(microseconds=whole(found))
    if origin is tuple:
        one = _reader(arguments[0])
        return lambda found: tuple(one(element) for element in _exactly(list)(found))
    if origin in (Union, types.UnionType):
        (other,) = (_reader(argument) for argument in arguments if argument is not type(None))
        return lambda found: None if found is None else other(found)
    if origin is not None and issubclass(origin, Mapping):
        key, value = (_reader(argument) for argument in arguments)
        return lambda found: {key(name): value(held) for name, held in _exactly(dict)(found).items()}
    if issubclass(kind, StrEnum):
        return cast(Callable[[Any], Any], kind)
    return _record_reader(kind)


def _record_reader(kind: type) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    readers = {one.name: _reader(hints[one.name]) for one in dataclasses.fields(kind) if one.init}

    def read(found: Any) -> Any:
        known = {name: readers[name](held) for name, held in _exactly(dict)(found).items() if name in readers}
        return kind(**known)

    return read


def _exactly(kind: type[_T]) -> Callable[[Any], _T]:
    def read(found: Any) -> _T:
        if type(found) is not kind:  # a boolean is an int, too
            raise DocumentInvalid(f"{found!r:.80} is no {kind.__name__}")
        return found

    return read
