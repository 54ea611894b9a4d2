"""What file systems can do to a cycle and what to do next: a table as data, for `appvss why` (docs/why.md).

The verdict says what became of each file system, so the rows look at that first, and at the words of the sentence only
where no outcome tells. Each begins as the cycle's sentences do, and the more general row comes after the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from appvss.model.filesystem import FilesystemOutcome

_SURVEY: Final = "See what would be frozen, in which order, and what cannot be: `appvss filesystems`."
_AGAIN: Final = "Take the snapshot again."
_UNFROZEN: Final = r"the file systems could not be frozen: "


@dataclass(frozen=True, slots=True)
class CycleRow:
    """One way in which a cycle can end other than it should."""

    kind: str
    """A stable word, for programs."""
    pattern: str
    """What the sentence looks like, from its beginning."""
    said: str
    """One sentence without its full stop: what happened."""
    next_steps: tuple[str, ...]
    """What to do, a whole sentence each, the first thing first."""
    otherwise: str = "not said"
    """What stands for a group of the pattern that has found nothing."""
    filesystem: FilesystemOutcome | None = None
    """What must have become of a file system that the sentence names; None: the sentence alone tells."""


FILESYSTEM_ROWS: Final = (
    CycleRow(
        "filesystem_busy",
        _UNFROZEN + r"(?P<why>.+)",
        "somebody else has frozen a file system already, and may thaw it at any moment: {why}",
        (
            "Find out who it is: another backup agent, a snapshot of LVM or of the hypervisor that is under way, or "
            "`fsfreeze` in a script.",
            "If nobody is at it any more, thaw it by hand, `fsfreeze --unfreeze PATH`; then take the snapshot again.",
        ),
        filesystem=FilesystemOutcome.BUSY,
    ),
    CycleRow(
        "filesystem_no_mount",
        _UNFROZEN + r"(?P<why>.*\b(is no mount point|is not absolute)\b.*)",
        "a file system was named by a path that is no mount point: {why}",
        ("Name the mount point itself: `findmnt --target PATH` says which one that is.", _SURVEY),
    ),
    CycleRow(
        "filesystem_changed",
        _UNFROZEN + r"(?P<why>.*\b(changed between|is gone|not mounted there)\b.*)",
        "a mount changed while its file system was to be frozen: {why}",
        ("See who mounts and unmounts at that time, such as an automounter; then take the snapshot again.",),
    ),
    CycleRow(
        "filesystem_forbidden",
        _UNFROZEN + r"(?P<why>.*\b(not permit|not permitted|[Pp]ermission denied|EPERM|CAP_SYS_ADMIN)\b.*)",
        "the broker may not freeze: {why}",
        (
            "Run the broker as root: the kernel asks for CAP_SYS_ADMIN where the file system was mounted, so that it "
            "cannot be done from a container.",
        ),
    ),
    CycleRow(
        "filesystem_unfreezable",
        _UNFROZEN + r"(?P<why>.+)",
        "a file system cannot be frozen: {why}",
        (
            "If the snapshot may be taken without it: leave it out with `filesystems.exclude` in the broker's "
            'configuration, or set `filesystems.unfreezable` to "lower".',
            _SURVEY,
        ),
        filesystem=FilesystemOutcome.UNFREEZABLE,
    ),
    CycleRow(
        "filesystem_unfreezable",
        _UNFROZEN + r"(?P<why>.*\bcannot be frozen\b.*)",
        "a file system cannot be frozen: {why}",
        ("Name other file systems, or none: the apps alone are held with `--no-filesystems`.", _SURVEY),
    ),
    CycleRow(
        "filesystem_hangs",
        _UNFROZEN + r"(?P<why>.*\b(did not answer|in time|in its time|within|come back|hangs|hung)\b.*)",
        "the kernel did not come to the end of a freeze in time: {why}",
        (
            "See whether its disk is slow or gone: `journalctl -k`, and `appvss status`, which names a file system "
            "whose freeze still hangs. It is thawed as soon as the kernel comes back.",
            "Take the snapshot at a quieter time: a freeze writes everything to disk first.",
        ),
    ),
    CycleRow(
        "filesystems_not_frozen",
        _UNFROZEN + r"(?P<why>.+)",
        "the file systems were not frozen: {why}",
        ("See which file system it was, and whether its disk is busy: `appvss show {cycle}`, and the broker's log.",),
    ),
    CycleRow(
        "filesystems_not_ready",
        r"the file systems were not ready to be frozen in the time that was left",
        "the file systems could not be found, opened and synced in time",
        (
            "See whether a disk is slow: whatever is dirty is written before the freeze. Take the snapshot at a "
            "quieter time.",
            "Give it more time: `sources.{source}.{budget}` in the broker's configuration.",
        ),
    ),
    CycleRow(
        "filesystems_not_frozen",
        r"the file systems were not frozen in the time that was left",
        "the apps were held, and the time was over before the file systems were frozen",
        ("See which file system it was, and whether its disk is busy: `appvss show {cycle}`, and the broker's log.",),
    ),
    CycleRow(
        "filesystems_went_on",
        r"(the file systems went on before the thaw: (?P<why>.*)|the freezer did not confirm the thaw)",
        "nobody can say that the file systems stood still until the thaw: {why}",
        ("See who else thaws them: another backup agent, or `fsfreeze` in a script.", _AGAIN),
        otherwise="they did not confirm their thaw in time",
    ),
    CycleRow(
        "filesystem_left_out",
        r"(the file system )?(?P<path>/.*?|\?) (is|was) not frozen: (?P<why>.+)",
        "{path} was not frozen, and may have been written to while the snapshot was taken: {why}",
        (
            "If nothing on it matters to the snapshot: leave it out with `filesystems.exclude` in the broker's "
            'configuration, or set `filesystems.unfreezable` to "report", so that none of its kind lowers a verdict.',
            _SURVEY,
        ),
    ),
)
"""Everything that file systems can do to a cycle."""
