"""The verifier of SQLite: the main file of a cycle's copy, alone, against those that were made without a hold."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from appvss.adapters import sqlite
from appvss.model.grade import Grade
from appvss.verify.base import Copy, Report
from appvss.verify.sqlite import verify
from tests.adapters.test_sqlite import connect, database
from tests.support.running_broker import short_directory


class Room:
    """Where an application has its database, and where its copies lie."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.data.mkdir()
        self.path = self.data / "shop.db"
        self._number = 0

    def copy(self) -> Path:
        """Everything as it is now, taken by another process: this one would lose its locks."""
        self._number += 1
        target = self.home / f"copy-{self._number}"
        subprocess.run(["cp", "-a", str(self.data), str(target)], check=True)
        return target

    def verify(self, copy: Path, evidence: Mapping[str, str]) -> Report:
        self._number += 1
        work = self.home / f"work-{self._number}"
        work.mkdir()
        return verify(Copy({self.data: copy}, work), evidence)


@pytest.fixture
def room() -> Iterator[Room]:
    home = short_directory()
    yield Room(home)
    shutil.rmtree(home)


def failed(report: Report) -> set[str]:
    return {finding.name for finding in report.findings if not finding.passed}


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
async def test_the_main_file_of_a_cycles_copy_earns_the_highest_grade_all_alone(room: Room, mode: str) -> None:
    with database(room.path, mode):
        async with sqlite.quiesce(room.path) as evidence:
            copy = room.copy()
    (copy / "shop.db-wal").unlink(missing_ok=True)
    (copy / "shop.db-shm").unlink(missing_ok=True)
    report = room.verify(copy, evidence)
    assert report.grade is Grade.APP_VERIFIED, report.findings
    assert not failed(report)
    assert {finding.name for finding in report.findings} == {"marker", "position", "setting", "start", "check"}


async def test_a_copy_without_a_hold_is_opened_as_after_a_crash_and_worth_a_freeze(room: Room) -> None:
    with database(room.path):
        copy = room.copy()
    report = room.verify(copy, {})
    assert report.grade is Grade.FS
    assert failed(report) == {"marker"}
    assert any("what lies beside it" in finding.sentence for finding in report.findings)


async def test_a_copy_without_a_hold_does_not_pass_with_the_evidence_of_a_cycle(room: Room) -> None:
    with database(room.path) as application:
        before = room.copy()
        async with sqlite.quiesce(room.path) as evidence:
            pass
        application.execute("INSERT INTO orders VALUES ('later')")
        after = room.copy()  # with the main file of the hold, and more in its log
        application.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        much_later = room.copy()
    for copy, name in ((before, "marker"), (after, "position"), (much_later, "marker")):
        report = room.verify(copy, evidence)
        assert report.grade is Grade.FS
        assert failed(report) == {name}


async def test_a_log_that_was_part_of_the_data_is_proven_by_its_own_digest(room: Room) -> None:
    with database(room.path) as application, closing(connect(room.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM orders").fetchone()
        application.execute("INSERT INTO orders VALUES ('after the reader began')")
        async with sqlite.quiesce(room.path) as evidence:
            copy = room.copy()
        assert evidence["wal"] == "part_of_the_data"
        application.execute("INSERT INTO orders VALUES ('later')")
        later = room.copy()
    assert room.verify(copy, evidence).grade is Grade.APP_VERIFIED
    assert room.verify(later, evidence).grade is Grade.FS
    (copy / "shop.db-wal").unlink()
    assert room.verify(copy, evidence).grade is not Grade.APP_VERIFIED


async def test_frames_of_a_transaction_that_was_rolled_back_are_no_later_write(room: Room) -> None:
    with database(room.path) as application:
        application.execute("PRAGMA cache_size = 5")
        application.execute("BEGIN")
        application.executemany("INSERT INTO orders VALUES (?)", [("x" * 400,)] * 1000)
        application.execute("ROLLBACK")
        async with sqlite.quiesce(room.path) as evidence:
            copy = room.copy()
    assert (copy / "shop.db-wal").stat().st_size > 200_000  # they were spilled into it
    assert room.verify(copy, evidence).grade is Grade.APP_VERIFIED


async def test_a_hot_journal_is_rolled_back_and_what_was_never_committed_is_not_shown(room: Room) -> None:
    """The trap of section 6.2: opened with immutable=1 it would be shown, and called in order."""
    never = "SELECT count(*) FROM orders WHERE name = 'never committed'"
    with database(room.path, "DELETE", rows=1) as application:
        application.execute("BEGIN")
        application.executemany("INSERT INTO orders VALUES (?)", [("x" * 400,)] * 1000)
        application.execute("COMMIT")
        application.execute("PRAGMA cache_size = 5")
        application.execute("BEGIN IMMEDIATE")
        application.execute("UPDATE orders SET name = 'never committed'")
        copy = room.copy()
        application.execute("ROLLBACK")
    assert (copy / "shop.db-journal").stat().st_size
    with closing(sqlite3.connect(f"{(copy / 'shop.db').as_uri()}?immutable=1", uri=True)) as trap:
        assert trap.execute(never).fetchone()[0] > 100
    report = room.verify(copy, {})
    assert report.grade is Grade.FS
    with closing(connect(next(room.home.glob("work-*/database-1/shop.db")))) as verified:
        assert verified.execute(never).fetchone() == (0,)


async def test_a_damaged_database_is_worth_nothing(room: Room) -> None:
    with database(room.path, "DELETE", rows=300):
        async with sqlite.quiesce(room.path) as evidence:
            copy = room.copy()
    with (copy / "shop.db").open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 4096)
    report = room.verify(copy, evidence)
    assert report.grade is Grade.RAW
    assert "marker" in failed(report)
    assert failed(report) & {"check", "start"}


@pytest.mark.parametrize(
    ("parent", "said"),
    [("INTEGER PRIMARY KEY", "finds 1 rows without"), ("TEXT", "cannot be made: foreign key mismatch")],
)
async def test_foreign_keys_that_do_not_hold_are_told_and_are_the_applications_own(
    room: Room, parent: str, said: str
) -> None:
    with database(room.path) as application:
        application.execute(f"CREATE TABLE parents (id {parent})")
        application.execute("CREATE TABLE items (parent REFERENCES parents (id))")
        application.execute("INSERT INTO items VALUES (7)")
        async with sqlite.quiesce(room.path) as evidence:
            copy = room.copy()
    report = room.verify(copy, evidence)
    assert report.grade is Grade.APP_VERIFIED
    assert any(said in finding.sentence for finding in report.findings)


async def test_of_several_files_the_worst_counts(room: Room) -> None:
    other = room.data / "audit.db"
    with database(room.path), database(other) as application:
        async with sqlite.quiesce(room.path, other) as evidence:
            copy = room.copy()
        application.execute("INSERT INTO orders VALUES ('later')")
        later = room.copy()
    assert room.verify(copy, evidence).grade is Grade.APP_VERIFIED
    shutil.copyfile(later / "audit.db-wal", copy / "audit.db-wal")
    assert room.verify(copy, evidence).grade is Grade.FS
    (copy / "audit.db").unlink()
    assert room.verify(copy, evidence).grade is Grade.RAW


def test_a_copy_without_a_database(room: Room) -> None:
    (room.data / "readme").write_text("nothing")
    assert room.verify(room.copy(), {}).grade is Grade.RAW
    assert room.verify(room.copy(), {"file_1": str(room.path)}).grade is Grade.RAW


@pytest.mark.parametrize("named", ["data", "data/shop.db"])
def test_the_databases_of_a_named_folder_are_found_wherever_the_volume_was_mounted(room: Room, named: str) -> None:
    with database(room.path):
        copy = room.copy()
    copy.rename(room.home / "volume")
    work = room.home / "work"
    work.mkdir()
    (room.home / "root").mkdir()
    (room.home / "volume").rename(room.home / "root" / "data")
    evidence = {"engine": "sqlite", "data_directory": f"/srv/{named}"}
    report = verify(Copy({Path("/srv"): room.home / "root"}, work), evidence)
    assert report.grade is Grade.FS, report
    assert any("shop.db opens" in finding.sentence for finding in report.findings)


def test_a_link_out_of_the_copy_is_not_followed(room: Room) -> None:
    with database(room.path, "DELETE"):
        copy = room.copy()
    (copy / "shop.db").unlink()
    (copy / "shop.db").symlink_to(room.path)
    report = room.verify(copy, {"file_1": str(room.path)})
    assert report.grade is Grade.RAW
    assert "out of the copy" in report.findings[0].sentence


async def test_nothing_in_the_copy_is_changed(room: Room) -> None:
    with database(room.path):
        copy = room.copy()
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    room.verify(copy, {})
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
