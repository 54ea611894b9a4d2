"""The super blocks behind a mount table: each is frozen once, whatever the number of its mount points."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from appvss.freezer.kinds import Kind, answers_at_once, kind_of
from appvss.freezer.mountinfo import Mount, MountTable


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """One super block and the way to it."""

    device: str
    kind: Kind
    mounts: tuple[Mount, ...]
    """All that the table has, at least one."""
    entrance: Mount | None
    """The one to open it through; None: no path leads to any of them."""
    is_far: bool
    """Whether the way to the entrance leads through a mount whose look-ups may hang."""

    @property
    def known(self) -> Mount:
        """The mount by which people know it."""
        return self.entrance or self.mounts[0]

    @property
    def is_read_only(self) -> bool:
        """Whether nobody can write to it: a read-only bind mount does not say so."""
        return self.known.is_read_only

    @property
    def others(self) -> tuple[bytes, ...]:
        """Its other mount points, each once."""
        paths = dict.fromkeys(mount.path for mount in self.mounts if not mount.is_deleted)
        return tuple(path for path in paths if path != self.known.path)


def superblocks(table: MountTable, plain_files: Collection[int]) -> dict[str, SuperBlock]:
    """All super blocks of a mount table by their device, in the table's order.

    Args:
        table: the mount table.
        plain_files: ids of mounts that are mounted on something else than a directory; they are the last choice.
    """
    mounts: dict[str, list[Mount]] = {}
    for mount in table.mounts:
        mounts.setdefault(mount.device, []).append(mount)
    return {device: _superblock(table, ours, plain_files) for device, ours in mounts.items()}


def _superblock(table: MountTable, mounts: list[Mount], plain_files: Collection[int]) -> SuperBlock:
    far = {
        mount.mount_id: not all(answers_at_once(on_the_way) for on_the_way in table.way_to(mount.path)[:-1])
        for mount in mounts
        if not table.is_hidden(mount)
    }
    reachable = [mount for mount in mounts if mount.mount_id in far]
    # `min` keeps the first of equals: the oldest mount is the one that the others were bound from.
    entrance = min(
        reachable,
        key=lambda mount: (
            far[mount.mount_id],
            mount.mount_id in plain_files,
            mount.path != b"/",
            mount.root != b"/",
        ),
        default=None,
    )
    return SuperBlock(
        device=mounts[0].device,
        kind=kind_of(mounts[0]),
        mounts=tuple(mounts),
        entrance=entrance,
        is_far=entrance is not None and far[entrance.mount_id],
    )
