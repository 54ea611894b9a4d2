"""What a broker finds at its start: an open cycle of its own boot, of another, or of nobody knows which."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.history import JournalFailed, Opened
from appvss.history.directory import CERTIFICATE, RESTORED
from appvss.model.journal import Stage
from appvss.model.past import Restored
from tests.history.conftest import Open
from tests.history.values import BOOT, BOUND, LIMIT, NOW, OTHER_BOOT, certificate, entry, past, wait_for


def die(begun: Opened, image: Path) -> Path:
    """What a broker that was killed leaves behind, or what an image shows that was made at this moment."""
    shutil.copytree(Path(begun.history.state.directory), image)
    return image


@pytest.fixture
def image(directory: Path) -> Path:
    """Where the next broker starts."""
    return directory.with_name("image")


def test_first_start_of_all(directory: Path, start: Open) -> None:
    begun = start(directory)
    assert (begun.open_cycle, begun.restored, begun.certificate, begun.notes) == (None, None, "", ())
    state = begun.history.state
    assert (state.directory, state.condition, state.detail) == (str(directory), "keeping", "")
    assert (state.cycles, state.waiting) == (0, 0)


@pytest.mark.parametrize("stage", list(Stage))
def test_open_cycle_of_the_same_boot_is_to_be_adopted(directory: Path, image: Path, start: Open, stage: Stage) -> None:
    begun, written = start(directory), entry(stage=stage)
    text = certificate() if stage is Stage.HELD else ""
    begun.history.write_journal(written, text).result(BOUND)
    found = start(die(begun, image))
    assert (found.open_cycle, found.certificate, found.restored, found.notes) == (written, text, None, ())
    assert found.history.restored is None
    assert (image / CERTIFICATE).exists() is bool(text)
    found.history.end_cycle(past())
    assert found.history.cycle("c1").result(BOUND) == past()
    found.history.close(LIMIT)
    assert not (image / CERTIFICATE).exists()
    assert start(image).open_cycle is None


def test_open_cycle_stays_open_when_another_one_ends(directory: Path, image: Path, start: Open) -> None:
    begun = start(directory)
    begun.history.write_journal(entry(), certificate()).result(BOUND)
    found = start(die(begun, image))
    found.history.end_cycle(past("check"))
    found.history.close(LIMIT)
    again = start(image)
    assert (again.open_cycle, again.certificate) == (entry(), certificate())


@pytest.mark.parametrize("stage", list(Stage))
def test_open_cycle_of_another_boot_is_what_the_machine_was_restored_from(
    directory: Path, image: Path, start: Open, stage: Stage
) -> None:
    begun = start(directory)
    text = certificate() if stage is Stage.HELD else ""
    begun.history.write_journal(entry(stage=stage), text).result(BOUND)
    found = start(die(begun, image), OTHER_BOOT)
    expected = Restored("c1", "freebsd", "hyper-v host", NOW, stage.value, text)
    assert (found.open_cycle, found.restored, found.notes) == (None, expected, ())
    assert found.history.restored == expected
    assert not (image / CERTIFICATE).exists()
    assert (image / RESTORED).exists() is bool(text)
    found.history.close(LIMIT)
    same = start(image, OTHER_BOOT)
    assert (same.open_cycle, same.restored, same.history.restored) == (None, None, expected)
    same.history.close(LIMIT)
    later = start(image, BOOT)
    assert (later.open_cycle, later.restored, later.history.restored) == (None, None, None)
    assert (image / RESTORED).exists() is bool(text)


def test_start_that_was_cut_off_between_certificate_and_journal_says_it_again(
    directory: Path, image: Path, start: Open
) -> None:
    begun = start(directory)
    begun.history.write_journal(entry(), certificate()).result(BOUND)
    die(begun, image)
    (image / CERTIFICATE).rename(image / RESTORED)
    found = start(image, OTHER_BOOT)
    assert found.restored is not None
    assert found.restored.certificate == certificate()


@pytest.mark.parametrize("text", ["garbage", certificate("c7"), certificate().replace("db1", "db2")])
def test_certificate_that_is_none_or_of_another_cycle_is_not_given_out(
    directory: Path, image: Path, start: Open, text: str
) -> None:
    begun = start(directory)
    begun.history.write_journal(entry(), certificate()).result(BOUND)
    die(begun, image)
    (image / CERTIFICATE).write_text(text)
    found = start(image, OTHER_BOOT)
    assert found.restored is not None
    assert found.restored.certificate == ""
    assert bool(found.notes) is ("c7" not in text)
    assert not (image / CERTIFICATE).exists()


def test_certificate_without_an_open_cycle_is_cleared(directory: Path, start: Open) -> None:
    start(directory).history.close(LIMIT)
    (directory / CERTIFICATE).write_text(certificate())
    found = start(directory, OTHER_BOOT)
    assert (found.open_cycle, found.restored, found.notes) == (None, None, ())
    assert not (directory / CERTIFICATE).exists()


@pytest.mark.parametrize(("before", "after"), [("unknown-1", "unknown-2"), (BOOT, "unknown-2"), ("unknown-1", BOOT)])
def test_boot_that_is_not_known_is_no_claim(directory: Path, image: Path, start: Open, before: str, after: str) -> None:
    begun = start(directory, before)
    begun.history.write_journal(entry()).result(BOUND)
    found = start(die(begun, image), after)
    assert (found.open_cycle, found.restored, found.history.restored) == (None, None, None)
    assert "nothing is claimed of that cycle" in found.notes[0]
    found.history.close(LIMIT)
    assert start(image, after).notes == ()


def test_what_cannot_be_cleared_at_the_start_is_cleared_later(directory: Path, start: Open) -> None:
    start(directory).history.close(LIMIT)
    (directory / CERTIFICATE / "full").mkdir(parents=True)
    found = start(directory)
    assert "cannot be cleared yet: is a directory" in found.notes[0]
    wait_for(found.history, "failing")
    (directory / CERTIFICATE / "full").rmdir()
    (directory / CERTIFICATE).rmdir()
    found.history.end_cycle(past())
    assert wait_for(found.history, "keeping", 0).detail == ""


def test_history_outlives_its_broker(directory: Path, start: Open) -> None:
    first = start(directory).history
    for number in range(3):
        first.end_cycle(past(f"c{number}", number))
    first.close(LIMIT)
    second = start(directory).history
    assert [one.cycle for one in second.cycles().result(BOUND)] == ["c2", "c1", "c0"]
    assert second.state.cycles == 3


def test_end_of_a_broker_leaves_one_file_that_is_whole(directory: Path, start: Open) -> None:
    history = start(directory).history
    history.write_journal(entry()).result(BOUND)
    history.end_cycle(past())
    history.close(LIMIT)
    assert sorted(os.listdir(directory)) == ["history.sqlite", "state.lock"]


def test_disk_that_lets_nothing_be_made_leaves_a_history_in_memory(directory: Path, start: Open) -> None:
    directory.mkdir()
    (directory / "history.sqlite").mkdir()
    found = start(directory)
    state = found.history.state
    assert state.condition == "in_memory"
    assert state.detail == found.notes[0]
    assert "nothing can be kept in" in state.detail
    assert "start it again" in state.detail
    with pytest.raises(JournalFailed, match="the journal cannot be written: nothing can be kept in"):
        found.history.write_journal(entry()).result(BOUND)
    found.history.end_cycle(past())
    assert found.history.cycle("c1").result(BOUND) == past()
    assert found.history.state.condition == "in_memory"
    found.history.close(timedelta(seconds=1))
