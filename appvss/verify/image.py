"""A private copy of what an administrator named: an image, a block device, a folder. The original is only read."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from appvss.model.errors import CopyInUse, CopyInvalid, VerifierUnavailable
from appvss.model.names import printable

_NAME_COPY: Final = "Name a copy or a snapshot of it."
_BLOCK: Final = 512
"""Bytes of what stat(2) counts."""
_MARGIN: Final = 64 * 1024 * 1024
"""Room that must be left, in bytes: a started copy writes."""
_NAMED: Final = 3
"""How many processes one sentence names."""


class Kind(StrEnum):
    """What was named."""

    IMAGE = "image"
    DEVICE = "device"
    FOLDER = "folder"


def kind_of(path: Path) -> Kind:
    """What lies at a path.

    Raises:
        CopyInvalid: nothing, or nothing that can hold files.
    """
    shown = printable(str(path), 1024)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise CopyInvalid(
            f"{shown} cannot be looked at: {reason}", "Name an image, a block device or a folder."
        ) from error
    if stat.S_ISDIR(mode):
        return Kind.FOLDER
    if stat.S_ISBLK(mode):
        return Kind.DEVICE
    if not stat.S_ISREG(mode):
        raise CopyInvalid(f"{shown} is no file, block device or folder", "Name an image, a block device or a folder.")
    return Kind.IMAGE


def refuse_if_in_use(path: Path, kind: Kind) -> None:
    """Refuse what is no copy but the thing itself.

    Raises:
        CopyInUse: a folder below which processes write, or a device or image that is mounted.
    """
    shown = printable(str(path), 1024)
    if kind is Kind.FOLDER:
        if writers := list(_writers_below(path.resolve())):
            more = f" and {len(writers) - _NAMED} more" if len(writers) > _NAMED else ""
            names = ", ".join(writers[:_NAMED])
            raise CopyInUse(f"{shown} is written to by {names}{more}: that is no snapshot", _NAME_COPY)
        return
    if kind is Kind.DEVICE:
        number = os.stat(path).st_rdev
        if point := _mounted_at(f"{os.major(number)}:{os.minor(number)}", os.path.realpath(path)):
            raise CopyInUse(
                f"{shown} is mounted at {printable(point, 1024)}: a copy of it now would be torn", _NAME_COPY
            )
        return
    for device, node in _loop_devices(path):
        if point := _mounted_at(device, node):
            raise CopyInUse(
                f"{shown} is mounted at {printable(point, 1024)}: a copy of it now would be torn", _NAME_COPY
            )


def room_needed(path: Path, kind: Kind) -> int:
    """How many bytes a copy of an image or a device takes, at most."""
    if kind is Kind.IMAGE:
        status = os.stat(path)
        return min(status.st_size, status.st_blocks * _BLOCK)
    if kind is Kind.DEVICE:
        with path.open("rb") as device:
            return device.seek(0, os.SEEK_END)
    done = run("du", "--summarize", "--block-size=1", str(path))
    return int(done.split()[0])


def copy(path: Path, kind: Kind, target: Path) -> None:
    """Copy it, sharing blocks where the file system can, and leaving holes.

    Raises:
        CopyInvalid: it cannot be read.
        VerifierUnavailable: there is no room for it.
    """
    source = f"{path}/." if kind is Kind.FOLDER else str(path)
    try:
        if kind is Kind.IMAGE:
            try:
                run("cp", "--reflink=always", source, str(target))
            except CopyInvalid:
                target.unlink(missing_ok=True)
            else:
                return
        _check_room(path, kind, target.parent)
        run("cp", *(["-a"] if kind is Kind.FOLDER else []), "--reflink=auto", "--sparse=always", source, str(target))
    except CopyInvalid as error:
        if "No space left" in str(error):
            raise _no_room(path, target.parent) from error
        raise


def run(*command: str) -> str:
    """A program of the system; what it has said. It is killed with this process's group, and has no limit of its own.

    Raises:
        CopyInvalid: it failed; with its first line.
        VerifierUnavailable: it is not there.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace", env=environment)
    except FileNotFoundError as error:
        raise VerifierUnavailable(f"there is no {command[0]} on this machine", "Install it.") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[0]
        raise CopyInvalid(
            f"{command[0]}: {printable(said.removeprefix(f'{command[0]}: '))}",
            "Name an image, a block device or a folder.",
        )
    return done.stdout


def _check_room(path: Path, kind: Kind, folder: Path) -> None:
    if room_needed(path, kind) + _MARGIN > shutil.disk_usage(folder).free:
        raise _no_room(path, folder)


def _no_room(path: Path, folder: Path) -> VerifierUnavailable:
    return VerifierUnavailable(
        f"{printable(str(folder), 1024)} has no room for a copy of {printable(str(path), 1024)}",
        "Name a folder with room: --work; best one on the image's own file system, if that shares blocks (xfs, btrfs).",
    )


def _mounted_at(device: str, node: str) -> str:
    """Where a device is mounted for this process; empty: nowhere.

    Args:
        device: `MAJOR:MINOR`, as a file system on one device has it.
        node: `/dev/...`, as others (btrfs) name what they lie on.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # another system: nobody can tell
        return ""
    for fields in map(str.split, lines):
        source = fields[fields.index("-") + 2]
        if fields[2] == device or (source.startswith("/dev/") and os.path.realpath(source) == node):
            return fields[4]
    return ""


def _loop_devices(image: Path) -> Iterator[tuple[str, str]]:
    """The loop devices that an image has: `MAJOR:MINOR` and `/dev/...`."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if backing.read_text().strip() == str(image.resolve()):
                loop = backing.parent.parent
                yield (loop / "dev").read_text().strip(), f"/dev/{loop.name}"


def _writers_below(folder: Path) -> Iterator[str]:
    """The processes that have a file below a folder open for writing: `NAME (PID)`. Only root sees all."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            if any(_is_written(process, name, folder) for name in os.listdir(process / "fd")):
                yield f"{(process / 'comm').read_text().strip()} ({process.name})"


def _is_written(process: Path, descriptor: str, folder: Path) -> bool:
    with suppress(OSError):  # it is closed by now
        if os.readlink(process / "fd" / descriptor).startswith(f"{folder}/"):
            flags = re.search(r"^flags:\s*([0-7]+)", (process / "fdinfo" / descriptor).read_text(), re.MULTILINE)
            return flags is not None and bool(int(flags[1], 8) & (os.O_WRONLY | os.O_RDWR))
    return False
