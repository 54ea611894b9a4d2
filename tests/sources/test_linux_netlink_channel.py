"""The socket: joined before anything is sent, believing the driver alone, never blocking, whatever is sent to it."""

from __future__ import annotations

import errno
import os
import resource
import socket

import pytest

from appvss.model.errors import DeviceAbsent, SourceError
from appvss.sources.linux_netlink.channel import MOST_READS, NetlinkChannel, Overrun, Received
from appvss.sources.wire.linux_hv_vss import encode_operation, encode_registration
from appvss.sources.wire.linux_netlink import GROUP_MASK, MAX_PAYLOAD, RECEIVE_SIZE, encode
from tests.support.private_network import connector_socket, private_network, send, without_rights

__all__ = ["private_network"]
pytestmark = pytest.mark.usefixtures("private_network")

KERNEL = 10_000_001
FREEZE = encode_operation(5)


@pytest.fixture
def kernel() -> socket.socket:
    with connector_socket(KERNEL) as port:
        yield port


@pytest.fixture
def channel(kernel: socket.socket) -> NetlinkChannel:
    opened = NetlinkChannel.open(KERNEL)
    yield opened
    opened.close()


def test_a_registration_reaches_the_kernels_port(channel: NetlinkChannel, kernel: socket.socket) -> None:
    channel.register(encode_registration())
    assert kernel.recvfrom(100) == (encode(encode_registration(), channel.portid), (channel.portid, 0))


def test_what_is_sent_to_the_group_is_heard_at_once(channel: NetlinkChannel, kernel: socket.socket) -> None:
    for portid in (0, channel.portid):
        try:
            kernel.sendto(encode(FREEZE), (portid, GROUP_MASK))
        except ConnectionRefusedError:
            assert portid == 0
        assert channel.receive() == [Received(KERNEL, FREEZE)]


def test_nothing_is_waited_for(channel: NetlinkChannel) -> None:
    assert not os.get_blocking(channel.fileno())
    assert channel.receive() == []
    assert not os.get_inheritable(channel.fileno())


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"\0", "it has 1 bytes, and the headers alone have 36"),
        (bytes(range(200, 235)), "it has 35 bytes, and the headers alone have 36"),
        (encode(FREEZE)[:47], "it has 47 bytes, and its header says 48"),
        (encode(b""), "its message has 0 bytes instead of 4 or 12"),
        (encode(bytes(RECEIVE_SIZE)), f"it has more than {RECEIVE_SIZE} bytes"),
        (encode(bytes(MAX_PAYLOAD)), f"it has more than {RECEIVE_SIZE} bytes"),
        (bytes(100_000), f"it has more than {RECEIVE_SIZE} bytes"),
    ],
)
def test_garbage_is_told_with_its_sender_and_a_reason(channel: NetlinkChannel, datagram: bytes, reason: str) -> None:
    with connector_socket() as sender:
        sender.sendto(datagram, (channel.portid, 0))
        assert channel.receive() == [Received(sender.getsockname()[0], b"", reason)]


def test_a_forged_request_has_its_senders_port(channel: NetlinkChannel) -> None:
    with connector_socket() as sender:
        sender.sendto(encode(FREEZE), (channel.portid, GROUP_MASK))
        assert channel.receive() == [Received(sender.getsockname()[0], FREEZE)]


def test_a_flood_is_read_in_portions(channel: NetlinkChannel) -> None:
    send(channel.portid, *[b"x"] * (MOST_READS + 3))
    assert [len(channel.receive()) for _ in range(3)] == [MOST_READS, 3, 0]


def test_what_the_kernel_had_no_room_for_is_told(channel: NetlinkChannel, kernel: socket.socket) -> None:
    # A sender waits for room or is refused; only what goes to the group is dropped, as the kernel's own messages are.
    for _ in range(2000):
        with pytest.raises(ConnectionRefusedError):
            kernel.sendto(encode(FREEZE), (0, GROUP_MASK))
    with pytest.raises(Overrun):
        read_all(channel)


def read_all(channel: NetlinkChannel) -> None:
    while channel.receive():
        pass


def test_a_namespace_without_a_kernel_in_it_is_told() -> None:
    channel = NetlinkChannel.open(0)
    try:
        with pytest.raises(DeviceAbsent, match="the kernel's connector is not in this network namespace"):
            channel.register(encode_registration())
    finally:
        channel.close()


def test_a_process_without_descriptors_is_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.dup(0)
    os.close(first)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first, hard))
    try:
        with pytest.raises(SourceError, match=f"no netlink socket can be made: {os.strerror(errno.EMFILE)}"):
            NetlinkChannel.open(KERNEL)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_kernel_without_the_connector_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appvss.sources.linux_netlink.channel.CONNECTOR", 31)  # a protocol that no kernel has
    with pytest.raises(DeviceAbsent, match="this kernel has no netlink connector"):
        NetlinkChannel.open(KERNEL)


JOIN = """
    from appvss.model.errors import SourceError
    from appvss.sources.linux_netlink.channel import NetlinkChannel
    try:
        NetlinkChannel.open(0)
    except SourceError as error:
        print(error.name, error.sentence, error.exit_code.name)
"""


def test_whoever_may_not_join_is_told_what_is_missing() -> None:
    assert without_rights(JOIN) == (
        f"DeviceForbidden uid {os.geteuid()} may not join the netlink group 10: CAP_NET_ADMIN is missing FORBIDDEN\n"
    )
