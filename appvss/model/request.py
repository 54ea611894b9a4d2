"""What a source asks of the cycle, and the one answer that it takes back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from appvss.model.app import AppId
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice
from appvss.model.instant import Instant
from appvss.model.policy import Overlap
from appvss.model.verdict import Verdict


class RequestKind(StrEnum):
    """What the requester wants. The words are the FreeBSD device's (facts/freebsd-vss.md section 4)."""

    CHECK = "check"
    """Would a freeze work? Apps prepare; nothing is held."""
    FREEZE = "freeze"
    """Freeze now; the answer means that everything is held."""
    THAW = "thaw"
    """The snapshot is taken, or given up: let everything go on."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question of a requester. It gets exactly one answer, and none after its deadline."""

    id: str
    """Unique within the source while it is unanswered (FreeBSD: the msgid)."""
    source: str
    """Which source brought it: `freebsd`, `local`."""
    kind: RequestKind
    requester: str
    """Who wants it, for people: `hyper-v host`, `appvss freeze (pid 4711)`."""
    deadline: Instant
    """When an answer comes too late. All budgets are cut from the time until then."""
    reserve: timedelta = timedelta(0)
    """What of that time belongs to others: the file-system freeze and the way of the answer."""
    hold_limit: timedelta = timedelta(0)
    """How long the hold may last at most, from the answer on. Only a freeze has one."""
    supersedes: bool = False
    """Whether the source has one request at a time, so that a new check or freeze means that its former cycle is over
    even when no thaw came (FreeBSD: facts/freebsd-vss.md section 0, trap 6). False: for a second requester of the same
    source `overlap` counts, too."""
    overlap: Overlap = Overlap.REFUSE
    """What becomes of it while another requester's cycle is under way."""
    rehearses: bool = False
    """Whether it is a rehearsal: apps are frozen and thawed, file systems are not, and no certificate is written."""
    filesystems: FilesystemChoice = NO_FILESYSTEMS
    """Which file systems are to be frozen with the apps; none in a check or a rehearsal."""
    apart: frozenset[AppId] = frozenset()
    """With `Scope.NAMED`: the apps that declare paths, none of which is on a named file system. They are not asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The one answer to a request."""

    request: Request
    go_on: bool
    """True: what was asked for is so. False: it is not, and whatever was done has been or is being undone."""
    reason: str
    """One sentence for people; empty when there is nothing to add."""
    cycle: str = ""
    """The cycle that the answer belongs to; empty when there was none."""
    verdict: Verdict | None = None
    """The end of the cycle, where the answer comes with it (a thaw, a refused freeze)."""
    hold_limit: timedelta | None = None
    """How long the hold may last from now on at most, with a freeze that is agreed to."""
