"""What lies on what, as values: who looks it up is `surroundings` with `blocks`, who plans with it is `plan`.

A super block is named by its device in the mount table, `major:minor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Image:
    """A file that carries a super block, or a part of one: a loop device's backing file, say."""

    file: bytes
    """Its path, if it is known."""
    carried: str
    """The super block that lies in it."""
    carrier: str
    """The super block that it lies on. It need not be in the mount table."""


@dataclass(frozen=True, slots=True)
class SwapArea:
    """A file or block device to which the kernel swaps."""

    path: bytes
    carriers: tuple[str, ...]
    """The super blocks on which it lies, or on which the image of its device lies; empty: a disk."""
    is_file: bool
    """A file, and not a block device whose image is one."""


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """Something of the broker's own."""

    what: str
    """Such as `state directory`."""
    path: bytes
    device: str
    """The super block on which it lies."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A super block that can be written to and is mounted in other mount namespaces alone."""

    device: str
    type: str
    path: bytes
    """Its mount point, as a process of such a namespace sees it."""
    pid: int
    """That process."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """All that a plan must know beyond the mount table."""

    images: tuple[Image, ...] = ()
    untold: Mapping[str, str] = field(default_factory=dict)
    """Super blocks of which it cannot be told what they lie on, with the reason: one lower-case sentence."""
    uppers: Mapping[str, str] = field(default_factory=dict)
    """Overlay -> the super block that carries its upper directory, where that is known."""
    swaps: tuple[SwapArea, ...] = ()
    own: tuple[OwnFiles, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    resolved: Mapping[str, bytes] = field(default_factory=dict)
    """Named or declared path -> what it is without symbolic links, as far as that could be looked up without fear."""
    missing: frozenset[str] = frozenset()
    """Named or declared paths at which nothing lies. Where a look-up may hang, nobody has looked."""
    plain_files: frozenset[int] = frozenset()
    """Ids of mounts that are mounted on something else than a directory (a bind mount of one file)."""

    def carriers_of(self, device: str) -> frozenset[str]:
        """All super blocks that carry this one, directly or through others; itself among them only in a circle."""
        found: set[str] = set()
        waiting = [device]
        while waiting:
            here = waiting.pop()
            new = {image.carrier for image in self.images if image.carried == here} - found
            found |= new
            waiting.extend(new)
        return frozenset(found)
