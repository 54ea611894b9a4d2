"""`appvss freeze` and `appvss hook` with real file systems: a broker, its guardian, apps and commands as processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appvss.model.errors import ExitCode
from tests.cli.command_line import Done, ended, run_apart, start
from tests.support.app_process import app_process
from tests.support.loop_disks import LoopDisks, is_frozen, loop_disks, takes_a_write
from tests.support.raw_app import attached
from tests.support.running_broker import BOUND, RunningBroker, running_broker

__all__ = ["loop_disks"]

LOOK = (
    "import errno, fcntl, os, sys\n"
    "def frozen(path):\n"
    "    descriptor = os.open(path, os.O_RDONLY)\n"
    "    try:\n"
    "        fcntl.ioctl(descriptor, 0xC0045877, 0)\n"
    "        fcntl.ioctl(descriptor, 0xC0045878, 0)\n"
    "        return False\n"
    "    except OSError as error:\n"
    "        return error.errno == errno.EBUSY\n"
    "print(*(frozen(path) for path in sys.argv[1:]), flush=True)\n"
)
"""Says of each path whether its file system is frozen."""


def look(*paths: Path) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-B", "-c", LOOK, *map(str, paths))


@asynccontextmanager
async def with_app() -> AsyncIterator[RunningBroker]:
    """A broker with one app, which declares no path."""
    async with running_broker() as broker, app_process(broker.runtime_directory, "orders-db") as app:
        await app.line("welcome")
        yield broker


async def freeze(broker: RunningBroker, *arguments: str) -> Done:
    return await run_apart("freeze", "--runtime-directory", str(broker.runtime_directory), *arguments)


async def writes(*paths: Path) -> list[bool]:
    """Whether each takes a write again."""
    return [await asyncio.to_thread(takes_a_write, path) for path in paths]


async def test_named_file_systems_are_frozen_while_the_command_runs(loop_disks: LoopDisks) -> None:
    outer, other = loop_disks.make("outer", "xfs"), loop_disks.make("other one", "btrfs")
    inner = loop_disks.make("inner", "ext4", on=outer)
    paths = [outer.path, other.path, inner.path]
    async with with_app() as broker:
        mounts = [word for path in paths for word in ("--mount", str(path))]
        done = await freeze(broker, "--json", *mounts, "--", *look(*paths))
        assert done.code == ExitCode.SUCCESS, done
        assert done.out.splitlines()[0] == "True True True"
        verdict = done.document["verdict"]
        assert (verdict["level"], verdict["reasons"]) == ("application", [])
        parts = verdict["filesystems"]
        assert {part["path"]: (part["type"], part["outcome"]) for part in parts} == {
            str(disk.path): (disk.kind, "held") for disk in (outer, other, inner)
        }
        assert [part["path"] for part in parts].index(str(inner.path)) < [part["path"] for part in parts].index(
            str(outer.path)
        )
        assert await writes(*paths) == [True, True, True]
        shown = await run_apart("show", "--runtime-directory", str(broker.runtime_directory), verdict["cycle"])
        assert f"{inner.path}" in shown.out


async def test_by_itself_it_takes_what_the_apps_declare_and_spares_the_root(loop_disks: LoopDisks) -> None:
    declared, other = loop_disks.make("declared"), loop_disks.make("other")
    async with (
        running_broker() as broker,
        attached(broker.runtime_directory, "a", paths=[f"{declared.path}/db", "/etc/passwd"]) as app,
    ):
        process = await start(
            "freeze", "--json", "--runtime-directory", str(broker.runtime_directory), *look(declared.path, other.path)
        )
        await app.freeze()
        await app.thaw()
        done = await ended(process)
        assert done.code == ExitCode.NOT_CONSISTENT, done  # its file on `/` was not in the freeze
        assert done.out.splitlines()[0] == "True False"
        (reason,) = done.document["verdict"]["reasons"]
        assert "it has files in /etc/passwd, which is not in the freeze" in reason
        outcomes = {part["path"]: part["outcome"] for part in done.document["verdict"]["filesystems"]}
        assert outcomes.pop(str(declared.path)) == "held"
        assert set(outcomes.values()) <= {"excluded", "skipped", "unfreezable"}


async def test_a_program_on_a_held_file_system_runs(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("disk")
    shutil.copy("/bin/sh", disk.path / "program")
    async with with_app() as broker:
        done = await freeze(broker, "--mount", str(disk.path), "--", f"{disk.path}/program", "-c", "echo ran; exit 3")
    assert (done.code, done.out) == (ExitCode.COMMAND_FAILED, "ran\n")


async def test_output_to_a_held_file_system_is_refused(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("disk")
    bound = loop_disks.bind(disk, "bound")
    async with with_app() as broker:
        with open(bound / "out", "wb") as out:  # noqa: ASYNC230 - a file for a process to write to
            process = await start(
                "freeze",
                "--runtime-directory",
                str(broker.runtime_directory),
                "--mount",
                str(disk.path),
                "true",
                stdout=out,
            )
            done = await ended(process)
        assert done.code == ExitCode.USAGE
        assert f"stdout goes to {bound}/out on {disk.path}" in done.err
        assert await broker.cycles() == []


async def test_one_that_somebody_else_has_frozen_fails_the_freeze_and_stays_theirs(loop_disks: LoopDisks) -> None:
    ours, theirs = loop_disks.make("ours"), loop_disks.make("theirs")
    loop_disks.freeze(theirs.path)
    async with with_app() as broker:
        mounts = ("--mount", str(ours.path), "--mount", str(theirs.path))
        done = await freeze(broker, *mounts, "touch", str(broker.directory / "ran"))
        assert done.code == ExitCode.REFUSED, done
        assert not (broker.directory / "ran").exists()
        explained = await run_apart("why", "--json", "--runtime-directory", str(broker.runtime_directory))
        assert explained.document["doubts"][0]["kind"] == "filesystem_busy"
        assert await writes(ours.path) == [True]
        assert await asyncio.to_thread(is_frozen, theirs.path)
    loop_disks.thaw(theirs.path)


@pytest.mark.parametrize("how", ["missing", "folder", "kind"])
async def test_what_cannot_be_frozen_is_found_before_anything_is(loop_disks: LoopDisks, how: str) -> None:
    disk = loop_disks.make("disk")
    place = {"missing": disk.path / "nothing", "folder": disk.path / "lost+found", "kind": Path("/proc")}[how]
    async with with_app() as broker:
        done = await freeze(broker, "--mount", str(disk.path), "--mount", str(place), "true")
        assert done.code == ExitCode.REFUSED, done
        words = "cannot be frozen" if how == "kind" else "is no mount point"
        assert done.err.startswith(f"appvss: the broker refused: {place} {words}")
        assert await broker.cycles() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_a_signal_thaws_at_once(loop_disks: LoopDisks, number: signal.Signals) -> None:
    disk = loop_disks.make("disk")
    async with with_app() as broker:
        process = await start(
            "freeze",
            "--runtime-directory",
            str(broker.runtime_directory),
            "--mount",
            str(disk.path),
            "sh",
            "-c",
            "echo held $$; exec sleep 600",
        )
        assert process.stdout is not None
        word, pid = (await asyncio.wait_for(process.stdout.readline(), BOUND)).split()
        assert word == b"held"
        process.send_signal(number)
        try:
            assert await writes(disk.path) == [True]
        finally:
            if number is signal.SIGKILL:
                os.kill(int(pid), signal.SIGKILL)  # nobody is left who would
        done = await ended(process)
        assert done.code == (-number if number is signal.SIGKILL else 128 + number)


async def test_a_command_that_writes_there_is_ended_by_the_hold_limit(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("disk")
    async with with_app() as broker:
        done = await freeze(
            broker, "--mount", str(disk.path), "--hold-limit", "500ms", "touch", f"{disk.path}/this hangs"
        )
        assert done.code == ExitCode.NOT_CONSISTENT, done
        assert "the hold limit of 500.0ms passed before the thaw came" in done.err
        assert await writes(disk.path) == [True]


async def test_the_hold_of_a_hook_keeps_file_systems_between_its_calls(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("disk")
    async with with_app() as broker:
        where = ("--runtime-directory", str(broker.runtime_directory))
        done = await run_apart("hook", "freeze", *where, "--mount", str(disk.path))
        assert done.code == ExitCode.SUCCESS, done
        assert await asyncio.to_thread(is_frozen, disk.path)
        status = (await run_apart("status", "--json", *where)).document["freezer"]
        assert [one["path"] for one in status["frozen"]] == [str(disk.path)]
        done = await run_apart("hook", "thaw", *where)
        assert done.code == ExitCode.SUCCESS, done
        assert await writes(disk.path) == [True]


async def test_a_broker_that_is_killed_in_the_hold_of_a_hook_leaves_nothing_frozen(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("disk")
    async with with_app() as broker:
        where = ("--runtime-directory", str(broker.runtime_directory))
        assert (await run_apart("hook", "freeze", *where, "--mount", str(disk.path))).code == ExitCode.SUCCESS
        await broker.kill()
        assert await writes(disk.path) == [True]
        done = await run_apart("hook", "thaw", *where)
        assert (done.code, done.err) == (ExitCode.NOT_CONSISTENT, "appvss: the hold was lost: its broker is gone\n")


async def test_what_would_be_frozen_is_what_is(loop_disks: LoopDisks) -> None:
    outer = loop_disks.make("outer")
    inner = loop_disks.make("inner", "ext2", on=outer)
    async with running_broker() as broker:
        where = ("--runtime-directory", str(broker.runtime_directory))
        mounts = ("--mount", str(outer.path), "--mount", str(inner.path))
        survey = (await run_apart("filesystems", "--json", *where, *mounts)).document
        assert [(one["path"], one["wave"]) for one in survey["planned"]] == [(str(inner.path), 1), (str(outer.path), 2)]
        assert survey["planned"][0]["lies_on"] == [survey["planned"][1]["device"]]
        assert (survey["veto"], survey["scope"]) == (None, "named")
        everything = (await run_apart("filesystems", "--json", *where)).document
        assert {str(inner.path), str(outer.path)} <= {one["path"] for one in everything["planned"]}
