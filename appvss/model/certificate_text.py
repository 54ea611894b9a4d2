"""Reading and writing the parts of a certificate's JSON, strictly: what is not as it must be is refused by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, TypeVar

from appvss.model.app import AppId
from appvss.model.errors import CertificateInvalid, NameInvalid
from appvss.model.names import printable

TEXT_LIMIT: Final = 2000
"""Longest text in a certificate, in characters."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_Word = TypeVar("_Word", bound=StrEnum)


def invalid(what: str) -> CertificateInvalid:
    """The error for a certificate that `what`, such as "has no member 'cycle'"."""
    return CertificateInvalid(
        f"the certificate {what}",
        "Name a certificate.json of a state directory, as `appvss` of this version or an earlier one wrote it.",
    )


def safe(text: str) -> str:
    """`text` as a certificate may carry it: printable, on one line, within `TEXT_LIMIT`."""
    return printable(text, TEXT_LIMIT)


def microseconds(length: timedelta) -> int:
    """`length` as a whole number, so that every language writes it in one way."""
    return length // _MICROSECOND


def rfc3339(time: timedelta) -> str:
    """A time since 1970-01-01 UTC as text: `2026-11-20T15:00:31.000000Z` (RFC 3339)."""
    return f"{(_EPOCH + time).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def certificate_table(text: str) -> Table:
    """The JSON object in `text`.

    Raises:
        CertificateInvalid: it is none, or names a member twice.
        RecursionError: it is nested too deeply.
    """
    try:
        found = json.loads(text, object_pairs_hook=_members, parse_constant=_no_number)
    except ValueError as error:  # not only JSONDecodeError: a number of thousands of digits, too
        why = safe(str(error))
        raise invalid(f"is not JSON: {why[:1].lower()}{why[1:]}") from error
    if not isinstance(found, dict):
        raise invalid("is not a JSON object")
    return Table(found, "")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # Readers differ in which of the two they take, so that two people would see two certificates with one digest.
        raise invalid("names a member twice")
    return members


def _no_number(word: str) -> None:
    raise invalid(f"has the number {word}")


class Table:
    """One JSON object, whose members are taken out one by one; as a context it refuses those that nobody took.

    Every method raises CertificateInvalid when the member is missing or is of another kind.

    Args:
        whole: the object.
        place: where it stands, for the sentence: `limits.`.
    """

    def __init__(self, whole: dict[str, Any], place: str) -> None:
        self.whole = whole
        self._place = place
        self._taken: set[str] = set()

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.end()

    def end(self) -> None:
        """Refuse members that this version does not know: the digest would vouch for something that nobody read."""
        if unknown := sorted(set(self.whole) - self._taken):
            raise invalid(f"has the unknown member {safe(self._place + unknown[0])!r}")

    def has(self, key: str) -> bool:
        """Whether a member that must be there is not null. A null needs no further taking."""
        return self._take(key) is not None

    def text(self, key: str) -> str:
        """A text."""
        return self._text(key, self._take(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self._text(key, one) for one in self._list(key))

    def mapping(self, key: str) -> dict[str, str]:
        """An object whose members are texts."""
        found = self._take(key)
        if not isinstance(found, dict):
            raise self._wrong(key, "an object")
        return {self._text(key, name): self._text(key, value) for name, value in found.items()}

    def number(self, key: str) -> int:
        """A whole number."""
        found = self._take(key)
        if type(found) is not int:  # a boolean is an int, too
            raise self._wrong(key, "a whole number")
        return found

    def flag(self, key: str) -> bool:
        """True or false."""
        found = self._take(key)
        if not isinstance(found, bool):
            raise self._wrong(key, "true or false")
        return found

    def length(self, key: str) -> timedelta:
        """A length of time in microseconds."""
        try:
            return timedelta(microseconds=self.number(key))
        except OverflowError as error:
            raise self._wrong(key, "a length of time") from error

    def time(self, key: str) -> timedelta:
        """A time as `rfc3339` writes it."""
        text = self.text(key)
        try:
            time = datetime.fromisoformat(text) - _EPOCH
            if rfc3339(time) == text:
                return time
        except (ValueError, TypeError, OverflowError) as error:  # TypeError: without a time zone
            raise self._wrong(key, "a time in UTC with microseconds") from error
        raise self._wrong(key, "a time in UTC with microseconds")

    def word(self, key: str, words: type[_Word]) -> _Word:
        """One word of several."""
        try:
            return words(self.text(key))
        except ValueError as error:
            raise self._wrong(key, f"one of {', '.join(words)}") from error

    def app(self) -> AppId:
        """The app that the members `name` and `instance` name."""
        try:
            return AppId(self.text("name"), self.text("instance"))
        except NameInvalid as error:
            raise invalid(f"names an app that cannot be: {error}") from error

    def table(self, key: str) -> Table:
        """An object."""
        return self._table(key, self._take(key))

    def tables(self, key: str) -> tuple[Table, ...]:
        """A list of objects."""
        return tuple(self._table(f"{key}[{index}]", one) for index, one in enumerate(self._list(key)))

    def _take(self, key: str) -> Any:
        if key not in self.whole:
            raise invalid(f"has no member {self._place + key!r}")
        self._taken.add(key)
        return self.whole[key]

    def _list(self, key: str) -> list[Any]:
        found = self._take(key)
        if not isinstance(found, list):
            raise self._wrong(key, "a list")
        return found

    def _table(self, place: str, found: Any) -> Table:
        if not isinstance(found, dict):
            raise self._wrong(place, "an object")
        return Table(found, f"{self._place}{place}.")

    def _text(self, key: str, found: Any) -> str:
        if not isinstance(found, str) or found != safe(found):
            raise self._wrong(key, f"a printable text of at most {TEXT_LIMIT} characters")
        return found

    def _wrong(self, key: str, wanted: str) -> CertificateInvalid:
        return invalid(f"has a member {self._place + key!r} that is not {wanted}")
