"""Volumes of which a copy takes some milliseconds and one instant (facts/database-quiesce.md section 9, "Test bench").

    with reflink_pool() as pool:
        data = pool.volume("data", "ext4", owner=SERVER_USER)   # a file system on a loop device, mounted at data.path
        pool.freeze(data)
        copy = pool.copy(data)                                  # cp --reflink=always of the image: atomic
        pool.thaw(data)
        mounted = pool.mount_copy(copy)                         # private: it may be written to
        mounted.locate(data.path / "base")                      # where that lies in the copy

The pool is an xfs with reflinks in a sparse file. A copy that is taken while nothing is frozen is what a power cut
would have left (`raw`): what the file system had handed to its device, and nothing else. The keeper of
`tests/support/loop_keeper.py` freezes, and thaws and unmounts whatever happens.
"""

from __future__ import annotations

import itertools
import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appvss.verify.base import Copy
from appvss.verify.mounting import forget_btrfs
from tests.support.contained import containing
from tests.support.loop_disks import LoopDisk, LoopDisks, run, why_not
from tests.support.running_broker import short_directory

POOL_MEBIBYTES = 32 * 1024
"""The size of the pool's sparse file: about what may be written by one module's tests. The space is given back."""
VOLUME_MEBIBYTES = 1024
"""The size of a volume's image, sparse as well, unless a test asks for another."""


@dataclass(frozen=True)
class Volume:
    """One file system that an application may lie on."""

    name: str
    disk: LoopDisk

    @property
    def path(self) -> Path:
        """Its mount point."""
        return self.disk.path


@dataclass(frozen=True)
class VolumesCopy:
    """The images of some volumes, as they were at one moment; of several, only a freeze makes that the same one."""

    images: Mapping[Volume, Path]

    def image(self, volume: Volume) -> Path:
        return self.images[volume]


@dataclass(frozen=True)
class MountedCopy:
    """A copy whose file systems are mounted. It is private: whoever has it may change it."""

    copy: VolumesCopy
    points: Mapping[Volume, Path]

    def for_verify(self, work: Path) -> Copy:
        """As a verifier takes it: the volumes' mount points lead to the copy's."""
        return Copy({volume.path: point for volume, point in self.points.items()}, work)

    def locate(self, path: Path) -> Path:
        """Where that path of a volume lies in the copy."""
        return self.for_verify(Path("/")).locate(path)


class Pool:
    """Volumes, and copies of them. `reflink_pool` makes one and cleans up."""

    def __init__(self, disks: LoopDisks) -> None:
        self._disks = disks
        self._number = itertools.count(1)
        self.volumes: list[Volume] = []
        disks.home.chmod(0o711)  # servers are other users
        self.disk = disks.make("pool", "xfs", mebibytes=POOL_MEBIBYTES)

    @property
    def home(self) -> Path:
        """The folder that everything lies below: what a broker's freeze must be contained in."""
        return self._disks.home

    def volume(
        self, name: str, kind: str = "ext4", *, owner: str = "root", mebibytes: int = VOLUME_MEBIBYTES
    ) -> Volume:
        """Make a volume and mount it.

        Args:
            name: one word, not used before in this pool.
            kind: ext4, xfs or btrfs.
            owner: the user that its root folder belongs to.
            mebibytes: its size, sparse.
        """
        disk = self._disks.make(name, kind, on=self.disk, mebibytes=mebibytes)
        user = pwd.getpwnam(owner)
        os.chown(disk.path, user.pw_uid, user.pw_gid)
        volume = Volume(name, disk)
        self.volumes.append(volume)
        return volume

    def freeze(self, *volumes: Volume) -> None:
        """FIFREEZE, one after another. The keeper does it; it thaws them if this process hangs or dies."""
        for volume in volumes:
            self._disks.freeze(volume.path)

    def thaw(self, *volumes: Volume) -> None:
        """FITHAW, the last one first."""
        for volume in reversed(volumes):
            self._disks.thaw(volume.path)

    def copy(self, *volumes: Volume) -> VolumesCopy:
        """Copy the images; each is one instant's, whether frozen or not."""
        number = next(self._number)
        images = {volume: self.disk.path / f"copy-{number}-{volume.name}.img" for volume in volumes}
        for volume, image in images.items():
            run("cp", "--reflink=always", str(volume.disk.image), str(image))
        return VolumesCopy(images)

    def again(self, copy: VolumesCopy) -> VolumesCopy:
        """A copy of a copy, for a second look at what the first one will change."""
        number = next(self._number)
        images = {volume: self.disk.path / f"copy-{number}-{volume.name}.img" for volume in copy.images}
        for volume, image in images.items():
            run("cp", "--reflink=always", str(copy.images[volume]), str(image))
        return VolumesCopy(images)

    def mount_copy(self, copy: VolumesCopy) -> MountedCopy:
        """Mount the copy's file systems, beside the originals. Their journals are replayed."""
        points: dict[Volume, Path] = {}
        for volume, image in copy.images.items():
            point = self.home / image.stem
            point.mkdir(exist_ok=True)
            options = "nosuid,nodev" + (",nouuid" if volume.disk.kind == "xfs" else "")
            device = run("losetup", "--find", "--show", str(image)).strip()
            try:
                forget_btrfs(device)
                self._disks.mount_other("-o", options, device, str(point))
            finally:
                run("losetup", "--detach", device)  # it goes with the mount
            points[volume] = point
        return MountedCopy(copy, points)

    def unmount_copy(self, mounted: MountedCopy) -> None:
        """Unmount them again; whoever used them must be gone."""
        for point in mounted.points.values():
            self._disks.unmount(point)

    def drop(self, copy: VolumesCopy) -> None:
        """Give a copy's space back. It must not be mounted."""
        for image in copy.images.values():
            image.unlink()

    def configuration(self) -> str:
        """For a broker of a test: it freezes none but this pool's volumes, and never what their images lie on. The
        broker must run `contained.apart(pool.home)`, and `contained.is_contained` must be asked before its freezes.
        """
        return containing(self.home, str(self.disk.path))


@contextmanager
def reflink_pool() -> Iterator[Pool]:
    """A pool that is gone at the end, with all that is mounted from it."""
    disks = LoopDisks(short_directory())
    try:
        yield Pool(disks)
    finally:
        disks.close()


def why_no_pool(*kinds: str) -> str:
    """Why this machine cannot have one with such volumes; empty: it can."""
    return why_not("xfs", *(kinds or ("ext4",)))
