"""Playing the host: results, patience, whole backups."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from appvss.simulator.clock import Alarms
from appvss.simulator.event import EventKind, EventRecord, Side
from appvss.simulator.freebsd.fs_side import FsAnswer, FsSide
from appvss.simulator.freebsd.machine import Machine
from appvss.simulator.host import PATIENCE, Host, HostOutcome
from appvss.simulator.hyperv import HostOperation, HostStatus, Version
from appvss.sources.wire.freebsd import LIMIT, Operation
from tests.simulator.conftest import VirtualClock


class Rig:
    """A guest whose file-system side is played."""

    def __init__(self, clock: VirtualClock, *, automatic_fs: bool = True) -> None:
        self.clock = clock
        self.alarms = Alarms(clock)
        self.record = EventRecord()
        self.machine = Machine(clock, self.alarms, self.record, debug_kernel=False)
        self.host = Host(self.machine, self.alarms, clock)
        self.fs = FsSide(self.machine, automatic=automatic_fs)
        self.machine.listeners = [self.host.notice, self.fs.notice]
        self.machine.attach()

    def pass_time(self, by: timedelta) -> None:
        self.clock.advance(by)
        self.alarms.moved()


@pytest.fixture
async def rig(clock: VirtualClock) -> Rig:
    return Rig(clock)


async def test_the_four_requests(rig: Rig) -> None:
    results = [await rig.host.check(), await rig.host.freeze(), await rig.host.thaw(), await rig.host.dm_info()]
    assert [(result.operation, result.outcome, result.status) for result in results] == [
        ("check", HostOutcome.OK, 0),
        ("freeze", HostOutcome.OK, 0),
        ("thaw", HostOutcome.OK, 0),
        ("dm_info", HostOutcome.OK, 0),
    ]
    assert [result.message.body_flags for result in results if result.message] == [5, 0, 0, 0]
    assert [result.vmbus_id for result in results] == [1, 2, 3, 4]


async def test_a_refusal_is_a_failed_request(rig: Rig) -> None:
    rig.fs.veto(Operation.FREEZE)
    result = await rig.host.freeze()
    assert (result.outcome, result.status, result.ok) == (HostOutcome.FAILED, HostStatus.FAIL, False)


async def test_the_driver_gives_up_before_the_host(rig: Rig) -> None:
    rig.fs.keep_silent()
    freeze = asyncio.create_task(rig.host.freeze(), name="freeze")
    await asyncio.sleep(0)
    rig.pass_time(LIMIT)
    result = await freeze
    assert (result.outcome, result.took) == (HostOutcome.FAILED, LIMIT)


async def test_the_hosts_patience_ends(clock: VirtualClock) -> None:
    rig = Rig(clock, automatic_fs=False)
    freeze = asyncio.create_task(rig.host.freeze(), name="freeze")
    await asyncio.sleep(0)
    rig.pass_time(PATIENCE - timedelta(milliseconds=1))
    await asyncio.sleep(0)
    assert not freeze.done()
    rig.pass_time(timedelta(milliseconds=1))
    result = await freeze
    assert (result.outcome, result.took, result.status) == (HostOutcome.UNANSWERED, PATIENCE, None)


async def test_unknown_operations_get_no_reply(rig: Rig) -> None:
    asked = asyncio.create_task(rig.host.request(9, timedelta(seconds=5)), name="asked")
    await asyncio.sleep(0)
    rig.pass_time(timedelta(seconds=5))
    result = await asked
    assert (result.operation, result.outcome) == ("operation 9", HostOutcome.UNANSWERED)


async def test_a_full_ring_refuses_at_once(clock: VirtualClock) -> None:
    rig = Rig(clock, automatic_fs=False)
    for _ in range(256):
        rig.host.send(HostOperation.CHECK)
    result = await rig.host.check()
    assert (result.outcome, result.detail) == (HostOutcome.UNANSWERED, "the ring to the driver is full")


async def test_negotiation(rig: Rig) -> None:
    assert (await rig.host.negotiate()).ok
    refused = await rig.host.negotiate(messages=[Version(9, 0)])
    assert (refused.outcome, refused.status) == (HostOutcome.FAILED, 45)


async def test_a_request_that_is_given_up_leaves_nothing_behind(rig: Rig) -> None:
    rig.fs.keep_silent()
    freeze = asyncio.create_task(rig.host.freeze(), name="freeze")
    await asyncio.sleep(0)
    rig.host.give_up("the end")
    assert (await freeze).detail == "the end"
    rig.pass_time(LIMIT)
    assert [event.kind for event in rig.record.events()][-1] is EventKind.REPLIED


async def backup(rig: Rig, *, thaw_after_failed_freeze: bool = False) -> tuple[bool, list[tuple[str, HostOutcome]]]:
    hold = timedelta(seconds=3)
    running = asyncio.create_task(
        rig.host.backup(hold=hold, thaw_after_failed_freeze=thaw_after_failed_freeze), name="backup"
    )
    while not running.done():
        await asyncio.sleep(0)
        if rig.record.count and rig.record.events()[-1].kind is EventKind.REPLIED:
            await asyncio.sleep(0)
            rig.pass_time(hold)
    result = await running
    return result.ok, [(step.operation, step.outcome) for step in result.steps]


async def test_a_whole_backup(rig: Rig) -> None:
    ok, steps = await backup(rig)
    assert ok
    assert steps == [("check", HostOutcome.OK), ("freeze", HostOutcome.OK), ("thaw", HostOutcome.OK)]
    freeze, thaw = (
        event.at.now
        for event in rig.record.events()
        if event.kind is EventKind.RECEIVED and event.operation in ("freeze", "thaw")
    )
    assert thaw - freeze >= timedelta(seconds=3)


async def test_a_backup_ends_with_a_check_that_failed(rig: Rig) -> None:
    rig.fs.veto(Operation.CHECK)
    assert await backup(rig) == (False, [("check", HostOutcome.FAILED)])


@pytest.mark.parametrize("thaws", [False, True])
async def test_after_a_failed_freeze_the_host_thaws_or_does_not(rig: Rig, thaws: bool) -> None:
    rig.fs.veto(Operation.FREEZE)
    steps = [("check", HostOutcome.OK), ("freeze", HostOutcome.FAILED)]
    expected = [*steps, ("thaw", HostOutcome.OK)] if thaws else steps
    assert await backup(rig, thaw_after_failed_freeze=thaws) == (False, expected)


async def test_the_file_system_side_dies_in_a_request(rig: Rig) -> None:
    rig.fs.play([FsAnswer.DIE])
    freeze = asyncio.create_task(rig.host.freeze(), name="freeze")
    await asyncio.sleep(0)
    assert rig.machine.state() is not None
    assert not rig.fs.state.opened
    rig.pass_time(LIMIT)
    assert (await freeze).outcome is HostOutcome.FAILED
    assert (await rig.host.thaw()).outcome is HostOutcome.FAILED
    assert not rig.machine.readable(Side.FS)
