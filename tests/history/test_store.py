"""The history's thread: what it writes and when, what it says meanwhile, and that nobody ever waits for it in vain."""

from __future__ import annotations

import logging
import os
import select
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.history import History, HistoryState, JournalFailed, ReadFailed
from appvss.history.directory import CERTIFICATE
from appvss.history.store import READS_LIMIT, WAITING_LIMIT, WRITES_LIMIT
from appvss.model.journal import Stage
from tests.history.conftest import Open
from tests.history.values import BOUND, LIMIT, NOW, SECOND, certificate, entry, past, wait_for

SOON = timedelta(milliseconds=30)


@contextmanager
def stuck(directory: Path) -> Iterator[None]:
    """Inside this block the disk does not take a certificate: opening its file waits, as on a frozen file system."""
    pipe = directory / f"{CERTIFICATE}.new"
    os.mkfifo(pipe)
    try:
        yield
    finally:
        if pipe.exists():
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            try:
                # The history's thread may not have come to the pipe yet. Who opens it without a reader waits for ever.
                poller = select.poll()
                poller.register(reader, select.POLLIN)
                assert poller.poll(BOUND * 1000), "nobody has opened the pipe"
            finally:
                os.close(reader)


def written(directory: Path) -> list[str]:
    """The cycles that are on disk, as a reader sees them who comes after the broker."""
    with sqlite3.connect(f"file:{directory / 'history.sqlite'}?mode=ro", uri=True) as connection:
        found = [cycle for (cycle,) in connection.execute("SELECT cycle FROM cycles ORDER BY number")]
    connection.close()
    return found


def test_thread_has_its_name_and_ends(directory: Path, start: Open) -> None:
    history = start(directory).history
    assert [one.name for one in threading.enumerate()].count("appvss-history") == 1
    history.close(LIMIT)
    history.close(LIMIT)
    assert "appvss-history" not in [one.name for one in threading.enumerate()]


def test_cycle_comes_back_with_events_and_certificate_and_in_lists_without(history: History) -> None:
    whole = past(certificate=certificate())
    history.end_cycle(whole)
    assert history.cycle("c1").result(BOUND) == whole
    (line,) = history.cycles().result(BOUND)
    assert (line.cycle, line.verdict, line.events, line.certificate) == ("c1", whole.verdict, (), "")
    assert history.cycle("c2").result(BOUND) is None


def test_newest_first_by_the_order_of_their_ends_whatever_the_wall_clock_says(history: History) -> None:
    for number in (3, 1, 2):
        history.end_cycle(past(f"c{number}", number))
    assert [one.cycle for one in history.cycles().result(BOUND)] == ["c2", "c1", "c3"]
    assert [one.cycle for one in history.cycles(2).result(BOUND)] == ["c2", "c1"]
    assert [one.cycle for one in history.cycles(9, NOW + 2 * SECOND).result(BOUND)] == ["c2", "c3"]
    assert history.cycles(9, timedelta.max).result(BOUND) == ()
    assert len(history.cycles(9, timedelta.min).result(BOUND)) == 3


def test_only_the_newest_are_kept(directory: Path, start: Open) -> None:
    history = start(directory, keep=10).history
    for number in range(25):
        history.end_cycle(past(f"c{number}"))
    history.close(LIMIT)
    assert written(directory) == [f"c{number}" for number in range(15, 25)]
    assert history.state.cycles == 10
    assert start(directory, keep=3).history.state.cycles == 10
    # fewer are kept from the next end on


def test_smaller_number_counts_from_the_next_end_on(directory: Path, start: Open) -> None:
    first = start(directory, keep=10).history
    for number in range(10):
        first.end_cycle(past(f"c{number}"))
    first.close(LIMIT)
    second = start(directory, keep=3).history
    second.end_cycle(past("c10"))
    second.close(LIMIT)
    assert written(directory) == ["c8", "c9", "c10"]


def test_cycle_that_ends_twice_is_kept_once_as_it_was_last(history: History) -> None:
    history.end_cycle(past(events=1))
    history.end_cycle(past(events=2))
    assert len(history.cycle("c1").result(BOUND).events) == 2  # type: ignore[union-attr] # it is known
    assert len(history.cycles().result(BOUND)) == 1


def test_nothing_is_written_while_the_gate_is_closed_and_reads_go_on(directory: Path, start: Open) -> None:
    history = start(directory).history
    history.end_cycle(past("before"))
    history.cycle("before").result(BOUND)
    history.set_gate(is_open=False)
    assert history.settle(LIMIT)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.iterdir()}
    journal = history.write_journal(entry("c2"), certificate("c2"))
    history.end_cycle(past("c1"))
    assert [one.cycle for one in history.cycles().result(BOUND)] == ["c1", "before"]
    assert history.cycle("c1").result(BOUND) == past("c1")
    assert history.is_settled()
    assert history.state.waiting == 1
    assert not journal.done()
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.iterdir()} == before
    history.set_gate(is_open=True)
    journal.result(BOUND)
    assert (directory / CERTIFICATE).read_text() == certificate("c2")
    history.close(LIMIT)
    assert written(directory) == ["before", "c1"]


def test_write_under_way_is_waited_for_and_no_longer_than_the_limit(directory: Path, start: Open) -> None:
    history = start(directory).history
    with stuck(directory):
        journal = history.write_journal(entry(), certificate())
        while history.is_settled():
            assert not journal.done()
        history.set_gate(is_open=False)
        assert not history.settle(SOON)
        assert history.state.condition == "keeping"
    assert history.settle(LIMIT)
    with pytest.raises(JournalFailed, match="the certificate cannot be written to"):
        journal.result(BOUND)
    history.set_gate(is_open=True)


def test_disk_that_hangs_in_a_write_is_said_as_long_as_it_does(directory: Path, start: Open) -> None:
    history = start(directory).history
    history._stuck_after = 0.02
    with stuck(directory):
        journal = history.write_journal(entry(), certificate())
        end = time.monotonic() + BOUND
        while (state := history.state).condition != "failing":
            assert time.monotonic() < end, state
        assert f"the disk of {directory} does not answer" in state.detail
        assert not journal.done()
    assert isinstance(journal.exception(BOUND), JournalFailed)  # a pipe cannot be synced
    history.write_journal(entry()).result(BOUND)
    assert wait_for(history, "keeping").detail == ""


def test_journal_of_a_cycle_that_has_ended_is_not_written_any_more(directory: Path, start: Open) -> None:
    history = start(directory).history
    history.set_gate(is_open=False)
    late, other = history.write_journal(entry("c1")), history.write_journal(entry("c2"))
    history.end_cycle(past("c1"))
    with pytest.raises(JournalFailed, match="before cycle c1 had ended"):
        late.result(BOUND)
    history.set_gate(is_open=True)
    other.result(BOUND)
    history.close(LIMIT)
    assert start(directory).open_cycle == entry("c2")


def test_journal_that_nobody_waits_for_any_more_is_not_written(directory: Path, start: Open) -> None:
    history = start(directory).history
    history.set_gate(is_open=False)
    assert history.write_journal(entry("c1")).cancel()
    history.set_gate(is_open=True)
    history.close(LIMIT)
    assert start(directory).open_cycle is None


def test_certificate_that_fails_leaves_the_entry_of_before_and_no_certificate(directory: Path, start: Open) -> None:
    history = start(directory).history
    freezing = entry(stage=Stage.FREEZING)
    history.write_journal(freezing).result(BOUND)
    (directory / f"{CERTIFICATE}.new").mkdir()
    with pytest.raises(JournalFailed, match=r"the certificate cannot be written to .*: is a directory"):
        history.write_journal(entry(), certificate()).result(BOUND)
    assert history.state.condition == "failing"
    history.close(LIMIT)
    assert not (directory / CERTIFICATE).exists()
    assert start(directory).open_cycle == freezing


def test_failure_is_said_waits_and_is_made_good_with_the_next_write(directory: Path, start: Open) -> None:
    conditions: list[HistoryState] = []
    history = start(directory, on_change=conditions.append).history
    history.write_journal(entry(), certificate()).result(BOUND)
    (directory / CERTIFICATE).unlink()
    (directory / CERTIFICATE / "full").mkdir(parents=True)  # it cannot be removed
    history.end_cycle(past())
    state = wait_for(history, "failing")
    assert "the history cannot be written to" in state.detail
    assert state.waiting == 1
    assert history.cycle("c1").result(BOUND) == past()
    (directory / CERTIFICATE / "full").rmdir()
    (directory / CERTIFICATE).rmdir()
    history.write_journal(entry("c2")).result(BOUND)
    assert wait_for(history, "keeping").waiting == 0
    assert [(one.condition, bool(one.detail)) for one in conditions] == [("failing", True), ("keeping", False)]
    history.close(LIMIT)
    assert written(directory) == ["c1"]


def test_failure_is_made_good_by_itself_after_a_while(directory: Path, start: Open) -> None:
    history = start(directory).history
    history._retry = 0.02
    history.write_journal(entry(), certificate()).result(BOUND)
    (directory / CERTIFICATE).unlink()
    (directory / CERTIFICATE).mkdir()
    history.end_cycle(past())
    wait_for(history, "failing")
    (directory / CERTIFICATE).rmdir()
    assert wait_for(history, "keeping").waiting == 0


def test_oldest_is_dropped_and_counted_when_too_many_wait(directory: Path, start: Open) -> None:
    history = start(directory).history
    history.set_gate(is_open=False)
    for number in range(WAITING_LIMIT + 3):
        history.end_cycle(past(f"c{number}"))
    state = history.state
    assert (state.waiting, state.detail) == (WAITING_LIMIT, "3 ended cycles found no room in memory and are lost")
    history.set_gate(is_open=True)
    history.close(LIMIT)
    assert written(directory) == [f"c{number}" for number in range(3, WAITING_LIMIT + 3)]


def test_too_many_entries_and_questions_are_refused_at_once(directory: Path, start: Open) -> None:
    history = start(directory).history
    with stuck(directory):
        under_way = history.write_journal(entry(), certificate())
        while history.is_settled():
            assert not under_way.done()
        journals = [history.write_journal(entry()) for _ in range(WRITES_LIMIT + 1)]
        with pytest.raises(JournalFailed, match=f"{WRITES_LIMIT} entries wait"):
            journals[-1].result(0)
        questions = [history.cycles() for _ in range(READS_LIMIT + 1)]
        with pytest.raises(ReadFailed, match="its disk does not answer"):
            questions[-1].result(0)
        assert not journals[-2].done()
    assert all(question.result(BOUND) == () for question in questions[:-1])
    assert all(journal.result(BOUND) is None for journal in journals[:-1])


def test_close_with_a_disk_that_does_not_answer_is_bounded_and_nobody_waits(directory: Path, start: Open) -> None:
    history = start(directory).history
    with stuck(directory):
        under_way = history.write_journal(entry(), certificate())
        while history.is_settled():
            assert not under_way.done()
        waiting, question = history.write_journal(entry()), history.cycles()
        began = time.monotonic()
        history.close(SOON)
        assert time.monotonic() - began < BOUND
        with pytest.raises(JournalFailed, match="before the broker stopped"):
            waiting.result(0)
        with pytest.raises(ReadFailed, match="the broker stops"):
            question.result(0)
    history.close(LIMIT)


def test_close_with_a_closed_gate_writes_nothing(directory: Path, start: Open) -> None:
    history = start(directory).history
    history.set_gate(is_open=False)
    history.end_cycle(past())
    journal = history.write_journal(entry())
    history.close(SOON)
    with pytest.raises(JournalFailed, match="before the broker stopped"):
        journal.result(0)
    assert "appvss-history" not in [one.name for one in threading.enumerate()]
    history._book.close()  # as the end of the process does it
    after = start(directory)
    assert (after.open_cycle, after.history.state.condition, after.history.state.cycles) == (None, "keeping", 0)


def test_nothing_is_taken_after_the_end(history: History) -> None:
    history.close(LIMIT)
    with pytest.raises(JournalFailed, match="the broker stops"):
        history.write_journal(entry()).result(0)
    with pytest.raises(ReadFailed, match="the broker stops"):
        history.cycle("c1").result(0)
    history.end_cycle(past())


def test_row_that_is_damaged_is_passed_over_and_said(
    directory: Path, start: Open, caplog: pytest.LogCaptureFixture
) -> None:
    first = start(directory).history
    for number in range(3):
        first.end_cycle(past(f"c{number}"))
    first.close(LIMIT)
    with sqlite3.connect(directory / "history.sqlite") as connection:
        connection.execute("UPDATE cycles SET document = x'00' WHERE cycle = 'c1'")
    connection.close()
    second = start(directory).history
    assert [one.cycle for one in second.cycles().result(BOUND)] == ["c2", "c0"]
    assert "cycle c1 cannot be shown" in caplog.text
    with pytest.raises(ReadFailed, match="a document is"):
        second.cycle("c1").result(BOUND)


def test_defect_of_a_callback_does_not_end_the_thread(
    directory: Path, start: Open, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(state: HistoryState) -> None:
        raise ZeroDivisionError

    history = start(directory, on_change=fail).history
    (directory / f"{CERTIFICATE}.new").mkdir()
    with caplog.at_level(logging.CRITICAL, "appvss.history"), pytest.raises(JournalFailed):
        history.write_journal(entry(), certificate()).result(BOUND)
    assert history.cycles().result(BOUND) == ()


def test_ten_thousand_cycles(directory: Path, start: Open) -> None:
    history = start(directory, keep=10_000).history
    for number in range(10_000):
        history.end_cycle(past(f"c{number}", number, events=5))
        if number % 50 == 49:
            history.cycles(1).result(BOUND)  # as slowly as cycles come, so that none is dropped
    assert len(history.cycles().result(BOUND)) == 10_000
    history.close(LIMIT)
    assert start(directory, keep=10_000).history.state.cycles == 10_000
