"""A seam in one process of a test: its wall clock jumps, or its disk or its log is slow, when the test says so.

No name space holds a wall clock of its own (time_namespaces(7)), so a small C library is loaded into the process that
adds an offset to what it reads (`seam.c`). It is compiled once, and where there is no compiler, there is no seam.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("seam.c")
_PAGE = struct.Struct("=qq")
_STALL_DISK, _STALL_LOG = 1, 2


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which("gcc") or shutil.which("cc")


@cache
def _library() -> Path:
    """The compiled library. It stays for the life of this process."""
    found = compiler()
    assert found is not None, "there is no C compiler"
    folder = tempfile.TemporaryDirectory(prefix="av-seam-", dir="/tmp")
    _folders.append(folder)
    library = Path(folder.name) / "seam.so"
    subprocess.run([found, "-shared", "-fPIC", "-O2", "-o", library, _SOURCE, "-ldl"], check=True, timeout=60)
    return library


_folders: list[tempfile.TemporaryDirectory[str]] = []


class Seam:
    """The page that one process or more look at.

    Args:
        path: where it is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(_PAGE.pack(0, 0))
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._page = mmap.mmap(file, _PAGE.size)
        finally:
            os.close(file)
        self._offset, self._stalled = 0, 0

    @property
    def environment(self) -> dict[str, str]:
        """For the processes."""
        return {"LD_PRELOAD": str(_library()), "APPVSS_TEST_SEAM": str(self._path)}

    def jump(self, length: timedelta) -> None:
        """Their wall clock is off by this from now on; zero: it is right again."""
        self._offset = length // timedelta(microseconds=1) * 1000
        self._tell()

    def stall_disk(self) -> None:
        """What they flush to a disk waits, five seconds at most."""
        self._stalled |= _STALL_DISK
        self._tell()

    def stall_log(self) -> None:
        """What they write to standard error waits, five seconds at most."""
        self._stalled |= _STALL_LOG
        self._tell()

    def flow(self) -> None:
        """Nothing waits any more."""
        self._stalled = 0
        self._tell()

    def close(self) -> None:
        """At the end."""
        self._page.close()

    def _tell(self) -> None:
        self._page[:] = _PAGE.pack(self._offset, self._stalled)
