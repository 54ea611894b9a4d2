"""What a failed open or READ is called."""

from __future__ import annotations

import errno
import os

import pytest

from appvss.model.errors import DeviceAbsent, DeviceBusy, DeviceForbidden, DeviceWrong, SourceError
from appvss.sources.freebsd.refusal import refused_open, refused_read, unfilled_read

PATH = "/dev/hv_appvss_dev"


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number), PATH)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, DeviceAbsent),
        (errno.ENOTDIR, DeviceAbsent),
        (errno.ENXIO, DeviceAbsent),
        (errno.ENODEV, DeviceAbsent),
        (errno.EBUSY, DeviceBusy),
        (errno.EACCES, DeviceForbidden),
        (errno.EPERM, DeviceForbidden),
        (errno.ELOOP, DeviceWrong),
        (errno.EIO, DeviceWrong),
        (errno.ENAMETOOLONG, DeviceWrong),
    ],
)
def test_a_refused_open_has_a_name_a_path_and_a_hint(number: int, kind: type[SourceError]) -> None:
    check(refused_open(PATH, failed(number)), kind)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOTTY, DeviceWrong), (errno.ENXIO, DeviceAbsent), (errno.ENODEV, DeviceAbsent)]
)
def test_a_refused_read_has_a_name_a_path_and_a_hint(number: int, kind: type[SourceError]) -> None:
    check(refused_read(PATH, failed(number)), kind)


def test_a_read_without_a_message_has_a_name_a_path_and_a_hint() -> None:
    check(unfilled_read(PATH), DeviceWrong)


def test_the_owner_of_a_busy_device_can_be_found() -> None:
    assert f"fstat {PATH}" in refused_open(PATH, failed(errno.EBUSY)).hint


def check(error: SourceError, kind: type[SourceError]) -> None:
    assert type(error) is kind
    assert PATH in error.sentence
    assert not error.sentence.endswith(".")
    assert error.hint.endswith(".")
