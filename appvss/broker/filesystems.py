"""Who freezes file systems here, and how the effects for them are carried out: each ends as exactly one input."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from appvss.broker.configuration import Configuration, FilesystemMode
from appvss.broker.gates import SETTLE_LIMIT, Gate
from appvss.broker.survey import is_apart
from appvss.cycle import effects, inputs
from appvss.delivery.registry import AppStream
from appvss.freezer.base import FreezeFailed, Freezer
from appvss.freezer.linux import LinuxFreezer
from appvss.freezer.null import NullFreezer
from appvss.freezer.plan import FilesystemSettings, Plan
from appvss.freezer.survey import survey
from appvss.model.app import AppId
from appvss.model.errors import UsageError
from appvss.model.filesystem import FilesystemChoice, FilesystemOutcome, Scope
from appvss.sources.base import Clock

APART_LIMIT: Final = timedelta(seconds=1)
"""How long a request waits for the look where the apps' paths lie, before its own time begins."""


def freezer_of(configuration: Callable[[], Configuration], clock: Clock) -> Freezer:
    """Who freezes file systems: on Linux this broker, unless it is configured not to; on FreeBSD the kernel's daemon.

    Args:
        configuration: what is in force at the moment of each freeze.
        clock: for how long something is frozen.
    """
    at_start = configuration()
    if at_start.filesystems.mode is FilesystemMode.OFF or not sys.platform.startswith("linux"):
        return NullFreezer()

    def plan(choice: FilesystemChoice, declared: Sequence[str]) -> Plan:
        broker, options = configuration().broker, configuration().filesystems
        own = {"state directory": str(broker.state_directory), "runtime directory": str(broker.runtime_directory)}
        return survey(choice, declared, own=own, settings=FilesystemSettings(options.exclude, options.unfreezable))

    return LinuxFreezer(plan, at_start.broker.runtime_directory, clock.now, at_start.filesystems.unfreezable)


async def prepare(
    freezer: Freezer, effect: effects.PrepareFilesystems, declared: Mapping[AppId, Sequence[str]]
) -> inputs.Input:
    """Have file systems prepared.

    Args:
        freezer: who does it.
        effect: what the cycle wants.
        declared: the paths that each app of the effect declares that is registered now.
    """
    every = [path for paths in declared.values() for path in paths]
    try:
        async with asyncio.timeout(effect.budget.total_seconds()):
            prepared = await freezer.prepare(effect.cycle, effect.choice, every, effect.budget)
    except FreezeFailed as error:
        return inputs.FilesystemsFailed(effect.cycle, str(error), error.parts)
    except TimeoutError:
        return inputs.FilesystemsFailed(effect.cycle, "they could not be found, opened and synced in time")
    places = prepared.places
    if places is None:
        return inputs.FilesystemsPrepared(effect.cycle, prepared.parts, prepared.doubts)
    located = {app: tuple(place for path in paths for place in places[path]) for app, paths in declared.items()}
    return inputs.FilesystemsPrepared(effect.cycle, prepared.parts, prepared.doubts, located)


async def apart(freezer: Freezer, choice: FilesystemChoice, streams: Iterable[AppStream]) -> frozenset[AppId]:
    """The apps that a freeze of named file systems does not concern: they declare paths, and none of them is on one.
    Nobody, if that cannot be found out within `APART_LIMIT`: then all are asked.

    Args:
        freezer: who knows where paths lie.
        choice: what the requester names.
        streams: the apps that are registered.
    """
    declared = {stream: stream.paths for stream in streams if stream.paths}
    if choice.scope is not Scope.NAMED or not declared:
        return frozenset()
    try:
        async with asyncio.timeout(APART_LIMIT.total_seconds()):
            plan = await freezer.survey(choice, [path for paths in declared.values() for path in paths])
    except (UsageError, OSError, TimeoutError):  # what the requester names is no mount point, say: its freeze will tell
        return frozenset()
    return frozenset(stream.registration.app for stream, paths in declared.items() if is_apart(plan, paths))


async def freeze(freezer: Freezer, gate: Gate, effect: effects.FreezeFilesystems) -> inputs.Input:
    """Have file systems frozen, once nobody writes any more behind the closed gate."""
    if not gate.is_settled():
        await asyncio.to_thread(gate.settle, SETTLE_LIMIT)
    try:
        async with asyncio.timeout(effect.budget.total_seconds()):
            frozen = await freezer.freeze(effect.cycle, effect.budget, effect.hold_limit)
    except FreezeFailed as error:
        return inputs.FilesystemsFailed(effect.cycle, str(error), error.parts)
    except TimeoutError:
        return inputs.FilesystemsFailed(effect.cycle, "the freezer did not answer in its time")
    is_any_held = any(part.outcome is FilesystemOutcome.HELD for part in frozen.parts)
    return inputs.FilesystemsFrozen(effect.cycle, is_any_held, frozen.parts, frozen.doubts)
