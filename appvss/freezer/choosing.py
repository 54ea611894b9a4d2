"""Which super blocks a requester means, and which of them are left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from appvss.freezer.cautions import Caution, CautionKind
from appvss.freezer.dependency import Dependencies
from appvss.freezer.kinds import Kind
from appvss.freezer.mountinfo import Mount, MountTable, shown
from appvss.freezer.superblocks import SuperBlock
from appvss.model.errors import UsageError
from appvss.model.filesystem import FilesystemChoice, FilesystemOutcome, Scope, Unfreezable
from appvss.model.names import printable

_SURVEY = "`appvss filesystems` lists what can be frozen."


class PlanRefused(UsageError):
    """What the requester names cannot be frozen: a path that is no mount point, or a file system that has no freeze."""


@dataclass(frozen=True, slots=True)
class FilesystemSettings:
    """The administrator's word on file systems."""

    exclude: tuple[str, ...] = ("/boot/efi", "/efi")
    """Patterns of mount points, as in fnmatch(3); `*` also matches `/`. A file system is excluded if the mount point
    that it is known by matches; its bind mounts do not count."""
    unfreezable: Unfreezable = Unfreezable.LOWER
    """What it means that one which should be frozen cannot be."""


@dataclass(frozen=True, slots=True)
class Left:
    """One super block that is not frozen."""

    path: bytes
    """The mount point by which it is known; a declared path, or `?`, when no mount is known."""
    device: str
    type: str
    outcome: FilesystemOutcome
    """UNFREEZABLE, EXCLUDED, or SKIPPED: there is nothing to freeze, and it takes no part in the cycle."""
    reason: str
    """One lower-case sentence, printable."""
    lowers: bool = False
    """Whether the verdict falls by it."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a requester means."""

    targets: tuple[SuperBlock, ...]
    left: tuple[Left, ...]
    cautions: tuple[Caution, ...]
    wanted: frozenset[str] = frozenset()
    """The devices that the requester means, whether or not they are frozen."""
    spared: frozenset[str] = frozenset()
    """Those that carry `/` and that the requester would mean, if it did not spare them."""


def choose(
    choice: FilesystemChoice,
    declared: Sequence[str],
    mounts: MountTable,
    blocks: Mapping[str, SuperBlock],
    dependencies: Dependencies,
    settings: FilesystemSettings,
) -> Chosen:
    """The super blocks to freeze, each once and in the table's order, and those that are left out.

    Args:
        choice: what the requester wants.
        declared: what apps declare, for `Scope.DECLARED`.
        mounts: the mount table.
        blocks: its super blocks.
        dependencies: what lies on what.
        settings: the administrator's word.

    Raises:
        PlanRefused: a named path is not absolute or no mount point, or its file system cannot be frozen.
    """
    choosing = _Choosing(mounts, blocks, dependencies, settings)
    if choice.scope is Scope.ALL:
        choosing.wanted.update(blocks)
        choosing.add_elsewhere()
    for path in choice.paths if choice.scope is Scope.NAMED else ():
        choosing.add_named(path)
    for path in declared if choice.scope is Scope.DECLARED else ():
        choosing.add_declared(path)
    if choice.spares_root and choice.scope is not Scope.NAMED:
        choosing.spare_root()
    if choice.scope is not Scope.NONE:
        choosing.add_unreadable(is_all=choice.scope is Scope.ALL)
    return choosing.end()


def why_left(block: SuperBlock, settings: FilesystemSettings) -> tuple[FilesystemOutcome, str] | None:
    """Why a super block is not frozen: what becomes of it, and a sentence. None: it is frozen."""
    if not block.kind.is_on_disk or block.kind is Kind.NEVER_WRITTEN:
        return FilesystemOutcome.SKIPPED, f"it {block.kind.value}"
    if block.is_read_only:
        return FilesystemOutcome.SKIPPED, "it is read-only: there is nothing to freeze"
    if excluded := _why_excluded(block.known.path, settings):
        return excluded
    if block.kind is Kind.NO_FREEZE:
        return FilesystemOutcome.UNFREEZABLE, f"it {block.kind.value}"
    if block.entrance is None:
        return FilesystemOutcome.UNFREEZABLE, "it is hidden under another mount: no path leads to it"
    return None


def _why_excluded(path: bytes, settings: FilesystemSettings) -> tuple[FilesystemOutcome, str] | None:
    text = path.decode("utf-8", "surrogateescape")
    pattern = next((pattern for pattern in settings.exclude if fnmatchcase(text, pattern)), None)
    if pattern is None:
        return None
    return FilesystemOutcome.EXCLUDED, f"the configuration excludes {printable(pattern)}"


def plain_path(path: bytes) -> bytes:
    """`path` without `.`, `..`, double and last slashes, as if there were no symbolic links."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)


def mounted_below(
    mounts: MountTable, blocks: Mapping[str, SuperBlock], settings: FilesystemSettings
) -> tuple[Mount, ...]:
    """The mounts that count with a folder above them: what lies in them is written to, and would be missing from a copy
    of the folder. Not what the administrator leaves out, nor what a program, another machine or the kernel has put into
    memory.
    """
    return tuple(
        mount
        for mount in mounts.mounts
        if not (block := blocks[mount.device]).is_read_only
        and block.kind not in (Kind.NEVER_WRITTEN, Kind.MEMORY, Kind.KERNEL)
        and _why_excluded(block.known.path, settings) is None
        and not mounts.is_hidden(mount)
    )


def is_below(path: bytes, folder: bytes) -> bool:
    """Whether a path leads through a folder, both without symbolic links."""
    return path != folder and path.startswith(folder.rstrip(b"/") + b"/")


class _Choosing:
    """The choice in the making."""

    def __init__(
        self,
        mounts: MountTable,
        blocks: Mapping[str, SuperBlock],
        dependencies: Dependencies,
        settings: FilesystemSettings,
    ) -> None:
        self._mounts = mounts
        self._blocks = blocks
        self._dependencies = dependencies
        self._settings = settings
        self.wanted: set[str] = set()
        self._spared: set[str] = set()
        self._left: dict[Left, None] = {}
        self._cautions: dict[Caution, None] = {}
        self._below = mounted_below(mounts, blocks, settings)

    def add_named(self, path: str) -> None:
        """A mount point that the requester names.

        Raises:
            PlanRefused: see `choose`.
        """
        if not path.startswith("/"):
            raise PlanRefused(
                f"the mount point {printable(path)!r} is not absolute", "Write it from the root on: /data."
            )
        plain = self._resolved(path)
        mount = self._mounts.carrying(plain)
        if mount is None or mount.path != plain:
            place = f"It lies on {shown(mount.path)}: name that if you mean it. " if mount else ""
            raise PlanRefused(f"{printable(path)} is no mount point", place + _SURVEY)
        block = self._blocks[mount.device]
        why = why_left(block, self._settings)
        # Whoever names one that nobody can write to has what he wants.
        if why and not (block.is_read_only or block.kind is Kind.NEVER_WRITTEN):
            raise PlanRefused(f"{printable(path)} cannot be frozen: {why[1]}", self._instead(mount) + _SURVEY)
        self.wanted.add(mount.device)

    def add_declared(self, path: str) -> None:
        """A path that an app declares, with what is mounted below it."""
        plain = self._resolved(path)
        mount = self._mounts.carrying(plain) if path.startswith("/") else None
        if mount is None:
            place = path.encode("utf-8", "surrogateescape")
            self._leave(place, "", "", "an app declares it, and nobody can tell where it lies")
            return
        self._add_mount(mount, path)
        for other in self._below:
            if is_below(other.path, plain):
                self._add_mount(other, shown(other.path))

    def _add_mount(self, mount: Mount, path: str) -> None:
        """The mount of a declared path, or one below it."""
        block = self._blocks[mount.device]
        device = mount.device
        if block.kind is Kind.OVERLAY and not block.is_read_only:
            device = self._dependencies.uppers.get(mount.device, "")
        if device not in self._blocks or block.kind in (Kind.PROGRAM, Kind.OTHER):
            reason = f"it {block.kind.value}, and an app declares {printable(path)}"
            self._leave(mount.path, mount.device, mount.type, reason)
            return
        self.wanted.add(device)
        if block.kind in (Kind.MEMORY, Kind.KERNEL, Kind.REMOTE):
            sentence = f"an app declares {printable(path)}, which {block.kind.value}"
            self._cautions[Caution(CautionKind.NOT_ON_DISK, mount.path, sentence)] = None

    def add_elsewhere(self) -> None:
        """What is on a disk too, and out of reach."""
        for other in self._dependencies.elsewhere:
            if (why := _why_excluded(other.path, self._settings)) is None:
                reason = f"it is mounted in another mount namespace alone, that of the process {other.pid}"
                why = FilesystemOutcome.UNFREEZABLE, reason
            self._leave(other.path, other.device, other.type, why[1], why[0])

    def spare_root(self) -> None:
        """Leave out what carries `/`: itself, the upper directory of an overlay, the image that it lies in."""
        mount = self._mounts.carrying(b"/")
        if mount is None:
            return
        root = self._dependencies.uppers.get(mount.device, mount.device)
        for device in self.wanted & {root, *self._dependencies.carriers_of(root)}:
            self.wanted.discard(device)
            self._spared.add(device)
            known, reason = self._blocks[device].known, "`/` lies on it, and the terminal of its requester might hang"
            self._leave(known.path, device, known.type, reason, FilesystemOutcome.EXCLUDED)

    def add_unreadable(self, *, is_all: bool) -> None:
        """The lines of the table that are no mounts: any of them may be a file system on a disk."""
        for line in self._mounts.unreadable:
            sentence = f"a line of the mount table cannot be read: {printable(line)}"
            self._cautions[Caution(CautionKind.UNREADABLE, b"", sentence)] = None
            if is_all:
                self._leave(b"?", "", "", sentence)

    def end(self) -> Chosen:
        """What came of it."""
        wanted = [block for device, block in self._blocks.items() if device in self.wanted]
        targets = []
        for block in wanted:
            if (why := why_left(block, self._settings)) is None:
                targets.append(block)
            else:
                self._leave(block.known.path, block.device, block.known.type, why[1], why[0])
        left, cautions = tuple(self._left), tuple(self._cautions)
        return Chosen(tuple(targets), left, cautions, frozenset(self.wanted), frozenset(self._spared))

    def _leave(
        self,
        path: bytes,
        device: str,
        kind: str,
        reason: str,
        outcome: FilesystemOutcome = FilesystemOutcome.UNFREEZABLE,
    ) -> None:
        lowers = outcome is FilesystemOutcome.UNFREEZABLE and self._settings.unfreezable is Unfreezable.LOWER
        self._left[Left(path, device, kind, outcome, reason, lowers)] = None

    def _instead(self, mount: Mount) -> str:
        upper = self._blocks.get(self._dependencies.uppers.get(mount.device, ""))
        return f"Name {shown(upper.known.path)}: its upper directory lies there. " if upper else ""

    def _resolved(self, path: str) -> bytes:
        return self._dependencies.resolved.get(path) or plain_path(path.encode("utf-8", "surrogateescape"))
