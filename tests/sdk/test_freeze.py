"""`Freeze` and `Prepare`, as an author may make them by hand to use a quiesce without any broker."""

from __future__ import annotations

import dataclasses
import threading
from datetime import timedelta

import pytest

from appvss import Freeze, FreezeEnded, Prepare
from appvss.sdk.clock import now
from appvss.sdk.freeze import Ending

LONG = timedelta(hours=1)


def test_a_budget_counts_from_the_question() -> None:
    for asked in (
        Freeze("c", "r", budget=LONG, hold_limit=LONG, asked_at=now() - LONG / 2),
        Prepare("c", "r", budget=LONG, asked_at=now() - LONG / 2),
    ):
        assert LONG / 2 - timedelta(minutes=1) < asked.budget_left() <= LONG / 2


def test_a_budget_that_ran_out_is_zero() -> None:
    for asked in (
        Freeze("c", "r", budget=LONG, hold_limit=LONG, asked_at=now() - 2 * LONG),
        Prepare("c", "r", budget=LONG, asked_at=now() - 2 * LONG),
    ):
        assert asked.budget_left() == timedelta(0)


def test_check_raises_only_when_the_freeze_has_ended_and_the_first_reason_stands() -> None:
    freeze = Freeze("c", "r", budget=LONG, hold_limit=LONG)
    freeze.check()
    assert isinstance(freeze.ended, Ending)
    freeze.ended.end("the broker aborted")
    freeze.ended.end("the app is stopping")
    with pytest.raises(FreezeEnded, match="the broker aborted"):
        freeze.check()


def test_a_plain_event_ends_a_freeze_too() -> None:
    freeze = Freeze("c", "r", budget=LONG, hold_limit=LONG, ended=threading.Event())
    freeze.check()
    freeze.ended.set()
    with pytest.raises(FreezeEnded, match="the freeze has ended"):
        freeze.check()


def test_both_are_values() -> None:
    freeze = Freeze("c", "r", budget=LONG, hold_limit=LONG)
    assert freeze == Freeze("c", "r", budget=LONG, hold_limit=LONG)
    with pytest.raises(dataclasses.FrozenInstanceError):
        freeze.cycle = "d"  # type: ignore[misc]  # this is what must not work
