"""The source on the simulated device: a real file, real system calls, a clock that stands still unless it is moved."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tenacity import RetryCallState
from tenacity.wait import wait_base

from appvss.model.filesystem import Scope
from appvss.model.request import RequestKind
from appvss.model.source import SourceCondition, SourceMode
from appvss.simulator.event import Event, EventKind
from appvss.simulator.host import HostOutcome
from appvss.simulator.hyperv import HostOperation, HostStatus
from appvss.sources.linux_hv_vss import LinuxHvVssSettings, LinuxHvVssSource
from appvss.sources.linux_hv_vss.source import STEADY
from tests.sources.device_support import NOTHING, WAIT, Listener, MachineClock, left_behind, new_since, running
from tests.sources.linux_scene import Scene, opened_by_us, staged

KINDS = {
    HostOperation.CHECK: RequestKind.CHECK,
    HostOperation.FREEZE: RequestKind.FREEZE,
    HostOperation.THAW: RequestKind.THAW,
}
BUDGETS = {HostOperation.CHECK: 25, HostOperation.FREEZE: 60, HostOperation.THAW: 25}
SHORT = {HostOperation.CHECK: 8, HostOperation.FREEZE: 8, HostOperation.THAW: 8}


@pytest.fixture
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    async with staged(getattr(request, "param", "6.1")) as scene:
        yield scene


# Requests and answers


@pytest.mark.parametrize("operation", KINDS)
@pytest.mark.parametrize(("go_on", "status"), [(True, HostStatus.OK), (False, HostStatus.FAIL)])
async def test_an_operation_comes_and_its_answer_goes(
    scene: Scene, operation: HostOperation, go_on: bool, status: int
) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result, request = await scene.ask(operation)
        assert request.kind is KINDS[operation]
        assert (request.source, request.requester, request.supersedes) == ("linux_hv_vss", "Hyper-V host", True)
        assert request.deadline == scene.clock.now() + timedelta(seconds=BUDGETS[operation])
        freezes = operation is HostOperation.FREEZE
        assert request.filesystems.scope is (Scope.ALL if freezes else Scope.NONE)
        assert (request.reserve > timedelta(0), request.hold_limit > timedelta(0)) == (freezes, freezes)
        assert not result.done()
        scene.answer(request, go_on=go_on)
        heard = await scene.heard(result)
        assert (heard.status, heard.ok) == (status, go_on)
    assert scene.writes() == [(operation.name.lower(), status)]


async def test_a_whole_backup_and_another(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        for operation in (*KINDS, *KINDS):
            assert (await scene.round_trip(operation)).ok
    assert [request.kind for request in scene.listener.requests] == [*KINDS.values(), *KINDS.values()]
    assert len({request.id for request in scene.listener.requests}) == 6
    assert (scene.listener.losses, scene.listener.lapsed) == ([], [])


async def test_two_checks_that_wait_are_answered_one_after_the_other(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        both = [scene.host_asks(HostOperation.CHECK), scene.host_asks(HostOperation.CHECK)]
        scene.answer(await scene.listener.next_request())
        assert (await scene.heard(both[0])).ok
        scene.answer(await scene.listener.next_request(), go_on=False)
        assert not (await scene.heard(both[1])).ok


async def test_an_operation_that_was_on_its_way_before_the_registration_is_answered(scene: Scene) -> None:
    """What the kernel answers by itself makes it ready, so that a freeze can come before the handshake (fact 8)."""
    results: list[asyncio.Task[object]] = []

    def ask_at_once(event: Event) -> None:
        if event.kind is EventKind.OPENED and not results:
            results.append(scene.host_asks(HostOperation.DM_INFO))
            scene.simulator.host.send(HostOperation.DM_INFO)
            scene.simulator.host.send(HostOperation.FREEZE)

    scene.simulator._machine.listeners.insert(0, ask_at_once)
    async with running(scene.source, scene.listener):
        request = await scene.listener.next_request()
        assert request.kind is RequestKind.FREEZE
        refused = scene.events(EventKind.WRITE_REFUSED)
        assert [event.detail for event in refused] == ["EINVAL: a registration while an operation is open"]
        scene.answer(request)
        await scene.simulator.wait_for(lambda event: event.operation == "handshake" and event.kind is EventKind.READ)
        assert (await scene.round_trip(HostOperation.THAW)).ok
    assert scene.writes() == [("freeze", 0), ("thaw", 0)]
    assert scene.listener.losses == []


@pytest.mark.parametrize("scene", ["4.2", "4.4", "4.5", "4.7", "4.8", "4.9", "4.10", "5.7"], indirect=True)
async def test_old_kernels_are_served_within_their_limits(scene: Scene) -> None:
    budgets = BUDGETS if scene.simulator.kernel.version >= (4, 10) else SHORT
    async with running(scene.source, scene.listener):
        await scene.serving()
        asked = [op for op in KINDS if op is not HostOperation.CHECK or scene.simulator.kernel.asks_for_hot_backup]
        for operation in asked:
            result, request = await scene.ask(operation)
            assert request.deadline == scene.clock.now() + timedelta(seconds=budgets[operation])
            scene.answer(request)
            assert (await scene.heard(result)).ok
        if HostOperation.CHECK not in asked:
            assert (await scene.heard(scene.host_asks(HostOperation.CHECK))).ok
    assert scene.listener.losses == []


async def test_only_the_first_answer_is_written(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result, request = await scene.ask(HostOperation.FREEZE)
        for go_on in (True, False, True):
            scene.answer(request, go_on=go_on)
        assert (await scene.heard(result)).ok
        assert (await scene.round_trip(HostOperation.THAW)).ok
    assert scene.writes() == [("freeze", 0), ("thaw", 0)]
    assert caplog.text.count(f"the answer to request {request.id} is not sent") == 2


# Time


async def test_what_nobody_answers_is_refused_in_time_and_what_comes_then_lets_everything_go() -> None:
    """The kernel's limit is far; ours is over. The host hears a no from us, and a late yes of the broker is no yes."""
    async with staged(clock=MachineClock(), freeze_budget=timedelta(seconds=0.2)) as scene:
        async with running(scene.source, scene.listener):
            await scene.serving()
            result, request = await scene.ask(HostOperation.FREEZE)
            heard = await scene.heard(result)
            assert (heard.status, heard.took < timedelta(seconds=5)) == (HostStatus.FAIL, True)
            scene.answer(request)
            assert await scene.listener.next_lapse() == request.id
            assert (await scene.round_trip(HostOperation.THAW)).ok
        assert scene.writes() == [("freeze", HostStatus.FAIL), ("thaw", 0)]
        assert scene.listener.losses == []


async def test_a_no_that_comes_after_the_refusal_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with staged(clock=MachineClock(), check_budget=timedelta(seconds=0.1)) as scene:
        async with running(scene.source, scene.listener):
            await scene.serving()
            result, request = await scene.ask(HostOperation.CHECK)
            assert (await scene.heard(result)).status == HostStatus.FAIL
            scene.answer(request, go_on=False)
            assert (await scene.round_trip(HostOperation.THAW)).ok
        assert scene.listener.lapsed == []
    assert f"the answer to request {request.id} is not sent: it is not open" in caplog.text


async def test_an_answer_that_might_answer_something_else_closes_the_device_instead(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result, request = await scene.ask(HostOperation.FREEZE)
        scene.move(timedelta(seconds=898))
        scene.answer(request)
        assert (await scene.heard(result)).status == HostStatus.FAIL
        assert "might answer something else" in (await scene.listener.next_state(SourceCondition.LOST)).detail
        await scene.serving()
        assert (await scene.round_trip(HostOperation.THAW)).ok
    assert scene.writes() == [("thaw", 0)]
    assert len(scene.listener.losses) == 1


async def test_the_next_operation_is_not_answered_by_what_is_said_to_the_last(scene: Scene) -> None:
    """C23: the freeze runs out in the kernel, the thaw comes, and only then the broker agrees to the freeze."""
    async with running(scene.source, scene.listener):
        await scene.serving()
        freeze, request = await scene.ask(HostOperation.FREEZE)
        scene.move(timedelta(seconds=900))
        assert (await scene.heard(freeze)).status == HostStatus.FAIL
        thaw, thaw_request = await scene.ask(HostOperation.THAW)
        assert thaw_request.kind is RequestKind.THAW
        assert [identity for identity, _ in scene.listener.lapsed] == [request.id]
        scene.answer(request)
        assert await scene.listener.next_lapse() == request.id
        assert not thaw.done()
        scene.answer(thaw_request, go_on=False)
        assert (await scene.heard(thaw)).status == HostStatus.FAIL
    assert scene.writes() == [("thaw", HostStatus.FAIL)]
    assert scene.listener.losses == []


async def test_an_operation_that_ran_out_before_it_was_read_lets_everything_go(scene: Scene) -> None:
    """The broker was stopped for long: it freezes in good faith, and the kernel takes no answer any more."""
    async with running(scene.source, scene.listener):
        await scene.serving()
        with scene.clock.held_for_others():
            freeze = scene.host_asks(HostOperation.FREEZE)
            await scene.simulator.wait_for(lambda event: event.kind is EventKind.READ and event.operation == "freeze")
            scene.move(timedelta(seconds=900))
            assert (await scene.heard(freeze)).status == HostStatus.FAIL
        request = await scene.listener.next_request()
        scene.answer(request)
        lost = await scene.listener.next_state(SourceCondition.LOST)
        assert "nobody waits any more for the answer to the freeze, which was agreed to" in lost.detail
        assert scene.listener.losses == [("linux_hv_vss", lost.detail)]
        await scene.serving()
        assert (await scene.round_trip(HostOperation.THAW)).ok
    assert scene.writes() == [("thaw", 0)]


async def test_a_stale_operation_is_not_answered_when_the_next_is_there(scene: Scene) -> None:
    """A check that ran out before it was read, and a freeze in the queue: the yes to the check must not become its."""
    async with running(scene.source, scene.listener):
        await scene.serving()
        with scene.clock.held_for_others():
            check = scene.host_asks(HostOperation.CHECK)
            await scene.simulator.wait_for(lambda event: event.kind is EventKind.READ and event.operation == "check")
            scene.move(timedelta(seconds=30))
            assert (await scene.heard(check)).status == HostStatus.FAIL
            freeze = scene.host_asks(HostOperation.FREEZE)
            await scene.simulator.wait_for(lambda event: event.kind is EventKind.WOKEN and event.operation == "freeze")
        request = await scene.listener.next_request()
        assert request.kind is RequestKind.CHECK
        request = await scene.listener.next_request()
        assert request.kind is RequestKind.FREEZE
        scene.answer(scene.listener.requests[0])
        scene.answer(request, go_on=False)
        assert (await scene.heard(freeze)).status == HostStatus.FAIL
    assert scene.writes() == [("freeze", HostStatus.FAIL)]


# When the device goes, and comes back


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("gate", [True, False])
async def test_a_removal_in_mid_hold_is_a_loss_and_the_device_is_opened_anew(
    scene: Scene, asked: bool, gate: bool
) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        assert (await scene.round_trip(HostOperation.FREEZE)).ok
        scene.source.set_gate(is_open=gate)
        result = (await scene.ask(HostOperation.THAW))[0] if asked else None
        scene.simulator.remove()
        lost = await scene.listener.next_state(SourceCondition.LOST)
        assert "is being removed" in lost.detail
        assert scene.listener.losses == [("linux_hv_vss", lost.detail)]
        await scene.simulator.wait_for(EventKind.DETACHED)  # the kernel waited for our close
        if result is not None:
            assert (await scene.heard(result)).outcome is HostOutcome.UNANSWERED
        assert "does not exist" in (await scene.listener.next_state(SourceCondition.WAITING)).detail
        scene.simulator.attach()
        await scene.serving()
        assert (await scene.round_trip(HostOperation.THAW, go_on=False)).status == HostStatus.FAIL


async def test_the_thaw_of_a_hibernation_is_carried_out_and_the_device_opened_anew(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        assert (await scene.round_trip(HostOperation.FREEZE)).ok
        scene.simulator.hibernate()
        request = await scene.listener.next_request()
        assert request.kind is RequestKind.THAW
        scene.answer(request)
        assert "this machine has hibernated" in (await scene.listener.next_state(SourceCondition.LOST)).detail
        await scene.serving()
        # The host, which has copied what was not held any more, asks for its own thaw, and then for the next backup.
        assert not (await scene.round_trip(HostOperation.THAW)).ok
        for operation in KINDS:
            assert (await scene.round_trip(operation)).ok


async def test_the_pauses_begin_anew_after_a_moment_of_service(scene: Scene) -> None:
    attempts: list[int] = []

    class Pause(wait_base):
        def __call__(self, retry_state: RetryCallState) -> float:
            attempts.append(retry_state.attempt_number)
            return 0.01

    settings = LinuxHvVssSettings(device=str(scene.simulator.device))
    async with running(LinuxHvVssSource(settings, scene.clock, pause=Pause()), scene.listener):
        for served in (STEADY / 2, STEADY):
            await scene.serving()
            scene.move(served)
            scene.simulator.remove()
            await scene.listener.next_state(SourceCondition.WAITING)
            scene.simulator.attach()
        await scene.serving()
    # After half of it the numbers go on, after all of it they begin with 1.
    assert attempts.count(1) == 2
    assert attempts.index(1, 1) > 1


async def test_a_hibernation_in_mid_freeze_gives_the_freeze_up(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        freeze, request = await scene.ask(HostOperation.FREEZE)
        scene.simulator.hibernate()
        assert (await scene.heard(freeze)).outcome is HostOutcome.UNANSWERED
        assert await scene.listener.next_lapse() == request.id
        thaw = scene.listener.requests[-1] if len(scene.listener.requests) > 1 else await scene.listener.next_request()
        assert thaw.kind is RequestKind.THAW
        scene.answer(thaw)
        await scene.listener.next_state(SourceCondition.LOST)
        await scene.serving()
    assert scene.writes() == []


async def test_an_answer_is_not_written_when_the_next_message_waits_already(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        _, request = await scene.ask(HostOperation.FREEZE)
        scene.simulator.hibernate()
        scene.answer(request)  # before the thread has looked: it is woken by both at once
        assert await scene.listener.next_lapse() == request.id
        thaw = await scene.listener.next_request()
        assert thaw.kind is RequestKind.THAW
        assert scene.events(EventKind.WRITE_REFUSED) == []
    assert scene.writes() == []


async def test_an_absent_device_is_waited_for(scene: Scene) -> None:
    scene.simulator.remove()
    async with running(scene.source, scene.listener):
        assert "Backup (volume checkpoint)" in (await scene.listener.next_state(SourceCondition.WAITING)).detail
        scene.simulator.attach()
        await scene.serving()
        assert (await scene.round_trip(HostOperation.CHECK)).ok
    assert scene.listener.losses == []


async def test_many_losses_leave_nothing(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        before = left_behind()
        for _ in range(5):
            scene.simulator.remove()
            await scene.simulator.wait_for(EventKind.DETACHED, after=scene.simulator.event_count - 1)
            await scene.listener.next_state(SourceCondition.LOST)
            scene.simulator.attach()
            await scene.serving()
            assert len(left_behind()[0]) <= len(before[0])
    assert len(scene.listener.losses) == 5


@pytest.mark.parametrize("asked", [False, True])
async def test_cancelling_closes_the_device_and_leaves_nothing(scene: Scene, asked: bool) -> None:
    before = left_behind()
    result = None
    async with running(scene.source, scene.listener):
        await scene.serving()
        if asked:
            result, _ = await scene.ask(HostOperation.FREEZE)
        assert new_since(before) != NOTHING
    await scene.simulator.wait_for(EventKind.CLOSED)
    assert new_since(before) == NOTHING
    if result is not None:
        assert (await scene.heard(result)).status == HostStatus.FAIL
    async with opened_by_us(scene.simulator.device):
        state = scene.simulator.state()
        assert state is not None
        assert state.is_open


async def test_an_answer_given_just_before_the_end_is_written(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result, request = await scene.ask(HostOperation.FREEZE)
        scene.answer(request)
    assert (await scene.heard(result)).ok


async def test_no_child_process_is_needed(scene: Scene) -> None:
    """The driver kills nobody, and while file systems are frozen no process may be started."""
    before = left_behind()
    async with running(scene.source, scene.listener):
        await scene.serving()
        assert not new_since(before)[2]
        opened = scene.events(EventKind.OPENED)
        assert [event.process for event in opened] == [os.getpid()]


async def test_what_is_written_is_logged(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "appvss.sources.linux_hv_vss"):
        async with running(scene.source, scene.listener):
            await scene.serving()
            assert (await scene.round_trip(HostOperation.CHECK)).ok
    assert "wrote status 0x0 for request 1" in caplog.messages
    assert "registered; the kernel calls itself version 129" in caplog.messages


async def test_a_required_device_ends_the_start_when_it_is_absent(scene: Scene) -> None:
    scene.simulator.remove()
    settings = LinuxHvVssSettings(device=str(scene.simulator.device), mode=SourceMode.REQUIRED)
    with pytest.raises(Exception, match="does not exist"):
        async with asyncio.timeout(WAIT):
            await LinuxHvVssSource(settings, scene.clock).run(Listener())
