"""The SQLite adapter on real files: its lock, the log that it brings in, what frees it, and the traps it avoids."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.adapters import sqlite, sqlite_files
from appvss.adapters.base import Finding, Severity
from appvss.adapters.errors import HoldRefused, PrivilegeMissing, ServerUnfit, SettingInvalid
from appvss.adapters.sqlite_holder import Hold, Program
from appvss.model.errors import HoldLost
from appvss.sdk.freeze import Freeze, Prepare
from tests.support.loop_disks import LoopDisks
from tests.support.running_broker import ROOT, short_directory

BOUND = 10.0
MODES = ("WAL", "DELETE", "TRUNCATE", "PERSIST")


def freeze(budget: float = 10.0, hold_limit: float = 20.0) -> Freeze:
    return Freeze("cycle-1", "the tests", timedelta(seconds=budget), timedelta(seconds=hold_limit))


def connect(path: Path, timeout: float = 0.0) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)


def adapter_of(*paths: Path, **more: object) -> sqlite.Adapter:
    return sqlite.Adapter(sqlite.Settings(files=tuple(map(str, paths)), **more))  # type: ignore[arg-type]


async def prepared(*paths: Path, **more: object) -> sqlite.Adapter:
    """An adapter whose processes run already: a short budget is for the lock alone, however loaded the machine is."""
    adapter = adapter_of(*paths, **more)
    await adapter.prepare(Prepare("cycle-1", "the tests", timedelta(seconds=10 * BOUND)))
    return adapter


def takes_a_write(path: Path, timeout: float = 0.0) -> bool:
    with closing(connect(path, timeout)) as other:
        try:
            other.execute("INSERT INTO orders VALUES ('another')")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            return False
        return True


async def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.005)  # there is no event for it


def rows_of_main_file_alone(path: Path, room: Path) -> int:
    """What is in the file without its log. Copied by another process: this one has it open and would lose its locks."""
    with tempfile.TemporaryDirectory(dir=room) as folder:
        alone = Path(folder) / "alone.db"
        subprocess.run(["cp", str(path), str(alone)], check=True)
        with closing(connect(alone)) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (rows,) = copy.execute("SELECT count(*) FROM orders").fetchone()
        return int(rows)


def sha256(path: Path) -> str:
    return subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout.split()[0]


@pytest.fixture
def room() -> Iterator[Path]:
    path = short_directory()
    yield path
    shutil.rmtree(path)


@contextmanager
def database(path: Path, mode: str = "WAL", rows: int = 100) -> Iterator[sqlite3.Connection]:
    """An application that has its database open."""
    with closing(connect(path)) as application:
        application.execute(f"PRAGMA journal_mode = {mode}")
        application.execute("PRAGMA wal_autocheckpoint = 0")
        application.execute("CREATE TABLE orders (name)")
        for number in range(rows):
            application.execute("INSERT INTO orders VALUES (?)", (f"order {number}",))
        yield application


@pytest.mark.parametrize("mode", MODES)
async def test_nobody_writes_in_the_hold_and_the_main_file_alone_is_the_database(room: Path, mode: str) -> None:
    path = room / "shop.db"
    with database(path, mode) as application:
        if mode == "WAL":
            assert _rows_or_none(path, room) != 100  # nothing but the log has them before
        adapter, asked = adapter_of(path), freeze()
        held = await adapter.hold(asked)
        assert not takes_a_write(path)
        assert application.execute("SELECT count(*) FROM orders").fetchone() == (100,)
        assert rows_of_main_file_alone(path, room) == 100
        evidence = adapter.evidence(held)
        await adapter.confirm(held)
        await adapter.release(held, asked)
        assert takes_a_write(path)
        application.execute("INSERT INTO orders VALUES ('mine')")
        assert application.execute("SELECT count(*) FROM orders").fetchone() == (102,)
    assert evidence["wal"] == ("folded" if mode == "WAL" else "none")
    assert evidence["file_1"] == str(path)
    assert evidence["marker"].startswith("cycle-1 sha256:")
    assert len(evidence) <= 16


def _rows_or_none(path: Path, room: Path) -> int | None:
    try:
        return rows_of_main_file_alone(path, room)
    except sqlite3.DatabaseError:
        return None


async def test_the_marker_is_the_digest_of_the_main_file_in_the_hold(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        async with sqlite.quiesce(path) as evidence:
            found = sha256(path)
    assert evidence["digest_1"].startswith(f"main sha256:{found} log:")


async def test_a_file_above_the_limit_is_held_without_a_marker(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        adapter, asked = adapter_of(path, digest_limit=4096), freeze()
        held = await adapter.hold(asked)
        assert adapter.evidence(held)["marker"] == ""
        await adapter.confirm(held)
        await adapter.release(held, asked)
        found = (await adapter.preflight()).findings
        assert [finding.name for finding in found] == ["no_digest", "ready"]


async def test_a_killed_holder_frees_its_lock_at_once_and_the_hold_is_lost(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        adapter, asked = adapter_of(path), freeze()
        held = await adapter.hold(asked)
        os.kill(held.files[0].holder.pid, signal.SIGKILL)
        assert asked.hold_limit.total_seconds() > BOUND, "its limit frees nothing meanwhile"
        assert takes_a_write(path, timeout=BOUND)  # 2 ms on a quiet machine
        with pytest.raises(HoldLost, match="is gone"):
            await adapter.confirm(held)
        await adapter.release(held, asked)


async def test_an_adapter_that_is_killed_takes_its_holders_with_it(room: Path) -> None:
    path = room / "shop.db"
    program = (
        "import asyncio, sys\n"
        "from appvss.adapters import sqlite\n"
        "async def main():\n"
        "    async with sqlite.quiesce(sys.argv[1]):\n"
        "        print('held', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with database(path):
        command = [sys.executable, "-c", program, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:  # noqa: ASYNC220 # it waits for it
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            assert not takes_a_write(path)
            process.kill()
            process.wait(BOUND)
            assert takes_a_write(path, timeout=BOUND)  # its limit is a minute


async def test_a_holder_lets_go_at_its_limit_by_itself(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        adapter = await prepared(path, margin=timedelta(0))
        asked = freeze(budget=3.0, hold_limit=0.2)
        held = await adapter.hold(asked)
        assert await asyncio.to_thread(takes_a_write, path, BOUND)
        with pytest.raises(HoldLost, match="is gone"):
            await adapter.confirm(held)
        await adapter.release(held, asked)


async def test_a_hold_that_ends_early_with_frozen_file_systems_kills_the_holder(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        adapter, asked = adapter_of(path), freeze()
        held = await adapter.hold(asked)
        asked.filesystem_freeze.set()
        await adapter.release(held, asked)
        assert held.files[0].holder._process.returncode == -signal.SIGKILL
        assert takes_a_write(path)


@pytest.mark.parametrize("times", [1, 100])
async def test_a_cancelled_freeze_leaves_no_lock_and_no_process(room: Path, times: int) -> None:
    """Also when it is cancelled once more while it lets go, as when one limit is over right after another."""
    path = room / "shop.db"
    with database(path) as application:
        application.execute("BEGIN IMMEDIATE")
        adapter = adapter_of(path)
        holding = asyncio.create_task(adapter.hold(freeze()))
        await until(lambda: len(_children()) == 2)
        for _ in range(times):
            holding.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await holding
        application.execute("COMMIT")
        assert takes_a_write(path)
        await adapter.close()
        assert not _children()


async def test_a_writer_that_does_not_end_is_a_reason_to_refuse(room: Path) -> None:
    path = room / "shop.db"
    with database(path) as application:
        application.execute("BEGIN IMMEDIATE")
        adapter = await prepared(path)
        with pytest.raises(HoldRefused, match="locked by another process") as refusal:
            await adapter.hold(freeze(budget=2.0))
        assert refusal.value.retryable
        application.execute("COMMIT")
        assert takes_a_write(path)
        await adapter.close()


async def test_a_writer_that_ends_in_time_is_waited_for_and_its_rows_are_in_the_copy(room: Path) -> None:
    path = room / "shop.db"
    with database(path) as application:
        application.execute("BEGIN IMMEDIATE")
        application.execute("INSERT INTO orders VALUES ('late')")
        adapter, asked = adapter_of(path), freeze()
        holding = asyncio.create_task(adapter.hold(asked))
        await until(lambda: len(_children()) == 2)
        assert not holding.done()
        application.execute("COMMIT")
        held = await holding
        assert rows_of_main_file_alone(path, room) == 101
        await adapter.release(held, asked)


async def test_a_long_reader_makes_the_log_part_of_the_data_and_the_hold_stands(room: Path) -> None:
    path = room / "shop.db"
    with database(path) as application, closing(connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM orders").fetchone()
        application.execute("INSERT INTO orders VALUES ('after the reader began')")
        adapter, asked = adapter_of(path, checkpoint_patience=timedelta(milliseconds=100)), freeze()
        held = await adapter.hold(asked)
        evidence = adapter.evidence(held)
        assert evidence["wal"] == "part_of_the_data"
        found = sha256(path.with_name("shop.db-wal"))
        assert evidence["digest_1"].startswith(f"log sha256:{found} ")
        assert not takes_a_write(path)
        reader.execute("COMMIT")
        await adapter.confirm(held)
        await adapter.release(held, asked)


async def test_a_reader_that_ends_in_time_lets_all_of_the_log_be_brought_in(room: Path) -> None:
    path = room / "shop.db"
    with database(path) as application, closing(connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM orders").fetchone()
        application.execute("INSERT INTO orders VALUES ('after the reader began')")
        adapter, asked = adapter_of(path, checkpoint_patience=timedelta(seconds=BOUND)), freeze(budget=30.0)
        holding = asyncio.create_task(adapter.hold(asked))
        await until(lambda: not takes_a_write(path))
        assert not holding.done()
        reader.execute("COMMIT")
        held = await holding
        assert adapter.evidence(held)["wal"] == "folded"
        await adapter.release(held, asked)


async def test_a_checkpoint_that_another_connection_is_making_is_waited_for(room: Path) -> None:
    """The trap of section 6.2: another's checkpoint makes it say busy, and no busy handler covers that."""
    path = room / "shop.db"
    with database(path, rows=10) as application, _checkpointing(path):
        for number in range(5):
            application.execute("INSERT INTO orders VALUES (?)", (number,))
            # as patient as it takes to come in between its checkpoints
            adapter, asked = adapter_of(path, checkpoint_patience=timedelta(seconds=BOUND)), freeze(budget=30.0)
            held = await adapter.hold(asked)
            assert adapter.evidence(held)["wal"] == "folded"
            assert rows_of_main_file_alone(path, room) == 11 + number
            await adapter.confirm(held)
            await adapter.release(held, asked)


@contextmanager
def _checkpointing(path: Path) -> Iterator[None]:
    """Another process that does nothing but checkpoints."""
    program = (
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "print('runs', flush=True)\n"
        "while True:\n"
        "    database.execute('PRAGMA wal_checkpoint(PASSIVE)').fetchone()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"runs\n"
            yield
        finally:
            process.kill()


async def test_a_second_open_and_close_of_the_file_in_the_holder_would_drop_its_lock(room: Path) -> None:
    """The trap itself (section 6.2): why no holder opens its file by any other way. A process that does loses its lock
    without a word, and the next test shows that ours does not.
    """
    path = room / "shop.db"
    with database(path, "DELETE") as application:
        application.execute("BEGIN IMMEDIATE")
        assert await asyncio.to_thread(_writes_from_another_process, path) is False
        path.open("rb").close()
        assert await asyncio.to_thread(_writes_from_another_process, path) is True


def _writes_from_another_process(path: Path) -> bool:
    program = (
        "import sqlite3, sys\n"
        "try: sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('INSERT INTO orders VALUES (1)')\n"
        "except sqlite3.OperationalError: sys.exit(1)\n"
    )
    return subprocess.run([sys.executable, "-c", program, str(path)], timeout=BOUND, check=False).returncode == 0


async def test_a_holder_opens_its_file_once_for_each_of_its_two_connections_and_never_again(room: Path) -> None:
    """Seen from outside, with strace: from the freeze to the release."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    path, log = room / "shop.db", room / "strace"
    with database(path):
        adapter, asked = adapter_of(path), freeze()
        await adapter.prepare(Prepare("cycle-1", "the tests", timedelta(seconds=10)))
        holder = adapter._prepared[-1]
        tracer = await asyncio.create_subprocess_exec(
            strace, "-f", "-qq", "-e", "trace=open,openat,openat2,creat", "-o", str(log), "-p", str(holder.pid)
        )
        status = Path(f"/proc/{holder.pid}/status")
        await until(lambda: "TracerPid:\t0" not in status.read_text())
        held = await adapter.hold(asked)
        assert held.files[0].holder is holder
        open_in_hold = _open_files(holder.pid, path)
        assert not takes_a_write(path)
        await adapter.confirm(held)
        await adapter.release(held, asked)
        await asyncio.wait_for(tracer.wait(), BOUND)
    opened = [line for line in log.read_text().splitlines() if f'"{path}"' in line]
    assert len(opened) == open_in_hold == 2, opened


def _open_files(pid: int, path: Path) -> int:
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return links.count(str(path))


async def test_the_adapter_itself_never_opens_a_file_so_a_program_that_has_it_open_keeps_its_lock(room: Path) -> None:
    path = room / "shop.db"
    with database(path, "DELETE") as application:
        application.execute("BEGIN IMMEDIATE")
        await adapter_of(path).preflight()
        adapter = adapter_of(path)
        with pytest.raises(HoldRefused):
            await adapter.hold(freeze(budget=0.6))
        await adapter.close()
        assert await asyncio.to_thread(_writes_from_another_process, path) is False
        application.execute("COMMIT")


async def test_a_file_that_was_replaced_in_the_hold_was_not_held(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        adapter, asked = adapter_of(path), freeze()
        held = await adapter.hold(asked)
        subprocess.run(["cp", str(path), str(room / "other.db")], check=True)  # noqa: ASYNC221 # a moment
        os.replace(room / "other.db", path)
        with pytest.raises(HoldLost, match="replaced or removed"):
            await adapter.confirm(held)
        await adapter.release(held, asked)


def test_a_file_that_takes_the_place_of_the_one_that_was_just_opened_is_not_taken_for_it(room: Path) -> None:
    path = room / "shop.db"
    with database(path), database(room / "other.db"):
        hold = Hold(str(path), 1.0)
        os.replace(room / "other.db", path)
        with pytest.raises(OSError, match="was replaced by another file"):
            hold.take(1.0)
        hold.let_go()


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_hold_whose_lock_was_dropped_and_that_somebody_wrote_in_says_so(room: Path, mode: str) -> None:
    """The trap, in this very process: the lock is dropped by an open and close, and another process writes."""
    path = room / "shop.db"
    with database(path, mode):
        hold = Hold(str(path), 1.0)
        hold.take(1.0)
        assert hold.broken() == ""
        path.open("rb").close()
        if mode == "WAL":
            path.with_name("shop.db-shm").open("rb").close()  # the lock of the log lies there
        assert _writes_from_another_process(path)
        assert re.search(r"was written to|was replaced or removed", hold.broken())
        hold.let_go()


async def test_several_files_are_held_in_the_order_of_their_paths_and_all_or_none(room: Path) -> None:
    paths = [room / name for name in ("b.db", "a.db", "c.db")]
    with database(paths[0]), database(paths[1]), database(paths[2], "DELETE") as last:
        adapter, asked = adapter_of(*paths), freeze()
        held = await adapter.hold(asked)
        assert [file.path for file in held.files] == sorted(map(str, paths))
        assert not any(takes_a_write(path) for path in paths)
        assert len(adapter.evidence(held)) <= 16
        await adapter.confirm(held)
        await adapter.release(held, asked)

        last.execute("BEGIN IMMEDIATE")
        with pytest.raises(HoldRefused, match=r"c\.db"):
            await adapter.hold(freeze(budget=3.0))
        last.execute("COMMIT")
        assert all(takes_a_write(path) for path in paths)
        assert not _children()


async def test_processes_are_started_by_prepare_and_none_in_the_hold(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        adapter, asked = adapter_of(path), freeze()
        await adapter.prepare(Prepare("cycle-1", "the tests", timedelta(seconds=10)))
        await until(lambda: len(_children()) == 2)
        prepared = set(_children())
        held = await adapter.hold(asked)
        assert set(_children()) < prepared  # the one that took the digest has ended
        await adapter.release(held, asked)
        assert not _children()


async def test_a_prepare_without_a_freeze_is_used_by_the_next(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        adapter = adapter_of(path)
        for _ in range(3):
            await adapter.prepare(Prepare("cycle-1", "the tests", timedelta(seconds=10)))
        await until(lambda: len(_children()) == 2)
        await adapter.close()
        assert not _children()


async def test_a_prepare_that_is_cancelled_leaves_no_answer_for_the_freeze_that_follows(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        adapter, asked = adapter_of(path), freeze(budget=30.0)
        preparing = asyncio.create_task(adapter.prepare(Prepare("cycle-1", "the tests", timedelta(seconds=10))))
        await until(lambda: len(adapter._prepared) == 2)  # and it waits for their first answers
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing
        held = await adapter.hold(asked)
        assert adapter.evidence(held)["marker"]  # the digest, and not the late answer to the first question
        await adapter.confirm(held)
        await adapter.release(held, asked)
        assert not _children()


def _children() -> list[int]:
    own = os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == own and b"sqlite_holder" in words:
                found.append(int(entry.name))
    return found


def test_a_holder_in_its_hold_refuses_what_would_open_its_file(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        program = Program()
        asked = {"do": "freeze", "path": str(path), "wait": 1.0, "patience": 1.0, "limit": 60.0}
        assert "held" in program._answer(asked)
        for do in ("digest", "look", "freeze"):
            assert program._answer({**asked, "do": do})["refused"] == "out_of_turn"
        assert program._answer({"do": "release"}) == {"released": True}


async def _find(path: Path, name: str, **more: object) -> Finding:
    found = (await adapter_of(path, **more).preflight()).findings
    names = [finding.name for finding in found]
    assert name in names, names
    return found[names.index(name)]


@pytest.mark.parametrize("mode", MODES)
async def test_the_pre_flight_of_a_database_in_order(room: Path, mode: str) -> None:
    path = room / "shop.db"
    with database(path, mode):
        before = sorted(os.listdir(room))
        found = await adapter_of(path).preflight()
        assert sorted(os.listdir(room)) == before
    assert [finding.severity for finding in found.findings] == [Severity.OK]
    assert found.version.startswith("SQLite 3.")
    assert [volume.path for volume in found.volumes] == [room]
    assert list(found.settings.values()) == ["wal" if mode == "WAL" else "rollback"]


async def test_the_pre_flight_of_a_database_that_nobody_has_open_makes_no_file_beside_it(room: Path) -> None:
    path = room / "shop.db"
    with database(path):
        pass
    assert os.listdir(room) == ["shop.db"]
    await _find(path, "ready")
    assert os.listdir(room) == ["shop.db"]


async def test_a_file_that_is_not_there(room: Path) -> None:
    assert (await _find(room / "absent.db", "not_there")).severity is Severity.PROBLEM
    with pytest.raises(HoldRefused):
        await adapter_of(room / "absent.db").hold(freeze())
    assert os.listdir(room) == []


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, os.urandom(8192)])
async def test_a_file_that_is_no_database_or_is_encrypted(room: Path, content: bytes) -> None:
    path = room / "shop.db"
    path.write_bytes(content)
    await _find(path, "not_a_database")
    if content:
        adapter = adapter_of(path)
        with pytest.raises(ServerUnfit, match="no SQLite database, or it is encrypted"):
            await adapter.hold(freeze())
        await adapter.close()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "at", "bytes_"),
    [("damaged", 100, bytes(range(1, 201))), ("not_a_database", 16, b"\x00\x03"), ("not_a_database", 18, b"\x09\x09")],
)
async def test_a_database_that_is_damaged(room: Path, name: str, at: int, bytes_: bytes) -> None:
    path = room / "shop.db"
    with database(path, "DELETE"):
        pass
    content = path.read_bytes()
    path.write_bytes(content[:at] + bytes_ + content[at + len(bytes_) :])
    found = await _find(path, name)
    assert found.severity is Severity.PROBLEM
    with pytest.raises(ServerUnfit) as refusal:
        await adapter_of(path).hold(freeze())
    assert refusal.value.sentence == found.sentence


async def test_a_database_in_exclusive_mode(room: Path) -> None:
    path = room / "shop.db"
    with database(path, "DELETE") as application:
        application.execute("PRAGMA locking_mode = EXCLUSIVE")
        application.execute("INSERT INTO orders VALUES ('and it keeps the lock')")
        found = await _find(path, "locked")
        assert "EXCLUSIVE" in found.sentence
        adapter = await prepared(path)
        with pytest.raises(HoldRefused, match="locked by another process") as refusal:
            await adapter.hold(freeze(budget=2.0))
        assert "EXCLUSIVE" in refusal.value.hint
        await adapter.close()


async def test_a_large_log_is_warned_of(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = room / "shop.db"
    with database(path):
        seen = {"seen": {"wal_size": 65 << 20, "size": 1, "hot_journal": True, "owner": os.geteuid()}}
        found = sqlite_files.cautions(str(path), seen["seen"], 1 << 30)
    assert [finding.name for finding in found] == ["large_log", "hot_journal"]


def test_a_network_file_system_is_told_by_the_mount_that_lies_on_top() -> None:
    table = (
        "1 0 8:1 / / rw - ext4 /dev/a rw\n"
        "2 1 0:5 / /srv/my\\040shop rw - nfs4 server:/x rw\n"
        "3 2 8:2 / /srv/my\\040shop/local rw - xfs /dev/b rw\n"
        "4 1 0:6 / /mnt rw - fuse.sshfs there rw\n"
        "no line of a table\n"
    )
    assert sqlite_files.network_kind("/srv/my shop/orders.db", table) == "nfs4"
    assert sqlite_files.network_kind("/srv/my shop/local/orders.db", table) == ""
    assert sqlite_files.network_kind("/srv/my shopper/orders.db", table) == ""
    assert sqlite_files.network_kind("/mnt/orders.db", table) == "fuse.sshfs"
    assert sqlite_files.network_kind("/orders.db", table) == ""


async def test_a_file_on_a_network_file_system_is_refused(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = room / "shop.db"
    with database(path):
        monkeypatch.setattr(sqlite_files, "mount_table", lambda: f"1 0 8:1 / {room} rw - nfs4 server:/x rw\n")
        assert (await _find(path, "network_file_system")).severity is Severity.PROBLEM
        with pytest.raises(ServerUnfit, match="nfs4"):
            await adapter_of(path).hold(freeze())
        assert takes_a_write(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_account_that_may_not_write_is_told_what_to_do(room: Path) -> None:
    path = room / "shop.db"
    room.chmod(0o755)
    program = (
        "import asyncio, sys\n"
        "from tests.adapters.test_sqlite import adapter_of, freeze, Path, PrivilegeMissing\n"
        "adapter = adapter_of(Path(sys.argv[1]))\n"
        "print(asyncio.run(adapter.preflight()).findings[0].name)\n"
        "async def hold():\n"
        "    try: await adapter_of(Path(sys.argv[1])).hold(freeze())\n"
        "    except PrivilegeMissing as error: print(error.hint)\n"
        "asyncio.run(hold())\n"
    )
    with database(path):
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", program]
        done = subprocess.run(
            [*command, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=6 * BOUND, check=False
        )
    if "Permission" in done.stderr or "ModuleNotFound" in done.stderr:
        pytest.skip("nobody may not read this checkout")
    assert done.stdout.splitlines()[0] == "no_permission", done
    assert "Run the agent as the owner" in done.stdout


async def test_a_database_that_may_only_be_read_is_refused_though_its_lock_seems_to_be_given(
    loop_disks: LoopDisks,
) -> None:
    """`BEGIN IMMEDIATE` succeeds there, and locks nothing."""
    disk = loop_disks.make("shop", "ext4")
    with database(disk.path / "shop.db", "DELETE"):
        pass
    # Not mounted anew: a file system that another mount namespace still has stays as it was, for writing.
    path = loop_disks.bind(disk, "read-only", read_only=True) / "shop.db"
    assert "right to write" in (await _find(path, "no_permission")).hint
    with pytest.raises(PrivilegeMissing):
        await adapter_of(path).hold(freeze())


@pytest.mark.parametrize(
    "files", [(), ("relative.db",), ("/" + "x" * 256,), ("/a\0b",), tuple(f"/{n}" for n in range(5))]
)
def test_settings_that_cannot_be(files: tuple[str, ...]) -> None:
    with pytest.raises(SettingInvalid):
        sqlite.Adapter(sqlite.Settings(files=files))


def test_privileges_are_an_error_of_their_own() -> None:
    refusal = sqlite_files.refused(
        "/srv/x.db", {"refused": "SQLITE_READONLY", "sentence": "attempt to write a readonly database"}
    )
    assert isinstance(refusal, PrivilegeMissing)
