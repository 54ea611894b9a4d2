"""A broker that is killed in mid-hold and started again takes the cycle up: who held on counts as held, who did not
does not, and the host's thaw gets a true answer.
"""

from __future__ import annotations

import signal

import pytest

from appvss.model.app import AppId
from appvss.model.certificate import examine, read_certificate
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Outcome
from appvss.sdk.admin_values import summary_of
from tests.end_to_end.support.stage import Stage, configuration

pytestmark = pytest.mark.usefixtures("requires_fuse")

APPS = (("first", "async", "--order", "40"), ("second", "threads", "--order", "60"))
CONFIGURATION = configuration(hold_limit="20s", grace="5s")


async def hold(stage: Stage) -> str:
    """Two apps are held for the host; the cycle."""
    await stage.start_simulator()
    await stage.start_broker(CONFIGURATION)
    await stage.start_apps(*((*app, "--hold-limit", "20") for app in APPS))
    await stage.simulator.agrees("freeze")
    return (await stage.broker.status()).cycle


async def returned(stage: Stage, *names: str) -> None:
    """These apps are back with their holds."""
    for name in names:
        after = stage.events.count
        if name not in {app.name for app in await stage.broker.apps() if app.state == "held"}:
            await stage.events.sees("app_returned", app=name, after=after)


async def test_who_held_on_is_held_and_the_host_hears_so(stage: Stage) -> None:
    cycle = await hold(stage)
    await stage.broker.kill()
    await stage.start_broker()
    status = await stage.broker.status()
    assert (status.cycle, status.HasField("hold_left")) == (cycle, True)
    await returned(stage, "first", "second")
    await stage.simulator.agrees("thaw")
    await stage.rests()
    (last,) = await stage.broker.cycles(1)
    summary = summary_of(last)
    assert (summary.cycle, summary.source, summary.phase) == (cycle, "freebsd", Phase.COMPLETED)
    assert (summary.verdict.level, summary.verdict.reasons) == (Level.APPLICATION, ())
    await stage.all_write()
    await stage.backs_up()


async def test_the_certificate_of_the_former_broker_goes_into_the_history(stage: Stage) -> None:
    cycle = await hold(stage)
    written = (stage.broker.state_directory / "certificate.json").read_text()
    await stage.broker.kill()
    await stage.start_broker()
    await returned(stage, "first", "second")
    await stage.simulator.agrees("thaw")
    await stage.rests()
    detail = await stage.broker.cycle(cycle)
    assert detail.certificate == written
    assert examine(read_certificate(written), None).is_proven is False
    await stage.broker.has_written()
    assert not (stage.broker.state_directory / "certificate.json").exists()


async def test_an_app_that_died_meanwhile_has_lost_its_hold(stage: Stage) -> None:
    cycle = await hold(stage)
    await stage.broker.kill()
    await stage.apps["second"].kill()
    await stage.start_broker()
    await returned(stage, "first")
    await stage.simulator.refuses("thaw")
    await stage.rests()
    summary = summary_of((await stage.broker.cycle(cycle)).summary)
    outcomes = {part.app: part.outcome for part in summary.verdict.outcomes}
    assert outcomes[AppId("second")] is Outcome.HOLD_LOST
    assert summary.verdict.level is Level.CRASH
    await stage.all_write("second")


async def test_the_thaw_that_comes_before_the_apps_are_back_waits_for_them(stage: Stage) -> None:
    cycle = await hold(stage)
    for app in stage.apps.values():
        app.signal(signal.SIGSTOP)
        stage.excuse(app.name)
    await stage.broker.kill()
    await stage.start_broker()
    begun = stage.simulator.begin("thaw")
    await stage.events.reaches(Phase.THAWING_APPS)
    for app in stage.apps.values():
        app.signal(signal.SIGCONT)
    assert (await stage.simulator.result("thaw", begun))["outcome"] == "ok"
    assert summary_of((await stage.broker.cycle(cycle)).summary).verdict.level is Level.APPLICATION
    await stage.all_write()


async def test_a_broker_that_dies_twice_is_taken_up_twice(stage: Stage) -> None:
    cycle = await hold(stage)
    for _ in range(2):
        await stage.broker.kill()
        await stage.start_broker()
        await returned(stage, "first", "second")
    await stage.simulator.agrees("thaw")
    await stage.rests()
    assert summary_of((await stage.broker.cycle(cycle)).summary).verdict.level is Level.APPLICATION


async def test_a_stopped_broker_leaves_nothing_to_take_up(stage: Stage) -> None:
    cycle = await hold(stage)
    await stage.broker.terminate()
    await stage.all_write()
    await stage.start_broker()
    assert (await stage.broker.status()).cycle == ""
    assert summary_of((await stage.broker.cycle(cycle)).summary).phase is Phase.ABORTED
    await stage.broker.has_written()
    assert not (stage.broker.state_directory / "certificate.json").exists()


async def test_an_app_that_is_not_back_yet_is_missed(stage: Stage) -> None:
    await hold(stage)
    await stage.simulator.agrees("thaw")
    await stage.rests()
    await stage.broker.has_written()
    late = stage.apps["second"]
    late.signal(signal.SIGSTOP)
    stage.excuse(late.name)
    await stage.broker.kill()
    await stage.start_broker()
    await stage.attached("first")
    await stage.simulator.refuses("freeze")
    summary = summary_of((await stage.broker.cycles(1))[0])
    assert {part.app.name: part.outcome for part in summary.verdict.outcomes}["second"] is Outcome.ABSENT
    late.signal(signal.SIGCONT)
    await stage.attached("first", "second")
    await stage.backs_up()
