"""One run of the deaths in a Linux cycle: a host's cycle is brought to its step, somebody dies or is stopped, and an
independent observer (`tests/support/disk_writers.py`) says when every file system took a write again. A run never
raises because of what it found: that is in its `DeathResult`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from appvss import contract
from appvss.model.phase import Phase
from tests.end_to_end.support.linux_stage import DiskWriters, LinuxStage, linux_stage
from tests.faults import seam
from tests.faults.linux_plan import Death, DeathPlan, Slowness
from tests.faults.requesting import Told
from tests.faults.seam import Seam
from tests.faults.verdicts import APPLICATION, Observer, Past
from tests.freezer.held_disks import session_of
from tests.support.loop_disks import LoopDisk, why_not
from tests.support.running_broker import APPVSS, BOUND

PROMISE = timedelta(seconds=2)
"""In which every file system takes a write again, once nobody else keeps it."""
ANSWER_LIMIT = timedelta(seconds=1)
"""How long a guardian that says nothing is waited for (`appvss.freezer.linux.ANSWER_LIMIT`)."""
BUDGET, HOLD_LIMIT = timedelta(seconds=4), timedelta(seconds=1)
SLOW = "slow"
_SIZES = {Slowness.STACK: 4096, Slowness.BUSY: 4 * 1024 * 1024}
_GATES = {
    Phase.PREPARING: "prepare",
    Phase.FREEZING_APPS: "freeze",
    Phase.CERTIFYING: "freeze",
    Phase.FREEZING_FILESYSTEMS: "freeze",
    Phase.THAWING_APPS: "thaw",
}
_COMPLAINTS = ("Traceback (most", "Task was destroyed", "never awaited", "never retrieved", " CRITICAL ")


@dataclass
class DeathResult:
    """What one run has shown."""

    plan: DeathPlan
    seen: str = ""
    """The phase that the broker had announced last when it was struck."""
    violations: list[str] = field(default_factory=list)
    levels: Counter[str] = field(default_factory=Counter)
    """The levels of all verdicts of this run, but for the last, good one."""
    longest: timedelta = timedelta(0)
    """The longest time from the strike, or from the end of somebody else's freeze, until a write was taken."""
    hung: int = 0
    """On how many file systems a write of the observer was waiting at the strike."""
    took: timedelta = timedelta(0)
    report: str = ""


async def play(plan: DeathPlan) -> DeathResult:
    """Play one run, and end everything."""
    began = time.monotonic()
    result = DeathResult(plan)
    stages: list[LinuxStage] = []
    try:
        async with linux_stage() as stage:
            stages.append(stage)
            try:
                await DeathRun(stage, plan, result).play()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what this run has found
                result.violations.append(f"{type(error).__name__}: {error}")
            result.report = stage.report()
    except AssertionError as error:
        result.violations.append(f"left behind, or a lie: {error}")
    result.took = timedelta(seconds=time.monotonic() - began)
    return result


class DeathRun:
    """The way of one run.

    Args:
        stage: with nobody on it.
        plan: what to do.
        result: where the findings go.
    """

    def __init__(self, stage: LinuxStage, plan: DeathPlan, result: DeathResult) -> None:
        self._stage = stage
        self._plan = plan
        self._result = result
        self._held = asyncio.Event()
        self._may_thaw = asyncio.Event()
        self._answers: dict[str, str] = {}
        """What the host was told, by what it asked for."""
        self._way: asyncio.Task[None] | None = None
        self._seam: Seam | None = None
        self._struck = 0
        """When; nanoseconds of CLOCK_MONOTONIC."""
        self._rescued = 0
        """When `appvss thaw` was called."""
        self._thawed_below = 0
        """When somebody else thawed."""
        self._targets: list[LoopDisk] = []
        self._writers: DiskWriters
        self._guardian = 0

    async def play(self) -> None:
        """All of it."""
        await self._build()
        before, broker = self._stage.broker.descriptors(), self._stage.broker.pid
        try:
            await self._reach()
            await asyncio.sleep(self._plan.delay.total_seconds())
            await self._strike()
            await self._is_free()
            await self._mend()
            await self._come_to_the_end()
        finally:
            if self._way is not None:
                self._way.cancel()
                await asyncio.wait({self._way})
            if self._plan.is_stuck and not self._thawed_below:
                await asyncio.to_thread(self._stage.disks.thaw, self._ground.path)
        await self._look(before, broker)

    # -- who is there

    async def _build(self) -> None:
        stage, plan = self._stage, self._plan
        await asyncio.to_thread(self._make_disks)
        if plan.step is Phase.CERTIFYING and seam.compiler() is not None:
            self._seam = Seam(stage.directory / "seam")
            stage.broker_environment = self._seam.environment
        await stage.start_simulator()
        await stage.start_broker(
            stage.configuration(
                budget=f"{BUDGET.total_seconds():.0f}s",
                reserve="2s",
                hold_limit=f"{HOLD_LIMIT.total_seconds():.0f}s",
                grace="1s",
                exclude=(self._ground.path,) if plan.is_stuck else (),
            )
        )
        self._guardian = (await stage.broker.status()).freezer.guardian_pid
        async with asyncio.TaskGroup() as tasks:
            for name, style, order, disk in (
                ("first", "async", "40", self._other),
                ("second", "threads", "40", self._upper),
                (SLOW, "async", "60", self._other),
            ):
                app = stage.start_app(name, style, "--order", order, "--prepares", on=disk)
                tasks.create_task(app, name=f"start {name}")
        self._writers = await stage.start_writers(_SIZES[plan.slowness], *self._targets)

    def _make_disks(self) -> None:
        """One that lies on another, that other one, and one of any kind beside them."""
        disks, plan = self._stage.disks, self._plan
        self._ground = disks.make("ground")
        self._upper = disks.make("upper", on=self._ground)
        self._other = disks.make("other", "ext4" if why_not(plan.kind) else plan.kind)
        self._targets = [self._upper, self._other, *(() if plan.is_stuck else (self._ground,))]
        if plan.keeps_state_there:
            self._stage.state_on = self._other

    # -- the host

    async def _go_the_way(self) -> None:
        """Check, freeze, thaw, as far as the host is agreed with."""
        simulator = self._stage.simulator
        if self._plan.step is not Phase.PREPARING and not await self._told("check", simulator.begin("check")):
            return
        if not await self._told("freeze", await self._stage.begin_freeze()):
            return
        self._held.set()
        await self._may_thaw.wait()
        await asyncio.sleep(self._plan.hold.total_seconds())
        await self._told("thaw", simulator.begin("thaw"))

    async def _told(self, command: str, begun: int) -> bool:
        answer = await self._stage.simulator.result(command, begun)
        self._answers[command] = answer["outcome"]
        return bool(answer["outcome"] == "ok")

    # -- to the step

    async def _reach(self) -> None:
        stage, plan, events = self._stage, self._plan, self._stage.events
        if plan.step in _GATES:
            await stage.apps[SLOW].told(f"close {_GATES[plan.step]}")
        self._way = asyncio.create_task(self._go_the_way(), name="host")
        match plan.step:
            case Phase.PREPARING:
                await self._unless_it_ends(events.sees("prepare_asked", app=SLOW))
            case Phase.FREEZING_APPS:
                await self._unless_it_ends(events.sees("freeze_asked", app=SLOW))
            case Phase.CERTIFYING | Phase.FREEZING_FILESYSTEMS:
                await self._unless_it_ends(events.sees("freeze_asked", app=SLOW))
                if self._seam is not None:
                    self._seam.stall_disk()
                if plan.is_stuck:
                    await asyncio.to_thread(stage.disks.freeze, self._ground.path)
                await stage.apps[SLOW].told("open")
                await self._unless_it_ends(events.reaches(plan.step))
            case _:
                await self._unless_it_ends(self._held.wait())
                await self._reach_the_end_of_the_hold()

    async def _reach_the_end_of_the_hold(self) -> None:
        plan, events = self._plan, self._stage.events
        if plan.step is Phase.HOLDING:
            for number in range(len(self._targets)):
                await self._writers.is_waiting(number)
            return
        if plan.is_stuck:
            await asyncio.to_thread(self._stage.disks.freeze, self._ground.path)
        self._may_thaw.set()
        if plan.step is Phase.THAWING_APPS:
            await self._unless_it_ends(events.sees("thaw_asked", app=SLOW))
        else:
            await self._unless_it_ends(events.reaches(plan.step))

    async def _unless_it_ends(self, news: Awaitable[Any]) -> None:
        """Wait for news of the cycle, but not when it is over already."""
        assert self._way is not None
        waiting = asyncio.ensure_future(news)
        await asyncio.wait({waiting, self._way}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait({waiting})
            raise AssertionError(f"the cycle did not reach {self._plan.step}: {self._answers}")
        await waiting

    # -- the strike

    async def _strike(self) -> None:
        stage, death = self._stage, self._plan.death
        changes = [event for event in stage.events.events if event.kind == "phase_changed"]
        self._result.seen = str(changes[-1].phase) if changes else "-"
        self._result.hung = sum(self._writers.waits(number) for number in range(len(self._targets)))
        self._struck = time.monotonic_ns()
        match death:
            case Death.BROKER_KILLED:
                stage.broker.signal(signal.SIGKILL)
            case Death.BROKER_STOPPED:
                stage.broker.signal(signal.SIGSTOP)
            case Death.GUARDIAN_KILLED:
                _send(self._guardian, signal.SIGKILL)
            case Death.GUARDIAN_STOPPED:
                _send(self._guardian, signal.SIGSTOP)
            case Death.BOTH_KILLED:
                _send(self._guardian, signal.SIGKILL)
                stage.broker.signal(signal.SIGKILL)
            case Death.ALL_KILLED:
                family = list(session_of(self._guardian))
                _send(self._guardian, signal.SIGSTOP)  # lest it replace a child
                for pid in reversed(family):
                    if pid != self._guardian:
                        _send(pid, signal.SIGKILL)
                stage.broker.signal(signal.SIGKILL)
                _send(self._guardian, signal.SIGKILL)

    # -- everything takes a write

    async def _is_free(self) -> None:
        """Measure until when each file system did not take a write."""
        plan = self._plan
        if plan.is_stuck:
            await asyncio.sleep(plan.stuck.total_seconds())
            await asyncio.to_thread(self._stage.disks.thaw, self._ground.path)
            self._thawed_below = time.monotonic_ns()
        if plan.death is Death.GUARDIAN_STOPPED:  # what shows is the next thing that the broker wants of it
            await self._release()
        if plan.death is Death.ALL_KILLED:
            await self._thaw_by_hand()
        async with asyncio.TaskGroup() as tasks:
            for number, disk in enumerate(self._targets):
                tasks.create_task(self._writers.writes_again(number), name=f"write to {disk.path}")
        for number, disk in enumerate(self._targets):
            longest = self._longest(number)
            self._result.longest = max(self._result.longest, longest)
            if longest > self._allowed:
                self._result.violations.append(f"{disk.path.name} took no write for {longest.total_seconds():.3f} s")

    @property
    def _allowed(self) -> timedelta:
        """Whoever is stopped lets nothing go before somebody else's time is over."""
        if self._plan.death is Death.BROKER_STOPPED:
            return BUDGET + HOLD_LIMIT + PROMISE
        if self._plan.death is Death.GUARDIAN_STOPPED:
            return BUDGET + HOLD_LIMIT + ANSWER_LIMIT + PROMISE
        return PROMISE

    def _longest(self, number: int) -> timedelta:
        since = max(self._struck, self._thawed_below, self._rescued)
        waits = [each.ended - max(each.began, since) for each in self._writers.writes(number) if each.ended > since]
        return timedelta(microseconds=max(waits, default=0) // 1000)

    async def _thaw_by_hand(self) -> None:
        """What the service manager does after such a broker (`ExecStopPost`)."""
        await self._stage.broker.exit_code()
        # A child that hangs in the kernel is gone when it hangs no more; until then it has the right to freeze.
        program = await self._stage.start_program("thaw", *APPVSS, "thaw", "--filesystems")
        self._rescued = time.monotonic_ns()
        if code := await program.ended():
            self._result.violations.append(f"appvss thaw --filesystems ended with {code}: {program.report()}")

    # -- and goes on

    async def _release(self) -> None:
        """Nobody is kept from going on any more."""
        self._may_thaw.set()
        if self._seam is not None:
            self._seam.flow()
        for app in self._stage.apps.values():
            app.say("open")

    async def _mend(self) -> None:
        stage, plan = self._stage, self._plan
        if plan.thaws_at_once:
            await self._release()
        if plan.death.strikes_broker:
            await stage.broker.exit_code()
            await self._is_gone(self._guardian)
            await stage.start_broker()
        elif plan.death is Death.BROKER_STOPPED:
            stage.broker.signal(signal.SIGCONT)
        await self._release()

    async def _is_gone(self, guardian: int) -> None:
        """Nothing of it is left: neither the guardian nor a child."""
        deadline = time.monotonic() + BOUND
        while left := {pid: state for pid, state in session_of(guardian).items() if state != "Z"}:
            assert time.monotonic() < deadline, f"of the guardian {guardian} these are left: {left}"
            await asyncio.sleep(0.01)

    async def _come_to_the_end(self) -> None:
        assert self._way is not None
        await self._stage.attached()
        async with asyncio.timeout(BOUND):
            await self._way
        await self._stage.rests()

    # -- the promises

    async def _guardian_goes_on(self) -> None:
        """The first one serves still, or nothing of it is left. One that was not needed since is still stopped."""
        if (await self._stage.broker.status()).freezer.guardian_pid != self._guardian:
            await self._is_gone(self._guardian)
        elif self._plan.death is Death.GUARDIAN_STOPPED:
            _send(self._guardian, signal.SIGCONT)

    async def _look(self, before: list[str], broker: int) -> None:
        stage, result = self._stage, self._result
        await stage.attached()
        await stage.all_write()
        result.violations += self._lies()
        past = await self._past()
        result.levels.update(cycle.level for cycle in past)
        await self._guardian_goes_on()
        await stage.backs_up(patiently=True)
        observer = Observer([app.log() for app in stage.apps.values()], {})
        result.violations += observer.lies(self._holds(), await self._past())
        result.violations += observer.overstays()
        if stage.broker.pid == broker:
            await self._nothing_leaked(before)
        self._writers.close_input()
        await self._writers.ended()
        if code := await stage.broker.terminate():
            result.violations.append(f"the broker ended with code {code}")
        result.violations += self._complaints()

    def _holds(self) -> list[Told]:
        """Each hold that the host was told was kept."""
        name = "linux_hv_vss"
        return [Told(name, "", each.acked, each.thaw_asked, APPLICATION) for each in self._stage.simulator.holds()]

    def _lies(self) -> Iterator[str]:
        """What the host was told and is not true."""
        for hold in self._holds():
            if self._plan.death.strikes_broker and hold.thaw_asked > self._struck:
                yield f"the broker had died, and the host was told that the hold was kept: {self._answers}"
            for number, disk in enumerate(self._targets):
                taken = [each for each in self._writers.writes(number) if hold.acked < each.ended < hold.thaw_asked]
                if taken:
                    yield f"the host was told of a hold in which {disk.path.name} took {len(taken)} writes"

    async def _past(self) -> list[Past]:
        return [
            Past(cycle.cycle, cycle.source, contract.verdict_of(cycle.verdict).level)
            for cycle in await self._stage.broker.cycles()
        ]

    async def _nothing_leaked(self, before: list[str]) -> None:
        """The broker holds the descriptors that it held before; what is being closed is waited for."""
        wanted = Counter(target.split(":[")[0] for target in before)
        deadline = time.monotonic() + 5
        while more := Counter(target.split(":[")[0] for target in self._stage.broker.descriptors()) - wanted:
            if time.monotonic() > deadline:
                self._result.violations.append(f"the broker has more descriptors than before: {dict(more)}")
                return
            await self._stage.broker.status()

    def _complaints(self) -> Iterator[str]:
        stage = self._stage
        logs = {"the broker": stage.broker.log}
        if stage.state_on is not None:
            logs["the broker"] = (stage.state_on.path / "broker.log").read_text().splitlines()
        logs |= {app.name: [line.text for line in app.err] for app in stage.apps.values()}
        for name, lines in logs.items():
            for line in lines:
                if any(complaint in line for complaint in _COMPLAINTS):
                    yield f"{name} complains: {line}"


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
