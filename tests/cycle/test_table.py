"""Every phase with every input: a row, or a refusal by name. And every arrow of the table can happen, and no other."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from appvss.cycle.effects import AskAbort, AskFreeze, AskPrepare, AskThaw
from appvss.cycle.inputs import (
    AppFroze,
    AppLeft,
    AppLostHold,
    AppReady,
    AppRegistered,
    AppThawed,
    AppVetoed,
    CheckRequested,
    DeadlinePassed,
    FilesystemsFailed,
    FilesystemsFrozen,
    FilesystemsThawed,
    FreezeRequested,
    Input,
    SourceLost,
    ThawForced,
    ThawRequested,
)
from appvss.cycle.table import RESTING, RUNNING, TABLE
from appvss.model.app import AppId, HoldClaim, Registration, Requirement
from appvss.model.phase import Phase
from appvss.model.request import RequestKind
from tests.cycle.support import HOLD, LIMIT, SECOND, World, in_phase, seconds

INPUTS: tuple[type[Input], ...] = Input.__args__
LASTING = [phase for phase in Phase if phase is not Phase.REQUESTED]
APPS = ("a", "b", "stranger")
SOURCES = ("freebsd", "local")


def _away(phase: Phase) -> World:
    """As `in_phase`, with `a` away where it can be."""
    world = in_phase(phase)
    if phase in (Phase.FREEZING_FILESYSTEMS, Phase.HOLDING, *RUNNING[-3:]):
        world.leave("a")
    if phase is Phase.FREEZING_FILESYSTEMS:
        world.filesystems_froze()
    assert world.phase is phase
    return world


def _waiting(phase: Phase) -> World:
    """As `in_phase`, with a request that waits for the end of the thaw."""
    world = in_phase(phase)
    if phase in RUNNING[-3:]:
        world.freeze(supersedes=True)
    assert world.phase is phase
    return world


def _tolerated(phase: Phase) -> World:
    """As `in_phase`, where one app takes part and is only tolerated."""
    world = World()
    world.register("a", requirement=Requirement.TOLERATED, prepares=True)
    if phase.is_resting:
        return world
    ways: list[tuple[Phase, Callable[[], object]]] = [
        (Phase.PREPARING, world.check),
        (Phase.PREPARED, lambda: world.ready("a")),
        (Phase.FREEZING_APPS, world.freeze),
        (Phase.FREEZING_FILESYSTEMS, lambda: world.ack("a")),
        (Phase.HOLDING, world.filesystems_froze),
        (Phase.ABORTING, lambda: world.force() if phase is Phase.ABORTING else world.thaw()),
        (Phase.THAWING_FILESYSTEMS, lambda: None),
        (Phase.THAWING_APPS, world.filesystems_thawed),
    ]
    for reached, step in ways:
        step()
        if reached is phase:
            break
    assert world.phase is phase
    return world


def _alone(phase: Phase) -> World:
    """As `_away`; while apps freeze or thaw, the one that is away is the only one that is waited for."""
    if phase is Phase.THAWING_APPS:
        world = _tolerated(phase)
        world.leave("a")
        return world
    if phase is not Phase.FREEZING_APPS:
        return _away(phase)
    world = World()
    world.register("a")
    world.register("b", requirement=Requirement.TOLERATED)
    world.freeze()
    world.ack("a")
    world.leave("a")
    world.veto("b")
    world.confirm("b")
    assert world.phase is phase
    return world


def _seldom(phase: Phase) -> World:
    """The phase as it seldom is: nobody has checked, one has acked, one is away, one is the last, there is none."""
    world = World()
    match phase:
        case Phase.PREPARING:
            world.register("a", requirement=Requirement.TOLERATED, prepares=True)
            world.freeze()
        case Phase.FREEZING_APPS:
            world.register("a")
            world.register("b")
            world.freeze()
            world.ack("a")
        case Phase.FREEZING_FILESYSTEMS:
            world.register("a", requirement=Requirement.TOLERATED)
            world.freeze()
            world.ack("a")
            world.leave("a")
            world.filesystems_froze()
        case Phase.ABORTING:
            world.register("a")
            world.hold("a")
            world.force()
            world.filesystems_thawed()
        case Phase.COMPLETED:
            world.hold()
            world.thaw()
            world.finish()
        case _:
            world = in_phase(phase)
    assert world.phase is phase
    return world


WAYS = (in_phase, _tolerated, _alone, _seldom, _waiting)


def values(world: World, input: type[Input]) -> list[Input]:
    """Plausible and foreign values of an input."""
    cycles, both = (world.machine.cycle, "foreign"), (True, False)
    apps = [(AppId(name), cycle) for name in APPS for cycle in cycles]
    plain: dict[type[Input], list[Input]] = {
        SourceLost: [SourceLost(source, "gone") for source in SOURCES],
        ThawForced: [ThawForced("now"), ThawForced("")],
        AppRegistered: list(_registrations(world)),
        AppLeft: [AppLeft(AppId(name), "gone", died) for name in APPS for died in both],
        AppReady: [AppReady(app, cycle) for app, cycle in apps],
        AppFroze: [AppFroze(app, cycle) for app, cycle in apps],
        AppVetoed: [AppVetoed(app, cycle, reason) for app, cycle in apps for reason in ("why", "")],
        AppLostHold: [AppLostHold(app, cycle, reason) for app, cycle in apps for reason in ("why", "")],
        AppThawed: [AppThawed(app, cycle, unbroken) for app, cycle in apps for unbroken in both],
        FilesystemsFrozen: [FilesystemsFrozen(cycle, frozen) for cycle in cycles for frozen in both],
        FilesystemsFailed: [FilesystemsFailed(cycle, "broken") for cycle in cycles],
        FilesystemsThawed: [FilesystemsThawed(cycle, unbroken) for cycle in cycles for unbroken in both],
        DeadlinePassed: [DeadlinePassed()],
    }
    return plain.get(input) or list(_requests(world, input))


def _requests(world: World, input: type[Input]) -> Iterator[Input]:
    for source, limit, supersedes in itertools.product(SOURCES, (LIMIT, timedelta(0), -SECOND), (True, False)):
        if input is ThawRequested:
            yield ThawRequested(world.request(RequestKind.THAW, source, limit))
        elif input is FreezeRequested:
            yield FreezeRequested(world.request(RequestKind.FREEZE, source, limit, supersedes=supersedes), "new")
        else:
            yield CheckRequested(world.request(RequestKind.CHECK, source, limit, supersedes=supersedes), "new")


def _registrations(world: World) -> Iterator[Input]:
    cycle = world.machine.cycle
    for claim in (None, HoldClaim(cycle, HOLD), HoldClaim(cycle, -SECOND), HoldClaim("foreign", HOLD)):
        for name in APPS:
            for requirement in Requirement:
                yield AppRegistered(Registration(AppId(name), 10, (), requirement, prepares=True, claim=claim))


@pytest.mark.parametrize("input", INPUTS, ids=lambda input: str(input.__name__))
@pytest.mark.parametrize("phase", LASTING)
@pytest.mark.parametrize("ways", WAYS)
def test_every_pair_is_legal_or_refused_by_name(
    ways: Callable[[Phase], World], phase: Phase, input: type[Input]
) -> None:
    for number in range(len(values(ways(phase), input))):
        world = ways(phase)
        told = values(world, input)[number]
        before = world.photo()
        world.feed(told)  # checked: it raises when an invariant breaks
        if (phase, input) not in TABLE and input is not DeadlinePassed:
            assert world.refusals() == ["not_now"]
        if world.refusals():
            assert world.photo() == before, told
            assert not [effect for effect in world.last if isinstance(effect, AskPrepare | AskFreeze | AskThaw)]
        # Whatever it was: nothing stays frozen.
        world.until_rest()


def test_no_phase_is_forgotten() -> None:
    assert {phase for phase, _ in TABLE} == set(LASTING)
    assert {input for _, input in TABLE} == set(INPUTS)
    assert set(RESTING) == {phase for phase in Phase if phase.is_resting}
    assert {*RESTING, *RUNNING} == set(LASTING)


def test_time_can_pass_in_every_phase_that_has_a_cycle() -> None:
    assert {phase for phase, input in TABLE if input is DeadlinePassed} == set(RUNNING)


class Walk:
    """A random way through the machine, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(prepared_limit=seconds(20))
        steps: list[tuple[int, Callable[[], object]]] = [
            (12, self._register),
            (6, lambda: self.world.leave(self._app(), self._one_in(3))),
            (8, self._ask),
            (4, lambda: self.world.thaw(self._source())),
            (1, lambda: self.world.lose_source(self._source())),
            (1, self.world.force),
            (20, self._answer_questions),
            (5, lambda: self.world.veto(self._app())),
            (3, lambda: self.world.lose_hold(self._app())),
            (14, self._confirm),
            (2, lambda: self.world.confirm(self._app(), unbroken=self._one_in(2))),
            (7, lambda: self.world.filesystems_froze(self._one_in(2))),
            (1, self.world.filesystems_failed),
            (5, lambda: self.world.filesystems_thawed(self._one_in(2))),
            (9, lambda: self.world.pass_time(self.random.choice([SECOND / 10, SECOND, 3 * SECOND, 6 * SECOND]))),
            (1, lambda: self.world.jump(self.random.choice([SECOND, 20 * SECOND]))),
        ]
        self.weights, self.steps = zip(*steps, strict=True)

    def go(self, length: int) -> World:
        for step in self.random.choices(self.steps, self.weights, k=length):
            step()
            if self._one_in(20):
                self.world.until_rest()
        self.world.until_rest()
        return self.world

    def _one_in(self, number: int) -> bool:
        return self.random.randrange(number) == 0

    def _app(self) -> str:
        return self.random.choice("abcd")

    def _source(self) -> str:
        return self.random.choice(SOURCES)

    def _register(self) -> None:
        cycle = self.world.machine.cycle or "old"
        claims = [None, HoldClaim(cycle, timedelta(0)), HoldClaim(cycle, HOLD), HoldClaim("old", HOLD)]
        name = self._app()
        self.world.leave(name)
        self.world.register(
            name,
            self.random.choice([10, 50]),
            self.random.choice(list(Requirement)),
            after=("a",) if self._one_in(3) else (),
            prepares=self._one_in(3),
            needs=self.random.choice([None, None, SECOND, 9 * SECOND]),
            hold=self.random.choice([3 * SECOND, 60 * SECOND]),
            claim=self.random.choice(claims),
        )

    def _ask(self) -> None:
        source, supersedes = self._source(), self._one_in(3)
        if self._one_in(3):
            self.world.check(source, supersedes=supersedes)
        else:
            self.world.freeze(source, limit=self.random.choice([LIMIT, LIMIT, SECOND / 2]), supersedes=supersedes)

    def _answer_questions(self) -> None:
        for effect in self.world.sent[-30:]:
            if isinstance(effect, AskFreeze) and not self._one_in(5):
                self.world.feed(AppFroze(effect.app, effect.cycle))
            elif isinstance(effect, AskPrepare) and not self._one_in(5):
                self.world.feed(AppReady(effect.app, effect.cycle))

    def _confirm(self) -> None:
        for effect in self.world.sent[-30:]:
            if isinstance(effect, AskThaw | AskAbort) and not self._one_in(5):
                self.world.feed(AppThawed(effect.app, effect.cycle, unbroken=True))


def _arrows() -> Iterator[set[tuple[Phase, type[Input], Phase]]]:
    for ways, phase, input in itertools.product(WAYS, LASTING, INPUTS):
        for number in range(len(values(ways(phase), input))):
            world = ways(phase)
            world.feed(values(world, input)[number])
            world.until_rest()
            yield world.arrows
    for seed in range(400):
        yield Walk(seed).go(80).arrows


def test_the_table_has_every_arrow_that_happens_and_no_other() -> None:
    declared = {(phase, input, target) for (phase, input), row in TABLE.items() for target in row.leads_to}
    assert set().union(*_arrows()) == declared
