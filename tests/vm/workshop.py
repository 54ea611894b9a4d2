"""Where the guests of a run of the tests are made."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.vm import build
from tests.vm.guest import Guest, booted, make_data


@dataclass(frozen=True, slots=True)
class Workshop:
    """Images and a folder for guests.

    Args:
        folder: short, because a socket's path is.
        images: what every guest is booted from.
        tools: the image with AppVSS as it is now.
    """

    folder: Path
    images: build.Images
    tools: Path

    def data(self, name: str) -> Path:
        """A new, empty data disk."""
        path = self.folder / f"{name}.qcow2"
        make_data(path)
        return path

    def boot(self, name: str, data: Path) -> AbstractContextManager[Guest]:
        """Boot a guest with that data disk. One at a time: each takes half a GiB and a whole processor."""
        return booted(self.images, self.tools, self.folder / name, data)
