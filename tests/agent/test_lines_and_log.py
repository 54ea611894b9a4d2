"""What the agent's processes say to each other, and its log: nothing waits for a reader, and nothing grows for ever."""

from __future__ import annotations

import io
import json
import logging
import os

import pytest

from appvss.adapters.errors import ServerUnreachable
from appvss.agent.lines import LINE_MOST, WAITING_MOST, LineReader, LineWriter, message_of
from appvss.agent.log import Log, configure
from appvss.agent.options import LogFormat, LogLevel
from appvss.agent.serving import reason_of
from appvss.model.names import REASON_LIMIT
from appvss.service.log import logging_to


def test_a_writer_never_waits_and_says_everything_that_may_not_be_spared() -> None:
    reading, writing = os.pipe()
    writer, reader = LineWriter(writing), LineReader()
    for number in range(2 * WAITING_MOST):  # far more than the pipe takes
        writer.say({"log": "x" * 200, "number": number}, can_be_spared=True)
        if number % 100 == 0:
            writer.say({"phase": number})
    assert writer.dropped > 0
    told = []
    os.set_blocking(reading, False)
    while True:
        try:
            content = os.read(reading, 65536)
        except BlockingIOError:
            writer.flush()
            try:
                content = os.read(reading, 65536)
            except BlockingIOError:
                break
        told += [message_of(line) for line in reader.take(content)]
    assert [message["phase"] for message in told if "phase" in message] == list(range(0, 2 * WAITING_MOST, 100))
    assert len(told) == 2 * WAITING_MOST - writer.dropped + 20
    writer.close()
    writer.close()
    writer.say({"phase": 1})
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_reader_that_is_gone_ends_nothing() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    os.close(reading)
    writer.say({"alive": 1})
    writer.close()


def test_a_line_without_an_end_is_cut_and_what_is_no_message_is_an_empty_one() -> None:
    reader = LineReader()
    lines = [line for _ in range(100) for line in reader.take(b"x" * 10_000)]
    assert lines
    assert max(map(len, lines)) <= LINE_MOST
    assert len(reader.rest()) <= LINE_MOST
    assert list(reader.take(b'{"a": 1}\n\xff\n[]\nrest')) == ['{"a": 1}', "�", "[]"]
    assert reader.rest() == "rest"
    assert [message_of(line) for line in ('{"a": 1}', "�", "[]", "[" * 100_000)] == [{"a": 1}, {}, {}, {}]


def test_the_log_rests_while_its_gate_is_closed_and_counts_what_it_drops() -> None:
    stream = io.StringIO()
    log = Log(stream, limit=10)
    with logging_to(log):
        log.set_gate(is_open=False)
        for number in range(25):
            log.take("orders", {"level": "info", "message": f"line {number}", "time": 0.0, "cycle": "c-1"})
        assert stream.getvalue() == ""
        log.set_gate(is_open=True)
    lines = stream.getvalue().splitlines()
    assert "WARNING: 15 log records were dropped" in lines[0]
    assert lines[1:] == [f"1970-01-01T00:00:00.000Z INFO orders [c-1]: line {number}" for number in range(15, 25)]


@pytest.mark.parametrize("time", [float("inf"), float("nan"), 1e300, -1e300])
def test_a_time_that_there_is_not_ends_nothing(time: float) -> None:
    stream = io.StringIO()
    log = Log(stream)
    with logging_to(log):
        log.take("orders", {"level": "error", "message": "late", "time": time})
    assert stream.getvalue() == "1970-01-01T00:00:00.000Z ERROR orders: late\n"


def test_what_an_app_says_is_one_printable_line_in_both_forms() -> None:
    stream = io.StringIO()
    log = Log(stream)
    evil = {"level": "error", "message": "a\nb\x1b[2J", "cycle": "c\n1", "time": "soon"}
    with logging_to(log):
        log.take("orders", evil)
        log.take("orders", {"level": "debug", "message": "too light"})
        configure(log, LogLevel.DEBUG, LogFormat.JSON)
        log.take("orders", {**evil, "level": "debug"})
    text, as_json = stream.getvalue().splitlines()
    assert text.isprintable()
    assert text.endswith("ERROR orders [c 1]: a b?[2J")
    assert json.loads(as_json) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "debug",
        "app": "orders",
        "cycle": "c 1",
        "message": "a b?[2J",
    }


def test_what_the_log_itself_says_has_the_form_of_every_record() -> None:
    stream = io.StringIO()
    log = Log(stream, limit=1)
    with logging_to(log):
        configure(log, LogLevel.INFO, LogFormat.JSON)
        log.set_gate(is_open=False)
        log.take("orders", {"level": "info", "message": "dropped"})
        logging.getLogger("appvss.agent").error("%d", "no number")
    dropped, unformatted = map(json.loads, stream.getvalue().splitlines())
    assert (dropped["level"], dropped["message"][:28]) == ("warning", "1 log records were dropped: ")
    assert unformatted["level"] == "error"
    assert unformatted["message"].startswith("a log record of appvss.agent cannot be formatted: TypeError(")


def test_a_reason_has_the_hint_as_far_as_there_is_room() -> None:
    assert reason_of(ServerUnreachable("nobody listens", "Start it.")) == "nobody listens; HINT: Start it."
    long = reason_of(ServerUnreachable("x" * 100, "Do this. " * 200))
    assert len(long) <= REASON_LIMIT
    assert long.endswith("...")
    assert reason_of(ServerUnreachable("y" * REASON_LIMIT, "Do this.")) == "y" * REASON_LIMIT
