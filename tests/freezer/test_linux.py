"""The freezer of Linux hosts, on real file systems."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from appvss.freezer import record
from appvss.freezer.base import FreezeFailed, Frozen, Prepared, Thawed
from appvss.freezer.hold import refusal
from appvss.freezer.linux import LinuxFreezer
from appvss.freezer.plan import FilesystemSettings, Left, Plan
from appvss.freezer.survey import survey
from appvss.model.filesystem import (
    FilesystemChoice,
    FilesystemOutcome,
    FilesystemPart,
    FreezerCondition,
    FreezerMode,
    Scope,
    Unfreezable,
)
from tests.freezer.held_disks import ALL, BOUND, BUDGET, HOLD, Losses, freezer_of, now, plan_of, until
from tests.support.loop_disks import TYPES, LoopDisks, is_frozen, takes_a_write

SHORT = timedelta(seconds=1)


@pytest.mark.parametrize("kind", TYPES)
async def test_one_file_system_is_frozen_and_thawed(loop_disks: LoopDisks, kind: str, tmp_path: Path) -> None:
    path = loop_disks.make("data", kind).path
    async with freezer_of(plan_of([path]), tmp_path / "run") as freezer:
        assert freezer.state.condition is FreezerCondition.READY
        assert await freezer.prepare("c", ALL, (), BUDGET) == Prepared()
        assert not is_frozen(path)
        (part,) = (await freezer.freeze("c", BUDGET, HOLD)).parts
        assert (part.path, part.type, part.outcome) == (str(path), kind, FilesystemOutcome.HELD)
        assert part.time_to_freeze is not None
        state = freezer.state
        assert (state.mode, state.condition) == (FreezerMode.LINUX, FreezerCondition.HOLDING)
        assert [frozen for frozen, _since in state.frozen] == [str(path)]
        assert not takes_a_write(path, 0.3)
        assert await freezer.thaw("c") == Thawed(unbroken=True)
        assert takes_a_write(path)
        assert freezer.state.condition is FreezerCondition.READY


async def test_a_stack_is_frozen_from_its_top_and_thawed_from_its_ground(loop_disks: LoopDisks, tmp_path: Path) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", "ext4", on=ground)
    beside = loop_disks.make("with space", "btrfs")
    planner = plan_of([upper.path, beside.path], [ground.path])
    async with freezer_of(planner, tmp_path / "run") as freezer:
        for cycle in ("first", "second"):
            (upper.path / cycle).write_text("not yet synced")
            await freezer.prepare(cycle, ALL, (), BUDGET)
            parts = (await freezer.freeze(cycle, BUDGET, HOLD)).parts
            assert [part.path for part in parts] == [str(upper.path), str(beside.path), str(ground.path)]
            assert {part.outcome for part in parts} == {FilesystemOutcome.HELD}
            assert not takes_a_write(ground.path, 0.2)
            assert await freezer.thaw(cycle) == Thawed(unbroken=True)
            assert all(takes_a_write(disk.path) for disk in (ground, upper, beside))


async def test_a_bind_mount_is_frozen_with_its_file_system_and_a_read_only_one_can_be(
    loop_disks: LoopDisks, tmp_path: Path
) -> None:
    disk = loop_disks.make("data")
    bound = loop_disks.bind(disk, "bound", read_only=True)
    fixed = loop_disks.make("fixed", read_only=True)
    async with freezer_of(plan_of([bound, fixed.path]), tmp_path / "run") as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        await freezer.freeze("c", BUDGET, HOLD)
        assert not takes_a_write(disk.path, 0.3)
        assert await freezer.thaw("c") == Thawed(unbroken=True)
        assert takes_a_write(disk.path)


async def test_a_plain_file_may_be_the_only_mount_point(loop_disks: LoopDisks, tmp_path: Path) -> None:
    disk = loop_disks.make("data")
    (disk.path / "file").touch()
    point = loop_disks.home / "file"
    point.touch()
    loop_disks.mount_other("--bind", str(disk.path / "file"), str(point))
    async with freezer_of(plan_of([point]), tmp_path / "run") as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        await freezer.freeze("c", BUDGET, HOLD)
        assert not takes_a_write(disk.path, 0.3)
        assert await freezer.thaw("c") == Thawed(unbroken=True)


@contextlib.contextmanager
def busy_writer(path: Path) -> Iterator[Path]:
    """A process that appends to a file and syncs it, without a pause."""
    log = path / "log"
    program = (
        "import os,sys\nfd = os.open(sys.argv[1], os.O_WRONLY|os.O_CREAT|os.O_APPEND)\n"
        "while True:\n os.write(fd, b'x' * 4096)\n os.fsync(fd)\n"
    )
    writer = subprocess.Popen([sys.executable, "-I", "-S", "-c", program, str(log)], start_new_session=True)
    try:
        yield log
    finally:
        writer.kill()
        writer.wait(BOUND)


@pytest.mark.parametrize("kind", TYPES)
async def test_under_a_busy_writer_nothing_changes_in_the_hold(
    loop_disks: LoopDisks, kind: str, tmp_path: Path
) -> None:
    path = loop_disks.make("data", kind).path
    async with freezer_of(plan_of([path]), tmp_path / "run") as freezer:
        with busy_writer(path) as log:
            await until(lambda: log.exists() and log.stat().st_size > 0)
            await freezer.prepare("c", ALL, (), BUDGET)
            await freezer.freeze("c", BUDGET, HOLD)
            size = log.stat().st_size
            assert not takes_a_write(path, 0.3)
            assert log.stat().st_size == size
            assert await freezer.thaw("c") == Thawed(unbroken=True)
            await until(lambda: log.stat().st_size > size)


async def test_the_real_survey_orders_the_real_stack(loop_disks: LoopDisks, tmp_path: Path) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", "ext4", on=ground)
    bound = loop_disks.bind(upper, "bound")
    paths = tuple(str(path) for path in (ground.path, bound, upper.path))
    planner = partial(survey, own={}, settings=FilesystemSettings())
    async with freezer_of(planner, tmp_path / "run") as freezer:
        choice = FilesystemChoice(Scope.NAMED, paths)
        plan = await freezer.survey(choice, ())
        assert [target.type for target in plan.targets] == ["ext4", "xfs"]
        await freezer.prepare("c", choice, (), BUDGET)
        parts = (await freezer.freeze("c", BUDGET, HOLD)).parts
        assert [(part.type, part.outcome) for part in parts] == [("ext4", "held"), ("xfs", "held")]
        assert await freezer.thaw("c") == Thawed(unbroken=True)
        with pytest.raises(FreezeFailed, match="is no mount point"):
            await freezer.prepare("d", FilesystemChoice(Scope.NAMED, (str(ground.path / "no"),)), (), BUDGET)


# -- what is refused


async def test_one_that_somebody_else_has_frozen_is_never_taken_for_ours(loop_disks: LoopDisks, tmp_path: Path) -> None:
    first, taken, last = (loop_disks.make(name).path for name in ("first", "taken", "last"))
    async with freezer_of(plan_of([first], [taken], [last]), tmp_path / "run") as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        loop_disks.freeze(taken)
        with pytest.raises(
            FreezeFailed, match="taken cannot be frozen: somebody else has frozen it already"
        ) as failure:
            await freezer.freeze("c", BUDGET, HOLD)
        outcomes = [part.outcome for part in failure.value.parts]
        assert outcomes == [FilesystemOutcome.SKIPPED, FilesystemOutcome.BUSY, FilesystemOutcome.SKIPPED]
        assert await freezer.thaw("c") == Thawed(unbroken=True)
        assert takes_a_write(first)
        assert takes_a_write(last)
        assert is_frozen(taken)
        loop_disks.thaw(taken)


async def test_each_failing_one_of_four_leaves_none_frozen(loop_disks: LoopDisks, tmp_path: Path) -> None:
    paths = [loop_disks.make(f"d{number}").path for number in range(4)]
    async with freezer_of(plan_of(*([path] for path in paths)), tmp_path / "run") as freezer:
        for taken in paths:
            await freezer.prepare(str(taken), ALL, (), BUDGET)
            loop_disks.freeze(taken)
            with pytest.raises(FreezeFailed, match=f"{taken.name} cannot be frozen"):
                await freezer.freeze(str(taken), BUDGET, HOLD)
            await freezer.thaw(str(taken))
            loop_disks.thaw(taken)
            assert all(takes_a_write(path) for path in paths)


async def test_a_mount_that_vanished_never_has_the_one_below_it_frozen(loop_disks: LoopDisks, tmp_path: Path) -> None:
    below = loop_disks.make("below")
    inner = loop_disks.make("inner")
    point = below.path / "point"
    point.mkdir()
    loop_disks.mount_other("--bind", str(inner.path), str(point))
    planner = plan_of([point])
    loop_disks.unmount(point)
    async with freezer_of(planner, tmp_path / "run") as freezer:
        with pytest.raises(FreezeFailed, match=r"the mount at .*point changed between listing and freeze"):
            await freezer.prepare("c", ALL, (), BUDGET)
        with pytest.raises(FreezeFailed):
            await freezer.freeze("c", BUDGET, HOLD)
        assert await freezer.thaw("c") == Thawed(unbroken=True)
        assert takes_a_write(below.path)


async def test_a_mount_point_that_is_gone_is_named(loop_disks: LoopDisks, tmp_path: Path) -> None:
    disk = loop_disks.make("data")
    planner = plan_of([disk.path])
    loop_disks.unmount(disk.path)
    disk.path.rmdir()
    async with freezer_of(planner, tmp_path / "run") as freezer:
        with pytest.raises(FreezeFailed, match="data cannot be opened: No such file or directory"):
            await freezer.prepare("c", ALL, (), BUDGET)


@pytest.mark.parametrize("unfreezable", Unfreezable)
async def test_a_kind_that_has_no_freeze_means_what_the_administrator_says(
    loop_disks: LoopDisks, tmp_path: Path, unfreezable: Unfreezable
) -> None:
    path = loop_disks.make("data").path
    memory = loop_disks.home / "memory"
    memory.mkdir()
    loop_disks.mount_other("-t", "tmpfs", "none", str(memory))
    async with freezer_of(plan_of([memory, path]), tmp_path / "run", unfreezable) as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        if unfreezable is Unfreezable.VETO:
            with pytest.raises(FreezeFailed, match="memory cannot be frozen: its kind of file system has no freeze"):
                await freezer.freeze("c", BUDGET, HOLD)
            assert (await freezer.thaw("c")).unbroken
        else:
            frozen = await freezer.freeze("c", BUDGET, HOLD)
            assert [part.outcome for part in frozen.parts] == [FilesystemOutcome.UNFREEZABLE, FilesystemOutcome.HELD]
            doubt = f"{memory} is not frozen: its kind of file system has no freeze"
            assert frozen.doubts == ((doubt,) if unfreezable is Unfreezable.LOWER else ())
            assert await freezer.thaw("c") == Thawed(unbroken=True)
        assert takes_a_write(path)


async def test_what_the_plan_leaves_out_is_told_and_its_veto_counts(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    left = (
        Left(b"/efi", "8:1", "vfat", FilesystemOutcome.EXCLUDED, "the configuration leaves it out"),
        Left(b"/usb", "8:17", "exfat", FilesystemOutcome.UNFREEZABLE, "exfat has no freeze", lowers=True),
    )
    parts = (
        FilesystemPart("/efi", "8:1", "vfat", FilesystemOutcome.EXCLUDED, "the configuration leaves it out"),
        FilesystemPart("/usb", "8:17", "exfat", FilesystemOutcome.UNFREEZABLE, "exfat has no freeze"),
    )
    async with freezer_of(plan_of([path], left=left), tmp_path / "run") as freezer:
        prepared = await freezer.prepare("c", ALL, (), BUDGET)
        assert prepared == Prepared(parts, ("/usb is not frozen: exfat has no freeze",))
        await freezer.thaw("c")
    async with freezer_of(plan_of([path], left=left, veto="/usb cannot be frozen"), tmp_path / "run") as freezer:
        with pytest.raises(FreezeFailed, match="/usb cannot be frozen") as failure:
            await freezer.prepare("c", ALL, (), BUDGET)
        assert failure.value.parts == parts


async def test_a_cycle_without_file_systems_holds_up_no_other(tmp_path: Path) -> None:
    async with freezer_of(plan_of(), tmp_path / "run") as freezer:
        assert await freezer.freeze("unknown", BUDGET, HOLD) == Frozen()
        for choice in (FilesystemChoice(), ALL):
            assert await freezer.prepare("c", choice, (), BUDGET) == Prepared()
            assert await freezer.freeze("c", BUDGET, HOLD) == Frozen()
        assert await freezer.thaw("c") == Thawed(unbroken=True)
        assert await freezer.thaw("unknown") == Thawed(unbroken=True)


async def test_another_cycle_is_refused_as_long_as_one_holds(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    async with freezer_of(plan_of([path]), tmp_path / "run") as freezer:
        await freezer.prepare("first", ALL, (), BUDGET)
        await freezer.freeze("first", BUDGET, HOLD)
        with pytest.raises(FreezeFailed, match="file systems are held for cycle first"):
            await freezer.prepare("second", ALL, (), BUDGET)
        assert await freezer.thaw("second") == Thawed(unbroken=True)
        assert is_frozen(path)
        assert await freezer.thaw("first") == Thawed(unbroken=True)
        assert await freezer.thaw("first") == Thawed(unbroken=True)


# -- a hold that ends by itself


async def test_the_limit_thaws_and_is_told_at_the_thaw(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    losses = Losses()
    async with freezer_of(plan_of([path]), tmp_path / "run", on_lost=losses) as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        await freezer.freeze("c", timedelta(milliseconds=300), timedelta(milliseconds=300))
        await asyncio.wait_for(losses.any.wait(), BOUND)
        assert losses.told == [("c", "the hold limit passed before the thaw")]
        assert takes_a_write(path)
        assert await freezer.thaw("c") == Thawed(False, "the hold limit passed before the thaw", (str(path),))
        await freezer.prepare("d", ALL, (), BUDGET)
        await freezer.freeze("d", BUDGET, HOLD)
        assert await freezer.thaw("d") == Thawed(unbroken=True)


async def test_a_thaw_by_somebody_else_lowers_the_verdict(loop_disks: LoopDisks, tmp_path: Path) -> None:
    kept, thawed = loop_disks.make("kept").path, loop_disks.make("thawed").path
    async with freezer_of(plan_of([kept, thawed]), tmp_path / "run") as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        await freezer.freeze("c", BUDGET, HOLD)
        loop_disks.thaw(thawed)
        assert await freezer.thaw("c") == Thawed(
            False, f"somebody else thawed {thawed} during the hold", (str(thawed),)
        )


# -- a kernel that does not answer


async def test_a_freeze_that_hangs_is_named_and_thawed_as_soon_as_it_comes_back(
    loop_disks: LoopDisks, tmp_path: Path
) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", "ext4", on=ground)
    other = loop_disks.make("other")
    async with freezer_of(plan_of([other.path], [upper.path]), tmp_path / "run") as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        loop_disks.freeze(ground.path)  # the upper one cannot be frozen after its ground
        with pytest.raises(FreezeFailed, match=r"the freeze of .*upper for cycle c hangs in the kernel") as failure:
            await freezer.freeze("c", SHORT, HOLD)
        outcomes = [part.outcome for part in failure.value.parts]
        assert outcomes == [FilesystemOutcome.SKIPPED, FilesystemOutcome.FAILED]
        assert takes_a_write(other.path)
        began = time.monotonic()
        thawed = await freezer.thaw("c")
        assert time.monotonic() - began < BOUND  # and not for as long as the kernel hangs
        assert thawed == Thawed(False, f"the thaw of {upper.path} for cycle c hangs in the kernel", (str(upper.path),))
        assert freezer.state.condition is FreezerCondition.HANGING
        assert freezer.state.hanging == (str(upper.path),)
        with pytest.raises(FreezeFailed, match="upper for cycle c hangs in the kernel"):
            await freezer.prepare("d", ALL, (), BUDGET)
        loop_disks.thaw(ground.path)
        assert takes_a_write(upper.path)
        await until(lambda: freezer.state.condition is FreezerCondition.READY)
        await freezer.prepare("d", ALL, (), BUDGET)
        await freezer.freeze("d", BUDGET, HOLD)
        assert (await freezer.thaw("d")).unbroken


async def test_a_sync_that_hangs_fails_the_prepare_and_names_it(loop_disks: LoopDisks, tmp_path: Path) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", "ext4", on=ground)
    async with freezer_of(plan_of([upper.path]), tmp_path / "run") as freezer:
        (upper.path / "dirty").write_bytes(bytes(4096))
        loop_disks.freeze(ground.path)
        with pytest.raises(FreezeFailed, match=r"the sync of .*upper for cycle c hangs in the kernel"):
            await freezer.prepare("c", ALL, (), SHORT)
        loop_disks.thaw(ground.path)
        assert await freezer.thaw("c") == Thawed(unbroken=True)


async def test_a_caller_that_gives_up_has_everything_thawed(loop_disks: LoopDisks, tmp_path: Path) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", "ext4", on=ground)
    other = loop_disks.make("other")
    async with freezer_of(plan_of([other.path], [upper.path]), tmp_path / "run") as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        loop_disks.freeze(ground.path)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await freezer.freeze("c", BUDGET, HOLD)
        assert takes_a_write(other.path)
        loop_disks.thaw(ground.path)
        assert takes_a_write(upper.path)
        assert (await freezer.thaw("c")).unbroken


async def test_a_caller_that_gives_up_the_thaw_does_not_stop_it(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    async with freezer_of(plan_of([path]), tmp_path / "run") as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        await freezer.freeze("c", BUDGET, HOLD)
        thaw = asyncio.create_task(freezer.thaw("c"))
        await asyncio.sleep(0)
        thaw.cancel()
        with pytest.raises(asyncio.CancelledError):
            await thaw
        assert takes_a_write(path)
        assert await freezer.thaw("c") == Thawed(unbroken=True)


async def test_to_close_is_to_thaw(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    async with freezer_of(plan_of([path]), tmp_path / "run") as freezer:
        await freezer.prepare("c", ALL, (), BUDGET)
        await freezer.freeze("c", BUDGET, HOLD)
    assert takes_a_write(path)


# -- what is in the way


async def test_a_thaw_in_the_middle_of_a_prepare_leaves_nothing_open(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    go_on = threading.Event()
    planned = plan_of([path])

    def slowly(choice: FilesystemChoice, declared: Sequence[str]) -> Plan:
        go_on.wait(BOUND)
        return planned(choice, declared)

    async with freezer_of(slowly, tmp_path / "run") as freezer:
        prepare = asyncio.create_task(freezer.prepare("c", ALL, (), BUDGET))
        await asyncio.sleep(0)
        thaw = asyncio.create_task(freezer.thaw("c"))
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(FreezeFailed, match="it was told to thaw"):
            await prepare
        assert await thaw == Thawed(unbroken=True)
        await freezer.prepare("d", ALL, (), BUDGET)
        await freezer.freeze("d", BUDGET, HOLD)
        assert (await freezer.thaw("d")).unbroken


async def test_a_look_that_hangs_fails_the_prepare_and_the_next_until_it_is_back(
    loop_disks: LoopDisks, tmp_path: Path
) -> None:
    path = loop_disks.make("data").path
    go_on = threading.Event()
    planned = plan_of([path])

    def hang(choice: FilesystemChoice, declared: Sequence[str]) -> Plan:
        go_on.wait(BOUND)
        return planned(choice, declared)

    async with freezer_of(hang, tmp_path / "run") as freezer:
        with pytest.raises(FreezeFailed, match=r"the file systems were not ready within \d"):
            await freezer.prepare("c", ALL, (), timedelta(seconds=0.3))
        assert freezer.state.condition is FreezerCondition.HANGING
        assert await freezer.thaw("c") == Thawed(unbroken=True)
        with pytest.raises(FreezeFailed, match="does not come back"):
            await freezer.prepare("d", ALL, (), BUDGET)
        go_on.set()
        await until(lambda: freezer.state.condition is FreezerCondition.READY)
        assert await freezer.prepare("d", ALL, (), BUDGET) == Prepared()


async def test_more_file_systems_than_the_channel_has_room_for(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    async with freezer_of(plan_of([path] * 400), tmp_path / "run") as freezer:
        await freezer.prepare("c", ALL, (), timedelta(seconds=BOUND))
        with pytest.raises(FreezeFailed, match="somebody else has frozen it"):  # they are all the same one
            await freezer.freeze("c", BUDGET, HOLD)
        assert await freezer.thaw("c") == Thawed(unbroken=True)
        assert takes_a_write(path)


async def test_without_a_guardian_every_cycle_fails_and_says_why(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    freezer = LinuxFreezer(plan_of([path]), tmp_path / "absent", now)
    await freezer.start()
    assert freezer.state.condition is FreezerCondition.LOST
    assert "absent cannot be locked: No such file or directory" in freezer.state.detail
    with pytest.raises(FreezeFailed, match="absent cannot be locked"):
        await freezer.prepare("c", ALL, (), BUDGET)
    assert await freezer.thaw("c") == Thawed(unbroken=True)
    await freezer.close()


async def test_a_former_guardian_that_still_thaws_is_waited_for(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    former = record.lock(tmp_path)
    freezer = LinuxFreezer(plan_of([path]), tmp_path, now)
    start = asyncio.create_task(freezer.start())
    await asyncio.sleep(0.1)
    assert not start.done()
    os.close(former)
    await start
    assert freezer.state.condition is FreezerCondition.READY
    await freezer.close()


async def test_two_brokers_on_one_runtime_directory_do_not_both_freeze(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    async with freezer_of(plan_of([path]), tmp_path) as freezer:
        second = LinuxFreezer(plan_of([path]), tmp_path, now)
        await second.start()
        assert "a former guardian still has file systems to thaw" in second.state.detail
        with pytest.raises(FreezeFailed, match="a former guardian still has"):
            await second.prepare("c", ALL, (), SHORT)
        await second.close()
        await freezer.prepare("c", ALL, (), BUDGET)
        with pytest.raises(FreezeFailed, match="a former guardian still has"):
            await second.prepare("d", ALL, (), SHORT)
        assert record.read(tmp_path) is not None
        await second.close()


async def test_the_runtime_directory_may_lie_on_what_is_frozen(loop_disks: LoopDisks) -> None:
    path = loop_disks.make("data").path
    async with freezer_of(plan_of([path]), path / "run") as freezer:
        for cycle in ("first", "second"):
            await freezer.prepare(cycle, ALL, (), BUDGET)
            await freezer.freeze(cycle, BUDGET, HOLD)
            assert await freezer.thaw(cycle) == Thawed(unbroken=True)


def test_a_refusal_says_what_to_do() -> None:
    assert "CAP_SYS_ADMIN" in refusal(errno.EPERM)
    assert refusal(errno.EIO) == "the kernel refuses: Input/output error"
