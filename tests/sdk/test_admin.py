from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from appvss.model.app import AppId, Peer, Requirement
from appvss.model.errors import (
    AppvssError,
    BrokerRefused,
    BrokerUnreachable,
    CycleBusy,
    RequestRefused,
    SocketPathTooLong,
)
from appvss.model.phase import Phase
from appvss.model.verdict import Level
from appvss.sdk.admin import AdminClient
from appvss.v1 import types_pb2
from tests.sdk.broker_peer import (
    BOUND,
    DOUBTFUL,
    FAILED,
    GOOD,
    HELD,
    TIME,
    BrokerPeer,
    broker_peer,
    event,
    length,
    reached,
)

_Value = TypeVar("_Value")


@pytest.fixture
async def peer() -> AsyncIterator[BrokerPeer]:
    async with broker_peer() as peer:
        yield peer


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="av", dir="/tmp"))
    yield path
    shutil.rmtree(path)


async def ask(peer: BrokerPeer, question: Callable[[AdminClient], _Value], **options: timedelta) -> _Value:
    """Ask in a thread: the peer lives on this test's loop."""

    def asking() -> _Value:
        with AdminClient(peer.directory, **options) as client:
            return question(client)

    return await asyncio.wait_for(asyncio.to_thread(asking), BOUND)


async def refusal(peer: BrokerPeer, question: Callable[[AdminClient], object], **options: timedelta) -> AppvssError:
    with pytest.raises(AppvssError) as caught:
        await ask(peer, question, **options)
    return caught.value


async def test_status_as_the_broker_says_it(peer: BrokerPeer) -> None:
    status = await ask(peer, AdminClient.status)
    assert (status.broker, status.pid, status.phase, status.cycle) == ("appvss/0.1.0", 4711, Phase.HOLDING, "c-2")
    assert (status.uptime, status.phase_for) == (timedelta(hours=2, minutes=5), timedelta(seconds=1.5))
    assert (status.apps, status.absent_apps) == (2, ("billing",))
    assert [(source.name, source.condition, source.since) for source in status.sources] == [
        ("freebsd", "waiting", timedelta(minutes=3)),
        ("local", "serving", timedelta(hours=2, minutes=5)),
    ]
    assert status.last_cycle is not None
    assert (status.last_cycle.time, status.last_cycle.verdict) == (TIME, DOUBTFUL)


async def test_a_resting_broker_has_no_cycle(peer: BrokerPeer) -> None:
    peer.status.cycle = ""
    peer.status.phase = types_pb2.PHASE_IDLE
    peer.status.ClearField("phase_for")
    peer.status.ClearField("last_cycle")
    status = await ask(peer, AdminClient.status)
    assert (status.cycle, status.phase, status.phase_for, status.last_cycle) == ("", Phase.IDLE, None, None)


async def test_a_phase_that_is_not_known_yet_is_none(peer: BrokerPeer) -> None:
    peer.status.phase = types_pb2.Phase.ValueType(99)
    assert (await ask(peer, AdminClient.status)).phase is None


async def test_apps_as_the_broker_says_them_and_nothing_unprintable(peer: BrokerPeer) -> None:
    first, second = await ask(peer, AdminClient.apps)
    assert (first.app, first.state, first.requirement) == (AppId("orders-db", "eu"), "held", Requirement.REQUIRED)
    assert (first.order, first.after, first.freeze_timeout) == (10, ("web",), timedelta(seconds=2))
    assert (first.peer, first.last_outcome, first.paths) == (Peer(70, 71, 72), HELD, ("/var/db/orders",))
    assert (second.peer, second.freeze_timeout, second.last_outcome) == (None, None, None)
    assert second.last_error == "[red]a deployment?[31m is running"


async def test_a_forced_thaw_says_which_cycle_it_ended_and_why(peer: BrokerPeer) -> None:
    assert await ask(peer, lambda client: client.force_thaw("the \x1bdisk is full")) == "c-2"
    assert peer.thaw_reasons == ["the ?disk is full"]


async def test_a_thaw_that_apps_do_not_confirm_is_the_brokers_no(peer: BrokerPeer) -> None:
    peer.failure = (grpc.StatusCode.DEADLINE_EXCEEDED, "web has not confirmed in 30s")
    error = await refusal(peer, AdminClient.force_thaw)
    assert isinstance(error, BrokerRefused)
    assert "web has not confirmed" in error.sentence


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.ABORTED, CycleBusy),
        (grpc.StatusCode.PERMISSION_DENIED, RequestRefused),
        (grpc.StatusCode.INVALID_ARGUMENT, BrokerRefused),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, BrokerRefused),
        (grpc.StatusCode.INTERNAL, BrokerRefused),
        (grpc.StatusCode.UNAVAILABLE, BrokerUnreachable),
        (grpc.StatusCode.CANCELLED, BrokerUnreachable),
    ],
)
async def test_every_no_has_its_class_and_the_brokers_words(
    peer: BrokerPeer, code: grpc.StatusCode, kind: type[AppvssError]
) -> None:
    peer.failure = (code, "these are the \x1bwords")
    error = await refusal(peer, AdminClient.status)
    assert type(error) is kind
    assert "these are the ?words" in error.sentence
    assert error.hint


async def test_a_broker_that_is_silent_is_not_waited_for_longer_than_the_limit(peer: BrokerPeer) -> None:
    peer.silent = True
    error = await refusal(peer, AdminClient.status, limit=timedelta(milliseconds=200))
    assert isinstance(error, BrokerUnreachable)
    assert "has not answered within 0.2s" in error.sentence


async def test_an_answer_that_breaks_the_contract_is_named(peer: BrokerPeer) -> None:
    peer.apps[0].name = "no name"
    error = await refusal(peer, AdminClient.apps)
    assert isinstance(error, BrokerRefused)
    assert "'no name'" in error.sentence


async def test_watch_gives_event_after_event_and_ends_with_the_iterator(peer: BrokerPeer) -> None:
    def watch(client: AdminClient) -> list[str]:
        events = client.watch()
        seen = [next(events), next(events)]
        events.close()  # type: ignore[attr-defined]  # it is a generator
        assert seen[1].took == timedelta(milliseconds=5)
        assert (seen[0].phase, seen[1].phase, seen[1].app) == (Phase.REQUESTED, None, "web")
        return [event.kind for event in seen]

    await peer.events.put(event("cycle_began", cycle="c-1", phase=types_pb2.PHASE_REQUESTED))
    await peer.events.put(event("of_the_future", app="web", took=length(timedelta(milliseconds=5))))
    assert await ask(peer, watch) == ["cycle_began", "of_the_future"]
    await reached(peer.unwatched)


async def test_a_watch_that_the_broker_refuses(peer: BrokerPeer) -> None:
    peer.failure = (grpc.StatusCode.RESOURCE_EXHAUSTED, "32 watchers are there")
    error = await refusal(peer, lambda client: next(client.watch()))
    assert isinstance(error, BrokerRefused)
    assert "32 watchers" in error.sentence


async def test_a_hold_from_the_request_to_the_verdict(peer: BrokerPeer) -> None:
    def hold(client: AdminClient) -> None:
        with client.hold("a test", freeze_budget=timedelta(seconds=2), hold_limit=timedelta(seconds=9)) as hold:
            held = hold.wait_held(timedelta(seconds=BOUND))
            assert held is not None
            assert (held.cycle, held.hold_limit) == ("c-1", timedelta(seconds=30))
            assert not hold.is_over
            assert hold.finish(timedelta(seconds=BOUND)) == GOOD
            assert hold.is_over
            assert hold.finish(timedelta(seconds=BOUND)) == GOOD

    await ask(peer, hold)
    assert peer.begin is not None
    assert (peer.begin.requester, peer.begin.freeze_budget.seconds, peer.begin.hold_limit.seconds) == ("a test", 2, 9)


async def test_a_hold_without_lengths_leaves_them_to_the_broker(peer: BrokerPeer) -> None:
    await ask(peer, lambda client: client.hold("a test").finish(timedelta(seconds=BOUND)))
    assert peer.begin is not None
    assert not peer.begin.HasField("freeze_budget")
    assert not peer.begin.HasField("hold_limit")


@pytest.mark.parametrize("then", ["finish", "hang"])
async def test_leaving_a_hold_ends_it(peer: BrokerPeer, then: str) -> None:
    peer.hold_script = ["held", then]

    def hold(client: AdminClient) -> None:
        with client.hold("a test") as hold:
            hold.wait_held(timedelta(seconds=BOUND))

    await ask(peer, hold)
    await reached(peer.broken)
    assert not peer.finished.is_set()


async def test_a_freeze_that_fails_has_a_verdict_and_no_hold(peer: BrokerPeer) -> None:
    peer.hold_script = [FAILED]

    def hold(client: AdminClient) -> Level:
        with client.hold("a test") as hold:
            assert hold.wait_held(timedelta(seconds=BOUND)) is None
            assert hold.verdict is not None
            return hold.verdict.level

    assert await ask(peer, hold) is Level.FAILED


async def test_a_hold_that_the_broker_refuses(peer: BrokerPeer) -> None:
    peer.failure = (grpc.StatusCode.ABORTED, "cycle c-7 is in holding")
    error = await refusal(peer, lambda client: client.hold("a test").wait_held(timedelta(seconds=BOUND)))
    assert isinstance(error, CycleBusy)
    assert "c-7" in error.sentence


async def test_a_hold_that_ends_without_a_verdict(peer: BrokerPeer) -> None:
    peer.hold_script = ["held", "finish"]
    error = await refusal(peer, lambda client: client.hold("a test").finish(timedelta(seconds=BOUND)))
    assert isinstance(error, BrokerRefused)
    assert "without a verdict" in error.sentence


async def test_a_hold_whose_freeze_never_comes_is_given_up(peer: BrokerPeer) -> None:
    peer.hold_script = ["hang"]
    error = await refusal(peer, lambda client: client.hold("a test").wait_held(timedelta(milliseconds=100)))
    assert isinstance(error, BrokerUnreachable)
    await reached(peer.broken)


async def test_every_change_of_a_hold_is_told(peer: BrokerPeer) -> None:
    told: list[str] = []

    def hold(client: AdminClient) -> None:
        with client.hold("a test", notify=lambda: told.append("change")) as hold:
            hold.finish(timedelta(seconds=BOUND))

    await ask(peer, hold)
    assert told == ["change", "change"]


async def test_no_call_outlives_its_use(peer: BrokerPeer) -> None:
    def use_streams(client: AdminClient) -> None:
        for script in (["held", "finish", GOOD], ["held", "hang"], [FAILED]):
            peer.hold_script = script
            with client.hold("a test") as hold:
                hold.wait_held(timedelta(seconds=BOUND))
        for failure in (None, (grpc.StatusCode.ABORTED, "no")):
            peer.failure = failure
            with contextlib.suppress(AppvssError):
                next(client.watch())
            with contextlib.suppress(AppvssError), client.hold("a test") as hold:
                hold.wait_held(timedelta(seconds=BOUND))

    def calls() -> int:
        return sum(type(thing).__name__ == "_MultiThreadedRendezvous" for thing in gc.get_objects())

    await peer.events.put(event("cycle_began"))
    gc.collect()
    gc.disable()
    try:
        before = calls()
        await ask(peer, use_streams)
        assert calls() == before
    finally:
        gc.enable()


def test_no_socket(directory: Path) -> None:
    with AdminClient(directory) as client, pytest.raises(BrokerUnreachable, match=r"there is no socket .*admin\.sock"):
        client.status()


def test_a_socket_that_nobody_listens_at(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "admin.sock"))
    with AdminClient(directory) as client, pytest.raises(BrokerUnreachable, match="nobody listens"):
        client.status()


def test_a_socket_that_this_user_may_not_use(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "admin.sock"))
        listener.listen()
        (directory / "admin.sock").chmod(0o600)
        directory.chmod(0o755)
        script = (
            "import grpc, os, sys\n"
            "from appvss.sdk.admin import AdminClient\n"
            # gRPC loads the rest of itself with the first channel, and may lie where only root can read.
            "grpc.insecure_channel('unix:/nowhere').close()\n"
            "os.setuid(65534)\n"
            "try:\n    AdminClient(sys.argv[1]).status()\n"
            "except Exception as error:\n    print(type(error).__name__, error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(directory)], capture_output=True, text=True, timeout=BOUND, check=True
        )
    assert done.stdout.startswith("BrokerUnreachable user 65534 may not use the socket"), done


def test_a_runtime_directory_whose_sockets_do_not_fit() -> None:
    with pytest.raises(SocketPathTooLong):
        AdminClient("/tmp/" + "x" * 200)


async def test_a_broker_that_dies_in_a_hold(directory: Path) -> None:
    script = (
        "import asyncio, grpc, sys\n"
        "from pathlib import Path\n"
        "from appvss import contract\n"
        "from appvss.v1 import requester_pb2_grpc\n"
        "from tests.sdk.broker_peer import BrokerPeer\n"
        "async def main():\n"
        "    server = grpc.aio.server(options=contract.SERVER_OPTIONS)\n"
        "    requester_pb2_grpc.add_RequesterServiceServicer_to_server(BrokerPeer(Path(sys.argv[1])), server)\n"
        "    server.add_insecure_port(f'unix:{sys.argv[1]}/admin.sock')\n"
        "    await server.start()\n"
        "    print('serving', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(directory), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), BOUND) == b"serving\n"
        with AdminClient(directory) as client, client.hold("a test") as hold:
            assert await asyncio.to_thread(hold.wait_held, timedelta(seconds=BOUND)) is not None
            process.send_signal(signal.SIGKILL)
            with pytest.raises(BrokerUnreachable):  # how far the kernel is with tidying up decides the sentence
                await asyncio.to_thread(hold.finish, timedelta(seconds=BOUND))
            assert hold.is_over
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
