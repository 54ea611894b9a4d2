"""The FUSE requests of the two nodes, answered without a kernel: what Linux hides from real callers is seen here."""

from __future__ import annotations

import asyncio
import errno
import struct
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.simulator.clock import Alarms, Moment
from appvss.simulator.event import EventKind, EventRecord, Side
from appvss.simulator.freebsd.device import Device
from appvss.simulator.freebsd.machine import Machine
from appvss.simulator.fuse.abi import ROOT_NODE, Opcode, Request
from appvss.simulator.hyperv import HostOperation, Packet, vss_message
from appvss.sources.wire.freebsd import FREEBSD, LINUX, Operation, decode
from tests.simulator.children import RUN_FOR_EVER, child
from tests.simulator.conftest import VirtualClock

NOBODY = 0
"""A caller outside of our process-id namespace: the events alone tell how it waits."""
POLLIN, POLLRDNORM, POLLRDBAND, POLLHUP = 0x1, 0x40, 0x80, 0x10


def never(late: bytes) -> None:
    pytest.fail(f"{late!r} came late")


class Rig:
    """A device with an attached driver whose fs device the simulator has open, and the kernel's part of the talk."""

    def __init__(self) -> None:
        self.record = EventRecord()
        clock = VirtualClock()
        self.machine = Machine(clock, Alarms(clock), self.record, debug_kernel=False)
        self.device = Device(self.machine)
        self.machine.listeners = [self.device.notice]
        self.machine.attach()
        self._unique = 0

    def ask(self, opcode: int, node: int = ROOT_NODE, body: bytes = b"") -> bytes:
        self._unique += 1
        answer = self.device.handle(Request(opcode, self._unique, node, NOBODY, body), never)
        assert answer is not None
        return answer

    def node(self, name: bytes) -> int:
        return int.from_bytes(self.ask(Opcode.LOOKUP, body=name + b"\0")[:8], "little")

    def open(self, name: bytes = b"hv_appvss_dev") -> int:
        return int.from_bytes(self.ask(Opcode.OPEN, self.node(name), bytes(8))[:8], "little")

    def ioctl(self, handle: int, number: int, data: bytes = b"", output: int = 0, flags: int = 0) -> bytes:
        body = struct.pack("=QIIQII", handle, flags, number, 0, len(data), output) + data
        answer = self.ask(Opcode.IOCTL, body=body)
        assert answer[:16] == bytes(16)
        return answer[16:]

    def poll(self, handle: int, events: int) -> int:
        return int.from_bytes(self.ask(Opcode.POLL, body=struct.pack("=QQII", handle, 99, 1, events))[:4], "little")

    def host_sends(self, operation: int) -> None:
        self.machine.host_sends(Packet(1, vss_message(operation, transaction=0)))


@pytest.fixture
async def rig() -> Rig:
    return Rig()


def refusal(rig: Rig, opcode: int, node: int = ROOT_NODE, body: bytes = b"") -> int | None:
    with pytest.raises(OSError, match=r".") as error:
        rig.ask(opcode, node, body)
    return error.value.errno


@pytest.mark.parametrize("events", [0, POLLIN, POLLRDNORM, POLLIN | POLLRDNORM])
async def test_vector_53_poll_shows_pollin_whatever_was_asked_for(rig: Rig, events: int) -> None:
    rig.machine.open(Side.FS, None)
    handle = rig.open()
    assert rig.poll(handle, events) == 0
    rig.host_sends(HostOperation.FREEZE)
    assert rig.poll(handle, events) == POLLIN


async def test_vector_54_select_is_never_ready(rig: Rig) -> None:
    rig.machine.open(Side.FS, None)
    handle = rig.open()
    rig.host_sends(HostOperation.FREEZE)
    assert rig.poll(handle, POLLIN | POLLRDNORM | POLLRDBAND) == 0


async def test_a_sleeper_is_told_once_a_sleep(rig: Rig) -> None:
    handle = rig.open()
    for _ in range(3):
        rig.poll(handle, POLLIN)
    assert [event.kind for event in rig.record.events()].count(EventKind.WAITS) == 1


async def test_a_caller_that_never_falls_asleep_is_answered_by_its_events(rig: Rig) -> None:
    """The kernel may show us a request before its thread sleeps; here it is one that never will."""
    rig.machine.open(Side.FS, None)
    handle = rig.open()
    rig.host_sends(HostOperation.FREEZE)
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    async with child(RUN_FOR_EVER) as process:
        for events in (POLLIN, POLLIN | POLLRDBAND):
            body = struct.pack("=QQII", handle, 99, 1, events)
            request = Request(Opcode.POLL, 1, ROOT_NODE, process.pid, body)
            assert rig.device.handle(request, answers.put_nowait) is None
            async with asyncio.timeout(30):
                answer = await answers.get()
            assert int.from_bytes(answer[:4], "little") == (POLLIN if events == POLLIN else 0)


async def test_an_unknown_handle_is_dead(rig: Rig) -> None:
    assert rig.poll(77, POLLIN) == POLLHUP
    assert refusal(rig, Opcode.IOCTL, body=struct.pack("=QIIQII", 77, 0, LINUX.read, 0, 0, 64)) == errno.ENXIO
    assert refusal(rig, Opcode.READ, body=struct.pack("=Q", 77)) == errno.ENXIO
    assert rig.ask(Opcode.RELEASE, body=struct.pack("=Q", 77)) == b""


async def test_an_empty_read_and_a_write_that_is_not_acted_on(rig: Rig) -> None:
    handle = rig.open()
    message = decode(rig.ioctl(handle, LINUX.read, output=64))
    assert (message.operation, message.status) == (Operation.NONE, 1)
    assert rig.ioctl(handle, LINUX.write, bytes(64)) == b""
    kinds = [event.kind for event in rig.record.events()]
    assert kinds[-2:] == [EventKind.READ_EMPTY, EventKind.WRITE_IGNORED]


@pytest.mark.parametrize(
    ("number", "data", "output", "result"),
    [
        (0x7699, b"", 0, b""),
        (FREEBSD.read, bytes(64), 0, b""),
        (FREEBSD.write, b"", 64, bytes(64)),
        (0xC0087699, b"12345678", 8, b"12345678"),
        (LINUX.write, b"short", 0, b""),
    ],
    ids=["nothing", "FreeBSD's READ", "FreeBSD's WRITE", "in and out", "a short WRITE"],
)
async def test_vector_5_unknown_ioctls_return_0(rig: Rig, number: int, data: bytes, output: int, result: bytes) -> None:
    handle = rig.open()
    assert rig.ioctl(handle, number, data, output) == result
    event = rig.record.events()[-1]
    assert event.kind is EventKind.UNKNOWN_IOCTL
    assert ("FreeBSD's number" in event.detail) == (number in (FREEBSD.read, FREEBSD.write))


async def test_the_folder_takes_no_ioctl(rig: Rig) -> None:
    assert refusal(rig, Opcode.IOCTL, body=struct.pack("=QIIQII", 0, 16, 0x7699, 0, 0, 0)) == errno.ENOTTY


@pytest.mark.parametrize(
    ("opcode", "code"),
    [
        (Opcode.CREATE, errno.EPERM),
        (Opcode.MKNOD, errno.EPERM),
        (Opcode.MKDIR, errno.EPERM),
        (Opcode.UNLINK, errno.EPERM),
        (Opcode.RENAME2, errno.EPERM),
        (25, errno.ENOSYS),
        (9999, errno.ENOSYS),
    ],
)
async def test_nothing_else_can_be_done_in_the_folder(rig: Rig, opcode: int, code: int) -> None:
    assert refusal(rig, opcode) == code


@pytest.mark.parametrize("name", [b"other\0", b"\0", b"", b"hv_appvss_dev2\0"])
async def test_other_names_are_not_there(rig: Rig, name: bytes) -> None:
    assert refusal(rig, Opcode.LOOKUP, body=name) == errno.ENOENT


async def test_an_open_that_reached_nobody_is_undone(rig: Rig) -> None:
    rig.ask(Opcode.OPEN, rig.node(b"hv_appvss_dev"), bytes(8))
    assert refusal(rig, Opcode.OPEN, rig.node(b"hv_appvss_dev"), bytes(8)) == errno.EBUSY
    opened = next(event for event in rig.record.events() if event.kind is EventKind.OPENED)
    assert opened.process == 0
    for unique in range(10):
        rig.device.undelivered(Request(Opcode.OPEN, unique, 0, NOBODY, b""))
        rig.device.undelivered(Request(Opcode.GETATTR, unique, 0, NOBODY, b""))
    rig.ask(Opcode.OPEN, rig.node(b"hv_appvss_dev"), bytes(8))


def attributes(answer: bytes) -> tuple[int, ...]:
    mode, links, uid, gid = struct.unpack_from("=IIII", answer, 16 + 60)
    return mode, links, uid, gid


async def test_owner_and_mode_of_a_node_can_be_changed_until_it_goes(rig: Rig) -> None:
    node = rig.node(b"hv_appvss_dev")
    assert attributes(rig.ask(Opcode.GETATTR, node))[:2] == (0o100640, 1)
    change = bytearray(88)
    struct.pack_into("=I", change, 0, 7)
    struct.pack_into("=I", change, 68, 0o100660)
    struct.pack_into("=II", change, 76, 11, 22)
    assert attributes(rig.ask(Opcode.SETATTR, node, bytes(change))) == (0o100660, 1, 11, 22)
    assert attributes(rig.ask(Opcode.SETATTR, node, bytes(88))) == (0o100660, 1, 11, 22)
    rig.machine.detach()
    assert attributes(rig.ask(Opcode.GETATTR, node)) == (0o100660, 0, 11, 22)
    assert refusal(rig, Opcode.SETATTR, node, bytes(change)) == errno.EPERM
    assert refusal(rig, Opcode.OPEN, node, bytes(8)) == errno.ENXIO
    rig.machine.attach()
    assert attributes(rig.ask(Opcode.GETATTR, rig.node(b"hv_appvss_dev")))[:2] == (0o100640, 1)


@given(opcode=st.integers(0, 60), node=st.integers(0, 5), body=st.binary(max_size=120))
def test_garbage_is_answered_or_refused(opcode: int, node: int, body: bytes) -> None:
    record = EventRecord()
    clock = VirtualClock()
    machine = Machine(clock, Alarms(clock), record, debug_kernel=False)
    machine.attach()
    try:
        Device(machine).handle(Request(opcode, 1, node, NOBODY, body), never)
    except OSError as error:
        assert error.errno  # noqa: PT017 - both ends are right
    except struct.error:
        assert len(body) < 88


async def test_time_runs_in_the_machine(rig: Rig) -> None:
    assert isinstance(rig.machine.moment(), Moment)
    rig.machine.shift_wall(timedelta(hours=-1))
    assert rig.machine.moment().wall == VirtualClock().wall() - timedelta(hours=1)
