"""What a running broker says of the file systems: who freezes them, and what a freeze would do to each. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from appvss.cli.preflight.finding import Finding, ok, problem, warning

if TYPE_CHECKING:
    from appvss.model.filesystem import FilesystemSurvey
    from appvss.sdk.admin_filesystems import FreezerStatus

_CHECK: Final = "filesystems"
_NAMED: Final = 10


def freezer(status: FreezerStatus | None, is_locked: bool | None) -> Iterator[Finding]:
    """Whether whoever freezes is fit to freeze, and to thaw whatever happens.

    Args:
        status: what the broker says; None: it is an older one, and says nothing.
        is_locked: whether the kernel keeps the guardian in memory; None: nobody can see it from here.
    """
    if status is None:
        return
    detail = f": {status.detail}" if status.detail else ""
    match status.condition:
        case "off":
            yield ok("freezer", "this broker freezes no file systems")
        case "hanging":
            paths = f" of {', '.join(status.hanging[:_NAMED])}" if status.hanging else ""
            yield problem(
                "freezer",
                f"a call{paths} does not come back from the kernel{detail}",
                "Nothing can cancel it: mend the disk below, or start the machine anew. No file system is frozen "
                "before that.",
            )
        case "lost":
            yield problem(
                "freezer",
                f"the guardian is gone{detail}",
                "The next cycle starts another one; the broker's log has why that fails. Until then nothing is frozen.",
            )
        case _:
            yield _guardian(status.guardian_pid, is_locked)


def _guardian(pid: int | None, is_locked: bool | None) -> Finding:
    if is_locked is False:
        return warning(
            "freezer",
            f"the guardian, process {pid}, may be swapped out, and be late with a thaw",
            "Leave the broker CAP_IPC_LOCK, or raise its RLIMIT_MEMLOCK.",
        )
    return ok("freezer", f"the guardian is process {pid}" + (", and is kept in memory" if is_locked else ""))


def survey(value: FilesystemSurvey, is_wanted: bool) -> Iterator[Finding]:
    """What a freeze would do.

    Args:
        value: what the broker says of it.
        is_wanted: whether a source that serves a host asks for it, so that a refusal fails the host's backups.
    """
    grade = problem if is_wanted else warning
    whose = "every freeze of the host" if is_wanted else "a freeze of them"
    if value.veto:
        yield grade(
            _CHECK,
            f"{whose} is refused: {value.veto}",
            "`appvss filesystems` shows each. Unmount it, exclude it (`filesystems.exclude`), or let it lower the "
            "verdict alone (`filesystems.unfreezable`).",
        )
    for left in [one for one in value.left if one.lowers][:_NAMED]:
        yield grade(
            _CHECK,
            f"{left.path} ({left.type}) would not be frozen, and lower every verdict: {left.reason}",
            "Exclude it (`filesystems.exclude`) if nothing on it matters to a restored machine; else move that "
            "elsewhere.",
        )
    for one in [one for one in value.warnings if one.dead_locks][:_NAMED]:
        yield warning(_CHECK, one.sentence, "`appvss filesystems` shows the order, and what else there is to know.")
    for app in [one for one in value.apps if one.lowers][:_NAMED]:
        yield warning(
            _CHECK,
            f"{app.app} has files that would not be in the freeze, and its copy would be worth less: "
            f"{'; '.join(app.paths)}",
            "Take its file system out of `filesystems.exclude`, or move the files to one that can be frozen; "
            "`appvss filesystems` shows each.",
        )
    if not value.veto and not any(one.lowers for one in value.left):
        what = "for a host" if is_wanted else "for the paths that apps declare"
        count = f"{len(value.planned)} file system{'s' if len(value.planned) != 1 else ''}"
        yield ok(_CHECK, f"{count} would be frozen {what}, and none would be left out that lowers the verdict")
