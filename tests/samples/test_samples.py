"""Each sample as an author would run it: a program of its own, asked by a fake broker over a real socket."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.sdk.clock import now
from appvss.sdk.testing import BlockingFakeApp, BlockingFakeBroker

SAMPLES = Path(__file__).parents[2] / "samples"
BOUND = 20
"""Seconds that a program may take to end."""


@contextmanager
def running(sample: str, *arguments: str, broker: BlockingFakeBroker) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "APPVSS_RUNTIME_DIRECTORY": str(broker.runtime_directory),
        "PYTHONPATH": str(SAMPLES.parent),
    }
    program = subprocess.Popen(
        [sys.executable, str(SAMPLES / sample), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate(timeout=BOUND)


def end(program: subprocess.Popen[str]) -> tuple[int, str, str]:
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=BOUND)
    return program.returncode, out, err


def freeze_until_beyond(app: BlockingFakeApp, key: str, value: int) -> None:
    """Freeze and thaw until the app has written more than `value` says: it goes on between two freezes."""
    until = now() + timedelta(seconds=BOUND)
    while now() < until:
        frozen = app.freeze()
        assert frozen.frozen, frozen.reason
        assert app.thaw().unbroken
        if int(frozen.evidence[key]) > value:
            return
    raise AssertionError(f"the app has not written beyond {key} {value}")


@pytest.fixture
def broker() -> Iterator[BlockingFakeBroker]:
    with BlockingFakeBroker() as started:
        yield started


@pytest.mark.parametrize("sample", ["smallest_asyncio", "smallest_threads"])
def test_the_file_stands_still_while_the_app_is_frozen_and_grows_again(
    sample: str, broker: BlockingFakeBroker, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.txt"
    with running(f"{sample}.py", str(lines), broker=broker) as program:
        app = broker.app(sample.replace("_", "-"))
        assert app.paths == (str(lines),)
        sizes: list[int] = []
        for _ in range(5):
            frozen = app.freeze()
            assert frozen.frozen, frozen.reason
            copy = lines.read_text()
            assert len(copy) == int(frozen.evidence["bytes"])
            assert copy.splitlines() == [str(number + 1) for number in range(copy.count("\n"))]
            app.disconnect()
            assert app.returned() is not None
            assert lines.read_text() == copy
            thawed = app.thaw()
            assert thawed.unbroken, thawed.reason
            sizes.append(len(copy))
        assert sizes == sorted(sizes)
        freeze_until_beyond(app, "bytes", sizes[-1])
        code, out, err = end(program)
    assert (code, out, err) == (0, "", "")
    assert app.refusals == ()


def test_a_sample_that_is_interrupted_in_mid_hold_says_that_the_hold_is_lost(
    broker: BlockingFakeBroker, tmp_path: Path
) -> None:
    for sample in ("smallest_asyncio", "smallest_threads"):
        with running(f"{sample}.py", str(tmp_path / sample), broker=broker) as program:
            app = broker.app(sample.replace("_", "-"))
            assert app.freeze().frozen
            assert end(program) == (0, "", "")
            assert app.hold_lost() == "the app is stopping"


def read_rows(database: Path) -> list[int]:
    """The rows of a copy that lies alone in its folder, read in a way that can recover nothing."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [row for (row,) in copy.execute("SELECT id FROM orders ORDER BY id")]


def test_a_copy_of_the_frozen_sqlite_file_alone_has_every_row(broker: BlockingFakeBroker, tmp_path: Path) -> None:
    database = tmp_path / "orders.db"
    with running("sqlite_database.py", str(database), "orders", broker=broker) as program:
        app = broker.app("orders")
        last = 0
        for turn in range(5):
            frozen = app.freeze()
            assert frozen.frozen, frozen.reason
            copied = tmp_path / f"copy-{turn}"
            copied.mkdir()
            shutil.copy(database, copied / "orders.db")
            assert Path(f"{database}-wal").stat().st_size == 0
            thawed = app.thaw()
            assert thawed.unbroken, thawed.reason
            rows = read_rows(copied / "orders.db")
            assert rows == list(range(1, int(frozen.evidence["last_row"]) + 1))
            assert len(rows) >= last
            last = len(rows)
        freeze_until_beyond(app, "last_row", last)
        code, out, err = end(program)
    assert (code, out, err) == (0, "", "")


def test_a_reader_that_keeps_the_sqlite_log_makes_a_veto_that_may_be_tried_again(
    broker: BlockingFakeBroker, tmp_path: Path
) -> None:
    database = tmp_path / "orders.db"
    with running("sqlite_database.py", str(database), broker=broker):
        app = broker.app("sqlite-orders")
        assert app.freeze().frozen
        assert app.thaw().unbroken
        with closing(sqlite3.connect(database, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            before = reader.execute("SELECT count(*) FROM orders").fetchone()
            # The reader's snapshot must be older than the last row, or the log could be emptied all the same.
            with closing(sqlite3.connect(database, isolation_level=None, timeout=BOUND)) as other:
                other.execute("INSERT INTO orders (written_at) VALUES (0)")
            vetoed = app.freeze(budget=timedelta(seconds=4))
            assert not vetoed.frozen
            assert vetoed.retryable
            assert reader.execute("SELECT count(*) FROM orders").fetchone() == before
        again = app.freeze()
        assert again.frozen, again.reason
        assert app.thaw().unbroken


def test_a_sqlite_file_that_somebody_else_writes_to_is_held_all_the_same(
    broker: BlockingFakeBroker, tmp_path: Path
) -> None:
    database = tmp_path / "orders.db"
    with running("sqlite_database.py", str(database), broker=broker):
        app = broker.app("sqlite-orders")
        assert app.freeze().frozen
        with (
            closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("INSERT INTO orders (written_at) VALUES (0)")
        assert app.thaw().unbroken
