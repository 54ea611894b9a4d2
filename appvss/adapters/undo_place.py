"""Where undo records may lie, which boot of the machine this is, and which processes live: what `undo.py` asks it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Final

from appvss.adapters.errors import SettingInvalid

DIRECTORY: Final = Path("/run/appvss-agent/undo")
VARIABLE: Final = "APPVSS_UNDO_DIRECTORY"
"""An environment variable that names another directory, for adapters that no agent runs."""
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_MOUNTS: Final = Path("/proc/self/mountinfo")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_MOUNT_LIMIT: Final = 5.0  # seconds
_DEAD: Final = frozenset("ZXx")  # proc(5): a zombie holds nothing any more


def undo_directory(directory: Path | None = None) -> Path:
    """The directory for records, made if it is not there.

    Args:
        directory: None: what `APPVSS_UNDO_DIRECTORY` says, else `/run/appvss-agent/undo`.

    Raises:
        SettingInvalid: it cannot be made, others may write to it, or it is not in memory.
    """
    chosen = directory or Path(os.environ.get(VARIABLE) or DIRECTORY)
    if not chosen.is_absolute():
        raise SettingInvalid(f"the undo directory {chosen} is not absolute", HINT)
    try:
        there = next(each for each in (chosen, *chosen.parents) if each.exists())
        kind = _kind(there, there.stat().st_dev)
    except OSError as error:  # one on the way to it may not be entered
        raise SettingInvalid(f"the undo directory {chosen} cannot be looked at: {error.strerror}", HINT) from error
    if kind not in _MEMORY:
        raise SettingInvalid(f"the undo directory {chosen} lies on {kind or 'an unknown file system'}", HINT)
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = chosen.stat(follow_symlinks=False)
    except OSError as error:
        raise SettingInvalid(f"the undo directory {chosen} cannot be made: {error.strerror}", HINT) from error
    if not stat.S_ISDIR(about.st_mode):
        raise SettingInvalid(f"the undo directory {chosen} is no directory", HINT)
    if about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise SettingInvalid(f"the undo directory {chosen} is open to other users", HINT)
    return chosen


HINT: Final = (
    f"Name a directory of this user alone, mode 0700, on a tmpfs (such as {DIRECTORY}): a disk may be frozen when the "
    f"record is needed. The agent has a setting for it; elsewhere the environment variable {VARIABLE} names it."
)


def started(pid: int) -> int | None:
    """When a process began, in ticks; 0: this machine does not tell; None: there is none, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0 if not _BOOT.exists() and _is_running(pid) else None
    fields = text.rpartition(")")[2].split()  # the command's name before it may have anything in it
    return None if fields[0] in _DEAD else int(fields[19])


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def boot() -> str:
    """Which boot this is; empty where the machine does not tell, and there the tmpfs alone has to do."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _kind(directory: Path, device: int) -> str:
    """The type of the file system that a directory lies on; empty: it cannot be found out."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return _kind_by_mount(directory)
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return ""


def _kind_by_mount(directory: Path) -> str:
    """The same where there is no /proc: from `mount -p`, in the form of fstab(5), as on FreeBSD."""
    command = ("/sbin/mount", "-p")
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_MOUNT_LIMIT).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return kind_in_fstab(text, directory)


def kind_in_fstab(text: str, directory: Path) -> str:
    """The type of the file system that a directory lies on, by a table as of fstab(5); the longest prefix counts."""
    kinds = {Path(fields[1]): fields[2] for line in text.splitlines() if len(fields := line.split()) >= 3}
    return next((kinds[each] for each in (directory, *directory.parents) if each in kinds), "")
