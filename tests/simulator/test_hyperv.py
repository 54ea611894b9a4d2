"""The host's messages and the negotiation: vectors 7 to 11 of facts/freebsd-vss.md section 9."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.simulator.hyperv import (
    RING_SIZE,
    HostMessage,
    Packet,
    Version,
    is_negotiation,
    negotiate,
    negotiation_message,
    operation_of,
    parse,
    set_body_flags,
    set_status,
    vss_message,
)

V10, V30, V40, V50, V51 = Version(1, 0), Version(3, 0), Version(4, 0), Version(5, 0), Version(5, 1)


def buffer_with(data: bytes) -> bytearray:
    return bytearray(data.ljust(RING_SIZE, b"\0"))


def test_vector_7_the_highest_common_versions_are_taken() -> None:
    offer = negotiation_message([V10, V30], [V30, V40, V50], transaction=9)
    buffer = buffer_with(offer)
    assert len(offer) == 56
    assert is_negotiation(buffer)
    assert negotiate(buffer, 56) == (0, 56)
    assert struct.unpack_from("<HHIII", buffer, 28) == (1, 1, 0, 3, 5)
    assert struct.unpack_from("<H", buffer, 18) == (16,)
    assert bytes(buffer[44:56]) == offer[44:]


@pytest.mark.parametrize(
    ("frameworks", "messages", "status"),
    [([V40], [V50], 45), ([V30], [V51], 45), ([V30], [], 22), ([], [V50], 22)],
    ids=["8", "9", "10", "no framework"],
)
def test_vectors_8_to_10_what_does_not_fit_is_echoed(
    frameworks: list[Version], messages: list[Version], status: int
) -> None:
    offer = negotiation_message(frameworks, messages, transaction=9)
    buffer = buffer_with(offer)
    assert negotiate(buffer, len(offer)) == (status, len(offer))
    assert bytes(buffer[: len(offer)]) == offer


def test_a_short_offer_is_answered_at_full_length() -> None:
    offer = negotiation_message([V30], [V50], transaction=0)
    assert len(offer) == 44
    assert negotiate(buffer_with(offer), 44) == (0, 44)


@pytest.mark.parametrize("cut", [0, 12, 35, 36, 43])
def test_an_offer_that_is_cut_short_is_malformed(cut: int) -> None:
    offer = negotiation_message([V30], [V50], transaction=0)
    assert negotiate(buffer_with(offer), cut) == (22, cut)


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_with_one_of_three_statuses(data: bytes) -> None:
    buffer = buffer_with(data)
    status, length = negotiate(buffer, len(data))
    assert status in (0, 22, 45)
    assert length == (max(len(data), 44) if status == 0 else len(data))
    assert len(buffer) == RING_SIZE


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_a_vss_message_comes_back(operation: int, transaction: int, body_flags: int) -> None:
    data = vss_message(operation, transaction=transaction, body_flags=body_flags)
    assert len(data) == 40
    assert parse(data) == HostMessage(5, 0, transaction, 3, operation, body_flags)
    buffer = buffer_with(data)
    assert not is_negotiation(buffer)
    assert operation_of(buffer) == operation


def test_a_reply_changes_status_flags_and_body_alone() -> None:
    data = vss_message(5, transaction=7, body_flags=1)
    buffer = bytearray(data)
    set_status(buffer, 0x80004005)
    set_body_flags(buffer, 5)
    assert parse(buffer) == HostMessage(5, 0x80004005, 7, 5, 5, 5)
    changed = {index for index in range(40) if buffer[index] != data[index]}
    assert changed <= {*range(20, 24), 25, *range(36, 40)}


@given(st.binary(max_size=60))
def test_a_short_message_reads_as_zeroes(data: bytes) -> None:
    assert parse(data) == parse(data[:40].ljust(40, b"\0"))


def test_versions_travel_with_the_major_number_low() -> None:
    assert Version(5, 1).number == 0x00010005
    assert Version.of(0x00010005) == V51
    assert V40 < V50 < V51


@pytest.mark.parametrize(("length", "space"), [(0, 24), (1, 32), (40, 64), (41, 72)])
def test_the_space_of_a_packet_in_the_ring(length: int, space: int) -> None:
    assert Packet(1, bytes(length)).ring_space == space
