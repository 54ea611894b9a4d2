"""The source on the simulated device: a real file, real system calls, a clock that stands still unless it is moved."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tenacity import RetryCallState, wait_fixed
from tenacity.wait import wait_base

from appvss.model.errors import DeviceBusy, SimulatorUnavailable
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.source import SourceCondition, SourceMode
from appvss.simulator.freebsd import EventKind, FreebsdSimulator, HostOperation, HostOutcome, HostResult, Side
from appvss.sources.device_opener import DeviceOpener
from appvss.sources.device_thread import MOST_ANSWERS, News, Opened
from appvss.sources.freebsd import FreebsdSettings, FreebsdSource
from appvss.sources.freebsd.device import FreebsdDevice
from appvss.sources.freebsd.ledger import Ledger
from appvss.sources.lasting_source import STEADY
from tests.sources.device_support import NOTHING, WAIT, Listener, VirtualClock, left_behind, new_since, running

LATEST = timedelta(seconds=14.5)
"""What a request may take: the driver's 15 s without the last half second."""
LIMIT = timedelta(seconds=15)
OPERATIONS = {
    HostOperation.CHECK: RequestKind.CHECK,
    HostOperation.FREEZE: RequestKind.FREEZE,
    HostOperation.THAW: RequestKind.THAW,
}


@dataclass
class Scene:
    """A host, its guest's device, and the source on it."""

    simulator: FreebsdSimulator
    clock: VirtualClock
    listener: Listener
    source: FreebsdSource

    def host_asks(self, operation: HostOperation) -> asyncio.Task[HostResult]:
        return asyncio.create_task(self.simulator.host.request(operation), name=f"host-{operation.name}")

    def answer(self, request: Request, *, go_on: bool = True) -> None:
        self.source.answer(Answer(request, go_on=go_on, reason=""))

    async def round_trip(self, operation: HostOperation, *, go_on: bool = True) -> HostResult:
        """The host asks, the source brings it, the broker answers at once, the host hears."""
        result = self.host_asks(operation)
        self.answer(await self.listener.next_request(), go_on=go_on)
        async with asyncio.timeout(WAIT):
            return await result

    async def time_out(self, result: asyncio.Task[HostResult], after: timedelta) -> HostResult:
        """Let the driver's timer run out, which is `after` from now."""
        self.move(after)
        async with asyncio.timeout(WAIT):
            return await result

    def move(self, by: timedelta) -> None:
        self.clock.move(by)
        self.simulator.clock_moved()

    async def serving(self) -> int:
        """Wait until the device is open; the result is the process that opened it."""
        state = await self.listener.next_state(SourceCondition.SERVING)
        return int(state.detail.rpartition(" ")[2])

    def happened(self, *kinds: EventKind) -> list[tuple[EventKind, str, int | None]]:
        """What happened on the app device, of these kinds."""
        return [
            (event.kind, event.operation, event.status)
            for event in self.simulator.events
            if event.kind in kinds and event.side is Side.APP
        ]

    def writes(self) -> list[tuple[EventKind, str, int | None]]:
        """Every WRITE that the driver saw, whether it took it or not."""
        return self.happened(EventKind.WROTE, EventKind.WRITE_IGNORED)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path for the mount, and a place for what lies beside it."""
    parent = Path(tempfile.mkdtemp(prefix="vss-", dir="/tmp"))
    yield parent / "dev"
    shutil.rmtree(parent)


@pytest.fixture
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Everything but the source's `run`."""
    clock = VirtualClock()
    async with AsyncExitStack() as stack:
        try:
            simulator = await stack.enter_async_context(FreebsdSimulator(folder, clock=clock))
        except SimulatorUnavailable as error:
            pytest.skip(f"no FUSE here: {error.sentence}")
        settings = FreebsdSettings(device=str(simulator.app_device), filesystem_reserve=timedelta(seconds=4))
        source = FreebsdSource(settings, clock, pause=wait_fixed(0.02))
        yield Scene(simulator, clock, Listener(), source)
        assert not [event for event in simulator.events if event.kind in (EventKind.WAIT_IN_VAIN, EventKind.RACED)]
        assert not [event for event in simulator.events if event.kind is EventKind.UNKNOWN_IOCTL]


@asynccontextmanager
async def opened_by_another(path: Path) -> AsyncIterator[int]:
    """The device, open in this process; in a thread, because this thread answers the system call."""
    descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        await asyncio.to_thread(os.close, descriptor)


# Requests and answers


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("go_on", "outcome", "status"), [(True, HostOutcome.OK, 0), (False, HostOutcome.FAILED, 1)])
async def test_a_request_comes_and_its_answer_goes(
    scene: Scene, operation: HostOperation, go_on: bool, outcome: HostOutcome, status: int
) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = scene.host_asks(operation)
        request = await scene.listener.next_request()
        state = scene.simulator.state()
        assert state is not None
        (held,) = state.requests
        assert (request.id, request.kind) == (str(held.msgid), OPERATIONS[operation])
        assert (request.source, request.requester) == ("freebsd", "Hyper-V host")
        assert request.deadline == scene.clock.now() + LATEST
        assert not result.done()
        scene.answer(request, go_on=go_on)
        async with asyncio.timeout(WAIT):
            assert (await result).outcome is outcome
    assert scene.writes() == [(EventKind.WROTE, operation.name.lower(), status)]


async def test_a_whole_backup_and_another(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        for operation in (*OPERATIONS, *OPERATIONS):
            assert (await scene.round_trip(operation)).ok
    assert [request.kind for request in scene.listener.requests] == [*OPERATIONS.values(), *OPERATIONS.values()]
    assert scene.listener.losses == []


async def test_a_long_run_of_requests_is_answered_one_for_one(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        for count in range(100):
            scene.move(timedelta(milliseconds=1))
            result = await scene.round_trip(HostOperation.CHECK, go_on=count % 3 != 0)
            assert result.ok is (count % 3 != 0)
    assert len({request.id for request in scene.listener.requests}) == 100
    assert [status for _, _, status in scene.writes()] == [int(count % 3 == 0) for count in range(100)]


async def test_an_answer_just_before_the_last_half_second_is_written(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = scene.host_asks(HostOperation.CHECK)
        request = await scene.listener.next_request()
        scene.move(LATEST - timedelta.resolution)
        scene.answer(request)
        async with asyncio.timeout(WAIT):
            assert (await result).ok


@pytest.mark.parametrize("late", [LATEST, LIMIT - timedelta.resolution])
async def test_a_late_answer_is_never_written(scene: Scene, late: timedelta, caplog: pytest.LogCaptureFixture) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = scene.host_asks(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        scene.move(late)
        scene.answer(request)
        assert not (await scene.time_out(result, LIMIT - late)).ok
        # The answers are worked off in order: when the second is written, the first was seen.
        assert (await scene.round_trip(HostOperation.THAW)).ok
    assert scene.writes() == [(EventKind.WROTE, "thaw", 0)]
    assert f"the answer to request {request.id} is not sent" in caplog.text


async def test_only_the_first_answer_is_written(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = scene.host_asks(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        for go_on in (True, False, True):
            scene.answer(request, go_on=go_on)
        async with asyncio.timeout(WAIT):
            assert (await result).ok
        assert (await scene.round_trip(HostOperation.THAW)).ok
    assert scene.writes() == [(EventKind.WROTE, "freeze", 0), (EventKind.WROTE, "thaw", 0)]
    assert caplog.text.count(f"the answer to request {request.id} is not sent") == 2


async def test_an_answer_to_nothing_is_not_written(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        scene.answer(Request("4711", "freebsd", RequestKind.FREEZE, "nobody", scene.clock.now() + LATEST))
        assert (await scene.round_trip(HostOperation.CHECK)).ok
    assert scene.writes() == [(EventKind.WROTE, "check", 0)]


async def test_a_flood_of_answers_is_bounded_and_harmless(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        with scene.clock.held_for_others():
            # The thread takes the first and waits for the clock; the rest finds room for `MOST_ANSWERS`.
            for number in range(1 + MOST_ANSWERS + 5):
                scene.answer(Request(str(number), "freebsd", RequestKind.CHECK, "nobody", scene.clock.now() + LATEST))
        assert 5 <= caplog.text.count("others wait") <= 6
        assert (await scene.round_trip(HostOperation.CHECK)).ok
    assert scene.writes() == [(EventKind.WROTE, "check", 0)]


# Time


@pytest.mark.parametrize(
    ("jump", "left"),
    [
        (timedelta(seconds=-3), timedelta(seconds=11.5)),
        (timedelta(seconds=-14.4), timedelta(milliseconds=100)),
        (timedelta(seconds=3), LATEST),
        (timedelta(days=3000), LATEST),
    ],
)
async def test_the_msgid_says_what_is_gone_and_is_not_believed_beyond_reason(
    scene: Scene, jump: timedelta, left: timedelta
) -> None:
    """A msgid that was stamped `jump` away from our wall clock: late reading, or a clock that was set meanwhile."""
    async with running(scene.source, scene.listener):
        await scene.serving()
        scene.simulator.shift_wall(jump)
        result = scene.host_asks(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        assert request.deadline == scene.clock.now() + left
        scene.answer(request)
        async with asyncio.timeout(WAIT):
            assert (await result).ok


@pytest.mark.parametrize("jump", [timedelta(seconds=-14.5), timedelta(seconds=-15), timedelta(days=-3000)])
async def test_a_request_whose_time_is_gone_is_not_asked_but_said(
    scene: Scene, jump: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        at_rest = scene.source.state
        scene.simulator.shift_wall(jump)
        result = scene.host_asks(HostOperation.FREEZE)
        state = await scene.listener.next_state(SourceCondition.SERVING)
        assert "came too late" in state.detail
        assert not (await scene.time_out(result, LIMIT)).ok
        scene.simulator.shift_wall(-jump)
        assert (await scene.round_trip(HostOperation.CHECK)).ok
        assert scene.source.state == at_rest
    assert [request.kind for request in scene.listener.requests] == [RequestKind.CHECK]
    assert "came too late" in caplog.text


async def test_a_thaw_whose_time_is_gone_is_asked_and_not_answered(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        scene.simulator.shift_wall(timedelta(hours=-1))
        result = scene.host_asks(HostOperation.THAW)
        request = await scene.listener.next_request()
        assert (request.kind, request.deadline) == (RequestKind.THAW, scene.clock.now())
        scene.answer(request)
        assert not (await scene.time_out(result, LIMIT)).ok
        scene.simulator.shift_wall(timedelta(hours=1))
        assert (await scene.round_trip(HostOperation.CHECK)).ok
    assert scene.writes() == [(EventKind.WROTE, "check", 0)]


async def test_a_request_that_waited_for_us_is_taken_with_what_is_left_of_its_time(scene: Scene) -> None:
    async with opened_by_another(scene.simulator.app_device):
        result = scene.host_asks(HostOperation.FREEZE)
        await scene.simulator.wait_for(EventKind.WOKEN)
    scene.move(timedelta(seconds=4))
    async with running(scene.source, scene.listener):
        request = await scene.listener.next_request()
        assert request.deadline == scene.clock.now() + LATEST - timedelta(seconds=4)
        scene.answer(request)
        async with asyncio.timeout(WAIT):
            assert (await result).ok


# Coming and going


async def test_a_busy_device_is_waited_for(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        # The source is the other here: the second one finds the device in use.
        owner = await scene.serving()
        listener, clock = Listener(), scene.clock
        settings = FreebsdSettings(device=str(scene.simulator.app_device))
        async with running(FreebsdSource(settings, clock, pause=wait_fixed(0.02)), listener):
            state = await listener.next_state()
            assert (state.condition, state.mode) == (SourceCondition.WAITING, SourceMode.AUTOMATIC)
            assert "is open in another process" in state.detail
            assert f"fstat {scene.simulator.app_device}" in state.detail
            before = scene.simulator.event_count
            os.kill(owner, signal.SIGKILL)
            assert (await scene.listener.next_state(SourceCondition.LOST)).detail
            # Either of the two may be first now.
            await scene.simulator.wait_for(EventKind.OPENED, after=before)


async def test_a_required_device_that_is_busy_ends_the_start(scene: Scene) -> None:
    async with opened_by_another(scene.simulator.app_device):
        settings = FreebsdSettings(device=str(scene.simulator.app_device), mode=SourceMode.REQUIRED)
        with pytest.raises(DeviceBusy, match=f"{scene.simulator.app_device} is open in another process"):
            async with asyncio.timeout(WAIT):
                await FreebsdSource(settings, scene.clock).run(scene.listener)


async def test_the_device_is_taken_as_soon_as_it_is_free(scene: Scene) -> None:
    async with AsyncExitStack() as stack:
        async with opened_by_another(scene.simulator.app_device):
            await stack.enter_async_context(running(scene.source, scene.listener))
            await scene.listener.next_state(SourceCondition.WAITING)
        await scene.serving()
        assert (await scene.round_trip(HostOperation.CHECK)).ok


async def test_an_absent_device_is_waited_for(scene: Scene) -> None:
    scene.simulator.detach()
    async with running(scene.source, scene.listener):
        assert "does not exist" in (await scene.listener.next_state(SourceCondition.WAITING)).detail
        scene.simulator.attach()
        await scene.serving()
        assert (await scene.round_trip(HostOperation.CHECK)).ok
    assert scene.listener.losses == []


@pytest.mark.parametrize("asked", [False, True])
async def test_a_detaching_driver_kills_the_child_and_not_us(
    scene: Scene, asked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(scene.source, scene.listener) as task:
        child = await scene.serving()
        result = scene.host_asks(HostOperation.FREEZE) if asked else None
        request = await scene.listener.next_request() if asked else None
        scene.simulator.detach()
        killed = await scene.simulator.wait_for(lambda event: event.kind is EventKind.KILLED and event.side is Side.APP)
        assert killed.process == child
        lost = await scene.listener.next_state(SourceCondition.LOST)
        assert lost.detail.startswith(f"{scene.simulator.app_device} is gone")
        assert scene.listener.losses == [("freebsd", lost.detail)]
        if request is not None and result is not None:
            scene.answer(request)
            async with asyncio.timeout(WAIT):
                assert (await result).outcome is HostOutcome.UNANSWERED
            assert f"the answer to request {request.id} is not sent" in caplog.text
        await scene.listener.next_state(SourceCondition.WAITING)
        scene.simulator.attach()
        assert await scene.serving() != child
        assert (await scene.round_trip(HostOperation.CHECK)).ok
        assert not task.done()
    assert len(scene.listener.losses) == 1


async def test_a_required_device_that_served_once_is_waited_for_when_it_is_lost(scene: Scene) -> None:
    settings = FreebsdSettings(device=str(scene.simulator.app_device), mode=SourceMode.REQUIRED)
    source = FreebsdSource(settings, scene.clock, pause=wait_fixed(0.02))
    async with running(source, scene.listener) as task:
        await scene.serving()
        scene.simulator.detach()
        await scene.listener.next_state(SourceCondition.LOST)
        await scene.listener.next_state(SourceCondition.WAITING)
        scene.simulator.attach()
        await scene.serving()
        assert not task.done()


async def test_the_death_of_the_child_alone_is_a_loss_and_the_device_is_opened_anew(scene: Scene) -> None:
    """Whoever gets the dead child's process id would be killed in its place at the next detaching."""
    async with running(scene.source, scene.listener):
        child = await scene.serving()
        result = scene.host_asks(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        os.kill(child, signal.SIGKILL)
        await scene.listener.next_state(SourceCondition.LOST)
        ((name, reason),) = scene.listener.losses
        assert (name, str(child) in reason) == ("freebsd", True)
        assert await scene.serving() != child
        # The new opening knows nothing of the old one's requests.
        scene.answer(request)
        assert not (await scene.time_out(result, LIMIT)).ok
        assert (await scene.round_trip(HostOperation.THAW)).ok
    assert scene.writes() == [(EventKind.WROTE, "thaw", 0)]


async def test_many_losses_leave_nothing(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        before = left_behind()
        for _ in range(5):
            scene.simulator.detach()
            await scene.listener.next_state(SourceCondition.LOST)
            scene.simulator.attach()
            await scene.serving()
            # The simulator knows the child by a descriptor of its own, as before.
            assert len(left_behind()[0]) <= len(before[0])
    assert len(scene.listener.losses) == 5


@pytest.mark.parametrize("asked", [False, True])
async def test_cancelling_closes_the_device_and_leaves_nothing(scene: Scene, asked: bool) -> None:
    before = left_behind()
    start = scene.simulator.event_count
    async with running(scene.source, scene.listener):
        child = await scene.serving()
        if asked:
            scene.simulator.host.send(HostOperation.FREEZE)
            await scene.listener.next_request()
        assert new_since(before) != NOTHING
    await scene.simulator.wait_for(lambda event: event.kind is EventKind.CLOSED, after=start)
    # One descriptor is the simulator's: of the child's process, which the driver remembers.
    assert len(left_behind()[0]) <= len(before[0]) + 1
    assert new_since(before)[1:] == NOTHING[1:]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    async with opened_by_another(scene.simulator.app_device):
        state = scene.simulator.state()
        assert state is not None
        assert state.app_registered


async def test_an_answer_given_just_before_the_end_is_written(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = scene.host_asks(HostOperation.FREEZE)
        scene.answer(await scene.listener.next_request())
    async with asyncio.timeout(WAIT):
        assert (await result).ok


async def test_pauses_grow_until_the_device_has_served_for_long(scene: Scene) -> None:
    attempts: list[int] = []

    class Pause(wait_base):
        def __call__(self, retry_state: RetryCallState) -> float:
            attempts.append(retry_state.attempt_number)
            return 0.02

    settings = FreebsdSettings(device=str(scene.simulator.app_device))
    async with running(FreebsdSource(settings, scene.clock, pause=Pause()), scene.listener):
        for served in (STEADY / 2, STEADY / 2, STEADY, STEADY / 2):
            child = await scene.serving()
            scene.move(served)
            os.kill(child, signal.SIGKILL)
            await scene.listener.next_state(SourceCondition.LOST)
        await scene.serving()
    # Where the driver has not yet seen the close, an attempt more may be refused: the numbers go on from there.
    assert attempts[0] == 1
    again = attempts.index(1, 1)
    assert again >= 2
    assert attempts[:again] == list(range(1, again + 1))
    assert attempts[again:] == list(range(1, len(attempts) - again + 1))
    assert len(attempts) - again >= 2


async def test_an_idle_device_is_read_now_and_then(scene: Scene) -> None:
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    opener = DeviceOpener(str(scene.simulator.app_device))
    beat = timedelta(milliseconds=10)
    device = FreebsdDevice(opener, Ledger(FreebsdSettings()), scene.clock, news.put, heartbeat=beat)
    device.start()
    for _ in range(4):
        await scene.simulator.wait_for(EventKind.READ_EMPTY, after=scene.simulator.event_count)
    device.stop()
    async with asyncio.timeout(WAIT):
        assert await asyncio.wrap_future(device.finished) is None
    assert isinstance(news.get_nowait(), Opened)
    assert news.empty()
    assert device.join(timedelta(seconds=WAIT))


async def test_a_closed_device_takes_no_answer(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    opener = DeviceOpener(str(scene.simulator.app_device))
    device = FreebsdDevice(opener, Ledger(FreebsdSettings()), scene.clock, news.put)
    device.start()
    opened = await asyncio.to_thread(news.get, True, WAIT)
    assert isinstance(opened, Opened)
    child = opened.detail.rpartition(" ")[2]
    os.kill(int(child), signal.SIGKILL)
    async with asyncio.timeout(WAIT):
        reason = await asyncio.wrap_future(device.finished)
    assert reason is not None
    assert child in reason
    device.answer("4711", go_on=True)
    assert caplog.messages == ["the answer to request 4711 is not sent: the device is closed"]
    for _ in range(2):
        device.stop()
    assert device.join(timedelta(seconds=WAIT))


async def test_what_serves_is_logged(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "appvss.sources.freebsd"):
        async with running(scene.source, scene.listener):
            child = await scene.serving()
            assert (await scene.round_trip(HostOperation.CHECK)).ok
    assert f"serving: {scene.simulator.app_device}, opened by process {child}" in caplog.messages
    assert f"wrote status 0 for request {scene.listener.requests[0].id}" in caplog.messages
