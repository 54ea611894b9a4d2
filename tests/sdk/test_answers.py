"""What an app's code gives and raises becomes text that is safe to send."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss import contract
from appvss.adapters.errors import HoldRefused
from appvss.model.errors import HoldLost, MessageInvalid, Veto
from appvss.sdk.answers import evidence_of, failure_of
from appvss.sdk.inputs import Failure


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (Veto("busy", retryable=True), Failure("busy", retryable=True)),
        (Veto(""), Failure("the app gave no reason")),
        (HoldLost("gone"), Failure("gone")),
        (HoldRefused("a dump is running", "Wait."), Failure("a dump is running", retryable=True)),
        (KeyError("x"), Failure("KeyError: 'x'")),
        (asyncio.CancelledError(), Failure("CancelledError")),
        (Mute(), Failure("Mute: its text cannot be had: RuntimeError")),
        (ValueError("a\x00b\nc"), Failure("ValueError: a?b c")),
    ],
)
def test_an_error_is_a_failure_with_a_reason(error: BaseException, failure: Failure) -> None:
    assert failure_of(error) == failure


@given(st.text())
def test_a_reason_is_never_empty_and_never_too_long(text: str) -> None:
    for error in (Veto(text), HoldLost(text), ValueError(text)):
        reason = failure_of(error).reason
        assert 0 < len(reason) <= 500
        assert reason.isprintable()


@pytest.mark.parametrize("given_", [None, True, "text", object(), ["a"], 7])
def test_what_is_no_mapping_is_no_evidence(given_: object) -> None:
    assert evidence_of(given_) == {}


@pytest.mark.parametrize("given_", [{"lsn": 1}, OrderedDict(lsn=1), MappingProxyType({"lsn": 1})])
def test_every_mapping_is_evidence_as_text(given_: object) -> None:
    assert evidence_of(given_) == {"lsn": "1"}


def test_evidence_is_cut_to_the_contract_or_refused() -> None:
    (entry,) = evidence_of({"k" * 100: "v" * 1000}).items()
    assert [len(part) for part in entry] == [contract.EVIDENCE_KEY_LIMIT, contract.EVIDENCE_VALUE_LIMIT]
    with pytest.raises(MessageInvalid):
        evidence_of(dict.fromkeys(range(contract.EVIDENCE_LIMIT + 1), 0))
