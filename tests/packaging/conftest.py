"""What the tests of the packaging share."""

from __future__ import annotations

from tests.broker.conftest import directory

__all__ = ["directory"]
