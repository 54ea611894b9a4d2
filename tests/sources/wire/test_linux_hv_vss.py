"""The bytes of Linux's VSS device (facts/linux-hv-vss.md sections 1.2, 1.4, 1.5 and 7.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.model.errors import DeviceWrong
from appvss.sources.wire.linux_hv_vss import (
    FAILURE,
    LONG_LIMITS,
    MESSAGE_SIZE,
    REGISTER,
    REGISTER_LEGACY,
    SHORT_LIMITS,
    SUCCESS,
    Asked,
    Handshake,
    Limits,
    Operation,
    decode,
    encode_handshake,
    encode_operation,
    encode_registration,
    encode_reply,
    kernel_version,
    limits_of,
    status_of,
)


@pytest.mark.parametrize(
    ("number", "operation", "data"),
    [
        ("C5", Operation.HOT_BACKUP, "020000000000000000000000"),
        ("C6", Operation.FREEZE, "050000000000000000000000"),
        ("C8", Operation.THAW, "060000000000000000000000"),
    ],
)
def test_what_the_kernel_passes_on(number: str, operation: Operation, data: str) -> None:
    asked = decode(bytes.fromhex(data))
    assert asked == Asked(operation), number
    assert isinstance(asked, Asked)
    assert asked.operation is operation
    assert encode_operation(operation).hex() == data


@pytest.mark.parametrize(
    ("number", "data", "wanted"),
    [
        ("C1", encode_registration(), "810000000000000000000000"),
        ("C4", encode_registration(REGISTER_LEGACY), "800000000000000000000000"),
        ("C1, the answer", encode_handshake(), "81000000"),
        ("C6", encode_reply(SUCCESS), "000000000000000000000000"),
        ("C7", encode_reply(FAILURE), "054000800000000000000000"),
        ("C17", encode_reply(2), "020000000000000000000000"),
    ],
)
def test_what_is_written(number: str, data: bytes, wanted: str) -> None:
    assert data.hex() == wanted, number


def test_the_answer_to_a_registration() -> None:
    assert decode(bytes.fromhex("81000000")) == Handshake(REGISTER)


def test_an_operation_that_nobody_knows() -> None:
    asked = decode(bytes.fromhex("090000000000000000000000"))
    assert isinstance(asked, Asked)
    assert (asked.number, asked.operation) == (9, None)


@pytest.mark.parametrize("status", [0x80070080, 0x80070081, 0x80, 0x81])
def test_a_status_that_looks_like_a_registration_is_refused(status: int) -> None:
    """C16: the kernel would refuse it with EINVAL and leave the operation open."""
    with pytest.raises(DeviceWrong, match=f"{status:#x} would be taken for a registration"):
        encode_reply(status)


@pytest.mark.parametrize("status", [-1, 2**32])
def test_a_status_that_does_not_fit(status: int) -> None:
    with pytest.raises(DeviceWrong, match="does not fit into 32 bits"):
        encode_reply(status)


@given(st.integers(0, 2**32 - 1).filter(lambda status: status & 0xFF not in (0x80, 0x81)))
def test_every_other_status_comes_to_the_host_unchanged(status: int) -> None:
    data = encode_reply(status)
    assert len(data) == MESSAGE_SIZE == 12
    assert status_of(data) == status


@given(st.binary(max_size=64))
def test_garbage_is_decoded_or_refused_by_name(data: bytes) -> None:
    if len(data) in (4, 12):
        decode(data)
    else:
        with pytest.raises(DeviceWrong, match=f"has {len(data)} bytes") as refusal:
            decode(data)
        assert refusal.value.hint


@pytest.mark.parametrize(
    ("release", "limits"),
    [
        ("6.1.0-18-cloud-amd64", LONG_LIMITS),
        ("4.10.0", LONG_LIMITS),
        ("5.15.167.4-microsoft-standard-WSL2", LONG_LIMITS),
        ("4.9.337", SHORT_LIMITS),
        ("4.4.0-210-generic", SHORT_LIMITS),
        ("3.10.0-1160.el7.x86_64", SHORT_LIMITS),
        ("mainline", SHORT_LIMITS),
        ("", SHORT_LIMITS),
    ],
)
def test_the_limits_of_a_kernel(release: str, limits: Limits) -> None:
    assert limits_of(release) == limits


def test_the_version_in_a_release() -> None:
    assert kernel_version("4.10-rc1") == (4, 10)
    assert kernel_version("x4.10") is None
