"""Debian's unmodified hv_utils driver, over the bus that stands in for Hyper-V's.

First with Debian's own hv_vss_daemon, which shows that bus and host are played rightly: what is real on both ends must
work together.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.vm.guest import BOUND, Guest, Program
from tests.vm.hyperv import DEVICE, FAILED, OK, load_driver
from tests.vm.stage import APP, MOUNTS, Stage, end, frozen, staged, start_broker, vetoing


@pytest.fixture(scope="module")
def driver(guest: Guest) -> Guest:
    """A guest with the driver, at which no daemon has registered."""
    load_driver(guest)
    return guest


def test_the_driver_has_made_its_device(driver: Guest) -> None:
    assert driver.check("stat", "-c", "%F", DEVICE) == "character special file\n"


def test_with_nobody_at_the_device_the_driver_refuses_a_freeze(driver: Guest) -> None:
    assert driver.hyperv("freeze")["status"] == FAILED


def until_it_answers(guest: Guest) -> None:
    """Wait until somebody at the device agrees to a backup. The driver refuses until a daemon has registered."""
    deadline = time.monotonic() + BOUND
    while guest.hyperv("hot_backup")["status"] != OK:
        assert time.monotonic() < deadline


# -- with Debian's daemon


@pytest.fixture
def daemon(driver: Guest) -> Iterator[Program]:
    """Debian's daemon, which has registered."""
    daemon = driver.start("hv_vss_daemon", "--no-daemon")
    until_it_answers(driver)
    yield daemon
    end(daemon)


def test_debian_s_daemon_freezes_and_thaws_every_file_system(driver: Guest, daemon: Program) -> None:
    assert frozen(driver) == [False, False]
    assert driver.hyperv("freeze")["status"] == OK
    assert frozen(driver) == [True, True]
    assert driver.hyperv("thaw")["status"] == OK
    assert frozen(driver) == [False, False]


def test_what_debian_s_daemon_has_frozen_stays_frozen_when_it_is_killed(driver: Guest, daemon: Program) -> None:
    assert driver.hyperv("freeze")["status"] == OK
    daemon.signal(signal.SIGKILL)
    assert daemon.wait() == -signal.SIGKILL
    assert driver.hyperv("thaw")["status"] == FAILED
    assert frozen(driver) == [True, True]
    for mount in MOUNTS:
        driver.check("fsfreeze", "--unfreeze", mount)
    assert frozen(driver) == [False, False]


# -- with AppVSS in its place


CONFIGURATION: Final = """
[sources.freebsd]
mode = "off"

[sources.linux_hv_vss]
mode = "automatic"
freeze_budget = "20s"
hold_limit = "5s"
"""
"""The broker's state is where it is by default: on the root, which is frozen with the rest."""
SERVING: Final = "source linux_hv_vss is serving"


def test_who_has_the_device_is_named_and_followed(driver: Guest, daemon: Program) -> None:
    broker = start_broker(driver, CONFIGURATION)
    broker.line(rf"source linux_hv_vss is waiting: .* process {daemon.pid} \(hv_vss_daemon\)")
    end(daemon)
    broker.line(SERVING)
    until_it_answers(driver)
    end(broker)


@pytest.fixture(scope="module")
def stage(driver: Guest) -> Iterator[Stage]:
    """A broker at the device, with an app on the data disk. One for all tests: it takes long to start one here."""
    with staged(driver, CONFIGURATION) as stage:
        stage.broker.line(SERVING)
        yield stage


def back_up(guest: Guest) -> list[int]:
    """What a host does for a backup; the status of each reply."""
    return [guest.hyperv(operation)["status"] for operation in ("hot_backup", "freeze", "thaw")]


def test_a_backup_is_application_consistent(driver: Guest, stage: Stage) -> None:
    mark = stage.mark()
    assert driver.hyperv("hot_backup")["status"] == OK
    assert frozen(driver) == [False, False]
    assert driver.hyperv("freeze")["status"] == OK
    assert frozen(driver) == [True, True]
    assert driver.hyperv("thaw")["status"] == OK
    assert frozen(driver) == [False, False]
    cycle, level = stage.verdict(after=mark)
    assert level == "application"
    verdict = stage.cycle(cycle)["verdict"]
    assert [(app["name"], app["outcome"]) for app in verdict["outcomes"]] == [(APP, "held")]
    parts = [(part["path"], part["outcome"]) for part in verdict["filesystems"]]
    assert [part for part in parts if part[0] in MOUNTS] == [("/data", "held"), ("/", "held")]


def test_a_broker_that_is_killed_in_the_hold_leaves_nothing_frozen(driver: Guest, stage: Stage) -> None:
    assert driver.hyperv("freeze")["status"] == OK
    assert frozen(driver) == [True, True]
    stage.broker.signal(signal.SIGKILL)
    assert stage.broker.wait() == -signal.SIGKILL
    for mount in MOUNTS:
        driver.write(f"{mount}/after-the-kill", "thawed")
    assert frozen(driver) == [False, False]
    assert driver.hyperv("thaw")["status"] == FAILED  # the driver says so by itself
    stage.broker = start_broker(driver, CONFIGURATION)
    stage.broker.line(SERVING)
    assert "the broker was restarted in the hold" in stage.verdict()[1]
    until_it_answers(driver)
    mark = stage.mark()
    assert back_up(driver) == [OK, OK, OK]
    stage.broker.line(r"broker: cycle \S+: application$", after=mark)


def test_a_thaw_that_is_not_answered_is_failed_by_the_driver_and_everything_has_gone_on(
    driver: Guest, stage: Stage
) -> None:
    mark = stage.mark()
    assert driver.hyperv("freeze")["status"] == OK
    stage.broker.signal(signal.SIGSTOP)
    thaw = driver.begin("hyperv", operation="thaw", timeout=BOUND)
    for mount in MOUNTS:
        driver.write(f"{mount}/after-the-limit", "thawed")
    assert frozen(driver) == [False, False]
    assert thaw.result(BOUND)["status"] == FAILED  # after the driver's own 30 s
    stage.broker.signal(signal.SIGCONT)
    assert stage.verdict(after=mark)[1] != "application"
    until_it_answers(driver)
    mark = stage.mark()
    assert back_up(driver) == [OK, OK, OK]
    stage.broker.line(r"broker: cycle \S+: application$", after=mark)


def test_a_veto_fails_the_freeze_before_anything_is_frozen(driver: Guest, stage: Stage) -> None:
    with vetoing(stage):
        mark = stage.mark()
        assert driver.hyperv("freeze")["status"] == FAILED
        assert frozen(driver) == [False, False]
        assert "the nightly job is running" in stage.verdict(after=mark)[1]
