"""What the tests of the simulators share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.errors import SimulatorUnavailable
from appvss.model.instant import Instant
from appvss.simulator.fuse import mount


class VirtualClock:
    """Both clocks of a machine, moved by hand."""

    def __init__(self) -> None:
        self._now = Instant(timedelta(hours=7))
        self._wall = timedelta(seconds=1_700_000_000)

    def now(self) -> Instant:
        return self._now

    def wall(self) -> timedelta:
        return self._wall

    def advance(self, by: timedelta) -> None:
        self._now += by
        self._wall += by


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path under /tmp for a mount and what lies beside it."""
    parent = Path(tempfile.mkdtemp(prefix="vss-", dir="/tmp"))
    yield parent / "dev"
    mount.unmount(parent / "dev")
    shutil.rmtree(parent)


@pytest.fixture(scope="session")
def requires_fuse() -> None:
    """Skips, with the reason, where this machine cannot mount with FUSE."""
    parent = Path(tempfile.mkdtemp(prefix="vss-", dir="/tmp"))
    try:
        descriptor = mount.mount(parent / "dev")
    except SimulatorUnavailable as error:
        pytest.skip(f"no FUSE here: {error.sentence}")
    else:
        mount.unmount(parent / "dev")
        os.close(descriptor)
    finally:
        shutil.rmtree(parent)
