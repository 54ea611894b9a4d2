"""Copies the volumes' images: what a snapshot command does. `python copier.py FOLDER IMAGE...`

First it writes the time to `FOLDER/instant`, in nanoseconds of the monotonic clock: it is run when everything is held.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Copy."""
    folder, *images = map(Path, sys.argv[1:])
    (folder / "instant").write_text(str(time.monotonic_ns()))
    for image in images:
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", str(image), str(folder)], check=True)


if __name__ == "__main__":
    main()
