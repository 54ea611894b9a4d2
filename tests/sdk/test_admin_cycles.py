"""What the administrator's client tells of cycles, of their history, of rehearsals and of the policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from appvss.model.errors import BrokerRefused, CycleBusy, CycleUnknown
from appvss.model.policy import PolicyValue
from appvss.model.verdict import Level, Outcome
from appvss.sdk.admin import AdminClient
from appvss.sdk.admin_values import HistoryStatus, RestoredMachine
from appvss.v1 import admin_pb2, types_pb2
from tests.sdk.broker_peer import (
    BOUND,
    GOOD,
    TIME,
    BrokerPeer,
    broker_peer,
    event,
    past,
    reached,
    rehearsal,
    restored,
    summary,
)
from tests.sdk.test_admin import ask, refusal


@pytest.fixture
async def peer() -> AsyncIterator[BrokerPeer]:
    async with broker_peer() as peer:
        yield peer


async def test_limit_and_since_reach_the_broker(peer: BrokerPeer) -> None:
    since = datetime(2026, 3, 4, 7, 0, tzinfo=UTC)
    cycles = await ask(peer, lambda client: client.cycles(7))
    assert [cycle.cycle for cycle in cycles] == ["c-1"]
    assert await ask(peer, lambda client: client.cycles(since=since)) == ()
    assert (peer.limits, peer.sinces) == ([7, 0], [None, since])


async def test_a_since_that_the_broker_does_not_take(peer: BrokerPeer) -> None:
    peer.failure = (grpc.StatusCode.INVALID_ARGUMENT, "since is in the future")
    error = await refusal(peer, lambda client: client.cycles(since=datetime.now(UTC)))
    assert isinstance(error, BrokerRefused)
    assert "since is in the future" in error.sentence


async def test_one_cycle_has_its_events_and_its_certificate(peer: BrokerPeer) -> None:
    peer.details["c-1"] = admin_pb2.GetCycleResponse(
        summary=summary(GOOD), events=[event("cycle_began", cycle="c-1")], certificate='{\n "cycle": "c-1"\n}\n'
    )
    detail = await ask(peer, lambda client: client.cycle("c-1"))
    assert (detail.summary.cycle, [event.kind for event in detail.events]) == ("c-1", ["cycle_began"])
    assert detail.certificate == '{\n "cycle": "c-1"\n}\n'
    assert not detail.summary.rehearses


async def test_a_cycle_that_nobody_knows(peer: BrokerPeer) -> None:
    error = await refusal(peer, lambda client: client.cycle("c-9"))
    assert isinstance(error, CycleUnknown)
    assert "c-9" in error.sentence
    assert "appvss history" in error.hint


async def test_a_time_that_no_calendar_has_is_named(peer: BrokerPeer) -> None:
    peer.cycles[0].time.seconds = 2**62
    error = await refusal(peer, AdminClient.cycles)
    assert isinstance(error, BrokerRefused)
    assert "out of range" in error.sentence


async def test_a_rehearsal_has_its_verdict_and_its_times(peer: BrokerPeer) -> None:
    peer.rehearsals = [rehearsal()]
    done = await ask(peer, lambda client: client.rehearse("a \x1btest", timedelta(seconds=9)))
    assert (done.summary.verdict.level, done.summary.rehearses) == (Level.APPLICATION, True)
    assert (done.time_to_prepare, done.time_to_freeze) == (timedelta(milliseconds=30), timedelta(milliseconds=12))
    (request,) = peer.rehearsed
    assert (request.requester, request.freeze_budget.seconds) == ("a ?test", 9)


async def test_a_rehearsal_without_a_budget_leaves_it_to_the_broker(peer: BrokerPeer) -> None:
    answer = rehearsal()
    answer.ClearField("time_to_prepare")
    peer.rehearsals = [answer]
    done = await ask(peer, lambda client: client.rehearse("a test"))
    assert done.time_to_prepare is None
    assert not peer.rehearsed[0].HasField("freeze_budget")


async def test_a_rehearsal_while_another_cycle_is_under_way(peer: BrokerPeer) -> None:
    peer.rehearsals = [(grpc.StatusCode.ABORTED, "cycle c-7 is under way (holding)")]
    error = await refusal(peer, lambda client: client.rehearse("a test"))
    assert isinstance(error, CycleBusy)
    assert "c-7" in error.sentence


async def test_a_rehearsal_ends_with_its_client(peer: BrokerPeer) -> None:
    client = AdminClient(peer.directory)
    asking = asyncio.create_task(asyncio.to_thread(client.rehearse, "a test"), name="rehearse")
    await reached(peer.rehearsing)
    client.close()
    with pytest.raises(Exception, match="ended the call"):
        await asyncio.wait_for(asking, BOUND)
    await reached(peer.broken)


async def test_status_tells_of_history_policy_restoration_and_hold(peer: BrokerPeer) -> None:
    peer.status.restored.CopyFrom(restored())
    peer.status.apps_set_aside.append("web\x1b")
    status = await ask(peer, AdminClient.status)
    assert status.history == HistoryStatus("/var/lib/appvss", "keeping", "", 12, 0)
    assert status.policy[1] == PolicyValue("cycle.thaw_limit", '"5s"', "built-in")
    assert status.restored == RestoredMachine("c-0", "freebsd", "hyper-v host", TIME, "held", "{}")
    assert status.apps_set_aside == ("web?",)
    assert (status.held_for, status.hold_left) == (timedelta(seconds=1.5), timedelta(seconds=58.5))
    freebsd, local = status.sources
    assert (freebsd.budget, freebsd.reserve, freebsd.hold_limit, freebsd.overlap) == (
        timedelta(seconds=15),
        timedelta(seconds=5),
        timedelta(seconds=60),
        "queue",
    )
    assert local.reserve == timedelta(0)


async def test_a_broker_that_says_less_is_understood(peer: BrokerPeer) -> None:
    for field in ("history", "policy", "held_for", "hold_left"):
        peer.status.ClearField(field)
    for field in ("budget", "reserve", "hold_limit", "overlap"):
        peer.status.sources[0].ClearField(field)
    status = await ask(peer, AdminClient.status)
    assert (status.history.condition, status.policy, status.restored) == ("", (), None)
    assert (status.held_for, status.hold_left) == (None, None)
    assert (status.sources[0].budget, status.sources[0].hold_limit, status.sources[0].overlap) == (None, None, "")


async def test_an_app_with_its_past(peer: BrokerPeer) -> None:
    peer.apps[0].past.append(past("c-old", types_pb2.Outcome.ValueType(99), "of a newer version"))
    first, second = await ask(peer, AdminClient.apps)
    assert [(one.cycle, one.outcome, one.reason) for one in first.past] == [
        ("c-1", Outcome.HELD, ""),
        ("c-0", Outcome.TIMED_OUT, "no ack within 2.0s"),
        ("c-old", Outcome.HOLD_LOST, "of a newer version"),
    ]
    assert (first.refused_messages, first.registrations, first.watch_paths) == (3, 2, True)
    assert first.policy == (PolicyValue("order", "10", 'apps.policy "orders-*"'),)
    assert (second.last_error_ago, second.failures_in_row, second.set_aside) == (timedelta(hours=3), 4, "")
