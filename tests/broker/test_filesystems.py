"""Whom a freeze of named file systems does not concern, and what the freezer says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from appvss.broker import filesystems
from appvss.broker.clock import SystemClock
from appvss.broker.filesystems import APART_LIMIT, apart
from appvss.delivery.registry import AppStream
from appvss.freezer.null import NullFreezer
from appvss.freezer.plan import Plan, PlanRefused
from appvss.model.app import AppId, Registration
from appvss.model.filesystem import DeclaredPath, FilesystemChoice, Scope

NAMED = FilesystemChoice(Scope.NAMED, ("/srv",))
PLACES = {
    "/srv/a": (DeclaredPath("/srv/a", "8:1", is_planned=True, is_meant=True),),
    "/mail": (DeclaredPath("/mail", "8:2", reason="/: the requester does not mean it", lowers=True),),
    "/run/a": (DeclaredPath("/run/a", "0:9", reason="/run: it lies in memory"),),
    "/ro": (DeclaredPath("/ro", "8:3", is_meant=True, reason="/ro: it is read-only"),),
    "odd": (DeclaredPath("odd", reason="nobody can tell where it lies", lowers=True),),
    "/inside": (DeclaredPath("/inside", "8:2", lowers=True, is_there=False),),
    "/": (
        DeclaredPath("/", "8:2", reason="/: the requester does not mean it", lowers=True),
        DeclaredPath("/srv", "8:1", is_planned=True, is_meant=True),
    ),
}


class Surveying(NullFreezer):
    """A freezer that says where paths lie."""

    def __init__(self, found: Plan | Exception | None) -> None:
        self.found = found
        self.asked: list[Sequence[str]] = []

    async def survey(self, choice: FilesystemChoice, declared: Sequence[str]) -> Plan:
        self.asked.append(declared)
        if self.found is None:
            await asyncio.Event().wait()
        if isinstance(self.found, Exception):
            raise self.found
        assert self.found is not None
        return self.found


async def streams(**paths: tuple[str, ...]) -> list[AppStream]:
    async def write(message: bytes) -> None:
        raise AssertionError(message)

    reader = asyncio.current_task()
    assert reader is not None
    now = SystemClock().now()
    return [
        AppStream(Registration(AppId(name)), "x" * 16, write, reader, now, None, paths=declared)
        for name, declared in paths.items()
    ]


async def test_apart_is_who_declares_paths_none_of_which_is_named() -> None:
    freezer = Surveying(Plan(places=PLACES))
    apps = await streams(
        a=("/srv/a", "/mail"),
        mail=("/mail",),
        memory=("/run/a", "/mail"),
        reading=("/ro",),
        odd=("odd", "/mail"),
        unseen=("/mail", "/new"),
        pathless=(),
        contained=("/inside", "/mail"),
        above=("/",),
    )
    assert await apart(freezer, NAMED, apps) == {AppId("mail"), AppId("memory")}


@pytest.mark.parametrize("scope", [Scope.NONE, Scope.DECLARED, Scope.ALL])
async def test_nobody_looks_when_nothing_is_named_or_declared(scope: Scope) -> None:
    freezer = Surveying(Plan(places=PLACES))
    assert await apart(freezer, FilesystemChoice(scope), await streams(mail=("/mail",))) == frozenset()
    assert await apart(freezer, NAMED, await streams(pathless=())) == frozenset()
    assert freezer.asked == []


@pytest.mark.parametrize("found", [PlanRefused("no", "no"), OSError(5, "i/o"), Plan(), None])
async def test_what_cannot_be_found_out_leaves_nobody_out(
    found: Plan | Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "APART_LIMIT", APART_LIMIT / 20)
    assert await apart(Surveying(found), NAMED, await streams(mail=("/mail",))) == frozenset()
