"""How the paths of an app look: what the kernel tells of every file and folder below them, without reading any.

A write shows in the change time of its inode, which no program can set: one that sets the modification time back is
seen all the same. Nothing is written for a look, also no access time where the kernel lets us choose (open(2),
O_NOATIME), and a frozen file system can be looked at.

What counts as a change though no content is changed: a new owner, another attribute, another link, also when it is set
to what it was. SQLite does so as root, whenever a process opens a database in WAL mode (fchown of `-wal` and `-shm`,
seen with strace).

What cannot be seen this way:

- A write into a page of a mapped file that was changed before and has not been written back since: only the first write
  into a clean page sets the times (measured on ext4; after msync(2) or fsync(2) the page is clean). On tmpfs, which no
  snapshot of a disk contains, next to no write into a mapped page is seen.
- Before Linux 6.13, and on other kernels, a second write within one tick of the kernel's clock, 1 to 10 ms: it gets the
  same times as the first (Documentation/filesystems/multigrain-ts.rst).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NamedTuple

from appvss.model.names import printable

ENTRIES_LIMIT: Final = 10_000
"""Files and folders that one app may have watched."""
DEPTH_LIMIT: Final = 32
"""How deep folders below a declared one may be nested. Each level has a descriptor open during a look."""
_SHOWN: Final = 3
"""Changed paths that a sentence names."""
_SHOWN_LENGTH: Final = 120
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK
_NO_ACCESS_TIME: Final = getattr(os, "O_NOATIME", 0)
_REPLACED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK})
"""What the kernels say of a folder that is gone, or has become a link (open(2), O_NOFOLLOW; FreeBSD says EMLINK)."""


class Uninspectable(Exception):
    """Nobody can tell how the paths look. Its text is one phrase that says why."""


class Entry(NamedTuple):
    """What is compared of one file or folder. Times are nanoseconds, as stat(2) has them: a `timedelta` would lose
    some.

    Of a pipe, a socket or a device only what it is: who uses it sets its times, and nothing reaches the disk.
    """

    device: int
    inode: int
    mode: int
    size: int = 0
    modified: int = 0
    changed: int = 0

    @property
    def is_folder(self) -> bool:
        """Whether other entries may lie below it."""
        return stat.S_ISDIR(self.mode)


def entry_of(found: os.stat_result) -> Entry:
    """What is compared of what stat(2) tells."""
    what = stat.S_IFMT(found.st_mode)
    if what == stat.S_IFDIR:
        # Its size follows from its names, in a way of the file system's own.
        return Entry(found.st_dev, found.st_ino, found.st_mode, 0, found.st_mtime_ns, found.st_ctime_ns)
    if what in (stat.S_IFREG, stat.S_IFLNK):
        return Entry(found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return Entry(found.st_dev, found.st_ino, found.st_mode)


Fingerprint = Mapping[str, Entry]
"""By path. A declared path at which nothing lies is not in it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one look may take."""

    entries: int = ENTRIES_LIMIT
    depth: int = DEPTH_LIMIT
    is_over: Callable[[], bool] = lambda: False
    """Asked often; True: its time is over."""
    time: timedelta = timedelta(0)
    """That time, for the sentence."""


@dataclass(slots=True)
class _Look:
    bounds: Bounds
    found: dict[str, Entry] = field(default_factory=dict)

    def declared(self, path: str) -> None:
        """A path that the app declares. It may be a symbolic link: what is meant is where that leads."""
        if not path.startswith("/"):
            raise Uninspectable(f"{_shown(path)} is not an absolute path")
        try:
            entry = entry_of(os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        self._keep(path, entry)
        if entry.is_folder:
            self._below(path.rstrip("/"), path, None, 0)

    def _keep(self, path: str, entry: Entry) -> None:
        if len(self.found) >= self.bounds.entries:
            raise Uninspectable(f"too many files to watch: over {self.bounds.entries:,}")
        # A clock costs less than a stat, and a path that does not answer is not looked at for long.
        if self.bounds.is_over():
            raise Uninspectable(f"they could not be looked at within {self.bounds.time.total_seconds():g} s")
        self.found[path] = entry

    def _below(self, path: str, name: str, parent: int | None, depth: int) -> None:
        """Everything in a folder, which is opened by its name in its parent: nobody can put a link in its place that
        leads out of the tree.
        """
        if depth >= self.bounds.depth:
            raise Uninspectable(f"folders are nested deeper than {self.bounds.depth} below {_shown(path)}")
        folder = _open_folder(name, parent)
        if folder is None:
            return
        try:
            for entry, seen in _listed(folder):
                below = f"{path}/{entry}"
                if below in self.found:
                    continue  # below two declared paths
                self._keep(below, seen)
                if seen.is_folder:
                    self._below(below, entry, folder, depth + 1)
        finally:
            os.close(folder)


def _open_folder(name: str, parent: int | None) -> int | None:
    """A descriptor; None when the folder is no longer there, which its parent's times will show."""
    flags = _FOLDER if parent is None else _FOLDER | os.O_NOFOLLOW
    try:
        try:
            return os.open(name, flags | _NO_ACCESS_TIME, dir_fd=parent)
        except PermissionError:  # somebody else's folder, and no right to leave its access time alone
            return os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in _REPLACED:
            return None
        raise


def _listed(folder: int) -> Iterator[tuple[str, Entry]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                yield entry.name, entry_of(entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue  # unlinked meanwhile; the folder's times will show it


def look(paths: Iterable[str], bounds: Bounds) -> Fingerprint:
    """How these paths look now. Blocks for as long as the file systems take.

    A declared path may be a symbolic link and is followed; links below it are not, and are compared themselves. A path
    at which nothing lies is compared as such, unless nothing lies at any of them.

    Raises:
        Uninspectable: a limit of `bounds` is broken, a folder cannot be read, or none of the paths is there.
    """
    looking = _Look(bounds)
    for path in paths:
        try:
            looking.declared(path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise Uninspectable(f"{_shown(path)}: {why}") from error
    if not looking.found:
        raise Uninspectable(f"nothing lies at {_first([_shown(path) for path in paths])}, as the broker sees it")
    return looking.found


def changes(before: Fingerprint, after: Fingerprint) -> str:
    """The first changed paths and how each has changed, as one phrase; empty when nothing has."""
    if before == after:
        return ""
    found = {path: _change(before.get(path), after.get(path)) for path in sorted(before.keys() | after.keys())}
    # What has happened to a file says more than that its folder's time shows it.
    changed = sorted((path for path, how in found.items() if how), key=lambda path: found[path] == _FOLDER_TIME)
    return _first([f"{_shown(path)} ({found[path]})" for path in changed])


def changed_after(fingerprint: Fingerprint, begin: int, end: int, counts: Callable[[int], bool]) -> str:
    """Those whose change time lies after `begin` and not after `end`, as one phrase; empty: none.

    Args:
        fingerprint: how they look.
        begin: nanoseconds since 1970.
        end: likewise.
        counts: whether the times on a device are of the same clock.
    """
    late = {path: entry for path, entry in fingerprint.items() if begin < entry.changed <= end}
    devices = {device for device in {entry.device for entry in late.values()} if counts(device)}
    return _first([f"{_shown(path)} (time)" for path, entry in sorted(late.items()) if entry.device in devices])


_FOLDER_TIME: Final = "time of the folder"


def _change(before: Entry | None, after: Entry | None) -> str:
    if before == after:
        return ""
    if before is None:
        return "new"
    if after is None:
        return "gone"
    if (before.device, before.inode, stat.S_IFMT(before.mode)) != (after.device, after.inode, stat.S_IFMT(after.mode)):
        return "another file in its place"
    if before.size != after.size:
        return f"size {before.size} -> {after.size}"
    if before.mode != after.mode:
        return f"mode {stat.S_IMODE(before.mode):o} -> {stat.S_IMODE(after.mode):o}"
    if before.modified == after.modified:
        return "owner or another attribute, or its time was set back"
    return _FOLDER_TIME if after.is_folder else "time"


def _first(phrases: list[str]) -> str:
    more = len(phrases) - _SHOWN
    return ", ".join(phrases[:_SHOWN]) + (f", and {more:,} more" if more > 0 else "")


def _shown(path: str) -> str:
    """A path for people; of a long one its end, which tells more."""
    return printable(path if len(path) <= _SHOWN_LENGTH else "..." + path[3 - _SHOWN_LENGTH :], _SHOWN_LENGTH)
