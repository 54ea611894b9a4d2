"""What undoes a hold that does not end by itself, should the adapter die in it (facts/database-quiesce.md section 10).

A record is written before the hold is taken and removed after it was released. It lies on a tmpfs, so it can be
written, read and removed while every disk of the machine is frozen, and no restart of the machine finds it again:

    with recorded(undo_directory(self.undo_directory), UndoRecord.of(app, "cgroup", cycle, {"cgroup": "/shop"})):
        freeze_the_cgroup()
        ...
        thaw_the_cgroup()

Who finds one whose owner is dead undoes it: `settle`, by the agent at its start and when a child has died, by its
guardian, and by the next hold of the same app. A record says *what* is held, never *how* it is ended: that, the
configured adapter knows. So nothing of it is ever executed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from appvss.adapters.errors import HoldRefused, SettingInvalid
from appvss.adapters.undo_place import DIRECTORY, HINT, VARIABLE, boot, started, undo_directory
from appvss.model.duration import format_duration
from appvss.model.errors import AppvssError

if TYPE_CHECKING:
    from appvss.adapters.base import Adapter

__all__ = [
    "DIRECTORY",
    "VARIABLE",
    "Pending",
    "PendingState",
    "Settled",
    "UndoRecord",
    "Written",
    "forget",
    "look",
    "pending",
    "recorded",
    "settle",
    "settle_later",
    "settle_own",
    "undo_directory",
    "write",
]

_SUFFIX: Final = ".undo"
_FORMAT: Final = 1
_SIZE_LIMIT: Final = 64 * 1024
_NOBODY: Final = 0  # no process has this number

_FIRST_PAUSE: Final = timedelta(seconds=1)
_LAST_PAUSE: Final = timedelta(minutes=1)

_later: set[asyncio.Task[None]] = set()
_in_use: set[Path] = set()
"""The records of this process whose hold is still in somebody's hands. One that is not, nobody here looks after."""


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """One hold that may be in force, and who has taken it."""

    app: str
    """The app's name in the agent's configuration; the engine's, where no agent runs it."""
    engine: str
    cycle: str
    what: Mapping[str, str]
    """What is held, for `Adapter.undo`: a cgroup, an address. Never a secret and never a command."""
    boot_id: str
    """The boot in which it was written: after another one nothing of it is held. Empty: unknown."""
    owner_pid: int
    owner_started: int
    """When the owner began, in the kernel's ticks after the boot (proc_pid_stat(5), field 22); 0: unknown."""
    written_at: str
    """For people: the wall clock, ISO 8601, UTC."""

    @classmethod
    def of(cls, app: str, engine: str, cycle: str, what: Mapping[str, str]) -> UndoRecord:
        """A record of this process and of now."""
        pid = os.getpid()
        return cls(
            app=app or engine,
            engine=engine,
            cycle=cycle,
            what=dict(what),
            boot_id=boot(),
            owner_pid=pid,
            owner_started=started(pid) or 0,
            written_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )


class PendingState(StrEnum):
    """What a file in the undo directory means."""

    DUE = "due"
    """Its owner is gone: undo it."""
    LIVE = "live"
    """Its owner is alive and looks after it."""
    VOID = "void"
    """It is of another boot: nothing of it is held, it can be removed."""
    UNREADABLE = "unreadable"
    """It is nobody's record, or belongs to another user: named, never acted upon, and left where it is."""


@dataclass(frozen=True, slots=True)
class Pending:
    """One file in the undo directory."""

    path: Path
    state: PendingState
    record: UndoRecord | None = None
    """None: it is `UNREADABLE`."""
    reason: str = ""
    """Why it is `UNREADABLE`, one lower-case sentence."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one record that was due."""

    pending: Pending
    failure: str = ""
    """Why the hold may be in force still, one lower-case sentence; empty: it is not, and the record is gone."""
    hint: str = ""

    @property
    def is_undone(self) -> bool:
        """Whether nothing of it is held any more."""
        return not self.failure


class Written:
    """A record that lies in the directory, in the hands of who has written it."""

    def __init__(self, path: Path, record: UndoRecord) -> None:
        self.path = path
        self.record = record

    def forget(self) -> None:
        """Remove it: the hold was released. May be called again."""
        _in_use.discard(self.path)
        with contextlib.suppress(OSError):  # what cannot be removed is undone once more, and that does no harm
            self.path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Let it lie: the hold may be in force still, and its owner can do no more. The next `settle` undoes it, also
        one of another process, while this one lives. May be called again.
        """
        if self.path in _in_use:
            _in_use.discard(self.path)
            with contextlib.suppress(OSError):  # then it is due when this process has ended
                _write(self.path, replace(self.record, owner_pid=_NOBODY, owner_started=0))

    @contextmanager
    def kept_from_others(self) -> Iterator[int]:
        """A descriptor that keeps others from undoing, as long as a copy of it is open in any process: for one that
        works at the hold and may outlive this one.

        Raises:
            OSError: the record is gone.
        """
        descriptor = _claim(self.path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def write(directory: Path, record: UndoRecord) -> Written:
    """Write a record, whole or not at all. To be done before the hold is taken.

    Args:
        directory: from `undo_directory`.
        record: what will be held.

    Raises:
        SettingInvalid: the directory takes no file; then take no hold.
    """
    path = directory / f"{quote(record.app, safe='')}.{record.owner_pid}.{secrets.token_hex(4)}{_SUFFIX}"
    _in_use.add(path)
    try:
        _write(path, record)
    except OSError as error:
        _in_use.discard(path)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise SettingInvalid(f"no undo record can be written to {directory}: {error.strerror}", HINT) from error
    return Written(path, record)


def _write(path: Path, record: UndoRecord) -> None:
    text = json.dumps({"format": _FORMAT, **asdict(record)}).encode("ascii")
    if len(text) > _SIZE_LIMIT:
        raise SettingInvalid(f"an undo record of {len(text)} bytes is too large", "Hold fewer things at a time.")
    new = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def recorded(directory: Path, record: UndoRecord) -> Iterator[Written]:
    """A record around a hold: written before the block, removed when the block has ended well.

    A block that ends with an exception may not have released: the record is left, and the next `settle` undoes it.

    Raises:
        SettingInvalid: it cannot be written; the block was not entered.
    """
    written = write(directory, record)
    try:
        yield written
    except BaseException:
        written.leave()
        raise
    written.forget()


def pending(directory: Path) -> tuple[Pending, ...]:
    """Every record in the directory, with what it means now; none where there is no directory. Changes nothing."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return ()
    return tuple(look(directory / name) for name in names if name.endswith(_SUFFIX))


def look(path: Path) -> Pending:
    """What one file in the undo directory means now."""
    try:
        record = _read(path)
    except FileNotFoundError:
        return Pending(path, PendingState.UNREADABLE, reason="it is gone")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return Pending(path, PendingState.UNREADABLE, reason=_reason(error))
    if record.boot_id != boot():
        return Pending(path, PendingState.VOID, record)
    return Pending(path, PendingState.LIVE if _is_kept(path, record) else PendingState.DUE, record)


def forget(path: Path) -> None:
    """Remove a record. May be called again.

    Raises:
        OSError: the directory cannot be written.
    """
    _in_use.discard(path)
    path.unlink(missing_ok=True)


async def settle(directory: Path, adapters: Mapping[str, Adapter[Any]]) -> tuple[Settled, ...]:
    """Undo everything that is due and belongs to one of the adapters, within its `undo_limit`; remove what is void.

    Several may do so at once: a record is claimed first, and who comes second reports that it is being undone.

    Args:
        directory: from `undo_directory`.
        adapters: by the name of their app, as configured. A record of another app, or of another engine than the
            adapter's, is reported and left.

    Returns:
        One for each record that was due. Those that are live, void or unreadable are not in it: see `pending`.
    """
    settled = []
    for each in pending(directory):
        if each.state is PendingState.VOID:
            with contextlib.suppress(OSError):
                forget(each.path)
        elif each.state is PendingState.DUE and each.record is not None:
            adapter = adapters.get(each.record.app)
            if adapter is None or adapter.engine != each.record.engine or not adapter.is_of(each.record.what):
                failure = f"no app {each.record.app!r} with the adapter {each.record.engine} is configured for it"
                settled.append(Settled(each, failure, f"Undo it by hand ({_what(each)}), and remove {each.path}."))
            else:
                settled.append(await _undo(each, adapter))
    return tuple(settled)


async def settle_own(adapter: Adapter[Any], directory: Path) -> None:
    """Undo what an earlier life of this adapter has left behind: to be done before it holds anything again.

    Raises:
        HoldRefused: it cannot be undone, or somebody else is at it.
    """
    app = adapter.app or adapter.engine
    mine = [each for each in pending(directory) if each.record is not None and each.record.app == app]
    for each in mine:
        if each.state is not PendingState.DUE or each.record is None or not adapter.is_of(each.record.what):
            continue
        done = await _undo(each, adapter)
        if not done.is_undone:
            raise HoldRefused(
                f"the hold of cycle {each.record.cycle} that was left behind is not undone: {done.failure}", done.hint
            )


def settle_later(adapter: Adapter[Any], directory: Path) -> None:
    """Have this process undo what it has left, again and again until it is done: for a hold that had to end while the
    file systems may be frozen, when nobody may be asked. Returns at once; needs a running event loop.
    """
    task = asyncio.get_running_loop().create_task(_settle_until_done(adapter, directory), name="undo")
    _later.add(task)
    task.add_done_callback(_later.discard)


async def _settle_until_done(adapter: Adapter[Any], directory: Path) -> None:
    pause = _FIRST_PAUSE
    while True:  # whoever gave up would leave it held for as long as this process lives: nobody else looks meanwhile
        await asyncio.sleep(pause.total_seconds())
        with contextlib.suppress(HoldRefused):
            await settle_own(adapter, directory)
            return
        pause = min(pause * 2, _LAST_PAUSE)


async def _undo(due: Pending, adapter: Adapter[Any]) -> Settled:
    limit = adapter.undo_limit
    try:
        descriptor = _claim(due.path)
    except FileNotFoundError:
        return Settled(due)  # somebody else has undone it
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return Settled(due, "somebody else is undoing it", "Try again in some seconds.")
        return Settled(due, f"its record cannot be opened: {error.strerror}", f"Look at {due.path}.")
    try:
        now = look(due.path)
        if now.state is not PendingState.DUE or now.record is None:
            return Settled(due)
        async with asyncio.timeout(limit.total_seconds()):
            await adapter.undo(now.record.what)
        forget(due.path)
    except TimeoutError:
        return Settled(due, f"it did not end within {format_duration(limit)}", f"Undo it by hand: {_what(due)}.")
    except AppvssError as error:
        return Settled(due, error.sentence, error.hint)
    except Exception as error:  # noqa: BLE001 - the undo of one app must not end that of the others; it is reported
        return Settled(due, f"{type(error).__name__}: {error}", f"Undo it by hand: {_what(due)}.")
    finally:
        os.close(descriptor)
    return Settled(due)


def _what(due: Pending) -> str:
    what = due.record.what if due.record is not None else {}
    return ", ".join(f"{name} {value}" for name, value in sorted(what.items()))


def _claim(path: Path) -> int:
    """A descriptor with a lock of the record's file. The kernel drops it with the process.

    Raises:
        OSError: another one has it (EWOULDBLOCK), or it is gone.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read(path: Path) -> UndoRecord:
    """The record in a file.

    Raises:
        OSError, ValueError, TypeError, KeyError: it is none, or not this user's.
    """
    # O_NONBLOCK: whoever has put a FIFO there must not be waited for.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            raise ValueError("it is no plain file")
        if about.st_uid != os.geteuid():
            raise ValueError(f"it belongs to user {about.st_uid}")
        if about.st_mode & 0o077:
            raise ValueError(f"its mode is {stat.S_IMODE(about.st_mode):04o}")
        text = file.read(_SIZE_LIMIT + 1)
    if len(text) > _SIZE_LIMIT:
        raise ValueError("it is too large")
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop("format") != _FORMAT or not isinstance(content["what"], dict):
        raise ValueError("it has another format")
    what = content["what"]
    strings = (content["app"], content["engine"], content["cycle"], content["boot_id"], content["written_at"])
    numbers = (content["owner_pid"], content["owner_started"])
    if not all(isinstance(each, str) for each in (*strings, *what.keys(), *what.values())):
        raise TypeError("a text is none")
    if not all(type(each) is int and each >= 0 for each in numbers):
        raise TypeError("a number is none")
    return UndoRecord(**content)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or "it cannot be read").lower()
    text = str(error)
    return text if text.startswith("it ") else "it is no undo record"


def _is_kept(path: Path, record: UndoRecord) -> bool:
    """Whether the owner looks after the record."""
    if record.owner_pid == _NOBODY:
        return False
    if record.owner_pid == os.getpid() and record.owner_started == (started(os.getpid()) or 0):
        return path in _in_use
    began = started(record.owner_pid)
    return began is not None and (began == record.owner_started or 0 in (began, record.owner_started))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
