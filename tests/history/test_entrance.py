"""A broker that starts while the disk of its state takes no write: what it knows meanwhile, and how it enters later."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appvss.history import HistoryState, JournalFailed, Opened, entrance
from appvss.history.directory import CERTIFICATE, LOCK_FILE, RESTORED, StateDirectory
from appvss.model.errors import HistoryTooNew, LockHeld
from appvss.model.journal import JournalEntry, Stage
from tests.history.conftest import Open
from tests.history.test_damage import newer, spoil
from tests.history.values import BOUND, LIMIT, OTHER_BOOT, SECOND, certificate, entry, past, wait_for

SHORT = timedelta(milliseconds=50)


class Disk:
    """What an opening asks whether it takes writes. It does, until `answers` is cleared."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk, reach = Disk(), StateDirectory.reach

    def wait(self: StateDirectory) -> None:
        assert disk.answers.wait(BOUND)
        reach(self)

    monkeypatch.setattr(StateDirectory, "reach", wait)
    yield disk
    disk.answers.set()


@pytest.fixture(params=list(Stage))
def image(request: pytest.FixtureRequest, directory: Path, start: Open) -> Path:
    """What a broker has left that was killed with one cycle in its history and another one open."""
    return killed(directory, start, entry(stage=request.param))


def killed(directory: Path, start: Open, written: JournalEntry) -> Path:
    first = start(directory).history
    first.end_cycle(past("c0"))
    first.close(LIMIT)  # so that the file has something, too, not its log alone
    begun = start(directory)
    begun.history.write_journal(written, certificate() if written.stage is Stage.HELD else "").result(BOUND)
    wait_for(begun.history, "keeping", 0)
    shutil.copytree(directory, image := directory.with_name("image"))
    begun.history.close(LIMIT)
    return image


@pytest.fixture
def held(directory: Path, start: Open) -> Path:
    """The same, the open cycle being held."""
    return killed(directory, start, entry())


def hung(image: Path, start: Open, disk: Disk, *boot: str, **rest: Any) -> Opened:
    """What a broker finds whose disk takes no write."""
    disk.answers.clear()
    began = time.monotonic()
    found = start(image, *boot, limit=SHORT, **rest)
    assert time.monotonic() - began < BOUND / 2
    return found


def files(directory: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.iterdir()}


def on_disk(directory: Path) -> tuple[list[str], list[str]]:
    """The cycles in the history and in the journal of a broker that has ended."""
    with sqlite3.connect(f"file:{directory / 'history.sqlite'}?mode=ro", uri=True) as connection:
        cycles = [cycle for (cycle,) in connection.execute("SELECT cycle FROM cycles ORDER BY number")]
        journal = [cycle for (cycle,) in connection.execute("SELECT cycle FROM journal")]
    connection.close()
    return cycles, journal


def test_what_can_be_read_is_known_while_the_disk_takes_no_write(image: Path, start: Open, disk: Disk) -> None:
    found = hung(image, start, disk)
    assert found.open_cycle is not None
    assert found.open_cycle == entry(stage=found.open_cycle.stage)
    assert found.certificate == (certificate() if found.open_cycle.stage is Stage.HELD else "")
    state = found.history.state
    assert (state.condition, state.cycles, state.waiting) == ("failing", 1, 0)
    assert found.notes == (state.detail,)
    assert f"the disk of {image} does not answer" in state.detail
    assert found.history.cycle("c0").result(BOUND) == past("c0")
    with pytest.raises(JournalFailed, match=r"the journal cannot be written: the disk of .* does not answer"):
        found.history.write_journal(entry("c2")).result(BOUND)


def test_cycle_that_has_ended_before_the_disk_answers_is_written_and_closed_then(
    image: Path, start: Open, disk: Disk
) -> None:
    changes: list[HistoryState] = []
    found = hung(image, start, disk, on_change=changes.append)
    before = files(image)
    found.history.end_cycle(past())
    assert [one.cycle for one in found.history.cycles().result(BOUND)] == ["c1", "c0"]
    assert found.history.state.waiting == 1
    assert files(image) == before
    disk.answers.set()
    state = wait_for(found.history, "keeping", 0)
    assert (state.detail, state.cycles) == ("", 2)
    assert [one.condition for one in changes] == ["keeping"]
    assert not (image / CERTIFICATE).exists()
    found.history.close(LIMIT)
    assert on_disk(image) == (["c0", "c1"], [])
    assert start(image).open_cycle is None


def test_cycle_that_goes_on_when_the_disk_answers_stays_open_until_its_end(
    image: Path, start: Open, disk: Disk
) -> None:
    found = hung(image, start, disk)
    disk.answers.set()
    wait_for(found.history, "keeping", 0)
    shutil.copytree(image, again := image.with_name("again"))
    assert start(again).open_cycle == found.open_cycle
    found.history.end_cycle(past())
    found.history.close(LIMIT)
    assert on_disk(image) == (["c0", "c1"], [])
    assert not (image / CERTIFICATE).exists()


def test_journal_of_the_next_cycle_is_written_once_the_disk_answers(held: Path, start: Open, disk: Disk) -> None:
    found = hung(held, start, disk)
    found.history.end_cycle(past())
    disk.answers.set()
    wait_for(found.history, "keeping", 0)
    found.history.write_journal(entry("c2"), certificate("c2")).result(BOUND)
    shutil.copytree(held, again := held.with_name("again"))
    opened = start(again)
    assert (opened.open_cycle, opened.certificate) == (entry("c2"), certificate("c2"))


def test_in_a_hold_nothing_is_written_and_the_disk_is_not_even_asked(held: Path, start: Open, disk: Disk) -> None:
    before = files(held)
    found = start(held, is_held=lambda open_cycle: open_cycle.stage is Stage.HELD)
    assert (found.open_cycle, found.certificate, found.notes) == (entry(), certificate(), ())
    assert "appvss-history-disk" not in [one.name for one in threading.enumerate()]
    state = found.history.state
    assert (state.condition, state.detail, state.cycles) == ("keeping", "", 1)
    found.history.end_cycle(past())
    assert [one.cycle for one in found.history.cycles().result(BOUND)] == ["c1", "c0"]
    assert files(held) == before
    with pytest.raises(LockHeld):
        start(held)
    disk.answers.clear()
    found.history.set_gate(is_open=True)
    journal = found.history.write_journal(entry("c2"))
    disk.answers.set()
    journal.result(BOUND)
    assert wait_for(found.history, "keeping", 0).cycles == 2
    found.history.close(LIMIT)
    assert on_disk(held) == (["c0", "c1"], ["c2"])


def test_disk_that_hangs_after_the_hold_is_said_once_it_has_hung_too_long(held: Path, start: Open, disk: Disk) -> None:
    found = hung(held, start, disk, is_held=lambda open_cycle: True)
    assert found.history.state.condition == "keeping"
    found.history.set_gate(is_open=True)
    assert "does not answer" in wait_for(found.history, "failing").detail
    disk.answers.set()
    assert wait_for(found.history, "keeping").detail == ""


def test_end_in_the_hold_leaves_the_cycle_to_the_next_broker(held: Path, start: Open) -> None:
    found = start(held, is_held=lambda open_cycle: True)
    before = files(held)
    found.history.close(LIMIT)
    assert files(held) == before
    again = start(held)
    assert (again.open_cycle, again.certificate) == (entry(), certificate())


def test_end_while_the_disk_hangs_is_bounded_and_the_next_broker_finds_what_was_there(
    held: Path, start: Open, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    found = hung(held, start, disk)
    found.history.end_cycle(past())
    began = time.monotonic()
    found.history.close(SHORT)
    assert time.monotonic() - began < BOUND / 2
    assert "1 ended cycles could not be written" in caplog.text
    disk.answers.set()
    assert start(held).open_cycle == entry()


def test_restored_machine_says_so_at_once_and_writes_it_down_later(held: Path, start: Open, disk: Disk) -> None:
    found = hung(held, start, disk, OTHER_BOOT)
    assert found.open_cycle is None
    assert found.restored is not None
    assert (found.restored.cycle, found.restored.certificate) == ("c1", certificate())
    assert found.history.restored == found.restored
    disk.answers.set()
    wait_for(found.history, "keeping", 0)
    found.history.close(LIMIT)
    assert (held / RESTORED).read_text() == certificate()
    assert not (held / CERTIFICATE).exists()
    again = start(held, OTHER_BOOT)
    assert (again.open_cycle, again.restored) == (None, None)
    assert again.history.restored is not None
    assert again.history.restored.cycle == "c1"


def test_what_was_restored_is_remembered_while_the_disk_takes_no_write(held: Path, start: Open, disk: Disk) -> None:
    start(held, OTHER_BOOT).history.close(LIMIT)
    found = hung(held, start, disk, OTHER_BOOT)
    assert found.restored is None
    assert found.history.restored is not None
    assert found.history.restored.cycle == "c1"


def test_another_broker_is_noticed_although_the_disk_takes_no_write(held: Path, start: Open, disk: Disk) -> None:
    other = StateDirectory(held)
    other.lock(SECOND)
    disk.answers.clear()
    with pytest.raises(LockHeld):
        start(held)
    other.close()


def test_another_broker_that_was_faster_leaves_the_history_in_memory(held: Path, start: Open, disk: Disk) -> None:
    (held / LOCK_FILE).unlink()
    changes: list[HistoryState] = []
    found = hung(held, start, disk, on_change=changes.append)
    found.history.end_cycle(past())
    other = StateDirectory(held)
    other.lock(SECOND)
    before = files(held)
    disk.answers.set()
    state = wait_for(found.history, "in_memory", 0)
    assert "another broker (process" in state.detail
    assert "stop that broker first" in state.detail
    assert [one.condition for one in changes] == ["in_memory"]
    assert found.history.cycle("c1").result(BOUND) == past()
    with pytest.raises(JournalFailed, match="nothing can be kept in"):
        found.history.write_journal(entry("c2")).result(BOUND)
    assert files(held) == before
    other.close()


def test_newer_version_is_refused_although_the_disk_takes_no_write(directory: Path, start: Open, disk: Disk) -> None:
    start(directory).history.close(LIMIT)
    newer(directory)
    for _ in range(2):
        with pytest.raises(HistoryTooNew):
            hung(directory, start, disk)


def test_newer_version_that_comes_while_the_disk_hangs_leaves_the_history_in_memory(
    directory: Path, start: Open, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    start(directory).history.close(LIMIT)
    found = hung(directory, start, disk)
    newer(directory)
    disk.answers.set()
    assert "has version 2" in wait_for(found.history, "in_memory").detail
    assert "has version 2" in caplog.text
    found.history.end_cycle(past())
    assert found.history.cycle("c1").result(BOUND) == past()


def test_damaged_history_is_set_aside_once_the_disk_answers(
    held: Path, start: Open, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(held / "history.sqlite", 2)
    found = hung(held, start, disk)
    assert (found.open_cycle, found.certificate) == (entry(), certificate())
    disk.answers.set()
    wait_for(found.history, "keeping", 0)
    assert "it lies aside as history.sqlite.corrupt-1" in caplog.text
    found.history.end_cycle(past())
    found.history.close(LIMIT)
    assert on_disk(held)[1] == []
    assert not (held / CERTIFICATE).exists()


def test_cycle_that_was_not_known_in_time_is_cleared_and_said(
    image: Path, start: Open, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entrance, "COPY_LIMIT", 100)
    found = hung(image, start, disk)
    assert (found.open_cycle, found.restored) == (None, None)
    assert found.history.cycles().result(BOUND) == ()
    disk.answers.set()
    wait_for(found.history, "keeping", 0)
    assert "cycle c1 was open; that was not known in time" in caplog.text
    assert not (image / CERTIFICATE).exists()
    found.history.close(LIMIT)
    assert on_disk(image) == (["c0"], [])


def test_history_that_is_too_long_for_a_copy_is_adopted_from_a_disk_that_answers(
    image: Path, start: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "COPY_LIMIT", 100)
    found = start(image)
    assert found.open_cycle is not None
    assert found.history.cycle("c0").result(BOUND) == past("c0")
    found.history.end_cycle(past())
    found.history.close(LIMIT)
    assert on_disk(image) == (["c0", "c1"], [])


def test_disk_that_cannot_even_be_read_is_waited_for_no_longer(
    held: Path, start: Open, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there = StateDirectory.is_there

    def wait(self: StateDirectory) -> bool:
        assert disk.answers.wait(BOUND)
        return is_there(self)

    monkeypatch.setattr(StateDirectory, "is_there", wait)
    found = hung(held, start, disk)
    assert (found.open_cycle, found.history.state.condition) == (None, "failing")
    found.history.end_cycle(past("c2"))
    disk.answers.set()
    assert wait_for(found.history, "keeping", 0).cycles == 2
    found.history.close(LIMIT)
    assert on_disk(held) == (["c0", "c2"], [])


def test_copy_is_made_where_the_caller_says_and_what_a_killed_one_has_left_goes(
    held: Path, start: Open, tmp_path: Path
) -> None:
    (tmp_path / "appvss-history-old").mkdir()
    (tmp_path / "other").touch()
    found = start(held, copies=tmp_path, is_held=lambda open_cycle: True)
    assert found.history.cycle("c0").result(BOUND) == past("c0")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_defect_of_a_late_opening_costs_the_disk_and_nothing_else(
    held: Path, start: Open, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    found = hung(held, start, disk)
    monkeypatch.setattr(entrance, "tidy", fail)
    with caplog.at_level(logging.CRITICAL, "appvss.history"):
        disk.answers.set()
        assert "ZeroDivisionError" in wait_for(found.history, "in_memory").detail
    found.history.end_cycle(past())
    assert found.history.cycle("c1").result(BOUND) == past()


def test_restored_machine_that_was_not_known_in_time_is_said_later(
    held: Path, start: Open, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entrance, "COPY_LIMIT", 100)
    found = hung(held, start, disk, OTHER_BOOT)
    assert (found.restored, found.history.restored) == (None, None)
    disk.answers.set()
    wait_for(found.history, "keeping", 0)
    assert "restored from cycle c1, which was not known in time" in caplog.text
    assert found.history.restored is not None
    assert found.history.restored.cycle == "c1"
