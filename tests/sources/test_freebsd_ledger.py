"""What is asked, until when, and what is written for an answer; no device and no clock."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.model.instant import Instant
from appvss.model.request import Request, RequestKind
from appvss.sources.device_thread import Silence
from appvss.sources.freebsd.ledger import MOST_OPEN, Ledger
from appvss.sources.freebsd.settings import FreebsdSettings
from appvss.sources.wire.freebsd import Message, Operation

NOW = Instant(timedelta(hours=5))
WALL = timedelta(days=20_000, microseconds=123_456)
"""A wall clock's reading in 2024."""
LATEST = timedelta(seconds=14.5)
"""What a request that has just come in may take: the driver's 15 s without the last half second."""
SETTINGS = FreebsdSettings(filesystem_reserve=timedelta(seconds=4), hold_limit=timedelta(seconds=40))


def message(operation: Operation, age: timedelta = timedelta(0), status: int = 0) -> Message:
    """As the driver hands it out `age` after the host's request came in."""
    return Message(operation, status, (WALL - age) // timedelta(microseconds=1) * 1000)


def admitted(ledger: Ledger, told: Message, now: Instant = NOW, wall: timedelta = WALL) -> Request:
    request = ledger.admit(told, now, wall)
    assert isinstance(request, Request), request
    return request


@pytest.mark.parametrize(
    ("operation", "kind", "reserve", "hold_limit"),
    [
        (Operation.CHECK, RequestKind.CHECK, timedelta(seconds=1), timedelta(0)),
        (Operation.FREEZE, RequestKind.FREEZE, timedelta(seconds=4), timedelta(seconds=40)),
        (Operation.THAW, RequestKind.THAW, timedelta(0), timedelta(0)),
    ],
)
def test_a_message_becomes_a_request(
    operation: Operation, kind: RequestKind, reserve: timedelta, hold_limit: timedelta
) -> None:
    told = message(operation)
    assert Ledger(SETTINGS).admit(told, NOW, WALL) == Request(
        id=str(told.msgid),
        source="freebsd",
        kind=kind,
        requester="Hyper-V host",
        deadline=NOW + LATEST,
        reserve=reserve,
        hold_limit=hold_limit,
        supersedes=True,
    )


def test_a_check_leaves_the_file_systems_no_more_than_a_freeze_does() -> None:
    ledger = Ledger(FreebsdSettings(filesystem_reserve=timedelta(milliseconds=200)))
    assert admitted(ledger, message(Operation.CHECK)).reserve == timedelta(milliseconds=200)


@pytest.mark.parametrize(
    ("budget", "age", "left"),
    [
        (timedelta(seconds=15), timedelta(0), timedelta(seconds=14.5)),
        (timedelta(seconds=15), timedelta(seconds=3), timedelta(seconds=11.5)),
        (timedelta(seconds=15), timedelta(seconds=14.499), timedelta(milliseconds=1)),
        (timedelta(seconds=15), timedelta(days=-1), timedelta(seconds=14.5)),
        (timedelta(seconds=8), timedelta(0), timedelta(seconds=7.5)),
        (timedelta(seconds=8), timedelta(seconds=7), timedelta(seconds=0.5)),
        (timedelta(seconds=8), timedelta(days=-1), timedelta(seconds=7.5)),
    ],
)
def test_the_deadline_counts_what_is_gone(budget: timedelta, age: timedelta, left: timedelta) -> None:
    ledger = Ledger(FreebsdSettings(budget=budget))
    assert admitted(ledger, message(Operation.FREEZE, age)).deadline == NOW + left


@pytest.mark.parametrize("operation", [Operation.CHECK, Operation.FREEZE])
@pytest.mark.parametrize("age", [timedelta(seconds=14.5), timedelta(seconds=15), timedelta(days=400)])
def test_what_can_no_more_be_answered_is_not_asked(operation: Operation, age: timedelta) -> None:
    ledger, told = Ledger(SETTINGS), message(operation, age)
    silence = ledger.admit(told, NOW, WALL)
    assert isinstance(silence, Silence)
    assert silence.reason == f"{operation.name.lower()} {told.msgid} came too late to be answered within 15.0s"
    assert isinstance(ledger.settle(str(told.msgid), go_on=True, now=NOW), Silence)


def test_a_late_thaw_is_asked_and_not_answered() -> None:
    ledger, told = Ledger(SETTINGS), message(Operation.THAW, timedelta(seconds=20))
    request = admitted(ledger, told)
    assert (request.kind, request.deadline) == (RequestKind.THAW, NOW)
    assert ledger.settle(request.id, go_on=True, now=NOW) == Silence("the answer comes 0.0ms after the deadline")


@pytest.mark.parametrize(("go_on", "status"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("operation", [Operation.CHECK, Operation.FREEZE, Operation.THAW])
def test_an_answer_is_the_message_with_its_status(operation: Operation, go_on: bool, status: int) -> None:
    ledger, told = Ledger(SETTINGS), message(operation)
    request = admitted(ledger, told)
    just_in_time = request.deadline - timedelta.resolution
    assert ledger.settle(request.id, go_on=go_on, now=just_in_time) == Message(operation, status, told.msgid)


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (timedelta(0), "the answer comes 0.0ms after the deadline"),
        (timedelta(seconds=2), "the answer comes 2.0s after the deadline"),
    ],
)
def test_no_answer_from_the_last_half_second_on(late: timedelta, reason: str) -> None:
    ledger = Ledger(SETTINGS)
    request = admitted(ledger, message(Operation.FREEZE))
    assert ledger.settle(request.id, go_on=True, now=request.deadline + late) == Silence(reason)


def test_a_request_is_answered_once() -> None:
    ledger = Ledger(SETTINGS)
    request = admitted(ledger, message(Operation.FREEZE))
    assert isinstance(ledger.settle(request.id, go_on=True, now=NOW), Message)
    assert isinstance(ledger.settle(request.id, go_on=False, now=NOW), Silence)


def test_a_second_answer_does_not_follow_a_late_one() -> None:
    ledger = Ledger(SETTINGS)
    request = admitted(ledger, message(Operation.FREEZE))
    ledger.settle(request.id, go_on=True, now=request.deadline)
    assert isinstance(ledger.settle(request.id, go_on=True, now=NOW), Silence)


def test_an_unknown_request_is_not_answered() -> None:
    assert isinstance(Ledger(SETTINGS).settle("4711", go_on=True, now=NOW), Silence)


def test_the_same_message_is_asked_once_while_open_and_again_afterwards() -> None:
    ledger, told = Ledger(SETTINGS), message(Operation.CHECK)
    request = admitted(ledger, told)
    assert ledger.admit(told, NOW, WALL) == Silence(f"check {told.msgid} came a second time while it is open")
    assert isinstance(ledger.settle(request.id, go_on=True, now=NOW), Message)
    assert admitted(ledger, told) == request


def test_requests_without_an_answer_do_not_pile_up() -> None:
    ledger = Ledger(SETTINGS)
    messages = [message(Operation.FREEZE, timedelta(microseconds=count)) for count in range(MOST_OPEN + 1)]
    for told in messages[:-1]:
        admitted(ledger, told)
    refused = ledger.admit(messages[-1], NOW, WALL)
    assert isinstance(refused, Silence)
    assert f"{MOST_OPEN} others are open" in refused.reason
    later = NOW + LATEST
    assert admitted(ledger, messages[-1], later).deadline > later
    assert isinstance(ledger.settle(str(messages[0].msgid), go_on=True, now=later), Silence)


@given(
    msgid=st.integers(0, 2**64 - 1),
    wall=st.timedeltas(timedelta(0), timedelta(days=200_000)),
    operation=st.sampled_from([Operation.CHECK, Operation.FREEZE, Operation.THAW]),
    milliseconds=st.integers(501, 15_000),
)
def test_no_wall_clock_makes_a_deadline_outside_the_budget(
    msgid: int, wall: timedelta, operation: Operation, milliseconds: int
) -> None:
    budget = timedelta(milliseconds=milliseconds)
    ledger = Ledger(FreebsdSettings(budget=budget, filesystem_reserve=timedelta(0)))
    asked = ledger.admit(Message(operation, 0, msgid), NOW, wall)
    if isinstance(asked, Silence):
        assert operation is not Operation.THAW
        assert wall - timedelta(microseconds=msgid // 1000) >= budget - timedelta(milliseconds=500)
    else:
        assert NOW <= asked.deadline <= NOW + budget - timedelta(milliseconds=500)
