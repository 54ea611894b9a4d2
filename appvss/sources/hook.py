"""Hooks: whoever runs one program before a snapshot and another one after it, such as the guest agent of QEMU.

There is no device here, and no call that lasts as long as the hold: the hold stays in the broker between the two calls,
with its own limit. Agents crash, repeat themselves and forget (facts/real-vm.md section 1.4), so

    freeze  supersedes a hold that is still there: whoever freezes twice has forgotten the first
    thaw    is harmless when there is none, and tells of a hold that has ended by itself
    a freeze that fails leaves nothing behind, for the agent does not call thaw then

A thaw after a restart of the broker must not look like a good one: the cycle knows how the former broker's hold ends,
and the first thaw is told that.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from appvss.model.app import AppId
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice
from appvss.model.request import Answer, RequestKind
from appvss.model.verdict import Verdict
from appvss.sources.base import Clock
from appvss.sources.local import HOOK, THAW_LIMIT, Hold, LocalSettings, LocalSource


class HookSource(LocalSource):
    """The source of hooks. Its one hold lives until `thaw`, the next `freeze`, or its limit.

    Args:
        settings: what the administrator decides.
        clock: the machine's clocks.
    """

    def __init__(self, settings: LocalSettings, clock: Clock) -> None:
        super().__init__(settings, clock, HOOK)
        self._kept: Hold | None = None
        """The last freeze, as long as nobody has been told how it ended."""
        self._may_owe_former = True
        """Whether a hold of a former broker may have ended, or be ending, and nobody was told."""
        self._former: dict[str, asyncio.Future[Answer]] = {}
        """Thaws of such a hold, by the id of the request."""

    async def freeze(
        self,
        requester: str,
        freeze_budget: timedelta | None,
        hold_limit: timedelta | None,
        filesystems: FilesystemChoice = NO_FILESYSTEMS,
        apart: frozenset[AppId] = frozenset(),
    ) -> Hold:
        """Freeze, and keep the hold. When it is not held (`Hold.is_held`), nothing is kept and `Hold.ended` says why.

        A caller that goes away before everything is held takes the freeze with it.

        Args:
            requester: who wants it, for people.
            freeze_budget: the time for prepare and freeze together. None: as configured.
            hold_limit: the longest hold. None: as configured.
            filesystems: which file systems are to be frozen with the apps.
            apart: the apps that a freeze of these does not concern.

        Raises:
            RequestRefused: hooks are switched off.
            BrokerUnreachable: the broker is starting or stopping.
            MessageInvalid: a length is over the configured one.
        """
        hold = self.begin(requester, freeze_budget, hold_limit, filesystems, apart)
        self._kept, self._may_owe_former = hold, False
        try:
            is_held = await hold.held()
        except BaseException:
            self._let_go(hold)
            hold.abandon("the hook went away before everything was held")
            raise
        if not is_held:
            self._let_go(hold)
        return hold

    async def thaw(self) -> tuple[Verdict, bool] | None:
        """End the hold that is kept, and give up a freeze that is under way.

        Returns:
            The verdict of the hold's cycle, also when it had ended by itself, and whether everything stood still until
            this thaw. None: nothing was held.
        """
        hold, self._kept = self._kept, None
        if hold is None:
            return await self._thaw_former()
        if not hold.is_held:
            hold.abandon("a thaw came before everything was held")
            return None
        hold.finish()
        verdict = await hold.ended()
        return verdict, hold.is_kept

    async def _thaw_former(self) -> tuple[Verdict, bool] | None:
        if self._requests is None or not self._may_owe_former:
            return None
        request = self._request(RequestKind.THAW, "a hook", self._clock.now() + THAW_LIMIT, timedelta(0))
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._former[request.id] = answered
        self._requests.ask(request)
        answer = await answered
        self._may_owe_former = False
        return None if answer.verdict is None else (answer.verdict, answer.go_on)

    def answer(self, answer: Answer) -> None:
        """The cycle's answer. Without a verdict it is not the end: that comes with `ended`."""
        former = self._former.pop(answer.request.id, None)
        if former is None:
            super().answer(answer)
        elif not former.done():
            former.set_result(answer)

    def _let_go(self, hold: Hold) -> None:
        if self._kept is hold:  # and not one that came after it
            self._kept = None
