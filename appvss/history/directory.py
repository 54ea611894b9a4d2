"""The state directory: made safe, locked, and the certificate's file in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.history.schema import FILE, WAL_SUFFIX
from appvss.model.certificate import SIZE_LIMIT
from appvss.model.errors import LockHeld, StateDirectoryUnusable

LOCK_FILE: Final = "state.lock"
CERTIFICATE: Final = "certificate.json"
"""There from the last ack of a cycle to its end, so that an image carries it."""
RESTORED: Final = "certificate.restored.json"
"""The certificate of the cycle that this machine was restored from."""
DAMAGED_KEPT: Final = 3
"""Damaged histories that are kept, the newest."""
LOCK_LIMIT: Final = timedelta(milliseconds=500)
"""How long to try for the lock: a predecessor that was killed may be on its way out, and a reader looks at it for a
moment.
"""

_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_TEMPORARY: Final = ".new"
_LOCK_PAUSE: Final = 0.02
_DAMAGED: Final = re.compile(re.escape(FILE) + r"\.corrupt-([0-9]{1,9})")
_FILES: Final = re.compile(
    f"{re.escape(FILE)}.*|{re.escape(LOCK_FILE)}|{re.escape(CERTIFICATE)}.*|{re.escape(RESTORED)}.*"
)
_HINT: Final = "Name another directory in `broker.state_directory`, or let only the broker's user write in this one."


class StateDirectory:
    """The directory of the journal, the history and the certificate. Blocking, like the disk below it.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def is_there(self) -> bool:
        """Whether it is there. Nothing is written, so that a frozen disk answers, too.

        Raises:
            StateDirectoryUnusable: it is no directory, or others own it or may write in it.
            OSError: it cannot be looked at.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        except NotADirectoryError as error:
            raise self._no_directory() from error
        if not stat.S_ISDIR(found.st_mode):
            raise self._no_directory()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StateDirectoryUnusable(
                f"the state directory {self.path} belongs to user {found.st_uid} "
                f"with mode {stat.S_IMODE(found.st_mode):o}: others could change the journal",
                _HINT,
            )
        return True

    def make(self) -> None:
        """Make it if it is not there, for the broker's user alone. One that holds other things keeps its mode.

        Raises:
            StateDirectoryUnusable: it is none, or others own it or may write in it.
            OSError: the disk does not let it be made.
        """
        if not self.is_there():
            try:
                self.path.mkdir(mode=_MODE, parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise self._no_directory() from error
            self.is_there()
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode != _MODE and all(_FILES.fullmatch(name) for name in os.listdir(self.path)):
            self.path.chmod(_MODE)

    def _no_directory(self) -> StateDirectoryUnusable:
        return StateDirectoryUnusable(f"the state directory {self.path} is no directory", _HINT)

    def reach(self) -> None:
        """Return once the disk takes writes; a frozen one keeps its caller until then. All that this changes: the
        directory and the lock file are there.

        Raises:
            StateDirectoryUnusable: as `make`.
            OSError: the disk takes none.
        """
        self.make()
        lock = _open_lock(self.path / LOCK_FILE)
        try:
            os.fchmod(lock, _FILE_MODE)  # to open a file that is there is no write yet (measured, Linux 6 with ext4)
        finally:
            os.close(lock)

    def lock_as_it_is(self, limit: timedelta = LOCK_LIMIT) -> None:
        """Keep every other broker out already now, if the lock file of before is there. Nothing is written, so that a
        frozen disk answers, too. `lock` is still to follow.

        Raises:
            LockHeld: another broker has it.
        """
        with contextlib.suppress(OSError):  # where a lock takes a write (NFS, flock(2)), it is to be had later
            self._hold(os.open(self.path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), limit)

    def lock(self, limit: timedelta = LOCK_LIMIT) -> None:
        """Keep every other broker out until `close`. On a read-only disk the lock file of before serves.

        Raises:
            LockHeld: another broker has it.
            OSError: there is no lock to be had here.
        """
        path = self.path / LOCK_FILE
        if self._lock < 0:
            self._hold(_open_lock(path), limit)
        # On a full or read-only disk the lock is as good without a number in it.
        with contextlib.suppress(OSError), open(path, "w", encoding="ascii", opener=_for_owner) as file:
            file.write(f"{os.getpid()}\n")

    def _hold(self, lock: int, limit: timedelta) -> None:
        """Lock this descriptor, or close it."""
        end = time.monotonic() + limit.total_seconds()
        while not _try_lock(lock):
            if time.monotonic() >= end:
                holder = os.read(lock, 32).decode(errors="replace").strip()
                os.close(lock)
                raise LockHeld(
                    f"another broker (process {holder or 'unknown'}) holds {self.path / LOCK_FILE}",
                    "Stop that broker first, or give this one a state directory of its own.",
                )
            time.sleep(_LOCK_PAUSE)
        self._lock = lock

    def write_certificate(self, text: str) -> None:
        """Put the certificate on disk, whole or not at all, so that an image made from now on carries it.

        Raises:
            OSError: the disk does not take it.
        """
        new = self.path / (CERTIFICATE + _TEMPORARY)
        try:
            with open(new, "w", encoding="utf-8", opener=_for_owner) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.rename(self.path / CERTIFICATE)
            self._sync()
        except OSError:
            with contextlib.suppress(OSError):  # what is left is overwritten next time
                new.unlink(missing_ok=True)
            raise

    def read_certificate(self, name: str = CERTIFICATE) -> str:
        """The text of a certificate; empty: there is none, or it cannot be read, or it is far too long for one."""
        try:
            with open(self.path / name, "rb", opener=_unlinked) as file:
                content = file.read(SIZE_LIMIT + 1)
        except OSError:
            return ""
        return content.decode("utf-8", "replace") if len(content) <= SIZE_LIMIT else ""

    def keep_certificate(self) -> None:
        """The certificate is of the cycle that this machine was restored from: put it under that name.

        Raises:
            OSError: the disk does not do it.
        """
        with contextlib.suppress(FileNotFoundError):
            (self.path / CERTIFICATE).rename(self.path / RESTORED)
            self._sync()

    def remove_certificate(self) -> None:
        """The cycle is over: what is copied from now on does not carry it.

        Raises:
            OSError: the disk does not do it.
        """
        with contextlib.suppress(FileNotFoundError):
            (self.path / CERTIFICATE).unlink()
            self._sync()

    def set_aside(self) -> Path:
        """Give the history another name, with its write-ahead log, and remove all but the newest damaged ones.

        Raises:
            OSError: the disk does not do it.
        """
        numbers = sorted(int(match[1]) for match in map(_DAMAGED.fullmatch, os.listdir(self.path)) if match)
        aside = self.path / f"{FILE}.corrupt-{numbers[-1] + 1 if numbers else 1}"
        log = self.path / (FILE + WAL_SUFFIX)
        with contextlib.suppress(FileNotFoundError):  # first: a log without its file would be thrown away
            log.rename(aside.with_name(aside.name + WAL_SUFFIX))
        (self.path / FILE).rename(aside)
        for number in numbers[: -(DAMAGED_KEPT - 1)]:
            for suffix in ("", WAL_SUFFIX):
                (self.path / f"{FILE}.corrupt-{number}{suffix}").unlink(missing_ok=True)
        self._sync()
        return aside

    def close(self) -> None:
        """Let go of the lock. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _sync(self) -> None:
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def is_locked(directory: Path) -> bool:
    """Whether a broker uses the state directory. It is only looked at, not kept out."""
    try:
        lock = os.open(directory / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _open_lock(path: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, _FILE_MODE)
    except OSError as error:
        try:
            return os.open(path, os.O_RDONLY | flags)
        except OSError:
            raise error from None


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        os.close(lock)
        raise
    return True


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)


def _unlinked(path: str, flags: int) -> int:
    """Not blocking either: in the place of a certificate a pipe could lie."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
