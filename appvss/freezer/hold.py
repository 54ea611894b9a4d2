"""What the broker knows of the file systems of one cycle, from their opening to the last word on their thaw.

Fed with what the guardian says; decides nothing and calls nobody.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from appvss.freezer import guardian
from appvss.freezer.base import Thawed
from appvss.freezer.mountinfo import shown
from appvss.freezer.plan import Left, Target
from appvss.model.filesystem import FilesystemOutcome, FilesystemPart
from appvss.model.instant import Instant

LIMIT_PASSED: Final = "the hold limit passed before the thaw"

_REFUSALS: Final = {
    errno.EBUSY: "somebody else has frozen it already, and may thaw it at any moment",
    errno.EOPNOTSUPP: "its kind of file system has no freeze",
    errno.EPERM: "the kernel does not permit it: the broker needs CAP_SYS_ADMIN where the file system was mounted",
    guardian.DIED: "the process that froze it was killed",
}
_OUTCOMES: Final = {
    errno.EBUSY: FilesystemOutcome.BUSY,
    errno.EOPNOTSUPP: FilesystemOutcome.UNFREEZABLE,
}


@dataclass(eq=False, slots=True)
class Held:
    """One file system."""

    target: Target
    wave: int
    descriptor: int
    """The broker's own, for the case that nobody else is left."""
    sync: int | None = None
    """The errno of the sync; zero: it is done; None: it is not."""
    freeze: int | None = None
    took: timedelta | None = None
    """How long the freeze took."""
    thaw: int | None = None

    @property
    def path(self) -> str:
        """The mount point, printable."""
        return shown(self.target.path)

    @property
    def may_be_frozen(self) -> bool:
        """Whether it may be frozen by us, once a freeze has been asked for."""
        return self.freeze in (None, 0, guardian.DIED) and self.thaw is None


class Hold:
    """All of one cycle.

    Args:
        cycle: its id.
    """

    def __init__(self, cycle: str) -> None:
        self.cycle = cycle
        self.files: tuple[Held, ...] = ()
        """In the order of the freeze; the guardian counts them in the same way."""
        self.is_preparing = True
        self.is_recorded = False
        """Whether a record of it has been, or may have been, written."""
        self.is_passed_on = False
        """Whether the guardian has, or may have, a descriptor."""
        self.is_asked_to_freeze = False
        self.is_asked_to_thaw = False
        self.is_overdue = False
        """Whether something has taken longer than it may."""
        self.since: Instant | None = None
        """When all were frozen; None: they never were."""
        self.loss = ""
        """Why the hold ended before it was told to, one lower-case sentence."""
        loop = asyncio.get_running_loop()
        self.synced: asyncio.Future[str] = loop.create_future()
        """All are synced; or why not."""
        self.frozen: asyncio.Future[str] = loop.create_future()
        """All are frozen; or why not."""
        self.acknowledged = asyncio.Event()
        """The guardian thaws."""
        self.released = asyncio.Event()
        """Nothing is frozen by us any more, and nobody is left who would thaw."""
        self.over = asyncio.Event()
        """Everything is closed."""

    def hear(self, message: Mapping[str, Any]) -> None:
        """A word of the guardian on this cycle. `held` and `expired` mean more to the caller, too."""
        said = message["said"]
        if said in ("synced", "frozen", "thawed"):
            self._hear_file(said, self.files[message["target"]], message["errno"], message["took"])
        elif said == "held":
            _settle(self.frozen, "")
        elif said == "expired":
            self.lose(LIMIT_PASSED)
        elif said == "thawing":
            self.acknowledged.set()
            self.fail(self._why_not_frozen())
        elif said == "done":
            self.released.set()

    def _hear_file(self, said: str, file: Held, number: int, took: float) -> None:
        if said == "synced":
            file.sync = number
            if number:
                _settle(self.synced, f"{file.path} cannot be synced: {os.strerror(number)}")
            elif all(each.sync == 0 for each in self.files):
                _settle(self.synced, "")
        elif said == "frozen":
            file.freeze = number
            file.took = timedelta(seconds=took) if number == 0 else None
        else:
            file.thaw = number

    def lose(self, reason: str) -> None:
        """The hold has ended by itself. The first reason stays."""
        self.loss = self.loss or reason
        self.fail(reason)

    def fail(self, reason: str) -> None:
        """What is waited for does not come."""
        _settle(self.synced, reason)
        _settle(self.frozen, reason)

    def _why_not_frozen(self) -> str:
        if self.loss:
            return self.loss
        for file in self.files:
            if file.freeze and file.freeze != errno.EOPNOTSUPP:
                return f"{file.path} cannot be frozen: {refusal(file.freeze)}"
        for file in self.files:
            if file.freeze:
                return f"{file.path} cannot be frozen: {refusal(file.freeze)}"
        return "it was told to thaw"

    # -- what became of it

    @property
    def hanging(self) -> tuple[Held, ...]:
        """Those whose sync, freeze or thaw does not come back; empty as long as nothing is overdue."""
        if not self.is_overdue or self.released.is_set():
            return ()
        if self.is_asked_to_freeze:
            return tuple(self._frozen_and_not_thawed() if self.is_asked_to_thaw else self._being_frozen())
        return tuple(file for file in self.files if file.sync is None)

    def _being_frozen(self) -> Iterator[Held]:
        waves = [file.wave for file in self.files if file.freeze is None]
        return (file for file in self.files if file.freeze is None and file.wave == min(waves))

    def _frozen_and_not_thawed(self) -> Iterator[Held]:
        started = max((file.wave for file in self.files if file.freeze is not None), default=-1) + 1
        return (file for file in self.files if file.may_be_frozen and file.wave <= started)

    @property
    def lost(self) -> tuple[Held, ...]:
        """Those that were not frozen all the time until the thaw, or of which nobody knows."""
        if self.since is None:
            return ()
        held = [file for file in self.files if file.freeze == 0]
        return tuple(file for file in held if self.loss or file.thaw != 0)

    def doubts(self) -> tuple[str, ...]:
        """One sentence for each file system that turned out to have no freeze."""
        missing = (file for file in self.files if file.freeze == errno.EOPNOTSUPP)
        return tuple(f"{file.path} is not frozen: {refusal(errno.EOPNOTSUPP)}" for file in missing)

    def verdict(self) -> Thawed:
        """How the thaw went, once it is over or waited for no longer."""
        lost, hanging = self.lost, self.hanging
        if hanging:
            paths = (*lost, *(file for file in hanging if file not in lost))
            return Thawed(False, self.why_hanging(), tuple(file.path for file in paths))
        if lost:
            return Thawed(False, self.loss or _why_broken(lost[0]), tuple(file.path for file in lost))
        return Thawed(unbroken=True)

    def why_hanging(self) -> str:
        """What does not come back, one lower-case sentence."""
        what = "thaw" if self.is_asked_to_thaw else "freeze" if self.is_asked_to_freeze else "sync"
        paths = ", ".join(file.path for file in self.hanging)
        return f"the {what} of {paths} for cycle {self.cycle} hangs in the kernel"

    def parts(self) -> tuple[FilesystemPart, ...]:
        """What became of each, as far as it is known."""
        return tuple(self._part(file) for file in self.files)

    def _part(self, file: Held) -> FilesystemPart:
        outcome, reason = FilesystemOutcome.SKIPPED, "another one was not frozen"
        if file.freeze:
            outcome, reason = _OUTCOMES.get(file.freeze, FilesystemOutcome.FAILED), refusal(file.freeze)
        elif file.sync:
            outcome, reason = FilesystemOutcome.FAILED, f"it cannot be synced: {os.strerror(file.sync)}"
        elif file in self.hanging:
            outcome, reason = FilesystemOutcome.FAILED, "the kernel did not answer in time"
        elif self.since is not None:
            outcome, reason = FilesystemOutcome.HELD, ""
        took = file.took if outcome is FilesystemOutcome.HELD else None
        return FilesystemPart(file.path, file.target.device, file.target.type, outcome, reason, took)


def part_of(left: Left) -> FilesystemPart:
    """The part of a file system that is left out."""
    return FilesystemPart(shown(left.path), left.device, left.type, left.outcome, left.reason)


def refusal(number: int) -> str:
    """Why a file system cannot be frozen: one lower-case sentence."""
    return _REFUSALS.get(number) or f"the kernel refuses: {os.strerror(number)}"


def _why_broken(file: Held) -> str:
    if file.thaw == errno.EINVAL:
        return f"somebody else thawed {file.path} during the hold"
    if file.thaw == guardian.LATE:
        return LIMIT_PASSED
    if file.thaw is None:
        return f"nobody knows whether {file.path} was frozen all the time"
    return f"the kernel refuses to thaw {file.path}: {os.strerror(file.thaw)}"


def _settle(future: asyncio.Future[str], result: str) -> None:
    if not future.done():
        future.set_result(result)
