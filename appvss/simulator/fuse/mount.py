"""Putting a FUSE folder into the file tree and taking it away again. Everything here blocks: call it in a thread."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

from appvss.model.errors import SimulatorUnavailable

FUSE_DEVICE: Final = "/dev/fuse"
FUSE_TYPE: Final = "fuse.appvss"
"""The file-system type of our mounts, by which a stale one is known again."""

_MS_NOSUID, _MS_NODEV = 2, 4
_MNT_DETACH = 2
_STALE_LIMIT = 16
_LOCK_TRIES = 100
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_SECONDS_FOR_FUSERMOUNT = 10
_HINT_FUSE = (
    "Run it on Linux with FUSE (in a container: --device /dev/fuse --cap-add SYS_ADMIN), as root or with fusermount3."
)


class FolderLock:
    """The folder beside the mount: it holds the lock file, and room for a control socket, for root or its owner alone.

    Args:
        directory: the mount's folder, resolved.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.folder = control_folder(directory)
        self._path = self.folder / "lock"
        self._descriptor = -1

    def take(self) -> None:
        """Become the only simulator for this folder.

        Raises:
            SimulatorUnavailable: another one serves it, or the folder beside it cannot be used.
        """
        try:
            for _ in range(_LOCK_TRIES):
                if self._try():
                    return
            raise BlockingIOError
        except BlockingIOError:
            raise SimulatorUnavailable(
                f"another simulator serves {self._directory}", "Stop that one first, or use another folder."
            ) from None
        except OSError as error:
            raise SimulatorUnavailable(
                f"the folder {self.folder} cannot be used: {error.strerror}", "Use a folder whose parent you may write."
            ) from None

    def release(self) -> None:
        """Let another simulator have the folder, and leave nothing behind."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        with contextlib.suppress(OSError):  # somebody is about to take it, or has put a file there
            self.folder.rmdir()

    def _try(self) -> bool:
        """Take the lock; False when its last holder removed what we had just opened."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(folder).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it belongs to somebody else")
            os.fchmod(folder, 0o700)
            descriptor = os.open("lock", _LOCK_FLAGS, 0o600, dir_fd=folder)
        except FileNotFoundError:
            return False
        finally:
            os.close(folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            removed = os.fstat(descriptor).st_nlink == 0
        except OSError:
            os.close(descriptor)
            raise
        if removed:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True


def control_folder(directory: Path) -> Path:
    """The folder beside the mount at `directory`."""
    return directory.with_name(directory.name + ".control")


def resolve(directory: Path) -> Path:
    """The folder's path without symbolic links, found without touching a dead mount at its end."""
    absolute = Path(os.path.abspath(directory))
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def mount(directory: Path) -> int:
    """Mount at `directory`, which is made if it is missing, and cleaned of a mount that a killed simulator left.

    The caller holds the folder's lock, so whatever mount of ours lies there is dead.

    Returns:
        The non-blocking descriptor of /dev/fuse on which the mount must be served.

    Raises:
        SimulatorUnavailable: no FUSE here, no right to mount, or the folder cannot be used.
    """
    if not sys.platform.startswith("linux"):
        raise SimulatorUnavailable(f"the simulator needs Linux's FUSE and this is {sys.platform}", _HINT_FUSE)
    for _ in range(_STALE_LIMIT):
        if not _is_mounted(directory):
            break
        unmount(directory)
    _check_folder(directory)
    problem = ""
    if os.geteuid() == 0:
        try:
            return _mount_directly(directory)
        except OSError as error:
            problem = f"{FUSE_DEVICE}: {error.strerror}"
    if shutil.which("fusermount3") is not None and os.path.exists(FUSE_DEVICE):
        return _mount_by_fusermount(directory)
    if not problem:
        problem = f"{FUSE_DEVICE} is missing" if not os.path.exists(FUSE_DEVICE) else "not root and no fusermount3"
    raise SimulatorUnavailable(f"nothing can be mounted at {directory}: {problem}", _HINT_FUSE)


def unmount(directory: Path) -> None:
    """Take the mount out of the file tree at once, even if somebody still uses it. Nothing mounted is fine too."""
    if os.geteuid() == 0:
        library = ctypes.CDLL(None, use_errno=True)
        if library.umount2(os.fsencode(directory), _MNT_DETACH) == 0:
            return
    program = shutil.which("fusermount3")
    if program is not None and _is_mounted(directory):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [program, "-u", "-z", "-q", "--", directory],
                check=False,
                timeout=_SECONDS_FOR_FUSERMOUNT,
                stdin=subprocess.DEVNULL,
            )


def _check_folder(directory: Path) -> None:
    hint = "Name an empty folder, or one that does not exist yet."
    try:
        if directory.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, "it is a symbolic link")
        directory.mkdir(mode=0o755, exist_ok=True)
        empty = not any(directory.iterdir())
    except OSError as error:
        raise SimulatorUnavailable(f"{directory} cannot be used: {error.strerror}", hint) from None
    if not empty:
        raise SimulatorUnavailable(f"{directory} is not empty", hint)


def _mount_directly(directory: Path) -> int:
    descriptor = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    options = f"fd={descriptor},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,allow_other,default_permissions"
    library = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
    if library.mount(b"appvss", os.fsencode(directory), FUSE_TYPE.encode(), flags, options.encode()) != 0:
        code = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(code, os.strerror(code))
    return descriptor


def _mount_by_fusermount(directory: Path) -> int:
    """fusermount3 mounts with its own rights and hands the descriptor over a socket (libfuse's mount protocol)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = "fsname=appvss,subtype=appvss,nosuid,nodev,default_permissions"
        result = subprocess.run(
            ["fusermount3", "-o", options, "--", directory],  # noqa: S607 - found on the PATH of its user, as libfuse does
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SECONDS_FOR_FUSERMOUNT,
            check=False,
        )
        if result.returncode != 0:
            text = " ".join(result.stderr.decode(errors="replace").split())[:200]
            raise SimulatorUnavailable(f"fusermount3 refuses {directory}: {text}", _HINT_FUSE)
        ours.settimeout(_SECONDS_FOR_FUSERMOUNT)
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC)
    received = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: received.itemsize])
    if not received:
        raise SimulatorUnavailable(f"fusermount3 gave no descriptor for {directory}", _HINT_FUSE)
    os.set_blocking(received[0], False)
    return received[0]


def _is_mounted(directory: Path) -> bool:
    """Whether a mount of our type lies at `directory`; proc(5), mountinfo."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            if point == str(directory) and fields[fields.index("-") + 1] == FUSE_TYPE:
                return True
    return False
