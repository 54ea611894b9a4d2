"""Local requesters and their holds, against the real broker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from appvss import contract
from appvss.delivery.requester_service import RequesterService
from appvss.model.app import AppId
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice
from appvss.model.verdict import Verdict
from appvss.v1 import admin_pb2, app_pb2, requester_pb2, requester_pb2_grpc, types_pb2
from tests.support.app_process import app_process
from tests.support.holds import FINISH, HoldCall, begin
from tests.support.raw_app import attached
from tests.support.running_broker import BOUND, QUIET, ROOT, RunningBroker, running_broker

Code = grpc.StatusCode


async def refused(broker: RunningBroker, *messages: requester_pb2.HoldRequest) -> tuple[grpc.StatusCode, str]:
    hold = HoldCall(broker.hold())
    for message in messages:
        await hold.say(message)
    if not messages:
        await hold.hang_up()
    return await hold.ending()


async def test_hold_from_begin_to_verdict() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a", prepares=True) as app:
        hold = await HoldCall.begin(
            broker, "nightly\x1b[2J", freeze_budget=timedelta(seconds=9), hold_limit=timedelta(seconds=8)
        )
        prepare = await app.hear("prepare")
        assert prepare.requester == "nightly?[2J"
        await app.say(ready=app_pb2.Ready(cycle=prepare.cycle))
        freeze = await app.hear("freeze")
        assert freeze.cycle == prepare.cycle
        assert timedelta(0) < freeze.budget.ToTimedelta() < timedelta(seconds=9)
        await app.say(frozen=app_pb2.Frozen(cycle=freeze.cycle, evidence={"lsn": "0/1"}))
        held = await hold.held()
        assert (held.cycle, held.hold_limit.ToTimedelta()) == (freeze.cycle, timedelta(seconds=8))
        status = await broker.status()
        assert (status.phase, status.cycle) == (types_pb2.PHASE_HOLDING, held.cycle)
        assert (await broker.apps())[0].state == "held"
        await hold.finish()
        await app.thaw()
        verdict = await hold.verdict()
        assert (verdict.level, list(verdict.reasons)) == (types_pb2.LEVEL_APPLICATION, [])
        (outcome,) = verdict.outcomes
        assert (outcome.outcome, dict(outcome.evidence)) == (types_pb2.OUTCOME_HELD, {"lsn": "0/1"})
        assert await hold.ending() == (Code.OK, "")


async def test_app_that_is_away_in_a_hold_is_still_listed() -> None:
    async with (
        running_broker() as broker,
        attached(broker.runtime_directory, "a") as app,
        broker.watching() as watch,
    ):
        hold = await HoldCall.begin(broker)
        await app.freeze()
        await hold.held()
        await app.close()
        await watch.until("app_left", app="a")
        (listed,) = await broker.apps()
        assert (listed.name, listed.state) == ("a", "away")
        hold.cancel()


async def test_hold_while_another_cycle_runs() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker, "the first")
        await app.freeze()
        held = await hold.held()
        code, sentence = await refused(broker, begin("the second"))
        assert code is Code.ABORTED
        assert sentence == f"cycle {held.cycle} of the first is under way (holding)"
        await hold.finish()
        await app.thaw()
        assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION


async def test_veto_fails_the_hold_with_a_verdict() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker)
        freeze = await app.hear("freeze")
        await app.say(veto=app_pb2.Veto(cycle=freeze.cycle, reason="a deployment is running", retryable=True))
        verdict = await hold.verdict()
        assert verdict.level == types_pb2.LEVEL_FAILED
        assert verdict.outcomes[0].retryable
        assert await hold.ending() == (Code.OK, "")


async def test_hold_limit_ends_the_hold() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker, hold_limit=timedelta(milliseconds=50))
        await app.freeze()
        assert (await hold.held()).hold_limit.ToTimedelta() == timedelta(milliseconds=50)
        await app.thaw("abort")
        verdict = await hold.verdict()
        assert verdict.level == types_pb2.LEVEL_CRASH
        assert verdict.reasons[0] == "the hold limit of 50.0ms passed before the thaw came"


@pytest.mark.parametrize("how", ["cancelled", "half-closed", "begin twice"])
async def test_call_that_ends_without_a_finish_ends_the_hold(how: str) -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker)
        await app.freeze()
        await hold.held()
        if how == "cancelled":
            hold.cancel()
        elif how == "half-closed":
            await hold.hang_up()
        else:
            await hold.say(begin())
        abort = await app.thaw("abort")
        assert abort.reason.startswith("a test is gone: it")
        if how != "cancelled":
            verdict = await hold.verdict()
            assert verdict.level == types_pb2.LEVEL_CRASH
            assert await hold.ending() == (Code.OK, "")


@pytest.mark.parametrize("how", ["cancelled", "half-closed", "finished"])
async def test_call_that_ends_while_apps_freeze_ends_that(how: str) -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker)
        freeze = await app.hear("freeze")
        if how == "cancelled":
            hold.cancel()
        elif how == "half-closed":
            await hold.hang_up()
        else:
            await hold.finish()
        abort = await app.thaw("abort")
        assert abort.cycle == freeze.cycle
        if how == "half-closed":
            assert await hold.ending() == (Code.CANCELLED, "the requester is gone: it hung up without a finish")
        elif how == "finished":
            assert (await hold.verdict()).level == types_pb2.LEVEL_FAILED
        async with asyncio.timeout(BOUND):
            while (await broker.status()).phase != types_pb2.PHASE_ABORTED:
                pass


async def test_requester_that_is_killed_in_mid_hold() -> None:
    async with running_broker() as broker, app_process(broker.runtime_directory, "a") as app:
        await app.line("welcome")
        requester = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from appvss.cli.main import main; main()",
            "freeze",
            "--runtime-directory",
            str(broker.runtime_directory),
            "--",
            "sh",
            "-c",
            "echo $PPID; exec cat",
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await app.line("freeze")
            assert requester.stdout is not None
            async with asyncio.timeout(BOUND):
                assert int(await requester.stdout.readline()) > 0  # its command runs: everything is held
            requester.kill()
            await app.line("abort")
            (cycle,) = [cycle async for cycle in ended_cycles(broker)]
            assert cycle.verdict.level == types_pb2.LEVEL_CRASH
            assert "is gone" in cycle.verdict.reasons[0]
        finally:
            assert requester.stdin is not None
            requester.stdin.close()
            await requester.communicate()


async def ended_cycles(broker: RunningBroker) -> AsyncIterator[admin_pb2.CycleSummary]:
    """The cycles, as soon as none runs."""
    async with asyncio.timeout(BOUND):
        while (await broker.status()).cycle:
            pass
    for cycle in await broker.cycles():
        yield cycle


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (FINISH, "the first message is not begin"),
        (requester_pb2.HoldRequest(), "the first message is not begin"),
        (begin(hold_limit=timedelta(0)), "hold_limit is 0.0 s"),
        (begin(freeze_budget=timedelta(seconds=-1)), "freeze_budget is -1.0 s"),
        (begin(hold_limit=timedelta(minutes=6)), "hold_limit of 6m00s is over the configured 5m00s"),
        (begin(freeze_budget=timedelta(seconds=31)), "freeze_budget of 31.0s is over the configured 30.0s"),
        (
            requester_pb2.HoldRequest(begin=requester_pb2.Begin(hold_limit=Duration(seconds=1 << 60))),
            "a duration of 1152921504606846976 s is out of range",
        ),
    ],
)
async def test_wrong_begin(shared_broker: RunningBroker, message: requester_pb2.HoldRequest, sentence: str) -> None:
    assert await refused(shared_broker, message) == (Code.INVALID_ARGUMENT, sentence)


@pytest.fixture
async def shared_broker() -> AsyncIterator[RunningBroker]:
    async with running_broker() as broker:
        yield broker


@pytest.mark.parametrize("is_first", [True, False])
async def test_bytes_that_are_no_message(is_first: bool) -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        call: Any = broker.channel().stream_stream("/appvss.v1.RequesterService/Hold")()
        if is_first:
            await call.write(b"\xff\xff")
            assert await HoldCall(call).ending() == (Code.INVALID_ARGUMENT, "the first message is not begin")
            return
        await call.write(begin().SerializeToString())
        await app.freeze()
        await call.read()
        await call.write(b"\xff\xff")
        assert (await app.thaw("abort")).reason == "a test is gone: it said something but finish"
        ended = requester_pb2.HoldResponse.FromString(await call.read()).ended
        assert ended.verdict.level == types_pb2.LEVEL_CRASH


async def test_no_word_at_all(shared_broker: RunningBroker) -> None:
    assert (await refused(shared_broker))[0] is Code.INVALID_ARGUMENT


async def test_time_too_short_for_anything_fails_with_a_verdict(shared_broker: RunningBroker) -> None:
    hold = await HoldCall.begin(shared_broker, freeze_budget=timedelta(milliseconds=50))
    verdict = await hold.verdict()
    assert verdict.level == types_pb2.LEVEL_FAILED


async def test_local_requests_are_switched_off() -> None:
    async with running_broker(QUIET + '[sources.local]\nmode = "off"\n') as broker:
        code, sentence = await refused(broker, begin())
        assert (code, sentence) == (Code.PERMISSION_DENIED, "local requests are switched off")
        assert {source.name: source.condition for source in (await broker.status()).sources}["local"] == "off"


class Silent:
    """A hold that nothing ever happens to."""

    cycle = ""
    hold_limit = timedelta(seconds=1)

    def __init__(self) -> None:
        self.abandoned: asyncio.Queue[str] = asyncio.Queue()

    async def held(self) -> bool:
        return await asyncio.Event().wait()

    async def ended(self) -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError

    def finish(self) -> None:
        raise AssertionError

    def abandon(self, reason: str) -> None:
        self.abandoned.put_nowait(reason)

    def begin(self, *wanted: object) -> Silent:
        self.wanted = wanted
        return self

    async def freeze(self, *wanted: object) -> Silent:
        raise AssertionError(wanted)

    async def thaw(self) -> None:
        raise AssertionError

    async def apart(self, choice: FilesystemChoice) -> frozenset[AppId]:
        return frozenset({AppId(f"far-from-{choice.scope}")})

    async def rehearsed(self, cycle: str) -> requester_pb2.RehearseResponse:
        raise AssertionError(cycle)


async def test_broker_that_stops_ends_the_call_and_abandons_the_hold(directory: Path) -> None:
    silent = Silent()
    server = grpc.aio.server(options=contract.SERVER_OPTIONS)
    service = RequesterService(silent, silent, silent, silent.rehearsed, silent.apart)
    requester_pb2_grpc.add_RequesterServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{directory}/a.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{directory}/a.sock") as channel:
        stub: Any = requester_pb2_grpc.RequesterServiceStub(channel)
        hold = HoldCall(stub.Hold())
        await hold.say(begin())
        await hold.say(begin())
        async with asyncio.timeout(BOUND):
            assert await silent.abandoned.get() == "it said something but finish"
            assert silent.wanted[-2:] == (NO_FILESYSTEMS, frozenset({AppId("far-from-none")}))
            await server.stop(0)
            assert (await hold.ending())[0] is Code.UNAVAILABLE
            assert await silent.abandoned.get() == "its call ended"
