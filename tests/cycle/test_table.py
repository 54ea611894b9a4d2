"""Every phase with every input: a row, or a refusal by name. And every arrow of the table can happen, and no other."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from appvss.cycle.effects import (
    AskAbort,
    AskFreeze,
    AskPrepare,
    AskThaw,
    InspectPaths,
    PrepareFilesystems,
    WriteJournal,
)
from appvss.cycle.inputs import AppFroze, AppReady, AppThawed, DeadlinePassed, Input, RegistrationChanged
from appvss.cycle.table import RESTING, RUNNING, TABLE
from appvss.model.app import AppId, HoldClaim, Registration, Requirement
from appvss.model.filesystem import Scope
from appvss.model.journal import Stage
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from tests.cycle.support import HOLD, LIMIT, REHEARSAL, SECOND, World, seconds
from tests.cycle.ways import SOURCES, WAYS, Way, values

INPUTS: tuple[type[Input], ...] = Input.__args__


@pytest.mark.parametrize(("way", "phase"), WAYS)
def test_the_ways_into_the_phases_are_right(way: Way, phase: Phase) -> None:
    assert way(phase).phase is phase


@pytest.mark.parametrize("input", INPUTS, ids=lambda input: str(input.__name__))
@pytest.mark.parametrize(("way", "phase"), WAYS)
def test_every_pair_is_legal_or_refused_by_name(way: Way, phase: Phase, input: type[Input]) -> None:
    for told in values(way(phase), input):
        world = way(phase)
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
    assert {phase for phase, _ in TABLE} == set(Phase)
    assert {input for _, input in TABLE} == set(INPUTS)
    assert set(RESTING) == {phase for phase in Phase if phase.is_resting}
    assert {*RESTING, *RUNNING} == set(Phase)


def test_time_can_pass_in_every_phase_that_has_a_cycle() -> None:
    assert {phase for phase, input in TABLE if input is DeadlinePassed} == set(RUNNING)


class Walk:
    """A random way through the machine, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(prepared_limit=seconds(20), is_journal_required=self._one_in(4))
        steps: list[tuple[int, Callable[[], object]]] = [
            (12, self._register),
            (1, self._change_policy),
            (6, lambda: self.world.leave(self._app(), self._one_in(3))),
            (10, self._ask),
            (5, lambda: self.world.thaw(self._source())),
            (1, self._lose_source),
            (1, self.world.force),
            (20, self._answer_questions),
            (5, lambda: self.world.veto(self._app())),
            (3, lambda: self.world.lose_hold(self._app())),
            (14, self._confirm),
            (2, lambda: self.world.confirm(self._app(), unbroken=self._one_in(2))),
            (4, self._prepare_filesystems),
            (7, lambda: self.world.filesystems_froze(self._one_in(2))),
            (1, self.world.filesystems_lost),
            (1, self.world.filesystems_failed),
            (5, lambda: self.world.filesystems_thawed(self._one_in(2))),
            (4, self._write_journal),
            (3, self._inspect),
            (1, self._restart),
            (9, lambda: self.world.pass_time(self.random.choice([SECOND / 10, SECOND, 3 * SECOND, 6 * SECOND]))),
            (1, lambda: self.world.jump(self.random.choice([SECOND, 20 * SECOND]))),
        ]
        self.weights, self.steps = zip(*steps, strict=True)

    def go(self, length: int) -> World:
        for step in self.random.choices(self.steps, self.weights, k=length):
            self.world.disk = not self._one_in(4)
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
            after=(self._app(),) if self._one_in(3) else (),
            prepares=self._one_in(3),
            needs=self.random.choice([None, None, SECOND, 9 * SECOND]),
            hold=self.random.choice([3 * SECOND, 60 * SECOND]),
            claim=self.random.choice(claims),
            incarnation=self.random.choice(["", "", "first", "second"]),
            watched=self._one_in(3),
            set_aside="it failed too often" if self._one_in(10) else "",
        )

    def _change_policy(self) -> None:
        aside = "it failed too often" if self._one_in(2) else ""
        self.world.feed(RegistrationChanged(Registration(AppId(self._app()), set_aside=aside)))

    def _ask(self) -> None:
        source, supersedes, overlap = self._source(), self._one_in(3), self.random.choice(list(Overlap))
        limit = self.random.choice([LIMIT, LIMIT, SECOND / 2])
        if self._one_in(3) and source != REHEARSAL:
            self.world.check(source, limit, supersedes, overlap)
        else:
            hold = self.random.choice([HOLD, 4 * SECOND])
            scope = self.random.choice([Scope.NONE, Scope.NONE, Scope.ALL])
            self.world.freeze(source, limit, hold=hold, supersedes=supersedes, overlap=overlap, scope=scope)

    def _lose_source(self) -> None:
        self.world.lose_source(self._source(), self.random.choice(["", str(self.world.requests)]))

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

    def _prepare_filesystems(self) -> None:
        if any(isinstance(effect, PrepareFilesystems) for effect in self.world.sent[-30:]):
            self.world.filesystems_prepared()

    def _write_journal(self) -> None:
        stage = self.random.choice(list(Stage))
        if self._one_in(3):
            self.world.journal_failed(stage)
        else:
            self.world.journal_written(stage)

    def _inspect(self) -> None:
        if any(isinstance(effect, InspectPaths) for effect in self.world.sent[-30:]):
            self.world.paths_inspected(**({self._app(): "changed"} if self._one_in(3) else {}))

    def _restart(self) -> None:
        entries = [effect.entry for effect in self.world.sent[-60:] if isinstance(effect, WriteJournal)]
        if entries:
            self.world.restart(entries[-1], self.random.choice([SECOND / 10, 2 * SECOND, 60 * SECOND]))


def _arrows() -> Iterator[set[tuple[Phase, type[Input], Phase]]]:
    for (way, phase), input in itertools.product(WAYS, INPUTS):
        for told in values(way(phase), input):
            world = way(phase)
            world.feed(told)
            world.until_rest()
            yield world.arrows
    for seed in range(400):
        yield Walk(seed).go(80).arrows


def test_the_table_has_every_arrow_that_happens_and_no_other() -> None:
    declared = {(phase, input, target) for (phase, input), row in TABLE.items() for target in row.leads_to}
    assert set().union(*_arrows()) == declared
