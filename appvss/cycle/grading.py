"""What the copy of each app's files is worth, once the cycle is over (`model/grade.py`).

The rules, in the order in which they are tried:
- No snapshot was to be, or nothing of the app is on the file systems that were named: nobody gives a grade.
- The hold did not end by its requester's thaw, or the file systems may not have stayed frozen until it: `raw`.
- An app that held: `app`, or what it declares if that is less. When a path that it declares lies on a disk and on no
  file system that was frozen with the others, it is `fs`, or `raw` if that is so of all its paths. One whose files lie
  on `/` alone, which the requester spares, rests on what it does in its hold, as all do when no file system is frozen
  here. When nothing lies at any of its paths, as the broker sees it, its files are elsewhere, such as in a container or
  on a file system that is not mounted any more: `raw`, unless everything was frozen.
- An app that only stands still (it declares `fs`): `raw` unless this broker froze its file systems. Nobody else can be
  relied on to bring to the disk what was on its way there. One that declares `raw` is worth no more.
- An app that did not hold: `fs` if all its paths, or all that there is, lay on file systems that were frozen over the
  whole hold; else `raw`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from appvss.cycle.state import Cycle, Participant
from appvss.model.filesystem import DeclaredPath, FilesystemOutcome, Scope
from appvss.model.grade import Grade
from appvss.model.names import printable
from appvss.model.verdict import APART, AppOutcome, Outcome

_NAMED: Final = 3
"""How many of an app's paths are named in a sentence."""
_STANDS_STILL: Final = "it only stands still, and what it had in its memory is not in the snapshot"
_UNLOCATED: Final = "it registered after it had been looked up where the files of the apps lie"
_UNSEEN: Final = "nothing lies at any of its paths, as the broker sees it: nobody can tell where its files are"


def graded(cycle: Cycle, part: Participant) -> AppOutcome:
    """An app's part as a value, with its grade and, where that is the app's own, why it is not `app`. Only when its
    outcome is decided.
    """
    result = part.result()
    if not cycle.told_go_on or cycle.rehearses or part.is_apart:
        return result
    grade, reason = _of_held(cycle, part) if part.outcome is Outcome.HELD else (_of_other(cycle, part), "")
    if grade is not None and (cycle.ended_by or cycle.filesystems_doubt):
        grade, reason = Grade.RAW, ""
    return replace(result, grade=grade, reason=result.reason or reason)


def _of_held(cycle: Cycle, part: Participant) -> tuple[Grade | None, str]:
    inside, outside = _sides(cycle, part)
    if cycle.has_located_paths and cycle.filesystems_frozen and part.paths is None:
        return Grade.RAW, _UNLOCATED
    if part.paths and not any(path.is_there for path in part.paths) and not _is_all_frozen(cycle):
        return Grade.RAW, _UNSEEN
    if outside and cycle.filesystems.scope is Scope.NAMED and not any(path.is_meant for path in part.paths or ()):
        return None, APART
    rests_on_hold = not inside and all(path.is_spared for path in outside)
    if outside and not rests_on_hold:
        return Grade.FS if inside else Grade.RAW, _not_in_freeze(outside)
    if part.registration.grade is Grade.RAW:
        return Grade.RAW, _STANDS_STILL
    if part.registration.grade is Grade.FS:
        return _of_other(cycle, part), _STANDS_STILL
    return Grade.APP, ""


def _of_other(cycle: Cycle, part: Participant) -> Grade:
    inside, outside = _sides(cycle, part)
    is_frozen = cycle.filesystems_frozen and (inside or _is_all_frozen(cycle))
    return Grade.FS if is_frozen and not outside else Grade.RAW


def _is_all_frozen(cycle: Cycle) -> bool:
    """Whether this broker froze all that there is on the machine's disks, wherever an app has its files."""
    is_whole = cycle.filesystems.scope is Scope.ALL and not cycle.filesystems.spares_root
    return is_whole and cycle.filesystems_frozen and not cycle.filesystems_missing


def _sides(cycle: Cycle, part: Participant) -> tuple[list[DeclaredPath], list[DeclaredPath]]:
    """The app's paths on file systems that were frozen, and those on a disk that were not."""
    parts = cycle.filesystem_parts.values()
    frozen = {one.device for one in parts if one.outcome is FilesystemOutcome.HELD}
    paths = part.paths or ()
    inside = [path for path in paths if path.is_planned and path.device in frozen]
    outside = [path for path in paths if path.lowers or (path.is_planned and path.device not in frozen)]
    return inside, outside


def _not_in_freeze(paths: Sequence[DeclaredPath]) -> str:
    told = "; in ".join(
        f"{path.path}, which is not in the freeze" + (f": {path.reason}" if path.reason else "")
        for path in paths[:_NAMED]
    )
    more = f"; and in {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return printable(f"it has files in {told}{more}")
