"""Where the paths lie that apps declare, and whether a freeze holds them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from appvss.freezer.choosing import Chosen, FilesystemSettings, is_below, mounted_below, plain_path, why_left
from appvss.freezer.dependency import Dependencies
from appvss.freezer.kinds import Kind
from appvss.freezer.mountinfo import Mount, MountTable, shown
from appvss.freezer.superblocks import SuperBlock
from appvss.model.filesystem import DeclaredPath, FilesystemOutcome, Unfreezable
from appvss.model.names import printable

_NOT_THERE: Final = "nothing lies there, as the broker sees it"


def places(
    declared: Sequence[str],
    mounts: MountTable,
    blocks: Mapping[str, SuperBlock],
    dependencies: Dependencies,
    chosen: Chosen,
    settings: FilesystemSettings,
) -> dict[str, tuple[DeclaredPath, ...]]:
    """Where each declared path lies, and after it what is mounted below it that has files of its own. One that does not
    exist lies where it would be made.

    Args:
        declared: what apps declare.
        mounts: the mount table.
        blocks: its super blocks.
        dependencies: what lies on what.
        chosen: what is to be frozen.
        settings: the administrator's word.
    """
    targets = frozenset(block.device for block in chosen.targets)

    def place(path: str, mount: Mount) -> DeclaredPath:
        block = blocks[mount.device]
        device = _written_to(block, dependencies)
        reasons, lowers, is_there = [], False, path not in dependencies.missing
        if not is_there:
            reasons.append(_NOT_THERE)
        if device not in targets:
            why, lowers = _why_not(block, blocks.get(device), chosen, settings)
            reasons.append(f"{shown(mount.path)}: {why}")
        return DeclaredPath(
            path=printable(path),
            device=device,
            is_planned=device in targets,
            is_meant=not chosen.wanted.isdisjoint({device, *dependencies.carriers_of(device)}),
            reason="; ".join(reasons),
            lowers=lowers,
            is_spared=device in chosen.spared,
            is_there=is_there,
        )

    below = mounted_below(mounts, blocks, settings)
    found: dict[str, tuple[DeclaredPath, ...]] = {}
    for path in dict.fromkeys(declared):
        plain = _resolved(path, dependencies)
        mount = mounts.carrying(plain) if plain else None
        if mount is None:
            unknown = DeclaredPath(printable(path), reason="nobody can tell where it lies", lowers=True)
            found[path] = (unknown,)
            continue
        own = place(path, mount)
        others = [place(shown(other.path), other) for other in below if is_below(other.path, plain)]
        found[path] = (own, *(other for other in others if other.device != own.device))
    return found


def _resolved(path: str, dependencies: Dependencies) -> bytes:
    if not path.startswith("/"):
        return b""
    return dependencies.resolved.get(path) or plain_path(path.encode("utf-8", "surrogateescape"))


def _written_to(block: SuperBlock, dependencies: Dependencies) -> str:
    """Where what is written to a file system goes: with an overlay to that of its upper directory, if that is known."""
    if block.kind is Kind.OVERLAY and not block.is_read_only:
        return dependencies.uppers.get(block.device, "")
    return block.device


def _why_not(
    block: SuperBlock, written_to: SuperBlock | None, chosen: Chosen, settings: FilesystemSettings
) -> tuple[str, bool]:
    """Why what lies there is not to be frozen, and whether a copy is worth less by it."""
    if block.is_read_only or block.kind is Kind.NEVER_WRITTEN:
        return "it is read-only: there is nothing to freeze", False
    if block.kind in (Kind.MEMORY, Kind.KERNEL):
        return f"it {block.kind.value}", False
    if written_to is None or not written_to.kind.is_on_disk:
        return f"it {block.kind.value}", True
    if written_to.device in chosen.spared:
        return "`/` lies on it, and its requester leaves that out", True
    if written_to.device not in chosen.wanted:
        return "the requester does not mean it", True
    outcome, reason = why_left(written_to, settings) or (FilesystemOutcome.SKIPPED, "it is not to be frozen")
    is_reported = outcome is FilesystemOutcome.UNFREEZABLE and settings.unfreezable is Unfreezable.REPORT
    return reason, not is_reported
