"""One rule of `[[apps.policy]]`, as the configuration has it. What the rules come to is in `broker/policy.py`."""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, Final

from appvss.broker.options import Count, Kind, Length, option
from appvss.model.app import Requirement
from appvss.model.errors import NameInvalid
from appvss.model.names import NAME_LIMIT, check_name
from appvss.model.toml_value import Choice, Flag, Refused, quoted, shown, text_of, toml_type

RULES: Final = "apps.policy"
"""The key of the rules."""
RULES_MOST: Final = 500
USERS_MOST: Final = 32
"""Users that one rule may name."""
ORDER_LEAST: Final = -(2**31)
ORDER_MOST: Final = 2**31 - 1
"""Orders go over the wire as `int32` (`proto/appvss/v1/app.proto`)."""
_UID_MOST: Final = 2**32 - 2
"""The highest number is kept for "no user" (chown(2))."""
_WILDCARDS: Final = "*?"


@dataclass(frozen=True, slots=True)
class NamePattern:
    """An app's name, or a pattern of names."""

    name = "name or pattern"
    allowed = f"at most {NAME_LIMIT} characters of an app's name, `*` for any characters, `?` for any one"

    def read(self, value: object) -> str:
        """The text itself."""
        text = text_of(value)
        try:
            check_name(text.translate(dict.fromkeys(map(ord, _WILDCARDS), "x")), "name")
        except NameInvalid as error:
            if text and len(text) <= NAME_LIMIT:
                raise Refused(f"{shown(text)} has a character that no app's name has, nor is it * or ?") from error
            raise Refused(error.sentence) from error
        return text

    def write(self, value: str) -> str:
        """The text in quotation marks."""
        return quoted(value)


@dataclass(frozen=True, slots=True)
class Users:
    """Users of this machine, by number or by name. The value has numbers alone, in ascending order."""

    most: int
    name = "list of users"

    @property
    def allowed(self) -> str:
        """How many, and of what."""
        return f"1 to {self.most} numbers, or names of users that exist, each user once"

    def read(self, value: object) -> tuple[int, ...]:
        """The users' numbers."""
        if not isinstance(value, list):
            raise Refused(f'{shown(value)} is {toml_type(value)}, not a list of users; write ["postgres", 1001]')
        if not 1 <= len(value) <= self.most:
            raise Refused(f"the list has {len(value)} users, not 1 to {self.most}")
        users: list[int] = []
        for entry in value:
            user = _user(entry)
            if user in users:
                raise Refused(f"{shown(entry)} is user {user}, who is there twice")
            users.append(user)
        return tuple(sorted(users))

    def write(self, value: tuple[int, ...]) -> str:
        """The numbers in brackets."""
        return "[" + ", ".join(map(str, value)) + "]"


def _user(entry: object) -> int:
    if isinstance(entry, int) and not isinstance(entry, bool):
        if not 0 <= entry <= _UID_MOST:
            raise Refused(f"{shown(entry)} is no number of a user: 0 to {_UID_MOST}")
        return entry
    if not isinstance(entry, str):
        raise Refused(f"{shown(entry)} is {toml_type(entry)}, not a user's number or name")
    name = text_of(entry)
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError) as error:  # ValueError: a text that the system's encoding does not have
        raise Refused(f"there is no user {shown(name)} on this machine") from error


@dataclass(frozen=True, slots=True)
class AppPolicyOptions:
    """A rule for the apps of one name, or of a pattern of names. It decides what it has a key for, and nothing else.
    Rules for an exact name go before those with a pattern, and then the order of the file counts: each key comes from
    the first rule that fits and has it.
    """

    name: str = field(
        default="",
        metadata=option(
            NamePattern(), "Which apps it is for. Instances do not matter.", needed=True, example="orders-db"
        ),
    )
    requirement: Requirement | None = field(
        default=None,
        metadata=option(
            Choice(Requirement),
            "What their failure does to the verdict: `required` fails the cycle, `tolerated` is named in the verdict, "
            "`ignored` stands in the list of outcomes alone.",
            example=Requirement.REQUIRED,
        ),
    )
    order: int | None = field(
        default=None,
        metadata=option(
            Count(ORDER_LEAST, ORDER_MOST),
            "When they freeze: lower ones first, those of one order together. The thaw is the exact reverse.",
            example=50,
        ),
    )
    freeze_timeout: timedelta | None = field(
        default=None,
        metadata=option(
            Length(timedelta(milliseconds=100), timedelta(hours=1)),
            "The time that they need to get quiet, whatever they declare. In a freeze that has less, an app that is "
            "`required` fails it before anything is frozen, and any other is left out.",
            example=timedelta(seconds=5),
        ),
    )
    hold_limit: timedelta | None = field(
        default=None,
        metadata=option(
            Length(timedelta(milliseconds=100), timedelta(hours=24)),
            "The longest time that they may stay quiet. It only shortens: what an app declares is never made longer.",
            example=timedelta(seconds=60),
        ),
    )
    uid: tuple[int, ...] | None = field(
        default=None,
        metadata=option(
            Users(USERS_MOST),
            "Whose processes may register under the name. All others are refused, those of root and those without a "
            "token among them.",
            example=(0,),
        ),
    )
    present: bool | None = field(
        default=None,
        metadata=option(
            Flag(),
            "Whether a cycle fails when no such app is registered, as with `apps.required`, which makes the app "
            "`required` as well. Only for a name without `*` and `?`.",
            example=True,
        ),
    )
    set_aside_after: int | None = field(
        default=None,
        metadata=option(
            Count(0, 100),
            "After how many failures in a row they are not asked to freeze any more, which every verdict then names. "
            "They are asked again once they register with a new process, or have held in a rehearsal. 0: never.",
            example=3,
        ),
    )
    watch_paths: bool | None = field(
        default=None,
        metadata=option(
            Flag(),
            "Whether the broker looks for changes of the paths that they declared while they are held. A change lowers "
            "the verdict.",
            example=True,
        ),
    )

    @property
    def is_exact(self) -> bool:
        """Whether it is for one name alone."""
        return not any(wildcard in self.name for wildcard in _WILDCARDS)


_KINDS: Final[Mapping[str, Kind[Any]]] = {entry.name: entry.metadata["kind"] for entry in fields(AppPolicyOptions)}
RULE_KEYS: Final = tuple(name for name in _KINDS if name != "name")
"""What a rule may decide."""


def written(key: str, value: object) -> str:
    """The value of one of a rule's keys as the configuration would write it."""
    return _KINDS[key].write(value)


def place_of(number: int, key: str = "") -> str:
    """How problems and notes name a rule, or a key of it. Rules are counted from 1, in the order of the file."""
    return f"{RULES} rule {number}" + (f", {key}" if key else "")
