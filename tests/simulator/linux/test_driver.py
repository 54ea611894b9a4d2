"""What the driver does beyond the vectors: its log, its ring, a negotiation, messages that are none."""

from __future__ import annotations

import errno
from datetime import timedelta

import pytest

from appvss.simulator.clock import Moment
from appvss.simulator.event import Event, EventKind
from appvss.simulator.hyperv import RING_SIZE, HostOperation, Packet, Version, negotiation_message, vss_message
from appvss.simulator.linux.driver import Driver
from appvss.simulator.linux.kernel import MODERN
from appvss.sources.wire.linux_hv_vss import encode_registration
from tests.simulator.conftest import VirtualClock


@pytest.fixture
def moment(clock: VirtualClock) -> Moment:
    return Moment(clock.now(), clock.wall())


@pytest.fixture
def driver() -> Driver:
    return Driver(MODERN)


def asked(operation: int, vmbus_id: int = 1) -> Packet:
    return Packet(vmbus_id, vss_message(operation, transaction=0))


def only(driver: Driver, kind: EventKind) -> Event:
    (event,) = (event for event in driver.take_events() if event.kind is kind)
    return event


def test_why_a_freeze_fails_at_once(driver: Driver, moment: Moment) -> None:
    driver.host_sends(asked(HostOperation.FREEZE), moment)
    assert only(driver, EventKind.REPLIED).detail == "nobody is registered"
    driver.host_sends(asked(HostOperation.DM_INFO), moment)
    driver.take_events()
    driver.host_sends(asked(HostOperation.FREEZE), moment)
    assert only(driver, EventKind.REPLIED).detail == f"failed to communicate to the daemon: -{errno.EINVAL}"


def test_a_negotiation_is_answered_without_a_daemon(driver: Driver, moment: Moment) -> None:
    offer = negotiation_message([Version(1, 0), Version(3, 0)], [Version(4, 0), Version(5, 0)], transaction=0)
    driver.host_sends(Packet(7, offer), moment)
    assert (only(driver, EventKind.REPLIED).status, driver.state().phase.name) == (0, "DEVICE_INIT")


def test_what_is_too_short_is_dropped(driver: Driver, moment: Moment) -> None:
    driver.host_sends(Packet(7, asked(HostOperation.FREEZE).data[:39]), moment)
    assert only(driver, EventKind.DROPPED).vmbus_id == 7


def test_the_ring_is_bounded(driver: Driver, moment: Moment) -> None:
    driver.open(moment)
    driver.write(encode_registration(), moment)
    driver.read(4, moment)
    space = asked(HostOperation.THAW).ring_space
    for number in range(1 + RING_SIZE // space):  # the first one is with the daemon
        driver.host_sends(asked(HostOperation.THAW, number), moment)
    with pytest.raises(OSError, match="full") as caught:
        driver.host_sends(asked(HostOperation.THAW), moment)
    assert caught.value.errno == errno.EAGAIN
    assert driver.state().ring == RING_SIZE // space


def test_a_driver_that_is_being_removed_hears_nothing(driver: Driver, moment: Moment) -> None:
    driver.open(moment)
    driver.remove(moment)
    with pytest.raises(OSError, match="removed") as caught:
        driver.host_sends(asked(HostOperation.FREEZE), moment)
    assert caught.value.errno == errno.ENXIO
    driver.take_events()
    driver.hibernate(moment)
    assert driver.take_events() == ()
    assert not driver.is_readable


def test_a_read_with_nothing_to_read_sleeps(driver: Driver, moment: Moment) -> None:
    driver.open(moment)
    assert driver.read(12, moment) is None


def test_the_timer_runs_before_whatever_comes_after_it(driver: Driver, clock: VirtualClock, moment: Moment) -> None:
    driver.open(moment)
    driver.write(encode_registration(), moment)
    driver.read(4, moment)
    driver.host_sends(asked(HostOperation.THAW), moment)
    assert driver.next_deadline() == moment.now + timedelta(seconds=30)
    clock.advance(timedelta(minutes=1))
    driver.close(Moment(clock.now(), clock.wall()))
    kinds = [event.kind for event in driver.take_events()]
    assert kinds[-3:] == [EventKind.TIMED_OUT, EventKind.REPLIED, EventKind.CLOSED]
