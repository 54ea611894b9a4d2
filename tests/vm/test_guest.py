"""The guest itself: what all other tests here rest on."""

from __future__ import annotations

import threading

import pytest

from appvss.model.version import VERSION
from tests.vm.guest import Guest, GuestError


def test_appvss_is_in_the_guest(guest: Guest) -> None:
    assert guest.check("appvss", "--version") == f"appvss {VERSION}\n"


def test_a_frozen_file_system_takes_no_write_before_it_is_thawed(guest: Guest) -> None:
    assert not guest.frozen("/data")
    guest.check("fsfreeze", "--freeze", "/data")
    assert guest.frozen("/data")
    writing = guest.begin("write", path="/data/probe", text="written")
    assert not guest.frozen("/")
    assert not writing.done()
    guest.check("fsfreeze", "--unfreeze", "/data")
    writing.result(60)
    assert not guest.frozen("/data")
    assert guest.read("/data/probe") == "written"


def test_what_the_guest_cannot_do_is_a_failure_here(guest: Guest) -> None:
    with pytest.raises(GuestError, match="FileNotFoundError"):
        guest.read("/nothing/here")
    with pytest.raises(GuestError, match="ended with 3"):
        guest.check("sh", "-c", "exit 3")


def test_one_request_holds_up_no_other(guest: Guest) -> None:
    waiting = guest.begin("run", argv=["sleep", "600"], timeout=600, environment={})
    assert guest.check("echo", "here") == "here\n"
    assert not waiting.done()
    guest.check("sh", "-c", "kill $(grep -lz '^sleep$' /proc/[0-9]*/cmdline | cut -d/ -f3)")
    assert waiting.result(60)["code"] == -15
    assert threading.active_count() < 10
