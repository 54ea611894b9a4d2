"""Both editions of the driver, pure: what goes to the group, what the host hears, what is passed over."""

from __future__ import annotations

import errno
from datetime import timedelta

import pytest

from appvss.model.errors import UsageError
from appvss.model.instant import Instant
from appvss.simulator.clock import Moment
from appvss.simulator.event import EventKind
from appvss.simulator.host import FRAMEWORKS, MESSAGES
from appvss.simulator.hyperv import (
    RING_SIZE,
    HostOperation,
    Packet,
    negotiation_message,
    parse,
    vss_message,
)
from appvss.simulator.linux_netlink.driver import NetlinkDriver
from appvss.simulator.linux_netlink.first import FirstDriver
from appvss.simulator.linux_netlink.kernel import kernel_of
from appvss.simulator.linux_netlink.second import SecondDriver
from appvss.sources.wire.linux_netlink import CONNECTOR_HEADER, HEADERS, NETLINK_HEADER, encode

FIRST, SECOND = ["3.10", "3.18", "3.19", "4.1"], ["4.2", "4.7", "4.8", "4.9", "4.10", "6.1"]
ALL = FIRST + SECOND
CHECK, FREEZE, THAW = HostOperation.CHECK, HostOperation.FREEZE, HostOperation.THAW
OK, FAIL = 0, 0x80004005
REGISTER_128, REGISTER_129 = b"\x80" + bytes(11), b"\x81" + bytes(11)
REPLY_OK, REPLY_FAIL = bytes(12), bytes.fromhex("05400080") + bytes(8)
SHORT = timedelta(seconds=10)


class Bench:
    """A driver with a group of listeners, a host that keeps what it hears, and a clock."""

    def __init__(self, release: str, *, listeners: bool = True) -> None:
        self.listeners = listeners
        self.sent: list[bytes] = []
        """What has gone to the group and was not taken."""
        self.now = Instant(timedelta(hours=1))
        self.log: list[tuple[EventKind, str]] = []
        self._replies: list[tuple[int, int, int]] = []
        self._numbers = 0
        kernel = kernel_of(release)
        self.driver: NetlinkDriver = (SecondDriver if kernel.has_states else FirstDriver)(kernel, self._multicast)

    def _multicast(self, payload: bytes) -> bool:
        if self.listeners:
            self.sent.append(payload)
        return self.listeners

    @property
    def moment(self) -> Moment:
        return Moment(self.now, timedelta(0))

    def host(self, operation: int, *, flags: int = 0xABCD) -> int:
        self._numbers += 1
        data = vss_message(operation, transaction=self._numbers % 256, body_flags=flags)
        self.driver.host_sends(Packet(self._numbers, data), self.moment)
        self._collect()
        return self._numbers

    def negotiate(self) -> int:
        self._numbers += 1
        data = negotiation_message(FRAMEWORKS, MESSAGES, transaction=self._numbers % 256)
        self.driver.host_sends(Packet(self._numbers, data), self.moment)
        self._collect()
        return self._numbers

    def daemon(self, payload: bytes) -> None:
        self.raw(encode(payload, 0x1234))

    def raw(self, datagram: bytes) -> None:
        self.driver.receive(datagram, self.moment, "port id 4660")
        self._collect()

    def wait(self, length: timedelta) -> None:
        self.now += length
        self.driver.advance(self.moment)
        self._collect()

    def register(self) -> None:
        self.daemon(REGISTER_129 if isinstance(self.driver, SecondDriver) else REGISTER_128)
        self.take()

    def take(self) -> list[bytes]:
        sent, self.sent = self.sent, []
        return sent

    def replies(self) -> list[tuple[int, int]]:
        """Message number and status of what the host has heard since the last call."""
        replies, self._replies = self._replies, []
        return [(number, status) for number, status, _ in replies]

    def reply_with_flags(self) -> tuple[int, int]:
        ((_, status, flags),) = self._replies
        self._replies = []
        return status, flags

    def _collect(self) -> None:
        for event in self.driver.take_events():
            self.log.append((event.kind, event.detail))
            if event.kind is EventKind.REPLIED:
                assert event.vmbus_id is not None
                assert event.reply is not None
                message = parse(event.reply)
                assert message.status == event.status
                self._replies.append((event.vmbus_id, message.status, message.body_flags))


@pytest.mark.parametrize("release", ALL)
def test_the_sequence_of_the_fact_sheet(release: str) -> None:
    bench = Bench(release)
    bench.register()
    check = bench.host(CHECK)
    if bench.driver._kernel.asks_for_hot_backup:
        assert bench.take() == [b"\x02" + bytes(11)]
        bench.daemon(REPLY_OK)
    assert bench.replies() == [(check, OK)]
    freeze = bench.host(FREEZE)
    assert (bench.take(), bench.replies()) == ([b"\x05" + bytes(11)], [])
    bench.daemon(REPLY_FAIL)
    assert bench.replies() == [(freeze, FAIL)]
    thaw = bench.host(THAW)
    assert bench.take() == [b"\x06" + bytes(11)]
    bench.daemon(REPLY_OK)
    assert bench.replies() == [(thaw, OK)]


@pytest.mark.parametrize("release", SECOND)
def test_registration_129_is_answered(release: str) -> None:
    bench = Bench(release)
    for _ in range(2):
        bench.daemon(REGISTER_129)
        assert bench.take() == [bytes.fromhex("81000000")]
    assert bench.driver.state().condition == "ready"


@pytest.mark.parametrize(("release", "is_ready"), [("4.2", True), ("4.7", True), ("4.8", False), ("6.1", False)])
def test_registration_128_is_taken_and_does_nothing_since_4_8(release: str, is_ready: bool) -> None:
    bench = Bench(release)
    bench.daemon(REGISTER_128)
    assert bench.take() == []
    number = bench.host(FREEZE)
    assert bench.take() == ([b"\x05" + bytes(11)] if is_ready else [])
    assert bench.replies() == ([] if is_ready else [(number, FAIL)])


@pytest.mark.parametrize("release", FIRST)
def test_until_somebody_registers_the_first_edition_sits_on_everything(release: str) -> None:
    bench = Bench(release)
    numbers = [bench.negotiate(), bench.host(CHECK), bench.host(FREEZE)]
    bench.wait(timedelta(hours=1))
    assert (bench.replies(), bench.driver.state().ring) == ([], 3)
    # Each registration takes one message.
    bench.daemon(REGISTER_128)
    assert bench.replies() == [(numbers[0], OK)]
    bench.daemon(REGISTER_128)
    assert bench.replies() == [(numbers[1], OK)]
    bench.daemon(REGISTER_128)
    assert bench.take() == [b"\x05" + bytes(11)]


@pytest.mark.parametrize("release", FIRST)
def test_the_first_edition_takes_129_for_a_reply(release: str) -> None:
    bench = Bench(release)
    bench.register()
    number = bench.host(FREEZE)
    bench.daemon(REGISTER_129)
    assert bench.replies() == [(number, 0x81)]


@pytest.mark.parametrize("release", FIRST)
def test_a_registration_makes_the_first_edition_forget(release: str) -> None:
    bench = Bench(release)
    bench.register()
    bench.host(FREEZE)
    bench.daemon(REGISTER_128)
    bench.daemon(REPLY_OK)
    assert bench.replies() == []
    assert bench.log[-1] == (EventKind.WRITE_IGNORED, "port id 4660: transaction not active")


@pytest.mark.parametrize("release", ["3.19", "4.1"])
def test_what_it_forgets_leaves_its_timer_to_the_next(release: str) -> None:
    bench = Bench(release)
    bench.register()
    bench.host(FREEZE)
    bench.wait(SHORT / 2)
    bench.daemon(REGISTER_128)
    number = bench.host(THAW)
    bench.wait(SHORT / 2)
    assert bench.replies() == [(number, FAIL)]


@pytest.mark.parametrize("release", ["3.10", "3.18"])
def test_without_a_timer_nothing_ends_a_request_but_an_answer(release: str) -> None:
    bench = Bench(release)
    bench.register()
    freeze, check = bench.host(FREEZE), bench.host(CHECK)
    assert bench.driver.next_deadline() is None
    bench.wait(timedelta(days=1))
    assert bench.replies() == []
    bench.daemon(REPLY_OK)
    assert bench.replies() == [(freeze, OK)]
    # What waits is looked at when the host sends the next.
    bench.host(CHECK)
    assert bench.replies() == [(check, OK)]


@pytest.mark.parametrize(
    ("release", "operation", "limit"),
    [
        *((release, operation, SHORT) for release in ("3.19", "4.2", "4.8", "4.9") for operation in (FREEZE, THAW)),
        ("4.9", CHECK, SHORT),
        ("4.10", FREEZE, timedelta(minutes=15)),
        ("4.10", THAW, timedelta(seconds=30)),
        ("4.10", CHECK, timedelta(seconds=30)),
    ],
)
def test_a_timer_ends_a_request_and_a_late_reply_is_passed_over(
    release: str, operation: HostOperation, limit: timedelta
) -> None:
    bench = Bench(release)
    bench.register()
    number = bench.host(operation)
    bench.wait(limit - timedelta.resolution)
    assert bench.replies() == []
    bench.wait(timedelta.resolution)
    assert bench.replies() == [(number, FAIL)]
    bench.daemon(REPLY_OK)
    assert bench.replies() == []
    assert bench.log[-1][0] is EventKind.WRITE_IGNORED


@pytest.mark.parametrize("release", ["3.19", *SECOND])
def test_a_late_reply_is_taken_for_the_answer_to_the_next_request(release: str) -> None:
    bench = Bench(release)
    bench.register()
    freeze, thaw = bench.host(FREEZE), bench.host(THAW)
    bench.wait(timedelta(minutes=15))
    assert bench.replies() == [(freeze, FAIL)]
    bench.daemon(REPLY_OK)
    assert bench.replies() == [(thaw, OK)]


@pytest.mark.parametrize("release", ["3.19", "4.1", *SECOND])
def test_with_nobody_in_the_group_the_host_hears_so_at_once(release: str) -> None:
    bench = Bench(release)
    bench.register()
    bench.listeners = False
    number = bench.host(FREEZE)
    assert bench.replies() == [(number, FAIL)]
    assert bench.log[-1] == (EventKind.REPLIED, "failed to communicate to the daemon: -3")


@pytest.mark.parametrize("release", ["3.10", "3.18"])
def test_the_oldest_waits_for_ever_with_nobody_in_the_group(release: str) -> None:
    bench = Bench(release)
    bench.register()
    bench.listeners = False
    bench.host(FREEZE)
    assert bench.replies() == []


@pytest.mark.parametrize(("release", "is_ready"), [("4.2", False), ("4.7", False), ("4.8", True), ("6.1", True)])
def test_since_4_8_an_answer_that_nobody_hears_makes_it_ready_too(release: str, is_ready: bool) -> None:
    bench = Bench(release, listeners=False)
    bench.daemon(REGISTER_129)
    assert bench.driver.state().condition == ("ready" if is_ready else "device_init")


@pytest.mark.parametrize("release", SECOND)
def test_without_registration_the_host_hears_so_at_once(release: str) -> None:
    bench = Bench(release)
    number = bench.host(FREEZE)
    assert (bench.replies(), bench.take()) == ([(number, FAIL)], [])


@pytest.mark.parametrize("release", SECOND)
def test_what_the_kernel_answers_makes_it_ready_without_a_daemon(release: str) -> None:
    bench = Bench(release)
    for operation in (0, 1, 3, 4, 7, 8, 255):
        number = bench.host(operation)
        assert bench.replies() == [(number, OK)]
    number = bench.host(FREEZE)
    assert bench.replies() == [(number, FAIL)]
    assert bench.log[-1] == (EventKind.REPLIED, "failed to communicate to the daemon: -22")


@pytest.mark.parametrize("release", ALL)
def test_the_flags_of_the_replies(release: str) -> None:
    bench = Bench(release)
    bench.register()
    bench.host(CHECK)
    if bench.take():
        # A reply has its error where a request has its operation, so the kernel's own test never holds.
        bench.daemon(REPLY_OK)
        assert bench.reply_with_flags() == (OK, 0xABCD)
        bench.host(CHECK)
        bench.daemon(b"\x02" + bytes(11))
        assert bench.reply_with_flags() == (2, 5)
    else:
        assert bench.reply_with_flags() == (OK, 5)
    bench.host(HostOperation.DM_INFO)
    assert bench.reply_with_flags() == (OK, 0)


@pytest.mark.parametrize("release", SECOND)
def test_a_registration_during_a_request_is_passed_over(release: str) -> None:
    bench = Bench(release)
    bench.register()
    number = bench.host(FREEZE)
    bench.take()
    for registration in (REGISTER_128, REGISTER_129):
        bench.daemon(registration)
    assert bench.take() == []
    bench.daemon(REPLY_OK)
    assert bench.replies() == [(number, OK)]


@pytest.mark.parametrize("release", SECOND)
def test_messages_wait_while_a_request_is_open(release: str) -> None:
    bench = Bench(release)
    bench.register()
    freeze, dm, thaw = bench.host(FREEZE), bench.host(HostOperation.DM_INFO), bench.host(THAW)
    assert bench.driver.state().ring == 2
    bench.daemon(REPLY_OK)
    assert bench.replies() == [(freeze, OK), (dm, OK)]
    bench.daemon(REPLY_OK)
    assert bench.replies() == [(thaw, OK)]


@pytest.mark.parametrize("release", SECOND)
def test_the_character_device_shuts_netlink_out(release: str) -> None:
    bench = Bench(release)
    bench.register()
    number = bench.host(FREEZE)
    bench.driver.open_device(bench.moment)
    bench.daemon(REGISTER_129)
    assert bench.replies() == [(number, FAIL)]
    assert bench.log[-1] == (EventKind.WRITE_IGNORED, "port id 4660: unexpected netlink message")
    with pytest.raises(OSError, match="is open") as caught:
        bench.driver.open_device(bench.moment)
    assert caught.value.errno == errno.EBUSY
    bench.driver.close_device(bench.moment)
    bench.driver.close_device(bench.moment)
    bench.register()
    assert bench.driver.state().condition == "ready"


@pytest.mark.parametrize("release", FIRST)
def test_the_first_edition_has_no_character_device(release: str) -> None:
    bench = Bench(release)
    with pytest.raises(FileNotFoundError):
        bench.driver.open_device(bench.moment)
    bench.driver.close_device(bench.moment)


def header(length: int, size: int, group: int = 10, value: int = 1) -> bytes:
    return NETLINK_HEADER.pack(length, 3, 0, 0, 0) + CONNECTOR_HEADER.pack(group, value, 0, 0, size, 0)


@pytest.mark.parametrize("release", ALL)
@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        bytes(35),
        encode(REGISTER_129)[:47],
        header(48, 12, group=9) + REGISTER_129,
        header(48, 12, value=2) + REGISTER_129,
        header(0, 12) + REGISTER_129,
        header(35, 12) + REGISTER_129,
        header(2**32 - 1, 12) + REGISTER_129,
        header(HEADERS + 16385, 16385) + bytes(16385),
    ],
)
def test_the_connector_drops_what_is_wrong(release: str, datagram: bytes) -> None:
    bench = Bench(release)
    before = bench.driver.state()
    bench.raw(datagram)
    assert bench.driver.state() == before
    assert bench.log[-1][0] is EventKind.DROPPED


@pytest.mark.parametrize("release", SECOND)
@pytest.mark.parametrize("size", [0, 4, 11, 13, 4096])
def test_the_second_edition_takes_twelve_bytes_alone(release: str, size: int) -> None:
    bench = Bench(release)
    bench.register()
    number = bench.host(FREEZE)
    bench.daemon(bytes(size))
    assert bench.replies() == []
    bench.daemon(REPLY_OK)
    assert bench.replies() == [(number, OK)]


@pytest.mark.parametrize("release", SECOND)
def test_any_message_switches_to_netlink(release: str) -> None:
    bench = Bench(release)
    bench.daemon(b"")
    assert bench.driver.state().mode == "netlink"


@pytest.mark.parametrize("release", FIRST)
def test_the_first_edition_takes_a_reply_of_any_length(release: str) -> None:
    bench = Bench(release)
    bench.register()
    number = bench.host(FREEZE)
    bench.daemon(b"\x07")
    assert bench.replies() == [(number, 7)]


def test_the_oldest_connector_looks_beyond_the_datagram() -> None:
    for release, taken in (("3.10", True), ("3.19", False)):
        bench = Bench(release)
        bench.raw(header(40, 12) + b"\x80\0\0\0")
        assert (bench.log[-1][0] is EventKind.REGISTERED) is taken


@pytest.mark.parametrize("release", ALL)
def test_n9_what_lies_behind_the_length_is_not_looked_at(release: str) -> None:
    bench = Bench(release)
    bench.raw(encode(REGISTER_128, 0x1234) + b"\xee" * 16)
    assert bench.log[0][0] is EventKind.REGISTERED


def test_the_ring_has_an_end() -> None:
    bench = Bench("3.10")
    for _ in range(RING_SIZE // 64):
        bench.host(FREEZE)
    with pytest.raises(BlockingIOError):
        bench.host(FREEZE)


@pytest.mark.parametrize("release", ALL)
def test_a_message_that_is_too_short_gets_no_reply(release: str) -> None:
    bench = Bench(release)
    bench.register()
    bench.driver.host_sends(Packet(99, vss_message(FREEZE, transaction=1)[:39]), bench.moment)
    number = bench.host(FREEZE)
    bench.daemon(REPLY_OK)
    assert bench.replies() == [(number, OK)]
    assert EventKind.DROPPED in [kind for kind, _ in bench.log]


@pytest.mark.parametrize("text", ["", "linux", "3.9", "2.6.32", "x\n"])
def test_a_kernel_without_the_driver_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no kernel that has the driver"):
        kernel_of(text)
