"""Ways into the phases, and plausible and foreign values of every input: what the test of the table goes through."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

from appvss.cycle.inputs import (
    AppFroze,
    AppLeft,
    AppLostHold,
    AppReady,
    AppRegistered,
    AppThawed,
    AppVetoed,
    CheckRequested,
    CycleAdopted,
    DeadlinePassed,
    FilesystemsFailed,
    FilesystemsFrozen,
    FilesystemsLost,
    FilesystemsPrepared,
    FilesystemsThawed,
    FreezeRequested,
    Input,
    JournalFailed,
    JournalWritten,
    PathsInspected,
    RegistrationChanged,
    SourceLost,
    ThawForced,
    ThawRequested,
)
from appvss.cycle.table import THAWING
from appvss.model.app import AppId, HoldClaim, Registration, Requirement
from appvss.model.filesystem import DeclaredPath, Scope
from appvss.model.journal import JournalApp, JournalEntry, Stage
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from appvss.model.request import RequestKind
from tests.cycle.support import BEGINNING, HOLD, LIMIT, REHEARSAL, SECOND, World, in_phase, seconds

APPS = ("a", "b", "stranger")
SOURCES = ("freebsd", "local", REHEARSAL)
TOLERATED = Requirement.TOLERATED

Way = Callable[[Phase], World]
WAL = DeclaredPath("/srv/wal", "8:9", reason="the requester does not mean it", lowers=True)


class Usual(Exception):
    """This way into the phase is like the usual one."""


def _along(world: World, phase: Phase, steps: list[tuple[Phase, Callable[[], object]]]) -> World:
    """Go through the steps, each of which leads to its phase, up to the wanted one."""
    if phase not in [reached for reached, _ in steps]:
        raise Usual
    for reached, step in steps:
        world.disk = phase is not reached or phase not in (Phase.REQUESTED, Phase.CERTIFYING)
        step()
        if reached is phase:
            break
    return world


def away(phase: Phase) -> World:
    """`a` is away where it can be."""
    if phase not in (Phase.CERTIFYING, Phase.FREEZING_FILESYSTEMS, Phase.HOLDING, *THAWING):
        raise Usual
    world = in_phase(phase)
    world.leave("a")
    if phase is Phase.CERTIFYING:
        world.journal_written(Stage.HELD)
    elif phase is Phase.FREEZING_FILESYSTEMS:
        world.filesystems_froze()
    return world


def waiting(phase: Phase) -> World:
    """A request waits for the end of the thaw; before it, one of another source waits."""
    if phase.is_resting or phase is Phase.PREPARED:
        raise Usual
    world = in_phase(phase)
    if phase in THAWING:
        world.freeze(supersedes=True)
    else:
        world.freeze("local", overlap=Overlap.QUEUE)
    return world


def tolerated(phase: Phase) -> World:
    """One app takes part and is only tolerated."""
    world = World()
    world.register("a", requirement=TOLERATED, prepares=True)
    steps: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.PREPARING, world.check),
        (Phase.PREPARED, lambda: world.ready("a")),
        (Phase.REQUESTED, world.freeze),
        (Phase.FREEZING_APPS, lambda: None),
        (Phase.CERTIFYING, lambda: world.ack("a")),
        (Phase.FREEZING_FILESYSTEMS, lambda: None),
        (Phase.HOLDING, world.filesystems_froze),
        (Phase.ABORTING, lambda: world.force() if phase is Phase.ABORTING else world.thaw()),
        (Phase.THAWING_FILESYSTEMS, lambda: None),
        (Phase.THAWING_APPS, world.filesystems_thawed),
    ]
    return _along(world, phase, steps)


def alone(phase: Phase, source: str = "freebsd") -> World:
    """While apps freeze or thaw, one is away, and the only one that is waited for."""
    if phase is Phase.THAWING_APPS:
        world = tolerated(phase)
        world.leave("a")
        return world
    if phase is not Phase.FREEZING_APPS:
        raise Usual
    world = World()
    world.register("a")
    world.register("b", requirement=TOLERATED)
    world.freeze(source)
    world.ack("a")
    world.leave("a")
    world.veto("b")
    world.confirm("b")
    return world


def slow(phase: Phase, source: str = "freebsd") -> World:
    """The only app that is waited for needs more time to freeze than there is."""
    if phase is not Phase.PREPARING:
        raise Usual
    world = World()
    for name in ("a", "b"):
        world.register(name, requirement=TOLERATED, prepares=True)
    world.freeze(source)
    world.register("a", requirement=TOLERATED, prepares=True, needs=LIMIT)
    world.veto("b")
    return world


def seldom(phase: Phase) -> World:
    """The phase as it seldom is: the journal must be written, nobody has checked, one has acked, one is away, one is
    the last, one is gone.
    """
    world = World()
    match phase:
        case Phase.REQUESTED:
            world = World(disk=False, is_journal_required=True)
            world.register("a", requirement=TOLERATED, prepares=True)
            world.freeze()
        case Phase.CERTIFYING:
            world.register("a")
            world.freeze()
            world.disk = False
            world.ack("a")
        case Phase.PREPARING:
            world.register("a", requirement=TOLERATED, prepares=True)
            world.freeze()
        case Phase.FREEZING_APPS:
            world.register("a")
            world.register("b")
            world.freeze()
            world.ack("a")
        case Phase.FREEZING_FILESYSTEMS:
            world.register("a", requirement=TOLERATED)
            world.freeze()
            world.ack("a")
            world.leave("a")
            world.filesystems_froze()
        case Phase.ABORTING:
            world.register("a")
            world.hold("a")
            world.force()
            world.filesystems_thawed()
        case Phase.THAWING_FILESYSTEMS:
            world = rehearsing(phase)
            world.leave("a", died=True)
        case _:
            raise Usual
    return world


def empty(phase: Phase) -> World:
    """No app is registered."""
    world = World()
    steps: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.REQUESTED, world.freeze),
        (Phase.CERTIFYING, lambda: None),
        (Phase.FREEZING_FILESYSTEMS, lambda: None),
        (Phase.HOLDING, world.filesystems_froze),
        (Phase.THAWING_FILESYSTEMS, world.thaw),
        (Phase.COMPLETED, world.filesystems_thawed),
    ]
    if phase is Phase.CERTIFYING:
        world = World(disk=False, is_journal_required=True)
        world.freeze()
        world.journal_written(Stage.FREEZING)
        return world
    return _along(world, phase, steps)


def shared(phase: Phase) -> World:
    """A local requester has joined. One app is watched, and what is left of the thaw is the look at its paths."""
    world = World()
    world.register("a", 10, watched=True)
    world.register("b", 20, TOLERATED, prepares=True)

    def begin() -> None:
        world.freeze()
        world.freeze("local", overlap=Overlap.JOIN)

    def thaw() -> None:
        if phase is Phase.ABORTING:
            world.force()
            return
        world.thaw()
        world.thaw("local")
        world.filesystems_thawed()

    steps: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.REQUESTED, begin),
        (Phase.PREPARING, lambda: None),
        (Phase.FREEZING_APPS, lambda: world.ready("b")),
        (Phase.CERTIFYING, lambda: world.ack("a", "b")),
        (Phase.FREEZING_FILESYSTEMS, lambda: None),
        (Phase.HOLDING, world.filesystems_froze),
        (Phase.ABORTING, thaw),
        (Phase.THAWING_FILESYSTEMS, lambda: None),
        (Phase.THAWING_APPS, world.paths_inspected),
    ]
    return _along(world, phase, steps)


def freezing_filesystems_too(phase: Phase) -> World:
    """File systems are to be frozen with the one app; what is left of `preparing` is their part."""
    world = World()
    world.register("a", prepares=True)
    steps: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.REQUESTED, lambda: world.freeze("local", scope=Scope.ALL)),
        (Phase.PREPARING, lambda: world.ready("a")),
        (Phase.FREEZING_APPS, world.filesystems_prepared),
        (Phase.CERTIFYING, lambda: world.ack("a")),
        (Phase.FREEZING_FILESYSTEMS, lambda: None),
        (Phase.HOLDING, world.filesystems_froze),
        (Phase.ABORTING, world.force),
    ]
    return _along(world, phase, steps)


def freezing_filesystems_alone(phase: Phase) -> World:
    """File systems are to be prepared, and no app takes part."""
    if phase is not Phase.PREPARING:
        raise Usual
    world = World()
    world.freeze("local", scope=Scope.ALL)
    return world


def slow_with_filesystems(phase: Phase) -> World:
    """The only app has come while file systems are prepared, and needs more time to freeze than there is."""
    world = freezing_filesystems_alone(phase)
    world.register("a", needs=LIMIT)
    return world


def named(phase: Phase) -> World:
    """File systems are named, which do not concern the required `a`; `b` alone takes part."""
    world = World()
    world.register("a", 10, prepares=True)
    world.register("b", 20)
    steps: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.REQUESTED, lambda: world.freeze("local", scope=Scope.NAMED, apart=("a",))),
        (Phase.PREPARING, lambda: None),
        (Phase.FREEZING_APPS, world.filesystems_prepared),
        (Phase.CERTIFYING, lambda: world.ack("b")),
        (Phase.FREEZING_FILESYSTEMS, lambda: None),
        (Phase.HOLDING, world.filesystems_froze),
        (Phase.THAWING_FILESYSTEMS, lambda: world.thaw("local")),
        (Phase.THAWING_APPS, world.filesystems_thawed),
        (Phase.COMPLETED, lambda: world.confirm("b")),
    ]
    return _along(world, phase, steps)


def finished(phase: Phase) -> World:
    """As `shared`; the hold lasts for the one that has joined alone."""
    if phase is not Phase.HOLDING:
        raise Usual
    world = shared(phase)
    world.thaw()
    return world


def rehearsing(phase: Phase) -> World:
    """A rehearsal, with one app that is watched."""
    world = World()
    world.register("a", prepares=True, watched=True)
    steps: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.REQUESTED, lambda: world.freeze(REHEARSAL)),
        (Phase.PREPARING, lambda: None),
        (Phase.FREEZING_APPS, lambda: world.ready("a")),
        (Phase.HOLDING, lambda: world.ack("a")),
        (Phase.ABORTING, lambda: world.force() if phase is Phase.ABORTING else world.thaw(REHEARSAL)),
        (Phase.THAWING_FILESYSTEMS, lambda: None),
        (Phase.THAWING_APPS, world.paths_inspected),
    ]
    return _along(world, phase, steps)


def alone_rehearsing(phase: Phase) -> World:
    """As `alone`, in a rehearsal."""
    return alone(phase if phase is Phase.FREEZING_APPS else Phase.IDLE, REHEARSAL)


def slow_rehearsing(phase: Phase) -> World:
    """As `slow`, in a rehearsal."""
    return slow(phase, REHEARSAL)


def empty_rehearsal(phase: Phase) -> World:
    """A rehearsal to which nobody comes."""
    world = World()
    steps: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.REQUESTED, lambda: world.freeze(REHEARSAL)),
        (Phase.HOLDING, lambda: None),
    ]
    return _along(world, phase, steps)


def adopted(phase: Phase) -> World:
    """The cycle of a former broker: nobody has come back."""
    world = World()
    steps: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.HOLDING, lambda: world.restart(entry(world))),
        (Phase.ABORTING, lambda: world.force() if phase is Phase.ABORTING else world.thaw()),
        (Phase.THAWING_FILESYSTEMS, lambda: None),
        (Phase.THAWING_APPS, world.filesystems_thawed),
    ]
    return _along(world, phase, steps)


def entry(world: World, *names: str, stage: Stage = Stage.HELD, source: str = "freebsd") -> JournalEntry:
    """What a former broker has written a second ago; `a` and `b` have acked unless others are named."""
    is_held = stage is not Stage.FREEZING
    parts = tuple(
        JournalApp(
            Registration(AppId(name), number, incarnation=f"{name} of now"),
            60 * SECOND if is_held else timedelta(0),
            world.now - 2 * SECOND if is_held else None,
            world.now - SECOND if is_held else None,
        )
        for number, name in enumerate(names or ("a", "b"))
    )
    waves = tuple((part.registration.app,) for part in parts) if is_held else ()
    began, written = world.now - 3 * SECOND, world.now - SECOND
    rehearses, requester = source == REHEARSAL, f"{source} host"
    return JournalEntry("old", source, requester, stage, began, written, parts, waves, began + LIMIT, HOLD, rehearses)


def _entries(world: World) -> Iterator[JournalEntry]:
    for stage, source in itertools.product(Stage, SOURCES):
        whole = entry(world, stage=stage, source=source)
        yield whole
        yield replace(whole, written=BEGINNING - 2 * HOLD)
        yield replace(whole, apps=(), waves=())


def values(world: World, input: type[Input]) -> list[Input]:
    """Plausible and foreign values of an input."""
    cycles, both = (world.machine.cycle, "foreign"), (True, False)
    apps = [(AppId(name), cycle) for name in APPS for cycle in cycles]
    stages = [(cycle, stage) for cycle in cycles for stage in Stage]
    plain: dict[type[Input], list[Input]] = {
        SourceLost: [SourceLost(source, "gone", request) for source in SOURCES for request in ("", "1", "2", "3")],
        ThawForced: [ThawForced("now"), ThawForced("")],
        AppRegistered: list(_registrations(world)),
        RegistrationChanged: [RegistrationChanged(Registration(AppId(name), set_aside="lazy")) for name in APPS],
        AppLeft: [AppLeft(AppId(name), "gone", died) for name in APPS for died in both],
        AppReady: [AppReady(app, cycle) for app, cycle in apps],
        AppFroze: [AppFroze(app, cycle) for app, cycle in apps],
        AppVetoed: [AppVetoed(app, cycle, reason) for app, cycle in apps for reason in ("why", "")],
        AppLostHold: [AppLostHold(app, cycle, reason) for app, cycle in apps for reason in ("why", "")],
        AppThawed: [AppThawed(app, cycle, unbroken) for app, cycle in apps for unbroken in both],
        FilesystemsFrozen: [FilesystemsFrozen(cycle, frozen) for cycle in cycles for frozen in both],
        FilesystemsFailed: [FilesystemsFailed(cycle, "broken") for cycle in cycles],
        FilesystemsPrepared: [
            FilesystemsPrepared(cycle, paths=paths) for cycle in cycles for paths in (None, {AppId("a"): (WAL,)})
        ],
        FilesystemsLost: [FilesystemsLost(cycle, "the guardian has died") for cycle in cycles],
        FilesystemsThawed: [FilesystemsThawed(cycle, unbroken) for cycle in cycles for unbroken in both],
        JournalWritten: [JournalWritten(cycle, stage) for cycle, stage in stages],
        JournalFailed: [JournalFailed(cycle, stage, "full") for cycle, stage in stages],
        CycleAdopted: [CycleAdopted(entry) for entry in _entries(world)],
        PathsInspected: [
            PathsInspected(cycle, {AppId(name): "changed" for name in names})
            for cycle in cycles
            for names in ((), APPS)
        ],
        DeadlinePassed: [DeadlinePassed()],
    }
    return plain.get(input) or list(_requests(world, input))


def _requests(world: World, input: type[Input]) -> Iterator[Input]:
    in_time = itertools.product((LIMIT,), (True, False), Overlap)
    late = itertools.product((timedelta(0), -SECOND), (True,), (Overlap.JOIN,))
    for source, (limit, supersedes, overlap) in itertools.product(SOURCES, (*in_time, *late)):
        how = {"supersedes": supersedes, "overlap": overlap}
        if input is FreezeRequested:
            yield FreezeRequested(world.request(RequestKind.FREEZE, source, limit, **how), "new")
        elif input is CheckRequested and source != REHEARSAL:
            yield CheckRequested(world.request(RequestKind.CHECK, source, limit, **how), "new")
        elif input is ThawRequested and supersedes and overlap is Overlap.JOIN:
            yield ThawRequested(world.request(RequestKind.THAW, source, limit, **how))


def _registrations(world: World) -> Iterator[Input]:
    cycle = world.machine.cycle
    for claim in (None, HoldClaim(cycle, HOLD), HoldClaim(cycle, seconds(-1)), HoldClaim("foreign", HOLD)):
        for name, requirement in itertools.product(APPS, (Requirement.REQUIRED, TOLERATED)):
            incarnation = f"{name} of now"
            yield AppRegistered(
                Registration(AppId(name), 10, (), requirement, prepares=True, claim=claim, incarnation=incarnation)
            )


def _ways() -> Iterator[tuple[Way, Phase]]:
    special = (
        away,
        waiting,
        tolerated,
        alone,
        slow,
        seldom,
        empty,
        shared,
        freezing_filesystems_too,
        freezing_filesystems_alone,
        slow_with_filesystems,
        named,
        finished,
        rehearsing,
        alone_rehearsing,
        slow_rehearsing,
        empty_rehearsal,
        adopted,
    )
    for way, phase in itertools.product((in_phase, *special), Phase):
        with contextlib.suppress(Usual):
            way(phase)
            yield way, phase


WAYS = tuple(_ways())
"""Each way, and a phase that it leads to."""
