"""The datagrams of the netlink connector (facts/linux-hv-vss.md sections 3.2 and 7.2)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appvss.sources.wire.linux_netlink import (
    CONNECTOR_HEADER,
    GROUP_MASK,
    HEADERS,
    NETLINK_HEADER,
    RECEIVE_SIZE,
    DatagramRefused,
    decode,
    driver_name,
    encode,
    members,
)

PORTID = 0x1234
CONNECTOR = "0a000000 01000000 00000000 00000000"
DAEMON = f"30000000 03000000 00000000 34120000 {CONNECTOR} 0c000000"
KERNEL = f"30000000 03000000 00000000 00000000 {CONNECTOR} 0c000000"
VECTORS = {
    "N1 register 128": (PORTID, "80" + "00" * 11, f"{DAEMON} 800000000000000000000000"),
    "N2 register 129": (PORTID, "81" + "00" * 11, f"{DAEMON} 810000000000000000000000"),
    "N3 answer": (0, "81000000", f"28000000 03000000 00000000 00000000 {CONNECTOR} 04000000 81000000"),
    "N4 hot backup": (0, "02" + "00" * 11, f"{KERNEL} 020000000000000000000000"),
    "N5 freeze": (0, "05" + "00" * 11, f"{KERNEL} 050000000000000000000000"),
    "N6 thaw": (0, "06" + "00" * 11, f"{KERNEL} 060000000000000000000000"),
    "N7 reply ok": (PORTID, "00" * 12, f"{DAEMON} 000000000000000000000000"),
    "N8 reply failed": (PORTID, "05400080" + "00" * 8, f"{DAEMON} 054000800000000000000000"),
}
PAYLOADS = st.binary(min_size=4, max_size=4) | st.binary(min_size=12, max_size=12)
UINT32 = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("portid", "payload", "datagram"), VECTORS.values(), ids=list(VECTORS))
def test_the_vectors_of_the_fact_sheet(portid: int, payload: str, datagram: str) -> None:
    assert encode(bytes.fromhex(payload), portid) == bytes.fromhex(datagram)
    assert decode(bytes.fromhex(datagram)) == bytes.fromhex(payload)


def test_n9_what_lies_behind_the_length_is_not_looked_at() -> None:
    _, payload, datagram = VECTORS["N1 register 128"]
    assert decode(bytes.fromhex(datagram) + b"\xee" * 16) == bytes.fromhex(payload)


def test_the_groups_bit() -> None:
    assert GROUP_MASK == 0x200


@given(PAYLOADS, UINT32)
def test_every_payload_comes_back(payload: bytes, portid: int) -> None:
    data = encode(payload, portid)
    assert len(data) == HEADERS + len(payload) < RECEIVE_SIZE
    assert decode(data) == payload


@given(PAYLOADS, st.integers(0, HEADERS + 11))
def test_no_part_of_a_datagram_is_one(payload: bytes, length: int) -> None:
    data = encode(payload)
    with pytest.raises(DatagramRefused):
        decode(data[: min(length, len(data) - 1)])


def datagram(*, length: int = 48, kind: int = 3, group: int = 10, value: int = 1, size: int = 12) -> bytes:
    header = NETLINK_HEADER.pack(length, kind, 0, 0, 0)
    return header + CONNECTOR_HEADER.pack(group, value, 0, 0, size, 0) + bytes(12)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it has 0 bytes, and the headers alone have 36"),
        (datagram()[:35], "it has 35 bytes, and the headers alone have 36"),
        (datagram()[:36], "it has 36 bytes, and its header says 48"),
        (datagram(length=49), "it has 48 bytes, and its header says 49"),
        (datagram(length=2**32 - 1), "it has 48 bytes, and its header says 4294967295"),
        (datagram(kind=2), "its type is 2 instead of 3"),
        (datagram(kind=16), "its type is 16 instead of 3"),
        (datagram(group=9), "it is about 9:1 instead of 10:1"),
        (datagram(value=2), "it is about 10:2 instead of 10:1"),
        (datagram(size=0), "its message has 0 bytes instead of 4 or 12"),
        (datagram(size=11), "its message has 11 bytes instead of 4 or 12"),
        (datagram(size=13), "its message has 13 bytes instead of 4 or 12"),
        (datagram(size=2**16 - 1), "its message has 65535 bytes instead of 4 or 12"),
        (datagram(length=47), "its message has 12 bytes, and the datagram's length of 47 has no room for it"),
        (datagram(length=0), "its message has 12 bytes, and the datagram's length of 0 has no room for it"),
        (datagram(length=39, size=4), "its message has 4 bytes, and the datagram's length of 39 has no room for it"),
    ],
)
def test_what_is_refused_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DatagramRefused) as caught:
        decode(data)
    assert str(caught.value) == reason


@given(st.binary(max_size=2 * RECEIVE_SIZE))
@example(bytes(HEADERS))
def test_any_bytes_are_refused_or_a_payload(data: bytes) -> None:
    with suppress(DatagramRefused):
        assert len(decode(data)) in (4, 12)


@given(
    UINT32 | st.integers(30, 70),
    st.integers(0, 2**16 - 1) | st.just(3),
    UINT32 | st.just(10),
    UINT32 | st.just(1),
    st.integers(0, 2**16 - 1) | st.sampled_from([4, 12]),
    st.binary(max_size=40),
)
def test_any_headers_are_refused_or_a_payload(
    length: int, kind: int, group: int, value: int, size: int, rest: bytes
) -> None:
    data = NETLINK_HEADER.pack(length, kind, 0, 0, 0) + CONNECTOR_HEADER.pack(group, value, 0, 0, size, 0) + rest
    with suppress(DatagramRefused):
        assert decode(data) == rest[:size]
        assert (kind, group, value) == (3, 10, 1)


CONNECTOR_LIST = "Name            ID\ncn_proc         1:1\nhv_kvp          9:1\n{}\n"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("vss_kernel_module 10:1", "vss_kernel_module"),
        ("vmbus/hv_vss    10:1", "vmbus/hv_vss"),
        ("two words       10:1", "two words"),
        ("vmbus/hv_vss    10:2", ""),
        ("vmbus/hv_vss    110:1", ""),
        ("vmbus/hv_vss    10:11", ""),
        ("", ""),
        ("10:1", ""),
    ],
)
def test_the_driver_in_the_connectors_list(line: str, name: str) -> None:
    assert driver_name(CONNECTOR_LIST.format(line)) == name


SOCKETS = """\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
000000001b682d74 11  0          00000000 0        0        0     2        0        1026
00000000018f7c89 11  812        00000200 0        0        0     2        0        68888
000000004ae80074 11  4294963000 00000600 0        0        0     2        3        68894
000000004d3f559b 11  900        00000100 0        0        0     2        0        68896
000000005f73e341 9   901        00000200 0        0        0     2        0        68890
000000005f73e341 11  902        0000
"""


def test_the_members_of_the_group_in_the_table_of_sockets() -> None:
    assert members(SOCKETS) == {812: 68888, 4294963000: 68894}
    assert members("") == {}
