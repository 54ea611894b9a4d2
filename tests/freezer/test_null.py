"""The freezer that freezes nothing says so."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.freezer.base import FreezeFailed, Freezer, Frozen, Prepared, Thawed
from appvss.freezer.null import NullFreezer
from appvss.freezer.plan import Plan
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice, FreezerState, Scope

SECOND = timedelta(seconds=1)


async def test_it_never_claims_to_have_frozen_and_a_thaw_is_harmless() -> None:
    freezer: Freezer = NullFreezer()
    assert await freezer.thaw("c") == Thawed(unbroken=True)
    assert await freezer.prepare("c", NO_FILESYSTEMS, (), SECOND) == Prepared()
    assert await freezer.freeze("c", SECOND, SECOND) == Frozen()
    assert await freezer.thaw("c") == Thawed(unbroken=True, reason="")


@pytest.mark.parametrize("choice", [FilesystemChoice(Scope.ALL), FilesystemChoice(Scope.NAMED, ("/srv",))])
async def test_who_wants_file_systems_frozen_is_told_no(choice: FilesystemChoice) -> None:
    with pytest.raises(FreezeFailed, match="this broker freezes no file systems"):
        await NullFreezer().prepare("c", choice, (), SECOND)


async def test_what_apps_declare_is_frozen_where_it_can_be() -> None:
    assert await NullFreezer().prepare("c", FilesystemChoice(Scope.DECLARED), ("/srv/db",), SECOND) == Prepared()


async def test_it_is_off_and_would_refuse_whoever_insists() -> None:
    freezer = NullFreezer()
    assert freezer.state == FreezerState()
    assert await freezer.survey(FilesystemChoice(Scope.DECLARED), ["/srv"]) == Plan()
    assert (await freezer.survey(FilesystemChoice(Scope.ALL), [])).veto == "this broker freezes no file systems"
