"""The log ring: nothing is written while the gate is closed, nothing blocks, nothing ends the service."""

from __future__ import annotations

import errno
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO

import pytest

from appvss.service.log import RingHandler, logging_to

BOUND = 20
LOG = logging.getLogger("appvss.test")
BOUND_LENGTH = timedelta(seconds=BOUND)


class Paper(io.StringIO):
    """A stream that counts its lines, can be waited for, and can be made slow or full."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.may_write = threading.Event()
        self.may_write.set()
        self.began = threading.Event()
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        self.began.set()
        assert self.may_write.wait(BOUND)
        if self.failure is not None:
            raise self.failure
        with self.changed:
            count = super().write(text)
            self.changed.notify_all()
        return count

    def messages(self) -> list[str]:
        return [line.rpartition(": ")[2] for line in self.getvalue().splitlines()]

    def wait_for(self, *messages: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.messages() == list(messages), BOUND), self.messages()


@contextmanager
def log_to(stream: TextIO, level: str = "info", limit: int = 100) -> Iterator[RingHandler]:
    handler = RingHandler(stream, limit)
    with logging_to(handler, level):
        yield handler


def test_records_are_written_in_order_with_time_level_and_logger() -> None:
    paper = Paper()
    with log_to(paper):
        LOG.info("one")
        LOG.warning("two %d", 2)
        paper.wait_for("one", "two 2")
    first, second = paper.getvalue().splitlines()
    assert first.endswith(" INFO appvss.test: one")
    assert second.endswith(" WARNING appvss.test: two 2")
    assert first[:2] == "20"


def test_level() -> None:
    paper = Paper()
    with log_to(paper, "warning"):
        LOG.info("quiet")
        LOG.error("loud")
    assert paper.messages() == ["loud"]


def test_nothing_is_written_while_the_gate_is_closed() -> None:
    paper = Paper()
    with log_to(paper) as handler:
        LOG.info("before")
        paper.wait_for("before")
        handler.set_gate(is_open=False)
        assert handler.settle(BOUND_LENGTH)
        paper.began.clear()
        for number in range(50):
            LOG.info("%d", number)
        assert not paper.began.wait(0.05)
        assert paper.messages() == ["before"]
        handler.set_gate(is_open=True)
        paper.wait_for("before", *map(str, range(50)))


def test_gate_that_closes_in_the_middle_of_a_queue_stops_after_the_line_under_way() -> None:
    paper = Paper()
    paper.may_write.clear()
    with log_to(paper) as handler:
        for number in range(50):
            LOG.info("%d", number)
        assert paper.began.wait(BOUND)
        handler.set_gate(is_open=False)
        assert not handler.settle(timedelta(milliseconds=20))
        paper.may_write.set()
        assert handler.settle(BOUND_LENGTH)
        assert paper.messages() == ["0"]
        handler.set_gate(is_open=True)
        paper.wait_for(*map(str, range(50)))


def test_appending_never_waits_for_the_writer_and_what_does_not_fit_is_counted() -> None:
    paper = Paper()
    paper.may_write.clear()
    with log_to(paper, limit=10) as handler:
        LOG.info("under way")
        assert paper.began.wait(BOUND)
        for number in range(25):
            LOG.info("%d", number)
        paper.may_write.set()
        dropped = "the ring was full, or nothing could be written"
        paper.wait_for("under way", dropped, *map(str, range(15, 25)))
        assert "15 log records were dropped: " in paper.getvalue()
        handler.set_gate(is_open=False)
        LOG.info("after")
        handler.set_gate(is_open=True)
        paper.wait_for("under way", dropped, *map(str, range(15, 25)), "after")
        assert paper.getvalue().count("were dropped") == 1


def test_rest_is_written_at_the_end_also_when_the_gate_is_closed() -> None:
    paper = Paper()
    with log_to(paper) as handler:
        handler.set_gate(is_open=False)
        LOG.info("kept")
    assert paper.messages() == ["kept"]


def test_end_does_not_wait_for_ever_for_a_stuck_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appvss.service.log._STOP_LIMIT", 0.05)
    paper = Paper()
    paper.may_write.clear()
    with log_to(paper):
        LOG.info("stuck")
        assert paper.began.wait(BOUND)
    assert paper.messages() == []
    paper.may_write.set()


def test_closed_pipe_ends_the_writing_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    with log_to(stream) as handler:
        for number in range(200):
            LOG.info("%d", number)
        assert handler.settle(BOUND_LENGTH)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_closed_stream_ends_the_writing_and_nothing_else() -> None:
    paper = Paper()
    with log_to(paper) as handler:
        LOG.info("one")
        paper.wait_for("one")
        io.StringIO.close(paper)
        LOG.info("two")
        assert handler.settle(BOUND_LENGTH)
        LOG.info("three")


def test_full_disk_loses_lines_and_says_so_when_there_is_room() -> None:
    paper = Paper()
    with log_to(paper) as handler:
        paper.failure = OSError(errno.ENOSPC, "No space left on device")
        LOG.info("lost")
        assert paper.began.wait(BOUND)
        assert handler.settle(BOUND_LENGTH)
        paper.failure = None
        LOG.info("kept")
        paper.wait_for("the ring was full, or nothing could be written", "kept")
        assert " WARNING appvss.log: 1 log records were dropped" in paper.getvalue()


class Full(io.StringIO):
    """A log whose disk is full at first."""

    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            self.is_full = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_what_a_full_disk_has_not_taken_is_counted_with_what_was_dropped_before() -> None:
    stream = Full()
    with log_to(stream, limit=10) as handler:
        handler.set_gate(is_open=False)
        for number in range(25):
            LOG.info("%d", number)
    assert "appvss.log: 16 log records were dropped" in stream.getvalue()  # 15, and the one beside the word of it


def test_record_that_cannot_be_formatted_ends_nothing() -> None:
    paper = Paper()
    with log_to(paper):
        LOG.info("%d", "not a number")
        LOG.info("next")
    first, second = paper.getvalue().splitlines()
    assert " INFO appvss.log: a log record of appvss.test cannot be formatted: TypeError(" in first
    assert second.endswith("next")


def test_libraries_go_through_the_ring_from_a_warning_on() -> None:
    # What Python writes on its own for a library without handlers goes to standard error, at once.
    paper = Paper()
    with log_to(paper) as handler:
        handler.set_gate(is_open=False)
        logging.getLogger("asyncio").error("exception in callback")
        logging.getLogger("grpc").info("chatter")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("something is old", stacklevel=1)
        assert paper.getvalue() == ""
    assert "ERROR asyncio: exception in callback" in paper.getvalue()
    assert "something is old" in paper.getvalue()
    assert "chatter" not in paper.getvalue()


def test_everything_is_as_before_afterwards() -> None:
    root, ours = logging.getLogger(), logging.getLogger("appvss")
    before = root.handlers[:], root.level, ours.level, ours.handlers[:]
    with log_to(Paper(), "debug"):
        assert ours.getEffectiveLevel() == logging.DEBUG
    assert (root.handlers, root.level, ours.level, ours.handlers) == before
