"""What is wrong with a configuration that no value shows alone. A check is silent about a key that has a problem
already.
"""

from __future__ import annotations

import grp
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from appvss import contract
from appvss.broker.configuration_reader import Reading
from appvss.broker.policy_options import RULE_KEYS, RULES, AppPolicyOptions, place_of, written
from appvss.model.app import Requirement
from appvss.model.errors import SocketPathTooLong
from appvss.model.toml_value import length_text
from appvss.sources.wire.freebsd import LAST_MOMENT as FREEBSD_LAST_MOMENT

if TYPE_CHECKING:
    from appvss.broker.configuration import Configuration


def problems(reading: Reading[Configuration]) -> Iterator[str]:
    """Every problem that `reading` does not name yet, one line each, `key: what is wrong`."""
    for check in _CHECKS:
        yield from check(reading)


def group_exists(name: str) -> bool:
    """Whether this machine knows a group of that name."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _check_reserves(reading: Reading[Configuration]) -> Iterator[str]:
    sources = reading.value.sources
    for section, key, budget, reserve, last_moment in (
        ("freebsd", "budget", sources.freebsd.budget, sources.freebsd.filesystem_reserve, FREEBSD_LAST_MOMENT),
        *(
            (name, "freeze_budget", options.freeze_budget, options.filesystem_reserve, timedelta(0))
            for name, options in (("linux_hv_vss", sources.linux_hv_vss), ("linux_netlink", sources.linux_netlink))
        ),
    ):
        keys = {f"sources.{section}.{key}", f"sources.{section}.filesystem_reserve"}
        if not reading.wrong & keys and reserve >= budget - last_moment:
            margin = f", by more than the {length_text(last_moment)} in which no answer is sent" if last_moment else ""
            yield (
                f"sources.{section}.filesystem_reserve: {length_text(reserve)} is not below sources.{section}.{key}, "
                f"which is {length_text(budget)}{margin}; nothing would be left for the apps"
            )


def _check_socket_group(reading: Reading[Configuration]) -> Iterator[str]:
    key = "broker.socket_group"
    group = reading.value.broker.socket_group
    if key in reading.given and group and not group_exists(group):
        yield f'{key}: there is no group {group!r} on this machine; create it, or write "" for the broker\'s user alone'


def _check_socket_paths(reading: Reading[Configuration]) -> Iterator[str]:
    try:
        contract.socket_path(reading.value.broker.runtime_directory, contract.PEER_SOCKET)
    except SocketPathTooLong as error:
        yield f"broker.runtime_directory: {error}"


def _check_directories(reading: Reading[Configuration]) -> Iterator[str]:
    key, other = "broker.state_directory", "broker.runtime_directory"
    broker = reading.value.broker
    if not reading.wrong & {key, other} and broker.state_directory == broker.runtime_directory:
        yield (
            f"{key}: {broker.state_directory} is {other}, too; the broker alone may enter the one, and apps must "
            "enter the other"
        )


def _check_expected_apps(reading: Reading[Configuration]) -> Iterator[str]:
    apps = reading.value.apps
    if reading.wrong & {"apps.limit", "apps.required"}:
        return
    if len(apps.required) > apps.limit:
        yield f"apps.limit: {apps.limit} is below the {len(apps.required)} apps that apps.required names"
        return
    expected = set(apps.required).union(rule.name for rule in apps.policy if rule.present)
    if len(expected) > apps.limit:
        yield f"apps.limit: {apps.limit} is below the {len(expected)} apps that apps.required and {RULES} expect"


def _check_pattern_present(reading: Reading[Configuration]) -> Iterator[str]:
    for number, rule in enumerate(reading.value.apps.policy, 1):
        if rule.present is not None and not rule.is_exact:
            name = written("name", rule.name)
            yield f"{place_of(number, 'present')}: {name} is a pattern; only an app with a whole name can be missed"


def _check_contradictions(reading: Reading[Configuration]) -> Iterator[str]:
    """A rule that says something else of a key than an earlier one for the same name: either may be meant."""
    first: dict[tuple[str, str], tuple[int, object]] = {}
    for number, rule in enumerate(reading.value.apps.policy, 1):
        for key in RULE_KEYS if rule.name else ():
            value = getattr(rule, key)
            if value is None:
                continue
            earlier, said = first.setdefault((rule.name, key), (number, value))
            if said != value:
                yield (
                    f"{place_of(number, key)}: {written(key, value)} for {written('name', rule.name)} contradicts "
                    f"rule {earlier}, which says {written(key, said)}; keep one of them"
                )


def _check_required_apps(reading: Reading[Configuration]) -> Iterator[str]:
    """A rule for an exact name that says something else than `apps.required`."""
    required = set(reading.value.apps.required)
    for number, rule in enumerate(reading.value.apps.policy, 1):
        if rule.name in required:
            for key in _against_required(rule):
                yield (
                    f"{place_of(number, key)}: {written(key, getattr(rule, key))} for {written('name', rule.name)} "
                    "contradicts apps.required, which names it; keep one of them"
                )


def _against_required(rule: AppPolicyOptions) -> Iterator[str]:
    if rule.requirement not in (None, Requirement.REQUIRED):
        yield "requirement"
    if rule.present is False:
        yield "present"


_CHECKS: Final[tuple[Callable[[Reading[Configuration]], Iterator[str]], ...]] = (
    _check_reserves,
    _check_socket_group,
    _check_socket_paths,
    _check_directories,
    _check_expected_apps,
    _check_pattern_present,
    _check_contradictions,
    _check_required_apps,
)
