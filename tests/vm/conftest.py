"""Guests for the tests of this folder, which `make test-vm` runs and nothing else does.

Nothing is skipped here: what is missing is a failure that says what to do.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.vm import build
from tests.vm.guest import Guest
from tests.vm.stage import Stage
from tests.vm.workshop import Workshop

TEST_BOUND = 600
"""Seconds for one test and the boot of its guest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_BOUND))


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    folder = Path(tempfile.mkdtemp(prefix="vm-", dir="/tmp"))
    try:
        images = build.images()
        build.tools(images, folder / "tools.img")
        yield Workshop(folder, images, folder / "tools.img")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Guest]:
    """One guest for all tests of a module, with an empty data disk at /data."""
    name = request.module.__name__.rpartition(".")[2]
    with workshop.boot(name, workshop.data(name)) as guest:
        yield guest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What guest and broker had to say, beside the failure of a test."""
    report = yield
    for value in getattr(item, "funcargs", {}).values() if report.failed else ():
        if isinstance(value, Guest):
            report.sections.append(("console of the guest", value.console[-4000:]))
        if isinstance(value, Stage):
            report.sections.append(("broker", value.log()))
    return report
