"""For a conftest to import: the fixture `stage`, and the report of a test that fails with all that was said on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.end_to_end.support.leftovers import end_lingering, mounts
from tests.end_to_end.support.stage import Stage
from tests.simulator.conftest import requires_fuse

__all__ = ["nothing_is_left", "pytest_runtest_makereport", "requires_fuse", "stage"]

_stages: list[Stage] = []


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """At the end of the session no process and no mount of any stage is there."""
    yield
    for stage in _stages:
        assert end_lingering(stage.tag) == []
        assert mounts(stage.directory) == []


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A stage without anybody on it. At its end nothing is left, and no requester was told what the logs belie."""
    stage = Stage()
    _stages.append(stage)
    try:
        yield stage
        lies = stage.lies()
    finally:
        left = await stage.close()
    assert (left, lies) == ([], [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any) -> Any:
    """Show what the processes of a failed test have said."""
    report = yield
    stage = item.funcargs.get("stage")
    if report.when == "call" and report.failed and isinstance(stage, Stage):
        report.sections.append(("processes", stage.report()))
    return report
