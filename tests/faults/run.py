"""One run of the fault matrix: a cycle is brought to its phase, a fault strikes, everything is mended, and then the
four promises are looked at. A run never raises because of what it found: that is in its `Result`.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from appvss import contract
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Verdict
from appvss.sdk.admin_values import status_of
from appvss.v1 import requester_pb2_grpc
from tests.faults.fault_stage import SLOW, FaultStage, keeps_state
from tests.faults.injection import Injection, shakes_the_device
from tests.faults.plan import Fault, Plan, SourceName, Victim
from tests.faults.requesting import Host, Local, Requesting, Told
from tests.faults.verdicts import APPLICATION, Observer, Past
from tests.support.holds import HoldCall, begin
from tests.support.running_broker import APPVSS, BOUND

_GATES = {
    Phase.PREPARING: "prepare",
    Phase.FREEZING_APPS: "freeze",
    Phase.CERTIFYING: "freeze",
    Phase.FREEZING_FILESYSTEMS: "freeze",
    Phase.THAWING_APPS: "thaw",
    Phase.ABORTING: "thaw",
}
_PATIENCE = 8.0
"""Seconds in which a requester must have come to its end when everything is well again."""
_EPILOGUE = 0.01
"""Seconds of the hold after which everything is compared."""
_LITTLE_PATIENCE = 0.5
"""The same where it may have to wait for its own timer, which the run does not."""
_COMPLAINTS = ("Traceback (most", "Task was destroyed", "never awaited", "never retrieved", " CRITICAL ")


@dataclass
class Result:
    """What one run has shown."""

    plan: Plan
    seen: str = ""
    """The phase that the broker had announced last when the fault struck."""
    violations: list[str] = field(default_factory=list)
    levels: Counter[str] = field(default_factory=Counter)
    """The levels of all verdicts of this run."""
    longest: timedelta = timedelta(0)
    """The longest time from an app's limit to its next write."""
    took: timedelta = timedelta(0)
    report: str = ""
    """What everybody said."""


async def play(plan: Plan) -> Result:
    """Play one run, and end everything."""
    began = time.monotonic()
    stage, result = FaultStage(plan), Result(plan)
    try:
        await Run(stage, plan, result).play()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what this run has found
        result.violations.append(f"{type(error).__name__}: {error}")
    finally:
        result.report = stage.report()
        result.violations += [f"left behind: {line}" for line in await stage.close()]
    result.took = timedelta(seconds=time.monotonic() - began)
    return result


class Run:
    """The way of one run.

    Args:
        stage: with nobody on it.
        plan: what to do.
        result: where the findings go.
    """

    def __init__(self, stage: FaultStage, plan: Plan, result: Result) -> None:
        self._stage = stage
        self._plan = plan
        self._result = result
        full = f'head -c 8388608 /dev/zero > "{stage.directory}/disk/image"'
        fills = plan.fault is Fault.DISK_FULL and plan.victim is Victim.SOURCE
        self._requesting: Requesting = (
            Host(stage, plan) if plan.source is SourceName.FREEBSD else Local(stage, plan, full if fills else "true")
        )
        self._injection = Injection(stage, plan, self._requesting)
        self._way: asyncio.Task[None] | None = None
        self._force: asyncio.Task[object] | None = None
        self._told: list[Told] = [self._requesting.told]

    async def play(self) -> None:
        """All of it."""
        stage, plan = self._stage, self._plan
        await stage.build()
        before, broker = stage.broker.descriptors(), stage.broker.pid
        try:
            if plan.phase is not Phase.IDLE:
                await self._reach()
            await asyncio.sleep(plan.delay.total_seconds())
            await self._be_struck()
            if plan.phase is Phase.IDLE:
                await stage.attached()
                if plan.source is SourceName.FREEBSD:
                    await stage.simulator.is_served()
                await self._begin()
                await self._release()
            await self._come_to_the_end()
        finally:
            await self._stop_tasks()
        await self._look(before, broker)

    # -- to the phase

    async def _begin(self) -> None:
        if self._plan.phase is not Phase.PREPARED:
            self._requesting.may_freeze.set()
        self._way = asyncio.create_task(self._requesting.run(), name="requester")

    async def _reach(self) -> None:
        """Begin the cycle; it is in its phase, or, where that passes in a moment, about to be."""
        stage, phase, events = self._stage, self._plan.phase, self._stage.events
        if phase in _GATES:
            await stage.apps[SLOW].told(f"close {_GATES[phase]}")
        if stage.seam is not None and stage.can_stall_broker:
            if phase is Phase.REQUESTED:
                stage.seam.stall_disk()
            elif phase is Phase.FREEZING_FILESYSTEMS:  # it waits for the line that is being written
                stage.seam.stall_log()
        await self._begin()
        match phase:
            case Phase.REQUESTED:
                await self._unless_it_ends(events.reaches(phase))
            case Phase.PREPARING:
                await self._unless_it_ends(events.sees("prepare_asked", app=SLOW))
            case Phase.PREPARED:
                await self._unless_it_ends(events.reaches(phase))
            case Phase.FREEZING_APPS:
                await self._unless_it_ends(events.sees("freeze_asked", app=SLOW))
            case Phase.CERTIFYING | Phase.FREEZING_FILESYSTEMS:
                await self._stall_after_the_last_ack()
            case Phase.HOLDING:
                await self._unless_it_ends(self._requesting.held.wait())
            case _:
                await self._reach_the_end_of_the_hold()

    async def _stall_after_the_last_ack(self) -> None:
        stage, phase, events = self._stage, self._plan.phase, self._stage.events
        await self._unless_it_ends(events.sees("freeze_asked", app=SLOW))
        if phase is Phase.CERTIFYING and stage.seam is not None and stage.can_stall_broker:
            stage.seam.stall_disk()
        await stage.apps[SLOW].told("open")
        if phase is Phase.FREEZING_FILESYSTEMS or keeps_state():
            await self._unless_it_ends(events.reaches(phase))

    async def _reach_the_end_of_the_hold(self) -> None:
        stage, phase, events = self._stage, self._plan.phase, self._stage.events
        await self._unless_it_ends(self._requesting.held.wait())
        if phase is Phase.ABORTING:
            after = events.count
            self._force = asyncio.create_task(stage.broker.force_thaw("a test wants it"), name="force thaw")
            await events.reaches(phase, after)
            return
        self._requesting.may_thaw.set()
        if phase is Phase.THAWING_APPS:
            await self._unless_it_ends(events.sees("thaw_asked", app=SLOW))
        else:
            await asyncio.sleep(self._plan.hold.total_seconds())  # the requester asks for the thaw about now

    async def _unless_it_ends(self, news: Awaitable[Any]) -> None:
        """Wait for news of the cycle, but not when it is over already."""
        assert self._way is not None
        waiting = asyncio.ensure_future(news)
        await asyncio.wait({waiting, self._way}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait({waiting})
            raise AssertionError(f"the cycle did not reach {self._plan.phase}: {self._requesting.told}")
        await waiting

    # -- the fault

    async def _be_struck(self) -> None:
        changes = [event for event in self._stage.events.events if event.kind == "phase_changed"]
        self._result.seen = str(changes[-1].phase) if changes else str(Phase.IDLE)
        await self._injection.strike()
        await asyncio.sleep(self._plan.length.total_seconds())
        if self._plan.victim is Victim.SUPERVISOR:
            await self._injection.restart()
        if self._plan.releases_first:
            await self._release()
        await self._heal()
        await self._release()

    async def _heal(self) -> None:
        if self._plan.victim is not Victim.SUPERVISOR:
            await self._injection.heal()
            return
        if self._plan.releases_first:  # else the new broker finds the fault still there
            await self._injection.heal()
        await self._stage.meet_broker()
        if not self._plan.releases_first:
            await self._injection.heal()

    async def _release(self) -> None:
        """Nobody is kept from going on any more."""
        if self._plan.phase is not Phase.IDLE or self._way is not None:
            self._requesting.may_freeze.set()
            self._requesting.may_thaw.set()
        if self._stage.seam is not None:
            self._stage.seam.flow()
        for app in self._stage.apps.values():
            if app.process.returncode is None:
                app.say("open")

    async def _come_to_the_end(self) -> None:
        assert self._way is not None
        await self._stage.rests()
        may_wait_long = shakes_the_device(self._plan) and not self._plan.is_adopted
        done, _ = await asyncio.wait({self._way}, timeout=_LITTLE_PATIENCE if may_wait_long else _PATIENCE)
        if done:
            self._way.result()
        elif not may_wait_long:
            self._result.violations.append(f"the requester heard nothing: {self._requesting.told}")

    async def _stop_tasks(self) -> None:
        for task in (self._way, self._force):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    task.exception()  # it is known, or it came of the fault itself

    # -- the promises

    async def _look(self, before: list[str], broker: int) -> None:
        stage = self._stage
        await stage.rests()
        await stage.attached()
        async with asyncio.TaskGroup() as tasks:
            for app in stage.apps.values():
                tasks.create_task(app.writes(), name=f"write of {app.name}")
        await self._hold_well()
        await self._nobody_is_held()
        await self._truth()
        if stage.broker.pid == broker:
            await self._nothing_leaked(before)
        await self._history_is_readable()
        code = await stage.broker.terminate()
        if code != 0:
            self._result.violations.append(f"the broker ended with code {code}")
        await asyncio.to_thread(self._state_is_whole)
        for name, lines in [("the broker", stage.broker.log)] + [
            (app.name, [line.text for line in app.err]) for app in stage.apps.values()
        ]:
            for line in lines:
                if any(complaint in line for complaint in _COMPLAINTS):
                    self._result.violations.append(f"{name} complains: {line}")

    async def _hold_well(self) -> None:
        """Everything is well again: a hold now is application-consistent. An app that is busy still says so."""
        async with asyncio.timeout(BOUND):
            while (verdict := await self._hold_once()) is not None and any(part.retryable for part in verdict.outcomes):
                pass
        if verdict is not None:
            self._result.violations.append(f"nothing was wrong any more, and a hold failed: {verdict}")

    async def _hold_once(self) -> Verdict | None:
        """One hold; its verdict unless that is `application`."""
        told = Told("local")
        channel = self._stage.broker.channel()
        hold = HoldCall(requester_pb2_grpc.RequesterServiceStub(channel).Hold())
        await hold.say(begin("the matrix"))
        heard = await hold.heard()
        if heard.HasField("held"):
            told.cycle, told.acked = heard.held.cycle, time.monotonic_ns()
            await asyncio.sleep(_EPILOGUE)
            told.thaw_asked = time.monotonic_ns()
            await hold.finish()
            heard = await hold.heard()
        verdict = contract.verdict_of(heard.ended.verdict)
        await hold.ending()
        await channel.close()
        told.level = verdict.level
        self._told.append(told)
        return None if verdict.level is Level.APPLICATION else verdict

    async def _nobody_is_held(self) -> None:
        async with asyncio.timeout(BOUND):
            while (await self._stage.rests()) and any(
                app.state not in ("registered", "absent") for app in await self._stage.broker.apps()
            ):
                pass
        status = status_of(await self._stage.broker.status())
        if status.phase is None or not status.phase.is_resting:
            self._result.violations.append(f"the broker does not rest: {status.phase}")

    async def _truth(self) -> None:
        stage, plan, told = self._stage, self._plan, self._requesting.told
        past = [
            Past(cycle.cycle, cycle.source, contract.verdict_of(cycle.verdict).level)
            for cycle in await stage.broker.cycles()
            if not cycle.rehearses
        ]
        observer = Observer([app.log() for app in stage.apps.values()], stage.unable)
        self._result.violations += observer.lies(self._told, past)
        self._result.violations += observer.overstays()
        self._result.longest = timedelta(microseconds=observer.longest() / 1000)
        self._result.levels.update(cycle.level for cycle in past)
        if plan.leaves_the_cycle_alone and told.level != APPLICATION:
            self._result.violations.append(f"the cycle was to succeed: {told}")
        if plan.is_adopted and keeps_state() and told.level != APPLICATION:
            self._result.violations.append(f"the new broker was to take the hold up: {told}")
        if plan.phase is Phase.ABORTING and told.level == APPLICATION:
            self._result.violations.append(f"the hold was ended by force: {told}")

    async def _nothing_leaked(self, before: list[str]) -> None:
        """The broker holds the descriptors that it held before; what is being closed is waited for."""
        wanted = _kinds(before)
        try:
            async with asyncio.timeout(5):
                while _kinds(self._stage.broker.descriptors()) - wanted:
                    await self._stage.broker.status()
        except TimeoutError:
            more = _kinds(self._stage.broker.descriptors()) - wanted
            self._result.violations.append(f"the broker has more descriptors than before: {dict(more)}")

    async def _history_is_readable(self) -> None:
        if not keeps_state():
            return
        process = await self._stage.start_program("history", *APPVSS, "history", "--json")
        if await process.ended() != 0:
            self._result.violations.append(f"appvss history has failed: {process.report()}")
            return
        document = json.loads("\n".join(line.text for line in process.out))
        if document["message_type"] != "history":
            self._result.violations.append(f"appvss history says {document}")

    def _state_is_whole(self) -> None:
        """What the broker leaves on the disk; as long as it runs, nobody else may look into it."""
        state = self._stage.directory / "state"
        file = state / "history.sqlite"
        if not file.exists():
            if keeps_state():
                self._result.violations.append("there is no history")
            return
        if (state / "certificate.json").exists():
            self._result.violations.append("a certificate is left, and nothing is held")
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as database:
            (answer,) = database.execute("PRAGMA integrity_check").fetchone()
        if answer != "ok":
            self._result.violations.append(f"{file.name} is damaged: {answer}")


def _kinds(descriptors: list[str]) -> Counter[str]:
    """How many of each kind: sockets and pipes have numbers."""
    return Counter(target.split(":[")[0] for target in descriptors)
