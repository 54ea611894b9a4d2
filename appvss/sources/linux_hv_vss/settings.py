"""What an administrator may set about Linux's Hyper-V VSS device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import ClassVar

from appvss.sources.linux_vss.settings import LinuxVssSettings
from appvss.sources.wire.linux_hv_vss import DEVICE


@dataclass(frozen=True, slots=True)
class LinuxHvVssSettings(LinuxVssSettings):
    """Settings of the source for Linux's Hyper-V device.

    Raises:
        ConfigurationInvalid: values that cannot work; all of them are named.
    """

    NAME: ClassVar[str] = "linux_hv_vss"
    device: str = DEVICE
    """Path of the device. Default: /dev/vmbus/hv_vss. The simulator's file is given here too."""

    def _own_problems(self) -> Iterator[str]:
        if not PurePath(self.device).is_absolute() or "\0" in self.device:
            yield f"device: {self.device!r} is not an absolute path"
