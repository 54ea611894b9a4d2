"""Who is behind a socket, and whether it still lives: with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from appvss.delivery.identity import Identity, peer_of, peer_of_xucred
from appvss.model.app import AppId, Peer
from tests.support.app_desk import AppDesk, app_desk
from tests.support.app_process import app_process
from tests.support.raw_app import attached

BOUND = 20
NOBODY = 65534


class Notes:
    """What an identity tells."""

    def __init__(self) -> None:
        self.ended, self.died = asyncio.Event(), asyncio.Event()

    def identity(self, connection: socket.socket, handle: int | None = -1) -> Identity:
        connection.setblocking(False)
        told = (lambda _: self.ended.set()), (lambda _: self.died.set())
        if handle == -1:
            return Identity(connection, *told)
        return Identity(connection, *told, lambda _connection, _pid: handle)


def peer_in(desk: AppDesk, name: str) -> Peer:
    stream = desk.registry.get(AppId(name))
    assert stream is not None
    assert stream.peer is not None
    return stream.peer


def let_everybody_in(directory: Path) -> None:
    directory.chmod(0o711)
    for name in ("apps.sock", "apps.peer.sock"):
        (directory / name).chmod(0o666)


# -- who


def test_peer_of_this_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == Peer(os.geteuid(), os.getegid(), os.getpid())


async def test_peer_of_a_process_of_another_user(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    async with app_desk(directory) as desk:
        let_everybody_in(directory)
        async with app_process(directory, "p", uid=NOBODY) as app:
            await app.line("welcome")
            assert peer_in(desk, "p") == Peer(NOBODY, NOBODY, app.pid)


def test_xucred_of_freebsd_amd64() -> None:
    # sys/ucred.h: u_int version, uid_t uid, short ngroups, gid_t groups[16], union { void *; pid_t }.
    data = struct.pack("<IIh2x16I4xq", 0, 1001, 3, 1001, 5, 0, *[0] * 13, 4711)
    assert len(data) == 88
    assert peer_of_xucred(data) == Peer(1001, 1001, 4711)


def test_xucred_before_freebsd_13_has_no_pid() -> None:
    assert peer_of_xucred(struct.pack("<IIh2x16I4xq", 0, 0, 1, *[0] * 16, 0)) == Peer(0, 0, 0)


def test_xucred_of_a_large_user_id() -> None:
    data = struct.pack("<IIh2x16I4xq", 0, 0xFFFF_FFFE, 1, 0xFFFF_FFFD, *[0] * 15, 1)
    assert peer_of_xucred(data) == Peer(0xFFFF_FFFE, 0xFFFF_FFFD, 1)


# -- whether it lives


async def test_killed_process_is_told_at_once(directory: Path) -> None:
    async with app_desk(directory) as desk, app_process(directory, "p") as app:
        await app.line("welcome")
        await desk.told("registered")
        await app.kill()
        assert await desk.told("left") == ("left", "p", "its process is gone", True)


async def test_killed_process_whose_sockets_live_on_in_a_child(directory: Path) -> None:
    async with app_desk(directory) as desk, app_process(directory, "p") as app:
        await app.line("welcome")
        await desk.told("registered")
        child = await app.fork()
        held = [os.readlink(f"/proc/{child}/fd/{number}") for number in os.listdir(f"/proc/{child}/fd")]
        assert sum(link.startswith("socket:") for link in held) >= 2, held
        await app.kill()
        assert await desk.told("left") == ("left", "p", "its process is gone", True)
        assert len(desk.registry) == 0


async def test_process_that_exits_has_died_as_well(directory: Path) -> None:
    async with app_desk(directory) as desk, app_process(directory, "p") as app:
        await app.line("welcome")
        await desk.told("registered")
        app.process.send_signal(signal.SIGTERM)
        assert await desk.told("left") == ("left", "p", "its process is gone", True)


async def test_stream_that_breaks_in_a_living_process(directory: Path) -> None:
    async with app_desk(directory) as desk:
        async with attached(directory, "a", identified=True):
            await desk.told("registered")
        assert (await desk.told("left"))[3] is False


async def test_side_connection_closed_by_a_living_app_ends_nothing(directory: Path) -> None:
    async with app_desk(directory) as desk, attached(directory, "a", identified=True) as app:
        await desk.told("registered")
        stream = desk.registry.get(AppId("a"))
        assert app.side is not None
        assert stream is not None
        app.side.close()
        await app.hang_up()
        assert (await desk.told("left"))[3] is False


async def test_app_that_talks_on_the_side_connection_is_still_known_to_die(directory: Path) -> None:
    async with app_desk(directory) as desk, app_process(directory, "p", chatters=True) as app:
        await app.line("welcome")
        await desk.told("registered")
        await app.fork()
        await app.kill()
        assert await desk.told("left") == ("left", "p", "its process is gone", True)


async def test_an_end_of_the_side_connection_is_told() -> None:
    notes, (ours, theirs) = Notes(), socket.socketpair()
    identity = notes.identity(ours)
    theirs.close()
    async with asyncio.timeout(BOUND):
        await notes.ended.wait()
    assert not identity.has_died()
    assert not notes.died.is_set()
    identity.close()
    identity.close()


async def test_living_process_with_a_broken_stream_is_found_to_live() -> None:
    notes, (ours, theirs) = Notes(), socket.socketpair()
    identity = notes.identity(ours)
    assert not await identity.has_died_with_its_stream()
    theirs.close()
    identity.close()


async def test_death_that_comes_after_the_end_of_the_connections() -> None:
    # What the kernel does, stretched: the connection is closed first, the process is dead a moment later.
    child = await asyncio.create_subprocess_exec("sleep", "60")
    notes, (ours, theirs) = Notes(), socket.socketpair()
    identity = notes.identity(ours, os.pidfd_open(child.pid))
    theirs.close()
    waiting = asyncio.create_task(identity.has_died_with_its_stream())
    async with asyncio.timeout(BOUND):
        await notes.ended.wait()
    assert not waiting.done()
    child.kill()
    assert await waiting
    assert notes.died.is_set()
    await child.wait()
    identity.close()


async def test_kernel_without_a_handle_on_processes() -> None:
    # FreeBSD: what is known is the connection's end, and whether the process id is in use.
    notes, (ours, theirs) = Notes(), socket.socketpair()
    identity = notes.identity(ours, None)
    assert not identity.has_died()
    theirs.close()
    async with asyncio.timeout(BOUND):
        await notes.ended.wait()
    assert not identity.has_died()
    identity.close()
    child = await asyncio.create_subprocess_exec("true")
    await child.wait()
    ours, theirs = socket.socketpair()
    identity = notes.identity(ours, None)
    identity.peer = Peer(0, 0, child.pid)
    theirs.close()
    async with asyncio.timeout(BOUND):
        await notes.died.wait()
    assert identity.has_died()
    identity.close()


async def test_unknown_process_id_is_never_dead() -> None:
    ours, theirs = socket.socketpair()
    identity = Notes().identity(ours, None)
    identity.peer = Peer(0, 0, 0)
    assert not identity.has_died()
    identity.close()
    theirs.close()


async def test_nothing_is_left_open(directory: Path) -> None:
    async def come_and_go(desk: AppDesk, count: int) -> None:
        async with AsyncExitStack() as stack:
            for number in range(count):
                await stack.enter_async_context(attached(directory, f"a-{number}", identified=True))
        for _ in range(2 * count):
            await desk.next_news()
        await desk.service.all_left()

    async with app_desk(directory) as desk:
        await come_and_go(desk, 5)
        before = handles()
        await come_and_go(desk, 50)
        assert handles() == before == 0


def handles() -> int:
    """How many handles on processes are open. gRPC's own descriptors come and go in its threads."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    return links.count("anon_inode:[pidfd]")
