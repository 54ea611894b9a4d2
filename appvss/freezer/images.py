"""In which files of which file systems super blocks lie: the mount table's and sysfs's words put together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appvss.freezer.blocks import (
    BackingFile,
    LoopStatus,
    btrfs_devices,
    device_of_node,
    ground_of,
    loop_status,
    numbers,
)
from appvss.freezer.dependency import Image
from appvss.freezer.kinds import Kind, kind_of
from appvss.freezer.lookup import answers, resolve
from appvss.freezer.mountinfo import Mount, MountTable, shown
from appvss.freezer.superblocks import SuperBlock

_DEVICE_OPTIONS: Final = ("logdev", "rtdev")
"""Options of xfs that name a further device of the same file system."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file lies."""

    device: str = ""
    """The super block; empty: no disk of this machine has it, or it cannot be told."""
    untold: str = ""
    """Why it cannot be told: one lower-case sentence."""


class Images:
    """What the super blocks of one mount table lie on, looked up on the way.

    Args:
        mounts: the mount table.
        blocks: its super blocks.
        sysfs: where sysfs is mounted.
        procfs: where procfs is mounted.
    """

    def __init__(self, mounts: MountTable, blocks: Mapping[str, SuperBlock], sysfs: Path, procfs: Path) -> None:
        self._mounts = mounts
        self._blocks = blocks
        self._sysfs = sysfs
        self._procfs = procfs
        self._subvolumes = dict(self._find_subvolumes())
        self.uppers = dict(self._find_uppers())
        """Overlay -> the super block of its upper directory, where it is known."""
        self.found: dict[Image, None] = {}
        self.untold: dict[str, str] = {}
        """Super block -> why it cannot be told what it lies on."""

    def find(self, elsewhere: Iterable[str] = ()) -> None:
        """Find what all super blocks on block devices lie on, and all that carry one and are mounted elsewhere.

        Args:
            elsewhere: further super blocks, which are not in the mount table.
        """
        for device, block in self._blocks.items():
            if block.kind in (Kind.FREEZABLE, Kind.NO_FREEZE):
                self._find_below(device, self._devices_of(block))
        looked = set(self._blocks)
        new = set(elsewhere)
        while new := (new | {image.carrier for image in self.found}) - looked:
            looked |= new
            for device in sorted(new):
                # One with an anonymous device says nothing of its block devices from outside.
                self._find_below(device, () if device.startswith("0:") else (device,))

    def carriers(self, devices: Iterable[str]) -> tuple[tuple[tuple[BackingFile, str], ...], tuple[str, ...]]:
        """The files in which these block devices lie, each with its super block, and what cannot be told."""
        files: list[tuple[BackingFile, str]] = []
        untold: list[str] = []
        waiting, seen = set(devices), set[str]()
        while waiting:
            seen |= waiting
            ground = ground_of(sorted(waiting), self._sysfs, self._procfs)
            untold.extend(ground.untold)
            waiting = set()
            for file in ground.files:
                status = loop_status(file.loop) if file.loop and answers(file.path, self._mounts) else None
                if status is not None and status.node:
                    waiting.add(status.node)
                    continue
                place = self._place_of_file(file, status)
                if place.device:
                    files.append((file, place.device))
                elif place.untold:
                    untold.append(place.untold)
            waiting -= seen
        return tuple(files), tuple(dict.fromkeys(untold))

    def place_of(self, path: bytes) -> Place:
        """Where a path lies that has no symbolic links, by the mount table alone."""
        mount = self._mounts.carrying(path)
        return Place(untold=f"nobody can tell where {shown(path)} lies") if mount is None else self._place_on(mount)

    def device_of_node(self, node: bytes) -> str:
        """The numbers of a block device by its node's path; empty: unknown."""
        return device_of_node(node, self._sysfs) if answers(resolve(node, self._mounts), self._mounts) else ""

    def _find_below(self, device: str, below: Iterable[str]) -> None:
        known = tuple(filter(None, below))
        files, untold = self.carriers(known)
        for file, carrier in files:
            self.found[Image(file.path, device, carrier)] = None
        if not known:
            untold = ("the block devices of which it consists are not known",)
        if untold:
            self.untold[device] = "; ".join(untold)

    def _devices_of(self, block: SuperBlock) -> tuple[str, ...]:
        """The block devices of a super block; empty words for those that are not known."""
        mount = block.known
        if not mount.device.startswith("0:"):
            nodes = [node for option in _DEVICE_OPTIONS if (node := mount.super_option(option))]
            return (mount.device, *(self.device_of_node(node) for node in nodes))
        may_ask = mount.type == "btrfs" and block.entrance is not None and not block.is_far
        if may_ask and (devices := btrfs_devices(mount.path, self._sysfs)):
            return devices
        return tuple(self.device_of_node(node) for node in mount.source.split(b":") if node.startswith(b"/dev/"))

    def _place_of_file(self, file: BackingFile, status: LoopStatus | None) -> Place:
        """Where a backing file lies. Its path is right only if what lies there is what the loop device has open."""
        if status is None:
            return self.place_of(file.path)
        with suppress(OSError, ValueError):
            there = os.stat(file.path, follow_symlinks=False)
            if (numbers(there.st_dev), there.st_ino) == (status.device, status.inode):
                return self.place_of(file.path)
        # Deleted, or of another mount namespace: the device that the kernel names is the only word on it.
        if status.device in self._blocks:
            return self._place_on(self._blocks[status.device].known)
        if status.device in self._subvolumes:
            return Place(self._subvolumes[status.device])
        if not status.device.startswith("0:"):
            return Place(status.device)
        return Place(untold=f"the image {shown(file.path)} of {file.loop} lies on what is not mounted here")

    def _place_on(self, mount: Mount) -> Place:
        kind = kind_of(mount)
        if kind.is_on_disk:
            return Place(mount.device)
        if kind in (Kind.MEMORY, Kind.KERNEL, Kind.REMOTE):
            return Place()
        if kind is Kind.OVERLAY:
            if mount.device in self.uppers:
                return self._place_on(self._blocks[self.uppers[mount.device]].known)
            return Place(untold=f"the upper directory of the overlay {shown(mount.path)} is not known")
        return Place(untold=f"{shown(mount.path)} {kind.value}")

    def _find_subvolumes(self) -> Iterator[tuple[str, str]]:
        """`st_dev` -> super block of the mounted subvolumes of btrfs."""
        for block in self._blocks.values():
            for mount in block.mounts if block.known.device.startswith("0:") and block.kind is Kind.FREEZABLE else ():
                if not self._mounts.is_hidden(mount) and answers(mount.path, self._mounts):
                    with suppress(OSError):
                        yield numbers(os.stat(mount.path).st_dev), mount.device

    def _find_uppers(self) -> Iterator[tuple[str, str]]:
        for block in self._blocks.values():
            option = block.known.super_option("upperdir") if block.kind is Kind.OVERLAY else None
            # The kernel shows the option as it was given, and some ways of giving it want commas and colons escaped.
            places = (option, re.sub(rb"\\(.)", rb"\1", option)) if option else ()
            if device := next(filter(None, map(self._upper_at, places)), ""):
                yield block.device, device

    def _upper_at(self, place: bytes) -> str:
        """The super block of an upper directory; empty: there is none of that path here.

        In a container the path is the host's: it leads nowhere here, or back to the overlay itself.
        """
        path = resolve(place, self._mounts) if place.startswith(b"/") else b""
        mount = self._mounts.carrying(path) if path else None
        if mount is None or not (kind_of(mount).is_on_disk or kind_of(mount) is Kind.MEMORY):
            return ""
        return mount.device if answers(path, self._mounts) and os.path.isdir(path) else ""
