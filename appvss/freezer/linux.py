"""Freezes file systems on Linux, by the guardian's hand. ARCHITECTURE section 5.

The broker itself calls neither FIFREEZE nor FITHAW: both may hang for ever, where nothing can end them
(facts/linux-hv-vss.md section 5.1). It opens and proves what is to be frozen, and passes the descriptors on:

    prepare   plan, open, verify (a thread) -> record -> guardian: open, sync
    freeze    guardian: freeze, wave after wave, with a limit that nothing renews
    thaw      guardian: thaw, the last wave first; then the descriptors and the record go

A guardian that is gone, or does not answer, is replaced by the broker's own descriptors: its children thaw by
themselves when they see its end, and what they leave is thawed here, in threads. The next cycle starts another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from appvss.freezer import record
from appvss.freezer.aside import Aside
from appvss.freezer.base import FreezeFailed, Frozen, Prepared, Thawed
from appvss.freezer.guardian import FITHAW, call
from appvss.freezer.guardian_process import GuardianAbsent, GuardianProcess, Message
from appvss.freezer.hold import Held, Hold, part_of
from appvss.freezer.mountinfo import shown
from appvss.freezer.opening import Changed, close_all, open_all
from appvss.freezer.plan import Plan, PlanRefused
from appvss.model.duration import format_duration
from appvss.model.filesystem import (
    FilesystemChoice,
    FilesystemOutcome,
    FreezerCondition,
    FreezerMode,
    FreezerState,
    Scope,
    Unfreezable,
)
from appvss.model.instant import Instant

Planner = Callable[[FilesystemChoice, Sequence[str]], Plan]
"""Reads the mount table and plans. Called in a thread; raises `PlanRefused` and OSError."""

ANSWER_LIMIT: Final = timedelta(seconds=1)
"""How long the guardian may take to say that it thaws, before it is ended."""
CHILDREN_LIMIT: Final = timedelta(seconds=1)
"""How long its children may take to thaw without it, before the broker does."""
THAW_LIMIT: Final = timedelta(seconds=5)
"""How long a thaw is waited for. What has not been confirmed then goes on by itself, and is named."""
_PATIENCE: Final = timedelta(milliseconds=500)
"""How long a cycle waits for a former guardian."""
_MOST_RESERVE: Final = timedelta(milliseconds=200)
_RESERVE: Final = 0.1
"""The part of a budget that is left to the caller, so that the reason is there before it gives up."""

T = TypeVar("T")

_logger = logging.getLogger("appvss.freezer.linux")


class LinuxFreezer:
    """The freezer of a Linux host. One per runtime directory.

    Args:
        planner: says what is to be frozen.
        directory: the broker's runtime directory; it must be there.
        now: the monotonic clock.
        unfreezable: what it means that a file system has no freeze and nobody knew before.
        on_lost: told, on the event loop, when a hold has ended by itself: the cycle, and why. May be set later.
    """

    def __init__(
        self,
        planner: Planner,
        directory: Path,
        now: Callable[[], Instant],
        unfreezable: Unfreezable = Unfreezable.LOWER,
        on_lost: Callable[[str, str], None] | None = None,
    ) -> None:
        self.unfreezable = unfreezable
        self.on_lost = on_lost
        self._planner = planner
        self._directory = directory
        self._now = now
        self._guardian: GuardianProcess | None = None
        self._why_lost = "the guardian has not been started"
        self._hold: Hold | None = None
        """Of the last cycle, also when it is over: its thaw may be asked for once more."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._asides: list[Aside[Any]] = []
        """Threads that had to be left behind."""

    # -- from start to close

    async def start(self) -> None:
        """Start the guardian, and thaw what a former broker has left frozen. A failure is in `state`, and every cycle
        with file systems fails with it until a start succeeds.
        """
        with contextlib.suppress(GuardianAbsent):
            await self._start_guardian(record.GUARDIAN_LIMIT)

    async def _start_guardian(self, patience: timedelta) -> GuardianProcess:
        if self._guardian is None:
            try:
                self._guardian = await GuardianProcess.start(self._directory, self._hear, self._lose_guardian, patience)
            except GuardianAbsent as error:
                self._why_lost = str(error)
                _logger.error("file systems cannot be frozen: %s", error)
                raise
        return self._guardian

    async def close(self) -> None:
        """Thaw, end the guardian, and let go of everything. Takes no longer than a thaw and the guardian's end."""
        if self._hold is not None:
            await self.thaw(self._hold.cycle)
        if self._guardian is not None:
            await self._guardian.close(is_free=self._hold is None or self._hold.over.is_set())
            self._guardian = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def state(self) -> FreezerState:
        """How it is at this moment."""
        hold = self._hold if self._hold is not None and not self._hold.over.is_set() else None
        hanging = tuple(file.path for file in hold.hanging) if hold is not None else ()
        frozen = [file for file in hold.files if file.freeze == 0 and file.thaw is None] if hold is not None else []
        condition, detail = self._condition(hold, hanging)
        since = hold.since if hold is not None and hold.since is not None else self._now()
        return FreezerState(
            mode=FreezerMode.LINUX,
            condition=condition,
            guardian_pid=self._guardian.pid if self._guardian is not None else None,
            frozen=tuple((file.path, since) for file in frozen),
            hanging=hanging,
            detail=detail,
        )

    def _condition(self, hold: Hold | None, hanging: tuple[str, ...]) -> tuple[FreezerCondition, str]:
        if hold is not None and hanging:
            return FreezerCondition.HANGING, hold.why_hanging()
        if self._left_behind():
            return FreezerCondition.HANGING, "a look at the mount table or at a mount point does not come back"
        if hold is not None:
            return FreezerCondition.HOLDING, hold.loss
        if self._guardian is None:
            return FreezerCondition.LOST, self._why_lost
        return FreezerCondition.READY, ""

    async def survey(self, choice: FilesystemChoice, declared: Sequence[str]) -> Plan:
        """What a freeze would do now. Opens nothing.

        Raises:
            PlanRefused: a named path cannot be frozen.
            OSError: the mount table cannot be read.
        """
        return await Aside(partial(self._planner, choice, tuple(declared)), "survey file systems").result()

    # -- prepare

    async def prepare(
        self, cycle: str, choice: FilesystemChoice, declared: Sequence[str], budget: timedelta
    ) -> Prepared:
        """See `Freezer.prepare`. Refuses while anything of an earlier cycle is frozen or hangs."""
        began = self._now()
        await self._until_free(budget)
        budget -= self._now() - began
        hold = self._hold = Hold(cycle)
        self._begin(self._put_away(hold), f"put away the file systems of {cycle}")
        try:
            async with self._within(hold, budget, "the file systems were not ready"):
                prepared = await self._prepare(hold, choice, declared)
        except BaseException:
            self._begin_thaw(hold)
            raise
        finally:
            hold.is_preparing = False
            if not hold.files or (hold.is_asked_to_thaw and not hold.is_passed_on):
                hold.released.set()
        return prepared

    async def _until_free(self, budget: timedelta) -> None:
        if self._left_behind():
            raise FreezeFailed("a look at a mount point in an earlier cycle does not come back")
        hold = self._hold
        if hold is None or hold.over.is_set():
            return
        if hold.released.is_set() or (hold.is_asked_to_thaw and not hold.is_overdue):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(budget, THAW_LIMIT).total_seconds()):
                    await hold.over.wait()
                    return
        raise FreezeFailed(hold.why_hanging() if hold.hanging else f"file systems are held for cycle {hold.cycle}")

    async def _prepare(self, hold: Hold, choice: FilesystemChoice, declared: Sequence[str]) -> Prepared:
        if choice.scope is Scope.NONE:
            return Prepared()
        plan = await self._plan(choice, declared)
        # What has nothing to freeze takes no part: a survey lists it.
        parts = tuple(part_of(left) for left in plan.left if left.outcome is not FilesystemOutcome.SKIPPED)
        if plan.veto:
            raise FreezeFailed(plan.veto, parts)
        doubts = tuple(f"{shown(left.path)} is not frozen: {left.reason}" for left in plan.left if left.lowers)
        if plan.targets:
            # First, since it alone has the right to write a record: there may be one of a former guardian's.
            guardian = await self._the_guardian()
            await self._open(hold, plan)
            await self._sync(hold, guardian)
        return Prepared(parts, doubts, plan.places)

    async def _plan(self, choice: FilesystemChoice, declared: Sequence[str]) -> Plan:
        try:
            return await self._run(Aside(partial(self._planner, choice, tuple(declared)), "plan file systems"))
        except PlanRefused as error:
            raise FreezeFailed(error.sentence) from error
        except OSError as error:
            raise FreezeFailed(f"the mount table cannot be read: {error.strerror}") from error

    async def _open(self, hold: Hold, plan: Plan) -> None:
        try:
            descriptors = await self._run(Aside(partial(open_all, plan.targets), "open file systems", close_all))
        except Changed as error:
            raise FreezeFailed(str(error)) from error
        except OSError as error:
            raise FreezeFailed(f"{error.filename} cannot be opened: {error.strerror}") from error
        if hold.is_asked_to_thaw:
            close_all(descriptors)
        _go_on(hold)
        waves = [(target, number) for number, wave in enumerate(plan.waves) for target in wave]
        hold.files = tuple(Held(target, wave, fd) for (target, wave), fd in zip(waves, descriptors, strict=True))
        hold.is_recorded = True
        try:
            await self._run(Aside(partial(record.write, self._directory, hold.cycle, plan.targets), "write a record"))
        except OSError as error:
            raise FreezeFailed(f"{self._directory} takes no record of what is frozen: {error.strerror}") from error

    async def _the_guardian(self) -> GuardianProcess:
        try:
            return await self._start_guardian(_PATIENCE)
        except GuardianAbsent as error:
            raise FreezeFailed(str(error)) from error

    async def _sync(self, hold: Hold, guardian: GuardianProcess) -> None:
        _go_on(hold)
        try:
            hold.is_passed_on = True
            for file in hold.files:
                message = {"do": "open", "cycle": hold.cycle, "wave": file.wave}
                while not guardian.try_to_send(message, file.descriptor):
                    await guardian.until_writable()
                    _go_on(hold)  # nothing is opened behind the thaw
            while not guardian.try_to_send({"do": "sync", "cycle": hold.cycle}):
                await guardian.until_writable()
                _go_on(hold)
        except OSError as error:
            raise FreezeFailed(hold.loss or "the guardian has ended") from error
        if reason := await hold.synced:
            raise FreezeFailed(reason, hold.parts())

    # -- freeze

    async def freeze(self, cycle: str, budget: timedelta, hold_limit: timedelta) -> Frozen:
        """See `Freezer.freeze`. The guardian's limit is `budget` and `hold_limit` together, from now on."""
        hold = self._hold
        if hold is None or hold.cycle != cycle:
            return Frozen()
        if hold.is_asked_to_thaw:
            raise FreezeFailed(hold.loss or "the file systems have been let go", hold.parts())
        if not hold.files:
            return Frozen()
        try:
            async with self._within(hold, budget, "the file systems were not frozen"):
                await self._freeze(hold, budget + hold_limit)
        except BaseException:
            self._begin_thaw(hold)
            raise
        return Frozen(hold.parts(), hold.doubts() if self.unfreezable is Unfreezable.LOWER else ())

    async def _freeze(self, hold: Hold, limit: timedelta) -> None:
        message = {
            "do": "freeze",
            "cycle": hold.cycle,
            "limit": limit.total_seconds(),
            "tolerates": self.unfreezable is not Unfreezable.VETO,
        }
        hold.is_asked_to_freeze = True
        try:
            if self._guardian is None:
                raise BrokenPipeError
            if not self._guardian.try_to_send(message):
                raise FreezeFailed("the guardian does not read what it is told", hold.parts())
        except OSError as error:
            raise FreezeFailed(hold.loss or self._why_lost, hold.parts()) from error
        if reason := await hold.frozen:
            raise FreezeFailed(reason, hold.parts())

    # -- thaw

    async def thaw(self, cycle: str) -> Thawed:
        """See `Freezer.thaw`. Takes `THAW_LIMIT` at most; what is not confirmed then goes on by itself."""
        hold = self._hold
        if hold is None or hold.cycle != cycle:
            return Thawed(unbroken=True)
        self._begin_thaw(hold)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(THAW_LIMIT.total_seconds()):
                await hold.over.wait()
        if not hold.over.is_set():
            hold.is_overdue = True
        return hold.verdict()

    def _begin_thaw(self, hold: Hold) -> None:
        """Have everything thawed; returns at once. The guardian hears of it even if nobody waits for it."""
        if hold.is_asked_to_thaw:
            return
        hold.is_asked_to_thaw = True
        hold.fail("it was told to thaw")
        guardian = self._guardian
        if not hold.is_passed_on:
            if not hold.is_preparing:
                hold.released.set()
            return
        if guardian is None:
            return  # what it has left is being thawed
        if self._tell_to_thaw(hold, guardian):
            self._begin(self._watch(hold, guardian), f"watch the thaw of {hold.cycle}")

    def _tell_to_thaw(self, hold: Hold, guardian: GuardianProcess) -> bool:
        """Whether an answer may come."""
        hold.acknowledged.clear()
        try:
            is_told = guardian.try_to_send({"do": "thaw", "cycle": hold.cycle})
        except OSError:
            return False  # its end has been, or is about to be, noticed
        if not is_told:
            self._give_up(hold, guardian)
        return is_told

    async def _watch(self, hold: Hold, guardian: GuardianProcess) -> None:
        """Until all is thawed, see that the guardian is at work; one that does not answer is ended.

        It answers at once also while the kernel keeps its children waiting.
        """
        while True:
            await asyncio.sleep(ANSWER_LIMIT.total_seconds())
            if hold.released.is_set() or not guardian.is_alive:
                return
            if not hold.acknowledged.is_set():
                self._give_up(hold, guardian)
                return
            if not self._tell_to_thaw(hold, guardian):
                return

    def _give_up(self, hold: Hold, guardian: GuardianProcess) -> None:
        hold.lose(f"the guardian (process {guardian.pid}) did not answer and was ended")
        guardian.kill()

    # -- what the guardian says, and its end

    def _hear(self, message: Message) -> None:
        hold = self._hold
        if hold is None or hold.cycle != message["cycle"]:
            return
        if message["said"] == "held":
            hold.since = self._now()
        elif message["said"] == "replaced":
            _logger.warning("the process that tends %s died, and was replaced", hold.files[message["target"]].path)
        hold.hear(message)
        if message["said"] == "expired":
            self._tell_of_loss(hold)
        elif message["said"] == "thawing" and not hold.is_asked_to_thaw and self._guardian is not None:
            hold.is_asked_to_thaw = True
            self._begin(self._watch(hold, self._guardian), f"watch the thaw of {hold.cycle}")

    def _lose_guardian(self, guardian: GuardianProcess) -> None:
        if guardian is not self._guardian:
            return
        self._guardian = None
        self._why_lost = f"the guardian (process {guardian.pid}) has ended; the next cycle starts another one"
        _logger.error("%s", self._why_lost)
        guardian.kill()  # it may live with its end of the channel closed; and its children must go on
        hold = self._hold
        if hold is None or hold.over.is_set() or not hold.is_passed_on:
            self._begin(self._reap(guardian), "reap the guardian")
            return
        was_thawing = hold.is_asked_to_thaw
        hold.lose(f"the guardian (process {guardian.pid}) died")
        hold.is_asked_to_thaw = True
        self._begin(self._rescue(hold, guardian), f"thaw what the guardian of {hold.cycle} has left")
        if not was_thawing:
            self._tell_of_loss(hold)

    async def _rescue(self, hold: Hold, guardian: GuardianProcess) -> None:
        """The guardian's children thaw by themselves; thaw what they leave."""
        try:
            await guardian.until_gone(CHILDREN_LIMIT)
            if hold.is_asked_to_freeze:
                async with asyncio.TaskGroup() as thaws:
                    for file in reversed(hold.files):
                        if file.may_be_frozen:
                            thaws.create_task(_thaw_here(file), name=f"thaw {file.path}")
            await guardian.until_gone()
        finally:
            guardian.let_go()
        hold.released.set()

    async def _reap(self, guardian: GuardianProcess) -> None:
        try:
            await guardian.until_gone()
        finally:
            guardian.let_go()

    def _tell_of_loss(self, hold: Hold) -> None:
        if hold.since is not None and self.on_lost is not None:
            self.on_lost(hold.cycle, hold.loss)

    async def _put_away(self, hold: Hold) -> None:
        """Once nothing is frozen any more: close the descriptors, remove the record."""
        await hold.released.wait()

        def put_away() -> None:
            close_all(file.descriptor for file in hold.files)
            if hold.is_recorded:
                record.remove(self._directory)

        if hold.files:
            try:
                await self._run(Aside(put_away, "close file systems"))
            except OSError:  # no thread can be started
                put_away()
        hold.over.set()

    # -- threads and tasks

    @contextlib.asynccontextmanager
    async def _within(self, hold: Hold, budget: timedelta, what: str) -> AsyncIterator[None]:
        """A moment less than `budget`, so that the reason comes before the caller gives up."""
        limit = budget - min(budget * _RESERVE, _MOST_RESERVE)
        try:
            async with asyncio.timeout(limit.total_seconds()):
                yield
        except TimeoutError as error:
            hold.is_overdue = True
            reason = hold.why_hanging() if hold.hanging else f"{what} within {format_duration(budget)}"
            raise FreezeFailed(reason, hold.parts()) from error

    async def _run(self, aside: Aside[T]) -> T:
        try:
            return await aside.result()
        except asyncio.CancelledError:
            self._asides.append(aside)
            raise

    def _left_behind(self) -> bool:
        self._asides = [aside for aside in self._asides if not aside.is_over]
        return bool(self._asides)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _go_on(hold: Hold) -> None:
    """Raises FreezeFailed when the hold has been let go while it was being prepared."""
    if hold.is_asked_to_thaw:
        raise FreezeFailed(hold.loss or "it was told to thaw")


async def _thaw_here(file: Held) -> None:
    """The last resort. EINVAL: a child of the guardian has done it."""
    try:
        number = await Aside(partial(call, FITHAW, file.descriptor), f"thaw {file.path}").result()
    except OSError as error:  # no thread can be started
        _logger.error("%s may still be frozen: %s", file.path, error)
        return
    file.thaw = 0 if number == errno.EINVAL else number
