"""A small disk that a test can fill: a tmpfs of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_LIMIT = 20.0


@cache
def may_mount() -> bool:
    """Whether this process may mount a disk."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory(prefix="av-disk-", dir="/tmp") as folder:
        try:
            disk = Disk(Path(folder) / "disk", 64)
        except subprocess.CalledProcessError:
            return False
        disk.remove()
    return True


class Disk:
    """A file system in memory, mounted until `remove`.

    Args:
        folder: is made, and is where it lies.
        kibibytes: how much it holds.
    """

    def __init__(self, folder: Path, kibibytes: int = 2048) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        options = f"size={kibibytes}k,mode=0700"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "appvss-test", folder],
            check=True,
            timeout=_LIMIT,
            capture_output=True,
        )

    def fill(self) -> None:
        """Leave no room on it."""
        file = os.open(self.folder / "filler", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            for size in (1 << 16, 4096, 1):
                try:
                    while True:
                        os.write(file, bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        finally:
            os.close(file)

    def free(self) -> None:
        """There is room again."""
        (self.folder / "filler").unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount it. Nobody may use it any more."""
        subprocess.run(["umount", self.folder], check=True, timeout=_LIMIT)
