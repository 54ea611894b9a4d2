"""The back-off and what is told of it."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import pytest
from tenacity import Future, RetryCallState, Retrying

from appvss.sdk.reconnect import BACK_OFF, FailureNotes, NotWelcomed, look_for, not_welcomed


def attempt(number: int, error: Exception) -> RetryCallState:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = number
    state.outcome = Future(number)
    state.outcome.set_exception(error)
    return state


@pytest.mark.parametrize(("number", "longest"), [(1, 0.05), (2, 0.1), (6, 1.6), (7, 3.0), (1000, 3.0), (10**7, 3.0)])
def test_waits_are_random_and_grow_to_a_cap(number: int, longest: float) -> None:
    waits = {BACK_OFF(attempt(number, NotWelcomed("no"))) for _ in range(200)}
    assert len(waits) > 100
    assert min(waits) >= 0
    assert longest / 2 < max(waits) <= longest


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        (grpc.StatusCode.ALREADY_EXISTS, True),
        (grpc.StatusCode.INVALID_ARGUMENT, True),
        (grpc.StatusCode.UNAVAILABLE, False),
        (grpc.StatusCode.CANCELLED, False),
        (grpc.StatusCode.INTERNAL, False),
    ],
)
def test_a_refusal_is_told_from_an_absence(code: grpc.StatusCode, refused: bool) -> None:
    error = not_welcomed(code, "why\nso")
    assert (str(error), error.refused) == (f"{code.name}: why so", refused)


def test_nobody_is_called_where_there_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "apps.sock"
    with pytest.raises(NotWelcomed, match=f"there is no broker: {path} does not exist") as caught:
        look_for(str(path))
    assert not caught.value.refused
    path.touch()
    look_for(str(path))


def test_a_failure_is_told_once_until_it_changes() -> None:
    told: list[tuple[int, str]] = []
    notes = FailureNotes(lambda level, sentence: told.append((level, sentence)))
    absent = not_welcomed(grpc.StatusCode.UNAVAILABLE, "nobody")
    refused = not_welcomed(grpc.StatusCode.ALREADY_EXISTS, "taken")
    for error in (absent, absent, refused, refused, absent):
        notes(attempt(1, error))
    notes(attempt(1, ValueError("not about the broker")))
    notes.forget()
    notes(attempt(1, absent))
    assert told == [
        (logging.INFO, "not attached: UNAVAILABLE: nobody"),
        (logging.WARNING, "not attached: ALREADY_EXISTS: taken"),
        (logging.INFO, "not attached: UNAVAILABLE: nobody"),
        (logging.INFO, "not attached: UNAVAILABLE: nobody"),
    ]
