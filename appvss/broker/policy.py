"""What the administrator's configuration decides about apps, and where every value in force comes from. Pure.

For each key of an app the first of these counts that has one: `apps.required`; the rules of `apps.policy` for its exact
name, in the order of the file; the rules whose pattern fits its name, in the order of the file; what the app declares;
what is built in.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, TypeVar

from appvss.broker.configuration import APP_LIMIT_MOST, Configuration
from appvss.broker.configuration_reader import sections
from appvss.broker.policy_options import RULE_KEYS, RULES, AppPolicyOptions, place_of, written
from appvss.broker.source_options import limits_of, sources_of
from appvss.cycle.state import ANSWER_MARGIN
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.duration import format_duration
from appvss.model.names import printable
from appvss.model.policy import PolicyValue
from appvss.model.source import SourceMode
from appvss.model.toml_value import length_text

BUILT_IN: Final = "built-in"
THE_APP: Final = "the app"
COMMAND_LINE: Final = "command line"
REQUIRED: Final = "apps.required"
_ORIGIN_LIMIT: Final = 120
"""Characters: thousands of rows name the file."""
_USERS_SHOWN: Final = 8
_DECLARED: Final = ("requirement", "order", "freeze_timeout", "hold_limit", "watch_paths")
"""What an app may declare of the things that a rule may decide."""
_SECTIONS: Final = (
    "sources.freebsd",
    "sources.linux_hv_vss",
    "sources.linux_netlink",
    "sources.local",
    "sources.hook",
    "cycle",
    "apps",
    "history",
    "filesystems",
)

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Word:
    """All that the administrator says about the apps of one name."""

    said: AppPolicyOptions
    """As one rule."""
    origins: Mapping[str, str]
    """For each key that it has, where that stands."""


class AppPolicy:
    """The administrator's word about apps.

    Args:
        configuration: what is in force. After a reload, make a new policy.
    """

    def __init__(self, configuration: Configuration) -> None:
        apps = configuration.apps
        self._required = frozenset(apps.required)
        self._expected = tuple(dict.fromkeys((*apps.required, *(rule.name for rule in apps.policy if rule.present))))
        self._exact: dict[str, list[AppPolicyOptions]] = {}
        self._patterns: list[tuple[Callable[[str], object], AppPolicyOptions]] = []
        for rule in apps.policy:
            if rule.is_exact:
                self._exact.setdefault(rule.name, []).append(rule)
            else:
                self._patterns.append((re.compile(fnmatch.translate(rule.name)).match, rule))
        # Every question about a known app takes a moment, also with the most rules and the most apps that there can be.
        self._word = lru_cache(APP_LIMIT_MOST)(self._find)

    def in_force(self, declared: Registration) -> Registration:
        """What counts of an app that declares this. A hold limit is only ever made shorter."""
        said = self._word(declared.app.name).said
        return replace(
            declared,
            requirement=_either(said.requirement, declared.requirement),
            order=_either(said.order, declared.order),
            freeze_timeout=_either(said.freeze_timeout, declared.freeze_timeout),
            hold_limit=min(_either(said.hold_limit, declared.hold_limit), declared.hold_limit),
            watch_paths=_either(said.watch_paths, declared.watch_paths),
        )

    def values(self, declared: Registration) -> tuple[PolicyValue, ...]:
        """Every value that counts for an app that declares this, with its origin. What nobody has decided has no row.

        A value that the app declares and that is the built-in one is `built-in`: on the wire the two look alike.
        """
        word = self._word(declared.app.name)
        in_force, built_in = self.in_force(declared), Registration(declared.app)
        rows: list[PolicyValue] = []
        for key in _DECLARED:
            value, said = getattr(in_force, key), getattr(word.said, key)
            origin = THE_APP if value != getattr(built_in, key) else BUILT_IN
            if said is not None and value == said:
                origin = word.origins[key]
            if value is not None:
                rows.append(PolicyValue(key, written(key, value), origin))
        for key in ("uid", "present"):
            value = getattr(word.said, key)
            if value is not None:
                rows.append(PolicyValue(key, written(key, value), word.origins[key]))
        origin = word.origins.get("set_aside_after", BUILT_IN)
        rows.append(PolicyValue("set_aside_after", str(self.set_aside_after(declared.app)), origin))
        return tuple(rows)

    def refusal(self, app: AppId, uid: int | None) -> str:
        """Why this app may not register under its name; empty: it may.

        Args:
            app: who it wants to be.
            uid: whose process it is, by the kernel's word; None: nobody knows, and no rule about users admits that.
                Root is one user among others.
        """
        word = self._word(app.name)
        allowed = word.said.uid
        if allowed is None or uid in allowed:
            return ""
        who = "an app without a token" if uid is None else f"user {uid}"
        users = ", ".join(map(str, allowed[:_USERS_SHOWN]))
        more = f" and {len(allowed) - _USERS_SHOWN} more" if len(allowed) > _USERS_SHOWN else ""
        plural = "s" if len(allowed) > 1 else ""
        return f"{who} may not register as {app}: {word.origins['uid']} allows user{plural} {users}{more} alone"

    def expected(self) -> tuple[str, ...]:
        """The names of the apps without which a cycle fails."""
        return self._expected

    def set_aside_after(self, app: AppId) -> int:
        """After how many failures in a row it is not asked any more; 0: never."""
        return self._word(app.name).said.set_aside_after or 0

    def _find(self, name: str) -> _Word:
        said: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for rule, origin in self._fitting(name):
            for key in RULE_KEYS:
                value = getattr(rule, key)
                if value is not None and key not in said:
                    said[key], origins[key] = value, origin
        return _Word(AppPolicyOptions(name, **said), origins)

    def _fitting(self, name: str) -> Iterator[tuple[AppPolicyOptions, str]]:
        """All that is said about apps of this name with its origin, what counts most first."""
        if name in self._required:
            yield AppPolicyOptions(name, requirement=Requirement.REQUIRED, present=True), REQUIRED
        for rule in self._exact.get(name, ()):
            yield rule, _rule_origin(rule)
        for fits, rule in self._patterns:
            if fits(name):
                yield rule, _rule_origin(rule)


def _either(said: _Value | None, otherwise: _Value) -> _Value:
    return otherwise if said is None else said


def _rule_origin(rule: AppPolicyOptions) -> str:
    return f"{RULES} {written('name', rule.name)}"


def policy_in_force(configuration: Configuration, overridden: frozenset[str]) -> tuple[PolicyValue, ...]:
    """Every value that decides about cycles, with its origin: the options of sources, cycle, apps and history, then the
    rules for apps, one row for each key of each. A rule's key that repeats an earlier one has no row of its own.

    Args:
        configuration: what is in force.
        overridden: the keys that the command line decides (`Configuration.overridden`).
    """
    file = printable(configuration.origin, _ORIGIN_LIMIT) or BUILT_IN
    rows: dict[str, PolicyValue] = {}
    for section in sections(Configuration):
        if section.name not in _SECTIONS:
            continue
        for entry in section.options:
            origin = COMMAND_LINE if entry.key in overridden else file if entry.key in configuration.given else BUILT_IN
            value = attrgetter(entry.key)(configuration)
            rows[entry.key] = PolicyValue(entry.key, entry.kind.write(value), origin)
    for rule in configuration.apps.policy:
        for key in RULE_KEYS:
            value = getattr(rule, key)
            if value is not None:
                name = f"{_rule_origin(rule)} {key}"
                rows.setdefault(name, PolicyValue(name, written(key, value), file))
    return tuple(rows.values())


def notes(configuration: Configuration) -> tuple[str, ...]:
    """What is allowed and can hardly be meant, one sentence each: limits that cannot fit, rules that decide nothing."""
    return tuple(
        text for number, rule in enumerate(configuration.apps.policy, 1) for text in _notes(number, rule, configuration)
    )


def _notes(number: int, rule: AppPolicyOptions, configuration: Configuration) -> Iterator[str]:
    if all(getattr(rule, key) is None for key in RULE_KEYS):
        yield f"{place_of(number)}: it decides nothing about {written('name', rule.name)}"
    if rule.freeze_timeout is not None:
        for source, room in _rooms(configuration):
            if rule.freeze_timeout > room:
                yield (
                    f"{place_of(number, 'freeze_timeout')}: {length_text(rule.freeze_timeout)} cannot fit into the "
                    f"{format_duration(room)} that sources.{source} has for the apps; an app that is required fails "
                    "every such freeze, any other is left out"
                )
    longest = max(_hold_limits(configuration), default=None)
    if rule.hold_limit is not None and longest is not None and rule.hold_limit > longest:
        yield (
            f"{place_of(number, 'hold_limit')}: {length_text(rule.hold_limit)} shortens nothing; no source holds "
            f"longer than {length_text(longest)}"
        )


def _rooms(configuration: Configuration) -> Iterator[tuple[str, timedelta]]:
    """For every source that is on, what a freeze of it has for the apps at most."""
    for name, options in sources_of(configuration.sources):
        if options.mode is not SourceMode.OFF:
            limits = limits_of(options)
            yield name, limits.budget - limits.reserve - ANSWER_MARGIN


def _hold_limits(configuration: Configuration) -> Iterator[timedelta]:
    for _, options in sources_of(configuration.sources):
        if options.mode is not SourceMode.OFF:
            yield options.hold_limit
