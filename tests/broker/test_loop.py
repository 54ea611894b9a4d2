"""Where clock, tasks and effects meet: the loop by itself with freezers of all manners, and with real apps that answer
wrongly.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appvss.broker.clock import SystemClock
from appvss.broker.journal import Journal
from appvss.broker.loop import BrokerLoop
from appvss.broker.news import News
from appvss.broker.recent import Recent
from appvss.cycle import inputs
from appvss.cycle.machine import Machine
from appvss.cycle.state import CycleSettings
from appvss.delivery.app_service import REFUSALS_LIMIT, AppService
from appvss.delivery.registry import AppStream, Registry
from appvss.delivery.watch import Watchers
from appvss.freezer.base import FreezeFailed, Frozen, Prepared, Thawed
from appvss.history import open_state
from appvss.model.app import AppId, Registration
from appvss.model.errors import CycleBusy, CycleError
from appvss.model.filesystem import (
    NO_FILESYSTEMS,
    DeclaredPath,
    FilesystemChoice,
    FilesystemOutcome,
    FilesystemPart,
    Scope,
)
from appvss.model.grade import Grade
from appvss.model.past import PastCycle
from appvss.model.phase import Phase
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.source import SourceCondition, SourceMode, SourceState
from appvss.model.verdict import Level
from appvss.sources.local import LocalSettings, LocalSource
from appvss.v1 import app_pb2, types_pb2
from appvss.witness.witness import Witness
from tests.support.holds import HoldCall
from tests.support.raw_app import RawApp, attached
from tests.support.running_broker import BOUND, QUIET, running_broker

SECOND = timedelta(seconds=1)
ALL = FilesystemChoice(Scope.ALL)
SRV = FilesystemPart("/srv", "8:1", "ext4", FilesystemOutcome.HELD, time_to_freeze=SECOND / 50)
EFI = FilesystemPart("/efi", "8:2", "vfat", FilesystemOutcome.UNFREEZABLE, "vfat has no freeze")


class Freezing:
    """A freezer that does what it is told, and notes when."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.parts: tuple[FilesystemPart, ...] = (SRV,)
        self.asked: list[tuple[FilesystemChoice, tuple[str, ...]]] = []
        self.places: dict[str, DeclaredPath] | None = None
        self.prepare_error: Exception | None = None
        self.freeze_error: Exception | None = None
        self.thaw_error: Exception | None = None
        self.thawed = Thawed(unbroken=True)
        self.may_prepare, self.may_freeze, self.may_thaw = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.began_freeze, self.began_thaw = asyncio.Event(), asyncio.Event()
        self.may_prepare.set()
        self.may_freeze.set()
        self.may_thaw.set()

    async def prepare(
        self, cycle: str, choice: FilesystemChoice, declared: Sequence[str], budget: timedelta
    ) -> Prepared:
        self.calls.append("prepare")
        self.asked.append((choice, tuple(declared)))
        await self.may_prepare.wait()
        if self.prepare_error is not None:
            raise self.prepare_error
        return Prepared((EFI,), ("/efi is not frozen: vfat has no freeze",), self.places)

    async def freeze(self, cycle: str, budget: timedelta, hold_limit: timedelta) -> Frozen:
        self.calls.append("freeze")
        self.began_freeze.set()
        await self.may_freeze.wait()
        if self.freeze_error is not None:
            raise self.freeze_error
        self.calls.append("frozen")
        return Frozen(self.parts)

    async def thaw(self, cycle: str) -> Thawed:
        self.calls.append("thaw")
        self.began_thaw.set()
        await self.may_thaw.wait()
        if self.thaw_error is not None:
            raise self.thaw_error
        self.calls.append("thawed")
        return self.thawed


class Rig:
    """A loop with its machine, no apps' server, a local source, and a journal on disk."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.clock = SystemClock()
        self.history = open_state(directory, keep=10, boot="this boot", wall=self.clock.wall).history
        self.witness = Witness(self.clock)
        self.ended: list[PastCycle] = []
        self.freezer = Freezing()
        self.opened = asyncio.Event()
        self.watchers = Watchers()
        self.recent = Recent(self.clock, self.watchers)
        machine = Machine(CycleSettings(**settings), self.clock.now(), checking=True)
        journal = Journal(self.history, self.clock, boot="this boot", version="appvss/test", policy=tuple)
        self.loop = BrokerLoop(
            machine, self.clock, self.freezer, journal, self.witness, self.recent, self, self.ended.append
        )
        self.news = News(self.loop, self.clock, self.recent)
        self.local = LocalSource(LocalSettings(), self.clock)
        self.apps = AppService(
            self.news,
            Registry(10, 10),
            in_force=lambda registration: registration,
            admits_unidentified=True,
            version="appvss/test",
            now=self.clock.now,
        )
        self.loop.connect(self.apps, {"local": self.local})

    def set_gate(self, *, is_open: bool) -> None:
        self.freezer.calls.append("open" if is_open else "closed")
        if is_open:
            self.opened.set()

    def is_settled(self) -> bool:
        return False

    def settle(self, limit: timedelta) -> bool:
        self.freezer.calls.append("settled")
        return True

    def close(self) -> None:
        self.witness.close(SECOND)
        self.history.close(SECOND)


@asynccontextmanager
async def rig(**settings: Any) -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="av-") as folder, closing(Rig(Path(folder), **settings)) as made:
        serving = asyncio.create_task(made.local.run(made.news))
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(BOUND):
                yield made
        finally:
            serving.cancel()
            await asyncio.wait({serving})
            await made.loop.close()


# -- file systems, and the gate of the log


async def test_nothing_is_written_from_before_the_freeze_until_after_the_thaw_of_file_systems() -> None:
    async with rig() as made:
        hold = made.local.begin("me", None, None)
        assert await hold.held()
        hold.finish()
        assert (await hold.ended()).level is Level.FILESYSTEM
        assert made.freezer.calls == ["closed", "settled", "freeze", "frozen", "thaw", "thawed", "open"]


class Hearing:
    """An app without a network: what is written to its stream is noted beside what the freezer does, and obeyed."""

    def __init__(self, made: Rig, name: str, *, paths: tuple[str, ...] = (), slow: bool = False) -> None:
        self._made, self._app, self._slow = made, AppId(name), slow
        self._reader: asyncio.Task[object] = asyncio.create_task(asyncio.Event().wait())
        registration = Registration(self._app)
        stream = AppStream(registration, "x" * 16, self._write, self._reader, made.clock.now(), None, paths=paths)
        made.apps.registry.add(stream)
        made.news.registered(registration)

    async def _write(self, data: bytes) -> None:
        message = app_pb2.AttachResponse.FromString(data)
        kind = message.WhichOneof("message") or ""
        self._made.freezer.calls.append(f"{kind} {self._app}")
        if self._slow:
            await asyncio.sleep(0.05)  # as long as gRPC takes to say that it has written
        loop, cycle = asyncio.get_running_loop(), getattr(message, kind).cycle
        if kind == "freeze":
            loop.call_soon(self._made.news.froze, self._app, cycle, {})
        elif kind in ("thaw", "abort"):
            loop.call_soon(self._made.news.thawed, self._app, cycle, True, "")


@pytest.mark.parametrize("choice", [NO_FILESYSTEMS, ALL])
@pytest.mark.parametrize("slow", [False, True])
async def test_apps_are_told_before_the_file_systems_are_frozen(choice: FilesystemChoice, slow: bool) -> None:
    async with rig() as made:
        for name in ("a", "b"):
            Hearing(made, name, slow=slow)
        hold = made.local.begin("me", None, None, choice)
        assert await hold.held()
        hold.finish()
        await hold.ended()
        calls = [call for call in made.freezer.calls if call.split()[0] in ("filesystem_freeze", "freeze", "frozen")]
        # What is written is with gRPC before the freezer begins; that gRPC has written it is not waited for.
        told = ["filesystem_freeze a", "filesystem_freeze b"]
        assert calls == ["freeze a", "freeze b", *told, "freeze", "frozen"]


async def test_the_freezer_is_asked_for_each_apps_paths_and_its_word_is_that_of_the_app() -> None:
    async with rig() as made:
        Hearing(made, "a", paths=("/srv/a", "/wal/a"))
        Hearing(made, "b", paths=("/srv/b",))
        made.freezer.places = {
            "/srv/a": (DeclaredPath("/srv/a", SRV.device, is_planned=True, is_meant=True),),
            "/srv/b": (DeclaredPath("/srv/b", SRV.device, is_planned=True, is_meant=True),),
            "/wal/a": (DeclaredPath("/wal/a", "8:9", reason="/wal: the requester does not mean it", lowers=True),),
        }
        hold = made.local.begin("me", None, None, ALL)
        assert await hold.held()
        hold.finish()
        verdict = await hold.ended()
        assert made.freezer.asked == [(ALL, ("/srv/a", "/wal/a", "/srv/b"))]
        assert {str(part.app): part.grade for part in verdict.outcomes} == {"a": Grade.FS, "b": Grade.APP}


async def test_file_systems_that_cannot_be_frozen_end_the_cycle_and_are_thawed() -> None:
    async with rig() as made:
        made.freezer.freeze_error = FreezeFailed("device busy")
        hold = made.local.begin("me", None, None)
        assert not await hold.held()
        verdict = await hold.ended()
        assert verdict.level is Level.FAILED
        assert verdict.reasons == ("the file systems could not be frozen: device busy",)
        assert made.freezer.calls == ["closed", "settled", "freeze", "thaw", "thawed", "open"]


async def test_what_is_wanted_is_prepared_first_and_what_became_of_each_stands_in_the_verdict() -> None:
    async with rig() as made:
        hold = made.local.begin("me", None, None, ALL)
        assert await hold.held()
        hold.finish()
        verdict = await hold.ended()
        assert made.freezer.calls[:3] == ["prepare", "closed", "settled"]
        assert made.freezer.asked == [(ALL, ())]
        assert (verdict.level, verdict.filesystems) == (Level.CRASH, (EFI, SRV))
        assert verdict.reasons[0] == "/efi is not frozen: vfat has no freeze"


async def test_file_systems_that_cannot_be_prepared_end_the_cycle_before_anything_is_frozen() -> None:
    async with rig() as made:
        made.freezer.prepare_error = FreezeFailed("/mnt is no mount point", (EFI,))
        hold = made.local.begin("me", None, None, ALL)
        assert not await hold.held()
        verdict = await hold.ended()
        assert verdict.reasons == ("the file systems could not be frozen: /mnt is no mount point",)
        assert (verdict.level, verdict.filesystems) == (Level.FAILED, (EFI,))
        assert made.freezer.calls == ["prepare", "thaw", "thawed"]


async def test_freezer_that_does_not_prepare_in_time() -> None:
    async with rig() as made:
        made.freezer.may_prepare.clear()
        hold = made.local.begin("me", timedelta(milliseconds=400), None, ALL)
        assert not await hold.held()
        assert (await hold.ended()).level is Level.FAILED
        assert made.freezer.calls == ["prepare", "thaw", "thawed"]


async def test_freezer_that_does_not_answer_in_time() -> None:
    async with rig() as made:
        made.freezer.may_freeze.clear()
        hold = made.local.begin("me", timedelta(milliseconds=300), None)
        assert not await hold.held()
        assert (await hold.ended()).level is Level.FAILED
        assert made.freezer.calls[-1] == "open"


async def test_gate_stays_closed_when_the_machine_no_longer_waits_for_the_thaw() -> None:
    async with rig(thaw_limit=timedelta(milliseconds=20)) as made:
        made.freezer.may_thaw.clear()
        hold = made.local.begin("me", None, None)
        await hold.held()
        hold.finish()
        assert (await hold.ended()).level is Level.CRASH
        assert made.loop.machine.phase.is_resting
        assert made.freezer.calls[-1] == "thaw"
        made.freezer.may_thaw.set()
        await made.opened.wait()


async def test_file_systems_that_went_on_early_lower_the_verdict() -> None:
    async with rig() as made:
        made.freezer.thawed = Thawed(unbroken=False, reason="the guardian thawed")
        hold = made.local.begin("me", None, None)
        await hold.held()
        hold.finish()
        verdict = await hold.ended()
        assert verdict.level is Level.CRASH
        assert "the guardian thawed" in verdict.reasons[0]


# -- time


async def test_timer_ends_the_hold_at_its_limit() -> None:
    async with rig() as made:
        hold = made.local.begin("me", None, timedelta(milliseconds=30))
        began = made.clock.now()
        assert await hold.held()
        verdict = await hold.ended()
        assert made.clock.now() - began >= timedelta(milliseconds=30)
        assert verdict.reasons[0].startswith("the hold limit of 30.0ms passed")
        assert made.loop.machine.phase is Phase.ABORTED


async def test_collector_rests_as_long_as_a_cycle_runs() -> None:
    async with rig() as made:
        hold = made.local.begin("me", None, None)
        await hold.held()
        assert not gc.isenabled()
        hold.finish()
        await hold.ended()
        await made.loop.until_rest()
        assert gc.isenabled()
        await made.local.begin("me", None, None).held()
        assert not gc.isenabled()
        await made.loop.close()
        assert gc.isenabled()


async def test_rest_is_waited_for() -> None:
    async with rig() as made:
        await made.loop.until_rest()
        hold = made.local.begin("me", None, None)
        resting = asyncio.create_task(made.loop.until_rest())
        await hold.held()
        assert not resting.done()
        hold.finish()
        await resting
        assert made.loop.machine.phase.is_resting


async def test_forced_thaw_tells_which_cycle_and_waits_for_its_end() -> None:
    async with rig() as made:
        assert await made.loop.force_thaw("nothing runs") == ""
        hold = made.local.begin("me", None, None)
        await hold.held()
        made.freezer.may_thaw.clear()
        thawing = asyncio.create_task(made.loop.force_thaw("enough"))
        await made.freezer.began_thaw.wait()
        assert not thawing.done()
        made.freezer.may_thaw.set()
        assert await thawing == hold.cycle
        assert (await hold.ended()).reasons[0] == "enough"


# -- the end of the broker


async def test_ending_broker_thaws_and_begins_nothing_new() -> None:
    async with rig() as made:
        hold = made.local.begin("me", None, None)
        await hold.held()
        made.loop.end("the broker was told to stop")
        assert (await hold.ended()).reasons[0] == "the broker was told to stop"
        late = made.local.begin("late", None, None)
        with pytest.raises(CycleBusy, match="the broker stops"):
            await late.ended()
        assert made.loop.machine.phase is Phase.ABORTED


class Buggy:
    """A source that cannot take answers."""

    state = SourceState("local", SourceMode.AUTOMATIC, SourceCondition.SERVING, SystemClock().now())

    async def run(self, requests: object) -> None:
        raise AssertionError

    def answer(self, answer: Answer) -> None:
        raise ZeroDivisionError

    def ended(self, record: object) -> None:
        raise AssertionError


async def test_failure_of_an_effect_is_told_once_and_nothing_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as made:
        made.loop.connect(made.apps, {"local": Buggy()})
        request = Request("1", "local", RequestKind.FREEZE, "me", made.clock.now() + SECOND, hold_limit=SECOND)
        made.news.ask(request)
        with pytest.raises(ZeroDivisionError):
            await made.loop.failure
        phase = made.loop.machine.phase
        assert phase is Phase.HOLDING
        made.loop.feed(inputs.ThawForced("not heard any more"))
        made.news.registered(Registration(AppId("a")))
        assert made.loop.machine.phase is phase
        assert len([record for record in caplog.records if record.levelno == logging.CRITICAL]) == 1
        before = len(made.freezer.calls)
        await made.loop.let_go("the core has failed")
        assert made.freezer.calls[before:] == ["thaw", "thawed", "open"]


async def test_failure_of_a_freezer_is_a_failure_of_the_core() -> None:
    async with rig() as made:
        made.freezer.freeze_error = ZeroDivisionError()
        made.local.begin("me", None, None)
        with pytest.raises(ZeroDivisionError):
            await made.loop.failure


async def test_close_ends_what_is_under_way() -> None:
    async with rig() as made:
        made.freezer.may_freeze.clear()
        hold = made.local.begin("me", None, None)
        await made.freezer.began_freeze.wait()
        await made.loop.close()
        assert not made.loop.failure.done()
        assert "frozen" not in made.freezer.calls
        hold.abandon("the test is over")


async def test_news_of_a_source_reach_watchers() -> None:
    async with rig() as made:
        watcher = made.watchers.add()
        made.news.changed(SourceState("x", SourceMode.OFF, SourceCondition.OFF, made.clock.now()))
        event = await watcher.get()
        assert event is not None
        assert (event.kind, event.detail) == ("source_changed", "x off")


# -- apps that answer wrongly, against a whole broker


async def refusal(app: RawApp) -> str:
    told = await app.hear("refusal")
    assert told.sentence
    return str(told.name)


async def test_ack_before_it_was_asked_is_refused_and_the_app_let_go() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a", prepares=True) as app:
        hold = await HoldCall.begin(broker)
        prepare = await app.hear("prepare")
        await app.say(frozen=app_pb2.Frozen(cycle=prepare.cycle))
        assert await refusal(app) == "ack_before_asked"
        assert (await app.hear("abort")).cycle == prepare.cycle
        hold.cancel()


async def test_ack_twice_is_refused_and_the_hold_goes_on() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker)
        freeze = await app.freeze()
        await hold.held()
        await app.say(frozen=app_pb2.Frozen(cycle=freeze.cycle))
        assert await refusal(app) == "ack_twice"
        await hold.finish()
        await app.thaw()
        assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION
        (listed,) = await broker.apps()
        assert listed.last_error.startswith("ack_twice: ")


async def test_ack_for_another_cycle_is_refused_and_let_go() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker)
        freeze = await app.hear("freeze")
        await app.say(frozen=app_pb2.Frozen(cycle="another\x1b[2J"))
        assert await refusal(app) == "ack_for_other_cycle"
        assert (await app.hear("abort")).cycle == "another?[2J"
        await app.say(frozen=app_pb2.Frozen(cycle=freeze.cycle))
        await hold.held()
        assert not [line for line in broker.log if "\x1b" in line]
        await hold.finish()
        await app.thaw()
        assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION


async def test_ack_after_its_time_is_refused_and_let_go() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker, freeze_budget=timedelta(milliseconds=400))
        freeze = await app.hear("freeze")
        assert (await app.hear("abort")).cycle == freeze.cycle  # its time is over
        await app.say(frozen=app_pb2.Frozen(cycle=freeze.cycle))
        assert await refusal(app) == "ack_too_late"
        await app.thaw("abort")
        verdict = await hold.verdict()
        assert verdict.level == types_pb2.LEVEL_FAILED
        assert verdict.outcomes[0].outcome == types_pb2.OUTCOME_TIMED_OUT


async def test_ack_without_any_cycle_is_refused_and_let_go() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        await app.say(frozen=app_pb2.Frozen(cycle="long-gone"))
        assert await refusal(app) == "ack_too_late"
        assert (await app.thaw("abort")).cycle == "long-gone"


async def test_flood_of_wrong_answers_cuts_the_app_and_no_other() -> None:
    async with (
        running_broker() as broker,
        attached(broker.runtime_directory, "a") as app,
        attached(broker.runtime_directory, "b") as other,
    ):
        for _ in range(REFUSALS_LIMIT):
            await app.say(frozen=app_pb2.Frozen(cycle="x"))
            assert await refusal(app) == "ack_too_late"
            await app.hear("abort")
        await app.say(frozen=app_pb2.Frozen(cycle="x"))
        assert (await app.ending()).sentence == "it sent too many messages that were refused"
        hold = await HoldCall.begin(broker)
        await other.freeze()
        await hold.held()
        await hold.finish()
        await other.thaw()
        assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION


async def test_lost_hold_lowers_the_verdict_and_ends_the_hold() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker)
        freeze = await app.freeze()
        await hold.held()
        await app.say(hold_lost=app_pb2.HoldLost(cycle=freeze.cycle, reason="the lock expired"))
        await app.thaw("abort")
        verdict = await hold.verdict()
        assert verdict.level == types_pb2.LEVEL_CRASH
        assert "the lock expired" in verdict.reasons[0]


async def test_app_that_comes_back_in_its_hold_proves_it() -> None:
    configuration = QUIET + '[cycle]\nreturn_grace = "20s"\n'
    async with running_broker(configuration) as broker, broker.watching() as watch:
        async with attached(broker.runtime_directory, "a") as app:
            hold = await HoldCall.begin(broker)
            freeze = await app.freeze()
            await hold.held()
        await watch.until("app_left")
        holding = app_pb2.Holding(cycle=freeze.cycle)
        holding.held_for.FromTimedelta(timedelta(seconds=1))
        async with attached(broker.runtime_directory, "a", incarnation=app.incarnation, holding=holding) as back:
            await watch.until("app_returned")
            await hold.finish()
            await back.thaw()
            assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION


async def test_a_requester_hears_of_the_end_also_when_the_broker_wakes_up_after_its_time() -> None:
    async with rig() as made:
        made.freezer.may_freeze.clear()
        hold = made.local.begin("me", timedelta(milliseconds=300), None)
        time.sleep(0.5)  # noqa: ASYNC251 - nothing of the broker runs until its time is over
        assert not await hold.held()
        with pytest.raises(CycleError, match="its time was over"):
            await hold.ended()
