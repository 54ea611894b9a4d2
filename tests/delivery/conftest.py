from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running_broker import short_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """A new directory with a short path."""
    path = short_directory()
    yield path
    shutil.rmtree(path)
