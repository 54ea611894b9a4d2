"""The bytes of the FUSE protocol, against the sizes and offsets of include/uapi/linux/fuse.h."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.simulator.fuse import abi
from appvss.simulator.fuse.abi import Attributes


def test_sizes_of_the_replies() -> None:
    attributes = Attributes(2, 0o100640, 3, 4)
    assert len(attributes.pack()) == 88
    assert len(abi.entry_reply(attributes, 1)) == 128
    assert len(abi.attributes_reply(attributes)) == 104
    assert len(abi.open_reply(1)) == 16
    assert len(abi.init_reply(bytes(64))) == 64
    assert len(abi.ioctl_reply(bytes(64))) == 16 + 64
    assert len(abi.poll_reply(1)) == 8
    assert len(abi.notify_poll(1)) == 24
    assert len(abi.STATFS_OUT) == 80


def test_a_reply_carries_its_own_length_and_a_negative_errno() -> None:
    assert struct.unpack_from("=IiQ", abi.reply(77, b"abcd")) == (20, 0, 77)
    assert struct.unpack("=IiQ", abi.reply(77, error=16)) == (16, -16, 77)


def test_a_request_is_taken_apart() -> None:
    header = struct.pack("=IIQQIIIHH", 44, 39, 5, 6, 1000, 1000, 4711, 0, 0)
    request = abi.parse_request(header + b"body")
    assert (request.opcode, request.unique, request.node, request.thread, request.body) == (39, 5, 6, 4711, b"body")


def test_an_ioctl_is_taken_apart() -> None:
    ioctl = abi.parse_ioctl(struct.pack("=QIIQII", 1, 0, 0x40407603, 99, 64, 0) + bytes(range(64)))
    assert (ioctl.handle, ioctl.command, ioctl.data, ioctl.output_size) == (1, 0x40407603, bytes(range(64)), 0)


def test_a_change_of_attributes_is_taken_apart() -> None:
    body = bytearray(88)
    struct.pack_into("=I", body, 0, 7)
    struct.pack_into("=I", body, 68, 0o600)
    struct.pack_into("=II", body, 76, 10, 20)
    change = abi.parse_setattr(bytes(body))
    assert (change.valid, change.mode, change.uid, change.gid) == (7, 0o600, 10, 20)


ENTRIES = [(1, 4, b"."), (1, 4, b".."), (2, 8, b"hv_appvss_dev"), (3, 8, b"hv_fsvss_dev")]


@given(st.integers(40, 400))
def test_a_folder_is_read_in_pieces_without_loss(size: int) -> None:
    names, offset = [], 0
    while piece := abi.directory_reply(struct.pack("=QQI", 0, offset, size) + bytes(20), ENTRIES):
        assert len(piece) <= size
        at = 0
        while at < len(piece):
            node, offset, length, kind = struct.unpack_from("=QQII", piece, at)
            names.append((node, kind, piece[at + 24 : at + 24 + length]))
            at += 24 + (length + 7) // 8 * 8
    assert names == ENTRIES


@given(st.binary(max_size=39))
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(struct.error):
        abi.parse_request(data)


def test_a_read_and_a_write_are_taken_apart() -> None:
    assert abi.parse_read(struct.pack("=QQIIQII", 3, 4096, 12, 0, 0, 0, 0)) == (3, 12)
    assert abi.parse_write(struct.pack("=QQIIQII", 3, 0, 5, 0, 0, 0, 0) + b"bytes and more") == (3, b"bytes")
    assert abi.write_reply(12) == struct.pack("=II", 12, 0)
