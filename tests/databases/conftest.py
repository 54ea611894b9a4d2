"""The fixtures of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases.support.pool import Pool, reflink_pool, why_no_pool


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """The reflink pool of a module's tests. Skips, with the reason, where there can be none."""
    if reason := why_no_pool():
        pytest.skip(reason)
    with reflink_pool() as made:
        yield made
