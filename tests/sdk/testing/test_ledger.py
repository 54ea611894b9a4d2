"""The fake broker refuses what app.proto refuses."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.model.app import HoldClaim
from appvss.model.errors import MessageInvalid
from appvss.model.instant import Instant
from appvss.sdk.testing.ledger import Kind, Ledger
from appvss.sdk.testing.results import FreezeResult, PrepareResult, ThawResult
from appvss.v1 import app_pb2
from appvss.v1.app_pb2 import AttachRequest

START = Instant(timedelta(hours=1))
SECOND = timedelta(seconds=1)
BUDGET = 2 * SECOND

READY = AttachRequest(ready=app_pb2.Ready(cycle="c"))
FROZEN = AttachRequest(frozen=app_pb2.Frozen(cycle="c", evidence={"lsn": "7"}))
VETO = AttachRequest(veto=app_pb2.Veto(cycle="c", reason="no", retryable=True))
THAWED = AttachRequest(thawed=app_pb2.Thawed(cycle="c", unbroken=True))
LOST = AttachRequest(hold_lost=app_pb2.HoldLost(cycle="c", reason="gone"))


def refusal(ledger: Ledger, message: AttachRequest, after: timedelta = SECOND) -> str | None:
    refused = ledger.hear(message, START + after)
    return refused.name if refused is not None else None


@pytest.mark.parametrize("message", [READY, FROZEN, VETO, THAWED])
def test_an_answer_before_any_question_is_refused(message: AttachRequest) -> None:
    ledger = Ledger()
    assert refusal(ledger, message) == "ack_before_asked"
    assert [each.name for each in ledger.refusals] == ["ack_before_asked"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Kind.PREPARE, READY), (Kind.FREEZE, FROZEN), (Kind.FREEZE, VETO), (Kind.PREPARE, VETO), (Kind.THAW, THAWED)],
)
def test_an_answer_is_taken_once_and_only_for_its_cycle(kind: Kind, message: AttachRequest) -> None:
    ledger = Ledger()
    other = ledger.ask(kind, "d", START, BUDGET)
    assert refusal(ledger, message) == "ack_for_other_cycle"
    assert other.is_open
    question = ledger.ask(kind, "c", START, BUDGET)
    assert refusal(ledger, message) is None
    assert not question.is_open
    assert refusal(ledger, message) == "ack_twice"


def test_results_say_what_was_answered() -> None:
    ledger = Ledger()
    prepare = ledger.ask(Kind.PREPARE, "c", START, BUDGET)
    ledger.hear(READY, START + SECOND)
    freeze = ledger.ask(Kind.FREEZE, "c", START, BUDGET)
    ledger.hear(FROZEN, START + SECOND)
    assert ledger.held == "c"
    thaw = ledger.ask(Kind.THAW, "c", START)
    ledger.hear(THAWED, START + SECOND)
    assert ledger.held == ""
    vetoed = ledger.ask(Kind.FREEZE, "c", START, BUDGET)
    ledger.hear(VETO, START + SECOND)
    assert prepare.result == PrepareResult(True, "", False, SECOND)
    assert freeze.result == FreezeResult(True, "", False, SECOND, {"lsn": "7"})
    assert thaw.result == ThawResult(True, "", SECOND)
    assert vetoed.result == FreezeResult(False, "no", True, SECOND)


@pytest.mark.parametrize(("kind", "message"), [(Kind.PREPARE, READY), (Kind.FREEZE, FROZEN)])
def test_an_ack_after_its_budget_counts_as_none_and_the_veto_is_still_taken(kind: Kind, message: AttachRequest) -> None:
    ledger = Ledger()
    question = ledger.ask(kind, "c", START, BUDGET)
    assert refusal(ledger, message, BUDGET + timedelta(microseconds=1)) == "ack_too_late"
    assert question.is_open
    assert ledger.held == ""
    assert refusal(ledger, VETO, 2 * BUDGET) is None
    in_time = ledger.ask(kind, "c", START, BUDGET)
    assert refusal(ledger, message, BUDGET) is None
    assert not in_time.is_open


def test_frozen_after_a_thaw_is_too_late_and_a_veto_is_not() -> None:
    ledger = Ledger()
    question = ledger.ask(Kind.FREEZE, "c", START, BUDGET)
    ledger.ask(Kind.THAW, "c", START)
    assert refusal(ledger, FROZEN) == "ack_too_late"
    assert ledger.held == ""
    assert refusal(ledger, VETO) is None
    assert not question.is_open
    assert refusal(ledger, THAWED) is None


def test_a_thaw_that_is_asked_twice_is_answered_twice() -> None:
    ledger = Ledger()
    first, second = ledger.ask(Kind.THAW, "c", START), ledger.ask(Kind.THAW, "c", START)
    assert refusal(ledger, THAWED) is None
    assert (first.is_open, second.is_open) == (False, True)
    assert refusal(ledger, THAWED) is None
    assert refusal(ledger, THAWED) == "ack_twice"


def test_only_a_hold_can_be_lost_and_only_once() -> None:
    ledger = Ledger()
    assert refusal(ledger, LOST) == "ack_for_other_cycle"
    ledger.ask(Kind.FREEZE, "c", START, BUDGET)
    assert refusal(ledger, LOST) == "ack_for_other_cycle"
    ledger.hear(FROZEN, START)
    assert refusal(ledger, LOST) is None
    assert (ledger.held, ledger.losses) == ("", {"c": "gone"})
    assert refusal(ledger, LOST) == "ack_twice"


def test_a_claimed_hold_can_be_lost() -> None:
    ledger = Ledger()
    ledger.claim(HoldClaim("c", SECOND))
    assert ledger.held == "c"
    assert refusal(ledger, LOST) is None


def test_what_was_asked_on_a_broken_stream_stays_unanswered() -> None:
    ledger = Ledger()
    answered, open_ = ledger.ask(Kind.FREEZE, "c", START, BUDGET), ledger.ask(Kind.THAW, "d", START)
    ledger.hear(FROZEN, START)
    ledger.break_off()
    assert (answered.broken, open_.broken) == (False, True)
    assert refusal(ledger, AttachRequest(thawed=app_pb2.Thawed(cycle="d"))) == "ack_twice"


@pytest.mark.parametrize(
    "message",
    [
        AttachRequest(hello=app_pb2.Hello()),
        AttachRequest(veto=app_pb2.Veto(cycle="c", reason="x" * 501)),
        AttachRequest(thawed=app_pb2.Thawed(cycle="c", reason="x" * 501)),
        AttachRequest(hold_lost=app_pb2.HoldLost(cycle="c", reason="x" * 501)),
        AttachRequest(frozen=app_pb2.Frozen(cycle="c", evidence={str(each): "" for each in range(17)})),
    ],
)
def test_a_broken_limit_ends_the_call(message: AttachRequest) -> None:
    with pytest.raises(MessageInvalid):
        Ledger().hear(message, START)


@pytest.mark.parametrize("message", [AttachRequest(), AttachRequest(veto=app_pb2.Veto(cycle="c"))])
def test_a_message_without_what_is_required_is_refused(message: AttachRequest) -> None:
    ledger = Ledger()
    question = ledger.ask(Kind.FREEZE, "c", START, BUDGET)
    assert refusal(ledger, message) == "message_invalid"
    assert question.is_open


@given(
    st.lists(st.sampled_from([READY, FROZEN, VETO, THAWED, LOST, "prepare", "freeze", "thaw", "break"]), max_size=30)
)
def test_no_question_is_answered_twice_and_nothing_unasked_is_held(happened: list[AttachRequest | str]) -> None:
    ledger = Ledger()
    accepted = 0
    for each in happened:
        if isinstance(each, AttachRequest):
            accepted += ledger.hear(each, START) is None and each is not LOST
        elif each == "break":
            ledger.break_off()
        else:
            ledger.ask(Kind(each), "c", START, BUDGET)
    assert accepted == sum(question.result is not None for question in ledger.questions)
    if ledger.held:
        assert any(isinstance(each.result, FreezeResult) and each.result.frozen for each in ledger.questions)
