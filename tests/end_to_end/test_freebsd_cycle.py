"""Whole cycles of a Hyper-V host: simulated kernel devices, a broker and apps, each a process of its own.

Who was quiet when is read from the apps' own logs by somebody else (`support/write_log.py`).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from datetime import datetime

import pytest

from appvss import contract
from appvss.model.phase import Phase
from appvss.sources.wire.freebsd import LAST_MOMENT, LIMIT
from appvss.v1 import types_pb2
from tests.end_to_end.support.stage import Stage, configuration
from tests.end_to_end.support.write_log import SECOND

pytestmark = pytest.mark.usefixtures("requires_fuse")

APPS = (
    ("orders", "async", "--order", "40"),
    ("stock", "threads", "--order", "50", "--prepares"),
    ("web", "async", "--order", "60", "--prepares"),
)


async def start(stage: Stage, text: str = "", apps: tuple[tuple[str, ...], ...] = APPS) -> None:
    await stage.start_simulator()
    await stage.start_broker(text)
    await stage.start_apps(*apps)


async def test_nobody_writes_from_the_hosts_ok_to_its_thaw(stage: Stage) -> None:
    await start(stage)
    for _ in range(3):
        await stage.simulator.agrees("check")
        await stage.all_write()
        before = time.monotonic_ns()
        acked = (await stage.simulator.agrees("freeze"))["heard_at"]
        sizes = stage.sizes()
        assert {(app.name, app.state) for app in await stage.broker.apps()} == {(name, "held") for name in stage.apps}
        assert stage.sizes() == sizes
        thaw_asked = time.monotonic_ns()
        await stage.simulator.agrees("thaw")
        thawed = time.monotonic_ns()
        assert stage.written_in_hold(acked, thaw_asked) == []
        await stage.all_write()
        for app in stage.apps.values():
            quiet = app.log().quiets[-1]
            assert before < quiet.since < quiet.frozen < acked
            assert thaw_asked < quiet.released < thawed
            assert quiet.hold_limit == 2 * SECOND
    cycle, *_ = cycles = await stage.broker.cycles()
    assert [each.verdict.level for each in cycles] == [types_pb2.LEVEL_APPLICATION] * 3
    logs = {name: app.log() for name, app in stage.apps.items()}
    assert {outcome.name: outcome.evidence["records"] for outcome in cycle.verdict.outcomes} == {
        name: str(len(log.between(0, log.quiets[-1].since))) for name, log in logs.items()
    }


async def test_apps_freeze_in_their_order_and_thaw_in_its_reverse(stage: Stage) -> None:
    await start(stage)
    await stage.backs_up()
    orders, stock, web = (stage.apps[name].log().quiets[-1] for name in ("orders", "stock", "web"))
    assert orders.frozen < stock.since < stock.frozen < web.since
    assert web.released < stock.released < orders.released


async def test_a_veto_fails_the_hosts_freeze_and_nobody_stays_held(stage: Stage) -> None:
    await start(stage)
    await stage.simulator.agrees("check")
    await stage.apps["web"].told("veto")
    await stage.simulator.refuses("freeze")
    await stage.all_write()
    assert await stage.rests() is Phase.ABORTED
    assert stage.apps["orders"].log().quiets[-1].frozen, "the first wave had acked"
    assert stage.apps["web"].log().quiets == ()
    await stage.apps["web"].told("agree")
    await stage.backs_up()


async def test_an_app_that_hangs_fails_the_freeze_within_the_budget(stage: Stage) -> None:
    await start(stage, configuration(budget="3s", reserve="500ms"))
    await stage.simulator.agrees("check")
    web = stage.apps["web"]
    web.signal(signal.SIGSTOP)
    await stage.simulator.refuses("freeze")
    await stage.all_write("web")
    await stage.rests()
    (last,) = await stage.broker.cycles(1)
    given = re.search(r"no ack within (\d+\.\d)(ms|s)\b", last.verdict.reasons[0])
    assert given is not None
    assert given[2] == "ms" or float(given[1]) <= 2.5
    web.signal(signal.SIGCONT)
    await stage.all_write()
    await stage.backs_up()


async def test_no_answer_is_written_in_the_drivers_last_half_second(stage: Stage) -> None:
    await start(stage, configuration(budget="15s", reserve="0s"), APPS[:1])
    await stage.apps["orders"].told("close freeze")
    result = await stage.simulator.do("freeze")
    assert (result["outcome"], result["took_seconds"] > 14) == ("failed", True)
    (received,) = stage.simulator.found(kind="received", operation="freeze")
    written = stage.simulator.found(kind="wrote", side="app")
    assert [(wrote["msgid"], wrote["status"]) for wrote in written] == [(received["msgid"], 1)] * len(written)
    for wrote in written:
        took = datetime.fromisoformat(wrote["time"]) - datetime.fromisoformat(received["time"])
        assert took < LIMIT - LAST_MOMENT
    assert stage.simulator.found(kind="write_ignored") == []
    await stage.all_write()


async def test_a_broker_that_wakes_up_too_late_writes_no_answer(stage: Stage) -> None:
    await start(stage, configuration(budget="2s", reserve="100ms"))
    await stage.apps["web"].told("close freeze")
    begun = stage.simulator.begin("freeze")
    await stage.events.sees("freeze_asked", app="web")
    stage.broker.signal(signal.SIGSTOP)
    await stage.all_write()  # those that have acked go on after 2 s, by themselves: the answer was due after 1.5 s
    after = stage.events.count
    stage.broker.signal(signal.SIGCONT)
    await stage.events.sees("source_answered", detail="its time is over", after=after)
    assert await stage.rests() is Phase.ABORTED
    state = await stage.simulator.until(stage.simulator.begin("state"), message_type="state")
    assert [request["operation"] for request in state["requests"]] == ["freeze"]
    assert stage.simulator.found(begun, kind="wrote", side="app") == []
    assert stage.simulator.found(begun, kind="write_ignored") == []


async def test_without_a_thaw_the_apps_go_on_at_the_hold_limit_and_the_next_check_works(stage: Stage) -> None:
    await start(stage, configuration(hold_limit="1s"))
    await stage.simulator.agrees("check")
    acked = (await stage.simulator.agrees("freeze"))["heard_at"]
    await stage.all_write()
    for app in stage.apps.values():
        quiet = app.log().quiets[-1]
        assert acked < quiet.released < quiet.frozen + 2 * SECOND, "before its own limit of 2 s"
    await stage.simulator.agrees("check")
    await stage.simulator.refuses("thaw")
    await stage.rests()
    await stage.backs_up()


async def test_a_late_thaw_is_told_that_the_hold_was_lost(stage: Stage) -> None:
    await start(stage, configuration(hold_limit="1s"))
    await stage.simulator.agrees("check")
    await stage.simulator.agrees("freeze")
    await stage.all_write()
    await stage.rests()
    await stage.simulator.refuses("thaw")
    await stage.simulator.refuses("thaw")
    await stage.backs_up()


@pytest.mark.parametrize("victim", ["orders", "stock"])
async def test_the_thaw_fails_when_a_required_app_died_in_its_hold(stage: Stage, victim: str) -> None:
    await start(stage)
    await stage.simulator.agrees("check")
    await stage.simulator.agrees("freeze")
    await stage.apps[victim].kill()
    await stage.simulator.refuses("thaw")
    await stage.all_write()
    await stage.rests()
    outcomes = {part.name: part for part in (await stage.broker.cycles())[0].verdict.outcomes}
    assert "died in its hold" in outcomes[victim].reason


async def test_the_thaw_succeeds_when_a_tolerated_app_died_in_its_hold(stage: Stage) -> None:
    await start(stage, apps=(*APPS[:2], ("cache", "threads", "--requirement", "tolerated")))
    await stage.simulator.agrees("check")
    acked = (await stage.simulator.agrees("freeze"))["heard_at"]
    await stage.apps.pop("cache").kill()
    await stage.events.sees("app_failed", app="cache")
    thaw_asked = time.monotonic_ns()
    await stage.simulator.agrees("thaw")
    assert stage.written_in_hold(acked, thaw_asked) == []
    await stage.all_write()


@pytest.mark.parametrize("request_after", ["check", "freeze"])
async def test_after_the_file_systems_veto_the_old_hold_is_undone_before_the_next_begins(
    stage: Stage, request_after: str
) -> None:
    await start(stage)
    await stage.simulator.agrees("check")
    await stage.simulator.do("fs veto freeze")
    await stage.simulator.refuses("freeze")
    # The driver tells the apps' side nothing of it.
    assert {app.state for app in await stage.broker.apps()} == {"held"}
    await stage.simulator.do("fs auto")
    if request_after == "check":
        await stage.simulator.agrees("check")
        await stage.all_write()
    acked = (await stage.simulator.agrees("freeze"))["heard_at"]
    thaw_asked = time.monotonic_ns()
    await stage.simulator.agrees("thaw")
    assert stage.written_in_hold(acked, thaw_asked) == []
    await stage.all_write()
    quiets = [app.log().quiets for app in stage.apps.values()]
    assert [len(each) for each in quiets] == [2, 2, 2]
    undone = max(first.released for first, _ in quiets)
    assert undone < min(second.since for _, second in quiets)


async def test_a_detach_in_mid_hold_thaws_and_the_service_goes_on_after_it(stage: Stage) -> None:
    await start(stage)
    await stage.simulator.agrees("check")
    await stage.simulator.agrees("freeze")
    await stage.simulator.agrees("detach")
    killed = await stage.simulator.until(kind="killed", side="app")
    assert killed["pid"] not in (stage.broker.pid, 0)
    await stage.all_write()
    assert await stage.rests() is Phase.ABORTED
    assert "Hyper-V host is gone" in (await stage.broker.cycles(1))[0].verdict.reasons[0]
    assert stage.broker.process.returncode is None
    await stage.events.sees("source_changed", detail="freebsd lost")
    after = stage.events.count
    await stage.simulator.agrees("attach")
    await stage.events.sees("source_changed", detail="freebsd serving", after=after)
    await stage.simulator.refuses("thaw")
    await stage.backs_up()


async def test_the_host_is_not_agreed_with_while_an_expected_app_is_absent(stage: Stage) -> None:
    await start(stage, configuration(more='[apps]\nrequired = ["ledger"]\n'))
    await stage.simulator.refuses("check")
    await stage.simulator.refuses("freeze")
    assert all(app.log().quiets == () for app in stage.apps.values())
    await stage.start_app("ledger", "threads")
    await stage.backs_up()


async def test_a_stopping_broker_thaws_first(stage: Stage) -> None:
    await start(stage)
    await stage.simulator.agrees("check")
    await stage.simulator.agrees("freeze")
    thawed = asyncio.create_task(stage.all_write(), name="thawed")
    assert await stage.broker.terminate() == 0
    await thawed
    assert all(app.log().quiets[-1].released for app in stage.apps.values())
    assert set(os.listdir(stage.broker.runtime_directory)) <= {contract.LOCK_FILE}
