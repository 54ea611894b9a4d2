"""The mount table of `/proc/self/mountinfo` (proc_pid_mountinfo(5)): what is mounted where, and what a path reaches.

Paths are bytes as the kernel has them. Nothing here opens, looks up or waits for any of them: only the table is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
_READS: Final = 5
"""How often the table is read until it is the same twice. The kernel hands it out page by page, and a mount that comes
or goes between two pages can hide another one."""
_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2})")
_DELETED: Final = b"//deleted"
_SEPARATOR: Final = b" - "


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table: one place at which one super block can be reached."""

    mount_id: int
    """The kernel uses it again after an unmount."""
    parent_id: int
    """The mount on which it lies. The topmost one names itself, or one that is outside of this root directory."""
    device: str
    """`major:minor` of the super block. All subvolumes of a btrfs have the same, and `st_dev` has another."""
    root: bytes
    """What of the super block is mounted here: `/` is the whole; a bind mount and a subvolume have a path."""
    path: bytes
    """The mount point, escapes decoded, without the mark of a deleted one."""
    is_deleted: bool
    """Whether the directory that it is mounted on has been deleted: no path leads to it any more."""
    options: tuple[str, ...]
    """Of this mount alone: a read-only bind mount has `ro` here, and its file system can be written elsewhere."""
    type: str
    source: bytes
    super_options: tuple[bytes, ...]
    """Of the super block, escapes decoded. The first is `ro` or `rw`."""

    @property
    def is_read_only(self) -> bool:
        """Whether nobody at all can write to the super block; `errors=remount-ro` alone does not say so."""
        return b"ro" in self.super_options

    def super_option(self, name: str) -> bytes | None:
        """The value of `name=value` among the super block's options; None: it has none."""
        start = name.encode() + b"="
        return next((option[len(start) :] for option in self.super_options if option.startswith(start)), None)


@dataclass(frozen=True, slots=True)
class MountTable:
    """All mounts of one mount namespace at one instant."""

    mounts: tuple[Mount, ...] = ()
    """In the table's order: an older mount comes before one that lies on it."""
    unreadable: tuple[str, ...] = ()
    """Lines that are no mounts, printable. Whoever plans with the table must say that something may be missing."""
    _children: dict[tuple[int, bytes], Mount] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        known = {mount.mount_id for mount in self.mounts}
        for mount in self.mounts:
            if mount.is_deleted:
                continue
            is_topmost = mount.parent_id == mount.mount_id or mount.parent_id not in known
            self._children[_OUTSIDE if is_topmost else mount.parent_id, mount.path] = mount

    def way_to(self, path: bytes) -> tuple[Mount, ...]:
        """The mounts that a look-up of `path` passes through, the one that carries it last; empty: there is no root.

        Symbolic links are not followed: the path must be resolved, absolute, and without `.`, `..` and double slashes.
        Of several mounts on one place the last one counts, and what lies below it cannot be reached.
        """
        way: list[Mount] = []
        for prefix in _prefixes(path):
            # A mount on a mount's own root lies at the same path once more; each has an id of its own, so this ends.
            while (here := self._children.get((way[-1].mount_id if way else _OUTSIDE, prefix))) and here not in way:
                way.append(here)
        return tuple(way)

    def carrying(self, path: bytes) -> Mount | None:
        """The mount that a look-up of `path` ends on; `way_to` says what that means."""
        way = self.way_to(path)
        return way[-1] if way else None

    def is_hidden(self, mount: Mount) -> bool:
        """Whether its path leads elsewhere: another mount lies on it or above it, or the path has been deleted."""
        return mount.is_deleted or self.carrying(mount.path) is not mount


_OUTSIDE: Final = -1
"""The parent of a topmost mount."""


def parse(content: bytes) -> MountTable:
    """The table that the content of a `mountinfo` is. Never fails: what is no mount is in `unreadable`."""
    mounts, unreadable = [], []
    for line in content.split(b"\n"):
        try:
            if line:
                mounts.append(_mount_of(line))
        except ValueError:
            unreadable.append(shown(line))
    return MountTable(tuple(mounts), tuple(unreadable))


def read(path: Path = MOUNTINFO) -> MountTable:
    """The table as it is now. May take some milliseconds: not on the event loop.

    Raises:
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    for _ in range(_READS - 1):
        before, content = content, path.read_bytes()
        if content == before:
            break
    return parse(content)


def unescaped(text: bytes) -> bytes:
    r"""`text` without the kernel's escapes: a backslash and three octal digits, such as `\040` for a space."""
    return _ESCAPE.sub(lambda found: bytes((int(found[1], 8),)), text)


def shown(path: bytes) -> str:
    """A path as text that is safe to print: what is not printable is written as an escape."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _mount_of(line: bytes) -> Mount:
    """The mount of one line.

    Raises:
        ValueError: it is none.
    """
    # No field before the separator can hold a space, and none of the optional ones can be a single dash.
    left, separator, right = line.partition(_SEPARATOR)
    fields = left.split(b" ")
    rest = right.split(b" ", 2)  # the source may be empty, and an option with a bare space stays whole
    if not separator or len(fields) < 6 or len(rest) != 3:
        raise ValueError("too few fields")
    device = fields[2].decode("ascii")
    if re.fullmatch(r"\d+:\d+", device) is None or not fields[3] or not fields[4].startswith(b"/") or not rest[0]:
        raise ValueError("not a device, a root and a mount point")
    super_options = tuple(unescaped(option) for option in rest[2].split(b","))
    if super_options[0] not in (b"ro", b"rw"):  # the kernel always says so first; nothing else may be taken for it
        raise ValueError("neither ro nor rw")
    path = unescaped(fields[4])
    return Mount(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        device=device,
        root=unescaped(fields[3]),
        path=path.removesuffix(_DELETED) or b"/",
        is_deleted=path.endswith(_DELETED),
        options=tuple(shown(option) for option in fields[5].split(b",")),
        type=shown(unescaped(rest[0])),
        source=unescaped(rest[1]),
        super_options=super_options,
    )


def _prefixes(path: bytes) -> Iterator[bytes]:
    """`/`, `/a`, `/a/b` of `/a/b`."""
    yield b"/"
    end = 0
    while (end := path.find(b"/", end + 1)) > 0:
        yield path[:end]
    if path != b"/":
        yield path
