"""The shop's volumes: file systems on loop devices, which nobody but the shop ever sees.

The shop runs in a mount namespace of its own, so that they are gone with it, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samples.demo.stage import DemoFailed

SIZE: Final = 512 * 1024 * 1024
SERVERS_USER: Final = "nobody"
"""Whom the servers run as: they refuse root."""
FREEZE_LIMIT: Final = 20.0
"""Seconds after which a freeze ends by itself."""
_FIFREEZE: Final = 0xC0045877  # linux/fs.h
_FITHAW: Final = 0xC0045878
_INSIDE: Final = "APPVSS_SHOP_INSIDE"


@dataclass(frozen=True, slots=True)
class Volume:
    """One mounted file system."""

    image: Path
    path: Path


def enter_own_namespace(module: str) -> None:
    """Become the same program in a mount namespace of its own; return in there."""
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "yes"
        python = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "--", *python])


def run(*command: str) -> None:
    """A program of the system, which must succeed."""
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def mount_memory(path: Path) -> None:
    """A folder in memory: what must not lie on a disk that may be frozen."""
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(path))


def make_volume(folder: Path, name: str) -> Volume:
    """Make an ext4 in `folder/name.img` and mount it at `folder/name`; it belongs to the servers' user."""
    volume = Volume(folder / f"{name}.img", folder / name)
    with volume.image.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-F", str(volume.image))
    mount(volume.image, volume.path)
    user = pwd.getpwnam(SERVERS_USER)
    os.chown(volume.path, user.pw_uid, user.pw_gid)
    return volume


def mount(image: Path, path: Path) -> None:
    """Mount an image."""
    path.mkdir()
    run("mount", "-o", "loop,nosuid,nodev", str(image), str(path))


def unmount_below(folder: Path) -> None:
    """Unmount what is mounted there, the last first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    for point in reversed(points):
        if point.startswith(f"{folder}/"):
            run("umount", "--lazy", point)


@contextmanager
def frozen(volumes: Sequence[Volume]) -> Iterator[None]:
    """Freeze file systems, as a kernel does for its host. A timer thaws them whatever happens here.

    Raises:
        DemoFailed: it has thawed them before the end: what was copied meanwhile is of no instant.
    """
    descriptors = [os.open(volume.path, os.O_RDONLY | os.O_DIRECTORY) for volume in volumes]
    timer = threading.Timer(FREEZE_LIMIT, _thaw, [descriptors])
    timer.daemon = True
    timer.start()
    try:
        for descriptor in descriptors:
            fcntl.ioctl(descriptor, _FIFREEZE, 0)
        yield
        if timer.finished.is_set():
            raise DemoFailed(f"the copy was not done within {FREEZE_LIMIT:.0f} s, when the file systems were thawed")
    finally:
        timer.cancel()
        _thaw(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _thaw(descriptors: Sequence[int]) -> None:
    for descriptor in reversed(descriptors):
        try:
            fcntl.ioctl(descriptor, _FITHAW, 0)
        except OSError:
            continue  # it is not frozen
