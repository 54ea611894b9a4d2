"""A small file system of its own (ext4 on a loop device) that a test freezes under the broker's feet.

    async with disk.frozen():
        ...

Who freezes and thaws is an independent process (`disk_keeper.py`) that thaws whatever happens, also when the test dies.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.running_broker import short_directory

FREEZE_LIMIT = timedelta(seconds=45)
"""The longest freeze, whatever a test does."""
BOUND = 20.0
"""Seconds for making, freezing and thawing."""
_SIZE = 48 * 1024 * 1024
_KEEPER = Path(__file__).with_name("disk_keeper.py")


class FrozenDisk:
    """One mounted file system.

    Args:
        home: a directory elsewhere, for the image and the mount point.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "disk"
        """Its mount point."""
        self._image = home / "image"
        self._keeper: subprocess.Popen[str]

    def make(self) -> None:
        """Make it and mount it. The caller owes `close`, also when this fails."""
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(_SIZE)
        run("mkfs.ext4", "-q", str(self._image))
        run("mount", "-o", "loop", str(self._image), str(self.path))
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), str(self.path), str(FREEZE_LIMIT.total_seconds())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _tell(self, command: str) -> str:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(f"{command}\n")
        self._keeper.stdin.flush()
        return self._keeper.stdout.readline().strip()

    async def freeze(self) -> None:
        """Freeze it."""
        async with asyncio.timeout(BOUND):
            assert await asyncio.to_thread(self._tell, "freeze") == "freeze"

    async def thaw(self) -> None:
        """Thaw it. It must have been frozen until now: otherwise the test has proved nothing."""
        async with asyncio.timeout(BOUND):
            assert await asyncio.to_thread(self._tell, "thaw") == "thaw"

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Frozen inside this block."""
        await self.freeze()
        try:
            yield
        except BaseException:
            await asyncio.to_thread(self._tell, "thaw")
            raise
        await self.thaw()

    def close(self) -> None:
        """Thaw, unmount, and wait until nothing is left of it."""
        keeper = getattr(self, "_keeper", None)
        if keeper is not None:
            if keeper.stdin is not None and not keeper.stdin.closed:
                keeper.stdin.close()
            keeper.wait(BOUND)
            keeper.stdout.close()
        elif os.path.ismount(self.path):
            run("umount", str(self.path))
        deadline = time.monotonic() + BOUND
        while left := self._left():  # the keeper's second process works on, and the kernel after it
            assert time.monotonic() < deadline, left
            time.sleep(0.01)

    def _left(self) -> str:
        if os.path.ismount(self.path):
            return f"{self.path} is still mounted"
        devices = run("losetup", "--list", "--noheadings", "--output", "BACK-FILE")
        return f"{self._image} still has a loop device" if str(self._image) in devices else ""


def run(*command: str) -> str:
    """A program of the system that must succeed; what it has said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def why_not() -> str:
    """Why this machine cannot have such a disk; empty: it can."""
    if not sys.platform.startswith("linux"):
        return "file systems are frozen with Linux's ioctls here"
    if os.geteuid() != 0:
        return "only root can mount and freeze a file system"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "there is no loop device (/dev/loop-control)"
    missing = [name for name in ("mkfs.ext4", "mount", "umount", "losetup") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (sh scripts/setup tools)" if missing else ""


@pytest.fixture
def disk() -> Iterator[FrozenDisk]:
    """A mounted, empty file system. Skips, with the reason, where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    home = short_directory()
    disk = FrozenDisk(home)
    try:
        disk.make()
        yield disk
    finally:
        disk.close()
        shutil.rmtree(home)
