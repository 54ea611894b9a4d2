"""What a failed open is called, and who has the device."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from appvss.model.errors import DeviceAbsent, DeviceBusy, DeviceForbidden, DeviceWrong, SourceError
from appvss.sources.linux_hv_vss.refusal import refused_open, removed, unlike_device
from appvss.sources.linux_vss.holder import holder_of
from tests.simulator.children import OPEN_AND_WAIT, child

PATH = "/dev/vmbus/hv_vss"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, DeviceAbsent),
        (errno.ENOTDIR, DeviceAbsent),
        (errno.ENXIO, DeviceAbsent),
        (errno.ENODEV, DeviceAbsent),
        (errno.EBADF, DeviceAbsent),
        (errno.EBUSY, DeviceBusy),
        (errno.EACCES, DeviceForbidden),
        (errno.EPERM, DeviceForbidden),
        (errno.ELOOP, DeviceWrong),
        (errno.EISDIR, DeviceWrong),
        (errno.ENOTCONN, DeviceWrong),
    ],
)
def test_a_refused_open_has_a_name_a_path_and_a_hint(number: int, kind: type[SourceError]) -> None:
    check(refused_open(PATH, OSError(number, os.strerror(number), PATH)), kind)


def test_the_others_have_them_too() -> None:
    check(removed(PATH), DeviceAbsent)
    check(unlike_device(PATH, "it is a tree"), DeviceWrong)


async def test_a_holder_is_found_behind_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(file)
    assert holder_of(str(link)) is None
    async with child(OPEN_AND_WAIT, link) as holder:
        found = holder_of(str(link))
        assert found is not None
        assert found[0] == holder.pid
        assert found[1].startswith("python")


def check(error: SourceError, kind: type[SourceError]) -> None:
    assert type(error) is kind
    assert PATH in error.sentence
    assert not error.sentence.endswith(".")
    assert error.hint.endswith((".", ")."))
