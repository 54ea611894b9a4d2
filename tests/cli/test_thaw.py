"""`appvss thaw --filesystems`: what a dead broker has left frozen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from appvss.cli.main import run
from appvss.freezer import mountinfo, record
from appvss.freezer.plan import Target
from appvss.model.errors import ExitCode
from tests.cli.command_line import Ask
from tests.docs.test_pages import rows, section
from tests.sdk.broker_peer import BrokerPeer
from tests.support.loop_disks import LoopDisks, is_frozen, loop_disks, takes_a_write

__all__ = ["loop_disks"]


def target_at(path: Path) -> Target:
    mount = mountinfo.read().carrying(os.fsencode(path))
    assert mount is not None
    assert mount.path == os.fsencode(path)
    return Target(mount.path, mount.mount_id, mount.device, mount.type, "")


def thaw(directory: Path, *options: str) -> int:
    return run(["thaw", "--filesystems", "--runtime-directory", str(directory), *options])


def test_what_is_recorded_is_thawed_without_a_broker_and_nothing_else(
    loop_disks: LoopDisks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen, free, foreign = (loop_disks.make(name).path for name in ("frozen", "free", "foreign"))
    record.write(tmp_path, "c", [target_at(frozen), target_at(free)])
    loop_disks.freeze(frozen)
    loop_disks.freeze(foreign)
    assert thaw(tmp_path) == ExitCode.SUCCESS
    out, err = capsys.readouterr()
    assert out == f"{frozen} was frozen and goes on\n{free} was not frozen\n"
    assert err == ""
    assert takes_a_write(frozen)
    assert is_frozen(foreign)
    loop_disks.thaw(foreign)
    assert thaw(tmp_path) == ExitCode.SUCCESS
    assert capsys.readouterr().out == "no broker has left anything frozen\n"


def test_what_cannot_be_thawed_is_code_12(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record.write(tmp_path, "c", [Target(b"/nowhere", 1, "990:0", "ext4", "")])
    assert thaw(tmp_path) == ExitCode.UNAVAILABLE
    assert capsys.readouterr().out.startswith("/nowhere may still be frozen: ")
    assert thaw(tmp_path, "--json") == ExitCode.UNAVAILABLE
    document = json.loads(capsys.readouterr().out)
    assert (document["message_type"], [one["was_frozen"] for one in document["thawed"]]) == (
        "thaw_filesystems",
        [False],
    )
    (documented, _, _), *_ = rows(section("reference/json.md", "## `thaw_filesystems`"))
    assert [documented] == [name for name in document if name != "message_type"]


async def test_a_broker_that_runs_is_asked_first(peer: BrokerPeer, ask: Ask) -> None:
    done = await ask("thaw", "--filesystems", "--reason", "it hangs")
    assert (done.code, done.out, done.err) == (0, "no broker has left anything frozen\n", "")
    assert peer.thaw_reasons == ["it hangs"]


def test_a_broker_that_is_dead_is_no_obstacle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "admin.sock").touch()
    assert thaw(tmp_path) == ExitCode.SUCCESS
    out, err = capsys.readouterr()
    assert out == "no broker has left anything frozen\n"
    assert err.startswith("appvss: no broker is running: nobody listens at the socket ")
