"""What administrators ask, against the real broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from appvss import contract
from appvss.delivery.admin_service import AdminService
from appvss.delivery.watch import QUEUE_LIMIT, WATCHERS_LIMIT, Watchers
from appvss.v1 import admin_pb2, admin_pb2_grpc, requester_pb2, types_pb2
from tests.support.holds import HoldCall
from tests.support.raw_app import attached
from tests.support.running_broker import BOUND, QUIET, RunningBroker, running_broker

Code = grpc.StatusCode


async def refused(broker: RunningBroker, *messages: requester_pb2.HoldRequest) -> tuple[grpc.StatusCode, str]:
    hold = HoldCall(broker.hold())
    for message in messages:
        await hold.say(message)
    if not messages:
        await hold.hang_up()
    return await hold.ending()


# -- questions


async def test_status_of_a_broker_at_rest() -> None:
    async with running_broker() as broker:
        status = await broker.status()
        assert status.broker.startswith("appvss/")
        assert (status.pid, status.phase, status.cycle, status.apps) == (broker.pid, types_pb2.PHASE_IDLE, "", 0)
        assert not status.HasField("phase_for")
        assert not status.HasField("last_cycle")
        assert status.uptime.ToTimedelta() > timedelta(0)
        found = {source.name: (source.mode, source.condition) for source in status.sources}
        assert {name: found[name] for name in ("freebsd", "local", "hook")} == {
            "freebsd": ("off", "off"),
            "local": ("automatic", "serving"),
            "hook": ("automatic", "serving"),
        }
        assert status.freezer.condition in ("off", "ready", "lost")
        assert (status.runtime_directory, status.configuration) == (str(broker.runtime_directory), str(broker.file))
        assert await broker.apps() == []
        assert await broker.cycles() == []


async def test_apps_in_the_order_of_the_freeze_with_all_that_is_known() -> None:
    configuration = QUIET + '[apps]\nrequired = ["billing", "b"]\n'
    async with running_broker(configuration) as broker, AsyncExitStack() as stack:
        hellos: dict[str, dict[str, Any]] = {
            "z": {"order": 10, "freeze_timeout": {"seconds": 2}, "hold_limit": {"seconds": 9}},
            "c": {"order": 1, "after": ["z"], "paths": ["/srv/\x1b[2J"]},
            "b": {"instance": "eu", "requirement": types_pb2.REQUIREMENT_IGNORED},
            "a": {"requirement": types_pb2.REQUIREMENT_TOLERATED},
        }
        for name, hello in hellos.items():
            await stack.enter_async_context(attached(broker.runtime_directory, name, identified=name == "z", **hello))
        z, c, a, b, billing = await broker.apps()
        assert [app.name for app in (z, c, a, b, billing)] == ["z", "c", "a", "b", "billing"]
        assert (z.state, z.order, z.freeze_timeout.seconds, z.hold_limit.seconds) == ("registered", 10, 2, 9)
        assert (z.peer.uid, z.peer.gid, z.peer.pid) == (os.geteuid(), os.getegid(), os.getpid())
        assert (list(c.after), list(c.paths), c.library) == (["z"], ["/srv/?[2J"], "raw/1")
        assert not c.HasField("peer")
        assert not c.HasField("freeze_timeout")
        assert not c.HasField("last_outcome")
        assert b.instance == "eu"
        assert b.requirement == types_pb2.REQUIREMENT_REQUIRED  # the administrator's word
        assert a.requirement == types_pb2.REQUIREMENT_TOLERATED
        assert (billing.state, billing.requirement) == ("absent", types_pb2.REQUIREMENT_REQUIRED)
        assert list((await broker.status()).absent_apps) == ["billing"]


async def test_a_cycle_that_is_not_known() -> None:
    async with running_broker() as broker:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await broker.cycle("\x1b[31mnone")
        assert caught.value.code() is Code.NOT_FOUND
        assert caught.value.details() == "no cycle '?[31mnone' is known to this broker"


async def test_cycles_newest_first_and_as_many_as_asked_for() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        ids = []
        for _ in range(3):
            hold = await HoldCall.begin(broker)
            await app.freeze()
            ids.append((await hold.held()).cycle)
            await hold.finish()
            await app.thaw()
            assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION
        assert [cycle.cycle for cycle in await broker.cycles()] == ids[::-1]
        assert [cycle.cycle for cycle in await broker.cycles(2)] == ids[:0:-1]
        assert len(await broker.cycles(100)) == 3
        detail = await broker.cycle(ids[0])
        assert detail.summary.phase == types_pb2.PHASE_COMPLETED
        assert (detail.summary.source, detail.summary.requester) == ("local", "a test")
        kinds = [event.kind for event in detail.events]
        for earlier, later in zip(
            ("cycle_began", "freeze_asked", "app_froze", "source_answered", "thaw_asked", "app_thawed"),
            ("freeze_asked", "app_froze", "source_answered", "thaw_asked", "app_thawed", "cycle_ended"),
            strict=True,
        ):
            assert kinds.index(earlier) < kinds.index(later), kinds
        lengths = [event.since_request.ToTimedelta() for event in detail.events]
        assert lengths == sorted(lengths)
        assert all(event.cycle == ids[0] for event in detail.events)
        assert (await broker.status()).last_cycle.cycle == ids[2]
        (listed,) = await broker.apps()
        assert listed.last_outcome.outcome == types_pb2.OUTCOME_HELD


async def test_request_over_64_kib() -> None:
    async with running_broker() as broker:
        options = [("grpc.max_send_message_length", -1)]
        path = f"unix:{broker.runtime_directory / contract.ADMIN_SOCKET}"
        async with grpc.aio.insecure_channel(path, options=options) as channel:
            stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ForceThaw(admin_pb2.ForceThawRequest(reason="x" * contract.MESSAGE_LIMIT), timeout=BOUND)
            assert caught.value.code() is Code.RESOURCE_EXHAUSTED


async def test_answers_stay_within_their_limit_however_much_apps_declare() -> None:
    paths = [f"/{number}/" + "p" * 900 for number in range(64)]
    async with running_broker() as broker, AsyncExitStack() as stack:
        for number in range(90):
            await stack.enter_async_context(attached(broker.runtime_directory, f"a-{number}", paths=paths))
        apps = await broker.apps()
        assert len(apps) == 90
        assert list(apps[0].paths) == paths
        assert not apps[-1].paths


# -- watching


async def test_watch_shows_what_happens_and_ends_with_the_broker() -> None:
    async with running_broker() as broker, broker.watching() as watch:
        async with attached(broker.runtime_directory, "a"):
            assert (await watch.until("app_registered")).app == "a"
        assert (await watch.until("app_left")).app == "a"
        assert await broker.terminate() == 0
        assert await HoldCall(watch.call).ending() == (Code.UNAVAILABLE, "the broker stops")


async def test_watcher_that_hangs_up_makes_room() -> None:
    async with running_broker() as broker, AsyncExitStack() as stack:
        for _ in range(WATCHERS_LIMIT - 1):
            await stack.enter_async_context(broker.watching())
        async with broker.watching() as last:
            call = broker.admin.WatchEvents(admin_pb2.WatchEventsRequest())
            assert await HoldCall(call).ending() == (
                Code.RESOURCE_EXHAUSTED,
                f"{WATCHERS_LIMIT} watchers are there already",
            )
            last.call.cancel()
        # The broker sees the end of the cancelled call soon; each refused call is another look.
        async with asyncio.timeout(BOUND):
            while True:
                call = broker.admin.WatchEvents(admin_pb2.WatchEventsRequest())
                if await call.initial_metadata() is not None and not call.done():
                    break
        call.cancel()


@asynccontextmanager
async def admin_alone(directory: Path, view: Any, watchers: Watchers, limit: timedelta) -> AsyncIterator[Any]:
    """`AdminService` behind a real socket, in this event loop; gives a stub."""
    server = grpc.aio.server(options=contract.SERVER_OPTIONS)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(view, watchers, limit), server)
    server.add_insecure_port(f"unix:{directory}/a.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{directory}/a.sock") as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)
    await server.stop(0)


async def test_watcher_that_reads_too_slowly_is_told(directory: Path) -> None:
    watchers = Watchers()
    async with admin_alone(directory, None, watchers, timedelta(seconds=1)) as stub:
        call = stub.WatchEvents(admin_pb2.WatchEventsRequest())
        await call.initial_metadata()
        assert len(watchers) == 1
        for number in range(QUEUE_LIMIT + 1):  # without one turn of the loop: nothing can be read meanwhile
            watchers.publish(types_pb2.Event(kind=str(number)))
        code, sentence = await HoldCall(call).ending()
        assert (code, sentence) == (Code.RESOURCE_EXHAUSTED, "events were not read fast enough and are missing")
        assert len(watchers) == 0


class NeverThawed:
    """A view whose apps never confirm."""

    def __init__(self) -> None:
        self.was_cancelled = False

    async def force_thaw(self, reason: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            self.was_cancelled = True
        return reason


async def test_forced_thaw_that_is_not_confirmed_in_time(directory: Path) -> None:
    view = NeverThawed()
    async with admin_alone(directory, view, Watchers(), timedelta(milliseconds=30)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ForceThaw(admin_pb2.ForceThawRequest(), timeout=BOUND)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        assert caught.value.details() == "not every app has confirmed the thaw within 30.0ms"
        assert view.was_cancelled


# -- forced thaw


async def test_forced_thaw_when_nothing_runs() -> None:
    async with running_broker() as broker:
        assert await broker.force_thaw("just so") == ""


async def test_forced_thaw_in_mid_hold_lowers_the_verdict() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker)
        await app.freeze()
        held = await hold.held()
        thawing = asyncio.create_task(broker.force_thaw("it takes\ntoo long"))
        abort = await app.thaw("abort")
        assert abort.reason == "an administrator forced the thaw: it takes too long"
        assert await thawing == held.cycle
        verdict = await hold.verdict()
        assert verdict.level == types_pb2.LEVEL_CRASH
        assert verdict.reasons[0] == "an administrator forced the thaw: it takes too long"
        assert (await hold.ending())[0] is Code.OK
        assert (await broker.status()).phase == types_pb2.PHASE_ABORTED
