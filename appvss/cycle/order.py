"""In which order apps freeze: waves, each of which is complete before the next is asked."""

from __future__ import annotations

from collections.abc import Iterable

from appvss.model.app import AppId, Registration


def waves_of(registrations: Iterable[Registration]) -> tuple[tuple[tuple[AppId, ...], ...], frozenset[str]]:
    """The waves of apps, first frozen first, and the names of apps whose `after` goes round in a circle.

    Apps of one order form one wave. An app that names others in `after` comes in a later wave than all of those, also
    when its own order is lower; names that are not registered do not count. When the second value is not empty, no
    order exists and the first is meaningless.
    """
    registered = list(registrations)
    if not any(registration.after for registration in registered):
        return _by_order(registered), frozenset()
    by_name: dict[str, list[Registration]] = {}
    for registration in registered:
        by_name.setdefault(registration.app.name, []).append(registration)
    # A place is (order, depth): depth counts the steps of `after` within one order. A name's place is its last
    # instance's.
    places: dict[str, tuple[int, int]] = {}
    waves: dict[tuple[int, int], list[AppId]] = {}
    waiting = {name: {a for r in group for a in r.after if a in by_name} for name, group in by_name.items()}
    while waiting:
        free = [name for name, after in waiting.items() if after <= places.keys()]
        if not free:
            return (), _circle(waiting)
        for name in free:
            latest = max((places[other] for other in waiting.pop(name)), default=None)
            for registration in by_name[name]:
                place = _place(registration.order, latest)
                places[name] = max(place, places.get(name, place))
                waves.setdefault(place, []).append(registration.app)
    return tuple(tuple(waves[place]) for place in sorted(waves)), frozenset()


def _by_order(registered: list[Registration]) -> tuple[tuple[AppId, ...], ...]:
    """What the rules below come to when nobody waits for anybody, as mostly."""
    waves: dict[int, list[AppId]] = {}
    for registration in registered:
        waves.setdefault(registration.order, []).append(registration.app)
    return tuple(tuple(waves[order]) for order in sorted(waves))


def _place(order: int, latest: tuple[int, int] | None) -> tuple[int, int]:
    """The place of an app of this order that must come after the place `latest`."""
    if latest is None or order > latest[0]:
        return order, 0
    return latest[0], latest[1] + 1


def _circle(waiting: dict[str, set[str]]) -> frozenset[str]:
    """The names that wait for each other, without those that only wait for one of them."""
    left = dict(waiting)
    while True:
        needed = {name for after in left.values() for name in after}
        idle = [name for name in left if name not in needed]
        if not idle:
            return frozenset(left)
        for name in idle:
            del left[name]
