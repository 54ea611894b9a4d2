"""`appvss` with FreeBSD's ioctl numbers, which it takes on FreeBSD alone. Nothing else is different."""

from __future__ import annotations

from appvss.cli.main import main
from appvss.sources.freebsd import device
from appvss.sources.wire.freebsd import FREEBSD

device.ioctl_numbers = lambda _platform: FREEBSD

if __name__ == "__main__":
    main()
