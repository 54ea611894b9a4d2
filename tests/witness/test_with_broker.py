"""The whole way: an app asks to be watched, lies or does not, and the verdict says so before it is thawed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from appvss.v1 import requester_pb2, types_pb2
from tests.support.raw_app import BOUND, RawApp, attached
from tests.support.running_broker import RunningBroker, running_broker


async def held(broker: RunningBroker, *apps: RawApp) -> Any:
    """A freeze, agreed to by all; the call, in its hold."""
    call = broker.hold()
    await call.write(requester_pb2.HoldRequest(begin=requester_pb2.Begin(requester="the test")))
    async with asyncio.TaskGroup() as tasks:
        for app in apps:
            tasks.create_task(app.freeze())
    async with asyncio.timeout(BOUND):
        assert (await call.read()).HasField("held")
    return call


async def verdict(call: Any, *apps: RawApp) -> types_pb2.Verdict:
    """The thaw, with a good word of every app about its hold; what the requester is told."""
    await call.write(requester_pb2.HoldRequest(finish=requester_pb2.Finish()))
    async with asyncio.TaskGroup() as tasks:
        for app in apps:
            tasks.create_task(app.thaw())
    async with asyncio.timeout(BOUND):
        ended = (await call.read()).ended
    assert isinstance(ended.verdict, types_pb2.Verdict)
    return ended.verdict


async def test_a_lie_lowers_the_verdict_and_names_the_file(tmp_path: Path) -> None:
    file, other = tmp_path / "orders.db", tmp_path / "other.db"
    for path in (file, other):
        path.write_bytes(b"1")
    async with (
        running_broker() as broker,
        attached(broker.runtime_directory, "liar", paths=[str(file)], watch_paths=True) as liar,
        attached(broker.runtime_directory, "honest", paths=[str(other)], watch_paths=True) as honest,
    ):
        call = await held(broker, liar, honest)
        file.write_bytes(b"22")
        said = await verdict(call, liar, honest)
        assert said.level != types_pb2.LEVEL_APPLICATION
        found = {outcome.name: (outcome.outcome, outcome.reason) for outcome in said.outcomes}
        assert found["honest"] == (types_pb2.OUTCOME_HELD, "")
        sentence = f"its files changed while it was held: {file} (size 1 -> 2)"
        assert found["liar"] == (types_pb2.OUTCOME_HOLD_LOST, sentence)
        assert any(sentence in reason for reason in said.reasons)


async def test_who_does_not_ask_is_not_watched_and_who_keeps_its_word_holds(tmp_path: Path) -> None:
    file, other = tmp_path / "orders.db", tmp_path / "other.db"
    for path in (file, other):
        path.write_bytes(b"1")
    paths = [str(other), str(tmp_path / "nowhere")]
    async with (
        running_broker() as broker,
        attached(broker.runtime_directory, "unwatched", paths=[str(file)]) as unwatched,
        attached(broker.runtime_directory, "honest", paths=paths, watch_paths=True) as honest,
    ):
        call = await held(broker, unwatched, honest)
        file.write_bytes(b"22")
        said = await verdict(call, unwatched, honest)
        assert [outcome.outcome for outcome in said.outcomes] == [types_pb2.OUTCOME_HELD] * 2


async def test_paths_that_nobody_can_inspect_are_a_doubt(tmp_path: Path) -> None:
    async with (
        running_broker() as broker,
        attached(broker.runtime_directory, "a", paths=[str(tmp_path / "nowhere")], watch_paths=True) as app,
    ):
        call = await held(broker, app)
        (outcome,) = (await verdict(call, app)).outcomes
        assert outcome.outcome == types_pb2.OUTCOME_HOLD_LOST
        assert outcome.reason.startswith("its paths could not be inspected: nothing lies at")
