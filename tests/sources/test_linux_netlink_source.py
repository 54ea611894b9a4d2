"""The source before a simulated driver: real sockets, kernels of every age, a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_fixed, wait_none

from appvss.model.errors import DeviceAbsent, DeviceBusy
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.source import SourceCondition, SourceMode
from appvss.simulator.event import EventKind
from appvss.simulator.host import HostResult
from appvss.simulator.hyperv import HostOperation
from appvss.simulator.linux_netlink import PORTID, NetlinkSimulator, kernel_of
from appvss.sources.linux_netlink import LinuxNetlinkSettings, LinuxNetlinkSource
from appvss.sources.linux_vss.ledger import GRACE
from appvss.sources.wire.linux_hv_vss import encode_handshake, encode_operation, encode_registration, encode_reply
from appvss.sources.wire.linux_netlink import GROUP_MASK, decode, encode
from tests.sources.device_support import NOTHING, WAIT, Listener, VirtualClock, left_behind, new_since, running
from tests.support.private_network import connector_socket, private_network, send, without_rights

__all__ = ["private_network"]

FOREVER = timedelta(hours=10)
SHORT, SURE = timedelta(seconds=8), timedelta(seconds=9)
"""What an answer may take of the driver's ten seconds; until when it may be sent."""


@dataclass
class Scene:
    """A host, its guest's driver, and the source before it."""

    folder: Path
    simulator: NetlinkSimulator
    clock: VirtualClock
    release: str
    listener: Listener = field(default_factory=Listener)

    def __post_init__(self) -> None:
        self.source = self.make()

    def make(self, mode: SourceMode = SourceMode.AUTOMATIC, **changes: Any) -> LinuxNetlinkSource:
        """Another source for the same driver; it looks at nothing unless something happens."""
        settings = LinuxNetlinkSettings(mode=mode, connector=str(self.simulator.connector), kernel_portid=PORTID)
        options = {"pause": wait_fixed(WAIT), "heartbeat": FOREVER, "pulse": FOREVER, **changes}
        self.source = LinuxNetlinkSource(
            settings, self.clock, device=self.folder / "device", release=self.release, **options
        )
        return self.source

    def host_asks(self, operation: HostOperation) -> asyncio.Task[HostResult]:
        return asyncio.create_task(self.simulator.host.request(operation, FOREVER), name=f"host-{operation.name}")

    def answer(self, request: Request, *, go_on: bool = True) -> None:
        self.source.answer(Answer(request, go_on=go_on, reason=""))

    async def round_trip(self, operation: HostOperation, *, go_on: bool = True) -> HostResult:
        """The host asks, the source brings it, the broker answers at once, the host hears."""
        result = self.host_asks(operation)
        self.answer(await self.listener.next_request(), go_on=go_on)
        async with asyncio.timeout(WAIT):
            return await result

    async def serving(self) -> None:
        await self.listener.next_state(SourceCondition.SERVING)

    def happened(self, *kinds: EventKind) -> list[tuple[EventKind, str, int | None]]:
        return [(event.kind, event.operation, event.status) for event in self.simulator.events if event.kind in kinds]

    def replies(self) -> list[tuple[EventKind, str, int | None]]:
        """Every reply that the driver saw, whether it took it or not."""
        return self.happened(EventKind.WROTE, EventKind.WRITE_IGNORED)


@pytest.fixture(params=["4.10"])
async def scene(request: pytest.FixtureRequest, private_network: None, tmp_path: Path) -> AsyncIterator[Scene]:
    """Everything but the source's `run`."""
    clock = VirtualClock()
    async with NetlinkSimulator(tmp_path / "vss", kernel=kernel_of(request.param), clock=clock) as simulator:
        yield Scene(tmp_path, simulator, clock, f"{request.param}.0")


kernels = pytest.mark.parametrize("scene", ["3.10", "3.19", "4.2", "4.8", "4.9", "4.10"], indirect=True)
FAILED = 0x80004005


@kernels
async def test_one_backup(scene: Scene) -> None:
    before = left_behind()
    async with running(scene.source, scene.listener):
        await scene.serving()
        asks_first = kernel_of(scene.release).asks_for_hot_backup
        if asks_first:
            assert (await scene.round_trip(HostOperation.CHECK)).ok
        assert (await scene.round_trip(HostOperation.FREEZE)).ok
        assert (await scene.round_trip(HostOperation.THAW)).ok
        kinds = [request.kind for request in scene.listener.requests]
        assert kinds == [RequestKind.CHECK] * asks_first + [RequestKind.FREEZE, RequestKind.THAW]
        assert len({request.id for request in scene.listener.requests}) == len(kinds)
        # Each is answered once, and nothing but registration and answers is sent.
        assert len(scene.replies()) == len(kinds)
        assert len(scene.happened(EventKind.REGISTERED)) == 1
    assert scene.listener.losses == []
    assert {thread for thread in new_since(before)[1] if "netlink" in thread} == set()
    assert new_since(before)[0] == NOTHING[0]


@kernels
async def test_a_refusal_reaches_the_host(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = await scene.round_trip(HostOperation.FREEZE, go_on=False)
        assert (result.ok, result.status) == (False, FAILED)
        # A thaw says whether the hold was kept.
        result = await scene.round_trip(HostOperation.THAW, go_on=False)
        assert (result.ok, result.status) == (False, FAILED)
        assert (await scene.round_trip(HostOperation.FREEZE)).ok


@kernels
async def test_the_state_says_what_serves(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        state = await scene.listener.next_state()
        assert (state.name, state.condition) == ("linux_netlink", SourceCondition.SERVING)
        kernel = kernel_of(scene.release)
        assert state.detail.startswith(f"{kernel.callback} over netlink; ")
        better = f"{scene.folder / 'device'} is better where it can be had"
        assert (better if kernel.has_states else "confirms nothing") in state.detail


@pytest.mark.parametrize("scene", ["3.19", "4.2", "4.8", "4.9"], indirect=True)
async def test_an_answer_comes_before_the_drivers_ten_seconds_or_never(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = scene.host_asks(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        assert request.deadline == scene.clock.now() + SHORT
        scene.clock.move(SURE)
        scene.answer(request)
        assert scene.replies() == []
        # The host will not thaw what it believes has failed.
        reason = "the answer to the freeze comes so late that it might answer another"
        assert (scene.listener.lapsed, scene.listener.losses) == ([(request.id, reason)], [])
        scene.clock.move(timedelta(seconds=1))
        scene.simulator.clock_moved()
        assert (await result).status == FAILED
        assert scene.happened(EventKind.TIMED_OUT) == [(EventKind.TIMED_OUT, "freeze", None)]
        # The driver is ready for the next request without being registered with again.
        assert (await scene.round_trip(HostOperation.THAW)).ok
        assert len(scene.happened(EventKind.REGISTERED)) == 1


@pytest.mark.parametrize("scene", ["3.10"], indirect=True)
async def test_a_driver_without_a_timer_hears_of_a_late_answer_that_it_failed(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = scene.host_asks(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        scene.clock.move(2 * SHORT)
        scene.answer(request)
        assert (await result).status == FAILED
        assert len(scene.listener.lapsed) == 1
        assert (await scene.round_trip(HostOperation.FREEZE)).ok


async def test_since_4_10_a_freeze_has_the_budget_of_the_administrator(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        now = scene.clock.now()
        for operation, length in ((HostOperation.CHECK, 25), (HostOperation.FREEZE, 60), (HostOperation.THAW, 25)):
            result = scene.host_asks(operation)
            request = await scene.listener.next_request()
            assert request.deadline == now + timedelta(seconds=length)
            scene.answer(request)
            assert (await result).ok


async def test_a_late_answer_is_not_taken_for_the_next_request(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        freeze = scene.host_asks(HostOperation.FREEZE)
        first = await scene.listener.next_request()
        thaw = scene.host_asks(HostOperation.THAW)
        await asyncio.sleep(0)  # the host's message lies in the ring
        scene.clock.move(timedelta(minutes=15))
        scene.simulator.clock_moved()
        # The thaw lies in our socket and is not read yet: the answer to the freeze would be taken for the thaw's.
        scene.answer(first)
        assert "the answer to request 1 is not sent: another request has come" in caplog.text
        assert (await freeze).status == FAILED
        second = await scene.listener.next_request()
        assert (second.kind, scene.listener.lapsed[0][0]) == (RequestKind.THAW, first.id)
        scene.answer(first)
        scene.answer(second, go_on=False)
        assert (await thaw).status == FAILED
        assert scene.replies() == [(EventKind.WROTE, "thaw", FAILED)]


async def test_a_process_that_was_stopped_does_not_ask_what_has_grown_old(scene: Scene) -> None:
    scene.make(pulse=timedelta(seconds=1))
    async with running(scene.source, scene.listener):
        await scene.serving()
        scene.simulator.host.send(HostOperation.FREEZE)
        scene.clock.move(timedelta(minutes=2))  # before it is read
        state = await scene.listener.next_state()
        assert state.detail == "a freeze came too late to be asked: this process was stopped"
        await scene.simulator.wait_for(EventKind.WROTE)
        assert scene.replies() == [(EventKind.WROTE, "freeze", FAILED)]
        # The apps must go on, however old the thaw is.
        scene.simulator.host.send(HostOperation.THAW)
        scene.clock.move(timedelta(minutes=2))
        request = await scene.listener.next_request()
        assert (request.kind, request.deadline < scene.clock.now()) == (RequestKind.THAW, True)
        scene.answer(request)
        assert len(scene.replies()) == 1
        assert scene.listener.lapsed == []


async def test_a_request_that_the_broker_lets_pass_is_refused_in_time(scene: Scene) -> None:
    scene.make(pulse=timedelta(milliseconds=20))
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = scene.host_asks(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        scene.clock.move(timedelta(seconds=60) + GRACE)
        assert (await result).status == FAILED
        # Agreed to after all: the host will send no thaw for it.
        scene.answer(request)
        assert await scene.listener.next_lapse() == request.id
        assert len(scene.replies()) == 1


async def test_a_freeze_that_the_driver_has_given_up_is_let_go(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        scene.host_asks(HostOperation.FREEZE)
        first = await scene.listener.next_request()
        with connector_socket() as liar:
            liar.sendto(encode(encode_reply(0)), (PORTID, 0))
        thaw = scene.host_asks(HostOperation.THAW)
        assert await scene.listener.next_lapse() == first.id
        scene.answer(await scene.listener.next_request(), go_on=False)
        assert (await thaw).status == FAILED


@pytest.mark.parametrize(("scene", "second"), [("4.10", True), ("5.7", False), ("6.1", False)], indirect=["scene"])
async def test_a_second_thaw_may_be_the_hosts_first(scene: Scene, second: bool) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        assert (await scene.round_trip(HostOperation.FREEZE)).ok
        # From 5.7 on a hibernation sends a thaw that looks like this, and has ended the hold.
        assert (await scene.round_trip(HostOperation.THAW)).ok
        assert (await scene.round_trip(HostOperation.THAW)).ok is second
        assert (await scene.round_trip(HostOperation.FREEZE)).ok
        assert (await scene.round_trip(HostOperation.THAW)).ok


async def test_what_the_driver_never_passes_on_is_refused(private_network: None, tmp_path: Path) -> None:
    connector, listener = tmp_path / "connector", Listener()
    connector.write_text("Name            ID\nvss_kernel_module 10:1\n")
    settings = LinuxNetlinkSettings(SourceMode.REQUIRED, connector=str(connector), kernel_portid=PORTID)
    source = LinuxNetlinkSource(settings, VirtualClock(), device=tmp_path / "device", release="3.10.0")
    with connector_socket(PORTID) as kernel:
        async with running(source, listener):
            data, (portid, _) = await asyncio.to_thread(kernel.recvfrom, 100)
            assert decode(data) == encode_registration(128)
            kernel.sendto(encode(encode_operation(7)), (portid, GROUP_MASK))
            data, _ = await asyncio.to_thread(kernel.recvfrom, 100)
            assert decode(data) == encode_reply(0x80004005)
            assert source.state.detail == "operation 7 is refused: this broker does not know it"
    assert listener.requests == []


async def test_an_answer_is_sent_once(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        result = scene.host_asks(HostOperation.CHECK)
        request = await scene.listener.next_request()
        for _ in range(3):
            scene.answer(request)
        assert (await result).ok
        assert len(scene.replies()) == 1


async def test_a_request_before_the_answer_to_the_registration_is_asked(private_network: None, tmp_path: Path) -> None:
    # A driver that an earlier daemon has left ready sends to whoever is in the group.
    connector, listener = tmp_path / "connector", Listener()
    connector.write_text("Name            ID\nvmbus/hv_vss    10:1\n")
    settings = LinuxNetlinkSettings(SourceMode.REQUIRED, connector=str(connector), kernel_portid=PORTID)
    source = LinuxNetlinkSource(settings, VirtualClock(), device=tmp_path / "device", release="6.1.0")
    with connector_socket(PORTID) as kernel:
        async with running(source, listener):
            data, (portid, _) = await asyncio.to_thread(kernel.recvfrom, 100)
            assert decode(data) == encode_registration()
            kernel.sendto(encode(encode_operation(5)), (portid, GROUP_MASK))
            request = await listener.next_request()
            assert source.state.condition is SourceCondition.SERVING
            kernel.sendto(encode(encode_handshake()), (portid, GROUP_MASK))
            source.answer(Answer(request, go_on=True, reason=""))
            data, _ = await asyncio.to_thread(kernel.recvfrom, 100)
            assert decode(data) == encode_reply(0)
    assert len(listener.states) == 1


async def test_a_driver_that_answers_no_registration_is_not_served(scene: Scene) -> None:
    scene.simulator.open_device()
    scene.make(SourceMode.REQUIRED, confirmation_limit=timedelta(milliseconds=100))
    with pytest.raises(DeviceAbsent, match=r"does not answer the registration: no answer within 100\.0ms") as caught:
        async with asyncio.timeout(WAIT):
            await scene.source.run(scene.listener)
    assert "open" in caught.value.hint
    # As soon as the device is closed, it is.
    scene.make(confirmation_limit=timedelta(milliseconds=100), pause=wait_none())
    async with running(scene.source, scene.listener):
        await scene.listener.next_state(SourceCondition.WAITING)
        scene.simulator.close_device()
        await scene.serving()


async def test_a_driver_that_goes_is_lost_and_served_again_when_it_comes(scene: Scene) -> None:
    scene.make(heartbeat=timedelta(milliseconds=20), pause=wait_fixed(0.02))
    async with running(scene.source, scene.listener):
        await scene.serving()
        freeze = scene.host_asks(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        await scene.simulator.detach()
        assert not (await freeze).ok
        state = await scene.listener.next_state(SourceCondition.LOST)
        assert "does not list 10:1" in state.detail
        assert scene.listener.losses == [("linux_netlink", state.detail)]
        scene.answer(request)  # nobody is there any more, and that is no error
        await scene.listener.next_state(SourceCondition.WAITING)
        await scene.simulator.attach()
        await scene.serving()
        assert (await scene.round_trip(HostOperation.FREEZE)).ok


async def test_a_device_that_appears_is_used_instead(scene: Scene) -> None:
    scene.make(heartbeat=timedelta(milliseconds=20))
    async with running(scene.source, scene.listener):
        await scene.serving()
        (scene.folder / "device").touch()
        state = await scene.listener.next_state(SourceCondition.LOST)
    assert f"{scene.folder / 'device'} is there and is used instead" in state.detail


@pytest.mark.parametrize("mode", [SourceMode.AUTOMATIC, SourceMode.REQUIRED])
async def test_the_mode_says_whether_netlink_is_used_beside_a_device(scene: Scene, mode: SourceMode) -> None:
    (scene.folder / "device").touch()
    scene.make(mode)
    async with running(scene.source, scene.listener):
        state = await scene.listener.next_state()
    automatic = mode is SourceMode.AUTOMATIC
    assert state.condition is (SourceCondition.WAITING if automatic else SourceCondition.SERVING)
    assert ("is used instead" if automatic else "is better where it can be had") in state.detail


async def test_a_second_daemon_keeps_us_from_serving(scene: Scene) -> None:
    with connector_socket(joined=True):
        scene.make(SourceMode.REQUIRED)
        with pytest.raises(DeviceBusy, match="serves the driver, too, and whoever replies first speaks for both"):
            await scene.source.run(scene.listener)


@pytest.mark.parametrize("scene", ["3.10", "4.10"], indirect=True)
async def test_a_second_daemon_that_comes_later_is_found_by_what_it_sends(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        freeze = scene.host_asks(HostOperation.FREEZE)
        await scene.listener.next_request()
        with connector_socket(joined=True) as daemon:
            # As the C daemon does: to the kernel and to the group (facts/linux-hv-vss.md section 3.2).
            daemon.sendto(encode(encode_reply(0)), (PORTID, GROUP_MASK))
            state = await scene.listener.next_state(SourceCondition.LOST)
        assert "serves the driver, too" in state.detail
        assert scene.listener.losses == [("linux_netlink", state.detail)]
        assert (await freeze).ok  # the host believes the other; our own record says lost
        # Ours comes too late to be believed, and is sent while nothing else is open.
        await scene.simulator.wait_for(EventKind.WRITE_IGNORED)
        assert scene.replies()[0] == (EventKind.WROTE, "freeze", 0)


async def test_a_second_registration_makes_us_look_and_go_on(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        with connector_socket() as stranger:
            stranger.sendto(encode(encode_registration()), (PORTID, 0))
        await scene.simulator.wait_for(EventKind.REGISTERED, after=scene.simulator.event_count)
        assert (await scene.round_trip(HostOperation.FREEZE)).ok
        assert "somebody else has registered with the driver" in caplog.text
        assert scene.listener.losses == []


GARBAGE = [b"\0", b"x" * 35, bytes(100), bytes(100_000), encode(b""), encode(bytes(300)), encode(bytes(12))[:40]]


async def test_what_strangers_send_is_survived_and_said_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    forged = [encode(encode_operation(number)) for number in (2, 5, 6, 128, 129)] + [encode(bytes(4))]
    async with running(scene.source, scene.listener):
        await scene.serving()
        portid = scene.source._link.portid
        for _ in range(20):
            await asyncio.to_thread(send, portid, *GARBAGE, *forged)  # it waits for room
        send(0, *GARBAGE, *forged, group=GROUP_MASK)
        assert (await scene.round_trip(HostOperation.FREEZE)).ok
        assert [request.kind for request in scene.listener.requests] == [RequestKind.FREEZE]
        said = [state.detail for state in scene.listener.states if "not believed" in state.detail]
        assert len(said) == 1
        assert said[0].startswith("1 datagram is not believed, 1 since the start, the last from port id ")
        assert caplog.text.count("not believed") == 1
        assert scene.listener.losses == []


async def test_the_rest_is_said_when_it_is_time(scene: Scene) -> None:
    scene.make(pulse=timedelta(milliseconds=20))
    async with running(scene.source, scene.listener):
        await scene.serving()
        send(scene.source._link.portid, *GARBAGE)
        assert (await scene.listener.next_state()).detail.startswith("1 datagram is not believed")
        scene.clock.move(timedelta(minutes=1))
        state = await scene.listener.next_state()
        count = len(GARBAGE)
        assert state.detail.startswith(f"{count - 1} datagrams are not believed, {count} since the start")


SEND_GARBAGE = """
    import sys
    from appvss.sources.wire.linux_netlink import encode
    from tests.support.private_network import connector_socket, send
    for portid in map(int, sys.argv[1:]):
        try:
            send(portid, encode(bytes(12)))
        except PermissionError:
            print("refused", end=" ")
"""


async def test_whoever_has_no_rights_reaches_nobody_but_the_kernel(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        portid = scene.source._link.portid
        said = await asyncio.to_thread(without_rights, SEND_GARBAGE, str(portid), str(PORTID))
        assert said == "refused refused "
        assert (await scene.round_trip(HostOperation.FREEZE)).ok


@pytest.mark.parametrize("scene", ["3.10", "3.19", "4.2", "4.10"], indirect=True)
async def test_a_forged_reply_does_not_put_the_answers_out_of_step(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        freeze = scene.host_asks(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        # Any user may send this to the kernel (section 3.4); nobody can tell that it was not us.
        with connector_socket() as liar:
            liar.sendto(encode(encode_reply(0)), (PORTID, 0))
        assert (await freeze).ok
        scene.answer(request, go_on=False)
        await scene.simulator.wait_for(EventKind.WRITE_IGNORED)
        assert (await scene.round_trip(HostOperation.THAW, go_on=False)).status == FAILED


async def test_what_may_have_been_dropped_is_a_loss(scene: Scene) -> None:
    scene.make(pause=wait_fixed(0.02))
    async with running(scene.source, scene.listener):
        await scene.serving()
        scene.host_asks(HostOperation.FREEZE)
        await scene.listener.next_request()
        send(0, *[encode(bytes(12))] * 2000, group=GROUP_MASK)
        state = await scene.listener.next_state(SourceCondition.LOST)
        assert state.detail == "the kernel had no room for what came over netlink: a request may be lost"
        assert scene.listener.losses == [("linux_netlink", state.detail)]
        # Nobody knows which request is open by now, so nothing is sent for it.
        assert scene.replies() == []


@kernels
async def test_stopping_tells_the_driver_that_what_is_open_has_failed(scene: Scene) -> None:
    before = left_behind()
    async with running(scene.source, scene.listener):
        await scene.serving()
        freeze = scene.host_asks(HostOperation.FREEZE)
        await scene.listener.next_request()
    async with asyncio.timeout(WAIT):
        assert (await freeze).status == FAILED
    assert new_since(before)[0] == NOTHING[0]


async def test_stopping_tells_of_a_request_that_was_not_read_yet(scene: Scene) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        freeze = scene.host_asks(HostOperation.FREEZE)
        await asyncio.sleep(0)
    assert (await freeze).status == FAILED


async def test_a_simulator_that_is_gone_is_a_loss(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async with running(scene.source, scene.listener):
        await scene.serving()
        scene.simulator.host.send(HostOperation.FREEZE)
        request = await scene.listener.next_request()
        await scene.simulator.__aexit__(None, None, None)
        scene.answer(request)
        state = await scene.listener.next_state(SourceCondition.LOST)
        assert state.detail == "the reply cannot be sent: Connection refused"
        scene.answer(request)
        assert "the answer to request 1 is not sent: the driver is gone" in caplog.text
    await scene.simulator.__aenter__()  # for the fixture


@pytest.mark.parametrize("mode", [SourceMode.AUTOMATIC, SourceMode.REQUIRED])
async def test_a_machine_without_the_driver(scene: Scene, mode: SourceMode) -> None:
    await scene.simulator.detach()
    scene.make(mode)
    if mode is SourceMode.REQUIRED:
        with pytest.raises(DeviceAbsent, match="does not list 10:1: the VSS driver is not loaded"):
            await scene.source.run(scene.listener)
    else:
        async with running(scene.source, scene.listener):
            state = await scene.listener.next_state()
        assert state.condition is SourceCondition.WAITING
        assert "hv_utils" in state.detail


async def test_off_is_off(tmp_path: Path) -> None:
    before = left_behind()
    source = LinuxNetlinkSource(LinuxNetlinkSettings(mode=SourceMode.OFF), VirtualClock())
    async with asyncio.timeout(WAIT):
        await source.run(Listener())
    assert source.state.condition is SourceCondition.OFF
    assert new_since(before) == NOTHING


async def test_an_answer_without_a_driver_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    source = LinuxNetlinkSource(LinuxNetlinkSettings(), clock)
    request = Request("1", "linux_netlink", RequestKind.CHECK, "Hyper-V host", clock.now())
    with caplog.at_level(logging.WARNING, "appvss.sources.linux_netlink"):
        source.answer(Answer(request, go_on=True, reason=""))
    assert caplog.messages == ["the answer to request 1 is not sent: the driver is gone"]
    source.set_gate(is_open=False)
