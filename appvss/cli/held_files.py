"""What of a command lies on file systems that are to be frozen, and whether that would hang it.

Reading works on a frozen file system, executing too (facts/linux-hv-vss.md section 5.3); writing waits for the thaw,
which a command in a hold waits for in vain. So a command whose output goes there is refused, and one that only works in
a folder there is told.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Final

from appvss.freezer.mountinfo import Mount, MountTable, read, shown
from appvss.model.errors import UsageError
from appvss.model.filesystem import FilesystemSurvey
from appvss.model.names import printable

_OUTPUTS: Final = ((1, "stdout"), (2, "stderr"))
_IMAGE_LEFT: Final = "image_left"
"""The kind of warning about a file system whose image lies on a frozen one (`freezer/cautions.py`)."""


class HeldFiles:
    """Which places lie on file systems that a freeze would take.

    Args:
        survey: what it would take.
        table: the mounts, as this process sees them. None: now.
    """

    def __init__(self, survey: FilesystemSurvey, table: MountTable | None = None) -> None:
        self._held = {one.device: one.path for one in survey.planned}
        self._carried = {one.path: one.path for one in survey.warnings if one.kind == _IMAGE_LEFT and one.dead_locks}
        self._table = table if table is not None else _table() if self._held else MountTable()

    def check(self, *, may_take_root: bool) -> None:
        """Make sure that a command can run, and a terminal be used, while all of it is frozen.

        Raises:
            UsageError: the root file system is among them, or what the command writes goes to one of them.
        """
        root = self.below_path("/")
        if root and not may_take_root:
            raise UsageError(
                f"{root} would be frozen, which carries the root file system: this terminal, every login and every log "
                "may hang until the thaw",
                "Nothing was frozen. Name other file systems with --mount, hold the apps alone with --no-filesystems, "
                "or add --force.",
            )
        for descriptor, name in _OUTPUTS:
            if (carrier := self._below_output(descriptor)) is not None:
                place, file = carrier
                raise UsageError(
                    f"{name} goes to {file} on {place}, which would be frozen: the first line that is written to it "
                    "would wait for the thaw, and the thaw for the command",
                    "Nothing was frozen. Send the output to another file system, such as /run, or through a pipe.",
                )

    def notes(self) -> Iterator[str]:
        """What somebody should know who runs a command now: one lower-case sentence each."""
        here = self.below_path(".")
        if here:
            yield f"the working directory lies on {here}, which is frozen: the command must write elsewhere"

    def below_path(self, path: str) -> str:
        """The mount point of the file system on which a path lies, if it would be frozen; else empty."""
        if not self._table.mounts:
            return ""  # nothing is frozen here, or this system has other calls
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                return self._below(descriptor)
            finally:
                os.close(descriptor)
        return ""

    def _below_output(self, descriptor: int) -> tuple[str, str] | None:
        """Where an output would hang, and the file that it goes to."""
        if not self._table.mounts:
            return None
        with contextlib.suppress(OSError):
            is_written = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if is_written and stat.S_ISREG(os.fstat(descriptor).st_mode) and (place := self._below(descriptor)):
                return place, printable(os.readlink(f"/proc/self/fd/{descriptor}"), 256)
        return None

    def _below(self, descriptor: int) -> str:
        """As `below_path`, of an open file."""
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
        number = int(fields.get("mnt_id", "-1"))
        mount = next((mount for mount in self._table.mounts if mount.mount_id == number), None)
        return self._carrier(mount)

    def _carrier(self, mount: Mount | None) -> str:
        if mount is None:
            return ""
        upper = mount.super_option("upperdir") if mount.type == "overlay" else None
        found = self._held.get(mount.device) or self._carried.get(shown(mount.path)) or ""
        # What is written to an overlay goes to its upper directory. An overlay of that is not to be had.
        return found or (self._carrier(self._table.carrying(os.path.realpath(upper))) if upper else "")


def _table() -> MountTable:
    try:
        return read()
    except OSError:
        return MountTable()
