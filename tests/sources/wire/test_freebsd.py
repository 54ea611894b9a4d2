"""The bytes of FreeBSD's VSS devices (facts/freebsd-vss.md sections 2.1, 3.4 and 4)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appvss.model.errors import DeviceAbsent, DeviceWrong
from appvss.sources.wire.freebsd import (
    EMPTY,
    FREEBSD,
    LAST_MOMENT,
    LIMIT,
    LINUX,
    MESSAGE_SIZE,
    Message,
    Operation,
    decode,
    encode,
    ioctl_numbers,
    time_left,
)

UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
MESSAGES = st.builds(Message, st.sampled_from(Operation), UINT32, UINT64)


def test_the_example_of_the_fact_sheet() -> None:
    data = bytes.fromhex("02000000 00000000 00002a36fe9c9717") + bytes(48)
    message = Message(Operation.FREEZE, 0, 1_700_000_000_000_000_000)
    assert decode(data) == message
    assert encode(message) == data


def test_an_empty_read() -> None:
    assert decode(bytes.fromhex("00000000 01000000") + bytes(56)) == EMPTY


def test_the_operations_have_the_drivers_numbers() -> None:
    assert [(operation.name, operation.value) for operation in Operation] == [
        ("NONE", 0),
        ("CHECK", 1),
        ("FREEZE", 2),
        ("THAW", 3),
    ]


def test_reserved_bytes_are_not_looked_at() -> None:
    assert decode(bytes.fromhex("01000000 00000000") + bytes(8) + b"\xee" * 48) == Message(Operation.CHECK, 0, 0)


@given(MESSAGES)
def test_every_message_comes_back(message: Message) -> None:
    data = encode(message)
    assert len(data) == MESSAGE_SIZE == 64
    assert data[16:] == bytes(48)
    assert decode(data) == message
    assert decode(bytearray(data)) == message


@given(st.binary(max_size=200))
@example(b"")
@example(bytes(63))
@example(bytes(65))
@example(bytes.fromhex("04000000") + bytes(60))
def test_garbage_is_decoded_or_refused_by_name(data: bytes) -> None:
    operation = int.from_bytes(data[:4], "little")
    if len(data) == MESSAGE_SIZE and operation <= 3:
        assert encode(decode(data))[:16] == data[:16]
    else:
        with pytest.raises(DeviceWrong) as refusal:
            decode(data)
        assert str(len(data) if len(data) != MESSAGE_SIZE else operation) in refusal.value.sentence
        assert refusal.value.hint


@pytest.mark.parametrize(("status", "msgid"), [(-1, 0), (2**32, 0), (0, -1), (0, 2**64)])
def test_what_does_not_fit_is_refused_by_name(status: int, msgid: int) -> None:
    with pytest.raises(DeviceWrong, match="does not fit"):
        encode(Message(Operation.CHECK, status, msgid))


def test_the_numbers_of_the_two_ioctls() -> None:
    assert (FREEBSD.read, FREEBSD.write) == (0x40407602, 0x80407603)
    assert (LINUX.read, LINUX.write) == (0x80407602, 0x40407603)


@pytest.mark.parametrize(
    ("platform", "numbers"), [("freebsd11", FREEBSD), ("freebsd14", FREEBSD), ("linux", LINUX), ("linux2", LINUX)]
)
def test_the_numbers_by_platform(platform: str, numbers: object) -> None:
    assert ioctl_numbers(platform) is numbers


@pytest.mark.parametrize("platform", ["darwin", "win32", "netbsd10", ""])
def test_other_platforms_are_refused_by_name(platform: str) -> None:
    with pytest.raises(DeviceAbsent) as refusal:
        ioctl_numbers(platform)
    assert repr(platform) in refusal.value.sentence


def test_the_drivers_limits() -> None:
    assert timedelta(seconds=15) == LIMIT
    assert timedelta(milliseconds=500) == LAST_MOMENT


NOW = timedelta(seconds=1_700_000_000)


@pytest.mark.parametrize(
    ("age_ns", "left"),
    [
        (0, timedelta(seconds=15)),
        (2_500_000_000, timedelta(seconds=12, milliseconds=500)),
        (14_999_999_000, timedelta(microseconds=1)),
        (15_000_000_000, timedelta(0)),
        (3_600_000_000_000, timedelta(0)),
        (-1_000_000_000, timedelta(seconds=15)),
        (1, timedelta(seconds=14, microseconds=999_999)),
    ],
    ids=["now", "some", "nearly all", "all", "clock put forward", "clock put back", "rounded to the safe side"],
)
def test_what_is_left_of_the_limit(age_ns: int, left: timedelta) -> None:
    msgid = NOW // timedelta(microseconds=1) * 1000 - age_ns
    assert time_left(msgid, NOW) == left


@given(UINT64, st.timedeltas())
def test_what_is_left_is_always_within_the_limit(msgid: int, wall: timedelta) -> None:
    assert timedelta(0) <= time_left(msgid, wall) <= LIMIT


@given(UINT64, st.timedeltas(timedelta(0), timedelta(days=200_000)), st.timedeltas(timedelta(0), LIMIT))
def test_what_is_left_never_grows_with_time(msgid: int, wall: timedelta, later: timedelta) -> None:
    assert time_left(msgid, wall + later) <= time_left(msgid, wall)
