"""The observer itself: what it must find, it finds."""

from __future__ import annotations

import time

import pytest

from appvss.model.phase import Phase
from tests.end_to_end.support.stage import OFF, Stage


@pytest.mark.parametrize("style", ["async", "threads"])
async def test_an_app_that_writes_in_its_hold_is_found_out(stage: Stage, style: str) -> None:
    await stage.start_broker(OFF, device=False)
    await stage.start_apps(("honest", style), ("careless", style, "--careless"))
    requester = await stage.start_requester()
    acked = (await requester.held()).at
    before = stage.sizes()
    await stage.apps["careless"].writes()
    after, thaw_asked = stage.sizes(), time.monotonic_ns()
    requester.finish()
    assert await requester.ended() == 0
    (sentence,) = stage.written_in_hold(acked, thaw_asked)
    assert sentence.startswith("careless wrote ")
    assert after["honest"] == before["honest"]
    assert after["careless"] > before["careless"]


@pytest.mark.parametrize("style", ["async", "threads"])
async def test_an_app_that_stays_quiet_for_too_long_is_found_out(stage: Stage, style: str) -> None:
    await stage.start_broker(OFF, device=False)
    app = await stage.start_app("orders", style)
    requester = await stage.start_requester("--hold-limit", "100ms")
    await stage.events.reaches(Phase.HOLDING)
    await requester.ended()
    await app.writes()
    log = app.log()
    (quiet,) = log.quiets
    wrote = next(write.began for write in log.writes if write.began > quiet.since)
    assert list(log.overstayed(time.monotonic_ns())) == []
    held_only = type(log)(log.name, tuple(w for w in log.writes if w.began < quiet.since), log.quiets)
    assert list(held_only.overstayed(quiet.limit)) == []
    assert len(list(held_only.overstayed(quiet.limit + 1))) == 1
    assert wrote < quiet.limit
