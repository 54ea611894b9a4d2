"""The runtime directory: made safe, locked, and the sockets in it. See ARCHITECTURE section 8.

gRPC steals a socket's path from a running server without a word (facts/libraries.md section 3), so the lock comes
first, and whoever does not get it touches nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appvss import contract
from appvss.model.errors import LockHeld, RuntimeDirectoryUnusable

_DIRECTORY_MODE: Final = 0o750
_APPS_MODE: Final = 0o660
_ADMIN_MODE: Final = 0o600
_FILES: Final = frozenset(
    {
        *(contract.APPS_SOCKET, contract.PEER_SOCKET, contract.ADMIN_SOCKET, contract.LOCK_FILE),
        *("frozen.json", "frozen.json.new"),  # of a broker that was killed with file systems frozen (freezer/record.py)
    }
)
_HINT: Final = "Name another directory in `broker.runtime_directory`, or let only the broker's user write in this one."


def group_id(name: str) -> int | None:
    """The id of a group; None for an empty name and for a group that does not exist."""
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        return None


class RuntimeDirectory:
    """The directory of the sockets, held by this broker alone until `close`.

    Args:
        path: the directory; made if it is not there. One that holds other things than a broker's keeps its group and
            mode.
        group: the group whose members may take part as apps; None: only the broker's own user.

    Raises:
        RuntimeDirectoryUnusable: it cannot be made or entered, is no directory, or others may write in it.
        SocketPathTooLong: the sockets' paths would not fit.
        LockHeld: another broker has it.
    """

    def __init__(self, path: Path, group: int | None) -> None:
        self.path = path
        self._group = group
        self.apps_socket = contract.socket_path(path, contract.APPS_SOCKET)
        self.peer_socket = contract.socket_path(path, contract.PEER_SOCKET)
        self.admin_socket = contract.socket_path(path, contract.ADMIN_SOCKET)
        self._make()
        self._lock = self._take_lock()
        try:
            self._let_group_enter()
        except RuntimeDirectoryUnusable:
            self.close()
            raise

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            found = self.path.stat()
        except OSError as error:
            raise self._unusable(error) from error
        writers = stat.S_IWOTH if self._group is not None and self._is_ours() else stat.S_IWOTH | stat.S_IWGRP
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & writers:
            raise RuntimeDirectoryUnusable(
                f"the runtime directory {self.path} belongs to user {found.st_uid} "
                f"with mode {stat.S_IMODE(found.st_mode):o}: others could replace the sockets",
                _HINT,
            )

    def _is_ours(self) -> bool:
        """Whether nothing but a broker's files lies in the directory, so that its group and mode are ours to set."""
        try:
            return set(os.listdir(self.path)) <= _FILES
        except OSError as error:
            raise self._unusable(error) from error

    def _let_group_enter(self) -> None:
        if self._group is None or not self._is_ours():
            return
        try:
            os.chown(self.path, -1, self._group)
            self.path.chmod(_DIRECTORY_MODE)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> RuntimeDirectoryUnusable:
        return RuntimeDirectoryUnusable(f"the runtime directory {self.path} cannot be used: {error.strerror}", _HINT)

    def _take_lock(self) -> int:
        path = self.path / contract.LOCK_FILE
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RuntimeDirectoryUnusable(
                f"the lock file {path} cannot be opened: {error.strerror}",
                "Run the broker as the user that owns the runtime directory, or name another directory.",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(lock, 32).decode(errors="replace").strip()
            os.close(lock)
            raise LockHeld(
                f"another broker (process {holder or 'unknown'}) holds {path}",
                "Stop that broker first, or give this one a runtime directory of its own.",
            ) from error
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        return lock

    @contextlib.contextmanager
    def private(self) -> Iterator[None]:
        """Sockets that are made inside this block are closed to everybody else until `let_apps_in`."""
        before = os.umask(0o177)
        try:
            yield
        finally:
            os.umask(before)

    def let_apps_in(self) -> None:
        """Open the apps' sockets to the group, once they are made. The admin socket stays its owner's."""
        for path in (self.apps_socket, self.peer_socket):
            if self._group is not None:
                os.chown(path, -1, self._group)
            os.chmod(path, _APPS_MODE)
        os.chmod(self.admin_socket, _ADMIN_MODE)

    def close(self) -> None:
        """Remove the sockets and let go of the lock. May be called twice."""
        if self._lock < 0:
            return
        for path in (self.apps_socket, self.peer_socket, self.admin_socket):
            with contextlib.suppress(OSError):  # a dead socket that stays does no harm; a lock that stays would
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    os.unlink(path)
        os.close(self._lock)
        self._lock = -1
