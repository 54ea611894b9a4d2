"""Mount tables for tests, written down as the kernel writes them."""

from __future__ import annotations

from collections.abc import Iterable

from appvss.freezer.mountinfo import MountTable, parse

ROOT = "2 1 254:0 / / rw,relatime - ext4 /dev/vda rw"
"""A root file system that others can be mounted on, as id 2."""


def table(*lines: str) -> MountTable:
    """The table of these lines, none of which may be odd."""
    found = parse("".join(f"{line}\n" for line in lines).encode())
    assert found.unreadable == ()
    return found


def mounted(
    mount_id: int, device: str, path: str, type_: str = "ext4", options: str = "rw", *, parent: int = 2, root: str = "/"
) -> str:
    """One line."""
    return f"{mount_id} {parent} {device} {root} {path} rw - {type_} /dev/of-{device.replace(':', '-')} {options}"


def escaped(path: bytes) -> bytes:
    """`path` as the kernel writes it: fs/proc_namespace.c, mangle()."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes((byte,)) for byte in path)


def paths(found: Iterable[object]) -> list[bytes]:
    """The `path` of each."""
    return [one.path for one in found]  # type: ignore[attr-defined]
