"""What a failed system call on the socket is called."""

from __future__ import annotations

import errno
import os

import pytest

from appvss.model.errors import DeviceAbsent, DeviceForbidden, DeviceWrong, SourceError
from appvss.sources.linux_netlink.refusal import refused_join, refused_registration, refused_socket


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EPROTONOSUPPORT, DeviceAbsent),
        (errno.EAFNOSUPPORT, DeviceAbsent),
        (errno.EACCES, DeviceForbidden),
        (errno.EPERM, DeviceForbidden),
        (errno.EMFILE, SourceError),
        (errno.ENOMEM, SourceError),
        (errno.EIO, DeviceWrong),
    ],
)
def test_a_socket_that_cannot_be_made(number: int, kind: type[SourceError]) -> None:
    check(refused_socket(failed(number)), kind)


@pytest.mark.parametrize(("number", "kind"), [(errno.EPERM, DeviceForbidden), (errno.EINVAL, DeviceWrong)])
def test_a_group_that_cannot_be_joined(number: int, kind: type[SourceError]) -> None:
    check(refused_join(failed(number)), kind)


def test_what_is_missing_is_named() -> None:
    error = refused_join(failed(errno.EPERM))
    assert "CAP_NET_ADMIN" in error.sentence
    assert "AmbientCapabilities=" in error.hint


@pytest.mark.parametrize(
    ("portid", "number", "kind", "words"),
    [
        (0, errno.ECONNREFUSED, DeviceAbsent, "the kernel's connector is not in this network namespace"),
        (4711, errno.ECONNREFUSED, DeviceAbsent, "nobody has the netlink port id 4711"),
        (4711, errno.EPERM, DeviceWrong, "cannot be sent to port id 4711: Operation not permitted"),
    ],
)
def test_a_registration_that_cannot_be_sent(portid: int, number: int, kind: type[SourceError], words: str) -> None:
    error = refused_registration(portid, failed(number))
    check(error, kind)
    assert words in error.sentence


def check(error: SourceError, kind: type[SourceError]) -> None:
    assert type(error) is kind
    assert not error.sentence.endswith(".")
    assert error.hint.endswith(".")
