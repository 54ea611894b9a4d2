"""Files that are cut off, overwritten, of something else or of a newer version: said, set aside, never in the way."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appvss.history import History, read_history, schema
from appvss.model.errors import ExitCode, HistoryTooNew, HistoryUnreadable
from tests.history.conftest import Open
from tests.history.values import BOUND, LIMIT, certificate, entry, opened, past, wait_for

FILE, LOG = "history.sqlite", "history.sqlite-wal"
OPEN = entry("open", apps=20)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a broker leaves that is killed in a hold: most of its history in the file, the rest in the log."""
    place = tmp_path_factory.mktemp("killed")
    first = opened(place / "state").history
    for number in range(40):
        first.end_cycle(past(f"c{number}", number, certificate()))
    first.close(LIMIT)
    second = opened(place / "state").history
    second.end_cycle(past("c40"))
    second.write_journal(OPEN, certificate("open")).result(BOUND)
    wait_for(second, "keeping", 0)
    shutil.copytree(place / "state", place / "image")
    second.close(LIMIT)
    return place / "image"


@pytest.fixture
def image(killed: Path, directory: Path) -> Path:
    shutil.copytree(killed, directory)
    return directory


def spoil(path: Path, page: int) -> None:
    """Overwrite everything from that page on. The descriptor is closed in another process: in this one that would take
    SQLite's locks away.
    """
    code = "import sys; f = open(sys.argv[1], 'r+b'); f.seek(int(sys.argv[2])); f.write(b'\\xff' * int(sys.argv[3]))"
    size = path.stat().st_size - page * 4096
    subprocess.run((sys.executable, "-c", code, str(path), str(page * 4096), str(size)), check=True, timeout=BOUND)


def works(history: History) -> None:
    history.write_journal(entry("new"), certificate("new")).result(BOUND)
    history.end_cycle(past("new"))
    assert history.cycle("new").result(BOUND) == past("new")
    assert wait_for(history, "keeping", 0).detail == ""


@pytest.mark.parametrize("content", [b"\0" * 8192, b"no database " * 1000, b"SQLite format 3\0" + b"\xff" * 5000, b""])
def test_file_that_is_no_database_is_set_aside_with_its_log(image: Path, start: Open, content: bytes) -> None:
    log = (image / LOG).read_bytes()
    (image / FILE).write_bytes(content)
    found = start(image)
    assert "it lies aside as history.sqlite.corrupt-1, a new one is begun" in found.notes[0]
    assert (image / "history.sqlite.corrupt-1").read_bytes()[:4096] == content[:4096]
    if not content.startswith(b"SQLite"):  # what begins like a database is opened, and its log then put into it
        assert (image / "history.sqlite.corrupt-1").read_bytes() == content
        assert (image / "history.sqlite.corrupt-1-wal").read_bytes() == log
    works(found.history)


def test_database_of_something_else_is_set_aside(directory: Path, start: Open) -> None:
    directory.mkdir(0o700)
    with sqlite3.connect(directory / FILE) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    found = start(directory)
    assert "it is a database of something else" in found.notes[0]
    works(found.history)


def test_table_that_is_gone_is_damage(image: Path, start: Open) -> None:
    with sqlite3.connect(image / FILE) as connection:
        connection.execute("DROP TABLE restored")
    connection.close()
    found = start(image)
    assert "it lacks the table restored" in found.notes[0]
    assert "its open cycle was saved" in found.notes[0]
    assert found.open_cycle == OPEN


def test_open_cycle_is_saved_from_a_file_whose_history_is_damaged(image: Path, start: Open) -> None:
    spoil(image / FILE, 6)
    found = start(image)
    assert "is damaged" in found.notes[0]
    assert found.open_cycle == OPEN
    assert found.certificate == certificate("open")
    works(found.history)


@pytest.mark.parametrize("keep", [0, 10, 31, 32, 33, 500, 4000, 4152, 4153, 9000])
def test_log_that_is_cut_off_is_used_as_far_as_it_goes(image: Path, start: Open, keep: int) -> None:
    (image / LOG).write_bytes((image / LOG).read_bytes()[:keep])
    found = start(image)
    assert found.notes == ()
    assert found.open_cycle in (None, OPEN)
    assert found.history.cycle("c39").result(BOUND) == past("c39", 39, certificate())
    works(found.history)


@settings(max_examples=40)
@given(data=st.data())
def test_any_damage_anywhere_is_survived(killed: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        image = Path(place) / "state"
        shutil.copytree(killed, image)
        path = image / data.draw(st.sampled_from([FILE, LOG]))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            offset = data.draw(st.integers(0, len(content)) | st.integers(0, 200))
            if data.draw(st.booleans()):
                garbage = data.draw(st.binary(min_size=1, max_size=40) | st.just(b"\0" * 5000))
                content[offset : offset + len(garbage)] = garbage
            else:
                del content[offset:]
        path.write_bytes(content)
        try:
            found = opened(image)
        except HistoryTooNew:
            assert bytes(content) != (killed / path.name).read_bytes()  # the damage has hit the version's last bytes
            return
        try:
            assert found.open_cycle in (None, OPEN)
            assert all(line.verdict.cycle == line.cycle for line in found.history.cycles().result(BOUND))
            works(found.history)
        finally:
            found.history.close(LIMIT)
        with read_history(image) as reader:
            assert reader.cycle("new") == past("new")


def test_damage_that_is_met_under_way_is_set_aside_and_the_write_is_made(image: Path, start: Open) -> None:
    history = start(image).history

    def damage() -> None:
        connection = history._book.rows.connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        spoil(image / FILE, 1)
        connection.execute("PRAGMA shrink_memory")

    history._ask(damage).result(BOUND)
    history.end_cycle(past("another"))
    wait_for(history, "keeping", 0)
    assert (image / "history.sqlite.corrupt-1").exists()
    assert history.cycle("another").result(BOUND) == past("another")
    history.close(timedelta(seconds=5))
    assert start(image).history.cycle("another").result(BOUND) == past("another")


def newer(path: Path) -> None:
    """Make a history of the next version, part of it in the log, as a newer broker would leave it that was killed."""
    connection = sqlite3.connect(path / FILE, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE what_is_new (x)")
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    shutil.copyfile(path / FILE, path / "copy")
    shutil.copyfile(path / LOG, path / "copy-log")
    connection.close()
    (path / "copy").rename(path / FILE)
    (path / "copy-log").rename(path / LOG)


@pytest.mark.parametrize("is_clean", [True, False])
def test_newer_version_is_refused_and_left_as_it_is(directory: Path, start: Open, is_clean: bool) -> None:
    start(directory).history.close(LIMIT)
    newer(directory)
    if is_clean:
        sqlite3.connect(directory / FILE).execute("SELECT * FROM what_is_new").connection.close()
        assert not (directory / LOG).exists()
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(HistoryTooNew, match=r"has version 2, and this AppVSS knows 1 at most") as caught:
        start(directory)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    with pytest.raises(HistoryTooNew):
        read_history(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_there_is_no_shared_index_that_a_frozen_disk_would_block(directory: Path, start: Open) -> None:
    history = start(directory).history
    works(history)
    assert not (directory / "history.sqlite-shm").exists()
    assert "history.sqlite-shm" not in Path("/proc/self/maps").read_text()


class TestReader:
    """A history that an administrator names."""

    def test_directory_or_file(self, image: Path) -> None:
        for path in (image, image / FILE):
            with read_history(path) as reader:
                assert reader.path == image / FILE
                assert [one.cycle for one in reader.cycles(3)] == ["c40", "c39", "c38"]
                assert reader.cycle("c40") == past("c40")
                assert reader.cycle("c39") == past("c39", 39, certificate())
                assert reader.cycle("none") is None
                found = reader.open_cycle()
                assert found is not None
                assert found[0] == OPEN

    def test_nothing_of_it_is_changed(self, image: Path, directory: Path) -> None:
        before = {path.name: path.read_bytes() for path in image.iterdir()}
        with read_history(image) as reader:
            reader.cycles(10)
        assert {path.name: path.read_bytes() for path in image.iterdir()} == before
        (image / LOG).unlink()
        with read_history(image) as reader:
            assert reader.cycle("c39") is not None
            assert reader.open_cycle() is None
        assert {path.name for path in image.iterdir()} == {*before} - {LOG}

    def test_copy_leaves_nothing_behind_however_its_reader_ends(
        self, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with read_history(image) as reader:
            assert not list(tmp_path.iterdir())
            assert reader.cycle("c40") == past("c40")
            reader.close()
        assert not list(tmp_path.iterdir())

    def test_broker_that_has_it_open(self, directory: Path, start: Open) -> None:
        start(directory)
        with pytest.raises(HistoryUnreadable, match="a broker has the history") as caught:
            read_history(directory)
        assert caught.value.exit_code is ExitCode.NOT_FOUND
        assert "Leave out the path" in caught.value.hint

    @pytest.mark.parametrize("path", ["none", "none/history.sqlite", "/dev/null/history.sqlite"])
    def test_nothing_there(self, tmp_path: Path, path: str) -> None:
        with pytest.raises(HistoryUnreadable, match=r"there is no history at|not a directory"):
            read_history(tmp_path / path)

    @pytest.mark.parametrize("content", [b"", b"no database " * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
    def test_no_history(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(HistoryUnreadable, match="cannot be read: it is") as caught:
            read_history(tmp_path)
        assert "history.sqlite-wal" in caught.value.hint

    def test_directory_in_the_place_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / FILE).mkdir()
        with pytest.raises(HistoryUnreadable, match="is a directory"):
            read_history(tmp_path)

    def test_record_that_is_damaged(self, image: Path) -> None:
        with sqlite3.connect(image / FILE) as connection:
            connection.execute("UPDATE cycles SET events = x'00' WHERE cycle = 'c1'")
            connection.execute("UPDATE journal SET document = x'00'")
        connection.close()
        with read_history(image) as reader:
            with pytest.raises(HistoryUnreadable, match="the record of cycle c1 is damaged"):
                reader.cycle("c1")
            with pytest.raises(HistoryUnreadable, match="the journal is damaged"):
                reader.open_cycle()
            assert len(reader.cycles(100)) == 41

    def test_far_too_large(self, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("appvss.history.copies.SIZE_LIMIT", 100)
        with pytest.raises(HistoryUnreadable, match="over 100"):
            read_history(image)


def test_journal_entry_that_is_damaged_is_cleared_and_said(image: Path, start: Open) -> None:
    with sqlite3.connect(image / FILE) as connection:
        connection.execute("UPDATE journal SET document = x'00'")
    connection.close()
    found = start(image)
    assert found.open_cycle is None
    assert "the journal in" in found.notes[0]
    assert "cannot be read and is cleared" in found.notes[0]
    works(found.history)
