"""The conversation over /dev/fuse, with the test in the kernel's place at the other end of a socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from appvss.simulator.fuse import abi
from appvss.simulator.fuse.abi import Opcode, Request
from appvss.simulator.fuse.connection import FuseConnection, Respond


class Echo:
    """Answers with the request's own body; some opcodes answer otherwise."""

    def __init__(self) -> None:
        self.late: list[Respond] = []
        self.undelivered_requests: list[int] = []
        self.interrupted_requests: list[int] = []

    def handle(self, request: Request, answer: Respond) -> bytes | None:
        if request.opcode == Opcode.POLL:
            self.late.append(answer)
            return None
        if request.opcode == Opcode.LOOKUP:
            raise OSError(errno.ENOENT, "none")
        if request.opcode == Opcode.IOCTL:
            abi.parse_ioctl(request.body)
        return request.body

    def interrupted(self, unique: int) -> None:
        self.interrupted_requests.append(unique)

    def undelivered(self, request: Request) -> None:
        self.undelivered_requests.append(request.unique)


class Kernel:
    """The kernel's end: datagrams with boundaries, as /dev/fuse has them."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, opcode: int, unique: int, body: bytes = b"") -> None:
        header = struct.pack("=IIQQIIIHH", 40 + len(body), opcode, unique, 1, 0, 0, 0, 0, 0)
        self._end.send(header + body)

    def send_raw(self, data: bytes) -> None:
        self._end.send(data)

    async def receive(self) -> tuple[int, int, bytes]:
        async with asyncio.timeout(10):
            data = await asyncio.get_running_loop().sock_recv(self._end, 1 << 16)
        length, error, unique = struct.unpack_from("=IiQ", data)
        assert length == len(data)
        return unique, error, data[16:]


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Kernel, FuseConnection, Echo]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    descriptor = theirs.detach()
    os.set_blocking(descriptor, False)
    echo = Echo()
    connection = FuseConnection(descriptor, echo)
    with ours:
        yield Kernel(ours), connection, echo
        connection.close()


Ends = tuple[Kernel, FuseConnection, Echo]


async def test_the_introduction(ends: Ends) -> None:
    kernel, connection, _ = ends
    assert not connection.ready.is_set()
    kernel.send(Opcode.INIT, 1, struct.pack("=III", 7, 45, 131072) + bytes(52))
    unique, error, body = await kernel.receive()
    assert (unique, error) == (1, 0)
    assert struct.unpack_from("=IIII", body) == (7, 31, 131072, 0)
    assert connection.ready.is_set()


async def test_answers_and_errors(ends: Ends) -> None:
    kernel, _, _ = ends
    kernel.send(Opcode.GETATTR, 2, b"body")
    kernel.send(Opcode.LOOKUP, 3)
    assert await kernel.receive() == (2, 0, b"body")
    assert await kernel.receive() == (3, -errno.ENOENT, b"")


async def test_a_late_answer(ends: Ends) -> None:
    kernel, _, echo = ends
    kernel.send(Opcode.POLL, 4)
    kernel.send(Opcode.GETATTR, 5)
    assert await kernel.receive() == (5, 0, b"")
    echo.late[0](b"late")
    assert await kernel.receive() == (4, 0, b"late")


async def test_garbage_is_survived(ends: Ends) -> None:
    kernel, _, _ = ends
    kernel.send_raw(b"x")
    kernel.send_raw(bytes(39))
    for opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
        kernel.send(opcode, 6)
    kernel.send(Opcode.IOCTL, 7, b"short")
    kernel.send(Opcode.GETATTR, 8)
    assert await kernel.receive() == (7, -errno.EIO, b"")
    assert await kernel.receive() == (8, 0, b"")


async def test_an_interrupt_is_passed_on_and_a_late_answer_may_be_an_error(ends: Ends) -> None:
    kernel, _, echo = ends
    kernel.send(Opcode.POLL, 4)
    kernel.send(Opcode.INTERRUPT, 5, struct.pack("=Q", 4))
    kernel.send(Opcode.GETATTR, 6)
    assert await kernel.receive() == (6, 0, b"")
    assert echo.interrupted_requests == [4]
    echo.late[0](OSError(errno.EINTR, "interrupted"))
    assert await kernel.receive() == (4, -errno.EINTR, b"")


async def test_wake_up(ends: Ends) -> None:
    kernel, connection, _ = ends
    connection.wake(0x1234)
    assert await kernel.receive() == (0, 1, struct.pack("=Q", 0x1234))


async def test_an_answer_that_nobody_takes_is_known(ends: Ends) -> None:
    kernel, connection, echo = ends
    kernel.send(Opcode.POLL, 9)
    kernel.send(Opcode.GETATTR, 10)
    await kernel.receive()
    connection.close()
    connection.close()
    echo.late[0](b"too late")
    assert echo.undelivered_requests == [9]
    assert connection.gone.is_set()
    connection.wake(1)
