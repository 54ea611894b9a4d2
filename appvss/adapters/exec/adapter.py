"""A program of one's own as an app: what makes an application quiet that no other adapter knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar, Final
from uuid import uuid4

from appvss.adapters import base
from appvss.adapters.base import AutoRelease, Preflight, Properties, Volume, VolumeKind
from appvss.adapters.exec.pair import Pair, Paired
from appvss.adapters.exec.process import AROUND_LIMIT
from appvss.adapters.exec.settings import Settings
from appvss.adapters.exec.talking import Talk, Talking, resolved
from appvss.sdk.freeze import Freeze, Prepare

_RECIPES: Final = {True: "freeze and thaw commands", False: "program that holds"}


class Adapter(base.Adapter[Talk | Paired]):
    """A program that runs through the hold (`command`), or two that begin and end it (`freeze` and `thaw`).

    A program that runs through it lets go by itself when this process dies: its standard input ends then, and a keeper
    ends it if it does not end itself. Nobody does that for a pair, so there is an undo record.

    What a copy is worth is the program's word alone.

    Raises:
        SettingInvalid: the settings do not fit together.
    """

    engine: ClassVar[str] = "exec"
    properties: ClassVar[Properties] = Properties(
        AutoRelease.NOBODY, holds_writes=True, blocks_reads_while_frozen=False
    )
    """Of a pair; a program that runs through the hold has `AutoRelease.SESSION`."""

    def __init__(self, settings: Settings) -> None:
        settings.check()
        self._settings = settings
        self._pair = Pair(settings, self)
        self._talking = Talking(settings)
        released = AutoRelease.NOBODY if settings.is_pair else AutoRelease.SESSION
        self.properties = replace(  # type: ignore[misc]  # what holds for these settings
            type(self).properties, auto_release=released, grade=settings.worth.value
        )
        # A `thaw` that is cut off before its own limit is over would be cut off each time, and never let go.
        self.undo_limit = settings.thaw_limit + settings.grace + AROUND_LIMIT

    @property
    def _app(self) -> str:
        return self.app or self.engine

    async def preflight(self) -> Preflight:
        """Whether the programs are safe and start, and what the program that runs through the hold says itself."""
        found = self._pair.preflight() if self._settings.is_pair else await self._talking.preflight(self._app)
        volumes = tuple(Volume(VolumeKind.DATA, resolved(each)) for each in self._settings.volumes)
        return replace(found, volumes=volumes + found.volumes, recipe=_RECIPES[self._settings.is_pair])

    async def prepare(self, prepare: Prepare) -> None:
        """Have the program do its slow work."""
        if self._settings.is_pair:
            await self._pair.prepare(prepare)
        else:
            await self._talking.prepare(self._app, prepare)

    async def hold(self, freeze: Freeze) -> Talk | Paired:
        """Have the program hold."""
        if self._settings.is_pair:
            return await self._pair.hold(freeze)
        return await self._talking.hold(self._app, freeze)

    def evidence(self, held: Talk | Paired) -> Mapping[str, str]:
        """What the program says of its hold, with the entries that all adapters have."""
        common = {"engine": self.engine, "recipe": _RECIPES[self._settings.is_pair]}
        empty = {"version": "", "position": "", "marker": "", "data_directory": next(iter(self._settings.volumes), "")}
        return {**empty, **held.content, **common}

    async def confirm(self, held: Talk | Paired) -> None:
        """Have the program let go, and say whether it has held all the time."""
        if isinstance(held, Paired):
            await self._pair.confirm(held)
        else:
            await self._talking.confirm(held)

    async def release(self, held: Talk | Paired, freeze: Freeze) -> None:
        """See to it that nothing is held and nothing runs."""
        if isinstance(held, Paired):
            await self._pair.release(held, freeze)
        else:
            await self._talking.release(held, freeze)

    async def undo(self, record: Mapping[str, str]) -> None:
        """Run the configured `thaw`; the record says for which cycle."""
        await self._pair.undo(record)

    def is_of(self, record: Mapping[str, str]) -> bool:
        """Whether the `thaw` of the record is the one that is configured."""
        return self._settings.is_pair and record.get("thaw") == self._pair.identity()

    async def close(self) -> None:
        """End what still runs: a program that has prepared for a freeze that did not come."""
        await self._talking.close()


@asynccontextmanager
async def quiesce(
    command: Sequence[str],
    thaw: Sequence[str] = (),
    *,
    hold_limit: timedelta = timedelta(seconds=60),
    budget: timedelta = timedelta(seconds=30),
) -> AsyncIterator[Mapping[str, str]]:
    """Hold an application by a program of one's own, without broker and agent.

    Args:
        command: the program that runs through the hold, and its arguments; with `thaw`, the command that begins it.
        thaw: the command that ends it.
        hold_limit: told to the program as the longest hold.
        budget: the time for getting quiet.

    Raises:
        AdapterError, Veto: nothing is held.
        HoldLost: on leaving: the hold was not what it seemed.
    """
    words = tuple(command)
    settings = Settings(freeze=words, thaw=tuple(thaw)) if thaw else Settings(command=words)
    adapter = Adapter(settings)
    try:
        freeze = Freeze(cycle=uuid4().hex, requester="quiesce", budget=budget, hold_limit=hold_limit)
        async with adapter.quiesce(freeze) as evidence:
            yield evidence
    finally:
        await adapter.close()
