"""What a broker learns from the cycles of former ones, while it serves everybody already."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from appvss import contract
from appvss.broker import journal
from appvss.model.app import AppId
from appvss.model.past import PastCycle
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Outcome, Verdict
from tests.broker.test_view import BOUND, SECOND, outcome, rig

A = AppId("a")
FORMER = PastCycle(
    "1",
    "local",
    "me",
    timedelta(days=20_000),
    SECOND,
    Phase.COMPLETED,
    Verdict("1", Level.CRASH, (outcome("a", Outcome.VETOED, "busy"),), ()),
)


async def test_what_has_ended_meanwhile_comes_after_the_cycles_of_former_brokers() -> None:
    async with rig() as made:
        made.opened.history.end_cycle(FORMER)
        made.parts.take_up()
        made.keep("2", outcome("a"))
        await made.parts.recall()
        made.keep("3", outcome("a", Outcome.VETOED, "busy"))
        assert [part.cycle for part in made.parts._past.of(A)] == ["3", "2", "1"]
        assert made.parts._past.failures_in_row(A) == 1


async def test_the_last_cycle_of_a_former_broker_is_known() -> None:
    async with rig() as made:
        made.opened.history.end_cycle(FORMER)
        made.parts.take_up()
        assert not made.view.status().HasField("last_cycle")
        await made.parts.recall()
        assert made.view.status().last_cycle.cycle == "1"
        assert made.parts.policy_due.is_set()


async def test_a_history_that_does_not_answer_costs_what_it_knows_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "READ_LIMIT", timedelta(milliseconds=20))
    async with rig() as made:
        answers = threading.Event()
        made.opened.history._ask(lambda: answers.wait(BOUND))
        made.parts.take_up()
        made.keep("2", outcome("a"))
        await made.parts.recall()
        answers.set()
        assert [part.cycle for part in made.parts._past.of(A)] == ["2"]
        assert "what apps did in earlier cycles is not known" in caplog.text


async def test_a_certificate_that_does_not_fit_into_an_answer_is_left_out() -> None:
    async with rig() as made:
        made.opened.history.end_cycle(replace(FORMER, certificate="x" * contract.ADMIN_RESPONSE_LIMIT))
        answer = await made.view.cycle("1")
        assert answer is not None
        assert (answer.summary.cycle, answer.certificate) == ("1", "")
        assert answer.ByteSize() < contract.ADMIN_RESPONSE_LIMIT
