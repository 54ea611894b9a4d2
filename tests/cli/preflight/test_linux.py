"""The Hyper-V device of Linux and the rights to freeze: real files, and a process that has one open."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.cli.preflight import linux
from appvss.cli.preflight.finding import Daemon, Finding, Grade, Plan

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these look at Linux's /proc")
EVERY = 1 << 14 | 1 << 19 | 1 << 21
"""CAP_IPC_LOCK, CAP_SYS_PTRACE, CAP_SYS_ADMIN."""


def plan(directory: Path, mode: str = "automatic", *, freezes: bool = True) -> Plan:
    return Plan(
        runtime_directory=directory,
        state_directory=directory,
        socket_group="",
        app_limit=10,
        device=directory / "hv_appvss_dev",
        device_mode="off",
        hold_limit=timedelta(seconds=60),
        origin="",
        linux_device=directory / "hv_vss",
        linux_device_mode=mode,
        freezes_filesystems=freezes,
    )


def look(directory: Path, mode: str = "automatic", daemon: Daemon | None = None) -> Finding:
    found = linux.hyperv_device(plan(directory, mode), daemon, channels=directory / "channels")
    assert (found.hint == "") is (found.grade is Grade.OK)
    return found


def offer(directory: Path, *classes: str) -> None:
    """Have the host offer channels of these classes."""
    for number, name in enumerate(classes):
        (directory / "channels" / str(number)).mkdir(parents=True)
        (directory / "channels" / str(number) / "class_id").write_text(f"{name}\n")


def test_a_source_that_is_off_needs_no_device(tmp_path: Path) -> None:
    assert look(tmp_path, "off").grade is Grade.OK


def test_a_device_that_the_broker_serves_is_well(tmp_path: Path) -> None:
    found = look(tmp_path, daemon=Daemon(os.getpid(), 0, linux_device="/dev/vmbus/hv_vss"))
    assert (found.grade, found.sentence) == (Grade.OK, "the broker has /dev/vmbus/hv_vss open and serves it")


def test_no_device_on_another_machine_is_well_and_a_problem_where_it_is_required(tmp_path: Path) -> None:
    assert look(tmp_path).grade is Grade.OK
    found = look(tmp_path, "required")
    assert (found.grade, found.sentence.endswith("this is no guest of Hyper-V")) == (Grade.PROBLEM, True)


def test_a_guest_without_a_device_is_told_whether_the_host_or_the_driver_is_missing(tmp_path: Path) -> None:
    offer(tmp_path, "{00000000-0000-0000-0000-000000000000}")
    found = look(tmp_path)
    assert (found.grade, "the host does not offer" in found.sentence) == (Grade.WARNING, True)
    offer(tmp_path / "more", linux.BACKUP)
    (tmp_path / "more" / "channels" / "0").rename(tmp_path / "channels" / "1")
    (tmp_path / "channels" / "gone").mkdir()
    found = look(tmp_path)
    assert (found.grade, "modprobe hv_utils" in found.hint) == (Grade.WARNING, True)


def test_a_device_that_cannot_be_looked_at_says_why(tmp_path: Path) -> None:
    (tmp_path / "hv_vss").symlink_to("hv_vss")
    assert "cannot be looked at: too many levels of symbolic links" in look(tmp_path, "required").sentence


def test_a_device_that_nobody_holds_is_well(tmp_path: Path) -> None:
    (tmp_path / "hv_vss").touch()
    assert "held by nobody else" in look(tmp_path).sentence


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program by the name of the stock daemon that has the device open."""
    (tmp_path / "hv_vss").touch()
    program = tmp_path / linux.STOCK
    shutil.copy(shutil.which("cat") or "/bin/cat", program)
    with (tmp_path / "hv_vss").open("r+b") as device:
        process = subprocess.Popen([program, "-", "/dev/null"], stdin=subprocess.PIPE, stdout=device)
    yield process
    process.communicate()


def test_the_stock_daemon_that_holds_it_is_named_with_its_process_and_the_cure(
    tmp_path: Path, stock: subprocess.Popen[bytes]
) -> None:
    found = look(tmp_path)
    assert found.grade is Grade.PROBLEM
    assert f"is held by process {stock.pid} (hv_vss_daemon), and it admits only one" in found.sentence
    assert "systemctl mask --now" in found.hint
    assert all(name in found.hint for name in linux.SERVICES)


def test_the_broker_itself_is_no_other_holder(tmp_path: Path, stock: subprocess.Popen[bytes]) -> None:
    assert look(tmp_path, daemon=Daemon(stock.pid, 0)).grade is Grade.OK


def test_any_other_program_that_holds_it_is_to_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "hv_vss").touch()
    with (tmp_path / "hv_vss").open("r+b") as device:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=device)
    found = look(tmp_path)
    process.communicate()
    assert (found.grade, found.hint) == (Grade.PROBLEM, "Stop that process, or set this source to `off`.")


def test_a_device_of_another_user_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hv_vss").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may open everything
    found = look(tmp_path)
    assert (found.grade, "may not open" in found.sentence) == (Grade.PROBLEM, True)


# -- rights


def judge(tmp_path: Path, capabilities: int | str, *, freezes: bool = True) -> Finding:
    (tmp_path / "7").mkdir()
    text = capabilities if isinstance(capabilities, str) else f"Name:\tpython\nCapEff:\t{capabilities:016x}\n"
    (tmp_path / "7" / "status").write_text(text)
    return linux.rights(plan(tmp_path, freezes=freezes), Daemon(7, 0), processes=tmp_path)


def test_a_broker_with_every_right_is_well(tmp_path: Path) -> None:
    assert judge(tmp_path, EVERY).grade is Grade.OK


def test_a_broker_without_the_right_to_freeze_is_a_problem(tmp_path: Path) -> None:
    found = judge(tmp_path, EVERY & ~(1 << 21))
    assert (found.grade, "the broker lacks CAP_SYS_ADMIN" in found.sentence) == (Grade.PROBLEM, True)


def test_what_is_only_worse_without_a_right_is_a_warning(tmp_path: Path) -> None:
    found = judge(tmp_path, 1 << 21)
    assert (found.grade, "lacks CAP_IPC_LOCK, CAP_SYS_PTRACE" in found.sentence) == (Grade.WARNING, True)


def test_where_nothing_is_frozen_no_right_is_needed(tmp_path: Path) -> None:
    assert judge(tmp_path, 0, freezes=False).grade is Grade.OK


def test_rights_that_cannot_be_seen_are_said(tmp_path: Path) -> None:
    assert judge(tmp_path, "").grade is Grade.WARNING


def test_without_a_broker_it_is_this_process_that_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text(f"CapEff:\t{EVERY:x}\n")
    found = linux.rights(plan(tmp_path), None, processes=tmp_path)
    assert (found.grade, found.sentence.startswith("this user has every right")) == (Grade.OK, True)


@pytest.mark.parametrize(("text", "locked"), [("VmLck:\t  9 kB\n", True), ("VmLck:\t  0 kB\n", False), ("", None)])
def test_whether_the_guardian_is_kept_in_memory_is_seen(tmp_path: Path, text: str, locked: bool | None) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text(text)
    assert linux.is_locked(7, tmp_path) is locked
    assert linux.is_locked(None, tmp_path) is None
