"""FreeBSD's source on a character device that knows FreeBSD's own ioctl numbers, and no others (CUSE)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appvss.sources.wire.freebsd import APP_DEVICE, FREEBSD
from tests.vm.guest import Guest, Program
from tests.vm.stage import APP, IN_GUEST, end, staged, start_broker

FOLDER = "/run/freebsd"
"""Of the simulated machine: where its host is told what to do."""
ON_FREEBSD = ("python3", f"{IN_GUEST}/guest/freebsd_broker.py")
"""`appvss` with FreeBSD's numbers."""
MODE = '[sources.freebsd]\nmode = "automatic"\n'


@pytest.fixture(scope="module")
def machine(guest: Guest) -> Iterator[Program]:
    """FreeBSD's driver and the host behind it, with nobody at the device yet."""
    guest.check("modprobe", "cuse")
    machine = guest.start("python3", f"{IN_GUEST}/guest/freebsd_machine.py", FOLDER)
    machine.line("ready: ")
    yield machine
    end(machine)


def host(guest: Guest, *command: str) -> str:
    """Have the host do something, which must go well."""
    return guest.check("appvss", "simulate", "host", FOLDER, *command)


def test_the_numbers_are_those_of_freebsd_s_header() -> None:
    assert (FREEBSD.read, FREEBSD.write) == (0x40407602, 0x80407603)


def test_the_device_is_a_character_device(guest: Guest, machine: Program) -> None:
    assert guest.check("stat", "-c", "%F", APP_DEVICE) == "character special file\n"


def test_a_backup_through_the_device_is_application_consistent(guest: Guest, machine: Program) -> None:
    begin = len(machine.said)
    with staged(guest, MODE, ON_FREEBSD) as stage:
        stage.broker.line(f"source freebsd is serving: {APP_DEVICE}")
        mark = stage.mark()
        assert "(check ok, freeze ok, thaw ok)" in host(guest, "backup", "1s")
        cycle, level = stage.verdict(after=mark)
        assert level == "application"
        (outcome,) = stage.cycle(cycle)["verdict"]["outcomes"]
        assert (outcome["name"], outcome["outcome"]) == (APP, "held")
        assert int(outcome["evidence"]["last_row"]) > 0
    happened = machine.said[begin:]
    assert [operation for line in happened if (operation := answered(line))] == ["check", "freeze", "thaw"]
    assert not [line for line in happened if "unknown_ioctl" in line or "write_ignored" in line]


def answered(line: str) -> str:
    """The operation that the broker's WRITE has answered, if the machine's line is about one."""
    _, side, event, *rest = line.split()
    return rest[0] if (side, event) == ("app", "wrote") else ""


def test_with_linux_s_numbers_the_device_is_not_taken_for_the_driver(guest: Guest, machine: Program) -> None:
    broker = start_broker(guest, MODE)
    broker.line("source freebsd .* is not the driver's device")
    end(broker)
