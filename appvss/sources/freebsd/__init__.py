"""The broker's door to FreeBSD's Hyper-V VSS driver: the device /dev/hv_appvss_dev (facts/freebsd-vss.md)."""

from __future__ import annotations

from appvss.sources.freebsd.settings import FreebsdSettings
from appvss.sources.freebsd.source import FreebsdSource

__all__ = ["FreebsdSettings", "FreebsdSource"]
