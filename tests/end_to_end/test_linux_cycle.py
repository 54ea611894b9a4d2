"""Whole cycles of a Hyper-V host on Linux: a simulated kernel driver, a broker with its guardian, apps and real file
systems, each a process or a loop disk of its own.

Every broker here is contained (`support/linux_stage.py`): it can freeze nothing but the disks of its test.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appvss.model.errors import ExitCode
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Verdict
from tests.end_to_end.support.linux_stage import NETLINK, LinuxStage, linux_stage
from tests.support.loop_disks import LoopDisk, is_frozen, takes_a_write, why_not
from tests.support.private_network import private_network
from tests.support.running_broker import APPVSS

__all__ = ["private_network"]

pytestmark = pytest.mark.usefixtures("requires_fuse")


@pytest.fixture
async def stage() -> AsyncIterator[LinuxStage]:
    async with linux_stage() as stage:
        yield stage


async def start(stage: LinuxStage, text: str = "", *, kernel: str = "6.1") -> None:
    """A simulator, a broker, and an app on each of two disks, `orders` first."""
    if not stage.disks.made:
        stage.disks.make("one")
        stage.disks.make("two")
    one, two, *_ = stage.disks.made
    await stage.start_simulator("--kernel", kernel)
    await stage.start_broker(text)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.start_app("orders", "async", "--order", "40", on=one))
        tasks.create_task(stage.start_app("stock", "threads", "--order", "60", on=two))


async def frozen(stage: LinuxStage, *but: LoopDisk) -> dict[str, bool]:
    """Of each disk but these, whether it is. Only in a hold, or when nothing is under way."""
    disks = [disk for disk in stage.disks.made if disk not in but]
    return {disk.path.name: await asyncio.to_thread(is_frozen, disk.path) for disk in disks}


def outcomes(verdict: Verdict) -> dict[str, str]:
    """What became of the file systems that took part."""
    parts = (part for part in verdict.filesystems if part.outcome not in ("excluded", "skipped"))
    return {Path(part.path).name: part.outcome for part in parts}


async def shown_as_frozen(stage: LinuxStage) -> set[str]:
    """What `appvss status` says, asked by a process."""
    child = await stage.start_program("status", *APPVSS, "status", "--json")
    assert await child.ended() == 0, child.report()
    document = json.loads("\n".join(line.text for line in child.out))
    return {Path(each["path"]).name for each in document["freezer"]["frozen"]}


async def holds_and_thaws(stage: LinuxStage, *, shows: bool = False) -> None:
    """A whole backup with a look at everything in the hold.

    Args:
        stage: where.
        shows: whether a process asks for the status in the hold.
    """
    disks = {disk.path.name for disk in stage.disks.made}
    await stage.simulator.agrees("check")
    assert not any((await frozen(stage)).values())
    acked = await stage.host_freezes()
    assert await frozen(stage) == dict.fromkeys(disks, True)
    assert not shows or await shown_as_frozen(stage) == disks
    assert {app.state for app in await stage.broker.apps()} == {"held"}
    thaw_asked = time.monotonic_ns()
    await stage.simulator.agrees("thaw")
    assert stage.written_in_hold(acked, thaw_asked) == []
    await stage.takes_writes()
    await stage.all_write()
    verdict = await stage.verdict()
    assert (verdict.level, verdict.reasons) == (Level.APPLICATION, ())
    assert outcomes(verdict) == dict.fromkeys(disks, "held")
    assert not (await stage.broker.status()).freezer.frozen


async def test_a_whole_cycle_holds_apps_and_file_systems_and_the_broker_writes_nothing_meanwhile(
    stage: LinuxStage,
) -> None:
    if reason := why_not():
        pytest.skip(reason)
    outer = stage.disks.make("outer", "xfs")
    stage.disks.make("other", "btrfs")
    stage.state_on = stage.disks.make("inner", on=outer)
    await start(stage)
    await stage.simulator.refuses("thaw")  # nothing was frozen: nobody can vouch for anything
    await holds_and_thaws(stage, shows=True)
    await holds_and_thaws(stage)


async def test_an_old_kernel_gives_ten_seconds(stage: LinuxStage) -> None:
    await start(stage, stage.configuration(budget="60s", reserve="15s", more='kernel_limits = "short"\n'), kernel="4.9")
    await holds_and_thaws(stage)
    await stage.apps["stock"].told("close freeze")
    await stage.host_is_refused()
    await stage.open_gates()
    await stage.all_write()
    given = re.search(r"no ack within (\d+\.\d)(ms|s)\b", (await stage.verdict()).reasons[0])
    assert given is not None
    assert given[2] == "ms" or float(given[1]) <= 4.0, "of eight seconds one half belongs to the file systems"
    await stage.takes_writes()


@pytest.mark.usefixtures("private_network")
async def test_a_whole_cycle_over_netlink() -> None:
    async with linux_stage(NETLINK) as stage:
        one = stage.disks.make("one")
        simulator = await stage.start_simulator()
        ready = await simulator.until(message_type="ready")
        await stage.start_broker(
            stage.configuration(
                more=f'connector = "{ready["connector"]}"\nkernel_portid = {ready["kernel_portid"]}\n',
            )
        )
        await stage.start_app("orders", "async", on=one)
        await holds_and_thaws(stage)


async def test_file_systems_are_frozen_after_the_last_app_and_go_on_before_the_first(stage: LinuxStage) -> None:
    ground = stage.disks.make("ground")  # somebody else's
    lower = stage.disks.make("lower")
    upper = stage.disks.make("upper", on=ground)
    await start(stage, stage.configuration(exclude=(ground.path,)))
    await stage.apps["stock"].told("close freeze")
    freeze = await stage.begin_freeze()
    await stage.events.sees("freeze_asked", app="stock")
    assert stage.apps["orders"].log().quiets[-1].frozen
    assert not any((await frozen(stage)).values())
    await stage.open_gates()
    assert (await stage.simulator.result("freeze", freeze))["outcome"] == "ok"
    assert await frozen(stage) == {"ground": False, "lower": True, "upper": True}
    await asyncio.to_thread(stage.disks.freeze, ground.path)  # the thaw of what lies on it hangs
    after, thaw = stage.events.count, stage.simulator.begin("thaw")
    await stage.events.reaches(Phase.THAWING_FILESYSTEMS, after)
    assert await asyncio.to_thread(takes_a_write, lower.path)
    assert not await asyncio.to_thread(takes_a_write, upper.path, 0.3)
    assert [app.log().quiets[-1].released for app in stage.apps.values()] == [0, 0]
    await asyncio.to_thread(stage.disks.thaw, ground.path)
    assert (await stage.simulator.result("thaw", thaw))["outcome"] == "ok"
    await stage.takes_writes()
    await stage.all_write()
    verdict = await stage.verdict()
    assert verdict.level == "filesystem"  # the files of `orders` lie on the one that is left out
    assert verdict.reasons[0].startswith("orders (required) was held, and its copy is worth less: it has files in ")


async def test_an_apps_veto_is_told_to_the_host_and_no_file_system_is_frozen(stage: LinuxStage) -> None:
    await start(stage)
    await stage.simulator.agrees("check")
    await stage.apps["stock"].told("veto")
    await stage.host_is_refused()
    assert not any((await frozen(stage)).values())
    await stage.all_write()
    assert stage.apps["orders"].log().quiets[-1].frozen, "it had acked"
    assert outcomes(await stage.verdict()) == {}
    assert not any(event.phase is Phase.FREEZING_FILESYSTEMS for event in stage.events.events)
    await stage.apps["stock"].told("agree")
    await stage.backs_up()


async def test_what_somebody_else_has_frozen_fails_the_freeze_and_stays_frozen(stage: LinuxStage) -> None:
    stage.disks.make("one")
    stage.disks.make("two")
    theirs = stage.disks.make("theirs")
    await start(stage)
    await asyncio.to_thread(stage.disks.freeze, theirs.path)
    await stage.host_is_refused()
    await stage.takes_writes(theirs)
    await stage.all_write()
    verdict = await stage.verdict()
    assert verdict.level == "failed"
    assert outcomes(verdict)["theirs"] == "busy"
    assert "somebody else" in " ".join(verdict.reasons), verdict
    assert await frozen(stage) == {"one": False, "two": False, "theirs": True}
    await asyncio.to_thread(stage.disks.thaw, theirs.path)
    await stage.backs_up()


@pytest.mark.parametrize(
    ("policy", "kind", "level"),
    [
        ("veto", "hidden", "failed"),
        ("lower", "hidden", "crash"),
        ("report", "hidden", "application"),
        ("lower", "vfat", "crash"),
    ],
)
async def test_the_administrator_says_what_a_disk_without_a_freeze_means(
    stage: LinuxStage, policy: str, kind: str, level: str
) -> None:
    if reason := why_not("vfat") if kind == "vfat" else "":
        pytest.skip(reason)
    stage.disks.make("one")
    stage.disks.make("two")
    stick = stage.disks.make("stick", "ext4" if kind == "hidden" else kind)
    if kind == "hidden":
        stage.disks.mount_other("-t", "tmpfs", "tmpfs", str(stick.path))
    await start(stage, stage.configuration(unfreezable=policy))
    if policy == "veto":
        await stage.host_is_refused()
        assert not any((await frozen(stage, stick)).values())
    else:
        await stage.host_freezes()
        assert all((await frozen(stage, stick)).values())
        await stage.simulator.agrees("thaw")
    await stage.takes_writes(stick)
    await stage.all_write()
    verdict = await stage.verdict()
    assert verdict.level == level, verdict
    assert outcomes(verdict)["stick"] == "unfreezable"
    assert ("stick" in " ".join(verdict.reasons)) is (policy != "report"), verdict


async def test_a_thaw_by_somebody_else_is_told_to_the_host(stage: LinuxStage) -> None:
    await start(stage)
    await stage.host_freezes()
    await asyncio.to_thread(stage.disks.thaw, stage.disks.made[0].path)
    await stage.simulator.refuses("thaw")
    await stage.takes_writes()
    await stage.all_write()
    verdict = await stage.verdict()
    assert verdict.level == "crash"
    assert outcomes(verdict) == {"one": "hold_lost", "two": "held"}
    await stage.backs_up()


async def test_without_a_thaw_everything_goes_on_at_the_hold_limit(stage: LinuxStage) -> None:
    await start(stage, stage.configuration(hold_limit="1s"))
    acked = await stage.host_freezes()
    await stage.takes_writes(within=4.0)
    assert time.monotonic_ns() - acked < 4_000_000_000
    await stage.all_write()
    await stage.rests()
    await stage.simulator.refuses("thaw")
    assert (await stage.verdict()).level == "crash"
    await stage.backs_up()


async def test_a_removal_in_mid_hold_thaws_and_the_kernel_does_not_wait(stage: LinuxStage) -> None:
    await start(stage)
    await stage.host_freezes()
    after, place = stage.events.count, len(stage.simulator.out)
    await stage.simulator.agrees("remove")
    await stage.simulator.until(place, kind="closed")
    await stage.takes_writes()
    await stage.all_write()
    assert await stage.rests() is Phase.ABORTED
    await stage.events.sees("source_changed", detail="linux_hv_vss lost", after=after)
    assert (await stage.verdict()).level == "crash"
    after = stage.events.count
    await stage.simulator.agrees("return")
    await stage.events.sees("source_changed", detail="linux_hv_vss serving", after=after)
    await stage.simulator.refuses("thaw")
    await stage.backs_up()


async def test_a_hibernation_in_mid_hold_ends_it_and_the_host_is_told(stage: LinuxStage) -> None:
    await start(stage)
    await stage.host_freezes()
    after = stage.events.count
    await stage.simulator.agrees("hibernate")
    await stage.takes_writes()
    await stage.all_write()
    await stage.events.sees("source_changed", detail="linux_hv_vss serving", after=after)
    await stage.simulator.refuses("thaw")
    await stage.backs_up()


async def test_a_driver_that_dies_in_mid_hold_holds_nobody(stage: LinuxStage) -> None:
    await start(stage)
    await stage.host_freezes()
    after = stage.events.count
    await stage.simulator.kill()
    await stage.takes_writes()
    await stage.all_write()
    await stage.rests()
    await stage.events.sees("source_changed", detail="linux_hv_vss lost", after=after)
    after = stage.events.count
    await stage.start_simulator()
    await stage.events.sees("source_changed", detail="linux_hv_vss serving", after=after)
    await stage.simulator.refuses("thaw")
    await stage.backs_up()


async def test_two_requesters_do_not_disturb_each_other(stage: LinuxStage) -> None:
    await start(stage)
    one, _ = stage.disks.made
    await stage.host_freezes()
    late = await stage.start_requester("--mount", str(one.path))
    assert await late.ended() == ExitCode.REFUSED
    assert all((await frozen(stage)).values())
    await stage.simulator.agrees("thaw")
    await stage.takes_writes()
    requester = await stage.start_requester("--mount", str(one.path))
    await requester.held()
    await stage.host_is_refused()
    assert await frozen(stage) == {"one": True, "two": False}
    requester.finish()
    assert await requester.ended() == ExitCode.SUCCESS, requester.report()
    await stage.takes_writes()
    await stage.all_write()
    await stage.backs_up()


async def test_a_stopping_broker_thaws_first(stage: LinuxStage) -> None:
    await start(stage)
    await stage.host_freezes()
    assert await stage.broker.terminate() == 0
    await stage.takes_writes()
    await stage.all_write()
    assert all(app.log().quiets[-1].released for app in stage.apps.values())


async def test_a_broker_that_is_killed_in_the_hold_is_not_believed_by_the_next(stage: LinuxStage) -> None:
    await start(stage)
    await stage.host_freezes()
    stage.broker.signal(signal.SIGKILL)
    await stage.takes_writes()
    await stage.start_broker()
    await stage.attached()
    await stage.rests()
    await stage.simulator.refuses("thaw")
    await stage.all_write()
    assert (await stage.verdict()).level == "crash"
    await stage.backs_up()
