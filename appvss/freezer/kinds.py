"""What kinds of file systems there are for a freeze, by their type and device in the mount table.

Which have a freeze and which refuse it: facts/linux-hv-vss.md section 5.2. A type that is not known here and has a
block device is taken for one that can be frozen: the kernel says if it cannot (EOPNOTSUPP), and nothing is passed over.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from appvss.freezer.mountinfo import Mount


def _types(names: str) -> frozenset[str]:
    return frozenset(names.split())


_NO_FREEZE: Final = _types(
    "adfs affs befs bfs efs exfat fuseblk hfs hfsplus hpfs jffs2 minix msdos ntfs ntfs3 ocfs2 omfs qnx4 qnx6 sysv "
    "ubifs udf ufs umsdos vfat zfs"
)
"""They lie on the machine's disks and have no freeze."""
_NEVER_WRITTEN: Final = frozenset({"cramfs", "erofs", "iso9660", "romfs", "squashfs"})
_IN_MEMORY: Final = frozenset({"devtmpfs", "hugetlbfs", "ramfs", "rootfs", "tmpfs"})
_REMOTE: Final = _types(
    "9p afs beegfs ceph cifs coda gfs glusterfs gpfs lustre ncpfs nfs nfs4 orangefs panfs pvfs2 smb3 smbfs "
    "vboxsf virtiofs vmhgfs"
)
_KERNEL: Final = _types(
    "apparmorfs autofs bdev binder binfmt_misc bpf cgroup cgroup2 configfs cpuset debugfs devpts dmabuf efivarfs "
    "functionfs fusectl gadgetfs ibmasmfs infiniband_qib_fs mqueue nfsd nsfs oprofilefs pidfs pipefs proc pstore "
    "resctrl rpc_pipefs securityfs selinuxfs smackfs sockfs spufs sysfs tracefs usbfs xenfs"
)


class Kind(Enum):
    """What a freeze can do with a file system. The value says why it does nothing, as the end of a sentence."""

    FREEZABLE = "can be frozen"
    NO_FREEZE = "is of a kind that has no freeze"
    NEVER_WRITTEN = "is never written to: there is nothing to freeze"
    MEMORY = "lies in memory: no snapshot of a disk has it"
    KERNEL = "is the kernel's own and lies on no disk"
    OVERLAY = "is an overlay: what is written to it lies on the file system of its upper directory"
    REMOTE = "lies on another machine"
    PROGRAM = "is served by a program: what that writes to cannot be told"
    OTHER = "has no disk of its own behind it"

    @property
    def is_on_disk(self) -> bool:
        """Whether a disk of this machine carries it, so that a snapshot has it."""
        return self in (Kind.FREEZABLE, Kind.NO_FREEZE, Kind.NEVER_WRITTEN)

    @property
    def answers(self) -> bool:
        """Whether a look-up in it is answered by this kernel alone, and waits for no other machine and no program."""
        return self.is_on_disk or self in (Kind.MEMORY, Kind.KERNEL, Kind.OVERLAY)


_TYPES: Final = {
    Kind.NO_FREEZE: _NO_FREEZE,
    Kind.NEVER_WRITTEN: _NEVER_WRITTEN,
    Kind.REMOTE: _REMOTE,
    Kind.MEMORY: _IN_MEMORY,
    Kind.KERNEL: _KERNEL,
}


def kind_of(mount: Mount) -> Kind:
    """The kind of a mount's file system."""
    type_ = mount.type.partition(".")[0]  # fuse.sshfs, fuseblk.ntfs
    if type_ == "overlay":
        return Kind.OVERLAY
    if type_ == "fuse":
        return Kind.PROGRAM
    named = next((kind for kind, types in _TYPES.items() if type_ in types), None)
    if named is not None:
        return named
    # Major 0 is for anonymous devices. What lies on several block devices, such as btrfs, has one too.
    is_on_disk = not mount.device.startswith("0:") or mount.source.startswith(b"/dev/")
    return Kind.FREEZABLE if is_on_disk else Kind.OTHER


def answers_at_once(mount: Mount) -> bool:
    """Whether a look-up in this mount can be made without fear that it hangs.

    One that mounts by itself (autofs) may wait for a program and for another machine; so may one that a program serves
    from a block device (fuseblk).
    """
    return mount.type.partition(".")[0] not in ("autofs", "fuseblk") and kind_of(mount).answers
