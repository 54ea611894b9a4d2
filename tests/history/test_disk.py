"""Real disks that are full, read-only or frozen."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appvss.history import JournalFailed, read_history
from appvss.history.directory import CERTIFICATE
from tests.history.conftest import Open
from tests.history.test_damage import spoil
from tests.history.values import BOUND, LIMIT, OTHER_BOOT, SECOND, certificate, entry, past, wait_for

Mount = Callable[..., Path]
PAGE = 4096


def fill(disk: Path) -> None:
    """Leave no room at all."""
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"\0" * PAGE)


@pytest.fixture
def small(mounted: Mount) -> Path:
    return mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs")


def test_full_disk_at_the_first_start_leaves_a_history_in_memory(small: Path, start: Open) -> None:
    fill(small)
    found = start(small / "state")
    state = found.history.state
    assert state.condition == "in_memory"
    assert "the disk is full" in state.detail or os.strerror(errno.ENOSPC).lower() in state.detail
    found.history.end_cycle(past())
    assert found.history.cycle("c1").result(BOUND) == past()
    found.history.close(LIMIT)
    (small / "filler").unlink()
    assert start(small / "state").history.state.condition == "keeping"


def test_disk_that_is_full_for_a_while_costs_nothing(small: Path, start: Open) -> None:
    history = start(small / "state").history
    history._retry = 0.02
    history.write_journal(entry("c1"), certificate("c1")).result(BOUND)
    fill(small)
    history.end_cycle(past("c1", events=4000))
    state = wait_for(history, "failing")
    assert "the disk is full" in state.detail
    with pytest.raises(JournalFailed, match=r"the (journal|certificate) cannot be written"):
        history.write_journal(entry("c2", apps=2000), certificate("c2")).result(BOUND)
    assert history.cycle("c1").result(BOUND) == past("c1", events=4000)
    (small / "filler").unlink()
    assert wait_for(history, "keeping").waiting == 0
    history.write_journal(entry("c3"), certificate("c3")).result(BOUND)
    history.close(LIMIT)
    found = start(small / "state")
    assert found.open_cycle == entry("c3")
    assert found.certificate == certificate("c3")
    assert found.history.cycle("c1").result(BOUND) == past("c1", events=4000)


def test_history_that_is_damaged_on_a_full_disk_begins_anew_once_there_is_room(small: Path, start: Open) -> None:
    history = start(small / "state").history
    for number in range(10):
        history.end_cycle(past(f"c{number}", events=100))
    wait_for(history, "keeping", 0)

    def damage() -> None:
        history._book.rows.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        spoil(small / "state" / "history.sqlite", 1)
        history._book.rows.connection.execute("PRAGMA shrink_memory")

    history._ask(damage).result(BOUND)
    fill(small)
    with pytest.raises(JournalFailed, match=r"cannot be written to .*(no space left|the disk is full|disk fails)"):
        history.write_journal(entry()).result(BOUND)
    assert wait_for(history, "failing").cycles == 0
    (small / "filler").unlink()
    history.write_journal(entry()).result(BOUND)
    assert wait_for(history, "keeping", 0).cycles == 0
    assert (small / "state" / "history.sqlite.corrupt-1").exists()
    history.close(LIMIT)
    assert start(small / "state").open_cycle == entry()


def test_full_disk_at_a_restart_still_tells_what_was_open(small: Path, start: Open) -> None:
    history = start(small / "state").history
    history.end_cycle(past("c0"))
    history.write_journal(entry("c1"), certificate("c1")).result(BOUND)
    history.close(LIMIT)
    fill(small)
    found = start(small / "state")
    assert found.open_cycle == entry("c1")
    assert found.history.cycle("c0").result(BOUND) == past("c0")
    found.history.close(LIMIT)
    other = start(small / "state", OTHER_BOOT)
    assert other.restored is not None
    assert other.restored.certificate == certificate("c1")


@pytest.mark.parametrize("boot", ["same", "other"])
def test_read_only_disk_is_read_and_nothing_more(mounted: Mount, start: Open, boot: str) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs")
    history = start(disk / "state").history
    history.end_cycle(past("c0"))
    history.write_journal(entry("c1"), certificate("c1")).result(BOUND)
    wait_for(history, "keeping", 0)
    shutil.copytree(disk / "state", disk / "image")  # with its write-ahead log, as a killed broker leaves it
    history.close(LIMIT)
    subprocess.run(("mount", "-o", "remount,ro", str(disk)), check=True, timeout=BOUND)
    before = sorted(os.listdir(disk / "image"))
    found = start(disk / "image", *([OTHER_BOOT] if boot == "other" else []))
    state = found.history.state
    assert state.condition == "in_memory"
    assert "read-only" in state.detail
    assert found.open_cycle == (entry("c1") if boot == "same" else None)
    assert (found.restored is not None) is (boot == "other")
    assert found.history.cycle("c0").result(BOUND) == past("c0")
    with pytest.raises(JournalFailed, match="nothing can be kept in"):
        found.history.write_journal(entry("c2")).result(BOUND)
    found.history.end_cycle(past("c1"))
    assert [one.cycle for one in found.history.cycles().result(BOUND)] == ["c1", "c0"]
    found.history.close(LIMIT)
    with read_history(disk / "image") as reader:
        assert reader.cycle("c0") == past("c0")
        assert reader.open_cycle() is not None
    assert sorted(os.listdir(disk / "image")) == before


THAWER = """
import fcntl, os, select, sys
disk = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(disk, 0xC0045877, 0)
print("frozen", flush=True)
select.select([sys.stdin], [], [], float(sys.argv[2]))
fcntl.ioctl(disk, 0xC0045878, 0)
"""
"""FIFREEZE and FITHAW (linux/fs.h) in a process of its own: it thaws when its input ends, or after a bound."""


@contextmanager
def frozen(disk: Path, limit: float = 60.0) -> Iterator[None]:
    """Inside this block the file system is frozen, for `limit` seconds at most, whatever becomes of this process."""
    child = subprocess.Popen(
        (sys.executable, "-S", "-c", THAWER, str(disk), str(limit)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if not child.stdout.readline():
            pytest.skip("this file system cannot be frozen")
        yield
    finally:
        child.stdin.close()
        child.wait(BOUND)
        child.stdout.close()


@pytest.fixture
def ext4(tmp_path: Path, mounted: Mount) -> Path:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(32 * 1024 * 1024)
    subprocess.run(("mkfs.ext4", "-q", str(image)), check=True, timeout=BOUND)
    return mounted("-o", "loop", str(image))


def test_disk_that_fails_under_way_is_said_and_what_ended_is_still_told(ext4: Path, start: Open) -> None:
    history = start(ext4 / "state").history
    history.write_journal(entry(), certificate()).result(BOUND)
    # What the kernel does with a file system that it finds damaged (ext4(5), errors=remount-ro).
    subprocess.run(("mount", "-o", "remount,abort", str(ext4)), check=False, capture_output=True, timeout=BOUND)
    history.end_cycle(past())
    state = wait_for(history, "failing")
    assert state.waiting == 1
    assert "mend the disk" in state.detail
    with pytest.raises(JournalFailed, match="cannot be written to"):
        history.write_journal(entry("c2"), certificate("c2")).result(BOUND)
    assert history.cycle("c1").result(BOUND) == past()
    history.close(LIMIT)


def test_reads_go_on_while_the_disk_is_frozen_and_nothing_is_begun_on_it(ext4: Path, start: Open) -> None:
    history = start(ext4 / "state").history
    for number in range(20):
        history.end_cycle(past(f"c{number}"))
    history.write_journal(entry("held"), certificate("held")).result(BOUND)
    wait_for(history, "keeping", 0)
    history.set_gate(is_open=False)
    assert history.settle(LIMIT)
    with frozen(ext4):
        began = time.monotonic()
        history._ask(lambda: history._book.rows.connection.execute("PRAGMA shrink_memory")).result(BOUND)
        assert len(history.cycles().result(BOUND)) == 20
        assert history.cycle("c0").result(BOUND) == past("c0")
        history.end_cycle(past("held"))
        assert history.cycle("held").result(BOUND) == past("held")
        assert history.is_settled()
        assert time.monotonic() - began < BOUND  # a bound: it must not have waited for the thaw
        assert (ext4 / "state" / CERTIFICATE).exists()
    history.set_gate(is_open=True)
    history.close(LIMIT)
    assert not (ext4 / "state" / CERTIFICATE).exists()
    found = start(ext4 / "state")
    assert (found.open_cycle, found.history.state.cycles) == (None, 21)


@pytest.mark.parametrize("ends_first", [True, False])
def test_start_on_a_frozen_disk_adopts_and_enters_at_the_thaw(ext4: Path, start: Open, ends_first: bool) -> None:
    history = start(ext4 / "state").history
    history.end_cycle(past("c0"))
    history.write_journal(entry(), certificate()).result(BOUND)
    wait_for(history, "keeping", 0)
    shutil.copytree(ext4 / "state", ext4 / "image")
    with frozen(ext4):
        began = time.monotonic()
        found = start(ext4 / "image", limit=SECOND / 10)
        assert (found.open_cycle, found.certificate) == (entry(), certificate())
        assert found.history.state.condition == "failing"
        assert found.history.cycle("c0").result(BOUND) == past("c0")
        if ends_first:
            found.history.end_cycle(past())
            assert found.history.cycle("c1").result(BOUND) == past()
        assert time.monotonic() - began < BOUND  # a bound: it must not have waited for the thaw
    wait_for(found.history, "keeping", 0)
    if not ends_first:
        found.history.end_cycle(past())
    found.history.close(LIMIT)
    assert not (ext4 / "image" / CERTIFICATE).exists()
    again = start(ext4 / "image")
    assert (again.open_cycle, again.history.state.cycles) == (None, 2)


def test_write_that_meets_a_frozen_disk_holds_up_nobody_and_is_made_good(ext4: Path, start: Open) -> None:
    history = start(ext4 / "state").history
    with frozen(ext4):
        journal = history.write_journal(entry())
        while history.is_settled():
            assert not journal.done()
        history.end_cycle(past())
        assert history.state.waiting == 1
        history.set_gate(is_open=False)
        assert not history.settle(SECOND / 20)
        history.set_gate(is_open=True)
        assert not journal.done()
        began = time.monotonic()
        history.close(SECOND / 20)
        assert time.monotonic() - began < BOUND  # a bound: the disk is frozen for longer
    journal.result(BOUND)
    history._thread.join(BOUND)
    found = start(ext4 / "state")
    assert (found.open_cycle, found.history.state.cycles) == (None, 1)
