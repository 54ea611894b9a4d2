"""The freezer that freezes nothing says so."""

from __future__ import annotations

from datetime import timedelta

from appvss.freezer.base import Freezer, Thawed
from appvss.freezer.null import NullFreezer


async def test_it_never_claims_to_have_frozen_and_a_thaw_is_harmless() -> None:
    freezer: Freezer = NullFreezer()
    assert await freezer.thaw("c") == Thawed(unbroken=True)
    assert await freezer.freeze("c", timedelta(seconds=1)) is False
    assert await freezer.thaw("c") == Thawed(unbroken=True, reason="")
