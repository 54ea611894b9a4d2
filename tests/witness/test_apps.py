"""Apps that keep their word are never accused, those that lie always: real files, on disk and in memory."""

from __future__ import annotations

import mmap
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.app import AppId
from tests.witness.held import APP, begin, said, witness

MEMORY = Path("/dev/shm")


@pytest.fixture(params=["disk", "memory"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder of its own."""
    if request.param == "disk":
        yield tmp_path
    elif MEMORY.is_dir():
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            yield Path(folder)
    else:
        pytest.skip("no file system in memory")


# -- apps that keep their word


def test_append_log_with_fsync_is_never_accused(data: Path) -> None:
    with witness() as seen, (data / "orders.log").open("ab", buffering=0) as log:
        for run in range(1000):
            log.write(b"a line\n" * (run % 7 + 1))
            os.fsync(log.fileno())
            begin(seen, str(run), data)
            assert said(seen, str(run)) == {}
            seen.forget(str(run))


def test_sqlite_in_wal_mode_that_holds_its_write_lock_is_never_accused(data: Path) -> None:
    database = sqlite3.connect(data / "orders.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY, text TEXT)")
    paths = [data / "orders.db", data / "orders.db-wal"]
    with witness() as seen:
        for run in range(1000):
            database.execute("INSERT INTO orders (text) VALUES (?)", ("x" * (run % 500),))
            if run % 50 == 0:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.execute("BEGIN IMMEDIATE")  # the freeze: nobody else can write
            begin(seen, str(run), *paths)
            database.execute("SELECT count(*) FROM orders").fetchone()  # reading is allowed
            assert said(seen, str(run)) == {}
            database.execute("ROLLBACK")
            seen.forget(str(run))
    database.close()


def test_mapped_file_with_msync_is_never_accused(data: Path) -> None:
    with witness() as seen, (data / "table").open("w+b") as file:
        file.truncate(1 << 16)
        with mmap.mmap(file.fileno(), 1 << 16) as table:
            for run in range(1000):
                table[run * 300 % (1 << 16)] = run % 256
                table.flush()
                begin(seen, str(run), data)
                assert said(seen, str(run)) == {}
                seen.forget(str(run))


def test_write_without_fsync_before_the_ack_is_no_change_after_it(data: Path) -> None:
    """Not a good app, since what it wrote may not be in the snapshot; but it does not write in its hold."""
    with witness() as seen, (data / "table").open("w+b") as file:
        for run in range(1000):
            file.write(b"x" * 5000)
            file.flush()
            begin(seen, str(run), data)
            assert said(seen, str(run)) == {}
            os.fsync(file.fileno())  # somebody has it written back in the hold
            assert said(seen, str(run)) == {}
            seen.forget(str(run))


# -- apps that lie


def _write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"z")


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"z")


def _rename_over(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def _write_mapped(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] ^= 1


def _write_and_set_back(path: Path) -> None:
    before = path.stat()
    _write(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


LIES: dict[str, Callable[[Path], object]] = {
    "write": _write,
    "append": _append,
    "truncate": lambda path: os.truncate(path, 1),
    "rename over": _rename_over,
    "unlink": lambda path: path.unlink(),
    "create": lambda path: path.with_name("new").touch(),
    "write and set the time back": _write_and_set_back,
    "write a mapped page": _write_mapped,
    "make a folder": lambda path: path.with_name("folder").mkdir(),
    "make a link": lambda path: path.with_name("link").hardlink_to(path),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_seen_100_times_of_100(data: Path, lie: str) -> None:
    if lie == "write a mapped page" and MEMORY in data.parents:
        pytest.skip("a file system in memory does not time it (witness/fingerprint.py)")
    caught = 0
    with witness() as seen:
        for run in range(100):
            folder = data / str(run)
            folder.mkdir()
            file = folder / "orders.db"
            with file.open("wb") as written:
                written.write(b"x" * 4096)
                written.flush()
                os.fsync(written.fileno())
            begin(seen, str(run), folder)
            assert said(seen, str(run)) == {}
            LIES[lie](file)
            caught += said(seen, str(run)).keys() == {APP}
            seen.forget(str(run))
    assert caught == 100


_WRITER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(descriptor, b"0", 0)
sys.stdout.write("acked\\n")
sys.stdout.flush()
while True:
    os.pwrite(descriptor, b"1", 0)
"""


def test_a_process_that_never_stops_writing_is_seen_100_times_of_100(data: Path) -> None:
    file = data / "orders.db"
    file.write_bytes(b"0")
    with (
        subprocess.Popen([sys.executable, "-c", _WRITER, str(file)], stdout=subprocess.PIPE) as writer,
        witness() as seen,
    ):
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"acked\n"
            caught = 0
            for run in range(100):
                begin(seen, str(run), file)
                assert said(seen, str(run)).keys() <= {APP}  # the first look has been taken
                size = file.stat().st_ctime_ns
                while file.stat().st_ctime_ns == size:
                    pass  # it writes on; bounded by the test's own limit
                caught += said(seen, str(run)).keys() == {APP}
                seen.forget(str(run))
            assert caught == 100
        finally:
            writer.kill()


# -- what is known not to be seen (docs of witness/fingerprint.py)


def test_second_write_into_a_mapped_page_that_was_never_written_back_is_not_seen(tmp_path: Path) -> None:
    file = tmp_path / "table"
    file.write_bytes(b"x" * 4096)
    with witness() as seen, file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as table:
        table[0] = 1
        begin(seen, "c", file)
        assert said(seen, "c") == {}
        table[0] = 2
        assert said(seen, "c") == {}, "if this is seen now, witness/fingerprint.py may say so"
        table.flush()
        table[0] = 3
        assert said(seen, "c").keys() == {APP}


def test_a_thousand_apps_are_compared_in_moments(tmp_path: Path) -> None:
    with witness() as seen:
        for number in range(1000):
            (tmp_path / f"{number}").write_bytes(b"x")
            begin(seen, "c", tmp_path / f"{number}", app=AppId("app", str(number)))
        assert said(seen, "c", timedelta(seconds=5)) == {}
