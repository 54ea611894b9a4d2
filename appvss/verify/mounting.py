"""Mounts the private copies of images, in a mount namespace of its own: all of it is gone with the process.

Images are foreign: no set-user-id, no devices and no programs of theirs count. Journals are replayed, since the copy is
private. Linux alone.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appvss.model.errors import CopyInvalid
from appvss.verify.image import run

OPTIONS: Final = "nosuid,nodev,noexec"
_OPTIONS_OF: Final = {"xfs": "nouuid"}
"""What a kind needs so that a copy can be mounted beside its original (facts/database-quiesce.md section 9)."""
_SECTOR: Final = 512
"""Bytes of what partx(8) counts."""
_NOT_MOUNTED: Final = {
    "LVM2_member": "logical volumes are inside: activate them and name the device of the one with the app's files",
    "crypto_LUKS": "it is encrypted: open it and name the device that this makes",
    "linux_raid_member": "it is part of a RAID: assemble it and name its device",
    "swap": "it is swap space",
}


_BTRFS_IOC_FORGET_DEV: Final = 0x50009405  # linux/btrfs.h
_BTRFS_DEVICES: Final = 0x10000 + 0x88
"""Where the number of devices stands (linux/btrfs_tree.h, struct btrfs_super_block). The kernel finds the others by
their common id alone: it would take those that this machine has, which are the live ones, and write to them."""
_EXT_JOURNAL_DEVICE: Final = 0x400 + 0xE4
"""Where the device of a journal stands that is not inside (fs/ext4/ext4.h, s_journal_dev): a live one, just so."""
_FORMATS: Final = {b"QFI\xfb": "qcow2", b"vhdxfile": "VHDX", b"KDMV": "VMDK", b"conectix": "VHD"}
"""Images that are none of a disk's bytes, by their first ones."""


@dataclass(frozen=True, slots=True)
class MountedPart:
    """One file system of an image."""

    part: int
    """The number of its partition; 0: the image has no partitions."""
    kind: str
    root: Path


def mount_image(image: Path, folder: Path, partition: int | None) -> tuple[MountedPart, ...]:
    """Mount what an image has.

    Args:
        image: a private copy; its journals will be replayed.
        folder: for the mount points; it is made.
        partition: only that one; None: all that can be.

    Raises:
        CopyInvalid: there is no file system in it, or none that this kernel can mount.
    """
    with image.open("rb") as file:
        begin = file.read(8)
    if name := next((name for magic, name in _FORMATS.items() if begin.startswith(magic)), ""):
        raise CopyInvalid(f"the image is in the format {name}", "Convert it: qemu-img convert -O raw IMAGE RAW-IMAGE.")
    folder.mkdir()
    mounted, reasons = [], []
    for part in _parts(image):
        if partition is not None and part.number != partition:
            continue
        try:
            mounted.append(_mount(image, part, folder))
        except CopyInvalid as error:
            reasons.append(f"partition {part.number}: {error}" if part.number else str(error))
    if not mounted:
        which = f" in partition {partition}" if partition is not None else ""
        raise CopyInvalid(
            f"no file system of the image can be mounted{which}: {'; '.join(reasons) or 'there is no such partition'}",
            "Name an image of a disk or of a file system that this machine's kernel knows, in raw format.",
        )
    return tuple(mounted)


def roots_of(parts: Sequence[MountedPart]) -> Iterator[Path]:
    """The folders that may be a volume's root: a btrfs may keep it in a subvolume (`@`, `@rootfs`)."""
    for part in parts:
        yield part.root
        if part.kind == "btrfs":
            yield from sorted(path for path in part.root.glob("@*") if path.is_dir() and not path.is_symlink())


@dataclass(frozen=True, slots=True)
class _Part:
    """A partition, or the whole of an image that has none."""

    number: int
    start: int
    """In bytes."""
    size: int


def _parts(image: Path) -> list[_Part]:
    """What libblkid finds; not every kernel knows every kind of partition table."""
    with suppress(CopyInvalid):  # no table
        columns = ("--noheadings", "--output", "NR,START,SECTORS")
        lines = [line.split() for line in run("partx", "--raw", *columns, str(image)).splitlines()]
        if lines:
            return [_Part(int(number), int(start) * _SECTOR, int(size) * _SECTOR) for number, start, size in lines]
    return [_Part(0, 0, image.stat().st_size)]


def _mount(image: Path, part: _Part, folder: Path) -> MountedPart:
    kind = _kind(image, part)
    if kind in _NOT_MOUNTED:
        raise CopyInvalid(_NOT_MOUNTED[kind], "")
    if not kind:
        raise CopyInvalid("it has nothing that is known as a file system", "")
    if kind == "btrfs" and (devices := _number_at(image, part, _BTRFS_DEVICES, 8)) > 1:
        raise CopyInvalid(f"it is one of {devices} devices of a btrfs", "")
    if kind in ("ext3", "ext4") and _number_at(image, part, _EXT_JOURNAL_DEVICE, 4):
        raise CopyInvalid("its journal is on another device", "")
    root = folder / f"part-{part.number}"
    root.mkdir()
    where = ("--offset", str(part.start), "--sizelimit", str(part.size)) if part.number else ()
    device = run("losetup", "--find", "--show", *where, str(image)).strip()
    try:
        if kind == "btrfs":
            forget_btrfs(device)
        options = ",".join(filter(None, (OPTIONS, _OPTIONS_OF.get(kind))))
        run("mount", "-t", kind, "-o", options, device, str(root))
    finally:
        with suppress(CopyInvalid):
            run("losetup", "--detach", device)  # it goes with the last mount
    return MountedPart(part.number, kind, root)


def _number_at(image: Path, part: _Part, place: int, size: int) -> int:
    with image.open("rb") as file:
        file.seek(part.start + place)
        return int.from_bytes(file.read(size), "little")


def forget_btrfs(device: str) -> None:
    """Let the kernel forget which btrfs it has last seen on a device. While it remembers another one there, a copy
    whose original is mounted is taken for that, and cannot be mounted (find_fsid_by_device(), fs/btrfs/volumes.c).
    """
    with suppress(OSError):  # it has seen none
        control = os.open("/dev/btrfs-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(control, _BTRFS_IOC_FORGET_DEV, bytearray(struct.pack("q4088s", 0, os.fsencode(device))))
        finally:
            os.close(control)


def _kind(image: Path, part: _Part) -> str:
    with suppress(CopyInvalid):  # code 2: nothing is known of it
        where = ("--offset", str(part.start), "--size", str(part.size))
        return run("blkid", "--probe", "--output", "value", "--match-tag", "TYPE", *where, str(image)).strip()
    return ""
