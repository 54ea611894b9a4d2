"""A small sysfs of devices that a test machine does not have: its links and files as the kernel lays them out."""

from __future__ import annotations

import os
from pathlib import Path


class Sysfs:
    """The tree, below a directory."""

    def __init__(self, home: Path) -> None:
        self.path = home / "sys"
        for folder in ("dev/block", "class/block", "devices"):
            (self.path / folder).mkdir(parents=True)

    def add(self, name: str, device: str, *, under: str = "", slaves: tuple[str, ...] = ()) -> Path:
        """Add a block device.

        Args:
            name: such as `sda`.
            device: `major:minor`.
            under: the disk whose partition it is, or a folder of `devices`.
            slaves: names of the devices on which it lies.
        """
        disk = self.path / "class" / "block" / under
        home = Path(os.path.realpath(disk)) if under and disk.exists() else self.path / "devices" / under
        folder = home / name
        folder.mkdir(parents=True)
        (folder / "dev").write_text(f"{device}\n")
        if under and disk.exists():
            (folder / "partition").write_text("1\n")
        else:
            (folder / "slaves").mkdir()
        for slave in slaves:
            (folder / "slaves" / slave).symlink_to(os.path.realpath(self.path / "class" / "block" / slave))
        (self.path / "dev" / "block" / device).symlink_to(folder)
        (self.path / "class" / "block" / name).symlink_to(folder)
        return folder

    def add_loop(self, number: int, backing_file: bytes) -> None:
        """Add a loop device. Where its node is asked, the number must be one that no machine has."""
        folder = self.add(f"loop{number}", f"7:{number}") / "loop"
        folder.mkdir()
        (folder / "backing_file").write_bytes(backing_file + b"\n")
