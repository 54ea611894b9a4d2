"""What an administrator should know of a plan: what would dead-lock, and what would surprise."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from appvss.freezer.dependency import Dependencies
from appvss.freezer.kinds import Kind
from appvss.freezer.mountinfo import shown
from appvss.freezer.superblocks import SuperBlock


class CautionKind(StrEnum):
    """What a caution is about. Stable: programs may rely on it."""

    IMAGE_LEFT = "image_left"
    """The image of a file system that stays writable lies on one that will be frozen."""
    IMAGE_UNTOLD = "image_untold"
    """It cannot be told what a file system lies on."""
    CIRCLE = "circle"
    """File systems lie on each other: none of them can be frozen before the others."""
    SWAP = "swap"
    """The kernel swaps to a file on one that will be frozen, or to a device whose image lies there."""
    OVERLAY = "overlay"
    """The upper directory of an overlay lies on one that will be frozen."""
    OWN = "own"
    """The broker's own files lie on one that will be frozen."""
    ROOT = "root"
    """The root file system will be frozen: terminals and logs lie there."""
    FAR = "far"
    """The way to it leads through a file system of another machine or program, which may hang."""
    NOT_ON_DISK = "not_on_disk"
    """An app declares a path that lies on no disk of this machine."""
    UNREADABLE = "unreadable"
    """A line of the mount table that cannot be read."""


@dataclass(frozen=True, slots=True)
class Caution:
    """One thing to know."""

    kind: CautionKind
    path: bytes
    """The mount point that it is about; empty: none in particular."""
    sentence: str
    """One lower-case sentence, printable, with what follows from it."""
    dead_locks: bool = False
    """Whether somebody may hang in the hold who writes to none of the frozen file systems himself."""


def cautions(
    targets: Mapping[str, bytes], blocks: Mapping[str, SuperBlock], dependencies: Dependencies
) -> tuple[Caution, ...]:
    """All that is to be known of freezing these.

    Args:
        targets: device -> mount point of each that will be frozen.
        blocks: all super blocks of the mount table.
        dependencies: what lies on what.
    """
    return (
        *_circles(targets, dependencies),
        *_images(targets, blocks, dependencies),
        *_untold(targets, dependencies),
        *_swaps(targets, dependencies),
        *_overlays(targets, blocks, dependencies),
        *_own(targets, dependencies),
        *(_far(path) for device, path in targets.items() if blocks[device].is_far),
        *(_root() for path in targets.values() if path == b"/"),
    )


def circles(targets: Mapping[str, bytes], dependencies: Dependencies) -> tuple[bytes, ...]:
    """The mount points of targets that lie on themselves, directly or through others."""
    return tuple(path for device, path in targets.items() if device in dependencies.carriers_of(device))


def _circles(targets: Mapping[str, bytes], dependencies: Dependencies) -> Iterator[Caution]:
    for path in circles(targets, dependencies):
        yield Caution(
            CautionKind.CIRCLE,
            path,
            f"{shown(path)} lies on an image that lies on itself: its freeze would wait for itself for ever",
            dead_locks=True,
        )


def _images(
    targets: Mapping[str, bytes], blocks: Mapping[str, SuperBlock], dependencies: Dependencies
) -> Iterator[Caution]:
    left = {
        device: block.known.path
        for device, block in blocks.items()
        if device not in targets and not block.is_read_only and block.kind is not Kind.NEVER_WRITTEN
    }
    left.update({other.device: other.path for other in dependencies.elsewhere})
    for device, path in left.items():
        for carrier in _in_order(dependencies.carriers_of(device), targets):
            yield Caution(
                CautionKind.IMAGE_LEFT,
                path,
                f"{shown(path)} is not frozen and its image lies on {shown(targets[carrier])}, which is: "
                "whoever writes to it, or has the whole machine synced, hangs until the thaw",
                dead_locks=True,
            )


def _untold(targets: Mapping[str, bytes], dependencies: Dependencies) -> Iterator[Caution]:
    for device, path in targets.items():
        if len(targets) > 1 and (reason := dependencies.untold.get(device)):
            yield Caution(
                CautionKind.IMAGE_UNTOLD,
                path,
                f"it cannot be told what {shown(path)} lies on ({reason}): it is frozen before the others and thawed "
                "after them, and hangs if it carries one of them",
            )


def _swaps(targets: Mapping[str, bytes], dependencies: Dependencies) -> Iterator[Caution]:
    for swap in dependencies.swaps:
        deeper = frozenset[str]().union(*(dependencies.carriers_of(carrier) for carrier in swap.carriers))
        for carrier in _in_order(deeper.union(swap.carriers), targets):
            # The kernel knows a swap file's blocks and writes to them past the file system, but not past a loop device.
            waits = not swap.is_file or carrier in deeper
            if waits:
                what = "memory that is swapped out waits for the thaw, which may hang the whole machine"
            else:
                what = "the kernel goes on writing to it in the hold; of the snapshot, the swap alone is torn"
            yield Caution(
                CautionKind.SWAP,
                targets[carrier],
                f"the swap {'file' if swap.is_file else 'device'} {shown(swap.path)} lies on "
                f"{shown(targets[carrier])}: {what}",
                dead_locks=waits,
            )


def _overlays(
    targets: Mapping[str, bytes], blocks: Mapping[str, SuperBlock], dependencies: Dependencies
) -> Iterator[Caution]:
    for target, path in targets.items():
        overlays = [overlay for overlay, upper in dependencies.uppers.items() if upper == target and overlay in blocks]
        if overlays:
            more = f" (and of {len(overlays) - 1} more)" if len(overlays) > 1 else ""
            yield Caution(
                CautionKind.OVERLAY,
                path,
                f"the upper directory of the overlay {shown(blocks[overlays[0]].known.path)}{more} lies on "
                f"{shown(path)}: when somebody waits to write there, even a look-up beside it hangs until the thaw",
                dead_locks=True,
            )


def _own(targets: Mapping[str, bytes], dependencies: Dependencies) -> Iterator[Caution]:
    for own in dependencies.own:
        for carrier in _in_order({own.device} | dependencies.carriers_of(own.device), targets):
            yield Caution(
                CautionKind.OWN,
                targets[carrier],
                f"the broker's own {own.what} {shown(own.path)} lies on {shown(targets[carrier])}: nothing is written "
                "to it until the thaw",
            )


def _far(path: bytes) -> Caution:
    return Caution(
        CautionKind.FAR,
        path,
        f"the way to {shown(path)} leads through a file system of another machine or of a program, which may hang",
    )


def _root() -> Caution:
    return Caution(
        CautionKind.ROOT,
        b"/",
        "the root file system is frozen too: a terminal, a login or a log may hang until the thaw",
    )


def _in_order(devices: Collection[str], targets: Mapping[str, bytes]) -> Iterator[str]:
    """Those of `devices` that are targets, in the order of the targets."""
    return (device for device in targets if device in devices)
