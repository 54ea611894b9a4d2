"""What is said while something is held is kept, in order and bounded."""

from __future__ import annotations

import logging

import pytest

from appvss.sdk.log import KEPT_LIMIT, HeldBackLog


def test_sentences_wait_until_they_are_handed_on(caplog: pytest.LogCaptureFixture) -> None:
    log = HeldBackLog("orders-db")
    with caplog.at_level(logging.INFO, "appvss.sdk"):
        log.add(logging.INFO, "one\nline")
        log.add(logging.WARNING, "two")
        assert caplog.messages == []
        log.hand_on()
        log.hand_on()
    assert caplog.messages == ["orders-db: one line", "orders-db: two"]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_the_oldest_go_first(caplog: pytest.LogCaptureFixture) -> None:
    log = HeldBackLog("orders-db")
    with caplog.at_level(logging.INFO, "appvss.sdk"):
        for number in range(KEPT_LIMIT + 5):
            log.add(logging.INFO, str(number))
        log.hand_on()
    assert len(caplog.messages) == KEPT_LIMIT
    assert caplog.messages[0] == "orders-db: 5"
