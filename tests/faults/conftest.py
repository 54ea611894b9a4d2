"""What the tests with real processes share."""

from __future__ import annotations

from tests.end_to_end.support.fixtures import nothing_is_left, pytest_runtest_makereport, requires_fuse, stage
from tests.support.loop_disks import requires_loop_disks

__all__ = ["nothing_is_left", "pytest_runtest_makereport", "requires_fuse", "requires_loop_disks", "stage"]
