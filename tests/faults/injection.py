"""The faults themselves: each strikes one victim, and its mark is taken away again.

`strike` does it. `heal` ends it and brings back whoever died, so that everything can be as it was: an app that was
killed is started again, and so is a broker, if no supervisor has done it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from tests.end_to_end.support.children import Child
from tests.faults.fault_stage import REQUESTER, FaultStage
from tests.faults.plan import Fault, Plan, SourceName, Victim
from tests.faults.relay import Strangers
from tests.faults.requesting import Local, Requesting
from tests.faults.supervised import SupervisedBroker

_STUTTER = (0.03, 0.01)
"""Seconds without and with a processor, of a process that is slow."""
_LATENCY = timedelta(milliseconds=80)

Deed = Callable[[], Awaitable[None]]


class Injection:
    """One fault.

    Args:
        stage: where.
        plan: which, and whom.
        requesting: who asks in this run.
    """

    def __init__(self, stage: FaultStage, plan: Plan, requesting: Requesting) -> None:
        self._stage = stage
        self._plan = plan
        self._requesting = requesting
        self._struck = 0
        self._stuttering: asyncio.Task[None] | None = None
        self._strangers = Strangers(stage.directory / "run")
        self._deeds: dict[Fault, tuple[Deed, Deed]] = {
            Fault.NONE: (self._nothing, self._nothing),
            Fault.KILL: (self._kill, self._revive),
            Fault.STOP: (self._stop, self._go_on),
            Fault.CLOSED_SOCKET: (self._cut, self._mend),
            Fault.SLOW: (self._slow_down, self._speed_up),
            Fault.GARBAGE: (self._talk_nonsense, self._fall_silent),
            Fault.DISK_FULL: (self._fill, self._free),
            Fault.CLOCK_JUMP: (self._jump, self._jump_back),
            Fault.DEVICE_GONE: (self._detach, self._attach),
        }

    async def strike(self) -> None:
        """Let it happen."""
        self._struck = time.monotonic_ns()
        await self._deeds[self._plan.fault][0]()

    async def heal(self) -> None:
        """Let it be over; whoever died is back."""
        await self._deeds[self._plan.fault][1]()

    async def restart(self) -> None:
        """End the supervised broker; another one is on its way."""
        broker = self._stage.broker
        assert isinstance(broker, SupervisedBroker)
        old = broker.pid
        number = signal.SIGTERM if self._plan.ends_orderly else signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            broker.signal(number)
            if number is signal.SIGTERM:
                broker.signal(signal.SIGCONT)
        async with asyncio.timeout(15):
            await broker.replaced(old)

    # -- whom

    @property
    def _strikes_host(self) -> bool:
        return self._plan.victim is Victim.SOURCE and self._plan.source is SourceName.FREEBSD

    @property
    def _strikes_broker(self) -> bool:
        return self._plan.victim in (Victim.BROKER, Victim.SUPERVISOR)

    def _child(self) -> Child | None:
        """The victim, if it is not the broker; None: it does not run."""
        if self._plan.victim is Victim.APP:
            return self._stage.apps[self._plan.app]
        if self._strikes_host:
            return self._stage.simulator
        return self._requesting.requester if isinstance(self._requesting, Local) else None

    def _signal(self, number: signal.Signals) -> None:
        child = self._child()
        with contextlib.suppress(ProcessLookupError):
            if self._strikes_broker:
                self._stage.broker.signal(number)
            elif child is not None and child.process.returncode is None:
                child.signal(number)

    # -- each fault, and its end

    async def _nothing(self) -> None:
        pass

    async def _kill(self) -> None:
        if self._plan.victim is Victim.SUPERVISOR:
            return  # `restart` does it
        if self._plan.victim is Victim.BROKER:
            await self._stage.broker.kill()
        elif (child := self._child()) is not None and child.process.returncode is None:
            await child.kill()

    async def _revive(self) -> None:
        stage, plan = self._stage, self._plan
        if plan.victim is Victim.BROKER:
            await stage.start_broker(device=plan.source is SourceName.FREEBSD)
        elif plan.victim is Victim.APP:
            await stage.start_app(*stage.app_arguments(plan.app))
            stage.mark_unable(plan.app, self._struck)
        elif self._strikes_host:
            await self._is_served(stage.start_simulator)

    async def _is_served(self, how: Callable[[], Awaitable[object]]) -> None:
        """Bring the device back; the broker finds it."""
        after = self._stage.events.count
        await how()
        if self._plan.victim is not Victim.SUPERVISOR:
            await self._stage.events.sees("source_changed", detail="freebsd serving", after=after)

    async def _stop(self) -> None:
        self._signal(signal.SIGSTOP)

    async def _go_on(self) -> None:
        if self._plan.victim is not Victim.SUPERVISOR:
            self._signal(signal.SIGCONT)
        if self._plan.victim is Victim.APP:
            self._stage.mark_unable(self._plan.app, self._struck)

    async def _cut(self) -> None:
        if self._strikes_host:
            self._stage.simulator.say("fs die")
        for relay in self._stage.relays.values():
            relay.is_shut = True
            relay.cut()

    async def _mend(self) -> None:
        if self._strikes_host:
            await self._stage.simulator.do("fs open")
        for relay in self._stage.relays.values():
            relay.is_shut = False

    async def _slow_down(self) -> None:
        if self._plan.victim is Victim.APP:
            self._stage.relays[self._plan.app].latency = _LATENCY
        elif REQUESTER in self._stage.relays:
            self._stage.relays[REQUESTER].latency = _LATENCY
        else:
            self._stuttering = asyncio.create_task(self._stutter(), name="stutter")

    async def _stutter(self) -> None:
        stopped, running = _STUTTER
        try:
            while True:
                self._signal(signal.SIGSTOP)
                await asyncio.sleep(stopped)
                self._signal(signal.SIGCONT)
                await asyncio.sleep(running)
        finally:
            self._signal(signal.SIGCONT)

    async def _speed_up(self) -> None:
        if self._stuttering is not None:
            self._stuttering.cancel()
            await asyncio.wait({self._stuttering})
        for relay in self._stage.relays.values():
            relay.latency = timedelta(0)

    async def _talk_nonsense(self) -> None:
        if self._strikes_host:
            self._stage.simulator.begin(f"operation {self._plan.seed % 256}")
        elif self._strikes_broker:
            await self._strangers.come()
        for relay in self._stage.relays.values():
            relay.pour(os.urandom(self._plan.seed % 997 + 1))

    async def _fall_silent(self) -> None:
        self._strangers.go()

    async def _fill(self) -> None:
        assert self._stage.disk is not None
        await asyncio.to_thread(self._stage.disk.fill)

    async def _free(self) -> None:
        assert self._stage.disk is not None
        await asyncio.to_thread(self._stage.disk.free)
        if self._plan.victim is Victim.APP:
            self._stage.mark_unable(self._plan.app, self._struck)

    async def _jump(self) -> None:
        if self._strikes_host:
            seconds = self._plan.jump.total_seconds()
            await self._stage.simulator.do(f"clock {seconds:+.0f}s")
        elif self._stage.seam is not None:
            self._stage.seam.jump(self._plan.jump)

    async def _jump_back(self) -> None:
        """Of a host's clock: its next requests must make sense. Another one stays as it is: nothing depends on it."""
        if self._strikes_host:
            await self._stage.simulator.do(f"clock {-self._plan.jump.total_seconds():+.0f}s")
        elif self._stage.seam is not None and self._plan.source is SourceName.FREEBSD:
            self._stage.seam.jump(timedelta(0))

    async def _detach(self) -> None:
        if self._plan.victim is Victim.BROKER:  # as the driver kills it, but the device is there
            for pid in self._openers():
                os.kill(pid, signal.SIGKILL)
        else:
            await self._stage.simulator.do("detach")

    async def _attach(self) -> None:
        if self._plan.victim is not Victim.BROKER:
            await self._is_served(lambda: self._stage.simulator.do("attach"))

    def _openers(self) -> list[int]:
        """The broker's children: the process that has opened the device for it."""
        children = f"/proc/{self._stage.broker.pid}/task/{self._stage.broker.pid}/children"
        with open(children, encoding="ascii") as file:
            return [int(word) for word in file.read().split()]


def shakes_the_device(plan: Plan) -> bool:
    """Whether the host's requests may stay unanswered in this run: the driver forgets none that was read, and the
    broker that read it, or the driver, or the clock by which it is dated, is another one.
    """
    if plan.source is not SourceName.FREEBSD:
        return False
    lost = {Fault.KILL, Fault.DEVICE_GONE, Fault.CLOCK_JUMP, Fault.CLOSED_SOCKET, Fault.STOP, Fault.GARBAGE, Fault.SLOW}
    return plan.victim is Victim.SUPERVISOR or (plan.fault in lost and plan.victim is not Victim.APP)
