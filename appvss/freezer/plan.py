"""Which file systems a freeze takes, in which order, and what it leaves out and why.

Pure: the mount table (`mountinfo`) and what lies on what (`surroundings`) come in as values. `choosing` says which,
`order` in which order, `cautions` what is to be known of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from appvss.freezer.cautions import Caution, CautionKind, cautions, circles
from appvss.freezer.choosing import Chosen, FilesystemSettings, Left, PlanRefused, choose
from appvss.freezer.dependency import Dependencies
from appvss.freezer.mountinfo import MountTable, shown
from appvss.freezer.order import waves
from appvss.freezer.places import places
from appvss.freezer.superblocks import SuperBlock, superblocks
from appvss.model.filesystem import DeclaredPath, FilesystemChoice, FilesystemOutcome, Unfreezable

__all__ = ["Caution", "CautionKind", "FilesystemSettings", "Left", "Plan", "PlanRefused", "Target", "plan"]


@dataclass(frozen=True, slots=True)
class Target:
    """One super block that is to be frozen, once, whatever the number of its mount points."""

    path: bytes
    """The mount point to open, as the kernel spells it, escapes decoded. It may be a plain file (a bind mount of one)
    when the super block is mounted nowhere else."""
    mount_id: int
    """What `/proc/self/fdinfo` must say of the opened descriptor (`mnt_id`)."""
    device: str
    """`major:minor`, as in proc_pid_mountinfo(5). btrfs has an anonymous one, and `st_dev` is another."""
    type: str
    source: str
    """The device's name as it was mounted, printable."""
    others: tuple[bytes, ...] = ()
    """Its other mount points: bind mounts, subvolumes."""
    lies_on: tuple[str, ...] = ()
    """Devices of the targets that carry its image, directly or through others: it is frozen before them and thawed
    after them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one freeze does to file systems."""

    waves: tuple[tuple[Target, ...], ...] = ()
    """In the order of the freeze: wave after wave, all of one wave in parallel; the thaw is the exact reverse. `/` is
    alone in the last one, unless its own image lies on another one."""
    left: tuple[Left, ...] = ()
    cautions: tuple[Caution, ...] = ()
    veto: str = ""
    """Why nothing may be frozen, one lower-case sentence; empty: it may."""
    places: Mapping[str, tuple[DeclaredPath, ...]] | None = None
    """Where each path lies that apps declare, and what is mounted below it; None: nobody has looked."""

    @property
    def targets(self) -> tuple[Target, ...]:
        """All that are to be frozen, in the order of the freeze."""
        return tuple(target for wave in self.waves for target in wave)


def plan(
    choice: FilesystemChoice,
    declared: Sequence[str],
    mounts: MountTable,
    dependencies: Dependencies,
    settings: FilesystemSettings,
) -> Plan:
    """What a freeze does to file systems.

    Args:
        choice: what the requester wants.
        declared: the paths that apps declare; they need not exist.
        mounts: the mount table.
        dependencies: what lies on what, looked up with the same table. Its `resolved` has the paths without symbolic
            links; one that it does not have is taken as it is written.
        settings: the administrator's word.

    Raises:
        PlanRefused: a named path is not absolute or no mount point, or its file system cannot be frozen.
    """
    blocks = superblocks(mounts, dependencies.plain_files)
    chosen = choose(choice, declared, mounts, blocks, dependencies, settings)
    located = places(declared, mounts, blocks, dependencies, chosen, settings)
    paths = {block.device: block.known.path for block in chosen.targets}
    carriers = {device: dependencies.carriers_of(device) & paths.keys() for device in paths}
    targets = {block.device: _target(block, carriers[block.device]) for block in chosen.targets}
    root = next((device for device, path in paths.items() if path == b"/"), "")
    order = waves(paths, carriers, dependencies.untold, root)
    return Plan(
        waves=tuple(tuple(targets[device] for device in wave) for wave in order),
        left=chosen.left,
        cautions=chosen.cautions + cautions(paths, blocks, dependencies),
        veto=_veto(chosen, circles(paths, dependencies), settings),
        places=located,
    )


def _target(block: SuperBlock, carriers: frozenset[str]) -> Target:
    return Target(
        path=block.known.path,
        mount_id=block.known.mount_id,
        device=block.device,
        type=block.known.type,
        source=shown(block.known.source),
        others=block.others,
        lies_on=tuple(sorted(carriers)),
    )


def _veto(chosen: Chosen, in_circles: tuple[bytes, ...], settings: FilesystemSettings) -> str:
    if in_circles:
        return f"{shown(in_circles[0])} lies on an image that lies on itself: its freeze would never end"
    if settings.unfreezable is Unfreezable.VETO:
        for left in chosen.left:
            if left.outcome is FilesystemOutcome.UNFREEZABLE:
                return f"{shown(left.path)} cannot be frozen: {left.reason}"
    return ""
