"""What a freeze of some volumes means for the apps: who is asked, whose copy is worth less, who hears what before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appvss.model.errors import ExitCode
from appvss.v1 import types_pb2
from tests.cli.command_line import Done, ended, run_apart, start
from tests.support.loop_disks import LoopDisks, is_frozen, loop_disks
from tests.support.raw_app import RawApp, attached
from tests.support.running_broker import RunningBroker, running_broker

__all__ = ["loop_disks"]


async def frozen_with(broker: RunningBroker, app: RawApp, *arguments: str, kind: str = "thaw") -> Done:
    """A freeze in which this app, and no other, is asked."""
    where = ("--runtime-directory", str(broker.runtime_directory))
    process = await start("freeze", "--json", *where, *arguments, "true")
    await app.freeze()
    await app.thaw(kind)
    return await ended(process)


def outcome_of(document: Any, name: str) -> dict[str, Any]:
    (found,) = [one for one in document["verdict"]["outcomes"] if one["name"] == name]
    return dict(found)


@asynccontextmanager
async def orders_db(*paths: Path | str, **hello: Any) -> AsyncIterator[tuple[RunningBroker, RawApp]]:
    async with (
        running_broker() as broker,
        attached(broker.runtime_directory, "orders-db", paths=[str(path) for path in paths], **hello) as app,
    ):
        yield broker, app


async def test_an_app_with_files_on_a_volume_that_is_not_frozen_is_worth_less(loop_disks: LoopDisks) -> None:
    data, wal = loop_disks.make("data"), loop_disks.make("wal", "xfs")
    (data.path / "wal").symlink_to(wal.path / "orders")
    for disk in (data, wal):
        (disk.path / "orders").mkdir()
    async with orders_db(data.path / "orders", data.path / "wal") as (broker, app):
        done = await frozen_with(broker, app, "--mount", str(data.path))
        assert done.code == ExitCode.NOT_CONSISTENT, done
        found = outcome_of(done.document, "orders-db")
        assert (found["outcome"], found["grade"]) == ("held", "fs")
        assert found["reason"].startswith(f"it has files in {data.path}/wal, which is not in the freeze: {wal.path}")
        assert done.document["verdict"]["level"] == "filesystem"
        where = ("--runtime-directory", str(broker.runtime_directory))
        why = (await run_apart("why", "--json", *where)).document
        assert [doubt["kind"] for doubt in why["doubts"]] == ["app_outside_freeze"]
        shown = await run_apart("show", *where, done.document["verdict"]["cycle"])
        assert "paths_located" in shown.out

        whole = await frozen_with(broker, app, "--mount", str(data.path), "--mount", str(wal.path))
        assert whole.code == ExitCode.SUCCESS, whole
        assert outcome_of(whole.document, "orders-db")["grade"] == "app"
        declared = await frozen_with(broker, app)
        assert outcome_of(declared.document, "orders-db")["grade"] == "app"


async def test_a_volume_that_is_mounted_below_a_declared_folder_has_files_of_the_app(loop_disks: LoopDisks) -> None:
    data, wal = loop_disks.make("data"), loop_disks.make("wal")
    (data.path / "wal").mkdir()
    loop_disks.mount_other("--bind", str(wal.path), str(data.path / "wal"))
    async with orders_db(data.path) as (broker, app):
        declared = await frozen_with(broker, app)
        assert declared.code == ExitCode.SUCCESS, declared
        frozen = [part["path"] for part in declared.document["verdict"]["filesystems"]]
        assert sorted(frozen) == [str(data.path), str(wal.path)]
        assert outcome_of(declared.document, "orders-db")["grade"] == "app"
        for named, other in ((data.path, f"{data.path}/wal"), (wal.path, data.path)):
            done = await frozen_with(broker, app, "--mount", str(named))
            found = outcome_of(done.document, "orders-db")
            assert (found["outcome"], found["grade"], done.document["verdict"]["level"]) == ("held", "fs", "filesystem")
            assert found["reason"].startswith(f"it has files in {other}, which is not in the freeze")


async def test_an_app_of_other_volumes_alone_is_not_asked_and_lowers_nothing(loop_disks: LoopDisks) -> None:
    data, mail = loop_disks.make("data"), loop_disks.make("mail")
    (mail.path / "spool").mkdir()
    async with (
        orders_db(data.path) as (broker, app),
        attached(broker.runtime_directory, "mail", paths=[f"{mail.path}/spool"]) as far,
        attached(broker.runtime_directory, "cache", requirement=types_pb2.REQUIREMENT_TOLERATED) as pathless,
    ):
        where = ("--runtime-directory", str(broker.runtime_directory))
        survey = (await run_apart("filesystems", "--json", *where, "--mount", str(data.path))).document
        assert [(one["app"], one["apart"]) for one in survey["apps"]] == [("mail", True)]
        process = await start("freeze", *where, "--json", "--mount", str(data.path), "true")
        for asked in (app, pathless):
            await asked.freeze()
        for asked in (app, pathless):
            await asked.thaw()
        done = await ended(process)
        assert done.code == ExitCode.SUCCESS, done
        assert (done.document["verdict"]["level"], done.document["verdict"]["reasons"]) == ("application", [])
        skipped = outcome_of(done.document, "mail")
        assert (skipped["outcome"], skipped["requirement"], skipped["grade"]) == ("skipped", "required", None)
        assert skipped["reason"] == "none of its paths is on a named file system"
        # The first that it hears is of the next cycle, which concerns it.
        second = await start("freeze", *where, "--json", "--mount", str(mail.path), "true")
        freezes = [await asked.freeze() for asked in (far, pathless)]
        assert freezes[0].cycle == freezes[1].cycle != done.document["verdict"]["cycle"]
        for asked in (far, pathless):
            await asked.thaw()
        again = await ended(second)
        assert outcome_of(again.document, "orders-db")["outcome"] == "skipped"


async def test_an_app_whose_files_the_broker_does_not_see_is_asked_and_does_not_count_as_proven(
    loop_disks: LoopDisks,
) -> None:
    data, mail = loop_disks.make("data"), loop_disks.make("mail")
    (data.path / "orders").mkdir()
    async with orders_db(data.path / "orders") as (broker, app):
        loop_disks.unmount(data.path)  # or they are in a container
        done = await frozen_with(broker, app, "--mount", str(mail.path))
        found = outcome_of(done.document, "orders-db")
        assert (found["outcome"], found["grade"], done.document["verdict"]["level"]) == ("held", "raw", "filesystem")
        why = (await run_apart("why", "--json", "--runtime-directory", str(broker.runtime_directory))).document
        assert [doubt["kind"] for doubt in why["doubts"]] == ["app_unseen"]


async def test_a_hook_that_names_volumes_asks_their_apps_alone(loop_disks: LoopDisks) -> None:
    data, mail = loop_disks.make("data"), loop_disks.make("mail")
    async with orders_db(data.path) as (broker, app):
        where = ("--runtime-directory", str(broker.runtime_directory))
        frozen = await run_apart("hook", "freeze", *where, "--mount", str(mail.path))
        assert frozen.code == ExitCode.SUCCESS, frozen
        assert await asyncio.to_thread(is_frozen, mail.path)
        thawed = await run_apart("hook", "thaw", *where)
        assert thawed.code == ExitCode.SUCCESS, thawed  # what was promised has been kept
        assert "filesystem: no app was held" in thawed.err  # the one that there is was not asked
        await frozen_with(broker, app, "--mount", str(data.path))


async def test_an_app_that_only_stands_still_is_worth_its_file_systems(loop_disks: LoopDisks) -> None:
    data = loop_disks.make("data")
    async with orders_db(data.path, grade=types_pb2.GRADE_FS) as (broker, app):
        done = await frozen_with(broker, app, "--mount", str(data.path))
        assert done.code == ExitCode.NOT_CONSISTENT, done
        assert outcome_of(done.document, "orders-db")["grade"] == "fs"
        assert done.document["verdict"]["level"] == "filesystem"
        alone = await frozen_with(broker, app, "--no-filesystems")
        assert outcome_of(alone.document, "orders-db")["grade"] == "raw"
        assert alone.document["verdict"]["level"] == "crash"
        apps = (await run_apart("apps", "--json", "--runtime-directory", str(broker.runtime_directory))).document
        assert [one["grade"] for one in apps["apps"]] == ["fs"]


async def test_the_word_comes_before_the_file_system_stands_still(loop_disks: LoopDisks) -> None:
    data = loop_disks.make("data")
    async with orders_db(data.path) as (broker, app):
        where = ("--runtime-directory", str(broker.runtime_directory))
        process = await start("freeze", "--json", *where, "--mount", str(data.path), "true")
        freeze = await app.freeze()
        told = await app.hear("filesystem_freeze")
        heard = datetime.now(UTC)
        assert told.cycle == freeze.cycle
        await app.thaw()
        done = await ended(process)
        assert done.code == ExitCode.SUCCESS, done
        cycle = (await run_apart("show", "--json", *where, freeze.cycle)).document
        (froze,) = [event for event in cycle["events"] if event["kind"] == "filesystems_froze"]
        assert heard < datetime.fromisoformat(froze["time"])


async def test_the_word_comes_also_where_the_requester_freezes(loop_disks: LoopDisks) -> None:
    async with orders_db() as (broker, app):
        where = ("--runtime-directory", str(broker.runtime_directory))
        process = await start("freeze", *where, "--json", "--no-filesystems", "true")
        await app.freeze()
        assert (await app.hear("filesystem_freeze")).cycle
        await app.thaw()
        assert (await ended(process)).code == ExitCode.SUCCESS
