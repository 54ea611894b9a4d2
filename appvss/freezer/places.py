"""Where the paths lie that apps declare, and whether a freeze holds them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from appvss.freezer.choosing import Chosen, FilesystemSettings, plain_path, why_left
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
) -> dict[str, DeclaredPath]:
    """Where each declared path lies. One that does not exist lies where it would be made.

    Args:
        declared: what apps declare.
        mounts: the mount table.
        blocks: its super blocks.
        dependencies: what lies on what.
        chosen: what is to be frozen.
        settings: the administrator's word.
    """
    targets = frozenset(block.device for block in chosen.targets)
    found = {}
    for path in dict.fromkeys(declared):
        mount = _mount_of(path, mounts, dependencies)
        if mount is None:
            found[path] = DeclaredPath(printable(path), reason="nobody can tell where it lies", lowers=True)
            continue
        block = blocks[mount.device]
        device = _written_to(block, dependencies)
        reason, lowers = "", False
        if device not in targets:
            reason, lowers = _why_not(block, blocks.get(device), chosen, settings)
        elif path in dependencies.missing:
            reason = _NOT_THERE
        found[path] = DeclaredPath(
            path=printable(path),
            device=device,
            is_planned=device in targets,
            is_meant=not chosen.wanted.isdisjoint({device, *dependencies.carriers_of(device)}),
            reason=f"{shown(mount.path)}: {reason}" if reason and reason is not _NOT_THERE else reason,
            lowers=lowers,
            is_spared=device in chosen.spared,
        )
    return found


def _mount_of(path: str, mounts: MountTable, dependencies: Dependencies) -> Mount | None:
    if not path.startswith("/"):
        return None
    plain = plain_path(path.encode("utf-8", "surrogateescape"))
    return mounts.carrying(dependencies.resolved.get(path) or plain)


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
