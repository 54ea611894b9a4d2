"""A record outlives its owner, and is acted upon once that is dead, never before, and by nobody it is not meant for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from appvss.adapters import undo, undo_place
from appvss.adapters.base import Adapter, AutoRelease, Preflight, Properties
from appvss.adapters.errors import HoldRefused, ServerUnreachable, SettingInvalid
from appvss.adapters.undo import PendingState, UndoRecord, recorded
from appvss.sdk.freeze import Freeze
from tests.support.memory_directory import memory

__all__ = ["memory"]

BOUND = 20.0


class Latch(Adapter[None]):
    """Something that stays held until it is undone: a file."""

    engine: ClassVar[str] = "latch"
    properties: ClassVar[Properties] = Properties(AutoRelease.NOBODY, True, False)

    def __init__(self, held: Path) -> None:
        self.held = held
        self.undone: list[Mapping[str, str]] = []
        self.entered = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def preflight(self) -> Preflight:
        return Preflight()

    async def hold(self, freeze: Freeze) -> None: ...

    def evidence(self, held: None) -> Mapping[str, str]:
        return {}

    async def confirm(self, held: None) -> None: ...

    async def release(self, held: None, freeze: Freeze) -> None: ...

    def is_of(self, record: Mapping[str, str]) -> bool:
        return record.get("held") == str(self.held)

    async def undo(self, record: Mapping[str, str]) -> None:
        self.entered.set()
        await self.may_end.wait()
        self.undone.append(record)
        self.held.unlink(missing_ok=True)


OWNER = """
import sys
from pathlib import Path
from appvss.adapters.undo import UndoRecord, recorded, undo_directory
directory, held = map(Path, sys.argv[1:3])
with recorded(undo_directory(directory), UndoRecord.of("orders", "latch", "c-1", {"held": str(held)})):
    held.touch()
    print("held", flush=True)
    sys.stdin.read()
    held.unlink()
"""


@contextmanager
def owner(directory: Path, held: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds: it has written its record, and holds until its standard input ends."""
    command = [sys.executable, "-c", OWNER, str(directory), str(held)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def states(directory: Path) -> list[PendingState]:
    return [each.state for each in undo.pending(directory)]


async def test_a_killed_owners_hold_is_undone_and_a_live_owners_is_not(memory: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    latch = Latch(held)
    with owner(memory / "undo", held) as process:
        directory = undo.undo_directory(memory / "undo")
        assert states(directory) == [PendingState.LIVE]
        assert await undo.settle(directory, {"orders": latch}) == ()
        assert held.exists()

        process.kill()
        process.wait(BOUND)
        assert states(directory) == [PendingState.DUE]
        (settled,) = await undo.settle(directory, {"orders": latch})
        assert settled.is_undone
        assert not held.exists()
        assert latch.undone == [{"held": str(held)}]
        assert list(directory.iterdir()) == []


def test_an_owner_that_nobody_has_waited_for_yet_is_dead(memory: Path, tmp_path: Path) -> None:
    with owner(memory, tmp_path / "held") as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert states(memory) == [PendingState.DUE]


def test_an_owner_that_releases_leaves_nothing(memory: Path, tmp_path: Path) -> None:
    with owner(memory, tmp_path / "held") as process:
        process.communicate(timeout=BOUND)
        assert process.returncode == 0
    assert list(memory.iterdir()) == []


def test_the_record_lies_there_before_the_hold_and_for_its_user_alone(memory: Path) -> None:
    with recorded(memory, UndoRecord.of("orders", "latch", "c-1", {"held": "x"})) as written:
        assert written.path.stat().st_mode & 0o777 == 0o600
        (found,) = undo.pending(memory)
        assert found.record == written.record
        assert found.record.written_at.endswith("+00:00")
    assert list(memory.iterdir()) == []


async def test_a_block_that_fails_leaves_its_record_to_the_next_hold_of_the_same_process(
    memory: Path, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    latch = Latch(held)
    latch.app = "orders"

    def hold() -> None:
        with recorded(memory, UndoRecord.of("orders", "latch", "c", {"held": str(held)})):
            held.touch()
            assert states(memory) == [PendingState.LIVE]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hold()
    assert states(memory) == [PendingState.DUE]
    await undo.settle_own(latch, memory)
    assert not held.exists()
    assert undo.pending(memory) == ()


async def test_two_who_undo_at_once_do_it_once(memory: Path, tmp_path: Path) -> None:
    first, second = Latch(tmp_path / "held"), Latch(tmp_path / "held")
    first.may_end.clear()
    undo.write(memory, UndoRecord.of("latch", "latch", "c", {"held": str(tmp_path / "held")})).leave()
    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:
        work = tasks.create_task(undo.settle(memory, {"latch": first}))
        await first.entered.wait()
        (refused,) = await undo.settle(memory, {"latch": second})
        assert refused.failure == "somebody else is undoing it"
        with pytest.raises(HoldRefused, match="somebody else"):
            await undo.settle_own(second, memory)
        first.may_end.set()
    assert work.result()[0].is_undone
    assert second.undone == []
    assert await undo.settle(memory, {"latch": second}) == ()


async def test_an_undo_that_fails_or_hangs_keeps_its_record_and_says_why(memory: Path, tmp_path: Path) -> None:
    class Unreachable(Latch):
        async def undo(self, record: Mapping[str, str]) -> None:
            raise ServerUnreachable("nobody listens at /run/x", "Start it.")

    what = {"held": str(tmp_path / "held")}
    undo.write(memory, UndoRecord.of("orders", "latch", "c", what)).leave()
    (settled,) = await undo.settle(memory, {"orders": Unreachable(tmp_path / "held")})
    assert (settled.failure, settled.hint) == ("nobody listens at /run/x", "Start it.")
    hanging = Latch(tmp_path / "held")
    hanging.undo_limit = timedelta(milliseconds=50)
    hanging.may_end.clear()
    (settled,) = await undo.settle(memory, {"orders": hanging})
    assert "did not end within 50.0ms" in settled.failure
    assert states(memory) == [PendingState.DUE]


@pytest.mark.parametrize("wrong", ["app", "engine", "what"])
async def test_no_adapter_undoes_what_it_is_not_configured_for(memory: Path, tmp_path: Path, wrong: str) -> None:
    record = UndoRecord.of("orders", "latch", "c", {"held": str(tmp_path / "held")})
    record = replace(record, **{wrong: {"held": "/etc/passwd"} if wrong == "what" else "other"})
    undo.write(memory, record).leave()
    latch = Latch(tmp_path / "held")
    (settled,) = await undo.settle(memory, {"orders": latch})
    assert "is configured for it" in settled.failure
    assert settled.pending.record is not None
    assert settled.pending.record.what == record.what
    assert latch.undone == []
    assert len(undo.pending(memory)) == 1
    await undo.settle_own(latch, memory)
    assert latch.undone == []


async def test_a_record_of_another_boot_is_void_and_is_removed(memory: Path, tmp_path: Path) -> None:
    record = replace(UndoRecord.of("orders", "latch", "c", {"held": str(tmp_path)}), boot_id="another")
    undo.write(memory, record).leave()
    assert states(memory) == [PendingState.VOID]
    latch = Latch(tmp_path)
    assert await undo.settle(memory, {"orders": latch}) == ()
    assert latch.undone == []
    assert undo.pending(memory) == ()


async def test_a_pid_that_another_process_has_now_keeps_nobody_from_undoing(memory: Path, tmp_path: Path) -> None:
    record = UndoRecord.of("orders", "latch", "c", {"held": str(tmp_path / "held")})
    undo.write(memory, replace(record, owner_pid=1, owner_started=record.owner_started + 1)).leave()
    assert states(memory) == [PendingState.DUE]


async def test_what_is_left_is_everybodys_while_the_owner_lives(memory: Path, tmp_path: Path) -> None:
    written = undo.write(memory, UndoRecord.of("latch", "latch", "c", {"held": str(tmp_path / "held")}))
    written.leave()
    look = "from appvss.adapters import undo; from pathlib import Path; import sys; print(undo.look(Path(sys.argv[1])))"
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", look, written.path, stdout=subprocess.PIPE)
    seen, _ = await other.communicate()
    assert b"PendingState.DUE" in seen
    latch = Latch(tmp_path / "held")
    undo.settle_later(latch, memory)
    async with asyncio.timeout(BOUND):
        await latch.entered.wait()
        await asyncio.wait(undo._later)
    assert undo.pending(memory) == ()


async def test_what_cannot_be_undone_yet_is_tried_until_it_can(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(Latch):
        tries = 0

        async def undo(self, record: Mapping[str, str]) -> None:
            self.tries += 1
            if self.tries < 20:
                raise ServerUnreachable("nobody listens at /run/x", "Start it.")
            await super().undo(record)

    monkeypatch.setattr(undo, "_FIRST_PAUSE", timedelta(milliseconds=1))
    monkeypatch.setattr(undo, "_LAST_PAUSE", timedelta(milliseconds=8))
    undo.write(memory, UndoRecord.of("latch", "latch", "c", {"held": str(tmp_path / "held")})).leave()
    latch = Hanging(tmp_path / "held")
    undo.settle_later(latch, memory)
    async with asyncio.timeout(BOUND):
        await asyncio.wait(undo._later)
    assert latch.tries == 20
    assert undo.pending(memory) == ()


async def test_nobody_undoes_while_a_process_of_a_dead_owner_is_still_at_it(memory: Path, tmp_path: Path) -> None:
    latch = Latch(tmp_path / "held")
    record = replace(UndoRecord.of("latch", "latch", "c", {"held": str(tmp_path / "held")}), owner_pid=0)
    with undo.write(memory, record).kept_from_others() as descriptor:
        other = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, pass_fds=(descriptor,))
    assert states(memory) == [PendingState.DUE]
    (refused,) = await undo.settle(memory, {"latch": latch})
    assert refused.failure == "somebody else is undoing it"
    other.kill()
    await other.wait()
    (settled,) = await undo.settle(memory, {"latch": latch})
    assert settled.is_undone


def _file(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def _valid() -> dict[str, object]:
    record = UndoRecord.of("orders", "latch", "c", {"held": "x"})
    return {"format": 1, **asdict(replace(record, owner_pid=2**22 + 1))}


def _text(**changes: object) -> str:
    return json.dumps({**_valid(), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "7",
        "[]",
        "[" * 50_000,
        json.dumps({"format": 1}),
        _text(format=2),
        _text(what=["rm", "-rf"]),
        _text(what={"held": 7}),
        _text(app=None),
        _text(owner_pid="1"),
        _text(owner_pid=True),
        _text(owner_pid=-1),
        _text(command="rm -rf /"),
        " " * 70_000,
    ],
)
async def test_what_is_no_record_is_named_and_left(memory: Path, text: str) -> None:
    _file(memory / "orders.1.undo", text)
    latch = Latch(Path("x"))
    (found,) = undo.pending(memory)
    assert found.state is PendingState.UNREADABLE
    assert found.reason.startswith("it ")
    assert await undo.settle(memory, {"orders": latch}) == ()
    assert latch.undone == []
    assert (memory / "orders.1.undo").exists()


def test_the_same_text_unchanged_is_a_record(memory: Path) -> None:
    _file(memory / "orders.1.undo", _text())
    assert states(memory) == [PendingState.DUE]


def test_what_others_may_have_written_is_left(memory: Path, tmp_path: Path) -> None:
    _file(memory / "a.undo", _text(), mode=0o644)
    _file(tmp_path / "elsewhere", _text())
    (memory / "b.undo").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(memory / "c.undo", 0o600)
    (memory / "d.undo").mkdir()
    _file(memory / "e", _text())
    (memory / "e.undo").hardlink_to(memory / "e")
    assert states(memory) == [PendingState.UNREADABLE] * 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_record_is_left(memory: Path) -> None:
    _file(memory / "orders.undo", _text())
    os.chown(memory / "orders.undo", 65534, 65534)
    (found,) = undo.pending(memory)
    assert (found.state, found.reason) == (PendingState.UNREADABLE, "it belongs to user 65534")


def test_only_a_private_directory_in_memory_will_do(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(undo.VARIABLE, str(memory / "made" / "here"))
    assert undo.undo_directory() == memory / "made" / "here"
    (memory / "open").mkdir()
    (memory / "open").chmod(0o755)
    (memory / "link").symlink_to(memory / "made")
    (memory / "file").touch()
    for wrong, word in (
        (memory / "open", "open to other users"),
        (memory / "link", "no directory"),
        (memory / "file", "cannot be made"),
        (Path("undo"), "not absolute"),
        (Path("/proc/undo"), "lies on proc"),
    ):
        with pytest.raises(SettingInvalid, match=word) as refused:
            undo.undo_directory(wrong)
        assert undo.VARIABLE in refused.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_directory_that_may_not_be_entered_is_refused(memory: Path) -> None:
    memory.chmod(0o700)
    look = "import os, sys; os.setgid(65534); os.setuid(65534); undo_place.undo_directory(Path(sys.argv[1]))"
    script = f"from pathlib import Path; from appvss.adapters import undo_place; {look}"
    done = subprocess.run(
        [sys.executable, "-c", script, str(memory / "undo")], capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert "SettingInvalid: the undo directory" in done.stderr
    assert "cannot be looked at: Permission denied" in done.stderr


def test_a_directory_on_a_disk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "undo").mkdir(mode=0o700)
    if undo_place._kind(tmp_path, tmp_path.stat().st_dev) == "tmpfs":
        pytest.skip("the temporary directory of this machine is in memory")
    with pytest.raises(SettingInvalid, match="lies on"):
        undo.undo_directory(tmp_path / "undo")
    with pytest.raises(SettingInvalid, match="lies on"):
        undo.undo_directory(tmp_path / "other" / "undo")
    assert not (tmp_path / "other").exists()


def test_a_record_that_cannot_be_written_means_no_hold(memory: Path) -> None:
    with (
        pytest.raises(SettingInvalid, match="No such file"),
        recorded(memory / "gone", UndoRecord.of("orders", "latch", "c", {})),
    ):
        pytest.fail("the hold was taken without a record")


def test_a_name_with_a_slash_stays_in_the_directory(memory: Path) -> None:
    with recorded(memory, UndoRecord.of("../orders", "latch", "c", {})) as written:
        assert written.path.parent == memory
        assert states(memory) == [PendingState.LIVE]


def test_the_kind_of_a_directory_is_found_in_the_table_of_freebsd() -> None:
    table = "/dev/ada0p2\t/\tufs\trw 1 1\ntmpfs /var/run tmpfs rw 0 0\n"
    assert undo_place.kind_in_fstab(table, Path("/var/run/appvss-agent/undo")) == "tmpfs"
    assert undo_place.kind_in_fstab(table, Path("/var/runner")) == "ufs"
