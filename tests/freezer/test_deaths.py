"""Whoever dies or is stopped, at whichever step: every file system takes a write again (promise 1).

The stage is a file system `upper` whose image lies on `ground`, and an `other` beside them; `other` and then `upper`
are frozen by the freezer. To hold a step that takes moments, somebody else freezes `ground`: then the kernel finishes
neither freeze nor thaw of `upper` before `ground` is thawed (facts/linux-hv-vss.md section 4.5).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

import pytest

from appvss.freezer import record
from appvss.freezer.base import FreezeFailed, Thawed
from appvss.freezer.linux import LinuxFreezer
from tests.freezer.held_disks import (
    ALL,
    BOUND,
    BUDGET,
    HOLD,
    Losses,
    children_of,
    freezer_of,
    plan_of,
    session_of,
    until,
)
from tests.freezer.stand_in import StandIn, stand_in
from tests.support.loop_disks import LoopDisk, LoopDisks, takes_a_write


class Step(StrEnum):
    PREPARED = "prepared"
    FREEZING = "freezing"
    FROZEN = "frozen"
    THAWING = "thawing"

    @property
    def hangs(self) -> bool:
        return self in (Step.FREEZING, Step.THAWING)


@dataclass
class Stage:
    disks: LoopDisks
    ground: LoopDisk
    upper: LoopDisk
    other: LoopDisk

    @property
    def waves(self) -> tuple[list[Path], list[Path]]:
        return [self.other.path], [self.upper.path]

    async def hang(self, guardian: int) -> None:
        """Wait until the process that tends `upper`, the last one, hangs in the kernel."""
        await until(lambda: session_of(guardian).get(children_of(guardian)[-1]) == "D")

    def is_free(self, step: Step) -> None:
        """What the kernel lets go takes a write at once, and the rest as soon as it can."""
        assert takes_a_write(self.other.path)
        if step.hangs:
            self.disks.thaw(self.ground.path)
        assert takes_a_write(self.upper.path)
        assert takes_a_write(self.ground.path)


@pytest.fixture
def stage(loop_disks: LoopDisks) -> Stage:
    ground = loop_disks.make("ground", "xfs")
    return Stage(loop_disks, ground, loop_disks.make("upper", on=ground), loop_disks.make("other"))


# -- the broker


async def bring_to(step: Step, stage: Stage, broker: StandIn) -> None:
    assert await broker.do("prepare") == "well"
    if step is Step.FREEZING:
        stage.disks.freeze(stage.ground.path)
        broker.say("freeze")
        await stage.hang(broker.guardian)
    elif step is not Step.PREPARED:
        assert await broker.do("freeze") == "held held"
    if step is Step.THAWING:
        stage.disks.freeze(stage.ground.path)
        broker.say("thaw")
        await stage.hang(broker.guardian)


@pytest.mark.parametrize("step", Step)
async def test_the_broker_is_killed(stage: Stage, tmp_path: Path, step: Step) -> None:
    async with stand_in(tmp_path, *stage.waves) as broker:
        await bring_to(step, stage, broker)
        broker.process.kill()
        stage.is_free(step)
        await until(lambda: not session_of(broker.guardian))
    assert record.read(tmp_path) is None


@pytest.mark.parametrize("step", Step)
async def test_the_broker_is_stopped_and_the_limit_passes(stage: Stage, tmp_path: Path, step: Step) -> None:
    async with stand_in(tmp_path, *stage.waves, limit=1.0) as broker:
        await bring_to(step, stage, broker)
        os.kill(broker.process.pid, signal.SIGSTOP)
        assert takes_a_write(stage.other.path)
        stage.is_free(step)
        os.kill(broker.process.pid, signal.SIGCONT)
        if step.hangs:
            await broker.answer()
        answer = await broker.do("thaw")
        assert answer == ("the hold limit passed before the thaw" if step is Step.FROZEN else "unbroken")


@pytest.mark.parametrize("step", Step)
async def test_broker_and_guardian_are_killed(stage: Stage, tmp_path: Path, step: Step) -> None:
    async with stand_in(tmp_path, *stage.waves) as broker:
        await bring_to(step, stage, broker)
        os.kill(broker.guardian, signal.SIGSTOP)  # lest it see the broker's end first, and leave nothing behind
        broker.process.kill()
        os.kill(broker.guardian, signal.SIGKILL)
        stage.is_free(step)
        await until(lambda: not session_of(broker.guardian))
    released = record.thaw_recorded(tmp_path)
    assert [(each.was_frozen, each.failure) for each in released] == [(False, ""), (False, "")]
    assert record.read(tmp_path) is None


async def test_broker_and_guardian_are_stopped_and_the_childrens_limit_passes(stage: Stage, tmp_path: Path) -> None:
    async with stand_in(tmp_path, *stage.waves, limit=0.5) as broker:
        await bring_to(Step.FROZEN, stage, broker)
        os.kill(broker.process.pid, signal.SIGSTOP)
        os.kill(broker.guardian, signal.SIGSTOP)
        assert takes_a_write(stage.other.path)
        stage.is_free(Step.FROZEN)
        os.kill(broker.guardian, signal.SIGCONT)
        os.kill(broker.process.pid, signal.SIGCONT)
        assert await broker.do("thaw") == "the hold limit passed before the thaw"


async def test_all_are_killed_and_the_record_tells_what_to_thaw(stage: Stage, tmp_path: Path) -> None:
    async with stand_in(tmp_path, *stage.waves) as broker:
        await bring_to(Step.FROZEN, stage, broker)
        family = list(session_of(broker.guardian))
        os.kill(broker.guardian, signal.SIGSTOP)  # lest it replace a child
        for pid in (broker.process.pid, *reversed(family)):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not session_of(broker.guardian))
    assert not takes_a_write(stage.other.path, 0.3)
    released = record.thaw_recorded(tmp_path)
    assert [(each.path, each.was_frozen) for each in released] == [
        (str(stage.other.path), True),
        (str(stage.upper.path), True),
    ]
    stage.is_free(Step.FROZEN)
    assert record.thaw_recorded(tmp_path) == ()


async def test_all_are_killed_and_the_next_broker_thaws(stage: Stage, tmp_path: Path) -> None:
    async with stand_in(tmp_path, *stage.waves) as broker:
        await bring_to(Step.FROZEN, stage, broker)
        family = list(session_of(broker.guardian))
        os.kill(broker.guardian, signal.SIGSTOP)
        for pid in (broker.process.pid, *reversed(family)):
            os.kill(pid, signal.SIGKILL)
    async with freezer_of(plan_of(), tmp_path):
        stage.is_free(Step.FROZEN)


@pytest.mark.parametrize("seed", range(int(os.environ.get("APPVSS_GUARDIAN_SEEDS", "3"))))
async def test_any_two_are_killed_at_any_instant(stage: Stage, tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    for _ in range(4):
        async with stand_in(tmp_path, *stage.waves) as broker:
            for command in ("prepare", "freeze", "thaw"):
                broker.say(command)
            for _ in range(2):
                await asyncio.sleep(drawn.uniform(0, 0.12))  # the instant is what is drawn
                family = [broker.process.pid, *session_of(broker.guardian)]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(drawn.choice(family), signal.SIGKILL)
            assert takes_a_write(stage.upper.path), seed
            assert takes_a_write(stage.other.path), seed
            with contextlib.suppress(ProcessLookupError):
                broker.process.kill()
            await until(lambda guardian=broker.guardian: not session_of(guardian))
        assert not any(each.was_frozen or each.failure for each in record.thaw_recorded(tmp_path))


# -- the guardian and its children


@contextlib.asynccontextmanager
async def brought_to(step: Step, stage: Stage, freezer: LinuxFreezer):
    """As `bring_to`; the task is what is under way."""
    await freezer.prepare("c", ALL, (), BUDGET)
    task: asyncio.Task[object] | None = None
    if step is Step.FREEZING:
        stage.disks.freeze(stage.ground.path)
        task = asyncio.create_task(freezer.freeze("c", BUDGET, HOLD))
        await stage.hang(freezer.state.guardian_pid)
    elif step is not Step.PREPARED:
        await freezer.freeze("c", BUDGET, HOLD)
    if step is Step.THAWING:
        stage.disks.freeze(stage.ground.path)
        task = asyncio.create_task(freezer.thaw("c"))
        await stage.hang(freezer.state.guardian_pid)
    yield task
    if task is not None:
        with contextlib.suppress(FreezeFailed):
            await asyncio.wait_for(task, BOUND)


async def goes_on(stage: Stage, freezer: LinuxFreezer) -> None:
    """The next cycle is as good as any."""
    await freezer.prepare("next", ALL, (), BUDGET)
    parts = (await freezer.freeze("next", BUDGET, HOLD)).parts
    assert [part.outcome for part in parts] == ["held", "held"]
    assert await freezer.thaw("next") == Thawed(unbroken=True)
    assert takes_a_write(stage.upper.path)


@pytest.mark.parametrize("step", Step)
async def test_the_guardian_is_killed(stage: Stage, tmp_path: Path, step: Step) -> None:
    losses = Losses()
    async with freezer_of(plan_of(*stage.waves), tmp_path, on_lost=losses) as freezer:
        guardian = freezer.state.guardian_pid
        async with brought_to(step, stage, freezer):
            os.kill(guardian, signal.SIGKILL)
            await until(lambda: freezer.state.guardian_pid is None)
            await asyncio.to_thread(stage.is_free, step)
        if step is Step.PREPARED:
            with pytest.raises(FreezeFailed, match=f"the guardian .process {guardian}. died"):
                await freezer.freeze("c", BUDGET, HOLD)
        thawed = await freezer.thaw("c")
        assert thawed.unbroken is (step in (Step.PREPARED, Step.FREEZING))
        if step is Step.FROZEN:
            assert losses.told == [("c", f"the guardian (process {guardian}) died")]
            assert thawed.lost == (str(stage.other.path), str(stage.upper.path))
        await goes_on(stage, freezer)
        assert freezer.state.guardian_pid not in (None, guardian)


@pytest.mark.parametrize("step", [Step.PREPARED, Step.FREEZING, Step.FROZEN])
async def test_the_guardian_is_stopped(stage: Stage, tmp_path: Path, step: Step) -> None:
    async with freezer_of(plan_of(*stage.waves), tmp_path) as freezer:
        guardian = freezer.state.guardian_pid
        async with brought_to(step, stage, freezer):
            os.kill(guardian, signal.SIGSTOP)
            thaw = asyncio.create_task(freezer.thaw("c"))
            await until(lambda: freezer.state.guardian_pid is None)
            await asyncio.to_thread(stage.is_free, step)
        thawed = await thaw
        assert thawed.unbroken is (step is not Step.FROZEN)
        if step is Step.FROZEN:
            assert thawed.reason == f"the guardian (process {guardian}) did not answer and was ended"
        await goes_on(stage, freezer)


async def test_a_guardian_that_is_stopped_before_the_freeze_fails_it_in_its_budget(
    stage: Stage, tmp_path: Path
) -> None:
    async with freezer_of(plan_of(*stage.waves), tmp_path) as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        os.kill(freezer.state.guardian_pid, signal.SIGSTOP)
        with pytest.raises(FreezeFailed):
            async with asyncio.timeout(10.0):  # less than the limit after which all is thawed
                await freezer.freeze("c", timedelta(seconds=0.5), HOLD)
        assert (await freezer.thaw("c")).unbroken
        stage.is_free(Step.PREPARED)
        await goes_on(stage, freezer)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("step", Step)
async def test_a_child_is_killed_or_stopped(
    stage: Stage, tmp_path: Path, step: Step, number: signal.Signals, which: int
) -> None:
    async with freezer_of(plan_of(*stage.waves), tmp_path) as freezer:
        guardian = freezer.state.guardian_pid
        async with brought_to(step, stage, freezer):
            children = children_of(guardian)
            if which < len(children):  # in the thaw the first may have ended already
                os.kill(children[which], number)
            if step is not Step.FROZEN:
                thaw = asyncio.create_task(freezer.thaw("c"))
                await asyncio.to_thread(stage.is_free, step)
                await thaw
        if step is Step.FROZEN:
            assert not await asyncio.to_thread(takes_a_write, stage.other.path, 0.3)
            assert await freezer.thaw("c") == Thawed(unbroken=True)
            stage.is_free(step)
        assert freezer.state.guardian_pid == guardian
        await goes_on(stage, freezer)


async def test_the_children_and_their_guardian_are_killed_and_the_broker_thaws(stage: Stage, tmp_path: Path) -> None:
    async with freezer_of(plan_of(*stage.waves), tmp_path) as freezer:
        guardian = freezer.state.guardian_pid
        async with brought_to(Step.FROZEN, stage, freezer):
            family = list(session_of(guardian))
            os.kill(guardian, signal.SIGSTOP)  # lest it replace a child
            for pid in reversed(family):
                os.kill(pid, signal.SIGKILL)
            await until(lambda: freezer.state.guardian_pid is None)
            await asyncio.to_thread(stage.is_free, Step.FROZEN)
        assert not (await freezer.thaw("c")).unbroken
        await goes_on(stage, freezer)


async def test_guardian_and_children_are_stopped_and_the_broker_has_the_children_go_on(
    stage: Stage, tmp_path: Path
) -> None:
    async with freezer_of(plan_of(*stage.waves), tmp_path) as freezer:
        async with brought_to(Step.FROZEN, stage, freezer):
            for pid in session_of(freezer.state.guardian_pid):
                os.kill(pid, signal.SIGSTOP)
        assert not (await freezer.thaw("c")).unbroken
        stage.is_free(Step.FROZEN)
        await goes_on(stage, freezer)


async def test_a_guardian_that_dies_between_two_cycles_is_replaced_by_the_next(stage: Stage, tmp_path: Path) -> None:
    async with freezer_of(plan_of(*stage.waves), tmp_path) as freezer:
        os.kill(freezer.state.guardian_pid, signal.SIGKILL)
        await until(lambda: freezer.state.condition == "lost")
        assert "the next cycle starts another one" in freezer.state.detail
        await goes_on(stage, freezer)


async def test_what_asks_programs_to_stop_does_not_stop_the_guardian(stage: Stage, tmp_path: Path) -> None:
    async with freezer_of(plan_of(*stage.waves), tmp_path) as freezer:
        guardian = freezer.state.guardian_pid
        async with brought_to(Step.FROZEN, stage, freezer):
            for pid in session_of(guardian):
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
                    os.kill(pid, number)
        assert await freezer.thaw("c") == Thawed(unbroken=True)
        assert freezer.state.guardian_pid == guardian


async def test_the_guardian_is_small_and_locked_in_memory(stage: Stage, tmp_path: Path) -> None:
    async with freezer_of(plan_of(*stage.waves), tmp_path) as freezer:
        guardian = freezer.state.guardian_pid
        async with brought_to(Step.FROZEN, stage, freezer):
            for pid in session_of(guardian):
                sizes = sizes_of(pid)
                assert sizes["VmRSS"] < 20 * 1024, sizes
                assert sizes["VmLck"] > 0, sizes
        await freezer.thaw("c")


def sizes_of(pid: int) -> dict[str, int]:
    """The sizes of a process in KiB, as in proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.endswith("kB")
    }
